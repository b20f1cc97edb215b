#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The work that is watched: files made, written, closed and removed, in every directory of a list.

    worker.py FILES [--keep] < list of directories, a line each

Prints JSON: the processor time and the time it took, in seconds.  With --keep files stay, and
are empty.
"""

import json
import os
import sys
import time


def work(directories, files, keep):
    """FILES files in all, going round the directories."""
    flags, count, stem = os.O_CREAT | os.O_WRONLY, len(directories), b"/w%d-" % os.getpid()
    for number in range(files):
        path = directories[number % count] + stem + b"%d" % number
        fd = os.open(path, flags, 0o644)
        if not keep:
            os.write(fd, b"x")
        os.close(fd)
        if not keep:
            os.unlink(path)


def main():
    directories = sys.stdin.buffer.read().split(b"\n")[:-1]
    wall, cpu = time.perf_counter(), time.process_time()
    work(directories, int(sys.argv[1]), "--keep" in sys.argv)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    json.dump({"cpu": cpu, "wall": wall}, sys.stdout)


if __name__ == "__main__":
    main()
