#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""A random program of file operations, and whether fanfp reports just what it did.

    python3 lab/differential.py [--filter NAME]... [--dir DIR]... [--operations N] [--seed S]

Several processes make, write, rename, link and remove files and directories inside a watched tree
and outside of it, and mount and unmount file systems there.  A model says which events each
operation must give and under which path.  What fanfp prints is compared with that both ways: an
event without an operation is invented, an operation without its event is missed.  A round ends
with a sentinel.

What the model allows, and nothing else:
  - the kernel merges events that wait in the queue if they are of one entry (directory, name
    and file) and one process: then they are one line, with the path of the first, and no line
    if the first was outside (of a directory that was then moved in);
  - marks: a directory just moved in is not touched before the next sentinel (--window: it is);
  - marks: MODIFY of a directory that was moved in, which says that there may be more to it;
  - inotify: a directory just made or moved in is not touched before the next sentinel; and no
    name is moved from, or to, twice: the kernel merges the halves of two renames in a row;
  - inotify: CREATE of what was made in a directory just before it was moved in: within one tick of
    the file system's clock nothing tells before from after;
  - no directory is renamed onto one in which something has just happened: nothing tells where that
    one was;
  - inotify: an overflow of its queue, which is told, takes with it what it takes;
  - a file made with O_TMPFILE has no name: its writing may be reported under "#number";
  - a file system that was just mounted, or came into the tree in a directory that was moved, is not
    touched before it is seen to be watched, and not unmounted before the next sentinel after
    something happened in it; and what it was mounted on stays where it is until then;
  - so it is with a bind mount, and with what it shows: nothing is done in that, and it is not
    moved, until its events are seen to have the path that they are to have from then on.

