#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The places where people run fanfp, each set up for real, and what comes of it there.

    python3 lab/places.py               all of them
    python3 lab/places.py NAME...       some; --list prints their names
    lab/vm 'python3 lab/places.py 9p'   in the lab's machine, which has 9p and the fastpath

In each place `python3 fanfp.py` is started as a user would, with no option but --json.  A fixed
piece of work is done in the tree and beside it: files made, written, renamed, removed, directories
made four deep with a file in the last, one of them renamed and written in.  What was told is
compared with what was done, both ways: `inotify` may know of what is in a directory just made no
more than its making.  A row of a Markdown table is printed for each place: the filter that was
taken, whether it was told who did it, what came of it, and what was said on standard error beside
the ready line.  Exit status 1 if anything is wrong.

It runs as root, on Linux, with util-linux.  Some places need more: bubblewrap, systemd-container,
bindfs, btrfs-progs, e2fsprogs, xfsprogs; `minimal` needs Debian; `debian` needs debootstrap and
fetches packages from where apt does.  A place that can't be had is skipped by name.

Each place has a mount namespace of its own, but for those that are the host itself.  At its end
every process that it started is killed, whoever its parent is by then; with the last of them the
mounts are gone, and then the directory that all of it was in is removed.
"""

import argparse
import ctypes
import glob
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time

SELF = os.path.abspath(__file__)
PROJECT = os.path.dirname(os.path.dirname(SELF))
LIMIT = 180             # seconds for a place
PATIENCE = 60           # seconds until a wait is a hang
PYTHON = "/usr/bin/python3"
if not os.path.exists(PYTHON):
    PYTHON = sys.executable
NOBODY = 65534
AS_NOBODY = ["setpriv", "--reuid=%d" % NOBODY, "--regid=%d" % NOBODY, "--clear-groups"]
READY = re.compile(r"fanfp: watching .* \(filter: (.*)\)$")
PR_SET_CHILD_SUBREAPER = 36
ROW = "row: "

# What Docker leaves to root in a container.
DOCKER_CAPABILITIES = ("-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,"
                       "+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap")

# Makes $1 the root, with what a container has mounted in it, and runs the rest there.
CONTAINER = r"""
set -e
cd "$1"; shift
mount -t proc proc proc
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm dev/mqueue
for name in null zero full random urandom tty; do
    touch dev/$name; mount --bind /dev/$name dev/$name
done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
mount -t tmpfs shm dev/shm
mount -t sysfs -o ro sysfs sys
for name in hosts hostname resolv.conf; do
    touch etc/$name run/$name; mount --bind run/$name etc/$name
done
for name in kcore keys timer_list; do
    if [ -e proc/$name ]; then mount --bind dev/null proc/$name; fi
done
for name in acpi irq scsi; do
    if [ -d proc/$name ]; then mount -t tmpfs -o ro tmpfs proc/$name; fi
