#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""A long run: one fanfp for each filter, under random programs and a steady load, all at once.

    python3 lab/soak.py [--seconds N] [--filter NAME]... [--dir DIR | --make]

Each has a directory of its own, in which three processes run the programs of differential.py (those
of `user` through a bind mount) and two more make and remove files all the time, one in the tree and
one outside of it.  What is
reported is compared with what was done.  Memory and descriptors of fanfp are read after each round:
after the first tenth of the time neither may grow.  --make puts each filter on a file system made
for it (ext4, xfs, btrfs, tmpfs), as far as this host has them.  Standard error has what is found
wrong as soon as it is, and each tenth of the time how it stands; standard output a row for each at
the end.  Exit status 1 if anything is wrong.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

import differential                             # noqa: E402
import fanfp                                    # noqa: E402
from test_fanfp import available, run           # noqa: E402

KINDS = {"fastpath": "ext4", "trace": "ext4", "marks": "xfs", "user": "btrfs", "inotify": "tmpfs"}
GROWTH = 1.25               # what memory may grow by after the first tenth
MEGABYTE = 1 << 20
TABLES = 16 * MEGABYTE      # beside what the tables take until they are full

# Names that the model knows nothing of; differential.py leaves out what is in these directories.
NOISE = """
import os, sys, time
number, parent = 0, os.getppid()
while os.getppid() == parent:
    number += 1
    path = "%s/f%d" % (sys.argv[1], number % 1000)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    if number % 50 == 0:
        os.makedirs("%s/d%d/e" % (sys.argv[1], number))
        os.rmdir("%s/d%d/e" % (sys.argv[1], number))
        os.rmdir("%s/d%d" % (sys.argv[1], number))
    os.remove(path)
    time.sleep(0.005)
"""


def one(options, name, directory):
    """Run one filter for the time; a dict of what was seen."""
    row = {"filter": name, "kind": differential.filesystem_type(directory), "operations": 0,
           "events": 0, "missed": 0, "invented": 0, "memory": [], "descriptors": []}
    generator = differential.Generator(options.seed, options.processes,
                                       differential.mounting(options, name))
    session = differential.Run(options, name, directory, fanfp.DEFAULT_EVENTS, options.processes)
    noise = []
    tenths = 1
    begun = time.monotonic()
    try:
        mode, _, commands = generator.round(session.model, 20)
        session.round(mode, commands)
        for place in ("tree", "out"):
            os.mkdir(os.path.join(session.top, place, differential.NOISY))
        session.start()
        for place in ("tree", "out"):
            noise.append(subprocess.Popen([sys.executable, "-c", NOISE, os.path.join(
                session.top, place, differential.NOISY)]))
        while time.monotonic() - begun < options.seconds:
            mode, some, commands = generator.round(session.model, 30)
            session.round(mode, commands)
            row["operations"] += len(some)
            try:
                session.judge()
            except differential.Mismatch as reason:
                row["missed"] += len(reason.args[0])
                row["invented"] += len(reason.args[1])
                differential.print_reason(reason)
            if time.monotonic() - begun > options.seconds / 10 * tenths:
                tenths += 1
                print("soak: %s: %d s, %d operations, %d missed, %d invented" % (
                    name, time.monotonic() - begun, row["operations"], row["missed"],
                    row["invented"]), flush=True)
            if tenths > 1:
                sample(session.program.process.pid, row)
    except AssertionError as reason:
        print("%s: %s" % (name, reason))
        row["missed"] += 1
    finally:
        for process in noise:
            process.kill()
            process.wait()
        session.close()
    row["events"], row["overflows"] = session.count, session.overflows
    row["seconds"] = round(time.monotonic() - begun)
    return row


def sample(pid, row):
    """Note memory and descriptors of a process."""
    with open("/proc/%d/status" % pid) as file:
        pages = next(int(line.split()[1]) for line in file if line.startswith("VmRSS:"))
    row["memory"].append(pages * 1024)
    row["descriptors"].append(len(os.listdir("/proc/%d/fd" % pid)))


def verdict(row):
    """What is wrong with a row, or ""."""
    wrong = []
    if row["missed"] or row["invented"]:
        wrong.append("not what was done")
    if not row["memory"]:
        wrong.append("it did not get that far")
    elif max(row["memory"]) > row["memory"][0] * GROWTH + TABLES:
        wrong.append("memory grows")
    half = len(row["descriptors"]) // 2
    # Some are open for a moment: what counts is the least of many looks.
    if half and min(row["descriptors"][half:]) > min(row["descriptors"][:half]):
        wrong.append("descriptors grow")
    return ", ".join(wrong)


def show(row):
    memory = row["memory"] or [0]
    print("soak: %s on %s: %d s, %d operations, %d events, %d missed, %d invented, %d overflows "
          "told; memory %.1f MB at a tenth, %.1f at most, %.1f at the end; descriptors %s %s" % (
              row["filter"], row["kind"], row["seconds"], row["operations"], row["events"],
              row["missed"], row["invented"], row["overflows"], memory[0] / MEGABYTE,
              max(memory) / MEGABYTE, memory[-1] / MEGABYTE,
              "-".join(map(str, sorted(set(row["descriptors"])))), verdict(row) or "- fine"),
          flush=True)


def make(kind, top):
    """Mount a new file system of a kind; its directory."""
    path = os.path.join(top, kind)
    os.mkdir(path)
    if kind == "tmpfs":
        run("mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", path)
    else:
        image = os.path.join(top, kind + ".image")
        with open(image, "wb") as file:
            file.truncate(400 * MEGABYTE)
        run("mkfs." + kind, image, stderr=subprocess.DEVNULL)
        run("mount", "-o", "loop", image, path)
    return path


def soak(options):
    """Run all filters at once, each in a process; whether all is well."""
    top = tempfile.mkdtemp(prefix="soak-")
    running, made = [], []
    try:
        for name in options.filter or fanfp.FILTER_NAMES[1:]:
            directory = options.dir or tempfile.gettempdir()
            if options.make:
                try:
                    directory = make(KINDS[name], top)
                except (OSError, subprocess.CalledProcessError) as reason:
                    print("soak: %s: no %s can be made here: %s" % (name, KINDS[name], reason))
                    continue
                made.append(directory)
            reason = available(name, directory)
            if reason is not None:
                print("soak: %s: %s" % (name, reason))
                continue
            running.append(subprocess.Popen(
                [sys.executable, __file__, "--one", name, "--dir", directory, "--seconds",
                 str(options.seconds), "--seed", str(options.seed)], stdout=subprocess.PIPE))
        rows, failed = [], False
        for process in running:
            output = process.communicate()[0].decode()
            if process.returncode:              # it has said why
                failed = True
                continue
            rows.append(json.loads(output))
            show(rows[-1])
        return bool(rows) and not failed and not any(map(verdict, rows))
    finally:
        for path in made:
            subprocess.call(["umount", "-l", path])
        subprocess.call(["rm", "-rf", "--one-file-system", top])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seconds", type=float, default=3600)
    add("--filter", action="append", choices=fanfp.FILTER_NAMES[1:])
    add("--dir", help="default: the temporary directory")
    add("--make", action="store_true", help="a file system for each filter")
    add("--seed", type=int, default=1)
    add("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.processes, options.window, options.errors, options.fanfp = 3, False, False, []
    options.bind = options.one == "user"    # one of them through a bind mount
    options.no_mounts = False
    if options.one:
        with contextlib.redirect_stdout(sys.stderr):
            row = one(options, options.one, options.dir)
        print(json.dumps(row))
        return 0
    return 0 if soak(options) else 1


if __name__ == "__main__":
    sys.exit(main())