On a failure the seed is printed, and a program made as short as can be that still fails.
"""

import argparse
import collections
import ctypes
import errno
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import fanfp                                    # noqa: E402
from test_fanfp import Program, available       # noqa: E402

NAMES = "abcdef"
DEPTH = 6
MOUNTS = 3                          # at a time
SILENCE = 120                       # seconds without an event for a hang
PATIENCE = 20                       # seconds for a mount to be noticed
NODES = 150                         # above that, more is removed than made
SESSION = 4000                      # operations of one run of fanfp
NOISY = "noise"                     # a directory in the tree that is none of the model's
ROUND = 60                          # operations between sentinels, at most
EVENT_SETS = (
    fanfp.DEFAULT_EVENTS,
    fanfp.DEFAULT_EVENTS,
    fanfp.DEFAULT_EVENTS + ("ATTRIB",),
    ("CREATE", "DELETE"),
    ("CLOSE_WRITE", "ATTRIB"),
    ("RENAME", "MOVED_TO"),
    ("MOVED_FROM", "MOVED_TO", "CREATE"),
)


# =============================================================================================
# The model
# =============================================================================================

class Invalid(Exception):
    """The operation makes no sense in the state the model is in."""


class Node:
    """An inode.  A directory knows where it is; a file may have several names."""

    counter = 0

    def __init__(self, kind, parent=None, name=None):
        Node.counter += 1
        self.id, self.kind, self.parent, self.name = Node.counter, kind, parent, name
        self.children = {}
        self.fresh = False              # a directory made or moved in since the last sentinel
        self.links = 1                  # names of a file
        self.made = 0                   # the round in which it was
        self.heard = 0                  # a directory: the last round with an event in or below it
        self.covers = None              # the root of a mount: the directory it is mounted on
        self.bared = 0                  # the last round in which a mount on it was unmounted
        self.watched = False            # the root of a mount: it has been in the tree
        self.source = None              # a bind mount: the directory that it shows
        self.shown_by = None            # a directory: the bind mount by which events name it

    def owner(self):
        """The last letter of the name, in "tree" or "out", that leads to it: see Generator."""
        at = self
        while at.parent.parent.parent is not None:
            at = at.parent
        return at.name[-1]

    def hidden(self):
        """Whether it is gone or covered, or one above it: its path does not lead to it."""
        at = self
        while at.parent is not None and at.parent.children.get(at.name) is at:
            at = at.parent
        return at.parent is not None

    def above(self):
        """(directory, name) of where it is, as events tell."""
        at = self.shown_by or self
        return at.parent, at.name

    def path(self):
        """The path from the top, without a slash at either end."""
        names = []
        at, name = self.above()
        while at is not None:
            names.append(name)
            at, name = at.above()
        return "/".join(reversed(names))

    def inside(self):
        """Whether it is in the tree."""
        seen, at, name = set(), *self.above()
        while at is not None and at not in seen:
            if at.parent is None:
                return name == "tree"
            seen.add(at)                # a bind mount may be moved into what it shows
            at, name = at.above()
        return False

    def below(self, other):
        """Whether it is another directory or below it."""
        at = self
        while at is not None:
            if at is other:
                return True
            at = at.parent
        return False


# What the kernel queues: `group` is what must be equal for two to be merged, `key` the path (or
# both, of a RENAME) at the time, `bit` the event's name, `shown` whether fanfp is to report it:
# True, False or "maybe".
Atom = collections.namedtuple("Atom", "group key bit shown is_dir pid")


class Model:
    """The file system as it should be, and what each operation must give."""

    def __init__(self, events, fresh_rule, holds=False):
        self.events = frozenset(events)
        self.rule = fresh_rule          # "none", "each": trace, "moved": marks, "made": inotify
        # Whether what happens outside may be merged with what does inside, before any is judged.
        self.merging = fresh_rule not in ("each", "made")
        self.top = Node("d")
        for name in ("tree", "out"):
            self.top.children[name] = Node("d", self.top, name)
        self.atoms, self.commands = [], []
        self.unnamed = set()            # directories in which O_TMPFILE was used
        self.fresh = []
        self.mounts = []
        self.bind = None                # the bind mount, of which there is one at a time
        self.unbound = None             # what the last one showed
        self.holds = holds              # whether it is held, so that its unmounting has to be lazy
        self.found = set()              # (directory, name, node): see may_find()
        self.coming = []                # mounts that came into the tree since the last sentinel
        self.unmounted = []             # paths of what was unmounted since then
        self.rounds = 1

    # --- looking ---

    def find(self, path):
        """(directory, name, node or None) of a path, a bind mount taken for what it shows but as
        the last.  Raises Invalid."""
        at, through = self.top, False
        *parts, name = path.split("/")
        for part in parts:
            at = at.children.get(part)
            if at is None or at.kind != "d" or through and at.covers:
                raise Invalid
            if at.fresh or any(each.fresh for each in way_up(at.source)):
                raise Invalid           # the rule of the filter: see the top of this file
            through = through or at.source is not None
            at = at.source or at
        node = at.children.get(name)
        if through and node is not None and node.covers:
            raise Invalid               # there it shows what it covers
        return at, name, node

    def mount_of(self, path):
        """The root of the mount to which a path in it leads; None: that of the top."""
        mount, at = None, self.top
        for part in path.split("/")[:-1]:
            at = at.children[part]
            if at.covers is not None:
                mount, at = at, at.source or at
        return mount

    def existing(self, path, kinds="dfl"):
        directory, name, node = self.find(path)
        if node is None or node.kind not in kinds or directory is self.top:
            raise Invalid
        if node.fresh:
            raise Invalid
        return directory, name, node

    def free(self, path):
        directory, name, node = self.find(path)
        if node is not None or directory is self.top:
            raise Invalid
        return directory, name

    def settle(self):
        """A sentinel was seen."""
        for node in self.fresh:
            node.fresh = False
        self.fresh = []
        self.atoms = []
        self.rounds += 1
        self.unnamed.clear()
        for mount in self.coming:
            mount.watched = mount.watched or mount.inside() and mount.source is None
        self.coming, self.unmounted = [], []
        # fanfp may have looked for one where it was no more, and gone on at the sentinel.
        self.may_find(self.top)
        self.found.clear()

    # --- what happens ---

    def put(self, pid, directory, name, node, *bits):
        """Events of an entry of a directory."""
        self.hear(directory)
        path = None
        if directory.inside():
            path = (directory.path() + "/" + name) if name != "." else directory.path()
        elif not self.merging:
            return
        is_dir = node.kind == "d"
        for bit in bits:
            shown = bit in self.events
            self.atoms.append(Atom(self.group(pid, directory, name, node),
                                   path, bit, shown, is_dir, pid))

    def group(self, pid, directory, name, node):
        """What must be equal for events to be merged; inotify knows no process and no file, trace
        no file, and a directory itself by its name."""
        if self.rule == "each" and name == ".":
            directory, name = directory.above()
        return (directory.id, name, node.kind == "d") + {"made": (), "each": (pid,)}.get(
            self.rule, (pid, node.id))

    def put_move(self, pid, old, old_name, new, new_name, node):
        """The events of a rename: before the model has moved the node."""
        was_in, is_in = old.inside(), new.inside()
        both = was_in and is_in
        is_dir = node.kind == "d"
        self.hear(old)
        self.hear(new)
        if self.rule == "made":
            self.may_merge(self.group(pid, old, old_name, node), "MOVED_FROM")
            self.may_merge(self.group(pid, new, new_name, node), "MOVED_TO")
        paths = (old.path() + "/" + old_name, new.path() + "/" + new_name)
        whole = (pid, old.id, old_name, new.id, new_name, node.id, is_dir)
        if both:
            self.atoms.append(Atom(whole, paths, "RENAME", "RENAME" in self.events, is_dir, pid))
        hidden = both and "RENAME" in self.events
        for inside, directory, name, path, bit in (
                (was_in, old, old_name, paths[0], "MOVED_FROM"),
                (is_in, new, new_name, paths[1], "MOVED_TO")):
            if inside or self.merging:
                # Where the kernel is asked for RENAME alone, it is told of from that.
                group = whole + (bit,) if self.rule in ("none", "moved", "each") else \
                    self.group(pid, directory, name, node)
                shown = bit in self.events and not hidden
                self.atoms.append(Atom(group, path if inside else None, bit, shown, is_dir, pid))

    def may_merge(self, group, bit):
        """Raises Invalid where the half of one rename would be merged into that of another."""
        if any(atom.group == group and atom.bit == bit for atom in self.atoms):
            raise Invalid

    def hear(self, directory):
        """Note that something happens in a directory."""
        while directory is not None:
            directory.heard = self.rounds
            directory = directory.parent

    def heard_of(self, directory):
        """Whether events of a directory's entries, or of below it, may still be in the queue."""
        return directory.heard == self.rounds

    def just_bared(self, node):
        """Whether something in a directory, which may be covered by now, was just unmounted."""
        return any(each.bared == self.rounds or each.covers and self.just_bared(each.covers)
                   for each in walk(node))

    def uncover(self, node):
        """A directory shows again; inotify could not open what was made in it meanwhile."""
        if self.rule == "made" and node.inside():
            self.freshen(node, True)

    def freshen(self, node, made):
        """A directory was made in the tree or moved into it: what the filter can't promise."""
        if self.rule == "made" or (self.rule == "moved" and not made):
            node.fresh = True
            self.fresh.append(node)
        if self.rule == "made" and not made and "CREATE" in self.events:
            self.found.update((directory, name, each) for directory in walk(node)
                              for name, each in directory.children.items()
                              if each.made >= self.rounds - 1)

    def may_find(self, node):
        """What was made in a directory just before it was moved in may be told of, by the path
        that it has then: it has another when one above it was moved before that."""
        if self.found:
            below = set(walk(node))
            for directory, name, each in self.found:
                if directory in below and directory.inside():
                    self.atoms.append(Atom(
                        self.group(None, directory, name, each), directory.path() + "/" + name,
                        "CREATE", "maybe", each.kind == "d", None))

    def come(self, node):
        """A directory, or a mount, is in the tree now: so are the mounts in it."""
        if node.kind == "d":
            self.may_find(node)
        for each in walk(node) if node.kind == "d" else ():
            if each.covers is None:
                continue
            if not each.inside():
                each.watched = each.watched and self.rule != "each"     # trace lets go of it
            elif not each.watched:
                each.fresh = True
                self.fresh.append(each)
                self.coming.append(each)

    def place(self, node, directory, name):
        directory.children[name] = node
        node.made = node.made or self.rounds
        if node.kind == "d":
            node.parent, node.name = directory, name

    def run(self, *command):
        self.commands.append(command)

    # --- operations: op_NAME(pid, ...) ---

    def apply(self, operation):
        """The commands of an operation, a list; its events are added to atoms."""
        self.commands, before = [], len(self.atoms)
        kind, pid, *arguments = operation
        try:
            getattr(self, "op_" + kind)(pid, *arguments)
        except Invalid:
            del self.atoms[before:]
            raise
        return self.commands

    def op_create(self, pid, path, size):
        directory, name = self.free(path)
        node = Node("f")
        self.place(node, directory, name)
        self.run("create", path, size)
        self.put(pid, directory, name, node, "CREATE", *(["MODIFY"] if size else []))
        self.put(pid, directory, name, node, "CLOSE_WRITE")

    def op_write(self, pid, path, how):
        directory, name, node = self.existing(path, "f")
        self.run("write", path, how)
        bits = {"append": ["MODIFY", "CLOSE_WRITE"], "open": ["CLOSE_WRITE"],
                "empty": ["MODIFY", "CLOSE_WRITE"], "truncate": ["MODIFY"]}[how]
        self.put(pid, directory, name, node, *bits)

    def op_read(self, pid, path):
        self.existing(path, "f")
        self.run("read", path)

    def op_chmod(self, pid, path, mode):
        directory, name, node = self.existing(path, "df")
        node = node.source or node
        if node.fresh:
            raise Invalid
        if node.kind == "d":
            mode |= 0o700
            self.put(pid, node, ".", node, "ATTRIB")
        else:
            self.put(pid, directory, name, node, "ATTRIB")
        self.run("chmod", path, mode)

    def op_mkdir(self, pid, path):
        directory, name = self.free(path)
        node = Node("d", directory, name)
        self.place(node, directory, name)
        self.run("mkdir", path)
        self.put(pid, directory, name, node, "CREATE")
        if directory.inside():
            self.freshen(node, True)

    def op_mkdirs(self, pid, path, more):
        """mkdir -p, and a file in it at once."""
        self.op_mkdir(pid, path)
        if self.rule == "made":
            return
        for name in more:
            path += "/" + name
            self.op_mkdir(pid, path)
        self.op_create(pid, path + "/f", 1)

    def op_unlink(self, pid, path):
        directory, name, node = self.existing(path, "fl")
        self.put(pid, directory, name, node, "DELETE")
        del directory.children[name]
        node.links -= 1
        self.run("unlink", path)

    def op_rmdir(self, pid, path):
        directory, name, node = self.existing(path, "d")
        if node.children or node.covers or self.just_bared(node) or self.is_bound(node):
            raise Invalid
        self.put(pid, directory, name, node, "DELETE")
        del directory.children[name]
        self.run("rmdir", path)

    def op_rmtree(self, pid, path):
        """rm -rf"""
        _, _, node = self.existing(path, "d")
        if self.just_bared(node) or self.is_bound(node) \
                or any(each.fresh or each.covers for each in walk(node)):
            raise Invalid
        for name, child in sorted(node.children.items()):
            if child.kind == "d":
                self.op_rmtree(pid, path + "/" + name)
            else:
                self.op_unlink(pid, path + "/" + name)
        self.op_rmdir(pid, path)

    def op_symlink(self, pid, target, path):
        directory, name = self.free(path)
        node = Node("l")
        self.place(node, directory, name)
        self.run("symlink", target, path)
        self.put(pid, directory, name, node, "CREATE")

    def op_link(self, pid, path, new):
        _, _, node = self.existing(path, "f")
        directory, name = self.free(new)
        if self.mount_of(path) is not self.mount_of(new):
            raise Invalid
        self.place(node, directory, name)
        node.links += 1
        self.run("link", path, new)
        self.put(pid, directory, name, node, "CREATE")

    def op_tmpfile(self, pid, path):
        """An O_TMPFILE, written and then given a name."""
        directory, name = self.free(path)
        node = Node("f")
        self.place(node, directory, name)
        self.run("tmpfile", path.rpartition("/")[0], path)
        if directory.inside():
            self.unnamed.add(directory.path())
        self.put(pid, directory, name, node, "CREATE")

    def op_rename(self, pid, path, new):
        old, old_name, node = self.existing(path)
        directory, name, there = self.find(new)
        if directory is self.top or there is node or node.kind == "d" and directory.below(node):
            raise Invalid
        if node.covers or self.mount_of(path) is not self.mount_of(new):
            raise Invalid
        self.may_move(node, directory)
        if there is not None and (there.fresh or there.children or there.covers
                                  or self.is_bound(there) or self.heard_of(there)
                                  or (there.kind == "d") != (node.kind == "d")):
            raise Invalid
        was_in = old.inside()
        self.put_move(pid, old, old_name, directory, name, node)
        del old.children[old_name]
        if there is not None:
            there.links -= 1
            if there.kind == "d" and self.merging and directory.inside():
                # Its count of links is 0 now.  Where it was is not always known any more.
                self.atoms.append(Atom(
                    self.group(pid, there, ".", there), directory.path() + "/" + name, "ATTRIB",
                    "maybe" if "ATTRIB" in self.events else False, True, pid))
        self.place(node, directory, name)
        if node.kind == "d" and not was_in and directory.inside():
            self.freshen(node, False)
        self.come(node)
        self.look_at_bind()
        self.run("rename", path, new)

    def op_exchange(self, pid, path, new):
        old, old_name, node = self.existing(path)
        directory, name, there = self.existing(new)
        if node is there or node.kind == "d" and directory.below(node) \
                or there.kind == "d" and old.below(there):
            raise Invalid
        if node.covers or there.covers or self.mount_of(path) is not self.mount_of(new):
            raise Invalid
        self.may_move(node, directory)
        self.may_move(there, old)
        was_in, is_in = old.inside(), directory.inside()
        self.put_move(pid, old, old_name, directory, name, node)
        self.put_move(pid, directory, name, old, old_name, there)
        self.place(node, directory, name)
        self.place(there, old, old_name)
        if node.kind == "d" and is_in and not was_in:
            self.freshen(node, False)
        if there.kind == "d" and was_in and not is_in:
            self.freshen(there, False)
        self.come(node)
        self.come(there)
        self.look_at_bind()
        self.run("exchange", path, new)

    def op_mount(self, pid, path):
        directory, name, node = self.existing(path, "d")
        if len(self.mounts) >= MOUNTS or any(each.covers for each in walk(node)):
            raise Invalid
        if self.bind and (directory.below(self.bind.source) or self.bind.source.below(node)):
            raise Invalid               # it would be in one of the two places, or hide one
        mount = Node("d", directory, name)
        mount.covers = node
        directory.children[name] = mount
        self.mounts.append(mount)
        self.come(mount)
        self.run("mount", path)

    def op_bind(self, pid, path, new):
        """A bind mount of a directory on another."""
        _, _, source = self.existing(path, "d")
        directory, name, node = self.existing(new, "d")
        if self.bind or source.covers or any(each.covers for top in (source, node)
                                             for each in walk(top)) or source.below(node):
            raise Invalid
        mount = Node("d", directory, name)
        mount.covers, mount.source = node, source
        directory.children[name] = self.bind = mount
        self.mounts.append(mount)
        self.look_at_bind()
        self.run("bind", path, new)

    def is_bound(self, node):
        """Whether a directory, or one below it, is what the bind mount shows, or where it is."""
        return self.bind is not None and (self.bind.source.below(node)
                                          or self.bind.below(node))

    def may_move(self, node, directory):
        """Raises Invalid where something in it was just unmounted, and nothing tells where it was
        then; for what the bind mount shows before it is seen to be watched; and for a mount that
        would come into it."""
        bind = self.bind
        if self.just_bared(node):
            raise Invalid
        if self.unbound is not None and self.unbound.fresh and self.unbound.below(node):
            raise Invalid
        if bind is None or node.kind != "d":
            return
        if bind.source.fresh and self.is_bound(node):
            raise Invalid
        if directory.below(bind.source) and any(each.covers for each in walk(node)):
            raise Invalid

    def look_at_bind(self):
        """What a bind mount shows is told of under its own name, if that is in the tree, else
        under that of the bind mount, if it is."""
        bind = self.bind
        if bind is None:
            return
        source, before = bind.source, bind.source.shown_by
        source.shown_by = None
        source.shown_by = bind if bind.inside() and not source.inside() else None
        if source.shown_by is not before:
            source.fresh = bind.fresh = True
            self.fresh += [source, bind]
            if source.inside():
                self.coming.append(bind)

    def unbind(self, path):
        """The bind mount is unmounted."""
        if self.bind.fresh or self.bind.source.fresh or self.heard_of(self.bind.source):
            raise Invalid
        if self.bind.source.shown_by is not None:
            self.unmounted.append(path)
            self.unbound = self.bind.source
            self.unbound.fresh = True           # until that is told
            self.fresh.append(self.unbound)
        self.bind.source.shown_by = self.bind = None

    def op_umount(self, pid, path):
        directory, name, node = self.existing(path, "d")
        if not node.covers or self.heard_of(node) \
                or any(each.fresh or each.covers for each in walk(node) if each is not node) \
                or self.bind and self.bind.source.below(node):
            raise Invalid
        if node is self.bind:
            if self.rule == "made" and node.source.shown_by is None and directory.inside():
                self.coming.append(node.covers)     # no event tells that it shows again
            self.unbind(path)
        elif directory.inside():
            self.unmounted.append(path)
        directory.children[name] = node.covers
        self.uncover(node.covers)
        node.covers.bared = self.rounds
        self.mounts.remove(node)
        self.run("detach" if node.source and self.holds else "umount", path)


