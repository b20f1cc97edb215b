#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What fanfp costs with filters that only the lab's machine has the kernels for.

    lab/vm --share "$(lab/build --bpftool)" 'python3 bench/guest.py fastpath /share/bpftool'
    lab/vm --kernel 6.12 'python3 bench/guest.py trace'

Prints JSON on its last line.  The machine may be translated, not virtualized: read ratios, not
times.

fastpath: files are made, written, closed and removed outside the tree, in turn with no watcher,
with each filter, and with a handler of the kernel's own that drops all ("hook": what any fast path
costs at least).  And what it takes to load the object.

trace: the same outside and inside, with one root and with 64, and with programs that do nothing
("kprobes": what any kprobes on the two functions cost at least); starts; the first and the second
file of each of many directories; latency; a burst while nothing is read.  A filter that this kernel
does not have is left out, and why is told.
"""

import argparse
import ctypes
import fcntl
import json
import os
import platform
import py_compile
import shutil
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import bench  # noqa: E402
import fanfp as module  # noqa: E402
from bench import say  # noqa: E402
from watchers import PYTHON, Watcher, WATCHERS  # noqa: E402
from worker import work as make_files  # noqa: E402

FILTERS = ["marks", "trace", "user", "inotify"]
MANY_ROOTS = ", 64 roots"


class Sizes:
    """How much of it all."""

    def __init__(self, quick, directories):
        # Other load on the machine only ever adds: the least counts, of many parts, which are
        # shorter than what a processor is given away for.
        self.rounds = 1 if quick else 5         # each with every watcher
        self.parts = 4 if quick else 30
        self.settled = 2 if quick else 6        # parts after which the watcher comes to rest
        self.files = 50 if quick else 100       # in a part
        self.directories = 100 if quick else directories
        self.chunk = self.directories // 20     # of directories, after which memory is looked at
        self.latencies = 5 if quick else 100
        self.burst = 200 if quick else 20000    # files


def install(directory):
    """Have the watchers run fanfp as it is when installed: a module, compiled once."""
    beside = os.path.dirname(HERE)
    for name in ("fanfp.py", "fan_fp.bpf.o"):
        shutil.copy(os.path.join(beside, name), directory)
    py_compile.compile(os.path.join(directory, "fanfp.py"), doraise=True)
    os.environ["PYTHONPATH"] = directory
    for name in FILTERS + ["fastpath"]:
        WATCHERS["fanfp " + name] = (
            lambda root, name=name: [PYTHON, "-m", "fanfp", "--filter", name, root],
            b"fanfp: watching")


def have(tree, result):
    """The filters that this kernel has; of the others result["failed"] tells why."""
    found = []
    for name in FILTERS:
        try:
            module.Watch(tree, filter=name).close()
            found.append(name)
        except OSError as error:
            result["failed"][name] = str(error)
    return found


def timed_work(directories, files):
    """Processor time for a file.  All of it: what a watcher adds is the kernel's part."""
    begun = time.process_time()
    make_files(directories, files, False)
    return (time.process_time() - begun) / files


def made(*parts):
    """A new directory."""
    path = os.path.join(*parts)
    os.mkdir(path)
    return path


class Trees:
    """The directories that files are made in, 64 in the tree and 64 outside."""

    def __init__(self, place):
        self.tree, elsewhere = (made(place.tmp, name) for name in ("tree", "elsewhere"))
        self.inside, self.outside = (bench.make_directories(top, 64)
                                     for top in (self.tree, elsewhere))
        self.out = os.path.join(place.out, "lines")

    def watcher(self, name):
        """One running; with many roots each directory inside is one."""
        roots = [self.tree]
        if name.endswith(MANY_ROOTS):
            roots = [os.fsdecode(each) for each in self.inside]
        return Watcher("fanfp " + name.partition(",")[0], roots[-1], self.out,
                       ["--stats"] + roots[:-1])


# --- the worker, and the watcher meanwhile ---

