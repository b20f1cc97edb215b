# SPDX-License-Identifier: GPL-2.0-only
"""The file system that the machine boots into: busybox, python3, tools, as a cpio archive."""

import os
import re
import shutil
import stat
import subprocess

from common import (
    LAB,
    cache,
    digest,
    drop_unused,
    locked,
    need_packages,
    pathlib,
    run,
    say,
)

PACKAGES = ["busybox-static", "python3", "e2fsprogs", "xfsprogs", "btrfs-progs", "bpftool",
            "libcap2-bin", "util-linux", "mount", "strace", "git", "kmod", "bindfs"]

# Programs copied from here, each with the shared libraries it needs; the rest is busybox. (sh
# is one of them since that of busybox takes its own programs for those of PATH.)
PROGRAMS = [
    "/usr/bin/sh", "/usr/bin/bash", "/usr/bin/python3", "/usr/bin/setpriv", "/usr/bin/unshare",
    "/usr/bin/nsenter", "/usr/bin/mount", "/usr/bin/umount", "/usr/bin/mountpoint",
    "/usr/bin/findmnt", "/usr/bin/setfattr", "/usr/bin/getfattr", "/usr/bin/strace",
    "/usr/bin/git", "/usr/bin/cp", "/usr/bin/mv", "/usr/bin/rm", "/usr/bin/tar",
    "/usr/bin/find", "/usr/bin/stdbuf", "/usr/sbin/capsh", "/usr/sbin/losetup",
    "/usr/sbin/mke2fs", "/usr/sbin/debugfs", "/usr/sbin/mkfs.ext4", "/usr/sbin/mkfs.xfs",
    "/usr/sbin/mkfs.btrfs", "/usr/bin/btrfs", "/usr/sbin/bpftool", "/usr/sbin/xfs_io",
    "/usr/bin/bindfs",
]
# The C library opens libgcc_s when a thread ends, as Debian's has it depend on it.
DATA = ["/usr/lib/x86_64-linux-gnu/libgcc_s.so.1", "/etc/mke2fs.conf", "/etc/services",
        "/etc/protocols", "/usr/lib/git-core/git",
        "/usr/share/git-core/templates/description",
        "/usr/share/git-core/templates/info/exclude"]

# Parts of python's standard library that nothing here imports.
WITHOUT = re.compile(r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|pydoc_data|"
                     r"config-[^/]*|dist-packages|_ssl[^/]*|_hashlib[^/]*|_tkinter[^/]*|_dbm[^/]*|"
                     r"_gdbm[^/]*)(/|$)")
# Of the packages of another architecture all is taken but what is large and of no use.
UNUSED = re.compile(r"^usr/share/(?!git-core/templates/(description|info/exclude)$)|"
                    r"^usr/lib/[^/]*/perl|^usr/lib/git-core/(?!git$)|" + WITHOUT.pattern)
MERGED = re.compile(r"^((bin|sbin|lib(64)?)/)")     # where these have become links to those in /usr

FILES = {
    "/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n",
    "/etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost\n",
    "/etc/gitconfig": "[user]\n\tname = lab\n\temail = lab@localhost\n"
                      "[init]\n\tdefaultBranch = main\n[safe]\n\tdirectory = *\n",
}
DIRECTORIES = ["dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/tmp", "fanfp"]


class Archive:
    """A cpio archive of the kind the kernel unpacks ("newc")."""

    def __init__(self, out):
        self.out = out
        self.names = set()

    def add(self, name, mode, data=b"", device=(0, 0), mtime=0):
        name = os.path.normpath(name.strip("/"))
        if name in self.names:
            return
        self.parents(name)
        self.names.add(name)
        self.entry(name, mode, data, device, mtime)

    def entry(self, name, mode, data=b"", device=(0, 0), mtime=0):
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, special file, length of name, check
        fields = (len(self.names), mode, 0, 0, 1, mtime, len(data), 0, 0, *device, len(encoded), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
        self.out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))

    def parents(self, name):
        parent = os.path.dirname(name)
        if parent and parent not in self.names:
            self.add(parent, stat.S_IFDIR | 0o755)

    def directory(self, name, mode=0o755):
        self.add(name, stat.S_IFDIR | mode)

    def link(self, name, target):
        self.add(name, stat.S_IFLNK | 0o777, target.encode())

    def file(self, name, data, mode=0o644, mtime=0):
        self.add(name, stat.S_IFREG | mode, data, mtime=mtime)

    def copy(self, path):
        """A file from here under its own name, and what it links to."""
        directory = os.path.realpath(os.path.dirname(path))
        path = os.path.join(directory, os.path.basename(path))
        self.put(path, path)
        if os.path.islink(path):
            self.copy(os.path.join(directory, os.readlink(path)))

    def put(self, name, path):
        """A file or a link from here, under another name."""
        if os.path.islink(path):
            self.link(name, os.readlink(path))
        elif os.path.isfile(path):
            # with its time, by which python knows whether a module's bytecode is of this source
            status = os.stat(path)
            self.file(name, pathlib.Path(path).read_bytes(), status.st_mode & 0o777,
                      int(status.st_mtime))

    def close(self):
        self.entry("TRAILER!!!", 0)