def way_up(node):
    """A directory, or none, and all above it."""
    while node is not None:
        yield node
        node = node.parent


def walk(node):
    """A directory and all below it, not by way of a bind mount."""
    yield node
    for child in node.children.values():
        yield from walk(child)


# =============================================================================================
# The program
# =============================================================================================

class Generator:
    """Makes operations at random that are valid in the state of a model."""

    WEIGHTS = (("create", 18), ("write", 16), ("read", 2), ("chmod", 5), ("mkdir", 10),
               ("mkdirs", 5), ("unlink", 8), ("rmdir", 3), ("rmtree", 2), ("symlink", 3),
               ("link", 5), ("tmpfile", 2), ("rename", 20), ("exchange", 5))

    MOUNTING = (("mount", 2), ("umount", 3), ("bind", 2))

    def __init__(self, seed, processes, mounting=False):
        self.random = random.Random(seed)
        self.processes = processes
        weights = self.WEIGHTS + (self.MOUNTING if mounting else ())
        self.kinds = [kind for kind, weight in weights for _ in range(weight)]

    @staticmethod
    def listing(model, owner):
        """What may be used: [(path, node)], and the directories in which something may be made.

        A process that runs free (owner is its number) has what has its number in its name, and all
        below that.  Most of the time of a program goes here: a path is made of the one above it.
        """
        entries, directories = [], []
        stack = [(name, node, False, False) for name, node in model.top.children.items()]
        while stack:
            path, node, owned, through = stack.pop()    # through: the bind mount
            directories.append((node, path))
            for name, child in node.children.items():
                if owned or owner is None or name.endswith(str(owner)):
                    below = path + "/" + name
                    if through and child.covers:
                        continue                # what is mounted does not show there
                    entries.append((below, child))
                    if child.source is not None:
                        stack.append((below, child.source, True, True))
                    elif child.kind == "d" and not child.fresh:
                        stack.append((below, child, True, through))
        return entries, directories

    def name(self, directory, owner):
        name = self.random.choice(NAMES)
        at_top = directory.parent is not None and directory.parent.parent is None
        number = self.random.randrange(self.processes) if owner is None else owner
        return name + str(number) if at_top else name

    def operation(self, model, pid, owner):
        """An operation for a process, or None if what was tried is not possible."""
        entries, directories = self.listing(model, owner)
        choose = self.random.choice
        kind = choose(self.kinds)
        if len(entries) > NODES and self.random.random() < 0.5:
            kind = choose(("unlink", "rmtree", "rmdir"))

        def new():
            directory, path = choose(directories)
            if path.count("/") > DEPTH:
                directory, path = directories[0]
            return path + "/" + self.name(directory, owner)

        if kind == "create":
            return kind, pid, new(), choose((0, 1, 5000))
        if kind in ("mkdir", "tmpfile"):
            return kind, pid, new()
        if kind == "mkdirs":
            return kind, pid, new(), choose(("a", "ab", "abc"))
        if kind == "symlink":
            return kind, pid, choose((".", "..", "../../out", "nowhere")), new()
        if not entries:
            return None
        path = choose(entries)[0]
        if kind == "umount":
            path = choose([each for each, node in entries if node.covers] or [path])
        if kind == "mount":
            path = choose([each for each, node in entries if node.kind == "d"] or [path])
        if kind == "write":
            return kind, pid, path, choose(("append", "append", "open", "empty", "truncate"))
        if kind == "chmod":
            return kind, pid, path, choose((0o600, 0o644, 0o755))
        if kind == "link":
            return kind, pid, path, new()
        if kind == "rename":
            if self.random.random() < 0.4:
                path = choose([each for each, node in entries if node.kind == "d"] or [path])
            return kind, pid, path, choose(entries)[0] if self.random.random() < 0.2 else new()
        if kind == "exchange":
            return kind, pid, path, choose(entries)[0]
        if kind == "bind":
            some = [each for each, node in entries if node.kind == "d"]
            return (kind, pid, choose(some), choose(some)) if some else None
        return kind, pid, path

    def round(self, model, count):
        """(mode, operations) of a round, applied to the model, with their commands.

        In turns: one process at a time, and any of them anywhere.  Free: all at once, each with
        its own names.
        """
        mode = self.random.choice(("turns", "free", "one"))
        if mode == "free" and model.bind and model.bind.owner() != model.bind.source.owner():
            mode = "turns"
        owners = list(range(self.processes))
        only = self.random.choice(owners)
        operations, commands, tries = [], [], 0
        while len(operations) < count and tries < 20 * count:
            tries += 1
            pid = only if mode == "one" else self.random.choice(owners)
            operation = self.operation(model, pid, pid if mode == "free" else None)
            if operation is None:
                continue
            try:
                done = model.apply(operation)
            except Invalid:
                continue
            operations.append(operation)
            commands.append((pid, done))
        return mode, operations, commands


