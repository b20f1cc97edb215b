# SPDX-License-Identifier: GPL-2.0-only
"""What the lab's commands share: the cache, Debian packages, locks, errors."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import time

FAILED_LINES = 30       # that name what failed, at the end of a run
UNUSED_DAYS = 3         # how long the cache keeps what is not used
LAB = pathlib.Path(__file__).resolve().parent
PROJECT = LAB.parent


class Error(Exception):
    """Ends a command with one line that says why."""


def main(function):
    """Run a command; errors are one line on standard error and exit status 1."""
    try:
        sys.exit(function())
    except Error as error:
        sys.exit(f"{pathlib.Path(sys.argv[0]).name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def failed_lines(failures):
    """The lines that name, at the end of a run, each failure: no more than can be read."""
    lines = [" ".join(f"FAILED {failure}".split())[:300] for failure in dict.fromkeys(failures)]
    if len(lines) > FAILED_LINES:
        lines[FAILED_LINES - 1:] = [f"FAILED: {len(lines) - FAILED_LINES + 1} more, named above"]
    return lines


def cache():
    """The directory for all that is slow to make, outside of the checkout."""
    base = os.environ.get("FANFP_CACHE")
    if not base:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        base = os.path.join(base, "fanfp")
    path = pathlib.Path(base).resolve()
    path.mkdir(parents=True, exist_ok=True)
    return path


def digest(*parts):
    """A short name for the contents of files and strings."""
    state = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, pathlib.Path) else str(part).encode()
        state.update(b"%d\n" % len(data) + data)
    return state.hexdigest()[:16]


@contextlib.contextmanager
def locked(name):
    """Let one process at a time into a part of the cache."""
    with open(cache() / f"{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process to finish with {name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def drop_unused(pattern, keep):
    """Remove what nobody has used for days: another checkout may need another one than this."""
    for path in cache().glob(pattern):
        try:
            if path != keep and path.stat().st_mtime < time.time() - UNUSED_DAYS * 86400:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:
            pass    # somebody else does the same


def replace_tree(new, path):
    """Put a finished directory in place of an older one, or of none."""
    shutil.rmtree(path, ignore_errors=True)
    os.replace(new, path)


def run(*command, **options):
    """Run a command quietly; return what it printed."""
    options.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, check=False,
                          **options)
    if done.returncode:
        lines = (done.stderr or b"").decode(errors="replace").strip().splitlines()
        raise Error(f"{command[0]}: {lines[-1] if lines else f'exit status {done.returncode}'}")
    return done.stdout.decode(errors="replace")


def package_version(name):
    """The installed version of a Debian package, or None."""
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", name],
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    status, _, version = done.stdout.decode().partition(" ")
    return version if status == "installed" else None


def apt_lists():
    """Fetch the lists of packages, once for each run of a command."""
    if not apt_lists.done:
        subprocess.run(["apt-get", "-q", "update"], stdout=subprocess.DEVNULL, check=False)
        apt_lists.done = True


apt_lists.done = False


def need_packages(names, what):
    """Install Debian packages that are missing; say them and stop where that may not be."""
    if not shutil.which("dpkg-query"):
        raise Error(f"{what} needs Debian (bookworm) and its packages {' '.join(names)}")
    missing = [name for name in names if not package_version(name)]
    if not missing:
        return
    command = ["apt-get", "install", "--no-install-recommends", "-y", *missing]
    if os.geteuid() or os.environ.get("FANFP_NO_INSTALL"):
        raise Error(f"{what} needs packages that are not installed. "
                    f"As root: apt-get install {' '.join(missing)}")
    say(f"installing packages: {' '.join(missing)}")
    apt_lists()
    with open(cache() / "apt.log", "wb") as log:
        done = subprocess.run([*command, "-o", "DPkg::Lock::Timeout=600"], stdin=subprocess.DEVNULL,
                              env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                              stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise Error(f"apt-get could not install {' '.join(missing)}; see {log.name}")
