# SPDX-License-Identifier: GPL-2.0-only
"""The programs that are compared: how each is had, started, and known to be ready."""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
FANFP = os.path.join(os.path.dirname(HERE), "fanfp.py")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"),
                     "fanfp-bench")
# The distribution's own where there is one, as on a host to which nothing was added: another may
# import who knows what whenever it starts.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
VENV_PYTHON = os.path.join(CACHE, "venv", "bin", "python3")
READQUEUE = os.path.join(CACHE, "readqueue")
PATIENCE = 120                          # seconds until a wait is a failure
INSTALL = ["inotify-tools", "fatrace", "python3-venv", "gcc", "libc6-dev", "e2fsprogs"]

# What fanfp reports when nothing else is asked for, in inotifywait's words.
SAME_EVENTS = "create,delete,modify,close_write,move"


def fanfp(*options):
    return lambda root: [PYTHON, FANFP] + list(options) + [root]


# name -> (command for a root, what on standard error says that it is ready, or None: its marks do)
WATCHERS = {
    "fanfp marks": (fanfp("--filter", "marks"), b"fanfp: watching"),
    "fanfp marks, with ATTRIB": (fanfp("--filter", "marks", "-e", SAME_EVENTS.replace(
        "move", "moved_from,moved_to,rename,attrib")), b"fanfp: watching"),
    # With the bytecode that Python keeps of a module, which it does not of a script.
    "fanfp marks, as a module": (lambda root: [
        "env", "-u", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH=" + os.path.dirname(FANFP),
        "PYTHONPYCACHEPREFIX=" + os.path.join(CACHE, "bytecode"), PYTHON, "-m",
        "fanfp", "--filter",
        "marks", root], b"fanfp: watching"),
    "fanfp user": (fanfp("--filter", "user"), b"fanfp: watching"),
    "fanfp inotify": (fanfp("--filter", "inotify"), b"fanfp: watching"),
    "inotifywait": (lambda root: ["inotifywait", "-m", "-r", root], b"Watches established"),
    "inotifywait, same events": (lambda root: ["inotifywait", "-m", "-r", "-e", SAME_EVENTS, root],
                                 b"Watches established"),
    "fsnotifywait": (lambda root: ["fsnotifywait", "-m", "-S", root], b"Watches established"),
    "fatrace": (lambda root: ["fatrace", "-c"], None),
    "fatrace, same events": (lambda root: ["fatrace", "-c", "-f", "W+D<>"], None),
    "watchdog": (lambda root: [VENV_PYTHON, os.path.join(HERE, "peer_watchdog.py"), root],
                 b"ready"),
    "C reader": (lambda root: [READQUEUE, root], b"ready"),
}