# --- the processes that do it ---

AT_SYMLINK_FOLLOW, RENAME_EXCHANGE, MNT_DETACH, MS_BIND = 0x400, 2, 2, 4096
TMPFILE = getattr(os, "O_TMPFILE", 0o20200000)
libc = ctypes.CDLL(None, use_errno=True)


def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def do(kind, *arguments):
    """Run one command."""
    if kind == "create":
        fd = os.open(arguments[0], os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        if arguments[1]:
            os.write(fd, b"x" * arguments[1])
        os.close(fd)
    elif kind == "write":
        do_write(*arguments)
    elif kind == "read":
        fd = os.open(arguments[0], os.O_RDONLY)
        os.read(fd, 100)
        os.close(fd)
    elif kind == "tmpfile":
        fd = os.open(arguments[0], TMPFILE | os.O_WRONLY, 0o644)
        try:
            os.write(fd, b"x")
            check(libc.linkat(-100, b"/proc/self/fd/%d" % fd, -100, os.fsencode(arguments[1]),
                              AT_SYMLINK_FOLLOW))
        finally:
            os.close(fd)
    elif kind == "mount":
        check(libc.mount(b"tmpfs", os.fsencode(arguments[0]), b"tmpfs", 0, b"size=2m"))
    elif kind == "umount":
        do_umount(arguments[0])
    elif kind == "bind":
        check(libc.mount(os.fsencode(arguments[0]), os.fsencode(arguments[1]), None, MS_BIND, None))
    elif kind == "detach":
        check(libc.umount2(os.fsencode(arguments[0]), MNT_DETACH))
    elif kind == "exchange":
        check(libc.renameat2(-100, os.fsencode(arguments[0]), -100, os.fsencode(arguments[1]),
                             RENAME_EXCHANGE))
    else:
        getattr(os, kind)(*arguments)


def do_write(path, how):
    if how == "truncate":
        return os.truncate(path, 3)
    flags = {"append": os.O_APPEND, "open": 0, "empty": os.O_TRUNC}[how]
    fd = os.open(path, os.O_WRONLY | flags)
    if how == "append":
        os.write(fd, b"more")
    os.close(fd)
    return None


def do_umount(path):
    """fanfp opens a mount for a moment, when it needs to."""
    for _ in range(1000):
        if libc.umount2(os.fsencode(path), 0) == 0:
            return
        if ctypes.get_errno() != errno.EBUSY:
            break
        time.sleep(0.001)
    check(-1)


def work(requests, answers):
    """A process: run lists of commands until there are no more."""
    for line in requests:
        for command in json.loads(line):
            try:
                do(*command)
            except OSError as error:
                answers.write("%r: %s\n" % (command, error))
                break
        else:
            answers.write("ok\n")
        answers.flush()


class Worker:
    """A process of the program, in the directory above the tree."""

    def __init__(self, top):
        request, self.requests = os.pipe()
        self.answers, answer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self.requests)
                os.close(self.answers)
                os.chdir(top)
                work(os.fdopen(request), os.fdopen(answer, "w"))
            finally:
                os._exit(0)
        os.close(request)
        os.close(answer)
        self.requests = os.fdopen(self.requests, "w")
        self.answers = os.fdopen(self.answers)

    def send(self, commands):
        self.requests.write(json.dumps(commands) + "\n")
        self.requests.flush()

    def wait(self):
        answer = self.answers.readline()
        if answer != "ok\n":
            raise AssertionError("the model is wrong about %s" % (answer or "a worker's end"))

    def close(self):
        self.requests.close()
        self.answers.close()
        os.waitpid(self.pid, 0)


