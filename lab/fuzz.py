#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Damaged buffers for the event decoders: an Error at worst, never a crash or a hang.

    python3 lab/fuzz.py [--inputs N] [--seed S]

Whole events, made at random, with bytes changed, lengths set to edge values, parts cut or repeated.
"""

import argparse
import os
import random
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import fanfp                                        # noqa: E402
from test_fanfp import event, record                # noqa: E402

EDGES = (0, 1, 3, 4, 7, 20, 23, 24, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


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


def damage(buffer, choice):
    """The buffer with a few things wrong."""
    buffer = bytearray(buffer)
    for _ in range(choice.randrange(4)):
        at = choice.randrange(len(buffer) or 1)
        how = choice.randrange(4)
        if how == 0 and buffer:
            buffer[at] = choice.getrandbits(8)
        elif how == 1:
            size = choice.choice((1, 2, 4))
            at -= at % size
            buffer[at:at + size] = struct.pack("=Q", choice.choice(EDGES))[:size]
        elif how == 2:
            del buffer[at:at + choice.randrange(40)]
        else:
            buffer[at:at] = buffer[at:at + choice.randrange(40)]
    return bytes(buffer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    choice = random.Random(options.seed)
    refused = 0
    for number in range(options.inputs):
        buffer = damage(whole(choice), choice)
        decode = fanfp.decode if number % 4 else fanfp.decode_inotify
        try:
            count = sum(1 for _ in decode(buffer))
            assert count <= len(buffer) // 16
        except fanfp.Error:
            refused += 1
        except BaseException:
            print("fuzz: CRASH: seed %d, input %d: %r" % (options.seed, number, buffer))
            raise
    print("fuzz: %d inputs, %d refused, 0 crashes (seed %d)" % (options.inputs, refused,
                                                                options.seed))


if __name__ == "__main__":
    main()