class Watcher:
    """One of them, running."""

    def __init__(self, name, root, out, extra=()):
        """Start it on a root and wait until it is ready; `out`: a file for its lines, or PIPE."""
        command, self.sign = WATCHERS[name]
        command = command(root)
        command[-1:-1] = extra
        self.out_path = None if out == subprocess.PIPE else out
        out_file = out if self.out_path is None else open(out, "wb")
        begun = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=out_file, stderr=subprocess.PIPE,
                                        stdin=subprocess.DEVNULL, cwd=root)
        if self.out_path:
            out_file.close()
        self.pid, self.errors = self.process.pid, b""
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.perf_counter() - begun

    def _wait_ready(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if self.sign is None:
                if self._marked():
                    return
                if self.process.poll() is not None:
                    raise RuntimeError("it ended: %r" % self.process.stderr.read()[-200:])
                time.sleep(0.0005)
            elif select.select([self.process.stderr], [], [], 1)[0]:
                data = os.read(self.process.stderr.fileno(), 65536)
                self.errors += data
                if not data:
                    raise RuntimeError("it ended: %r" % self.errors[-200:])
                if self.sign in self.errors:
                    return
        raise RuntimeError("it did not get ready in %d s" % PATIENCE)

    def _marked(self):
        """Whether it has a fanotify mark, for one that does not say when it is ready."""
        base = "/proc/%d/fdinfo/" % self.pid
        try:
            for name in os.listdir(base):
                with open(base + name) as file:
                    if re.search("^fanotify (sdev|mnt_id|ino):", file.read(), re.M):
                        return True
        except OSError:
            pass
        return False

    def cpu(self):
        """Seconds of processor time it has used, to the nanosecond where the kernel has that."""
        base, total = "/proc/%d/task/" % self.pid, 0
        try:
            for task in os.listdir(base):
                with open(base + task + "/schedstat") as file:
                    total += int(file.read().split()[0])
            return total / 1e9
        except OSError:
            with open("/proc/%d/stat" % self.pid) as file:
                fields = file.read().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def reads(self):
        """How often it has called read(2), of whatever; 0 where the kernel doesn't count that."""
        try:
            return self._number("io", "syscr:")
        except FileNotFoundError:
            return 0

    def memory(self):
        """Resident memory in bytes."""
        return self._number("status", "VmRSS:") * 1024

    def _number(self, file, key):
        with open("/proc/%d/%s" % (self.pid, file)) as lines:
            for line in lines:
                if line.startswith(key):
                    return int(line.split()[1])
        return 0

    def settle(self, quiet=0.25):
        """Wait until it has nothing more to do."""
        deadline = time.monotonic() + 5 * PATIENCE
        last, since = self.cpu(), time.monotonic()
        while time.monotonic() < deadline:
            time.sleep(0.02)
            if self.process.poll() is not None:
                raise RuntimeError("it ended: %r" % self.process.stderr.read()[-200:])
            now = self.cpu()
            if now != last or self._running():
                last, since = now, time.monotonic()
            elif time.monotonic() - since > quiet:
                return
        raise RuntimeError("it does not come to rest")

    def _running(self):
        with open("/proc/%d/stat" % self.pid) as file:
            return file.read().rpartition(")")[2].split()[0] in "RDT"

    def stop(self):
        """End it; what it said on standard error since it was ready."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        text = self.process.stderr.read()
        self.process.stderr.close()
        if self.process.stdout:
            self.process.stdout.close()
        return text

    def lines(self):
        """What it has printed, as bytes."""
        with open(self.out_path, "rb") as file:
            return file.read()


def versions():
    """Name -> version of what there is to compare with; what is missing is not in it."""
    found = {}
    for name, tool, option in (("inotifywait", "inotifywait", "--help"),
                               ("fsnotifywait", "fsnotifywait", "--help")):
        if shutil.which(tool):
            text = output([tool, option])
            found[name] = "inotify-tools " + (re.findall(r"\d[\d.]*", text) or ["?"])[0]
    if shutil.which("fatrace"):
        found["fatrace"] = "fatrace " + (output(
            ["dpkg-query", "-W", "-f", "${Version}", "fatrace"]) or "?").partition("-")[0]
    if os.path.exists(VENV_PYTHON):
        text = output([VENV_PYTHON, "-c", "import watchdog.version as v; "
                       "print(v.VERSION_STRING)"])
        if re.match(r"[\d.]+$", text.strip()):
            found["watchdog"] = "watchdog " + text.strip()
    if os.path.exists(READQUEUE):
        found["C reader"] = "bench/readqueue.c"
    return found


def output(command):
    """Standard output and error of a command, "" where it can't be run."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=15)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace")


def install(say):
    """Get the peers from packages, as far as this is allowed; build the C reader."""
    os.makedirs(CACHE, exist_ok=True)
    allowed = os.geteuid() == 0 and not os.environ.get("FANFP_NO_INSTALL")
    missing = [each for each in INSTALL if not installed(each)]
    if missing and allowed and shutil.which("apt-get"):
        say("installing " + " ".join(missing))
        quiet(["apt-get", "update", "-q"])
        quiet(["apt-get", "install", "-y", "--no-install-recommends"] + missing)
    elif missing:
        say("not installed: %s" % " ".join(missing))
    if allowed and not output([VENV_PYTHON, "-c", "import watchdog, matplotlib; print(1)"]) \
            .startswith("1"):
        say("installing watchdog and matplotlib with pip, into " + os.path.basename(CACHE))
        quiet([PYTHON, "-m", "venv", os.path.join(CACHE, "venv")])
        quiet([VENV_PYTHON, "-m", "pip", "install", "-q", "watchdog", "matplotlib"])
    build_reader()


def installed(package):
    return output(["dpkg-query", "-W", "-f", "${db:Status-Status}", package]) == "installed"


def build_reader():
    """Compile readqueue.c where there is a compiler."""
    source = os.path.join(HERE, "readqueue.c")
    if shutil.which("cc") and (not os.path.exists(READQUEUE) or os.path.getmtime(READQUEUE)
                               < os.path.getmtime(source)):
        os.makedirs(CACHE, exist_ok=True)
        quiet(["cc", "-O2", "-Wall", "-o", READQUEUE, source])


def quiet(command):
    """Run a command that may fail; its output is shown if it does."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env=dict(os.environ, DEBIAN_FRONTEND="noninteractive"))
    if done.returncode:
        sys.stderr.write(done.stdout.decode("utf-8", "replace")[-2000:])
