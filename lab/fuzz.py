#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Damaged input for the event decoders and the object reader: an Error at worst, never a crash
or a hang, nor more memory than the input explains.

    python3 lab/fuzz.py [--inputs N] [--seed S] [events] [objects]
    python3 lab/fuzz.py --coverage --seconds S events|objects

events    whole events, made at random, with bytes changed, lengths set to edge values, parts cut
          or repeated: decode(), decode_inotify()
objects   this project's objects, damaged in the same ways, most often in the parts that say where
          things are (headers, symbols, relocations, types, .BTF.ext): read_object(), part_of(),
          then relocate() against this kernel's types and the object's own.  Nothing is loaded

Each run begins with the inputs kept in lab/corpus/: what found something once, and what reached
far.  An input that crashes is written there, as crash-*.  --coverage has atheris (libFuzzer)
choose the inputs by what they reach, and needs it installed; the rest needs nothing.
"""

import argparse
import glob
import os
import random
import resource
import signal
import struct
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(HERE)
sys.path.insert(0, TOP)

if "--coverage" in sys.argv:
    import atheris
    with atheris.instrument_imports(include=["fanfp"]):
        import fanfp
else:
    import fanfp                                    # noqa: E402
from test_fanfp import event, record                # noqa: E402

CORPUS = os.path.join(HERE, "corpus")
EDGES = (0, 1, 3, 4, 7, 20, 23, 24, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
HANG = 10                               # seconds
MEMORY = 2 << 30                        # bytes of address space


def seeds():
    """The project's objects: [bytes]."""
    found = []
    for path in sorted(glob.glob(os.path.join(TOP, "bpf", "tests", "*.o"))
                       + [os.path.join(TOP, "fan_fp.bpf.o")]):
        with open(path, "rb") as file:
            found.append(file.read())
    return found


def kept(target):
    """The corpus of a target: [(name, bytes)]."""
    found = []
    for path in sorted(glob.glob(os.path.join(CORPUS, target, "*"))):
        with open(path, "rb") as file:
            found.append((os.path.basename(path), file.read()))
    return found


# --- making inputs ---

def whole(choice):
    """A buffer as a kernel gives it."""
    parts = []
    for _ in range(choice.randrange(1, 4)):
        records = []
        for _ in range(choice.randrange(3)):
            size = choice.choice((0, 8, 12, 128))
            key = b"FILESYST" + struct.pack("=Ii", size, 1) + b"h" * size
            name = choice.choice((None, b"", b".", b"name", b"n" * 255))
            records.append(record(choice.choice((1, 2, 3, 4, 5, 10, 12)), key, name))
        parts.append(event(choice.getrandbits(64) & choice.choice((0xFFF, 0x50000FFF, -1))
                           & (1 << 64) - 1, 1, *records))
    return b"".join(parts)


def damage(buffer, choice, start=0, end=None):
    """The buffer with a few things wrong between two offsets."""
    buffer = bytearray(buffer)
    end = len(buffer) if end is None else end
    for _ in range(choice.randrange(4)):
        at = start + choice.randrange(max(end - start, 1))
        how = choice.randrange(4)
        if how == 0 and at < len(buffer):
            buffer[at] = choice.getrandbits(8)
        elif how == 1:
            size = choice.choice((1, 2, 4))
            at -= at % size
            # Near what stands there, or an edge.
            value = choice.choice(EDGES)
            if choice.randrange(2):
                value = int.from_bytes(buffer[at:at + size], sys.byteorder) + choice.choice(
                    (-8, -4, -1, 1, 4, 8, 16))
            buffer[at:at + size] = struct.pack("=Q", value & (1 << 64) - 1)[:size]
        elif how == 2:
            del buffer[at:at + choice.randrange(40)]
        else:
            buffer[at:at] = buffer[at:at + choice.randrange(40)]
    return bytes(buffer)


def damage_object(data, choice):
    """An object damaged in one of its sections, or anywhere, without moving the rest."""
    offset, = struct.unpack_from("=Q", data, 40)
    count, = struct.unpack_from("=H", data, 60)
    places = [(0, 64), (offset, len(data))]
    for header in struct.iter_unpack("=IIQQQQIIQQ", data[offset:offset + 64 * count]):
        if header[1] not in (0, fanfp.SHT_NOBITS):
            places.append((header[4], header[4] + header[5]))
    start, end = choice.choice(places)
    if not choice.randrange(20):
        return damage(data, choice)
    part = damage(data[start:end], choice)
    return data[:start] + part[:end - start].ljust(end - start, b"\0") + data[end:]


# --- the targets: a function of the input that raises fanfp.Error where it is refused ---

