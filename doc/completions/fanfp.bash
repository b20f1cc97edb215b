# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0-only
# Completion of fanfp for bash: what fanfp --help says, asked once in a shell.

_fanfp()
{
    local word=$2 previous=$3 before='' choices
    if [[ -z ${_fanfp_help-} ]]; then
        _fanfp_help=$("$1" --help 2>/dev/null)
    fi
    # --filter=marks comes as three words.
    [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD - 2]}
    case $previous in
        -e | --event)
            before=${word%"${word##*,}"}
            choices=$(sed -n '/^events:/,/stand for/p' <<<"$_fanfp_help" |
                sed 's/^events://; s/ stand for.*//; s/,//g')
            [[ ${word#"$before"} == [[:lower:]]* ]] && choices=${choices,,}
            ;;
        --filter)
            choices=$(sed -n 's/^  --filter {\(.*\)}.*/\1/p' <<<"$_fanfp_help")
            choices=${choices//,/ }
            ;;
        --as) choices='inotifywait fsnotifywait inotifywatch fsnotifywatch' ;;
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