done
pivot_root . .
umount -l .
exec "$@"
"""

PLACES = {}             # name: (what it is, function, whether in a namespace of its own)


class Missing(Exception):
    """What a place needs and this host has not."""


class Place:
    """Where and how fanfp is run: `prefix` leads there, `work` is a directory there, in which the
    tree is made, `root` what is watched, `also` more directories in the tree to work in."""

    def __init__(self, work, prefix=(), root=None, also=(), code=None, python=(), refused=None):
        self.work, self.prefix, self.also = work, list(prefix), list(also)
        self.root = root or work + "/tree"
        self.code = code                # where fanfp.py and this file are there
        self.python = list(python)      # what runs fanfp, if it is not what runs this
        self.refused = refused          # what it has to say where it can't run


def place(name, title, own=True):
    """Add a place: a function of an empty directory, in a mount namespace of its own or not."""
    def add(function):
        PLACES[name] = (title, function, own)
        return function
    return add


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            raise Missing("needs " + command)


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                          stdin=subprocess.DEVNULL)
    if done.returncode:
        lines = done.stdout.decode(errors="replace").strip().splitlines()
        raise Missing("%s: %s" % (" ".join(command[:3]), lines[-1] if lines else "failed"))
    return done.stdout.decode(errors="replace")


def mount(kind, target, options="", source=None):
    os.makedirs(target, exist_ok=True)
    run("mount", "-t", kind, *(["-o", options] if options else []), source or kind, target)
    return target


def bind(source, target):
    os.makedirs(target, exist_ok=True)
    run("mount", "--bind", source, target)


def make(path, owner=None):
    os.makedirs(path, exist_ok=True)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


def copy_code(target):
    """fanfp as it is copied to a host."""
    os.makedirs(target, exist_ok=True)
    for path in (PROJECT + "/fanfp.py", PROJECT + "/fan_fp.bpf.o", SELF):
        shutil.copy(path, target)
    return target


# =============================================================================================
# Places
# =============================================================================================

@place("host", "a directory on this host", own=False)
def host(top):
    return Place(make(top + "/w"))


@place("user", "the same, as an ordinary user", own=False)
def user(top):
    return Place(make(top + "/w", NOBODY), AS_NOBODY)


@place("/", "`/` of this host", own=False)
def whole(top):
    return Place(make(top + "/w"), root="/", also=[top + "/w/tree"])


@place("/-user", "`/` of this host, as an ordinary user", own=False)
def whole_user(top):
    return Place(make(top + "/w", NOBODY), AS_NOBODY, root="/", also=[top + "/w/tree"])


def overlay_root(top):
    """A container's root: the host's below, an empty layer above."""
    if run("findmnt", "-n", "-o", "FSTYPE", "/").strip() == "rootfs":
        raise Missing("needs a root that can be left, which an initramfs is not")
    parts = mount("tmpfs", top + "/parts")
    for name in ("upper", "work", "merged"):
        os.mkdir(parts + "/" + name)
    merged = parts + "/merged"
    mount("overlay", merged, "lowerdir=/,upperdir=%s/upper,workdir=%s/work" % (parts, parts))
    make(merged + "/srv/w")
    for name in ("proc", "dev", "sys", "etc", "run"):
        make(merged + "/" + name)
    copy_code(merged + "/fanfp")
    return ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c", CONTAINER, "sh", merged]


@place("docker", "Docker-like container (overlay root, its capabilities)")
def docker(top):
    prefix = ["setpriv", "--bounding-set", DOCKER_CAPABILITIES]
    return Place("/srv/w", overlay_root(top) + prefix, code="/fanfp")


@place("docker-privileged", "the same, `--privileged`")
def docker_privileged(top):
    return Place("/srv/w", overlay_root(top), code="/fanfp")


@place("docker-/", "the same, `/` of it")
def docker_whole(top):
    return Place("/srv/w", overlay_root(top), code="/fanfp", root="/", also=["/srv/w/tree"])


@place("inside", "overlay and FUSE mounted in the tree")
def inside(top):
    need("bindfs")
    tree = make(top + "/w/tree")
    parts = mount("tmpfs", top + "/parts")
    for name in ("lower", "upper", "work", "served"):
        os.mkdir(parts + "/" + name)
    mount("overlay", tree + "/overlay", "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work"
          % (parts, parts, parts))
    os.mkdir(tree + "/fuse")
    run("bindfs", parts + "/served", tree + "/fuse")
    return Place(top + "/w", also=[tree + "/overlay", tree + "/fuse"])


@place("hung", "a FUSE server in the tree that never answers")
def hung(top):
    target = make(top + "/w/tree/hung")
    try:
        device = os.open("/dev/fuse", os.O_RDWR)        # held until this process ends
    except OSError as error:
        raise Missing("/dev/fuse: %s" % error) from None
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"hung", target.encode(), b"fuse.hung", 0,
                  b"fd=%d,rootmode=40000,user_id=0,group_id=0" % device):
        raise Missing("mounting FUSE: " + os.strerror(ctypes.get_errno()))
    return Place(top + "/w")


def plain_root(top):
    """A directory with the programs of this host, to be a root."""
    root = make(top + "/root")
    for name in ("usr", "bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.islink("/" + name):
            os.symlink(os.readlink("/" + name), root + "/" + name)
        elif os.path.isdir("/" + name):
            bind("/" + name, root + "/" + name)
    for name in ("proc", "dev", "sys", "tmp", "run", "etc", "srv/w"):
        make(root + "/" + name)
    shutil.copy("/etc/passwd", root + "/etc")
    copy_code(root + "/fanfp")
    return root


@place("chroot", "chroot into a plain directory")
def chroot(top):
    root = plain_root(top)
    mount("proc", root + "/proc")
    return Place("/srv/w", ["chroot", root], code="/fanfp")


@place("chroot-/", "the same, `/` of it")
def chroot_whole(top):
    root = plain_root(top)
    mount("proc", root + "/proc")
    return Place("/srv/w", ["chroot", root], code="/fanfp", root="/", also=["/srv/w/tree"])


@place("no-proc", "chroot without /proc")
def no_proc(top):
    return Place("/srv/w", ["chroot", plain_root(top)], code="/fanfp", refused="mount -t proc")


@place("debian", "debootstrap'ed chroot (Debian unstable)")
def debian(top):
    need("debootstrap")
    mirror = run("sh", "-c", "apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' "
                 "| grep '/debian/$' | head -n 1").strip()
    if not mirror:
        raise Missing("needs a mirror of Debian in apt's sources")
    root = top + "/root"
    run("debootstrap", "--variant=minbase", "--include=python3", "sid", root, mirror)
    copy_code(root + "/fanfp")
    make(root + "/srv/w")
    mount("proc", root + "/proc")
    return Place("/srv/w", ["chroot", root], code="/fanfp")


@place("proc-root", "a container's tree from outside, /proc/PID/root/DIR")
def proc_root(top):
    holder = subprocess.Popen(
        ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c",
         "mount -t tmpfs tmpfs %s && echo && exec sleep 1000" % make(top + "/c")],
        stdout=subprocess.PIPE)
    if holder.stdout.readline() != b"\n":
        raise Missing("unshare -m -p does not work")
    return Place(make("/proc/%d/root%s/c/w" % (holder.pid, top)))


@place("userns", "user namespace (`unshare -Ur` of an ordinary user)")
def user_namespace(top):
    prefix = AS_NOBODY + ["unshare", "-U", "-r", "-m"]
    run(*prefix, "true")
    return Place(make(top + "/w", NOBODY), prefix)


@place("bwrap", "bubblewrap, as an ordinary user")
def bubblewrap(top):
    need("bwrap")
    work = make(top + "/w", NOBODY)
    return Place(work, AS_NOBODY + ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc",
                                    "/proc", "--unshare-pid", "--bind", work, work])


@place("nspawn", "systemd-nspawn")
def nspawn(top):
    need("systemd-nspawn")
    return Place("/srv/w", ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--pipe",
                            "-D", plain_root(top), "--"], code="/fanfp")


def btrfs(top, *subvolumes):
    """A disk of subvolumes: its image and where its top is mounted."""
    need("mkfs.btrfs", "btrfs")
    image = top + "/disk"
    with open(image, "wb") as file:
        file.truncate(256 << 20)
    run("mkfs.btrfs", "-q", image)
    whole_disk = mount("btrfs", top + "/whole", "loop", image)
    for name in subvolumes:
        run("btrfs", "subvolume", "create", whole_disk + name)
    return whole_disk


@place("btrfs", "btrfs, its top mounted, subvolumes in the tree")
def btrfs_top(top):
    whole_disk = btrfs(top, "/@", "/@/tree", "/@/tree/nested")
    return Place(whole_disk + "/@", also=[whole_disk + "/@/tree/nested"])


@place("btrfs-subvolume", "btrfs, a subvolume mounted, one nested in the tree")
def btrfs_subvolume(top):
    whole_disk = btrfs(top, "/@")
    device = run("findmnt", "-n", "-o", "SOURCE", whole_disk).strip()
    work = mount("btrfs", top + "/w", "subvol=@", device)
    run("btrfs", "subvolume", "create", make(work) + "/tree")
    run("btrfs", "subvolume", "create", work + "/tree/nested")
    return Place(work, also=[work + "/tree/nested"])


@place("ext4", "ext4")
def ext4(top):
    need("mkfs.ext4")
    with open(top + "/disk", "wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", top + "/disk")
    return Place(mount("ext4", top + "/w", "loop", top + "/disk"))


@place("xfs", "xfs")
def xfs(top):
    need("mkfs.xfs")
    with open(top + "/disk", "wb") as file:
        file.truncate(512 << 20)
    run("mkfs.xfs", "-q", top + "/disk")
    return Place(mount("xfs", top + "/w", "loop", top + "/disk"))


@place("9p", "9p (a virtual machine's shared directory)")
def ninep(top):
    for line in reversed(open("/proc/self/mounts").readlines()):
        fields = line.split()
        if fields[2] == "9p" and "ro" not in fields[3].split(","):
            return Place(make(tempfile.mkdtemp(prefix="places-", dir=fields[1]) + "/w"))
    raise Missing("needs a 9p mount that can be written to")


@place("tmpfs", "tmpfs")
def tmpfs(top):
    return Place(mount("tmpfs", top + "/w"))


@place("read-only", "read-only root, a tmpfs to work in")
def read_only(top):
    mount("tmpfs", top + "/w")
    code = copy_code(top + "/fanfp")
    run("mount", "-o", "remount,bind,ro", run("findmnt", "-n", "-o", "TARGET", "-T", code).strip())
    if os.access(code, os.W_OK):
        raise Missing("the root does not become read-only")
    return Place(top + "/w", code=code)


@place("no-dev", "no /dev/null, nothing in /dev at all")
def no_dev(top):
    mount("tmpfs", "/dev")
    return Place(make(top + "/w"))


def minimal(top, *more):
    """Debian's smallest Python, by the files of its package, and some more of its library."""
    python = os.path.realpath(PYTHON)
    name = os.path.basename(python)
    library = "/usr/lib/%s/" % name
    files = run("dpkg", "-L", "lib%s-minimal" % name).split("\n")
    files += [path for each in more for path in glob.glob(library + each)]
    home = top + "/python"
    for path in files:
        if path.startswith(library) and os.path.isfile(path):
            copy = home + "/lib/%s/%s" % (name, path[len(library):])
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            shutil.copy(path, copy)
    return ["env", "PYTHONHOME=" + home, python]


