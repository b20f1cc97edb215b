#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What its manual shows: watchdog on a tree, a line for each event."""

import sys
import time

from watchdog.events import FileSystemEventHandler
from watchdog.observers import Observer


class Printer(FileSystemEventHandler):
    def on_any_event(self, event):
        sys.stdout.write("%s %s\n" % (event.event_type, event.src_path))
        sys.stdout.flush()


observer = Observer()
observer.schedule(Printer(), sys.argv[1], recursive=True)
observer.start()
sys.stderr.write("ready\n")
sys.stderr.flush()
while True:
    time.sleep(1000)