# =============================================================================================
# Comparing
# =============================================================================================

class Mismatch(Exception):
    """What was reported is not what was done: args are the lists missed and invented."""


Line = collections.namedtuple("Line", "key bits is_dir pid")


def compare(atoms, lines):
    """Raise Mismatch unless the lines are what the atoms give.

    Atoms are divided in clusters that share no path; in each, an order of merging is looked for
    that gives just these lines.
    """
    parent = {}

    def find(each):
        while parent.setdefault(each, each) != each:
            parent[each] = each = parent[parent[each]]
        return each

    for atom in atoms:
        if atom.key is not None:
            parent[find(("group", atom.group))] = find(("key", atom.key))
    clusters = collections.defaultdict(lambda: ([], []))
    for atom in atoms:
        if ("group", atom.group) in parent:     # else of the outside alone
            clusters[find(("group", atom.group))][0].append(atom)
    for line in lines:
        clusters[find(("key", line.key))][1].append(line)
    missed, invented = [], []
    for some_atoms, some_lines in clusters.values():
        if not explained(some_atoms, some_lines):
            blame(some_atoms, some_lines, missed, invented)
    if missed or invented:
        raise Mismatch(missed, invented)


OUTSIDE = -1                        # in place of a line: a run that began outside


def explained(atoms, lines):
    """Whether the kernel could make these lines of these atoms, both in order."""
    dead = set()

    def matches(line, atom):
        return line.key == atom.key and line.is_dir == atom.is_dir \
            and line.pid in (None, atom.pid)

    def complete(run):
        return run is None or run[0] in (None, OUTSIDE) or lines[run[0]].bits == run[1]

    stack = [(0, 0, ())]            # atoms done, lines begun, open runs: (group, (line, bits))
    while stack:
        state = stack.pop()
        if state in dead:
            continue
        dead.add(state)
        at, begun, runs = state
        if at == len(atoms):
            if begun == len(lines) and all(complete(run) for _, run in runs):
                return True
            continue
        atom, open_runs = atoms[at], dict(runs)
        run = open_runs.get(atom.group)
        options = []
        bits = frozenset((atom.bit,)) if atom.shown else frozenset()
        if atom.key is None:
            options.append((begun, run or (OUTSIDE, bits)))
            if complete(run):
                options.append((begun, (OUTSIDE, bits)))
        elif complete(run):
            if begun < len(lines) and matches(lines[begun], atom) and bits <= lines[begun].bits:
                options.append((begun + 1, (begun, bits)))
            if not bits:
                options.append((begun, (None, bits)))
        if run is not None and run[0] == OUTSIDE:
            options.append((begun, run))
        if atom.shown == "maybe":
            options.append((begun, run))
        if run is not None and run[0] == OUTSIDE:
            pass
        elif run is not None and (not bits if run[0] is None else bits <= lines[run[0]].bits):
            options.append((begun, (run[0], run[1] | bits)))
        for begun_then, run_then in options:
            then = dict(open_runs)
            if run_then is not None:
                then[atom.group] = run_then
            stack.append((at + 1, begun_then, tuple(sorted(
                then.items(), key=lambda item: repr(item[0])))))
        if len(dead) > 200000:
            return True             # too much merging to tell; does not happen
    return False


