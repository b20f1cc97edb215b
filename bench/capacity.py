#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""How many events a second fanfp decodes, judges and prints: from buffers recorded before.

    capacity.py DIRECTORY FILES SECONDS

Records what the kernel gives for FILES files made, written, closed and removed in the directories
of DIRECTORY, then lets fanfp go through the same bytes again and again, so many seconds for each
figure.  Only the descriptor is missing: everything after read(2) is what runs when it watches.
Prints JSON, seconds of processor time for an event, the least of many runs, since the machine may
have other things to do.
"""

import collections
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

import fanfp  # noqa: E402


def record(watch, top, files):
    """The buffers that a read of the events of so many files gives."""
    queue = watch._sources.fanotify.queue
    directories = [os.path.join(top, each) for each in os.listdir(top)]
    subprocess.run([sys.executable, os.path.join(HERE, "worker.py"), str(files)], check=True,
                   input="".join(each + "\n" for each in directories).encode(),
                   stdout=subprocess.DEVNULL)
    while queue.fill():
        pass
    buffers = [batch.buffer for batch in queue.batches]
    queue.batches.clear()
    return buffers


def fill(watch, buffers):
    for buffer in buffers:
        watch._sources.fanotify.queue.add(buffer)


def only_decode(watch, buffers, fd):
    for buffer in buffers:
        collections.deque(fanfp.decode(buffer), 0)


def judge(watch, buffers, fd):
    fill(watch, buffers)
    while watch._sources.fanotify.backlog:
        watch.read(0)


def printer(lines):
    """Read and print, as the command line does."""
    signals = fanfp.Signals()

    def run(watch, buffers, fd):
        output = fanfp.Output(fd, "a pipe", signals)
        fill(watch, buffers)
        while watch._sources.fanotify.backlog:
            events = watch.read(0)
            if events:
                output.write(lines(events))
        os.close(output.own_fd)
    return run


def measure(watch, buffers, action, events, seconds):
    """The least processor time for an event."""
    cat = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    least, until = None, time.monotonic() + seconds
    while least is None or time.monotonic() < until:
        begun = time.process_time()
        action(watch, buffers, cat.stdin.fileno())
        took = time.process_time() - begun
        least = took if least is None else min(took, least)
    cat.stdin.close()
    cat.wait()
    return least / events


def main():
    top, files = sys.argv[1], int(sys.argv[2])
    with fanfp.Watch(top, filter="user") as watch:
        buffers = record(watch, top, files)
        events = sum(1 for buffer in buffers for _ in fanfp.decode(buffer))
        fill(watch, buffers)
        reported = 0
        while watch._sources.fanotify.backlog:
            reported += len(watch.read(0))
        result = {"events": events, "reported": reported, "buffers": len(buffers)}
        for name, action in (("decode", only_decode), ("decode, judge", judge),
                             ("decode, judge, print", printer(fanfp.text_lines)),
                             ("decode, judge, print JSON", printer(fanfp.json_lines))):
            result[name] = measure(watch, buffers, action, events, float(sys.argv[3]))
    json.dump(result, sys.stdout)


main()
