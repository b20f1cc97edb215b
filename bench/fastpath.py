#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What an outside event costs with each filter, on a kernel that has the fanotify fast path.

    lab/vm 'python3 bench/fastpath.py'      runs in the lab's machine; prints JSON on its last line

Files are made, written, closed and removed outside the tree, in turn with no watcher and with each
filter.  The machine may be translated, not virtualized: read ratios, not times.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

from watchers import Watcher, WATCHERS, fanfp  # noqa: E402

FILES, DIRECTORIES, ROUNDS, TIMES = 500, 20, 4, 3
WATCHERS["fanfp fastpath"] = (fanfp("--filter", "fastpath"), b"fanfp: watching")


def work(directories, files):
    """Processor time of the worker for a file, in seconds.

    All of it: what the watcher adds is the kernel's part, since the worker is the same.  Of TIMES.
    """
    return min(work_once(directories, files) for _ in range(TIMES))


def work_once(directories, files):
    done = subprocess.run([sys.executable, os.path.join(HERE, "worker.py"), str(files)],
                          input=b"\n".join(directories) + b"\n", stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.decode())["cpu"] / files


def measure(name, tree, directories, out):
    """{"worker": seconds a file, "watcher": its processor time a file, "stats": of all}."""
    if name == "none":
        return {"worker": work(directories, FILES)}
    watcher = Watcher("fanfp " + name, tree, out, ["--stats"])
    try:
        work_once(directories, 2 * len(directories))
        watcher.settle()
        cpu = watcher.cpu()
        found = {"worker": work(directories, FILES)}
        watcher.settle()
        found["watcher"] = (watcher.cpu() - cpu) / FILES / TIMES
    finally:
        said = watcher.stop()
    found["stats"] = said.decode("utf-8", "replace").strip()
    return found


def loading():
    """Seconds of processor time to load the object, by fanfp and by bpftool."""
    beside = os.path.dirname(HERE)
    code = ("import sys, time; sys.path.insert(0, %r); import fanfp; t = time.process_time(); "
            "w = fanfp.Watch('/tmp', filter='fastpath'); print(time.process_time() - t)" % beside)
    result = {"fanfp": min(float(subprocess.check_output([sys.executable, "-c", code]))
                           for _ in range(5))}
    tool = shutil.which("bpftool")
    if tool:
        result["bpftool"] = min(filter(None, (bpftool_load(tool, beside, n) for n in range(5))),
                                default=None)
    return result


def bpftool_load(tool, beside, number):
    """Processor time of one bpftool prog loadall; None where it can't, as that of Debian 12."""
    pinned = "/sys/fs/bpf/fanfp-bench-%d" % number
    before = os.times()
    done = subprocess.run([tool, "prog", "loadall", os.path.join(beside, "fan_fp.bpf.o"), pinned],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    after = os.times()
    shutil.rmtree(pinned, ignore_errors=True)
    if done.returncode:
        return None
    return (after.children_user - before.children_user
            + after.children_system - before.children_system)


def main():
    base = tempfile.mkdtemp()
    tree, outside = os.path.join(base, "tree"), os.path.join(base, "outside")
    directories = [os.fsencode(os.path.join(outside, str(each))) for each in range(DIRECTORIES)]
    os.mkdir(tree)
    for each in directories:
        os.makedirs(each)
    out_directory = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    names = ["none", "fastpath", "marks", "user"]
    result = {"files": FILES, "runs": {name: [] for name in names},
              "kernel": platform.release()}
    work_once(directories, FILES)
    for turn in range(ROUNDS):
        for name in names[turn % 4:] + names[:turn % 4]:
            sys.stdout.write("round %d of %d: %s\n" % (turn + 1, ROUNDS, name))
            sys.stdout.flush()
            result["runs"][name].append(
                measure(name, tree, directories, os.path.join(out_directory, "lines")))
    result["loading"] = loading()
    shutil.rmtree(base)
    shutil.rmtree(out_directory)
    print(json.dumps(result))


main()