def blame(atoms, lines, missed, invented):
    """Add what is missing and what is too much in a cluster that can't be explained."""
    wanted = {(atom.key, atom.bit) for atom in atoms
              if atom.shown is True and atom.key}
    found = {(line.key, bit) for line in lines for bit in line.bits}
    could = {(atom.key, atom.bit) for atom in atoms if atom.shown and atom.key}
    missed += sorted(wanted - found, key=repr)
    invented += sorted(found - could, key=repr)
    if wanted == found:
        invented.append(("not in this way", [(each.key, each.bit) for each in atoms], lines))


# =============================================================================================
# Running
# =============================================================================================

class Fanfp(Program):
    """A fanfp that runs for long: what it says on standard error is read too, or it would wait.
    """

    def _read(self, stream):
        streams = [stream, self.process.stderr]
        while True:
            ready = select.select(streams, [], [], SILENCE)[0]
            if stream in ready:
                return os.read(stream.fileno(), 1 << 16)
            if not ready:
                self.process.kill()
                raise AssertionError("fanfp says nothing for %d s" % SILENCE)
            data = os.read(self.process.stderr.fileno(), 1 << 16)
            self.errors += data
            if not data:
                streams.remove(self.process.stderr)


class Run:
    """One run of fanfp with a program."""

    def __init__(self, options, filter_name, directory, events, processes):
        self.top = os.path.realpath(tempfile.mkdtemp(prefix="differential-", dir=directory))
        self.events, self.filter, self.options = events, filter_name, options
        rule = {"inotify": "made", "trace": "each", "marks": "none" if options.window else "moved"}
        self.model = Model(events, rule.get(filter_name, "none"), filter_name == "fastpath")
        for name in ("tree", "out"):
            os.mkdir(os.path.join(self.top, name))
        self.bound = None               # where the processes see the same through a bind mount
        if options.bind:
            self.bound = tempfile.mkdtemp(prefix="bound-")
            # A mount made in the one shows in the other.
            for command in (["--bind", self.top, self.top], ["--make-shared", self.top],
                            ["--bind", self.top, self.bound]):
                subprocess.check_call(["mount"] + command)
        self.workers = [Worker(self.bound or self.top) for _ in range(processes)]
        self.program = None
        self.pids = {worker.pid: index for index, worker in enumerate(self.workers)}
        self.sentinels = self.count = 0
        self.overflows = 0              # of inotify's queue, told: the round is not compared

    def start(self):
        """Start fanfp; what was made until now is of no interest."""
        self.model.settle()
        self.program = Fanfp("--filter", self.filter, "-e", ",".join(self.events),
                             *self.options.fanfp, os.path.join(self.top, "tree"))

    def round(self, mode, commands):
        """Run the commands of a round: [(process, commands)]."""
        if mode == "free":
            lists = [[] for _ in self.workers]
            for pid, some in commands:
                lists[pid] += some
            for worker, some in zip(self.workers, lists):
                worker.send(some)
            for worker in self.workers:
                worker.wait()
            return
        for pid, some in commands:
            self.workers[pid].send(some)
            self.workers[pid].wait()

    def touch(self, directory):
        """Make a sentinel in a directory of which, whatever was asked for, something is reported;
        the path it has then."""
        self.sentinels += 1
        path = os.path.join(self.top, directory, "sentinel-%d" % self.sentinels)
        with open(path, "w"):
            pass
        if not {"CREATE", "CLOSE_WRITE"} & set(self.events):
            os.rename(path, path + "+")
            path += "+"
        return path

    def events_until(self, path):
        """The events before a sentinel.  An overflow may have taken it: then one more is made."""
        while True:
            line = self.program.line()
            if not line:
                raise AssertionError("fanfp ended: %r" % self.program.errors)
            event = json.loads(line.decode("ascii"))
            if event["path"] == path:
                return
            if event["events"] == ["Q_OVERFLOW"] and self.filter == "inotify":
                self.overflows += 1
                path = self.touch("tree")
            yield event

    def until_sentinel(self):
        """The lines before a sentinel, and the paths of what was unmounted before it."""
        path = self.touch("tree")
        lines, unmounted = [], []
        for event in self.events_until(path):
            if event["events"] == ["UNMOUNT"]:
                unmounted.append(event["path"][len(self.top) + 1:])
                continue
            line = self.line(event)
            if line is not None:
                lines.append(line)
        os.unlink(path)
        return lines, unmounted

    def judge(self):
        """Read up to a sentinel and compare."""
        overflows = self.overflows
        lines, unmounted = self.until_sentinel()
        model = self.model
        atoms, gone = model.atoms, model.unmounted
        for mount in [each.source or each for each in model.coming if each.inside()
                      and not each.hidden()]:
            unmounted += self.until_watched(mount.path())
        begun = time.monotonic()        # what tells of an unmounting may come later
        while len(unmounted) < len(gone) and time.monotonic() - begun < PATIENCE \
                and overflows == self.overflows:
            more, others = self.until_sentinel()
            lines, unmounted = lines + more, unmounted + others
        self.count += len(lines)
        model.settle()
        if overflows != self.overflows:
            return
        compare(atoms, lines)
        told, done = map(collections.Counter, (unmounted, gone))
        if told != done:
            raise Mismatch(*([(path, "UNMOUNT") for path in each.elements()]
                             for each in (done - told, told - done)))

    def until_watched(self, mount):
        """Make files in a mount until one is reported; what was unmounted before that."""
        unmounted, begun = [], time.monotonic()
        while time.monotonic() - begun < PATIENCE:
            path, found = self.touch(mount), False
            end = self.touch("tree")
            for event in self.events_until(end):
                if event["events"] == ["UNMOUNT"]:
                    unmounted.append(event["path"][len(self.top) + 1:])
                found = found or event["path"] == path
            os.unlink(path)
            os.unlink(end)
            if found:
                return unmounted
        raise Mismatch([(mount, "what is mounted there is not watched")], [])

    def line(self, event):
        """A Line of an event, None if it is of a sentinel or a nameless file."""
        path, old = event["path"], event.get("old_path")
        if path is None:
            return Line(None, frozenset(event["events"]), event["is_dir"], event["pid"])
        path, pid = path[len(self.top) + 1:], event["pid"]
        directory, _, name = path.rpartition("/")
        if path.startswith("tree/" + NOISY):
            return None
        if name.startswith("sentinel-"):
            return None
        if name.startswith("#") and directory in self.model.unnamed:
            return None
        if self.model.rule == "moved" and event["is_dir"] and event["events"] == ["MODIFY"]:
            return None
        if pid is not None:
            pid = self.pids.get(pid, -1)
        key = path if old is None else (old[len(self.top) + 1:], path)
        return Line(key, frozenset(event["events"]), event["is_dir"], pid)

    def close(self):
        for worker in reversed(self.workers):   # each has the pipes of those before it
            worker.close()
        if self.program is not None:
            process = self.program.process
            process.send_signal(signal.SIGTERM)
            self.program.errors += process.communicate()[1]
            self.errors = self.program.errors.decode("utf-8", "replace")
            if self.options.errors:
                sys.stdout.write(self.errors)
        for mount in reversed(fanfp.read_mounts()):
            if fanfp.below(mount.path, os.fsencode(self.top)) is not None:
                libc.umount2(mount.path, MNT_DETACH)
        if self.bound is not None:
            subprocess.call(["umount", "-l", self.bound])
            os.rmdir(self.bound)
        shutil.rmtree(self.top, ignore_errors=True)
        if os.path.lexists(self.top):
            subprocess.call(["rm", "-rf", self.top])