@place("minimal", "python3-minimal")
def python_minimal(top):
    return Place(make(top + "/w"), python=minimal(top), refused="python3")


@place("minimal-more", "python3-minimal, and ctypes and json")
def python_minimal_more(top):
    return Place(make(top + "/w"), python=minimal(
        top, "ctypes/*", "lib-dynload/_ctypes*", "json/*", "lib-dynload/_json*"))


@place("C", "C locale (`LC_ALL=C`, without Python's UTF-8 mode)")
def c_locale(top):
    return Place(make(top + "/w\u00fc"), python=[
        "env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", PYTHON])


def pythons():
    """Every Python from 3.6 up that is found, (version, path), but for the one that runs this."""
    found = {}
    folders = os.environ.get("PATH", "").split(":")
    for folder in glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin")) + folders:
        for path in glob.glob(folder + "/python3*"):
            if re.match(r"python3(\.\d+)?$", os.path.basename(path)):
                done = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:3])"],
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                      check=False)
                version = tuple(map(int, done.stdout.split()))
                if version >= (3, 6):
                    found.setdefault(version, os.path.realpath(path))
    return sorted(found.items())


def add_pythons():
    for version, path in pythons():
        text = "%d.%d.%d" % version
        place("python" + text, "Python " + text)(
            lambda top, path=path: Place(mount("tmpfs", top + "/w"), python=[path]))


