#!/bin/bash
# A module for dracut: python3 and fanfp, for the shell that a boot which fails leads to.
#
#   make install
#   cp -r doc/examples/dracut/95fanfp /usr/lib/dracut/modules.d/ && dracut --force --add fanfp
#
# Sourced by dracut, which has the functions that begin with inst, and $initdir.
# shellcheck disable=SC2154

fanfp=${FANFP:-/usr/local/lib/fanfp}
python=${PYTHON:-/usr/bin/python3}

check() {
    require_binaries "$python" || return 1
    return 255                          # only where it is asked for
}

depends() {
    return 0
}

install() {
    local files libraries
    # The modules of Python that fanfp uses, and all that they use.
    mapfile -t files < <("$python" -IS -c '
import sys
sys.path.insert(0, sys.argv[1])
import fcntl, json, mmap, re, resource, shlex, shutil, signal, socket, subprocess
import threading, encodings.ascii, encodings.idna, encodings.latin_1, encodings.utf_8, fanfp
print(*{module.__file__ for module in sys.modules.values()
        if getattr(module, "__file__", None)}, sep="\n")' "$fanfp")
    # dracut looks for the libraries of what is executable alone.
    mapfile -t libraries < <(ldd "${files[@]}" 2> /dev/null \
        | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u)
    inst_multiple "$python" "${files[@]}" "${libraries[@]}" "$fanfp/fan_fp.bpf.o"
    # The C library opens it when a thread ends.
    inst_libdir_file "libgcc_s.so*"
    mkdir -p "$initdir/usr/local/sbin"
    printf '#!/bin/sh\nexec %s -IS %s/fanfp.py "$@"\n' "$python" "$fanfp" \
        > "$initdir/usr/local/sbin/fanfp"
    chmod 755 "$initdir/usr/local/sbin/fanfp"
}
