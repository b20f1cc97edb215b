#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What it costs to know who did it.

    ended.py PROCESSES

Prints JSON, all in seconds: "start", processor time until the ends of processes are noted, the
least of five; "note" and "execute", what the kernel takes for one that ends, over so many, and for
one that executes a program (its own figures: Linux 5.8, bpf_stats); and the processor time of
"living" and "ended", the name of a process that is there, and that has ended, and of "living, in
full".
"""

import json
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import fanfp  # noqa: E402

BPF_ENABLE_STATS = 32
START = ("import time, fanfp; begun = time.process_time(); fanfp.Ended(); "
         "print(time.process_time() - begun)")


def in_kernel(ended, name, do, count):
    """Seconds in the program of this name for each of `count` processes that `do` it."""
    statistics = fanfp.bpf(BPF_ENABLE_STATS, "I", 0, doing="counting the time of BPF programs")
    try:
        for _ in range(count):
            pid = os.fork()
            if not pid:
                do()
            os.waitpid(pid, 0)
        program = next(fd for found, fd in ended.loaded.programs.items() if found.startswith(name))
        with open("/proc/self/fdinfo/%d" % program) as file:
            said = dict(re.findall(r"^(run_\w+):\s*(\d+)", file.read(), re.M))
    finally:
        os.close(statistics)
    return int(said["run_time_ns"]) / 1e9 / int(said["run_cnt"])


def ask(who, pid, question, count=2000):
    """Processor time of a question about a process, asked anew each time."""
    since = fanfp.boot_time()
    begun = time.process_time()
    for _ in range(count):
        question(fanfp.Processes(who, since), pid)
    return (time.process_time() - begun) / count


def main():
    result = {"start": min(float(subprocess.check_output([sys.executable, "-c", START],
                                                         cwd=os.path.dirname(HERE)))
                           for _ in range(5))}
    who = fanfp.Who()
    who.attach()
    if who.ended is None:
        sys.stderr.write("names of ended processes: %s\n" % who.means())
        sys.exit(77)                    # as test programs say that they are skipped
    count = int(sys.argv[1])
    result["note"] = in_kernel(who.ended, "note_ended", lambda: os._exit(0), count)
    result["execute"] = in_kernel(who.ended, "take_back",
                                  lambda: os.execvp("true", ["true"]), count // 10)
    name, full = fanfp.Processes.name, fanfp.Processes.__getitem__
    result["living"] = ask(who, os.getpid(), name)
    result["living, in full"] = ask(who, os.getpid(), full)
    child = subprocess.Popen(["true"])
    child.wait()
    result["ended"] = ask(who, child.pid, name)
    result["table"] = who.ended.table.max_entries * who.ended.NOTE.size
    json.dump(result, sys.stdout)


main()