# =============================================================================================
# The work, done in the place
# =============================================================================================

class Failed(Exception):
    """What came of it, where that is not what should."""


class Fanfp:
    """A running fanfp."""

    def __init__(self, python, root):
        code = os.path.join(os.path.dirname(SELF), "fanfp.py")
        self.process = subprocess.Popen(python + [code, "--json", root],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.out, self.errors, self.events = b"", b"", []

    def ready(self):
        return next(filter(None, map(READY.match, self.said())), None)

    def until_ready(self):
        self.until(self.ready, "get ready")

    def said(self):
        return self.errors.decode("utf-8", "replace").splitlines()

    def until(self, condition, doing):
        """Read what it says until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            streams = [self.process.stdout, self.process.stderr]
            ready = select.select(streams, [], [], max(end - time.monotonic(), 0))[0]
            if not ready:
                raise Failed("does not %s" % doing)
            if not sum([self.take(stream) for stream in ready]):
                raise Failed("does not %s: status %d" % (doing, self.process.wait()))

    def take(self, stream):
        """Read what there is of a stream: how many bytes."""
        data = os.read(stream.fileno(), 1 << 16)
        if stream is self.process.stderr:
            self.errors += data
        else:
            lines = (self.out + data).split(b"\n")
            self.out = lines.pop()
            for line in lines:
                event = json.loads(line.decode("ascii"))
                for name in ("path", "old_path"):       # the bytes, as this Python spells them
                    event[name] = os.fsdecode(os.fsencode(event.get(name) or ""))
                self.events.append(event)
        return len(data)

    def wait_for(self, *paths):
        left = set(paths)

        def told():
            left.difference_update([event["path"] for event in self.events])
            return not left
        self.until(told, "tell of " + " ".join(map(repr, paths)))

    def kill(self):
        self.process.kill()
        self.errors += self.process.communicate()[1]

    def stop(self):
        self.process.terminate()
        try:
            out, errors = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed("does not end") from None
        self.errors += errors
        if self.process.returncode != -signal.SIGTERM:
            raise Failed("ends with status %d" % self.process.returncode)


def write(path):
    with open(path, "a") as file:
        file.write("x")


MADE = {"CREATE", "MODIFY", "CLOSE_WRITE"}


def work(fanfp, directories, beside):
    """Do the work in each of some directories: what it is, {path or (old path, path): names}."""
    done = {}
    for at in directories:
        write(at + "/f")
        os.rename(at + "/f", at + "/g")
        os.makedirs(at + "/a/b/c/d")
        write(at + "/a/b/c/d/deep")
        done.update({at + "/f": MADE, (at + "/f", at + "/g"): {"RENAME"}, at + "/a": {"CREATE"},
                     at + "/a/b": {"CREATE"}, at + "/a/b/c": {"CREATE"},
                     at + "/a/b/c/d": {"CREATE"}, at + "/a/b/c/d/deep": MADE})
        if beside:
            write(beside + "/f")
            os.makedirs(beside + "/a/b")
            write(beside + "/a/b/deep")
            shutil.rmtree(beside + "/a")
    fanfp.wait_for(*[at + "/a/b/c/d/deep" for at in directories])
    for at in directories:
        os.rename(at + "/a", at + "/z")
        write(at + "/z/b/late")
        os.remove(at + "/g")
        os.remove(at + "/z/b/late")
        write(at + "/end")
        done.update({(at + "/a", at + "/z"): {"RENAME"}, at + "/z/b/late": MADE | {"DELETE"},
                     at + "/g": {"DELETE"}, at + "/end": MADE})
    fanfp.wait_for(*[at + "/end" for at in directories])
    return done


def compare(done, told, scanned):
    """What is wrong with what was told, a list of words; scanned: what inotify told of."""
    wrong = []
    for key, names in sorted(done.items(), key=str):
        if key in scanned and "/a/b" in key:
            names = {"CREATE"}
        elif key[-4:] == "/end":        # of which the rest may still come
            names = {"CREATE"}
        missed = names - told.get(key, set())
        if missed:
            wrong.append("missed: %s %s" % (",".join(sorted(missed)), key))
    for key, names in sorted(told.items(), key=str):
        extra = names - done.get(key, set()) - {"ISDIR"}
        if extra:
            wrong.append("invented: %s %s" % (",".join(sorted(extra)), key))
    return wrong


def do(options):
    """Run fanfp and the work where this process is; print what came of it."""
    tree, beside = options.work + "/tree", None
    os.makedirs(tree, exist_ok=True)
    if options.root == tree:
        options.also.insert(0, tree)
        beside = options.work + "/beside"
        os.mkdir(beside)
    row = {"filter": "", "who": "", "outcome": ""}
    program = Fanfp(options.python or [sys.executable], options.root)
    try:
        program.until_ready()
        row["filter"] = program.ready().group(1)
        done = work(program, options.also, beside)
        told, pids = {}, {}
        for event in program.events:
            path, old = event["path"], event["old_path"]
            if any(path.startswith(at + "/") for at in options.also) or options.root == tree:
                key = (old, path) if old else path
                told.setdefault(key, set()).update(event["events"])
                pids.setdefault(key, set()).add(event["pid"])
        every = set().union(*pids.values())
        row["who"] = "no" if every == {None} else "yes" if None not in every else "in part"
        wrong = compare(done, told, {key for key in pids if pids[key] == {None}})
        wrong += ["wrong pid: %d" % pid for pid in every - {None, os.getpid()}]
        program.stop()
        row["outcome"] = "; ".join(wrong[:4]) or "all told"
    except Failed as why:
        program.kill()
        row["outcome"] = str(why)
        if options.refused and program.process.returncode == 1 and len(program.said()) == 1 \
                and options.refused in program.said()[0]:
            row["outcome"] = "says what to do"
    row["said"] = [line for line in program.said() if not READY.match(line)]
    print(ROW + json.dumps(row), flush=True)


# =============================================================================================
# A place, and its end
# =============================================================================================

def enter(name, top):
    """Set a place up, and run the work there."""
    try:
        where = PLACES[name][1](top)
    except Missing as why:
        print(ROW + json.dumps({"missing": str(why)}), flush=True)
        return 0
    code = where.code or copy_code(top + "/fanfp")
    command = where.prefix + [PYTHON, code + "/places.py", "--work", where.work, "--root",
                              where.root]
    for option, values in (("--python", where.python), ("--also", where.also),
                           ("--refused", [where.refused] if where.refused else [])):
        for value in values:
            command.append(option + "=" + value)
    return subprocess.call(command)


def children():
    """The processes whose parent is this one."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path) as file:
                pid, rest = file.read().split(" ", 1)
        except OSError:
            continue                    # it has ended
        if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(pid))
    return found


