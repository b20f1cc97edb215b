#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What fanfp and libbpf make of the same BPF objects, on this kernel.

    python3 lab/libbpf.py [-v] OBJECT...

Each object is loaded by both, and where not both load it whole, each of its programs alone.  Told
is what libbpf loads and fanfp does not, and what is not the same in the kernel: of programs types,
tag, instructions, the numbers of described functions and lines, of maps their numbers and whether
they have types.  -v tells too what fanfp loads alone, and why it refuses what both refuse.  Nothing
is attached or pinned.  FANFP_LIBBPF names another libbpf.  Root.

Worth comparing are the kernel's own: tools/testing/selftests/bpf/progs, compiled by
clang -target bpf -g -O2 with the headers of tools/lib/bpf, and a vmlinux.h of bpftool.
"""

import collections
import contextlib
import ctypes
import os
import struct
import sys

import common

sys.path.insert(0, str(common.PROJECT))
import fanfp            # noqa: E402
import test_fanfp       # noqa: E402

SAME, DIFFERS, MINE, THEIRS, NEITHER = "same", "differs", "only fanfp", "only libbpf", "neither"
POISONED = range(2002000000, 2003000000)        # libbpf has another number for each function


def given(insns, fixups=()):
    """Instructions but for what is another with each load."""
    insns = bytearray(insns)
    for index, _, offset in fixups:
        insns[8 * index + 1] |= 16 * (fanfp.BPF_PSEUDO_MAP_FD if offset is None
                                      else fanfp.BPF_PSEUDO_MAP_VALUE)
        struct.pack_into("=i", insns, 8 * index + 12, offset or 0)
    insns = bytearray(test_fanfp.without_maps(insns))
    for at in range(0, len(insns), 8):
        if insns[at] == fanfp.BPF_CALL and \
                struct.unpack_from("=I", insns, at + 4)[0] in POISONED:
            insns[at + 1:at + 8] = bytes(7)
    return bytes(insns)


def described(fd):
    """The numbers of described functions and lines of a loaded program."""
    return struct.unpack_from("=II", fanfp.object_info(fd, bytes(232)), 144)


class Pair:
    """One object, for both."""

    def __init__(self, path, libbpf, kernel):
        self.path, self.libbpf, self.kernel = path, libbpf, kernel
        self.obj = self.why = None
        try:
            obj = fanfp.read_object_file(path)
            self.obj = obj._replace(maps={name: spec._replace(pinning=0)
                                          for name, spec in obj.maps.items()})
        except fanfp.Error as error:
            self.why = str(error)

    @contextlib.contextmanager
    def theirs(self, names):
        """(is it loaded, its handle), or None where it was refused before a program was given."""
        call = self.libbpf.library
        handle = call.bpf_object__open_file(self.path.encode(), None)
        if not handle:
            yield None
            return
        handle = ctypes.c_void_p(handle)
        for _, found in self.libbpf.handles(handle, "map"):
            call.bpf_map__set_pin_path(found, None)
        for name, program in self.libbpf.programs(handle) if names is not None else ():
            call.bpf_program__set_autoload(program, ctypes.c_bool(name in names))
        with self.libbpf.telling() as told:
            is_loaded = not call.bpf_object__load(handle)
        yield (is_loaded, handle) if is_loaded or any(
            "BPF program load failed" in line for line in told) else None
        self.libbpf.close(handle)

    def compare(self, names=None):
        """(SAME..., what to say of it)."""
        loaded, image, why = None, None, self.why
        if self.obj is not None:
            try:
                obj = self.obj if names is None else fanfp.part_of(self.obj, names)
                image = fanfp.relocate(obj, self.kernel)
                if names is not None:           # a struct_ops has all of its programs
                    names = {program.name for program in image.programs}
                loaded = fanfp.load(obj, self.kernel)
            except fanfp.Error as error:
                why = str(error)
        with self.theirs(names) as theirs, loaded or contextlib.nullcontext():
            is_loaded = theirs is not None and theirs[0]
            if bool(loaded) != is_loaded:
                return (MINE, "") if loaded else (THEIRS, why)
            if image is None or theirs is None:
                return NEITHER, why
            different = list(self.differences(loaded, image, theirs[1]))
        return (DIFFERS, "; ".join(different)) if different else \
            (SAME, "") if loaded else (NEITHER, why)

    def differences(self, loaded, image, handle):
        types, programs = self.libbpf.attach_types(handle), dict(self.libbpf.programs(handle))
        for program in image.programs:
            there = programs[program.name]
            if given(program.insns, program.fixups) != given(self.libbpf.instructions(there)):
                yield "instructions of %s" % program.name
            # Those of struct_ops it tells otherwise, and usdt it makes uprobe.multi.
            if not program.section.startswith(("struct_ops", "usdt")) and types[program.name] != (
                    program.kind, program.attach_type):
                yield "types of %s: %s, %s" % (program.name, types[program.name], (
                    program.kind, program.attach_type))
            if loaded:
                mine, fd = loaded.programs[program.name], self.libbpf.library.bpf_program__fd(there)
                if described(mine) != described(fd):
                    yield "what is told of %s: %s, %s" % (program.name, described(fd),
                                                          described(mine))
        maps = self.libbpf.maps(handle)
        for found in loaded.maps.values() if loaded else ():
            fds = [fd for name, fd in maps.items() if fd >= 0 and (
                name == found.name or found.name.startswith(".") and name.endswith(found.name))]
            infos = [test_fanfp.map_info(fd) for fd in fds]
            if found.type != fanfp.MAP_STRUCT_OPS and test_fanfp.map_info(found.fd) not in infos:
                yield "map %s: %s, %s" % (found.name, infos, test_fanfp.map_info(found.fd))


def main():
    paths = sys.argv[1:]
    is_verbose = "-v" in paths[:1]
    libbpf, kernel = test_fanfp.Libbpf(), fanfp.kernel_btf()
    counts = {"objects": collections.Counter(), "programs": collections.Counter()}

    def count(what, name, verdict, said):
        counts[what][verdict] += 1
        if verdict in (THEIRS, DIFFERS) or is_verbose and verdict != SAME:
            print("%s: %s: %s" % (name, verdict, said), flush=True)
    for path in paths[is_verbose:]:
        pair, name = Pair(path, libbpf, kernel), os.path.basename(path)
        verdict, said = pair.compare()
        count("objects", name, verdict, said)
        if verdict in (SAME, DIFFERS) or pair.obj is None:
            continue
        for function in pair.obj.functions.values():
            if function.is_program:
                count("programs", "%s, %s" % (name, function.name),
                      *pair.compare({function.name}))
    for what, found in counts.items():
        print("%s: %s" % (what, ", ".join("%d %s" % (number, verdict)
                                          for verdict, number in found.most_common())))
    return bool(counts["objects"][THEIRS] or counts["objects"][DIFFERS])


if __name__ == "__main__":
    common.main(main)