def measure(name, trees, sizes):
    """{"worker": seconds a file outside, "worker inside": the same inside, "watcher": its processor
    time a file inside, "watcher outside": outside, "ready": seconds, "lines": a file inside,
    "stats": of all}."""
    if name == "none":
        return measured(trees, sizes, lambda: None, lambda: 0.0)
    if name == "hook":
        return hooked(trees, sizes)
    if name == "kprobes":
        return probed(trees, sizes)
    watcher = trees.watcher(name)
    try:
        for directories in (trees.outside, trees.inside):
            make_files(directories, 2 * len(directories), False)
            watcher.settle()
        lines = watcher.lines().count(b"\n")
        found = measured(trees, sizes, watcher.settle, watcher.cpu)
        found["lines"] = (watcher.lines().count(b"\n") - lines) / sizes.files / sizes.parts
        found["ready"] = watcher.ready_seconds
    finally:
        said = watcher.stop().decode("utf-8", "replace")
    found["stats"] = bench.statistics_of(said)
    return found


def measured(trees, sizes, settle, cpu):
    """The least of the parts, outside and then inside.

    Of the watcher's own time that of a few parts at once: it is more than the work's.
    """
    found = {}
    for directories, worker, watcher in ((trees.outside, "worker", "watcher outside"),
                                         (trees.inside, "worker inside", "watcher")):
        works, cpus = [], []
        for _ in range(sizes.settled):
            before = cpu()
            works += [timed_work(directories, sizes.files)
                      for _ in range(sizes.parts // sizes.settled)]
            settle()
            cpus.append((cpu() - before) / sizes.files / (sizes.parts // sizes.settled))
        found[worker], found[watcher] = min(works), min(cpus)
    return found


def hooked(trees, sizes):
    """The same with a handler built into the lab's kernel, lab-skip, on a group like fanfp's."""
    group = module.fanotify_init(module.FAN_REPORT_FID | module.FAN_REPORT_DIR_FID
                                 | module.FAN_REPORT_NAME | module.FAN_UNLIMITED_QUEUE)
    try:
        module.fanotify_mark(group, module.FAN_MARK_ADD | module.FAN_MARK_FILESYSTEM,
                             module.event_mask(module.DEFAULT_EVENTS) & module.ASKABLE
                             | module.ISDIR, module.AT_FDCWD, os.fsencode(trees.tree))
        fcntl.ioctl(group, module.FAN_IOC_ADD_FP,
                    module.FASTPATH_ARGS.pack(b"lab-skip", 1, 0, 0, 0))
        make_files(trees.outside, 2 * len(trees.outside), False)
        return measured(trees, sizes, lambda: None, lambda: 0.0)
    finally:
        os.close(group)


def rounds(names, trees, sizes, result):
    """Measure all, several times, in an order that turns."""
    result.update({"files": sizes.files, "parts": sizes.parts, "python -c pass": [],
                   "runs": {name: [] for name in names}})
    make_files(trees.outside, sizes.files, False)
    for turn in range(sizes.rounds):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            say("round %d of %d: %s" % (turn + 1, sizes.rounds, name))
            result["python -c pass"].append(bench.python_pass())
            result["runs"][name].append(measure(name, trees, sizes))


def probed(trees, sizes):
    """The same with a program that does nothing on each of the functions that `trace` uses."""
    code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0), 16)
    license_name = ctypes.create_string_buffer(b"GPL")
    held = [module.bpf(module.BPF_PROG_LOAD, "IIQQ", module.PROG_KPROBE, 2, code, license_name,
                       doing="loading a program that does nothing"), module.new_inotify()]
    try:
        held += [module.open_kprobe(function, held[0]) for function in module.Tracer.SIGNATURES]
        module.inotify_watch(held[1], os.fsencode(trees.tree), module.DELETE_SELF, trees.tree, 0)
        make_files(trees.outside, 2 * len(trees.outside), False)
        return measured(trees, sizes, lambda: None, lambda: 0.0)
    finally:
        for fd in held:
            os.close(fd)


# --- many directories ---

def many_directories(names, place, sizes):
    """{"inside": {name: [{"first": the watcher's processor time for the first file of each
    directory, "second": for the second, "worker first", "worker second": the worker's, "memory": of
    the watcher then} of each chunk]}, "outside": the same}."""
    top = place.fresh("many")
    root, empty = made(top, "in"), made(top, "empty")
    say("making %d directories" % sizes.directories)
    directories = bench.make_directories(root, sizes.directories)
    result = {"count": sizes.directories, "inside": {}, "outside": {}}
    for name in names:
        for where, watched in (("inside", root), ("outside", empty)):
            # All where it is told how it grows, else as many as it takes to see what each costs.
            count = sizes.directories if (name, where) == ("trace", "inside") else 2 * sizes.chunk
            say("%d directories %s: %s" % (count, where, name))
            result[where][name] = list(in_chunks(name, watched, directories[:count], place, sizes))
    place.unmount(top)
    return result


def in_chunks(name, root, directories, place, sizes):
    watcher = Watcher("fanfp " + name, root, os.path.join(place.out, "lines"))
    try:
        for at in range(0, len(directories), sizes.chunk):
            chunk, found = directories[at:at + sizes.chunk], {}
            for which in ("first", "second"):
                before = watcher.cpu()
                found["worker " + which] = timed_work(chunk, len(chunk))
                watcher.settle()
                found[which] = (watcher.cpu() - before) / len(chunk)
            found["memory"] = watcher.memory()
            yield found
    finally:
        watcher.stop()


# --- latency, and a burst ---

def latency(names, trees, sizes):
    """{name: {"median": ...}} of seconds from the end of an operation to its line, alone."""
    result = {}
    for _ in range(2):
        for name in names:
            say("latency: " + name)
            result.setdefault(name, []).extend(bench.latencies(
                "fanfp " + name, trees.tree, [], sizes.latencies // 2, "alone"))
    return {name: bench.spread(times) for name, times in result.items()}


def burst(names, trees, place, sizes):
    """{name: what bench.drain() gives} of files made while nothing is read."""
    result = {"files": sizes.burst}
    for name in names:
        say("burst: " + name)
        result[name] = bench.drain("fanfp " + name, [trees.tree], trees.inside, sizes.burst, place,
                                   keep=False)
    return result


# --- loading ---

def loading(bpftool):
    """Seconds of processor time to load the object and register its struct_ops, by fanfp in a
    process that runs, and by a bpftool that is started for it: {"fanfp": ..., "bpftool": ...}."""
    code = ("import time, fanfp; t = time.process_time(); "
            "w = fanfp.Watch('/tmp', filter='fastpath'); print(time.process_time() - t)")
    times = {"fanfp": [], "bpftool": []}
    for turn in range(5):
        times["fanfp"].append(float(subprocess.check_output([PYTHON, "-c", code])))
        times["bpftool"].append(register(
            bpftool, os.path.join(os.path.dirname(HERE), "fan_fp.bpf.o"), turn))
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only try whether it works")
    parser.add_argument("--directories", type=int, default=100000, metavar="N")
    parser.add_argument("what", choices=["fastpath", "trace"])
    parser.add_argument("bpftool", nargs="?", help="the program, for fastpath")
    options = parser.parse_args()
    sizes = Sizes(options.quick, options.directories)
    place = bench.Place()
    try:
        install(made(place.out, "code"))
        trees = Trees(place)
        result = {"kernel": platform.release(), "failed": {}}
        if options.what == "fastpath":
            rounds(["none", "hook", "fastpath", "marks", "user"], trees, sizes, result)
            result["loading"] = loading(options.bpftool)
        else:
            known = have(trees.tree, result)
            names = ["marks", "trace", "trace" + MANY_ROOTS, "user", "inotify"]
            first = ["none"] + ["kprobes"] * ("trace" in known)
            rounds(first + [name for name in names if name.partition(",")[0] in known], trees,
                   sizes, result)
            names = [name for name in ("marks", "trace") if name in known]
            result["latency"] = latency(names + ["inotify"], trees, sizes)
            result["burst"] = burst(names, trees, place, sizes)
            result["directories"] = many_directories(names, place, sizes)
    finally:
        place.close()
    print(json.dumps(result))


main()
