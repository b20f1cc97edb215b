#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Measure fanfp beside what one would use instead, on the same work, in alternating runs.

    python3 bench/bench.py [--quick] [NAME...]     as root; make bench

NAME: ready outside inside latency capacity growth window ended fastpath trace; all of them without.
Results go to results.json, results.md and *.svg beside this file; sections that are not run keep
theirs.  --quick only tries whether everything works, on small sizes, and writes nothing.

Everything happens in a mount namespace of its own, on file systems made for it in memory (tmpfs,
and ext4 on a loop device), so that nothing else on the host is heard and nothing is left behind.
"""

import argparse
import ctypes
import json
import os
import platform
import re
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import report  # noqa: E402  (its directory is on the path only now, when run from elsewhere)
import watchers  # noqa: E402
from watchers import HERE, PYTHON, Watcher  # noqa: E402

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 1 << 14, 1 << 18
STARTED = time.monotonic()


class Missing(Exception):
    """Something that a measurement needs is not there."""


def say(text):
    sys.stderr.write("[%4d s] %s\n" % (time.monotonic() - STARTED, text))
    sys.stderr.flush()


# --- where it happens ---

class Place:
    """File systems of our own: `tmp`, a tmpfs; `disk`, ext4 in a file on it; `out`, for output."""

    def __init__(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
            raise OSError(ctypes.get_errno(), "making a mount namespace")
        self.base = tempfile.mkdtemp(prefix="fanfp-bench-")
        self.made = []
        self.out = self.mount("out", "-t", "tmpfs", "-o", "size=4g", "tmpfs")
        self.tmp = self.mount("tmp", "-t", "tmpfs", "-o", "size=4g,nr_inodes=0", "tmpfs")
        image = os.path.join(self.out, "image")
        with open(image, "wb") as file:
            file.truncate(2 << 30)
        subprocess.check_call(["mkfs.ext4", "-q", "-F", image])
        self.disk = self.mount("disk", "-o", "loop,noatime", image)

    def mount(self, name, *arguments):
        path = os.path.join(self.base, name)
        os.mkdir(path)
        subprocess.check_call(["mount"] + list(arguments) + [path])
        self.made.append(path)
        return path

    def fresh(self, name):
        """One more tmpfs, for a tree that is thrown away as a whole."""
        return self.mount(name, "-t", "tmpfs", "-o", "size=8g,nr_inodes=0", "tmpfs")

    def unmount(self, path):
        # Lazily: a watcher that was just ended may hold it for a moment still.
        subprocess.call(["umount", "-l", path])
        self.made.remove(path)
        os.rmdir(path)

    def close(self):
        for path in list(reversed(self.made)):
            self.unmount(path)
        shutil.rmtree(self.base, ignore_errors=True)


def make_directories(top, count):
    """`count` directories below `top`, 100 in each but the last level; their paths as bytes."""
    top = os.fsencode(top)
    made, parents = [], [top]
    while len(made) < count:
        level = []
        for parent in parents:
            for number in range(100):
                if len(made) == count:
                    return made
                path = parent + b"/d%d" % number
                os.mkdir(path)
                made.append(path)
                level.append(path)
        parents = level
    return made


def work(directories, files, *options):
    """Run the worker over directories; {"cpu": seconds, "wall": seconds}."""
    done = subprocess.run([PYTHON, os.path.join(HERE, "worker.py"), str(files)]
                          + list(options), input=b"\n".join(directories) + b"\n",
                          stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.decode())


def work_in_parts(directories, files, parts=10):
    """Like work(), but by the cheapest of many parts: in a short time less comes between."""
    runs = [work(directories, files // parts) for _ in range(parts)]
    return {key: parts * min(run[key] for run in runs) for key in runs[0]}


def median(values):
    return statistics.median(values) if values else None


def usable(names, versions):
    """Those of the watchers that are here."""
    return [name for name in names if name.startswith("fanfp") or name.split(",")[0] in versions]


# --- 1. ready ---

def python_pass():
    """Seconds that python3 -c pass takes."""
    begun = time.perf_counter()
    subprocess.check_call([PYTHON, "-c", "pass"])
    return time.perf_counter() - begun


def ready(place, versions, quick):
    """Time from exec to ready, and memory then, by the number of directories."""
    sizes = [10, 100] if quick else [10, 1000, 100000, 1000000]
    names = usable(["fanfp marks", "fanfp marks, as a module", "inotifywait", "fsnotifywait",
                    "fatrace", "watchdog"], versions)
    result = {"directories": sizes, "python -c pass": [], "watchers": {}, "failed": {}}
    for size in sizes:
        say("ready: %d directories" % size)
        top = place.fresh("ready")
        make_directories(top, size)
        rounds = 2 if quick else 11 if size <= 1000 else 5
        times = {name: [] for name in names}
        memory, base = {}, []
        for _ in range(rounds):
            base.append(python_pass())
            for name in names:
                if name in result["failed"] or sum(times[name]) > 10:
                    continue
                try:
                    watcher = Watcher(name, top, os.path.join(place.out, "lines"))
                except RuntimeError as reason:
                    result["failed"][name] = [size, short(reason)]
                    continue
                times[name].append(watcher.ready_seconds)
                memory[name] = watcher.memory()
                watcher.stop()
        result["python -c pass"].append(row(base))
        for name in names:
            rows = result["watchers"].setdefault(name, [])
            rows.append(dict(row(times[name]), memory=memory[name]) if times[name] else None)
        place.unmount(top)
    return result


def row(values):
    return {"min": min(values), "median": median(values)}


def short(reason):
    """Why something failed, in words that name no place of this machine."""
    text = str(reason)
    if "inotify" in text and "limit" in text or "max_user_watches" in text:
        return "stopped by max_user_watches"
    return " ".join(word for word in text.split() if "/" not in word)[:60]


# --- 2. outside, 3. inside ---

def noise(place, versions, quick, inside):
    """The worker's and each watcher's processor time for files outside, or inside, the tree."""
    names = ["fanfp marks"]
    if inside:
        names += ["fanfp inotify", "inotifywait, same events", "fatrace, same events", "C reader"]
    else:
        names += ["fanfp marks, with ATTRIB", "fanfp user"]
    names = usable(names + ["inotifywait", "fsnotifywait", "fatrace", "watchdog"], versions)
    files, rounds = (1000, 1) if quick else (10000, 4 if inside else 5)
    tree = os.path.join(place.disk, "tree")
    elsewhere = os.path.join(place.disk, "elsewhere")
    for path in (tree, elsewhere):
        os.makedirs(path, exist_ok=True)
    directories = make_directories(tempfile.mkdtemp(dir=tree if inside else elsewhere), 100)
    result = {"files": files, "none": [], "watchers": {name: [] for name in names}, "failed": {}}
    work(directories, files)
    for turn in range(rounds):
        say("%s: round %d of %d" % ("inside" if inside else "outside", turn + 1, rounds))
        # The order turns, so that no watcher has always the same one before it.
        for name in [None] + names[turn % len(names):] + names[:turn % len(names)]:
            if name is None:
                result["none"].append(work_in_parts(directories, files))
            elif name not in result["failed"]:
                try:
                    found = watched_work(name, tree, directories, files, place)
                except RuntimeError as reason:
                    result["failed"][name] = short(reason)
                else:
                    result["watchers"][name].append(found)
    return result


def watched_work(name, tree, directories, files, place):
    """One run of the worker under a watcher, after each directory was heard from once."""
    watcher = Watcher(name, tree, os.path.join(place.out, "lines"))
    try:
        work(directories, len(directories))
        watcher.settle()
        cpu, reads = watcher.cpu(), watcher.reads()
        lines = watcher.lines().count(b"\n")
        found = work_in_parts(directories, files)
        watcher.settle()
        found.update(watcher_cpu=watcher.cpu() - cpu, reads=watcher.reads() - reads,
                     lines=watcher.lines().count(b"\n") - lines, memory=watcher.memory())
        if name.startswith("fanfp"):
            found["lost"] = lost(watcher.lines(), files)
        return found
    finally:
        text = watcher.stop()
        if name == "fsnotifywait" and b"verflow" in text:
            raise RuntimeError("its queue overflowed")


def lost(lines, files):
    """Of the four things that happened to each file, how many were reported too few."""
    text, missing = lines.decode("utf-8", "replace"), 0
    for word in ("CREATE", "MODIFY", "CLOSE_WRITE", "DELETE"):
        missing += max(0, files - text.count(word))
    return missing


def outside(place, versions, quick):
    """The worker outside the tree."""
    result = noise(place, versions, quick, inside=False)
    for runs in result["watchers"].values():
        for run in runs:
            run.pop("lost", None)
    return result


def inside(place, versions, quick):
    """The worker in the tree."""
    return noise(place, versions, quick, inside=True)


# --- 4. latency ---

def latency(place, versions, quick):
    """Seconds from the end of a mkdir to its line on the pipe, alone and under load."""
    count = 10 if quick else 200
    names = ["fanfp marks"] + usable(["inotifywait", "fatrace", "watchdog"], versions)
    root = tempfile.mkdtemp(dir=place.disk)
    loud = make_directories(root, 100)
    result = {"alone": {}, "load": {}, "failed": {}}
    for _ in range(1 if quick else 2):
        for name in names:
            for kind in ("alone", "load"):
                say("latency: %s, %s" % (name, kind))
                try:
                    times = latencies(name, root, loud, count // (1 if quick else 2), kind)
                except RuntimeError as reason:
                    result["failed"][name] = short(reason)
                    continue
                result[kind].setdefault(name, []).extend(times)
    for kind in ("alone", "load"):
        for name, times in result[kind].items():
            result[kind][name] = spread(times)
    return result


def spread(times):
    times = sorted(times)
    return {"median": median(times), "p99": times[len(times) * 99 // 100], "min": times[0],
            "count": len(times)}


def latencies(name, root, loud, count, kind):
    """The latencies of `count` files made in the root, one after the other."""
    watcher = Watcher(name, root, subprocess.PIPE)
    noisy, times = None, []
    directory = tempfile.mkdtemp(dir=root)
    try:
        reader = Reader(watcher.process.stdout.fileno())
        reader.skip(0.3)
        if kind == "load":
            noisy = subprocess.Popen([PYTHON, os.path.join(HERE, "worker.py"), "100000000"],
                                     stdin=subprocess.PIPE)
            noisy.stdin.write(b"\n".join(loud) + b"\n")
            noisy.stdin.close()
            reader.until(b"w%d-" % noisy.pid)
        for number in range(count):
            reader.skip(0.02)
            mark = "mark-%d-" % number
            fd = os.open(os.path.join(directory, mark), os.O_CREAT | os.O_WRONLY)
            ended = time.perf_counter()
            times.append(reader.until(mark.encode()) - ended)
            os.close(fd)
    finally:
        if noisy is not None:
            noisy.kill()
            noisy.wait()
        watcher.stop()
    return times


class Reader:
    """The reading end of a watcher's output."""

    def __init__(self, fd):
        self.fd, self.tail = fd, b""

    def read(self, seconds):
        """Whether something came within a time; it is in `tail`, after the end of the last."""
        if not select.select([self.fd], [], [], max(0, seconds))[0]:
            return False
        self.tail = self.tail[-64:] + os.read(self.fd, 1 << 20)
        return True

    def skip(self, seconds):
        """Read whatever comes for a while."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            self.read(until - time.perf_counter())

    def all_until(self, mark, seconds=20):
        """All that is read up to a mark and to the end of what came with it."""
        text, deadline = b"", time.perf_counter() + seconds
        while mark not in text:
            if time.perf_counter() > deadline:
                raise RuntimeError("no line within %d s" % seconds)
            if self.read(1):
                text = text[:-64] + self.tail if text else self.tail
        return text

    def until(self, mark, seconds=20):
        """When the first line with a mark was read."""
        deadline = time.perf_counter() + seconds
        while mark not in self.tail:
            if time.perf_counter() > deadline:
                raise RuntimeError("no line within %d s" % seconds)
            self.read(1)
        return time.perf_counter()


# --- 5. capacity ---

def capacity(place, versions, quick):
    """Events a second: from a recorded buffer, and from a queue that is full."""
    files, rounds = (2000, 1) if quick else (50000, 4)
    top = place.fresh("capacity")
    make_directories(top, 100)
    say("capacity: recorded buffer")
    child = subprocess.run([PYTHON, os.path.join(HERE, "capacity.py"), top,
                            str(max(2000, files // 5)), "0.3" if quick else "4"],
                           stdout=subprocess.PIPE, check=True)
    result = {"recorded": json.loads(child.stdout.decode()), "live": {}}
    place.unmount(top)
    for turn in range(rounds):
        for name in usable(["fanfp user", "fanfp marks", "C reader"], versions):
            say("capacity: full queue, %s, round %d of %d" % (name, turn + 1, rounds))
            top = place.fresh("capacity")
            result["live"].setdefault(name, []).append(
                drain(name, [top], make_directories(top, 100), files, place))
            place.unmount(top)
    return result


def drain(name, roots, directories, files, place, warm=0, keep=True):
    """Stop a watcher, let events queue, let it go on: its processor time for an event.

    Before that `warm` files, all of whose events it has seen; their cost is told too.  Without
    `keep` files are written and removed as well.
    """
    out, result = os.path.join(place.out, "lines"), {}
    options = (["--stats"] if name.startswith("fanfp") else []) + roots[:-1]
    watcher = Watcher(name, roots[-1], out, options)
    try:
        if warm:
            begun = watcher.cpu()
            work(directories, warm, "--keep")
            watcher.settle()
            result["first"] = (watcher.cpu() - begun) / warm
        lines, cpu = watcher.lines().count(b"\n"), watcher.cpu()
        os.kill(watcher.pid, signal.SIGSTOP)
        try:
            work(directories, files, *["--keep"] * keep)
        finally:
            os.kill(watcher.pid, signal.SIGCONT)
        watcher.settle()
        cpu = watcher.cpu() - cpu
        result["memory"] = watcher.memory()
        result["lines"] = watcher.lines().count(b"\n") - lines
    finally:
        text = watcher.stop().decode("utf-8", "replace")
    if name == "C reader":
        events = int(watcher.lines().split()[0])
    else:
        result["stats"] = statistics_of(text)
        events = result["lines"]
    result.update(events=events, cpu=cpu, per_event=cpu / max(1, events))
    return result


def statistics_of(text):
    """fanfp's --stats line as a dict."""
    for line in text.splitlines():
        if line.startswith("fanfp: stats: "):
            pairs = (each.rsplit(" ", 1) for each in line[len("fanfp: stats: "):].split(", "))
            return {name: int(value) for name, value in pairs}
    return {}