def events(data):
    for decode in (fanfp.decode, fanfp.decode_inotify):
        try:
            count = sum(1 for _ in decode(data))
        except fanfp.Error:
            continue
        assert count <= len(data) // 16
        return
    raise fanfp.Error(0, "neither")


_kernel = []


def kernel():
    """The running kernel's types, or those of an object, made to be like one's."""
    if not _kernel:
        try:
            _kernel.append(fanfp.kernel_btf())
        except OSError:
            _kernel.append(fanfp.read_object(seeds()[-1], "kernel").btf)
    return _kernel[0]


def objects(data):
    obj = fanfp.read_object(data, "fuzzed.o")
    refused = None
    programs = [function.name for function in obj.functions.values() if function.is_program]
    for names, types in ((programs, obj.btf), (programs[:1], kernel()), (programs, kernel())):
        try:
            fanfp.relocate(fanfp.part_of(obj, names), types)
        except fanfp.Error as error:
            assert "\n" not in str(error), error
            refused = error
    if refused is not None:
        raise refused


TARGETS = {"events": events, "objects": objects}


def inputs(target, choice):
    """Damaged inputs without end."""
    objects_there = seeds()
    while True:
        if target == "events":
            yield damage(whole(choice), choice)
        else:
            yield damage_object(choice.choice(objects_there), choice)


# --- running ---

def hang(*_):
    raise TimeoutError("more than %d s" % HANG)


def attempt(target, data):
    """Whether an input was refused.  Raises what is a crash."""
    signal.alarm(HANG)
    try:
        TARGETS[target](data)
    except fanfp.Error:
        return True
    finally:
        signal.alarm(0)
    return False


def crashed(target, data, name):
    os.makedirs(os.path.join(CORPUS, target), exist_ok=True)
    path = os.path.join(CORPUS, target, "crash-" + name)
    with open(path, "wb") as file:
        file.write(data)
    print("fuzz: CRASH of %s, kept in %s" % (target, os.path.relpath(path)), flush=True)


def fuzz(target, options):
    """The corpus, then damaged inputs; True if none crashed."""
    choice = random.Random(options.seed)
    refused = number = 0
    slowest = 0.0
    begun = time.monotonic()
    made = inputs(target, choice)
    corpus = kept(target)
    while number < options.inputs + len(corpus):
        if options.seconds and time.monotonic() - begun > options.seconds:
            break
        name, data = corpus[number] if number < len(corpus) else (
            "%d-%d" % (options.seed, number), next(made))
        number += 1
        start = time.perf_counter()
        try:
            refused += attempt(target, data)
        except BaseException:
            if number > len(corpus):
                crashed(target, data, name)
            else:
                print("fuzz: CRASH of %s by the kept input %s" % (target, name))
            raise
        slowest = max(slowest, time.perf_counter() - start)
    print("fuzz: %s: %d inputs (%d kept ones), %d refused, 0 crashes, slowest %.3f s, %d MB "
          "(seed %d)" % (target, number, len(corpus), refused, slowest,
                         resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, options.seed),
          flush=True)


def fuzz_by_coverage(target, options):
    """The same with inputs that atheris finds.  Does not return."""
    where = os.path.join(options.work, target)
    os.makedirs(where, exist_ok=True)
    if target == "objects":
        for number, data in enumerate(seeds()):
            with open(os.path.join(where, "seed-%d" % number), "wb") as file:
                file.write(data)

    def one(data):
        try:
            TARGETS[target](data)
        except fanfp.Error:
            pass
    kernel()
    atheris.Setup([sys.argv[0], "-max_total_time=%d" % options.seconds, "-timeout=%d" % HANG,
                   "-rss_limit_mb=%d" % (MEMORY >> 20), "-max_len=24000",
                   "-artifact_prefix=%s/" % os.path.join(CORPUS, target),
                   where, os.path.join(CORPUS, target)], one)
    atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="events, objects; or both")
    parser.add_argument("--inputs", type=int, default=100000, help="for each target (100000)")
    parser.add_argument("--seconds", type=int, default=0, help="end after so long all the same")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--coverage", action="store_true", help="with atheris; one target")
    parser.add_argument("--work", default="/tmp/fanfp-fuzz", help="what --coverage finds goes here")
    options = parser.parse_args()
    for target in options.targets:
        if target not in TARGETS:
            parser.error("there is no target %s" % target)
    if not options.coverage:            # libFuzzer has its own alarm
        signal.signal(signal.SIGALRM, hang)
    for target in options.targets or sorted(TARGETS):
        if options.coverage:
            fuzz_by_coverage(target, options)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
        fuzz(target, options)


if __name__ == "__main__":
    main()
