#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What an outside event costs with each filter, on a kernel that has the fanotify fast path.

    lab/vm --share "$(lab/build --bpftool)" 'python3 bench/fastpath.py /share/bpftool'

It runs in the lab's machine, and prints JSON on its last line.

Files are made, written, closed and removed outside the tree, in turn with no watcher, with each
filter, and with a handler of the kernel's own that drops all ("hook": what any fast path costs at
least).  The machine may be translated, not virtualized: read ratios, not times.
"""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import fanfp as module  # noqa: E402
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
    if name == "hook":
        return hooked(tree, directories)
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


def hooked(tree, directories):
    """The same with a handler built into the lab's kernel, lab-skip, on a group like fanfp's."""
    group = module.fanotify_init(module.FAN_REPORT_FID | module.FAN_REPORT_DIR_FID
                                 | module.FAN_REPORT_NAME | module.FAN_UNLIMITED_QUEUE)
    try:
        module.fanotify_mark(group, module.FAN_MARK_ADD | module.FAN_MARK_FILESYSTEM,
                             module.event_mask(module.DEFAULT_EVENTS) & module.ASKABLE
                             | module.ISDIR, module.AT_FDCWD, os.fsencode(tree))
        fcntl.ioctl(group, module.FAN_IOC_ADD_FP,
                    module.FASTPATH_ARGS.pack(b"lab-skip", 1, 0, 0, 0))
        work_once(directories, 2 * len(directories))
        return {"worker": work(directories, FILES)}
    finally:
        os.close(group)


def loading(bpftool):
    """Seconds of processor time to load the object and register its struct_ops, by fanfp in a
    process that runs, and by a bpftool that is started for it: {"fanfp": ..., "bpftool": ...}."""
    beside = os.path.dirname(HERE)
    code = ("import sys, time; sys.path.insert(0, %r); import fanfp; t = time.process_time(); "
            "w = fanfp.Watch('/tmp', filter='fastpath'); print(time.process_time() - t)" % beside)
    times = {"fanfp": [], "bpftool": []}
    for turn in range(5):
        times["fanfp"].append(float(subprocess.check_output([sys.executable, "-c", code])))
        times["bpftool"].append(register(bpftool, os.path.join(beside, "fan_fp.bpf.o"), turn))
    return {name: min(found) for name, found in times.items()}


def register(bpftool, path, turn):
    """Processor time of one `bpftool struct_ops register`; what it made is removed."""
    pinned = "/sys/fs/bpf/fanfp-bench-%d" % turn
    before = os.times()
    subprocess.run([bpftool, "struct_ops", "register", path, pinned], stdout=subprocess.DEVNULL,
                   check=True)
    after = os.times()
    for each in os.listdir(pinned):         # its link goes with the pin
        os.remove(os.path.join(pinned, each))
    os.rmdir(pinned)
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
    names = ["none", "hook", "fastpath", "marks", "user"]
    result = {"files": FILES, "runs": {name: [] for name in names},
              "kernel": platform.release()}
    work_once(directories, FILES)
    for turn in range(ROUNDS):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            sys.stdout.write("round %d of %d: %s\n" % (turn + 1, ROUNDS, name))
            sys.stdout.flush()
            result["runs"][name].append(
                measure(name, tree, directories, os.path.join(out_directory, "lines")))
    result["loading"] = loading(sys.argv[1])
    shutil.rmtree(base)
    shutil.rmtree(out_directory)
    print(json.dumps(result))


main()