# --- 6. growth ---

GROWTH_SIZES, GROWTH_ROUNDS = (10, 1000, 100000, 1000000), 4


def growth(place, versions, quick):
    """Cost of an event by the number of roots, the depth, and the directories heard from."""
    files, rounds = (1000, 1) if quick else (30000, GROWTH_ROUNDS)
    result = {"roots": {}, "depth": {}, "directories": {}, "outside": {}, "backlog": {}}
    for turn in range(rounds):
        say("growth: roots and depth, round %d of %d" % (turn + 1, rounds))
        for count in (1, 8) if quick else (1, 8, 64):
            top = place.fresh("roots")
            roots = [os.fsdecode(each) for each in make_directories(top, count)]
            directories = [each for root in roots for each in make_directories(root, 64 // count)]
            result["roots"].setdefault(str(count), []).append(
                drain("fanfp marks", roots, directories, files, place, 64)["per_event"])
            place.unmount(top)
        for depth in (1, 10) if quick else (1, 10, 100):
            top = place.fresh("depth")
            directories = deep(top, depth, 64)
            result["depth"].setdefault(str(depth), []).append(
                drain("fanfp marks", [top], directories, files, place, 64)["per_event"])
            place.unmount(top)
    for count in (10, 100) if quick else GROWTH_SIZES:
        for _ in range(1 if count > 1000 else rounds):
            say("growth: events of %d directories" % count)
            many_directories(place, count, min(files, 1000) if quick else 100000, result)
    for saves in (10, 100) if quick else (1000, 10000, 100000):
        say("growth: a backlog of %d saves" % saves)
        result["backlog"][str(saves)] = backlog(place, saves)
    return result


def deep(top, depth, count):
    """`count` directories, each at a depth below `top`."""
    made = []
    for number in range(count):
        path = os.path.join(top, str(number), *["d"] * (depth - 1))
        os.makedirs(path)
        made.append(os.fsencode(path))
    return made


def many_directories(place, count, files, result):
    """Hear from so many directories inside the tree, and then as many outside."""
    top = place.fresh("many")
    inside_root, outside_root = os.path.join(top, "in"), os.path.join(top, "root")
    os.mkdir(inside_root)
    os.mkdir(outside_root)
    directories = make_directories(inside_root, count)
    result["directories"].setdefault(str(count), []).append(drain(
        "fanfp marks", [inside_root], directories, files, place, count))
    before = mark_memory()
    watcher = Watcher("fanfp marks", outside_root, os.path.join(place.out, "lines"))
    try:
        begun = watcher.cpu()
        work(directories, count)
        watcher.settle()
        result["outside"].setdefault(str(count), []).append({
            "first": (watcher.cpu() - begun) / count, "memory": watcher.memory(),
            "kernel memory": mark_memory() - before})
    finally:
        watcher.stop()
        place.unmount(top)


def backlog(place, saves):
    """Processor time for a save, by rename onto the old file, where so many wait to be judged."""
    top = place.fresh("backlog")
    watcher = Watcher("fanfp marks", top, os.path.join(place.out, "lines"))
    try:
        begun = watcher.cpu()
        os.kill(watcher.pid, signal.SIGSTOP)
        for number in range(saves):
            make_file(os.path.join(top, "new%d" % number))
            os.rename(os.path.join(top, "new%d" % number), os.path.join(top, "saved"))
        os.kill(watcher.pid, signal.SIGCONT)
        watcher.settle()
        return (watcher.cpu() - begun) / saves
    finally:
        watcher.stop()
        place.unmount(top)


def mark_memory():
    """Bytes of the kernel's that are fanotify marks and what ties them to files."""
    total = 0
    try:
        with open("/proc/slabinfo") as file:
            for line in file:
                fields = line.split()
                if fields[0].startswith(("fanotify_mark", "fsnotify_mark", "fsnotify_inode_mark")):
                    total += int(fields[1]) * int(fields[3])
    except OSError:
        pass
    return total


# --- 7. the window of `marks` ---

def window(place, versions, quick):
    """Seconds from a directory's move into the tree until its ignore mark is gone, and what
    becomes of the files made in it meanwhile: found by their time (no pid), or told of together
    (MODIFY of the directory), or not at all."""
    tree, out = tempfile.mkdtemp(dir=place.disk), tempfile.mkdtemp(dir=place.disk)
    say("window: directories moved in")
    times, files, found, silent = [], 0, 0, 0
    watcher = Watcher("fanfp marks", tree, subprocess.PIPE, ["--json", "-e", "create,modify"])
    try:
        reader = Reader(watcher.process.stdout.fileno())
        for turn in range(10 if quick else 200):
            directory, moved = os.path.join(out, "d%d" % turn), os.path.join(tree, "d%d" % turn)
            os.mkdir(directory)
            make_file(os.path.join(directory, "before"))
            reader.skip(0.02)               # by now it has its mark
            os.rename(directory, moved)
            begun, made = time.perf_counter(), []
            while not made or made[-1] < 0.01:
                made.append(time.perf_counter() - begun)
                make_file("%s/%d-%d" % (moved, turn, len(made)))
            text = reader.all_until(b'/%d-%d"' % (turn, len(made)))
            told = {int(number): pid != b"null" for number, pid in re.findall(
                rb'/%d-(\d+)", "pid": (\w+)' % turn, text)}
            first = min([number for number, heard in told.items() if heard] or [len(made)])
            times.append(made[first - 1])
            untold = sum(number not in told for number in range(1, first))
            files, found = files + first - 1, found + first - 1 - untold
            hint = rb'"MODIFY"[^}]*/d%d", "pid": null' % turn
            silent += bool(untold) and not re.search(hint, text)
    finally:
        watcher.stop()
    times.sort()
    return {"median": median(times), "p99": times[len(times) * 99 // 100], "moves": len(times),
            "files": files, "found": found, "silent": silent}


def make_file(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))


# --- 8. who did it ---

NOT_HERE = 77       # the status of ended.py where the host lacks what it measures


def ended(place, versions, quick):
    """What it costs to know the names of processes that have ended, and of those that live."""
    say("ended: noting who ends")
    child = subprocess.run([PYTHON, os.path.join(HERE, "ended.py"), "300" if quick else "20000"],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if child.returncode == NOT_HERE:
        raise Missing(child.stderr.decode("utf-8", "replace").strip())
    if child.returncode:
        raise RuntimeError(child.stderr.decode("utf-8", "replace").strip().splitlines()[-1])
    return json.loads(child.stdout.decode())


# --- 9. in the lab's machine: the fast path, and tracing ---

LAB = os.path.join(os.path.dirname(HERE), "lab")
TRACE_KERNELS = ("6.12", "newest")


def in_machine(options, command):
    """Run guest.py in the machine of lab/; what it found, and the load of this host then."""
    say("booting the lab's machine: " + command)
    done = subprocess.run([os.path.join(LAB, "vm")] + options + [command], stdout=subprocess.PIPE)
    if done.returncode:
        raise RuntimeError("%s ended with %d in the machine" % (command, done.returncode))
    found = json.loads(done.stdout.decode().strip().splitlines()[-1])
    found["load"] = os.getloadavg()[1]
    return found


def fastpath(place, versions, quick):
    """On the kernel that has the fast path."""
    if quick:
        raise Missing("not with --quick, since it boots a machine")
    beside = subprocess.run([os.path.join(LAB, "build"), "--bpftool"], stdout=subprocess.PIPE,
                            check=True).stdout.decode().strip()
    return in_machine(["--share", beside], "python3 bench/guest.py fastpath /share/bpftool")


def trace(place, versions, quick):
    """On kernels that have kprobes; --quick tries it with the filters that this one has."""
    if quick:
        done = subprocess.run([PYTHON, os.path.join(HERE, "guest.py"), "--quick", "trace"],
                              stdout=subprocess.PIPE, check=True)
        return {"this": json.loads(done.stdout.decode().strip().splitlines()[-1])}
    return {kernel: in_machine(["--kernel", kernel, "--memory", "4G"],
                               "python3 bench/guest.py trace") for kernel in TRACE_KERNELS}


# --- all of it ---

SECTIONS = [ready, outside, inside, latency, capacity, growth, window, ended, fastpath, trace]


def machine():
    """What it was measured on."""
    return {"kernel": platform.release().partition("-")[0], "cores": os.cpu_count(),
            "python": subprocess.check_output([PYTHON, "-c", "import platform; print("
                                               "platform.python_version())"]).decode().strip()}


def run(sections, quick):
    """Run sections; ({name: result}, {name: why not}, number skipped)."""
    results, failed, skipped = {}, {}, 0
    versions = watchers.versions()
    place = Place()
    try:
        for section in sections:
            name = section.__name__
            try:
                results[name] = section(place, versions, quick)
                if not quick:           # at once: what is measured is not lost by what follows
                    report.update(HERE, {name: results[name]})
            except Missing as reason:
                say("%s: skipped: %s" % (name, reason))
                skipped += 1
            except Exception as reason:
                traceback.print_exc()
                failed[name] = short(reason)
    finally:
        place.close()
    return results, failed, skipped


def check_quick(results, failed):
    """That each section gave what the report needs."""
    everything = dict(results, machine=machine(), versions=watchers.versions())
    for name in list(results):
        try:
            report.table({name: results[name], "machine": everything["machine"],
                          "versions": everything["versions"]})
        except Exception as reason:
            traceback.print_exc()
            failed[name] = str(reason)
            del results[name]
    for name, reason in failed.items():
        say("FAILED %s: %s" % (name, reason))
    for result in results.values():
        for name, why in result.get("failed", {}).items():
            say("not measured: %s: %s" % (name, why))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--quick", action="store_true", help="only try whether it works")
    parser.add_argument("--report", action="store_true", help="only write the report anew")
    parser.add_argument("names", nargs="*", metavar="NAME", help=" ".join(names))
    options = parser.parse_args()
    if set(options.names) - set(names):
        parser.error("there are: " + " ".join(names))
    sections = [each for each in SECTIONS if not options.names or each.__name__ in options.names]
    if options.report:
        return report.write(HERE)
    if os.geteuid():
        say("needs root: it mounts file systems, and so do the marks it measures")
        print("0 passed, 0 failed, %d skipped" % len(sections))
        return 0 if options.quick else 1
    if options.quick:
        watchers.build_reader()
        results, failed, skipped = run(sections, True)
        check_quick(results, failed)
        print("%d passed, %d failed%s" % (len(results), len(failed),
                                          ", %d skipped" % skipped if skipped else ""))
        return 1 if failed else 0
    watchers.install(say)
    results, failed, skipped = run(sections, False)
    report.update(HERE, {"machine": machine(), "versions": watchers.versions()})
    report.write(HERE)
    for name, reason in failed.items():
        say("FAILED %s: %s" % (name, reason))
    print("%d passed, %d failed, %d skipped" % (len(results), len(failed), skipped))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