def end_all():
    """Kill every process that was started here, and those that these leave behind."""
    for pid in iter(lambda: next(iter(children()), None), None):
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def visit(name):
    """Run one place: its row, a dict."""
    top = tempfile.mkdtemp(prefix="fanfp-place-")
    os.chmod(top, 0o755)                # for an ordinary user
    command = [sys.executable, SELF, "--enter", name, "--work", top]
    if PLACES[name][2]:
        command = ["unshare", "-m", "--propagation", "private"] + command
    try:
        with open(top + "/log", "w+b") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                process.wait(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                return {"outcome": "takes more than %d s" % LIMIT}
            log.seek(0)
            text = log.read().decode("utf-8", "replace")
    finally:
        end_all()
        shutil.rmtree(top, ignore_errors=True)
    if ROW not in text:
        return {"outcome": "ends: " + text.strip()[-300:]}
    row = json.loads(text.rpartition(ROW)[2].splitlines()[0])
    row["said"] = [re.sub(r"(/proc/\d+/root)?" + top, "", line) for line in row.get("said", ())]
    row["outcome"] = row.get("outcome", "").replace(top, "")
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the names of the places")
    parser.add_argument("names", nargs="*", metavar="NAME")
    for option in ("--enter", "--work", "--root", "--refused"):         # of this script's own
        parser.add_argument(option, help=argparse.SUPPRESS)
    for option in ("--python", "--also"):
        parser.add_argument(option, action="append", default=[], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.root:
        return do(options)
    add_pythons()
    if options.enter:
        return enter(options.enter, options.work)
    if options.list:
        print("\n".join(PLACES))
        return 0
    unknown = set(options.names) - set(PLACES)
    if unknown or os.geteuid():
        parser.error("no such place: " + " ".join(unknown) if unknown else "it runs as root")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = 0
    print("| place | filter | who | outcome | said |\n|---|---|---|---|---|", flush=True)
    for name in options.names or PLACES:
        row = visit(name)
        title = PLACES[name][0]
        if "missing" in row:
            print("skipped: %s: %s" % (name, row["missing"]), file=sys.stderr, flush=True)
            continue
        failed += row["outcome"] not in ("all told", "says what to do")
        print("| %s | %s | %s | %s | %s |" % (
            title, "`%s`" % row["filter"] if row.get("filter") else "", row.get("who", ""),
            row["outcome"], "<br>".join(row.get("said", ()))), flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