def session(options, filter_name, directory, seed, operations):
    """A run of a number of operations: (operations done, events); raises Failed."""
    generator = Generator(seed, options.processes, mounting(options, filter_name))
    events = generator.random.choice(EVENT_SETS)
    run = Run(options, filter_name, directory, events, options.processes)
    rounds, done = [], 0
    started = False
    try:
        while done < operations:
            count = min(operations - done, generator.random.randrange(1, options.round + 1))
            mode, some, commands = generator.round(run.model, count)
            rounds.append((mode, some, started))
            run.round(mode, commands)
            if started:
                done += len(some)
                run.judge()
            else:                       # the first round is there before fanfp is
                run.start()
                started = True
    except (Mismatch, AssertionError) as reason:
        raise Failed(reason, rounds, events)
    finally:
        run.close()
    return done, run.count


def mounting(options, filter_name):
    """Whether to mount: a tmpfs, which of old has no identifier for fanotify to tell of it by."""
    told = filter_name not in ("fastpath", "marks", "user") or any(fanfp.filesystem_id(b"/dev/shm"))
    return os.geteuid() == 0 and not options.no_mounts and told


class Failed(Exception):
    """args: the reason, the rounds, the events asked for."""


def replay(options, filter_name, directory, events, rounds):
    """Run rounds again, leaving out what is not valid any more; the reason it fails, or None."""
    run = Run(options, filter_name, directory, events, options.processes)
    try:
        done = [False]
        for mode, operations, started in rounds:
            if started and not done[0]:
                run.start()
                done[0] = True
            commands = []
            for operation in operations:
                try:
                    commands.append((operation[1], run.model.apply(operation)))
                except Invalid:
                    pass
            run.round(mode, commands)
            if started:
                run.judge()
    except (Mismatch, AssertionError) as reason:
        return reason
    finally:
        run.close()
    return None


