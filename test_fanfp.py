#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Tests of fanfp: the real program, the real kernel, real files.

    python3 test_fanfp.py [-v] [NAME...]      as root for all of it; without, what can be is run

A scenario starts fanfp, waits for its ready line, does things, ends with a sentinel file, and
compares what was done with what was reported up to the sentinel, both ways: nothing missed,
nothing invented, nothing from outside.  Each scenario is run with each filter this host has, in
each directory of FANFP_TEST_DIRS (colons between; default: the temporary directory).
"""

import asyncio
import json
import os
import random
import select
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import fanfp

HERE = os.path.dirname(os.path.abspath(__file__))
PROGRAM = os.path.join(HERE, "fanfp.py")
DIRECTORIES = os.environ.get("FANFP_TEST_DIRS", "").split(":")
DIRECTORIES = [each for each in DIRECTORIES if each] or [tempfile.gettempdir()]
PATIENCE = float(os.environ.get("FANFP_TEST_PATIENCE", "60"))     # seconds until a wait is a hang
FILES = int(os.environ.get("FANFP_TEST_FILES", "100000"))
ROOT = os.geteuid() == 0
CREATED = "CREATE MODIFY CLOSE_WRITE"


def available(name, directory):
    """None where a filter works in a directory, else why it does not."""
    try:
        with tempfile.TemporaryDirectory(dir=directory) as path:
            fanfp.Watch(path, filter=name).close()
    except OSError as error:
        return str(error)
    return None


def run(*command, **options):
    """Run a program; it must succeed."""
    subprocess.check_call(command, stdout=subprocess.DEVNULL, **options)


def write(path, data="x"):
    """Make a file, or add to it."""
    with open(path, "ab") as file:
        file.write(data.encode())


class Program:
    """A running fanfp; lines() reads its JSON up to a sentinel."""

    def __init__(self, *arguments, cwd=None, ready=True, json_lines=True, **options):
        command = [sys.executable, PROGRAM] + (["--json"] if json_lines else [])
        self.process = subprocess.Popen(
            command + list(arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL, cwd=cwd, **options)
        self.buffer, self.errors = b"", b""
        if ready:
            self.wait_ready()

    def wait_ready(self):
        """Read standard error up to the ready line."""
        while b"fanfp: watching " not in self.errors or not self.errors.endswith(b"\n"):
            data = self._read(self.process.stderr)
            if not data:
                self.process.wait()
                raise AssertionError("fanfp did not get ready: %r" % self.errors)
            self.errors += data

    def _read(self, stream):
        if not select.select([stream], [], [], PATIENCE)[0]:
            self.process.kill()
            raise AssertionError("fanfp says nothing for %d s" % PATIENCE)
        return os.read(stream.fileno(), 1 << 16)

    def line(self):
        """The next line of standard output, b"" at its end."""
        while b"\n" not in self.buffer:
            data = self._read(self.process.stdout)
            if not data:
                line, self.buffer = self.buffer, b""
                return line
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line + b"\n"

    def until(self, path):
        """The events before the first of a path, as dicts; the rest of the path's are skipped."""
        events = []
        while True:
            line = self.line()
            if not line:
                raise AssertionError("fanfp ended before the sentinel: %r %r"
                                     % (events[-3:], self.process.stderr.read()))
            event = json.loads(line.decode("ascii"))
            if event["path"] == path:
                return events
            events.append(event)

    def rest(self):
        """The events up to the end of the program, as dicts."""
        return [json.loads(line.decode("ascii")) for line in iter(self.line, b"")]

    def stop(self, number=signal.SIGTERM):
        """End it; returns (exit status, standard error)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=PATIENCE)
        self.buffer += out
        self.errors += errors
        return self.process.returncode, self.errors.decode("utf-8", "replace")

    def statistics(self):
        """End it and read its --stats line: a dict."""
        status, errors = self.stop()
        assert status == 0, errors
        text = [line for line in errors.splitlines() if line.startswith("fanfp: stats: ")][0]
        pairs = (each.rsplit(" ", 1) for each in text[len("fanfp: stats: "):].split(", "))
        return {name: int(value) for name, value in pairs}


def gather(events):
    """What was reported: {path: set of names}; a rename is under (old path, path)."""
    found = {}
    for event in events:
        key = event["path"]
        if key and os.path.basename(key).startswith("sentinel-"):
            continue                    # what is still to be told of an earlier one
        if "old_path" in event:
            key = (event["old_path"], event["path"])
        found.setdefault(key, set()).update(event["events"])
    return found


class Base(unittest.TestCase):
    """A scratch directory with `tree`, which is watched, and `out`, which is not."""

    where = None

    def setUp(self):
        self.top = os.path.realpath(tempfile.mkdtemp(prefix="fanfp-", dir=self.where))
        self.addCleanup(self.remove_top)
        self.tree, self.out = os.path.join(self.top, "tree"), os.path.join(self.top, "out")
        os.mkdir(self.tree)
        os.mkdir(self.out)
        self.sentinels = 0

    def remove_top(self):
        shutil.rmtree(os.fsencode(self.top), ignore_errors=True)
        if os.path.lexists(self.top):
            subprocess.call(["rm", "-rf", self.top])

    def program(self, *arguments, **options):
        """Start fanfp; it is ended with the test."""
        program = Program(*arguments, **options)
        self.addCleanup(program.process.stderr.close)
        self.addCleanup(program.process.stdout.close)
        self.addCleanup(program.process.wait)
        self.addCleanup(lambda: program.process.poll() is None and program.process.kill())
        return program

    def mount(self, *arguments):
        """mount(8), undone with the test."""
        try:
            run("mount", *arguments, stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("mount %s does not work here" % " ".join(arguments))
        target = arguments[-1]
        self.addCleanup(lambda: subprocess.call(["umount", "-l", target],
                                                stderr=subprocess.DEVNULL))
        return target


# =============================================================================================
# Scenarios: once for each filter
# =============================================================================================

class Scenarios:
    """What every filter must get right.  Subclasses, made below, say which and where."""

    filter = None

    @property
    def exact(self):
        """Whether the filter hears of all there is; inotify, by nature, may miss what happens
        to a just-made file before the watch of its just-made directory."""
        return self.filter != "inotify"

    def watch(self, *arguments, **options):
        arguments = arguments or (self.tree,)
        return self.program("--filter", self.filter, *arguments, **options)

    def reported(self, program, shown=None, real=None):
        """Make a sentinel in the tree and return what was reported before it."""
        self.sentinels += 1
        name = "/sentinel-%d" % self.sentinels
        write((real or self.tree) + name)
        return gather(program.until((shown or real or self.tree) + name))

    def expect(self, found, expected, racy=()):
        """Compare {path or (old, new): names}, paths relative to the tree.  What `racy` names
        may be CREATE alone for inotify."""
        wanted = {}
        for path, names in expected.items():
            both = path if isinstance(path, tuple) else (path,)
            both = tuple(each if each.startswith("/") else os.path.join(self.tree, each)
                         for each in both)
            wanted[both if isinstance(path, tuple) else both[0]] = set(names.split())
        if not self.exact:
            for path in racy:
                path = os.path.join(self.tree, path)
                if "CREATE" in found.get(path, ()) and found[path] <= wanted[path]:
                    wanted[path] = found[path]
        self.assertEqual(found, wanted)

    # --- files and directories ---

    def test_files(self):
        """Files made, written, removed; the same outside is not reported."""
        os.makedirs(self.tree + "/sub/deep")
        write(self.tree + "/sub/old")
        program = self.watch()
        for directory in (self.tree, self.tree + "/sub/deep", self.out, self.top):
            write(directory + "/new")
            os.mkdir(directory + "/made")
        write(self.tree + "/sub/old")
        os.remove(self.tree + "/sub/old")
        os.rmdir(self.tree + "/made")
        os.remove(self.out + "/new")
        self.expect(self.reported(program), {
            "new": CREATED, "made": "CREATE DELETE", "sub/deep/new": CREATED,
            "sub/deep/made": "CREATE", "sub/old": "MODIFY CLOSE_WRITE DELETE"})

    def test_just_made_directories(self):
        """Files in just-made directories, at any depth, by another process."""
        program = self.watch()
        run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10; do mkdir -p d$i/e/f/g; echo > d$i/e/f/g/x;"
            " echo > d$i/y; done", cwd=self.tree)
        expected, racy = {}, []
        for i in range(1, 11):
            for path in ("d%d", "d%d/e", "d%d/e/f", "d%d/e/f/g"):
                expected[path % i] = "CREATE"
            for path in ("d%d/e/f/g/x", "d%d/y"):
                expected[path % i] = CREATED
                racy.append(path % i)
        self.expect(self.reported(program), expected, racy)

    def test_renamed_directory(self):
        """After a rename all paths below are the new ones."""
        os.makedirs(self.tree + "/a/b/c")
        program = self.watch()
        write(self.tree + "/a/b/c/f")
        self.reported(program)
        os.rename(self.tree + "/a", self.tree + "/z")
        write(self.tree + "/z/b/c/f")
        os.rename(self.tree + "/z/b", self.tree + "/b")
        write(self.tree + "/b/c/g")         # another file, or the kernel may merge the two
        os.mkdir(self.tree + "/a")
        write(self.tree + "/z/h")
        self.expect(self.reported(program), {
            ("a", "z"): "RENAME", "z/b/c/f": "MODIFY CLOSE_WRITE", ("z/b", "b"): "RENAME",
            "b/c/g": CREATED, "a": "CREATE", "z/h": CREATED})

    def test_moved_in(self):
        """A directory that was heard from outside, at several depths, is moved in."""
        os.makedirs(self.out + "/d/e/f")
        program = self.watch()
        for path in ("", "/d", "/d/e", "/d/e/f"):
            write(self.out + path + "/x")
        self.assertEqual(self.reported(program), {})
        os.rename(self.out + "/d", self.tree + "/d")
        self.expect(self.reported(program), {"d": "MOVED_TO"})
        write(self.tree + "/d/e/f/x")
        write(self.tree + "/d/e/y")
        os.remove(self.tree + "/d/x")
        self.expect(self.reported(program), {
            "d/e/f/x": "MODIFY CLOSE_WRITE", "d/e/y": CREATED, "d/x": "DELETE"})

    def test_moved_out(self):
        """What is moved out of the tree is reported no more; back in, it is again."""
        os.makedirs(self.tree + "/d/e/f")
        program = self.watch()
        write(self.tree + "/d/e/x")
        self.reported(program)
        os.rename(self.tree + "/d", self.out + "/d")
        write(self.out + "/d/e/x")
        write(self.out + "/d/e/f/y")
        self.expect(self.reported(program), {"d": "MOVED_FROM"})
        write(self.out + "/d/e/f/y")
        os.rename(self.out + "/d/e", self.out + "/d/g")
        os.rename(self.out + "/d", self.tree + "/h")
        self.expect(self.reported(program), {"h": "MOVED_TO"})
        write(self.tree + "/h/g/x")
        self.expect(self.reported(program), {"h/g/x": "MODIFY CLOSE_WRITE"})

    def test_deleted_and_made_again(self):
        program = self.watch()
        for _ in range(3):
            os.mkdir(self.tree + "/d")
            self.reported(program)
            write(self.tree + "/d/f")
            os.remove(self.tree + "/d/f")
            os.rmdir(self.tree + "/d")
            self.expect(self.reported(program), {"d/f": CREATED + " DELETE", "d": "DELETE"})

    def test_remove_unknown(self):
        """rm -rf of a part never heard of: each delete with its path."""
        expected = {}
        for i in range(5):
            os.makedirs(self.tree + "/top/d%d/e/f" % i)
            for path in ("top/d%d", "top/d%d/e", "top/d%d/e/f"):
                write(self.tree + "/" + path % i + "/x")
                expected[path % i] = expected[path % i + "/x"] = "DELETE"
        expected["top"] = "DELETE"
        program = self.watch()
        run("rm", "-rf", self.tree + "/top")
        self.expect(self.reported(program), expected)

    def test_write_and_remove_unknown(self):
        """A file made in an old directory, which is then removed before anyone can look."""
        os.makedirs(self.tree + "/a/b/c")
        program = self.watch()
        run("sh", "-c", "echo > a/b/c/f; rm -rf a; mkdir -p a/b; echo > a/b/g", cwd=self.tree)
        found = self.reported(program)
        names = "CREATE DELETE"
        self.expect(found, {"a/b/c/f": CREATED + " DELETE", "a/b/c": "DELETE", "a/b": names,
                            "a": names, "a/b/g": CREATED}, racy=["a/b/g"])

    def test_outside_removed(self):
        """Directories made and removed outside at once are of no tree."""
        program = self.watch()
        run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9; do mkdir -p t/u; echo > t/u/f; rm -rf t; done",
            cwd=self.out)
        self.expect(self.reported(program), {})

    def test_hard_links(self):
        """A file with one name inside and one outside: each name is where it is."""
        write(self.tree + "/in")
        os.link(self.tree + "/in", self.out + "/out")
        write(self.out + "/other")
        program = self.watch()
        write(self.out + "/out")
        self.expect(self.reported(program), {})
        write(self.tree + "/in")
        os.link(self.out + "/other", self.tree + "/other")
        os.remove(self.out + "/out")
        os.remove(self.tree + "/in")
        self.expect(self.reported(program), {"in": "MODIFY CLOSE_WRITE DELETE",
                                             "other": "CREATE"})

    def test_renames(self):
        """Within the tree one RENAME with both paths; across its border one half."""
        os.makedirs(self.tree + "/a")
        os.makedirs(self.tree + "/b")
        for name in ("1", "2", "3"):
            write(self.tree + "/a/" + name)
            write(self.out + "/" + name)
        program = self.watch()
        for round_ in range(2):             # the second with ignore marks in place
            os.rename(self.tree + "/a/1", self.tree + "/b/1")
            os.rename(self.tree + "/a/2", self.out + "/in2")
            os.rename(self.out + "/3", self.tree + "/b/3")
            os.rename(self.out + "/1", self.out + "/4")
            self.expect(self.reported(program), {
                ("a/1", "b/1"): "RENAME", "a/2": "MOVED_FROM", "b/3": "MOVED_TO"})
            os.rename(self.tree + "/b/1", self.tree + "/a/1")
            os.rename(self.out + "/in2", self.tree + "/a/2")
            os.rename(self.tree + "/b/3", self.out + "/3")
            os.rename(self.out + "/4", self.out + "/1")
            self.expect(self.reported(program), {
                ("b/1", "a/1"): "RENAME", "a/2": "MOVED_TO", "b/3": "MOVED_FROM"})

    def test_save_by_rename(self):
        """What editors do: write a new file, rename it over the old."""
        write(self.tree + "/file")
        program = self.watch()
        write(self.tree + "/file.tmp")
        os.rename(self.tree + "/file.tmp", self.tree + "/file")
        self.expect(self.reported(program), {
            "file.tmp": CREATED, ("file.tmp", "file"): "RENAME"})

    def test_other_programs(self):
        """Files made by cp, tar and mv."""
        os.makedirs(self.out + "/src/d")
        write(self.out + "/src/d/f")
        write(self.out + "/src/g")
        program = self.watch()
        run("sh", "-c", "tar cf - -C '%s' src | tar xf - ; cp src/g h; mv h src/d/h; rm src/g"
            % self.out, cwd=self.tree)
        found = self.reported(program)
        self.assertEqual({path for path in found}, {
            (self.tree + "/" + path) for path in ("src", "src/d", "src/d/f", "src/g", "h")}
            | {(self.tree + "/h", self.tree + "/src/d/h")})

    # --- roots ---

    def test_root_renamed(self):
        program = self.watch()
        os.rename(self.tree, self.top + "/moved")
        write(self.top + "/moved/f")
        os.mkdir(self.tree)
        write(self.tree + "/other")
        self.expect(self.reported(program, self.tree, self.top + "/moved"), {
            self.tree: "MOVE_SELF", "f": CREATED})
        os.rename(self.top + "/moved", self.out + "/again")
        self.reported(program, self.tree, self.out + "/again")
        run("rm", "-r", self.out + "/again")
        found = gather(program.rest())
        self.assertIn("DELETE_SELF", found[self.tree])
        self.assertEqual(program.stop()[0], 0)

    def test_root_deleted(self):
        """Its end is reported, and when no root is left, so is the program's."""
        other = self.top + "/other"
        os.mkdir(other)
        program = self.watch(self.tree, other)
        write(self.tree + "/f")
        run("rm", "-r", self.tree)
        write(other + "/sentinel")
        found = gather(program.until(other + "/sentinel"))
        self.expect(found, {self.tree: "DELETE_SELF", "f": CREATED + " DELETE"})
        run("rm", "-r", other)
        found = gather(program.rest())
        self.assertIn("DELETE_SELF", found[other])
        status, errors = program.stop()
        self.assertEqual(status, 0)
        self.assertIn("no root is left", errors)

    def test_nested_and_repeated_roots(self):
        os.makedirs(self.tree + "/a/b")
        program = self.watch(self.tree + "/a", self.tree, self.tree, self.tree + "/a/b/")
        write(self.tree + "/a/b/f")
        write(self.tree + "/a/g")
        write(self.tree + "/h")
        events = []
        self.sentinels += 1
        write(self.tree + "/sentinel-1")
        for event in program.until(self.tree + "/sentinel-1"):
            events += [(event["path"], name) for name in event["events"]]
        self.assertEqual(sorted(events), sorted(
            (self.tree + path, name) for path in ("/a/b/f", "/a/g", "/h")
            for name in CREATED.split()))

    def test_symbolic_link_root(self):
        """The link is what is shown; links inside the tree are not followed."""
        link = self.top + "/link"
        os.symlink("tree", link)
        os.symlink(self.out, self.tree + "/aside")
        program = self.watch(link)
        write(link + "/f")
        write(self.tree + "/aside/g")
        self.expect(self.reported(program, link, self.tree), {link + "/f": CREATED})

    def test_relative_roots(self):
        os.mkdir(self.tree + "/sub")
        program = self.watch(".", "../out", cwd=self.tree)
        write(self.tree + "/sub/f")
        write(self.out + "/g")
        self.assertEqual(self.reported(program, ".", self.tree), {
            "./sub/f": set(CREATED.split()), "../out/g": set(CREATED.split())})

    def test_single_file(self):
        """A file as a root, through a save by rename."""
        path = self.tree + "/file"
        write(path)
        program = self.watch(path)
        write(path)
        write(self.tree + "/other")
        write(self.tree + "/new")
        os.rename(self.tree + "/new", path)
        write(path, "more")
        os.remove(path)
        found = gather(program.rest())
        self.assertEqual(found, {path: {"MODIFY", "CLOSE_WRITE", "MOVED_TO", "DELETE_SELF"}})

    # --- names ---

    def test_strange_names(self):
        names = [b"n" * 255, b"new\nline", b"\x1b[31mred", b"caf\xc3\xa9", b"bad\xff\xfe\x80",
                 b" space ", b"back\\slash", b"quote\"'", b"-e", b"{}", b"\xe2\x80\xaeright"]
        program = self.watch()
        directory = os.fsencode(self.tree)
        expected = {}
        for name in names:
            os.mkdir(directory + b"/d" + name[:254])
            self.reported(program)
            with open(directory + b"/d" + name[:254] + b"/" + name, "wb"):
                pass
            expected[os.fsdecode(b"d" + name[:254] + b"/" + name)] = "CREATE CLOSE_WRITE"
            self.expect(self.reported(program), expected)
            expected.clear()

    # --- mounts ---

    def test_bind_mount_of_the_tree(self):
        """Writes through a bind mount are writes to the tree."""
        os.mkdir(self.tree + "/sub")
        bind = self.mount("--bind", self.tree, self.out)
        program = self.watch()
        write(bind + "/sub/f")
        os.rename(bind + "/sub/f", bind + "/g")
        self.expect(self.reported(program), {"sub/f": CREATED, ("sub/f", "g"): "RENAME"})

    def test_mounts_inside(self):
        """File systems mounted inside, before the start and after."""
        os.makedirs(self.tree + "/early")
        os.makedirs(self.tree + "/d/late")
        self.mount("-t", "tmpfs", "tmpfs", self.tree + "/early")
        os.mkdir(self.tree + "/early/sub")
        program = self.watch()
        write(self.tree + "/early/sub/f")
        self.mount("-t", "tmpfs", "tmpfs", self.tree + "/d/late")
        # The list of mounts is polled: it has been read when what is made after is reported.
        probe = 0
        while True:
            probe += 1
            os.mkdir(self.tree + "/d/late/p%d" % probe)
            found = self.reported(program)
            if self.tree + "/d/late/p%d" % probe in found:
                break
            self.assertLess(probe, 1000, "the mount is not watched")
        write(self.tree + "/d/late/g")
        self.expect(self.reported(program), {"d/late/g": CREATED})
        run("umount", self.tree + "/d/late")
        found = {}
        while self.tree + "/d/late" not in found:
            probe += 1
            found = self.reported(program)
            self.assertLess(probe, 2000, "UNMOUNT is not reported")
        self.expect(found, {"d/late": "UNMOUNT"})

    # --- events asked for ---

    def test_narrow_events(self):
        """A narrow event set never narrows which new directories are heard."""
        os.makedirs(self.tree + "/old")
        program = self.watch("-e", "close_write", self.tree)
        os.makedirs(self.tree + "/a/b")
        self.sentinels += 1
        write(self.tree + "/sentinel-1")
        program.until(self.tree + "/sentinel-1")
        write(self.tree + "/a/b/f")
        os.rename(self.tree + "/a", self.tree + "/c")
        write(self.tree + "/c/b/g")
        write(self.tree + "/old/g")
        os.remove(self.tree + "/old/g")
        self.expect(self.reported(program), {
            "a/b/f": "CLOSE_WRITE", "c/b/g": "CLOSE_WRITE", "old/g": "CLOSE_WRITE"})

    def test_all_events(self):
        write(self.tree + "/f", "content")
        program = self.watch("-e", "all", "--exclude", "/tree$", self.tree)
        with open(self.tree + "/f") as file:
            file.read()
        os.chmod(self.tree + "/f", 0o600)
        found = self.reported(program)[self.tree + "/f"]
        self.assertEqual(found, {"OPEN", "ACCESS", "CLOSE_NOWRITE", "ATTRIB"})

    def test_own_output(self):
        """What fanfp writes into the tree does not feed itself."""
        path = self.tree + "/log"
        program = self.watch("-e", "all", "-o", path, self.tree)
        write(self.tree + "/f")
        for _ in range(2):
            write(self.tree + "/end")
            while True:
                with open(path) as file:
                    lines = file.readlines()
                if any('/end"' in line for line in lines):
                    break
        program.stop()
        with open(path) as file:
            logged = gather(map(json.loads, file))
        # This test reads the log; only that may be reported of it.
        self.assertLessEqual(logged.get(path, set()), {"OPEN", "ACCESS", "CLOSE_NOWRITE"})
        self.assertLessEqual({"CREATE", "MODIFY"}, logged[self.tree + "/f"])

    # --- many ---

    def test_many_inside(self):
        """Files made and removed as fast as one process can: none missing."""
        for number in range(0 if self.exact else 10):
            os.mkdir(self.tree + "/d%d" % number)   # inotify can't know what was in a new one
        program = self.watch("-e", "create,delete", self.tree)
        maker = subprocess.Popen([sys.executable, "-c", MAKER, self.tree, str(FILES), "10"])
        counts = {}
        done = False
        while not done:
            event = json.loads(program.line().decode())
            for name in event["events"]:
                if os.path.basename(event["path"]).startswith("f"):
                    counts[name] = counts.get(name, 0) + 1
            done = event["path"].endswith("/done")
        self.assertEqual(maker.wait(), 0)
        self.assertEqual(counts, {"CREATE": FILES, "DELETE": FILES})

    def test_many_outside(self):
        """The same outside wakes nobody after the first event of each directory."""
        if self.filter not in ("marks", "fastpath"):
            self.skipTest("%s has no filter in the kernel" % self.filter)
        for number in range(10):
            os.mkdir(self.out + "/d%d" % number)
        program = self.watch("--stats", self.tree)
        for number in range(10):
            write(self.out + "/d%d/first" % number)
        write(self.out + "/first")
        self.assertEqual(self.reported(program), {})
        run(sys.executable, "-c", MAKER, self.out, str(FILES // 5), "10")
        self.assertEqual(self.reported(program), {})
        statistics = program.statistics()
        self.assertLess(statistics["reads"], 30)
        # The machine's other processes are outside as well, so not "no event at all".
        self.assertLess(statistics["events read"], FILES // 50 + 500)


MAKER = """
import os, sys
top, count, directories = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
for number in range(directories):
    os.makedirs("%s/d%d" % (top, number), exist_ok=True)
for number in range(count):
    path = "%s/d%d/f%d" % (top, number % directories, number)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
    os.remove(path)
open(top + "/done", "w").close()
"""


def make_scenarios():
    """A TestCase of the scenarios for each filter and directory; skipped with its reason."""
    for directory in DIRECTORIES:
        place = os.path.basename(directory) if len(DIRECTORIES) > 1 else ""
        for name in fanfp.FILTER_NAMES[1:]:
            title = name.capitalize() + "Scenarios" + (place and "_" + place)
            case = type(title, (Scenarios, Base), {"filter": name, "where": directory})
            reason = available(name, directory)
            if reason is not None:
                case = unittest.skip(reason)(case)
            case.__module__ = __name__
            globals()[title] = case


make_scenarios()


# =============================================================================================
# The command line
# =============================================================================================

BEST = next((name for name in fanfp.FILTER_NAMES[1:] if not available(name, DIRECTORIES[0])),
            "inotify")


class CommandLine(Base):
    """Options, output, errors and exit statuses, with the best filter of this host."""

    where = DIRECTORIES[0]

    def finish(self, *arguments, **options):
        """Run fanfp to its end: (status, standard output, standard error)."""
        process = subprocess.Popen([sys.executable, PROGRAM] + list(arguments),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   stdin=subprocess.DEVNULL, **options)
        out, errors = process.communicate(timeout=PATIENCE)
        return process.returncode, out, errors.decode("utf-8", "replace")

    def lines(self, *arguments, do, count=1):
        """The output of fanfp --count N with arguments, while `do` is done."""
        program = self.program("--count", str(count), *arguments, json_lines=False)
        do()
        out = b"".join(iter(program.line, b""))
        self.assertEqual(program.process.wait(PATIENCE), 0)
        return out

    def assert_fails(self, text, *arguments, **options):
        """fanfp ends with status 1 and one line on standard error that has a text in it."""
        status, out, errors = self.finish(*arguments, **options)
        self.assertEqual((status, out), (1, b""), errors)
        self.assertIn(text, errors)
        self.assertEqual(errors.count("\n"), 1, errors)
        self.assertNotIn("Traceback", errors)

    def test_default_line(self):
        line = self.lines(self.tree, do=lambda: write(self.tree + "/a\x1b[1m\nb")).decode()
        self.assertRegex(line, r"^\d\d:\d\d:\d\d\.\d{3} \S+\(\S+\): [A-Z_,]*CREATE\S* ")
        self.assertTrue(line.endswith("/a\\x1b[1m\\nb\n"), line)
        self.assertEqual(line.count("\n"), 1)

    def test_format(self):
        def do():
            os.mkdir(self.tree + "/d")
        out = self.lines("--format", "%w|%f|%e|%;e|%P|%%|%T", "--timefmt", "%Y", self.tree, do=do)
        self.assertEqual(out.decode(), "%s/|d|CREATE,ISDIR|CREATE;ISDIR|%s/d|%%|%s\n"
                         % (self.tree, self.tree, time.strftime("%Y")))
        os.rmdir(self.tree + "/d")

    def test_format_raw(self):
        """With %0 the bytes as they are; without, no name ends a line."""
        name = os.fsdecode(b"x\n\xff\x1b")
        out = self.lines("--format", "%P%0", self.tree, do=lambda: os.mkdir(self.tree + "/" + name))
        self.assertEqual(out, os.fsencode(self.tree + "/" + name) + b"\0")
        out = self.lines("--format", "%f", self.tree, do=lambda: os.rmdir(self.tree + "/" + name))
        self.assertEqual(out, b"x\\n\\xff\\x1b\n")

    def test_format_rename(self):
        write(self.tree + "/a")
        if BEST == "inotify":
            self.skipTest("inotify does not say which process")
        out = self.lines("--format", "%o>%P by %p %c", "--no-newline", "-e", "rename", self.tree,
                         do=lambda: os.rename(self.tree + "/a", self.tree + "/b"))
        with open("/proc/self/comm") as file:
            comm = file.read().strip()
        self.assertEqual(out.decode(), "%s/a>%s/b by %d %s"
                         % (self.tree, self.tree, os.getpid(), comm))

    def test_csv(self):
        out = self.lines("--csv", self.tree, do=lambda: os.mkdir(self.tree + '/a,"b\n'))
        fields = out.decode().split(",")
        self.assertEqual(out.count(b"\n"), 1)
        self.assertEqual(fields[0], self.tree + "/")
        self.assertIn('"CREATE,ISDIR","a,""b\\n",,', out.decode())

    def test_json(self):
        name = os.fsdecode(b"\xff\"\\\n")
        line = self.lines("--json", self.tree, do=lambda: os.mkdir(self.tree + "/" + name))
        event = json.loads(line.decode("ascii"))
        self.assertEqual(os.fsencode(event["path"]), os.fsencode(self.tree + "/" + name))
        self.assertEqual(event["events"], ["CREATE"])
        self.assertIs(event["is_dir"], True)
        self.assertNotIn("old_path", event)
        self.assertLess(abs(event["time"] - time.time()), PATIENCE)
        if BEST != "inotify":
            self.assertEqual(event["pid"], os.getpid())

    def test_include_exclude(self):
        def do():
            for name in ("a.c", "b.C", "c.h", "d.c~"):
                os.mkdir(self.tree + "/" + name)
        self.assertEqual(self.lines("--include", r"\.c$", "--format", "%f", self.tree, do=do),
                         b"a.c\n")
        run("sh", "-c", "rmdir *", cwd=self.tree)
        self.assertEqual(self.lines("--includei", r"\.c$", "--format", "%f", self.tree, do=do,
                                    count=2), b"a.c\nb.C\n")
        run("sh", "-c", "rmdir *", cwd=self.tree)
        self.assertEqual(self.lines("--excludei", r"\.C", "--format", "%f", self.tree, do=do),
                         b"c.h\n")

    def test_outfile(self):
        path = self.out + "/log"
        write(path, "before\n")
        program = self.program("-o", path, "--format", "%f", "--count", "1", self.tree,
                               json_lines=False)
        os.mkdir(self.tree + "/x")
        self.assertEqual(program.process.wait(PATIENCE), 0)
        with open(path) as file:
            self.assertEqual(file.read(), "before\nx\n")

    def test_quiet(self):
        program = self.program("-qq", "--count", "1", self.tree, ready=False, json_lines=False)
        while program.process.poll() is None:
            run("sh", "-c", "mkdir x; rmdir x", cwd=self.tree)
        self.assertEqual(program.stop(), (0, ""))
        self.assertEqual(program.buffer, b"")

    def test_timeout(self):
        status, out, errors = self.finish("-t", "0.1", self.tree)
        self.assertEqual((status, out), (2, b""), errors)

    def test_signals(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            program = self.program("--stats", self.tree)
            write(self.tree + "/f%d" % number)
            self.assertTrue(program.line())
            status, errors = program.stop(number)
            self.assertEqual(status, 0, errors)
            self.assertIn("fanfp: stats: events read ", errors)
            self.assertNotIn("Traceback", errors)

    def test_closed_pipe(self):
        program = self.program(self.tree)
        program.process.stdout.close()
        while program.process.poll() is None:
            run("sh", "-c", "mkdir x; rmdir x", cwd=self.tree)
        errors = program.process.stderr.read()
        program.process.stdout = open(os.devnull, "rb")
        self.assertEqual((program.process.returncode, errors), (0, b""))

    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            process = subprocess.Popen([sys.executable, PROGRAM, "-q", self.tree], stdout=full,
                                       stderr=subprocess.PIPE)
            while process.poll() is None:
                run("sh", "-c", "mkdir x; rmdir x", cwd=self.tree)
            errors = process.communicate()[1].decode()
        self.assertEqual(process.returncode, 1)
        self.assertIn("writing events to standard output: No space left on device", errors)
        self.assertEqual(errors.count("\n"), 1, errors)

    def test_exec(self):
        """One command for each event, in order, none lost while one runs."""
        log = self.out + "/log"
        script = self.out + "/run"
        with open(script, "w") as file:
            file.write('#!/bin/sh\nprintf "%%s|%%s|%%s\\n" "$1" "$FANFP_PATH" "$FANFP_EVENTS" '
                       '>> %s\n' % log)
        os.chmod(script, 0o755)
        names = ["plain", "sp ace", "$(touch pwned)", ";reboot", "-rf"] + list("abcdefghij")
        program = self.program("-qq", "--count", str(len(names)), "--exec", script + " {}",
                               self.tree, ready=False, json_lines=False)
        while not os.path.exists(log):
            os.mkdir(self.tree + "/probe")
            os.rmdir(self.tree + "/probe")
        program.stop()
        os.remove(log)
        program = self.program("--count", str(len(names)), "--exec", script + " {}", self.tree,
                               json_lines=False)
        for name in names:
            os.mkdir(self.tree + "/" + name)
        self.assertEqual(program.process.wait(PATIENCE), 0)
        with open(log) as file:
            self.assertEqual(file.read().splitlines(), [
                "%s/%s|%s/%s|CREATE,ISDIR" % (self.tree, name, self.tree, name)
                for name in names])

    def test_probe(self):
        status, out, errors = self.finish("--probe", self.tree)
        self.assertEqual((status, errors), (0, ""))
        text = out.decode()
        for row in ("kernel ", "CAP_SYS_ADMIN ", "BTF ", "file system ", "filter marks ",
                    "auto takes "):
            self.assertIn(row, text)
        self.assertRegex(text, r"auto takes +%s\n" % BEST)

    def test_version_and_help(self):
        self.assertEqual(self.finish("--version")[:2],
                         (0, ("fanfp %s\n" % fanfp.__version__).encode()))
        status, out, _ = self.finish("--help")
        self.assertEqual(status, 0)
        for option in ("--filter", "--format", "--json", "--exec", "--probe"):
            self.assertIn(option, out.decode())

    # --- errors: one line, status 1 ---

    def test_errors(self):
        self.assert_fails("no root given")
        self.assert_fails("watching %s/none: No such file or directory; name a directory or a file"
                          % self.tree, self.tree + "/none")
        self.assert_fails("there is no event none", "-e", "none", self.tree)
        self.assert_fails("regular expression", "--include", "(", self.tree)
        self.assert_fails("--format", "--format", "%Q", self.tree)
        self.assert_fails("only one of", "--json", "--csv", self.tree)
        self.assert_fails("opening %s/no/file" % self.tree, "-o", self.tree + "/no/file", self.tree)
        self.assert_fails("\\x1b", self.tree + "/\x1b")

    @unittest.skipUnless(ROOT, "needs root, to give it up")
    def test_unprivileged(self):
        """Without capabilities: fanotify says which, auto takes inotify."""
        os.chmod(self.top, 0o755)
        for name in ("marks", "user"):
            self.assert_fails("CAP_SYS_ADMIN", "--filter", name, self.tree, preexec_fn=drop_root)
        os.chmod(self.tree, 0o777)
        program = self.program(self.tree, preexec_fn=drop_root)
        self.assertIn(b"(filter: inotify)", program.errors)
        write(self.tree + "/f")
        write(self.tree + "/end")
        self.assertIn(self.tree + "/f", gather(program.until(self.tree + "/end")))

    @unittest.skipUnless(ROOT, "needs root, to set the limit of a user namespace")
    def test_watch_limit(self):
        """Reaching max_user_watches names the sysctl and its value."""
        for number in range(20):
            os.mkdir(self.tree + "/d%d" % number)
        script = ("echo 5 > /proc/sys/user/max_inotify_watches && exec %s %s --filter inotify %s"
                  % (sys.executable, PROGRAM, self.tree))
        try:
            run("unshare", "-Ur", "true", stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("unshare -Ur does not work here")
        process = subprocess.Popen(["unshare", "-Ur", "sh", "-c", script], stderr=subprocess.PIPE)
        errors = process.communicate(timeout=PATIENCE)[1].decode()
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("/proc/sys/user/max_inotify_watches (5) is reached", errors)
        self.assertEqual(errors.count("\n"), 1, errors)

    @unittest.skipUnless(ROOT, "needs root, to hide /proc")
    def test_no_proc(self):
        script = "umount -l /proc; exec %s %s %s" % (sys.executable, PROGRAM, self.tree)
        try:
            run("unshare", "-m", "sh", "-c", "umount -l /proc", stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("unshare -m does not work here")
        process = subprocess.Popen(["unshare", "-m", "sh", "-c", script], stderr=subprocess.PIPE)
        errors = process.communicate(timeout=PATIENCE)[1].decode()
        self.assertEqual(process.returncode, 1, errors)
        self.assertIn("/proc is not mounted", errors)
        self.assertEqual(errors.count("\n"), 1, errors)

    @unittest.skipUnless(ROOT, "needs root, to mount")
    def test_file_system_without_handles(self):
        """proc can't be marked: named with a filter asked for, inotify with auto."""
        self.assert_fails("the file handle of /proc/sys: ", "--filter", "user", "/proc/sys")
        program = self.program("/proc/sys/fs/inotify")
        self.assertIn(b"(filter: inotify)", program.errors)


def drop_root():
    """In a child: go on as root without any capability (the files stay readable)."""
    import ctypes
    prctl = ctypes.CDLL(None).prctl
    for number in range(64):
        prctl(24, number, 0, 0, 0)              # PR_CAPBSET_DROP: exec gives none of these back


# =============================================================================================
# The library
# =============================================================================================

class Library(Base):
    """class Watch in this process.  Its own events are not reported, so others make them."""

    where = DIRECTORIES[0]

    def descriptors(self):
        return sorted(os.listdir("/proc/self/fd"))

    def make(self, *names):
        run("mkdir", *names, cwd=self.tree)

    def test_iterator(self):
        with fanfp.Watch(self.tree) as watch:
            self.assertEqual(watch.filter, BEST)
            self.make("a", "b")
            event = next(iter(watch))
            self.assertEqual((event.path, event.events, event.is_dir, event.old_path),
                             (self.tree + "/a", ("CREATE",), True, None))
            self.assertTrue(event.mask & fanfp.CREATE)

    def test_read(self):
        with fanfp.Watch(self.tree, events="CREATE") as watch:
            self.assertEqual(watch.read(0), [])
            self.assertEqual(watch.read(0.01), [])
            self.make("a")
            self.assertEqual([event.path for event in watch.read(PATIENCE)], [self.tree + "/a"])
            self.assertEqual(watch.stats()["reported"], 1)

    def test_fileno(self):
        with fanfp.Watch(self.tree) as watch:
            self.assertEqual(select.select([watch], [], [], 0)[0], [])
            self.make("a")
            self.assertEqual(select.select([watch], [], [], PATIENCE)[0], [watch])
            self.assertEqual(watch.read(0)[0].path, self.tree + "/a")

    def test_async_iterator(self):
        async def first_two(watch):
            found = []
            async for event in watch:
                found.append(event.path)
                if len(found) == 2:
                    return found

        async def both():
            with fanfp.Watch(self.tree) as watch:
                task = asyncio.ensure_future(first_two(watch))
                await asyncio.sleep(0)
                self.make("a", "b")
                return await asyncio.wait_for(task, PATIENCE)
        loop = asyncio.new_event_loop()
        try:
            asyncio.set_event_loop(loop)
            self.assertEqual(loop.run_until_complete(both()), [self.tree + "/a", self.tree + "/b"])
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    def test_close_leaves_nothing(self):
        before = self.descriptors()
        for name in fanfp.FILTER_NAMES:
            if available(name, self.where):
                continue
            watch = fanfp.Watch(self.tree, self.out, filter=name)
            self.make("x" + name)
            watch.read(PATIENCE)
            watch.close()
            watch.close()
            with self.assertRaises(fanfp.Error):
                watch.read(0)
        for wrong in ((self.tree, self.tree + "/none"), ()):
            with self.assertRaises(fanfp.Error):
                fanfp.Watch(*wrong)
        self.assertEqual(self.descriptors(), before)

    def test_stop(self):
        """stop() from a thread ends the iteration."""
        import threading
        with fanfp.Watch(self.tree) as watch:
            timer = threading.Timer(0.05, watch.stop)
            timer.start()
            self.assertEqual(list(watch), [])
            timer.join()

    def test_errors_are_oserrors(self):
        with self.assertRaises(OSError) as caught:
            fanfp.Watch(self.tree + "/none")
        self.assertEqual(caught.exception.errno, 2)
        self.assertIn("none", str(caught.exception))

    def test_path_like_and_bytes(self):
        import pathlib
        with fanfp.Watch(pathlib.Path(self.tree), os.fsencode(self.out)) as watch:
            self.assertEqual(watch.roots, (self.tree, self.out))

    def test_overflow_is_reported(self):
        """inotify's queue is limited: an overflow is an event and a notice, never silence."""
        notices = []
        try:
            with open("/proc/sys/fs/inotify/max_queued_events") as file:
                limit = int(file.read())
        except OSError as error:
            self.skipTest(str(error))
        self.make("d0", "d1", "d2")
        with fanfp.Watch(self.tree, filter="inotify", notice=notices.append) as watch:
            run(sys.executable, "-c", MAKER, self.tree, str(limit // 2), "3")
            names = set()
            while "Q_OVERFLOW" not in names:
                events = watch.read(PATIENCE)
                self.assertTrue(events)
                for event in events:
                    names.update(event.events)
            self.assertIn("overflow", notices[0])
            self.make("after")
            paths = []
            while self.tree + "/after" not in paths:
                paths = [event.path for event in watch.read(PATIENCE)]


# =============================================================================================
# Decoding
# =============================================================================================

KEY = b"FILESYST" + struct.pack("=Ii", 8, 1) + b"handle-1"
OTHER = b"FILESYST" + struct.pack("=Ii", 12, 1) + b"another-one1"


def record(kind, key, name=None):
    """An information record."""
    body = key + (name + b"\0" if name is not None else b"")
    body += b"\0" * (-len(body) % 4)
    return struct.pack("=BBH", kind, 0, 4 + len(body)) + body


def event(mask, pid, *records):
    """A fanotify event."""
    body = b"".join(records)
    return struct.pack("=IBBHQii", 24 + len(body), 3, 0, 24, mask, -1, pid) + body


class Decoding(unittest.TestCase):
    """decode() on buffers, whole and damaged."""

    buffer = (event(fanfp.CREATE, 7, record(2, KEY, b"name"), record(1, OTHER))
              + event(fanfp.RENAME | fanfp.ISDIR, 8, record(10, KEY, b"old"),
                      record(12, OTHER, b"new"), record(1, KEY))
              + event(fanfp.Q_OVERFLOW, 0)
              + event(fanfp.ATTRIB, 9, record(1, KEY))
              + event(fanfp.OPEN | fanfp.ISDIR, 9, record(2, KEY, b"."))
              + event(fanfp.CLOSE_WRITE, 10, record(2, OTHER, b"n" * 255), record(1, KEY)))

    def decoded(self, buffer):
        """The events up to any damage, and the Error or None."""
        found = []
        try:
            for raw in fanfp.decode(buffer):
                found.append(fanfp.Raw(*raw)[:-1])
        except fanfp.Error as error:
            return found, error
        return found, None

    def test_whole(self):
        found, error = self.decoded(self.buffer)
        self.assertIsNone(error)
        self.assertEqual(found, [
            (fanfp.CREATE, 7, KEY, b"name", None, None, None),
            (fanfp.RENAME | fanfp.ISDIR, 8, OTHER, b"new", KEY, KEY, b"old"),
            (fanfp.Q_OVERFLOW, 0, None, None, None, None, None),
            (fanfp.ATTRIB, 9, None, None, KEY, None, None),
            (fanfp.OPEN | fanfp.ISDIR, 9, KEY, b".", None, None, None),
            (fanfp.CLOSE_WRITE, 10, OTHER, b"n" * 255, None, None, None)])

    def test_truncated(self):
        """Cut anywhere: the events before the cut and an Error, or a whole number of events."""
        whole, _ = self.decoded(self.buffer)
        ends = []
        for raw in fanfp.decode(self.buffer):
            ends.append(raw[-1])
        for cut in range(len(self.buffer)):
            found, error = self.decoded(self.buffer[:cut])
            self.assertEqual(found, whole[:sum(end <= cut for end in ends)])
            self.assertEqual(error is None, cut in [0] + ends)

    def test_corrupt(self):
        """Any byte changed: no hang, no crash, and what is read is within the event."""
        generator = random.Random(1)
        for at in range(len(self.buffer)):
            for value in (0, 1, 0xFF, generator.randrange(256)):
                damaged = self.buffer[:at] + bytes([value]) + self.buffer[at + 1:]
                found, _ = self.decoded(damaged)
                self.assertLessEqual(len(found), len(self.buffer) // 24)
                for raw in found:
                    for part in raw[2:]:
                        self.assertTrue(part is None or part == b"." or part in damaged)

    def test_wrong_version(self):
        wrong = struct.pack("=IBBHQii", 24, 4, 0, 24, fanfp.Q_OVERFLOW, -1, 0)
        found, error = self.decoded(event(fanfp.Q_OVERFLOW, 0) + wrong)
        self.assertEqual(len(found), 1)
        self.assertIn("at byte 24: not version 3", str(error))

    def test_unknown_records_are_skipped(self):
        found, error = self.decoded(event(fanfp.CREATE, 7, record(99, b"whatever"),
                                          record(2, KEY, b"name")))
        self.assertIsNone(error)
        self.assertEqual(found[0][2:4], (KEY, b"name"))

    def test_inotify(self):
        one = struct.pack("=iIII", 1, fanfp.CREATE, 0, 16) + b"name".ljust(16, b"\0")
        two = struct.pack("=iIII", -1, fanfp.Q_OVERFLOW, 0, 0)
        self.assertEqual(list(fanfp.decode_inotify(one + two)),
                         [(1, fanfp.CREATE, 0, b"name"), (-1, fanfp.Q_OVERFLOW, 0, b"")])
        for cut in range(len(one) + 1, len(one + two)):
            with self.assertRaises(fanfp.Error):
                list(fanfp.decode_inotify((one + two)[:cut]))

    def test_printable(self):
        self.assertEqual(fanfp.printable("plain é"), "plain é")
        self.assertEqual(fanfp.printable("a\nb\t\x1b\\\udcff\u202e"),
                         "a\\nb\\t\\x1b\\\\\\xff\\u202e")

    def test_mount_paths(self):
        self.assertEqual(fanfp.unescape_octal(b"/a\\040b\\134c"), b"/a b\\c")


# =============================================================================================

class Result(unittest.TextTestResult):
    """Counts what passed, for the closing line."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.passed = 0

    def addSuccess(self, test):
        super().addSuccess(test)
        self.passed += 1


def main():
    """Run the tests named on the command line, or all; print the closing line."""
    runner = unittest.TextTestRunner(resultclass=Result, verbosity=2, stream=sys.stdout)
    result = unittest.main(testRunner=runner, exit=False).result
    failed = len(result.failures) + len(result.errors) + len(result.unexpectedSuccesses)
    for test, reason in result.skipped:
        print("skipped: %s: %s" % (test, reason))
    print("%d passed, %d failed, %d skipped" % (result.passed, failed, len(result.skipped)))
    return 1 if failed or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