def libraries(paths):
    """The shared libraries that programs and extension modules need."""
    found = set()
    done = subprocess.run(["ldd", *paths], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          check=False)
    for line in done.stdout.decode().splitlines():
        match = re.match(r"\s+(?:\S+ => )?(/\S+) \(0x", line)
        if match:
            found.add(match.group(1))
    return sorted(found)


def python_library():
    """The files of Debian's python3 that are worth taking along."""
    path = run("/usr/bin/python3", "-IS", "-c", "import os; print(os.__file__)")
    root = os.path.dirname(path.strip())
    for directory, names, files in os.walk(root):
        names[:] = [name for name in names if not WITHOUT.search(f"{directory}/{name}")]
        for name in files:
            path = os.path.join(directory, name)
            if not WITHOUT.search(path):
                yield path


def unpacked(root):
    """The files of an unpacked system that are worth taking along, and their names there."""
    for directory, names, files in os.walk(root):
        for file in sorted(names + files):
            path = os.path.join(directory, file)
            name = MERGED.sub(r"usr/\1", os.path.relpath(path, root))
            if not UNUSED.search(name):
                yield name, path


def get(kernel):
    """The archive for a kernel; made again when a program, the kernel or /init changed."""
    need_packages(PACKAGES, "making the machine's file system")
    programs = [path for path in PROGRAMS if os.path.exists(path)]
    library = sorted(python_library())
    stamps = [f"{path} {os.stat(path).st_size} {os.stat(path).st_mtime_ns}"
              for path in [*programs, *library, kernel.image, "/bin/busybox"]]
    recipe = digest(pathlib.Path(__file__), LAB / "init", *stamps)
    path = cache() / f"initramfs-{kernel.name}-{recipe}"
    with locked(f"initramfs-{kernel.name}"):
        if not path.exists():
            say(f"making the file system for the kernel {kernel.name}")
            needed = libraries(programs + [path for path in library if path.endswith(".so")])
            new = path.with_suffix(".new")
            with open(new, "wb") as out:
                write(out, kernel, programs + library + needed)
            os.replace(new, path)
        os.utime(path)
        drop_unused(f"initramfs-{kernel.name}-" + "?" * 16, path)
    return path


def write(out, kernel, files):
    archive = Archive(out)
    for name in DIRECTORIES:
        archive.directory(name, 0o1777 if name.endswith("tmp") else 0o755)
    for name in ("bin", "sbin", "lib", "lib64"):        # as Debian lays it out
        archive.directory(f"usr/{name}")
        archive.link(name, f"usr/{name}")
    archive.file("init", (LAB / "init").read_bytes(), 0o755)
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name, text in FILES.items():
        archive.file(name, text.encode())
    if kernel.programs.exists():
        for name, path in unpacked(kernel.programs):
            archive.put(name, path)
    else:
        for name in [*files, *DATA]:
            archive.copy(name)
    busybox = shutil.which("busybox", path="/bin:/usr/bin")
    archive.file("usr/bin/busybox", pathlib.Path(busybox).read_bytes(), 0o755)
    for applet in run("busybox", "--list").split():
        if f"usr/sbin/{applet}" not in archive.names:
            archive.link(f"usr/bin/{applet}", "busybox")
    if kernel.modules.exists():
        for module in sorted(kernel.modules.iterdir()):
            archive.file(f"modules/{module.name}", module.read_bytes())
    archive.close()