def shorten(options, filter_name, directory, events, rounds, seconds):
    """Leave out as much as can be (ddmin) so that it still fails, within some seconds."""
    limit = time.monotonic() + seconds

    def fails(some):
        program = [(mode, [operation for at, operation in some if at == index], started)
                   for index, (mode, _, started) in enumerate(rounds)
                   if not started or index in {at for at, _ in some}]
        return any(replay(options, filter_name, directory, events, program)
                   for _ in range(options.tries))

    kept = [(index, operation) for index, (_, operations, _) in enumerate(rounds)
            for operation in operations]
    if not fails(kept):
        return None
    size = max(1, len(kept) // 2)
    while time.monotonic() < limit:
        at, shorter = 0, False
        while at < len(kept) and time.monotonic() < limit:
            fewer = kept[:at] + kept[at + size:]
            if fails(fewer):
                kept, shorter = fewer, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return kept


def show_failure(options, filter_name, directory, seed, failed):
    """Print what was wrong, and the program that shows it."""
    reason, rounds, events = failed.args
    print("differential: FAILED: --filter %s --dir %s --seed %d, -e %s" % (
        filter_name, directory, seed, ",".join(events)))
    print_reason(reason)
    kept = shorten(options, filter_name, directory, events, rounds, options.shorten)
    if kept is None:
        print("  it did not fail again; the last round was %s" % rounds[-1][0])
        for operation in rounds[-1][1]:
            print("    %s" % " ".join(map(str, operation)))
        return
    print("  the same with %d operations (round, mode, operation, process, ...):" % len(kept))
    for index, operation in kept:
        mode, _, started = rounds[index]
        print("    %s %s %s" % (index if started else "before", mode, " ".join(
            map(str, operation))))
    for _ in range(10):
        again = replay(options, filter_name, directory, events, [
            (mode, [operation for at, operation in kept if at == index], started)
            for index, (mode, _, started) in enumerate(rounds)
            if not started or index in {at for at, _ in kept}])
        if again is not None:
            print_reason(again)
            break


def print_reason(reason):
    if not isinstance(reason, Mismatch):
        print("  %s" % reason)
        return
    for title, items in zip(("missed", "invented"), reason.args):
        for item in items[:20]:
            print("  %s: %s" % (title, item))


def filesystem_type(directory):
    """The kind of file system of a directory."""
    best, device = "unknown", os.stat(directory).st_dev
    for mount in fanfp.read_mounts():
        if mount.device == "%d:%d" % (os.major(device), os.minor(device)):
            best = mount.kind
            break
    else:
        path = os.fsencode(os.path.realpath(directory))
        for mount in sorted(fanfp.read_mounts(), key=lambda each: len(each.path)):
            if fanfp.below(path, mount.path) is not None:
                best = mount.kind           # btrfs gives each subvolume a number of its own
    return best


def differential(options, filter_name, directory):
    """The whole of it for one filter in one directory; whether nothing was missed or invented."""
    done = events = missed = invented = 0
    seed = options.seed
    while done < options.operations:
        try:
            some, lines = session(options, filter_name, directory, seed,
                                  min(SESSION, options.operations - done))
        except Failed as failed:
            show_failure(options, filter_name, directory, seed, failed)
            reason = failed.args[0]
            if isinstance(reason, Mismatch):
                missed, invented = map(len, reason.args)
            else:
                missed = 1
            break
        done, events, seed = done + some, events + lines, seed + 1
    print("differential: %s on %s: %d operations, %d events, %d missed, %d invented (seed %d)" % (
        filter_name, filesystem_type(directory), done, events, missed, invented, options.seed),
        flush=True)
    return not missed and not invented


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--filter", action="append", choices=fanfp.FILTER_NAMES[1:],
        help="default: all that work in the directory")
    add("--dir", action="append", help="default: the temporary directory")
    add("--operations", type=int, default=10000, help="for each filter and directory")
    add("--seed", type=int, default=int(time.time()))
    add("--processes", type=int, default=3)
    add("--round", type=int, default=ROUND, help="operations between sentinels, at most")
    add("--bind", action="store_true", help="let the processes go through a bind mount")
    add("--no-mounts", action="store_true", help="mount nothing")
    add("--window", action="store_true", help="marks: touch just moved-in directories too")
    add("--shorten", type=float, default=120, help="seconds to spend on shortening")
    add("--errors", action="store_true", help="show what fanfp says")
    add("--tries", type=int, default=2, help="runs of each shortened program")
    add("--fanfp", action="append", default=[], help="an argument for fanfp")
    return parser


def main(arguments=None):
    options = build_parser().parse_args(arguments)
    fine = True
    for directory in options.dir or [tempfile.gettempdir()]:
        for name in options.filter or fanfp.FILTER_NAMES[1:]:
            reason = available(name, directory)
            if reason is not None:
                print("differential: %s in %s: %s" % (name, directory, reason))
                fine = fine and not options.filter
                continue
            fine &= differential(options, name, directory)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
