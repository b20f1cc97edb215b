# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# Completion of fanfp for bash: what fanfp --help says, asked once in a shell.

_fanfp()
{
    local word=$2 before='' choices
    if [[ -z ${_fanfp_help-} ]]; then
        _fanfp_help=$("$1" --help 2>/dev/null)
    fi
    case $3 in
        -e | --event)
            before=${word%"${word##*,}"}
            choices=$(sed -n '/^events:/,/stand for/p' <<<"$_fanfp_help" |
                sed 's/^events://; s/ stand for.*//; s/,//g')
            ;;
        --filter)
            choices=$(sed -n 's/^  --filter {\(.*\)}.*/\1/p' <<<"$_fanfp_help")
            choices=${choices//,/ }
            ;;
        -C | --comm) choices=$(cat /proc/[0-9]*/comm 2>/dev/null) ;;
        --pid) choices=$(cd /proc && echo [0-9]*) ;;
        --user) choices=$(compgen -u) ;;
        --exec | --run) choices=$(compgen -c -- "$word") ;;
        *)
            [[ $word == -* ]] || return
            choices=$(sed -n 's/^  -/-/p' <<<"$_fanfp_help" | sed 's/  .*//' |
                grep -oE -- '(^|, )-[A-Za-z-]+' | sed 's/^, //')
            ;;
    esac
    mapfile -t COMPREPLY < <(compgen -P "$before" -W "$choices" -- "${word#"$before"}")
}

complete -o default -F _fanfp fanfp
