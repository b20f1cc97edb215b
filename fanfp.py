#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""fanfp: watch a directory tree on Linux, every event under it and none from outside.

    python3 fanfp.py /srv/data                     on the command line, see --help
    with fanfp.Watch("/srv/data") as watch:        in a program, see class Watch
        for event in watch:
            print(event.path, event.events)

One file, Python 3.6 or later, standard library only.  From top to bottom:

    1. The kernel's interface    constants, structs, system calls, errors
    2. Events                    names, Event, decoding what fanotify gives
    3. Directories               file handle -> path; the list of mounts
    4. BPF objects               reading, relocating and loading them
    5. Who did it                processes, also those that have ended
    6. Filters                   which events reach user space; what a Source is; fanotify
    7. inotify                   for where fanotify cannot be had
    8. trace                     BPF programs alone, on any file system
    9. Names                     files and symbolic links as roots
    10. Sources                  which of the sources watches what; what somebody else answers for
    11. Mounts                   what is mounted inside the trees
    12. Watch                    the public interface
    13. The command line         options, output, --exec, --probe; inotify-tools' own

Words: a root is what was given to watch, or the top of a mount in a tree; a tree is a root and what
is below it, and inside is in one; the border is between that and the rest, ignored or outside; a
half is the MOVED_FROM or MOVED_TO of a rename; far is what somebody else answers for, who may never
do so: FUSE, a server.
"""

import sys

INSTALL = ("install the rest of Python's standard library (Debian, Ubuntu: apt-get install "
           "python3; OpenWrt: opkg install python3; built from source: again, with libffi-dev)")
try:
    import collections
    import ctypes
    import errno
    import gc
    import os
    import select
    import stat
    import struct
    import time
    import _signal as signal            # signal makes enums of its numbers: a tenth of the start
    from _thread import RLock
    from _warnings import warn
    from _weakrefset import WeakSet     # weakref has more, and takes longer
    from array import array
    from bisect import bisect_right
except ImportError as why:
    message = "fanfp: starting: this Python lacks what it needs: %s; %s" % (why, INSTALL)
    if __name__ == "__main__":
        sys.exit(message)
    raise ImportError(message)

__version__ = "1.0"
__all__ = ["Watch", "Event", "Process", "FsError", "Error", "EVENTS", "DEFAULT_EVENTS"]


# =============================================================================================
# 1. The kernel's interface
# =============================================================================================
# Names and numbers are those of <linux/fanotify.h>, <linux/inotify.h> and fanotify(7).

# fanotify_init(2) flags
FAN_CLOEXEC = 0x1
FAN_NONBLOCK = 0x2
FAN_CLASS_NOTIF = 0x0
FAN_UNLIMITED_QUEUE = 0x10
FAN_UNLIMITED_MARKS = 0x20
FAN_REPORT_FID = 0x200
FAN_REPORT_DIR_FID = 0x400
FAN_REPORT_NAME = 0x800
FAN_REPORT_TARGET_FID = 0x1000          # Linux 5.17, and FAN_RENAME with it

# fanotify_mark(2) flags
FAN_MARK_ADD = 0x1
FAN_MARK_REMOVE = 0x2
FAN_MARK_IGNORED_SURV_MODIFY = 0x40
FAN_MARK_FLUSH = 0x80
FAN_MARK_FILESYSTEM = 0x100
FAN_MARK_EVICTABLE = 0x200              # Linux 5.19
FAN_MARK_IGNORE = 0x400                 # Linux 6.0

# Event bits.  inotify's have the same values as fanotify's wherever both have one.
ACCESS = 0x1
MODIFY = 0x2
ATTRIB = 0x4
CLOSE_WRITE = 0x8
CLOSE_NOWRITE = 0x10
OPEN = 0x20
MOVED_FROM = 0x40
MOVED_TO = 0x80
CREATE = 0x100
DELETE = 0x200
DELETE_SELF = 0x400
MOVE_SELF = 0x800
OPEN_EXEC = 0x1000                      # fanotify only
UNMOUNT = 0x2000                        # inotify's; fanfp reports it for fanotify too
Q_OVERFLOW = 0x4000
FS_ERROR = 0x8000                       # fanotify only (5.16)
IN_IGNORED = 0x8000                     # inotify only
EVENT_ON_CHILD = 0x08000000             # fanotify only
RENAME = 0x10000000                     # fanotify only (5.17); fanfp makes it from inotify's pair
ISDIR = 0x40000000                      # FAN_ONDIR, IN_ISDIR

# inotify_add_watch(2) flags
IN_ONLYDIR = 0x01000000
IN_MASK_ADD = 0x20000000

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_EMPTY_PATH = 0x1000
AT_STATX_DONT_SYNC = 0x4000
STATX_BASIC = 0x7FF
STATX_BTIME = 0x800
STATX_MNT_ID = 0x1000
STATX_ATTR_MOUNT_ROOT = 0x2000
STATX_MNT_ID_UNIQUE = 0x4000
OPEN_TREE_CLONE = 1
MAX_HANDLE_SZ = 128
HANDLE_TRIES = 50
O_PATH = getattr(os, "O_PATH", 0o10000000)
O_PATH_DIR = O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
O_PATH_ENTRY = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC    # triggers no automount: O_DIRECTORY does
O_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class Error(OSError):
    """Anything a person can meet: what was being done, on what, why not, and what to do.

    An OSError: `errno` is the number, str() the one line to show, `reason` that without what to
    do.  `detail` has further lines where there are any (a verifier's log), else "".
    """

    def __init__(self, number, message, detail="", hint=""):
        super().__init__(number, message + ("; " + hint if hint else ""))
        self.reason, self.detail = message, detail

    def __str__(self):
        return self.strerror


def failure(number, doing, on=None, hint=""):
    """The Error for errno `number` met while `doing` something `on` a thing, if any.

    `hint`: what to do, or {errno: what to do}.
    """
    if on is not None:
        doing += " " + (printable(on) or '""')
    text = doing + ": " + os.strerror(number)
    if isinstance(hint, dict):
        hint = hint.get(number)
    elif number in LIMITS:
        hint = None                     # it is none of what else may go wrong there
    return Error(number, text, hint=hint or what_to_do(number))


def module(name, doing):
    """A module of the standard library that only some of fanfp needs, and some Pythons lack."""
    try:
        __import__(name)
    except ImportError as why:
        raise Error(errno.ENOSYS, "%s: this Python lacks what it needs: %s; %s"
                    % (doing, why, INSTALL))
    return sys.modules[name]


LIMITS = {errno.EMFILE: "see ulimit -n", errno.ENFILE: "see /proc/sys/fs/file-max"}


def what_to_do(number):
    """What helps with an errno wherever it is met; "" where that depends."""
    if number == errno.EACCES:
        if capabilities() & (CAP_DAC_OVERRIDE | CAP_DAC_READ_SEARCH):
            return "not even root may: its file system or a security module forbids it"
        return "run as root, or have its owner let you (chmod)"
    return LIMITS.get(number, "")


def in_words(error):
    """An OSError as an Error: Python's own gets its words here."""
    if isinstance(error, Error):
        return error
    if error.errno is None:
        return Error(errno.EIO, str(error))
    if isinstance(error.filename, (str, bytes)):
        return failure(error.errno, "opening", os.fsdecode(error.filename))
    return failure(error.errno, "asking the kernel")


def worded(error):
    """An OSError as the line to show."""
    return str(in_words(error))


PROTOTYPES = {
    "fanotify_init": (ctypes.c_uint, ctypes.c_uint),
    "fanotify_mark": (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int,
                      ctypes.c_char_p),
    "memfd_create": (ctypes.c_char_p, ctypes.c_uint),
    "name_to_handle_at": (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p,
                          ctypes.c_int),
    "open_by_handle_at": (ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "timerfd_create": (ctypes.c_int, ctypes.c_int),
    "timerfd_settime": (ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p),
    "fcntl": (ctypes.c_int, ctypes.c_int),
    "ioctl": (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p),
    "capget": (ctypes.c_char_p, ctypes.c_char_p),
    "capset": (ctypes.c_char_p, ctypes.c_char_p),
    "prctl": (ctypes.c_int,) + 4 * (ctypes.c_ulong,),
    "inotify_init1": (ctypes.c_int,),
    "inotify_add_watch": (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32),
    "inotify_rm_watch": (ctypes.c_int, ctypes.c_int),
    "statfs64": (ctypes.c_char_p, ctypes.c_void_p),
    "fstatfs64": (ctypes.c_int, ctypes.c_void_p),
    "write": (ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t),
    "regcomp": (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int),
    "regexec": (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_int),
    "regerror": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t),
}
# What does the same where a C library has no function of a name: musl has 64 bits for numbers of
# blocks on all machines, glibc on those of 32 bits only in the functions that say so.
OTHER_NAMES = {"statfs64": "statfs", "fstatfs64": "fstatfs"}
_functions = {}


def libc():
    """The C library of this process, whichever it is (the dynamic loader's default scope)."""
    if "" not in _functions:
        try:
            _functions[""] = ctypes.CDLL(None, use_errno=True)
        except (OSError, TypeError) as reason:
            raise Error(errno.ENOSYS, "loading the C library: %s; fanfp needs a Python that is "
                                      "not linked statically" % reason)
    return _functions[""]


def call(name, *arguments):
    """Call a C library function; return its result, or -1 with ctypes.get_errno() set."""
    function = _functions.get(name)
    if function is None:
        function = getattr(libc(), name, None) or getattr(libc(), OTHER_NAMES.get(name, ""), None)
        if function is None:
            raise Error(errno.ENOSYS, "calling %s: this C library has no such function; "
                                      "use another Python build or --filter inotify" % name)
        function.argtypes = PROTOTYPES[name]
        _functions[name] = function
    return function(*arguments)


# What differs from machine to machine, as <asm/unistd.h>, <asm/statfs.h> and <asm/ioctls.h> say:
#   base       what is added to the numbers of all system calls
#   bpf        the number of bpf(2)
#   statx      the number of statx(2)
#   fsid       where f_fsid is in struct statfs64
#   fionread   FIONREAD
Abi = collections.namedtuple("Abi", "base bpf statx fsid fionread")

FIONREAD, FIONREAD_BSD = 0x541B, 0x4004667F
# By the ABI of this process, as its ELF header tells it: a 32-bit program may run on a 64-bit
# kernel.  e_machine and bits, and "n32" for that ABI of MIPS.
ABIS = {
    (3, 32): Abi(0, 357, 383, 48, FIONREAD),                     # x86
    (62, 64): Abi(0, 321, 332, 56, FIONREAD),                    # x86-64
    (62, 32): Abi(0x40000000, 321, 332, 56, FIONREAD),           # x86-64, x32
    (40, 32): Abi(0, 386, 397, 48, FIONREAD),                    # ARM
    (20, 32): Abi(0, 361, 383, 48, FIONREAD_BSD),                # PowerPC
    (21, 64): Abi(0, 361, 383, 56, FIONREAD_BSD),
    (22, 32): Abi(0, 351, 379, 48, FIONREAD),                    # S/390: f_type has 32 bits
    (22, 64): Abi(0, 351, 379, 48, FIONREAD),
    (8, 32): Abi(4000, 355, 366, 56, 0x467F),                    # MIPS, o32: a word more in statfs
    (8, "n32"): Abi(6000, 319, 330, 56, 0x467F),
    (8, 64): Abi(5000, 315, 326, 64, 0x467F),
    (2, 32): Abi(0, 349, 360, 48, FIONREAD_BSD),                 # SPARC
    (18, 32): Abi(0, 349, 360, 48, FIONREAD_BSD),
    (43, 64): Abi(0, 349, 360, 56, FIONREAD_BSD),
    (0x9026, 64): Abi(110, 405, 412, 48, FIONREAD_BSD),          # Alpha
    (15, 32): Abi(0, 341, 349, 48, FIONREAD),                    # PA-RISC
    (4, 32): Abi(0, 354, 379, 48, FIONREAD),                     # m68k
    (42, 32): Abi(0, 375, 383, 48, 0x8004667F),                  # SuperH
    (94, 32): Abi(0, 340, 351, 48, 0x8004667F),                  # Xtensa
    (189, 32): Abi(0, 387, 398, 48, FIONREAD),                   # MicroBlaze
}
GENERIC_ABIS = {                        # all others: <asm-generic/unistd.h>
    32: Abi(0, 280, 291, 48, FIONREAD), 64: Abi(0, 280, 291, 56, FIONREAD),
}
# Numbers since Linux 5.1 are the same on all machines, but for the base.
NEW_CALLS = {"timerfd_settime64": 411, "open_tree": 428}
EM_MIPS, EF_MIPS_ABI2 = 8, 0x20
_abi = []


def abi():
    """The Abi of this process."""
    if not _abi:
        try:
            with open("/proc/self/exe", "rb") as file:
                header = file.read(52)
        except OSError as error:
            raise failure(error.errno, "reading what machine Python is for from", "/proc/self/exe",
                          "is /proc mounted?  mount -t proc proc /proc")
        bits = 32 * header[4]                                   # EI_CLASS
        machine, = struct.unpack_from("=H", header, 18)
        key = machine, bits
        if key == (EM_MIPS, 32) and struct.unpack_from("=I", header, 36)[0] & EF_MIPS_ABI2:
            key = machine, "n32"
        _abi.append(ABIS.get(key) or GENERIC_ABIS[bits])
    return _abi[0]


def system_call(name, *arguments):
    """Make a system call that not every C library has a function for, by its number; return its
    result, or -1 with ctypes.get_errno() set."""
    number = NEW_CALLS.get(name) or getattr(abi(), name)
    return libc().syscall(ctypes.c_long(abi().base + number), *(
        ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))


def forbidden(capability, otherwise):
    """What to do about EPERM from a system call that takes a capability: get it, or `otherwise`,
    or, where this process has it, look for who forbids the call all the same."""
    if capabilities() & capability == capability:
        return ("this process may, so a seccomp filter (a container's?), a user namespace or a "
                "security module forbids it; use --filter inotify")
    return otherwise


NEEDS_ROOT = "needs root (CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH), or --filter inotify"


def fanotify_init(flags):
    """A new notification group: its file descriptor.  fanotify_init(2)."""
    fd = call("fanotify_init", flags | FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY)
    if fd < 0:
        number = ctypes.get_errno()
        hint = {errno.EPERM: forbidden(CAP_SYS_ADMIN, NEEDS_ROOT),
                errno.ENOSYS: "this kernel has no fanotify; use --filter inotify",
                errno.EINVAL: "its events do not say which file they are of (Linux 5.17); use "
                              "--filter trace or inotify",
                errno.EMFILE: "too many groups or descriptors; see "
                              "/proc/sys/fs/fanotify/max_user_groups and ulimit -n"}
        raise failure(number, "making a fanotify group", None, hint)
    return fd


def fanotify_mark(group, flags, mask, directory, path, shown=""):
    """Add, remove or flush marks of a group.  fanotify_mark(2).  `path` is bytes or None."""
    if call("fanotify_mark", group, flags, mask, directory, path) < 0:
        number = ctypes.get_errno()
        hint = {errno.EPERM: forbidden(CAP_SYS_ADMIN, NEEDS_ROOT),
                errno.ENOSPC: "see /proc/sys/fs/fanotify/max_user_marks",
                errno.EOPNOTSUPP: "this file system has no file handles; use --filter inotify",
                errno.ENODEV: "this file system has no identifier; use --filter inotify",
                errno.EXDEV: "a part of a file system can't be marked; use --filter inotify"}
        raise failure(number, "marking", shown or (os.fsdecode(path) if path else None), hint)


def new_group():
    """A group whose events say the directory, the name in it and the file itself."""
    return fanotify_init(FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME
                         | FAN_REPORT_TARGET_FID | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS)


HANDLE_HEADER = struct.Struct("=Ii")     # struct file_handle: handle_bytes, handle_type


def name_to_handle(directory, path=b"", shown="a directory"):
    """(handle, mount id) of a file: the bytes of its struct file_handle.  name_to_handle_at(2)."""
    buffer = ctypes.create_string_buffer(HANDLE_HEADER.pack(MAX_HANDLE_SZ, 0),
                                         HANDLE_HEADER.size + MAX_HANDLE_SZ)
    mount = ctypes.c_int()
    if call("name_to_handle_at", directory, path, buffer, ctypes.byref(mount),
            0 if path else AT_EMPTY_PATH) < 0:
        raise failure(ctypes.get_errno(), "asking for the file handle of",
                      shown, "use --filter inotify")
    raw = buffer.raw
    return raw[:HANDLE_HEADER.size + HANDLE_HEADER.unpack_from(raw)[0]], mount.value


# What is in the handle of a directory of btrfs, struct btrfs_fid: inode number, number of the
# subvolume, generation.  All subvolumes hang from the top of the file system, which is one.
BTRFS_FID, BTRFS_FID_TYPE = struct.Struct("=QQI"), 0x4d
BTRFS_ROOT, BTRFS_TOP_SUBVOLUME = 256, 5    # inode number of a subvolume's root; number of the top
# Of <linux/btrfs.h>: struct btrfs_ioctl_search_key; its and the results' size together; the size of
# what comes before a result; and what the item of an inode begins with, its generation.
BTRFS_IOC_TREE_SEARCH, BTRFS_INODE_ITEM = 0xD0009411, 1
BTRFS_SEARCH, BTRFS_SEARCH_ROOM, BTRFS_FOUND = struct.Struct("=7Q4I32x"), 4096, 32
BTRFS_GENERATION = struct.Struct("<Q")


def key_of(at, handle, shown=None):
    """The key of a directory, given as filesystem_id() takes it and by its handle: what names it in
    the events of a file-system mark."""
    return mark_id(filesystem_id(at, shown), handle) + handle


def mark_id(fsid, handle):
    """The id that the events of a file-system mark bear, of what has an id and a handle.

    The same, but on btrfs: each subvolume has its own there, which is that of the file system with
    the number of the subvolume in it by exclusive or (btrfs_statfs()), and events bear the top's.
    """
    _, number = btrfs_place(handle)
    number ^= BTRFS_TOP_SUBVOLUME
    high, low = struct.unpack("=II", fsid)
    return struct.pack("=II", high ^ number >> 32, low ^ number & 0xFFFFFFFF)


def btrfs_place(handle):
    """(inode number, subvolume) of a directory on btrfs; elsewhere those of the top of one."""
    size, kind = HANDLE_HEADER.unpack_from(handle)
    if (size, kind) != (BTRFS_FID.size, BTRFS_FID_TYPE):
        return BTRFS_ROOT, BTRFS_TOP_SUBVOLUME
    return BTRFS_FID.unpack_from(handle, HANDLE_HEADER.size)[:2]


def btrfs_top(fd, display):
    """The handle of the top of a file system of btrfs of which a directory is open.

    Before Linux 6.2 the kernel takes it with the right generation only, which the tree of the top
    says.  BTRFS_IOC_TREE_SEARCH, as CAP_SYS_ADMIN may.
    """
    anything = (1 << 64) - 1
    buffer = ctypes.create_string_buffer(BTRFS_SEARCH.pack(
        BTRFS_TOP_SUBVOLUME, BTRFS_ROOT, BTRFS_ROOT, 0, 0, 0, anything,
        BTRFS_INODE_ITEM, BTRFS_INODE_ITEM, 1, 0), BTRFS_SEARCH_ROOM)
    if call("ioctl", fd, BTRFS_IOC_TREE_SEARCH, buffer) < 0:
        raise failure(ctypes.get_errno(), "asking for the top of the file system of", display,
                      "use --filter inotify")
    generation, = BTRFS_GENERATION.unpack_from(buffer, BTRFS_SEARCH.size + BTRFS_FOUND)
    return HANDLE_HEADER.pack(BTRFS_FID.size, BTRFS_FID_TYPE) + BTRFS_FID.pack(
        BTRFS_ROOT, BTRFS_TOP_SUBVOLUME, generation & 0xFFFFFFFF)


def mark_filesystem(group, mask, root, fd, flag=FAN_MARK_ADD):
    """Mark the file system of a root, open as `fd`: its path may be one of another namespace, or
    lead elsewhere.

    From a subvolume of btrfs the kernel does not let it be marked; from the top it does, and the
    top is opened by its handle, whichever subvolume is mounted.
    """
    flags = flag | FAN_MARK_FILESYSTEM
    if btrfs_place(root.key[8:])[1] == BTRFS_TOP_SUBVOLUME:
        return fanotify_mark(group, flags, mask, fd, b".", root.display)
    with Closing(open_by_handle(fd, btrfs_top(fd, root.display))) as top:
        if filesystem_id(top, root.display) != root.key[:8]:
            raise Error(errno.EXDEV, "marking %s: the top of its file system has another "
                        "identifier; use --filter inotify" % printable(root.display))
        return fanotify_mark(group, flags, mask, top, b".", root.display)


def open_by_handle(mount_fd, handle, flags=O_PATH_DIR):
    """A descriptor of the directory of a handle, by default O_PATH (which makes no event).

    OSError ESTALE: it is gone.  open_by_handle_at(2).  `mount_fd`: any ordinary descriptor there.
    """
    for _ in range(HANDLE_TRIES):
        fd = call("open_by_handle_at", mount_fd, handle, flags)
        if fd >= 0 or ctypes.get_errno() != errno.ENOMEM:
            break
        # So ext4 says of a directory that is being removed, for less than a millisecond; then it
        # is ESTALE.  On Linux 6.18 a thousand times in a million.
        time.sleep(0.001)
    if fd < 0:
        number = ctypes.get_errno()
        raise failure(number, "opening a file handle", None,
                      forbidden(CAP_DAC_READ_SEARCH, "needs CAP_DAC_READ_SEARCH")
                      if number == errno.EPERM else "")
    return fd


# struct statx, of which this is what is asked for here.
STATX = struct.Struct("=I4xQI8xH2xQ16xQ16xqI4xqI4xqI20xQ")
Statx = collections.namedtuple("Statx", """
    mask attributes nlink mode ino attributes_mask btime btime_nsec ctime ctime_nsec mtime
    mtime_nsec mnt_id""")
Status = collections.namedtuple("Status", "mode inode links ctime mtime birth")


def statx(directory, name, flags, mask):
    """The Statx of a name in an open directory, or None with ctypes.get_errno() set.  statx(2):
    what os.stat() does not tell.

    No automount is triggered, and a file system that asks somebody else (FUSE) is not made to.
    """
    buffer = ctypes.create_string_buffer(256)
    if system_call("statx", directory, name, flags | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC, mask,
                   buffer):
        return None
    return Statx(*STATX.unpack_from(buffer))


def status_of(directory, name):
    """The Status of an entry of an open directory, whatever may be mounted there: os.stat() asks
    that for an answer.  OSError.

    Times are in seconds; `birth` is 0 where nobody knows: not every file system keeps it.
    """
    found = statx(directory, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC | STATX_BTIME)
    if found is not None:
        return Status(found.mode, found.ino, found.nlink, found.ctime + 1e-9 * found.ctime_nsec,
                      found.mtime + 1e-9 * found.mtime_nsec,
                      found.btime + 1e-9 * found.btime_nsec if found.mask & STATX_BTIME else 0)
    if ctypes.get_errno() not in (errno.ENOSYS, errno.EPERM):
        raise failure(ctypes.get_errno(), "looking at", os.fsdecode(name))
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return Status(status.st_mode, status.st_ino, status.st_nlink, status.st_ctime,
                  status.st_mtime, 0)


def queued(fd):
    """The bytes that wait in an inotify instance: FIONREAD, inotify(7)."""
    count = ctypes.c_int()
    if call("ioctl", fd, abi().fionread, ctypes.byref(count)) < 0:
        raise failure(ctypes.get_errno(), "asking how much waits in an inotify instance")
    return count.value


def readable(fd, seconds=0):
    """Whether there is something to read from a descriptor within so many seconds; None: ever."""
    poll = select.poll()                # select.select() takes no numbers above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def read_waiting(fd, size):
    """What there is to be read without waiting, up to `size` bytes."""
    try:
        return os.read(fd, size)
    except BlockingIOError:
        return b""


def is_mount_root(fd):
    """Whether an open directory is the root of its mount.  statx(2), Linux 5.8."""
    found = statx(fd, b"", AT_EMPTY_PATH, 0)
    if found is None or not found.attributes_mask & STATX_ATTR_MOUNT_ROOT:
        raise failure(ctypes.get_errno() if found is None else errno.ENOSYS,
                      "asking whether a directory is the root of its mount", None,
                      "this takes statx(2) of Linux 5.8, and a seccomp filter (a container's?) may "
                      "forbid it; use --filter inotify")
    return bool(found.attributes & STATX_ATTR_MOUNT_ROOT)


class Closing:
    """For `with`: a descriptor that is closed at the end, unless it `is_kept`."""

    def __init__(self, fd, is_kept=False):
        self.fd, self.is_kept = fd, is_kept

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        if not self.is_kept:
            os.close(self.fd)


class OnFailure:
    """For `with`: what to call where it fails, to undo what was done before."""

    def __init__(self, undo, *arguments):
        self.undo, self.arguments = undo, arguments

    def __enter__(self):
        return None

    def __exit__(self, kind, *_):
        if kind is not None:
            self.undo(*self.arguments)


def path_to_fd(fd):
    """A path, as bytes, that leads to an open file whatever becomes of its names.  Needs /proc."""
    return b"/proc/self/fd/%d" % fd


def fd_path(fd):
    """The path of an open descriptor, as bytes, as it is now.  Needs /proc."""
    try:
        return os.readlink(path_to_fd(fd))
    except FileNotFoundError:
        raise Error(errno.ENOENT, "reading /proc/self/fd: /proc is not mounted; "
                                  "mount -t proc proc /proc")


def filesystem_id(at, shown=None):
    """The 8 bytes by which fanotify events name a file system.  statfs(2), fstatfs(2).

    Of a path, which may lead to another one any moment, or of an open descriptor.
    """
    buffer = ctypes.create_string_buffer(256)
    if call("fstatfs64" if isinstance(at, int) else "statfs64", at, buffer) < 0:
        raise failure(ctypes.get_errno(), "asking for the file system of",
                      os.fsdecode(at) if shown is None else shown)
    return buffer.raw[abi().fsid:abi().fsid + 8]


def read_file(name, directory=None, size=1 << 16):
    """What is in a small file of /proc, as bytes; b"" where it can't be read."""
    try:
        # Not open(): its buffers cost three times the rest, and each batch asks anew.
        with Closing(os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)) as fd:
            return os.read(fd, size)
    except OSError:
        return b""


def _numbers(release, count=2):
    """(6, 12) of 6.12.48-generic."""
    parts = release.replace("-", ".").split(".") + count * ["0"]
    return tuple(int(part) if part.isdigit() else 0 for part in parts[:count])


def _kernel_release():
    """(major, minor) of the running kernel."""
    return _numbers(os.uname().release)


# Capabilities, <linux/capability.h> and capabilities(7), as bits.
CAP_DAC_OVERRIDE = 1 << 1
CAP_DAC_READ_SEARCH = 1 << 2
CAP_SYS_PTRACE = 1 << 19
CAP_SYS_ADMIN = 1 << 21
CAP_SYSLOG = 1 << 34
CAP_LAST = 63                           # as many as the sets have bits for

CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)       # version 3; this thread
CAPABILITY_SETS = struct.Struct("=6I")  # effective, permitted, inheritable: low halves, then high

PR_SET_NAME, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 15, 24, 38, 47
PR_CAP_AMBIENT_CLEAR_ALL = 4


def capabilities():
    """The capabilities in effect, as bits; 0 where the system call is forbidden.  capget(2)."""
    sets = ctypes.create_string_buffer(CAPABILITY_SETS.size)
    if call("capget", ctypes.create_string_buffer(CAPABILITY_HEADER, 8), sets) < 0:
        return 0
    halves = CAPABILITY_SETS.unpack(sets.raw)
    return halves[0] | halves[3] << 32


def keep_capabilities(kept):
    """Drop every capability but those in `kept` from all sets, for good: no execve(2) gives any
    back.  capset(2), prctl(2)."""
    # The order matters: taking from the bounding set takes CAP_SETPCAP, and where that is
    # missing, no_new_privs does the same for a program with set-user-ID or capabilities.
    call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    for number in range(CAP_LAST + 1):
        if not kept >> number & 1:
            call("prctl", PR_CAPBSET_DROP, number, 0, 0, 0)
    kept &= capabilities()
    low, high = kept & 0xFFFFFFFF, kept >> 32
    sets = CAPABILITY_SETS.pack(low, low, 0, high, high, 0)
    if call("capset", ctypes.create_string_buffer(CAPABILITY_HEADER, 8), sets) < 0:
        raise failure(ctypes.get_errno(), "dropping capabilities", None, "it keeps those it has")


def printable(text):
    """`text` with what could move a terminal or end a line written as an escape (\\n, \\x1b).

    Backslashes are doubled, so that the result says exactly which name it is.  \\x80 and above are
    bytes that are no UTF-8, \\u0080 and above characters.
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(map(_escape, text))


def _escape(char):
    if char.isprintable() and char != "\\":
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return "\\x%02x" % (code - 0xDC00)
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\"}.get(char) or (
        "\\x%02x" % code if code < 0x80 else
        "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code)


def with_slash(path):
    """A str with a slash at its end."""
    return path if path.endswith("/") else path + "/"


def shown_name(root):
    """What a root is called in events."""
    return root.rstrip("/") or root[:1]


def below(path, top):
    """What follows `top` in `path`, both bytes or both str; what is empty for itself; None where
    it is not below it."""
    if path == top:
        return path[:0]
    slash = b"/" if isinstance(top, bytes) else "/"
    top = top if top.endswith(slash) else top + slash
    return path[len(top):] if path.startswith(top) else None


# =============================================================================================
# 2. Events
# =============================================================================================

EVENTS = {
    "CREATE": CREATE, "MOVED_TO": MOVED_TO, "RENAME": RENAME, "OPEN": OPEN,
    "OPEN_EXEC": OPEN_EXEC, "ACCESS": ACCESS, "MODIFY": MODIFY, "ATTRIB": ATTRIB,
    "CLOSE_WRITE": CLOSE_WRITE, "CLOSE_NOWRITE": CLOSE_NOWRITE, "MOVED_FROM": MOVED_FROM,
    "DELETE": DELETE, "MOVE_SELF": MOVE_SELF, "DELETE_SELF": DELETE_SELF, "UNMOUNT": UNMOUNT,
    "FS_ERROR": FS_ERROR, "Q_OVERFLOW": Q_OVERFLOW,
}
"""Every event's name (as inotifywait has it) and bit, in the order in which most things happen."""

DEFAULT_EVENTS = ("CREATE", "DELETE", "MODIFY", "CLOSE_WRITE", "RENAME", "MOVED_FROM", "MOVED_TO",
                  "DELETE_SELF", "MOVE_SELF", "FS_ERROR")
"""Changes of names and contents, and the errors of file systems.  Not ATTRIB: every unlink makes
one that no mark can hold back."""

GROUPS = {"ALL": tuple(EVENTS), "CLOSE": ("CLOSE_WRITE", "CLOSE_NOWRITE"),
          "MOVE": ("MOVED_FROM", "MOVED_TO", "RENAME")}

# What the kernel reports whether or not it was asked for, and so does fanfp.
ALWAYS = Q_OVERFLOW | UNMOUNT

_names_of = {}


def event_names(mask):
    """The names of the events in `mask`, in the order of EVENTS: a tuple, without ISDIR."""
    names = _names_of.get(mask)
    if names is None:
        names = tuple(name for name, bit in EVENTS.items() if mask & bit)
        _names_of[mask] = names
    return names


def event_mask(names):
    """The bits of events given by name, in any case; ALL, CLOSE and MOVE stand for several."""
    mask = 0
    if isinstance(names, str):
        names = names.replace(",", " ").split()
    try:
        names = list(names)
    except TypeError:
        raise TypeError("choosing events: names (str) are wanted, not %r" % (names,))
    if not names:
        raise Error(errno.EINVAL, "choosing events: none is named")
    for name in names:
        if not isinstance(name, str):
            raise TypeError("choosing events: a name (str) is wanted, not %r" % (name,))
        for each in GROUPS.get(name.upper(), (name.upper(),)):
            if each not in EVENTS:
                raise Error(errno.EINVAL, "choosing events: there is no event %s; there are %s"
                            % (printable(name), " ".join(list(EVENTS) + list(GROUPS))))
            mask |= EVENTS[each]
    if not mask:
        raise Error(errno.EINVAL, "choosing events: none is named; name some, or none at all for "
                    "the default")
    return mask


class Event(collections.namedtuple("Event", "path mask pid time old_path moment")):
    """One event, or several of one name that were merged while they waited.

    path      str as os.fsdecode gives it, or None for Q_OVERFLOW and for what can't be named.
              Of FS_ERROR that of the root, or of the mount inside, which is on the file system
    mask      int, bits of EVENTS and ISDIR
    pid       int, process id of who did it; None where the kernel does not say (inotify), and of
              a process in another pid namespace, which has no number in this one
    time      float, seconds since the epoch, when it was read
    old_path  str, the path before a RENAME, else None
    moment    Moment, what it has in common with the events that were read with it
    """

    __slots__ = ()

    @property
    def events(self):
        """The names of what happened, a tuple."""
        return event_names(self.mask)

    @property
    def is_dir(self):
        """Whether the path is a directory's."""
        return bool(self.mask & ISDIR)

    @property
    def root(self):
        """The root that it is of, str as in Watch.roots: the innermost, where one is in another's
        tree.  The making, removal and moving of a directory is of the root above it, if there is
        one.  None where the path is None."""
        if self.path is None:
            return None
        return self.moment.root_of(self.path, self.mask & ISDIR and self.mask & DIRENT)

    @property
    def comm(self):
        """The name of the process that did it, str (at most 15 bytes), or None."""
        return None if self.pid is None else self.moment.processes.name(self.pid) or None

    @property
    def uid(self):
        """The real user id of the process that did it, int, or None."""
        return None if self.pid is None else self.moment.processes.uid(self.pid)

    @property
    def fs_error(self):
        """The FsError of an FS_ERROR, else None."""
        return self.moment.fs_error

    @property
    def process(self):
        """The Process that did it, or None where the pid is None: more than `comm` and `uid`
        takes several more reads."""
        return None if self.pid is None else self.moment.processes[self.pid]

    def __repr__(self):
        return "Event(%s)" % ", ".join("%s=%r" % item for item in zip(self._fields, self[:5]))

    def __reduce__(self):
        """Pickled or copied it keeps who did it, as can be known now: for another process."""
        known = Known(self.process)
        return Event, self[:5] + (Moment(self.moment.roots, known, self.moment.fs_error),)


class Moment:
    """What the events of one read have in common.

    roots      tuple of str, the roots watched then, as they were given
    processes  Processes, who was there then
    fs_error   FsError, where it is the moment of an FS_ERROR alone, else None
    """

    __slots__ = ("roots", "processes", "fs_error")

    def __init__(self, roots, processes, fs_error=None):
        self.roots, self.processes, self.fs_error = roots, processes, fs_error

    def root_of(self, path, is_entry):
        """The innermost root that a path is of, or None; if `is_entry`, the one that it is in."""
        found = [root for root in self.roots if below(path, root)]
        if path in self.roots and not (is_entry and found):
            return path
        return max(found, key=len) if found else None


FsError = collections.namedtuple("FsError", "error count inode")
"""What a file system says of its errors, fanotify(7).

error  int, errno of the first since the last FS_ERROR: EUCLEAN (damaged), EIO, ...
count  int, how many there were since then
inode  int, number of the inode of the first; None where it is of none, or the kernel does not say
"""


# --- what read(2) gives on a fanotify descriptor, fanotify(7) ---

# struct fanotify_event_metadata, then the start of the first information record:
# event_len, (vers, reserved, metadata_len), mask, fd, pid | info_type, pad, len, fsid, file_handle
METADATA = struct.Struct("=IIQii")
FIRST_INFO = struct.Struct("=IIQ4xiBxH8xI4x")
INFO = struct.Struct("=BxH8xI4x")
ERROR_INFO = struct.Struct("=4xiI")     # struct fanotify_event_info_error: error, error_count
# Types of handles that begin with the number of the inode: enum fid_type.
INODE_FORMS = {1: "=I", 2: "=I", 0x81: "=Q", 0x82: "=Q"}
VERSION = struct.unpack("=I", struct.pack("=BBH", 3, 0, METADATA.size))[0]

# Record types, enum fanotify_event_info_type.  DFID_NAME has a directory's handle and a name.
INFO_FID = 1
INFO_DFID_NAME = 2
INFO_DFID = 3
INFO_ERROR = 5
INFO_OLD_DFID_NAME = 10
INFO_NEW_DFID_NAME = 12

DIRENT = MOVED_FROM | MOVED_TO | CREATE | DELETE | RENAME
MOVES = MOVED_FROM | MOVED_TO | RENAME
LISTING = OPEN | ACCESS | CLOSE_NOWRITE     # what reading a directory makes
# Events that need more than a directory and a name; decode() gives these all their records.
INTRICATE = ISDIR | MOVES | DELETE_SELF | MOVE_SELF | Q_OVERFLOW | FS_ERROR
# What is of a file system or the queue, and of no name: not chosen by path or process.
OF_NO_NAME = FS_ERROR | Q_OVERFLOW
# What is done by way of an open file: of a device node that is no change of the tree.
THROUGH = ACCESS | MODIFY | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | OPEN_EXEC

Raw = collections.namedtuple("Raw", "mask pid key name target old_key old_name end")
"""A decoded event.  A key is the bytes of a file-system id and a file handle.

key, name          of the directory and the entry in it; None where the event has none.  Of FS_ERROR
                   the key of the file, and the FsError
target             key of the entry's own file, for INTRICATE events that say it, else None
old_key, old_name  where a RENAME came from, else None
end                offset of the next event in the buffer
"""


def decode(buffer, at=0):
    """Yield the events in a buffer read from a fanotify descriptor, as tuples shaped like Raw.

    Raises Error(EBADMSG) where the buffer is not what a kernel gives, after the events before.
    """
    unpack, enough, size = FIRST_INFO.unpack_from, FIRST_INFO.size, len(buffer)
    index = buffer.index
    while at < size:
        if size - at >= enough:
            # The plain case, nine in ten, in one unpack.  Everything is checked: an offset
            # that left its event would read another's name.
            length, version, mask, pid, kind, info, handle = unpack(buffer, at)
            end = at + length
            key_at, info_end = at + 28, at + 24 + info
            name_at = key_at + 16 + handle
            if (kind == INFO_DFID_NAME and not mask & INTRICATE and version == VERSION
                    and name_at < info_end <= end <= size and handle <= MAX_HANDLE_SZ):
                try:
                    name = buffer[name_at:index(0, name_at, info_end)]
                except ValueError:
                    raise damaged(at, "a name has no end")
                yield mask, pid, buffer[key_at:name_at], name, None, None, None, end
                at = end
                continue
        raw = decode_one(buffer, at, size)
        yield raw
        at = raw.end


def decode_one(buffer, at, size):
    """The event at an offset, of any kind, as a Raw."""
    if size - at < METADATA.size:
        raise damaged(at, "%d bytes are no event" % (size - at))
    length, version, mask, _, pid = METADATA.unpack_from(buffer, at)
    if version != VERSION:
        raise damaged(at, "not version 3 of struct fanotify_event_metadata")
    if not METADATA.size <= length <= size - at:
        raise damaged(at, "an event of %d bytes where there are %d" % (length, size - at))
    end = at + length
    found, error = {}, (errno.EIO, 1)
    info_at = at + METADATA.size
    while info_at < end:
        if end - info_at < 4:
            raise damaged(at, "an information record is cut off")
        kind, info = struct.unpack_from("=BxH", buffer, info_at)
        if not 4 <= info <= end - info_at:
            raise damaged(at, "an information record of %d bytes" % info)
        if kind in (INFO_FID, INFO_DFID, INFO_DFID_NAME, INFO_OLD_DFID_NAME, INFO_NEW_DFID_NAME):
            found[kind] = decode_info(buffer, info_at, info, kind, at)
        elif kind == INFO_ERROR and info >= ERROR_INFO.size:
            error = ERROR_INFO.unpack_from(buffer, info_at)
        info_at += info
    if mask & FS_ERROR:
        file = found.get(INFO_FID, (b"",))[0]
        return Raw(mask, pid, file, FsError(*error + (inode_in(file),)), None, None, None, end)
    old_key, old_name = found.get(INFO_OLD_DFID_NAME, (None, None))
    key, name = (found.get(INFO_DFID_NAME) or found.get(INFO_NEW_DFID_NAME)
                 or found.get(INFO_DFID) or (None, None))
    return Raw(mask, pid, key, name, found.get(INFO_FID, (None,))[0], old_key, old_name, end)


def decode_info(buffer, at, length, kind, event_at):
    """(key, name) of one information record; the name of a record without one is b"."."""
    if length < INFO.size:
        raise damaged(event_at, "an information record of %d bytes" % length)
    handle = INFO.unpack_from(buffer, at)[2]
    name_at, end = at + INFO.size + handle, at + length
    if handle > MAX_HANDLE_SZ or name_at > end:
        raise damaged(event_at, "a file handle of %d bytes" % handle)
    name = b"."
    if kind not in (INFO_FID, INFO_DFID):
        stop = buffer.find(b"\0", name_at, end)
        if stop < 0:
            raise damaged(event_at, "a name has no end")
        name = buffer[name_at:stop]
    return buffer[at + 4:name_at], name


def inode_in(key):
    """The number of the inode that a key is of, as far as its kind of handle tells, or None."""
    form = INODE_FORMS.get(struct.unpack_from("=i", key, 12)[0]) if len(key) >= 24 else None
    return struct.unpack_from(form, key, 16)[0] if form else None


def damaged(at, what):
    """The Error for a buffer that can't be decoded at offset `at`."""
    return Error(errno.EBADMSG, "decoding fanotify events at byte %d: %s; please report this "
                                "with the output of uname -a" % (at, what))


_FS_ENCODING = sys.getfilesystemencoding()
_FS_ERRORS = "surrogateescape"


# =============================================================================================
# 3. Directories: file handle -> path
# =============================================================================================
# What comes in are file handles, and what the kernel says of them; what goes out are paths.  The
# list of mounts is here as well.  It uses section 1.
#
# An event names a directory by its handle and is of a moment past; the kernel, asked where that
# directory is, answers for now.  What reconciles the two, for one directory at a time:
#
#   - What moves or removes a directory after the event being judged is still in the queue, and
#     says where it was until then (class Past, in section 6).
#   - Of a directory that nothing in the queue moves or removes, the answer for now is the answer
#     for then.
#
# The kernel changes a name first and queues the event a moment later, but both under the lock of
# the directory that has the name (vfs_rename(), vfs_rmdir(), vfs_mkdir()).  So once a name has
# been looked up there, the event is in the queue: see settle().
#
# Walking up compares handles, never paths, so it does not matter what the roots are called by
# now, through which mount one looks, or how many roots there are.

TABLE_LIMIT = 1 << 17                   # directories remembered; some 40 MB when full
OUTSIDE_LIMIT = 1 << 15                 # of those outside; of most no other event comes
DEVICE_KINDS = ("devtmpfs", "devpts")   # file systems of device nodes
PREFIX_LIMIT = 4096                     # longer paths are composed anew each time
RECENT = 2.0                            # seconds after which a change has long been queued
CLIMB_TRIES = 8                         # of a way up that is changed at the same time
TOO_LONG = b"x" * 256                   # no file system has such a name: a look-up leaves nothing


class Gone(Exception):
    """The handle of a directory opens no more."""


class Covered(Exception):
    """Something is mounted over a directory."""


class Hidden(Exception):
    """A mount is not what its path leads to: another is mounted over it, it has been moved or
    unmounted, or a symbolic link has been put in the place of a directory above it."""


class Duplicate(Exception):
    """What a bind mount shows is in a tree: its events have the path that they have there."""


class Behind(Hidden):
    """The events that tell of the directory in which a mount is are still to be read."""


class Root:
    """A directory given to watch, or the root of a mount inside one: what all sources have of it.

    display  str, as the user gave it, without trailing slashes
    path     bytes, the real one, as last looked up
    fd       a descriptor of the directory.  It pins the mount, as a shell in it would; so a mount
             inside the tree has none and is opened when needed
    key      what it is to its source alone
    mount_id  the number of its mount
    source   the source that watches it
    kind     str, the kind of file system of a mount inside, else None
    is_part  whether it is a mount of a part of a file system, or may be
    is_listed  whether its mount has been in the list of mounts
    is_covered  whether the path of the mount led into one of the far_paths() when last listed
    is_far   whether somebody else answers for it, so that nothing is asked of it
    may_wait  whether its path is looked up though that may lead to who never answers
    """

    fd = key = mount_id = source = None
    is_listed = is_covered = is_far = may_wait = False

    def __init__(self, display, path, mount=None):
        """`mount`: the Mount of which it is the root, inside a tree."""
        self.display, self.path = display, path
        # NFS says "/" of each mount, whatever it is of.
        self.is_part = mount is not None and (mount.root != b"/" or mount.kind.startswith("nfs"))
        self.kind = mount and mount.kind

    def open_by_path(self):
        """open_path() of the mount's path, or of the one that it has since a directory above it has
        been renamed.  OSError when unmounted, or out of reach."""
        try:
            if not self.is_covered:
                return self.open_path()
        except (FileNotFoundError, NotADirectoryError):
            pass
        self.path = path_to(self.mount_id, self.may_wait)
        return self.open_path()

    def shown(self):
        """What to call it, as long as it is watched."""
        return self.display

    def show_as(self, display):
        """It has another name in events from now on."""
        self.display = display

    def remains(self, path):
        """Whether a mount with the same id, at a path, is not another: the kernel gives an id
        again.  True where that can't be told."""
        return True

    def removed(self):
        """Whether the directory has been deleted."""
        return self.fd is not None and is_removed(self.fd)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class HandleRoot(Root):
    """A root that is known by its file handle.  Its `fd` is an ordinary descriptor.

    parent_key  the directory in which it is an entry, where that is to be known: see
                Fanotify.find_parent()
    """

    parent_key = None

    def __init__(self, display, path, mount=None):
        super().__init__(display, path, mount)
        with Closing(os.open(path, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as at, \
                OnFailure(self.close):
            if mount is not None and mount_id_of(at) != mount.id:
                raise Hidden
            handle, self.mount_id = name_to_handle(at, shown=display)
            self.key = key_of(at, handle, display)
            if mount is None:
                self.fd = os.open(b".", O_READ_DIR, dir_fd=at)

    def opened(self):
        """For `with`: an ordinary descriptor of it; OSError when unmounted."""
        if self.fd is not None:
            return Closing(self.fd, is_kept=True)
        return Closing(self.open_by_path())

    def open_path(self):
        """An ordinary descriptor of what its path leads to, if that is it.  OSError."""
        with Closing(path_on(self.path, self.mount_id)) as at:
            fd = os.open(b".", O_READ_DIR, dir_fd=at)
        with OnFailure(os.close, fd):
            if name_to_handle(fd)[0] != self.key[8:]:
                raise another_there()
        return fd

    def remains(self, path):
        try:                    # nothing is opened, which would be in the way of an umount
            handle, before = name_to_handle(AT_FDCWD, path)
            key = key_of(path, handle)
            _, after = name_to_handle(AT_FDCWD, path)
        except OSError:
            return True
        # Else the path led elsewhere meanwhile: a directory above has just been renamed.
        return key == self.key or not before == after == self.mount_id


def another_there():
    """The OSError where what a path leads to is not what it did."""
    return FileNotFoundError(errno.ENOENT, "another directory has its name by now")


class Node:
    """Where a directory in a tree is: an entry of the directory of another Node.

    A root has no parent, and its name is what to show before what is in it.  A Node that was cut
    off has neither, and with it all that hang on it are unknown, at no cost.
    """

    __slots__ = ("parent", "name")

    def __init__(self, parent, name):
        self.parent, self.name = parent, name

    def way_up(self):
        """Its names up to a root, the root's last; [] if it hangs on what was cut off."""
        names, node = [], self
        while node is not None:
            names.append(node.name)
            node = node.parent
        return names if names[-1] is not None else []


def hangs_on(node, other):
    """Whether something that has a parent, or None, is another such or below it."""
    while node is not None and node is not other:
        node = node.parent
    return node is other


def has_devices(prefix, kind):
    """Whether device nodes are at home in a directory, by its path and kind of file system.

    What a process does with a terminal or /dev/null is no change of a tree, and there is much of
    it.  An event does not say what kind of file it is of, and to ask for each would cost more than
    all else: so it is asked for there alone.
    """
    return prefix.endswith("/dev/") or kind in DEVICE_KINDS


def is_device(directory, name):
    """Whether an entry of an open directory is a character or block device now."""
    try:
        mode = status_of(directory, name).mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


class Table:
    """Which directories are known, and where.  Invariant: it says where they were when the event
    judged last happened.

    A link is (key, parent key, name as bytes): a directory is an entry of another.  A parent key
    of None: it is in no tree.
    """

    def __init__(self, devices, recursive, ignore):
        """`devices`: whether events of device nodes are reported like those of files.  Not
        `recursive`: it knows where directories are all the same, but none but the roots is in a
        tree.  `ignore`: the Ignore."""
        self.recursive, self.ignore = recursive, ignore
        self.nodes = {}         # key -> Node
        self.prefixes = {}      # key -> "path/" to put before a name: a cache of what nodes say
        self.outside = set()    # keys of directories known to be in no tree
        self.anchors = {}       # key -> link of a mount in a tree, or (key, None, what to show)
        self.mounts = {}        # file-system id -> roots on it, one for each mount
        self.devices = devices
        self.root_parents = set()   # keys of the directories that have a root as an entry, and ids
        #                             of file systems in which any may
        self.covered = []       # keys of those known by link_by_path()

    # --- roots ---

    def add(self, root, parent=None, name=None):
        """Anchor a root: shown as itself or, for a mount in the tree, below its parent."""
        self.anchors[root.key] = (root.key, parent, with_slash(root.display)
                                  if parent is None else name)
        self.mounts.setdefault(root.key[:8], []).append(root)
        self.forget()

    def rename(self, root):
        """A root that is shown as itself has another name from now on."""
        display = with_slash(root.display)
        self.anchors[root.key] = (root.key, None, display)
        self.nodes[root.key].name = display
        self.prefixes.clear()

    def remove(self, root):
        """Forget a root and what is known below it."""
        self.anchors.pop(root.key, None)
        if root in self.mounts.get(root.key[:8], ()):
            self.mounts[root.key[:8]].remove(root)
        self.forget()

    def forget(self):
        """Forget all but the roots: the queue and the kernel will be asked again."""
        self.prefixes.clear()
        self.outside.clear()
        self.nodes.clear()
        self.covered.clear()
        for key, parent, display in self.anchors.values():
            if parent is None:
                self.nodes[key] = Node(None, display)

    def trim(self, pending):
        """Keep the tables within their limit, by forgetting.

        Not what events still to be judged (`pending`) may be of, up to twice the limit: a
        directory that is gone can't be asked for again.
        """
        if len(self.prefixes) > TABLE_LIMIT:
            self.prefixes.clear()
        if len(self.outside) > OUTSIDE_LIMIT:
            self.outside.clear()
        if len(self.nodes) > TABLE_LIMIT * (2 if pending else 1):
            self.forget()

    # --- what is known ---

    def prefix(self, key):
        """The path of a directory with a slash at its end, or None: it is not known."""
        node = self.nodes.get(key)
        names = node.way_up() if node is not None else []
        if not names or not self.recursive and key not in self.anchors:
            return None
        prefix = names.pop()
        if names:
            names.reverse()
            prefix += "/".join(names) + "/"
        if len(prefix) <= PREFIX_LIMIT and not self.ignore.hides_in(prefix) \
                and not self.holds_devices(key, prefix):
            self.prefixes[key] = prefix
        return prefix

    def holds_devices(self, key, prefix):
        """Whether what is done to device nodes in a directory is to be told from other events."""
        return not self.devices and any(
            has_devices(prefix, root.kind) for root in self.mounts.get(key[:8], ()))

    def leaf(self, key):
        """The path of a directory in which there is nothing of a tree, but which is an entry of
        one; None for others.  Only where it is not `recursive`."""
        node = self.nodes.get(key) if not self.recursive else None
        names = node.way_up() if node is not None else []
        return names[1] + names[0] if len(names) == 2 and key not in self.covered else None

    def known(self, key):
        """Whether it is known where a directory is, in a tree or in none."""
        return key in self.outside or (key in self.nodes and bool(self.nodes[key].way_up()))

    # --- what becomes known ---

    def place(self, links):
        """Enter a way up, links that lead from a directory to what is known or to no tree."""
        parent = links[-1][1]
        if parent is None or parent in self.outside:
            self.outside.update(link[0] for link in links)
            return
        node = self.nodes[parent]
        for key, _, name in reversed(links):
            node = self.nodes[key] = Node(node, os.fsdecode(name))

    def put(self, key, parent, name):
        """A directory is now (made, or moved within the trees) `name` in a known `parent`."""
        if key in self.anchors:
            return
        node, above, name = self.nodes.get(key), self.nodes[parent], os.fsdecode(name)
        if node is None or not node.way_up() or hangs_on(above, node):
            # New, or what was known of it was wrong; what hung on that is unknown now.
            self.cut(key)
            self.nodes[key] = Node(above, name)
        elif node.parent is not above or node.name != name:
            node.parent, node.name = above, name
            self.prefixes.clear()       # all paths below follow; filled again as they are used
            self.cut_covered()

    def enter(self, key, parent, name):
        """A directory has been moved into a tree: what was outside may not be any more."""
        self.outside.clear()
        self.put(key, parent, name)

    def cut(self, key):
        """A directory is not in the trees any more; where what is below it is, is not known."""
        node = self.nodes.pop(key, None) if key not in self.anchors else None
        if node is not None:
            node.parent = node.name = None
            self.prefixes.clear()
        self.cut_covered()

    def cut_covered(self):
        """A directory has been moved, and what is known by link_by_path() maybe with it."""
        while self.covered:
            self.cut(self.covered.pop())

    def delete(self, key):
        """A directory has been deleted."""
        if key not in self.anchors:
            self.nodes.pop(key, None)
            self.prefixes.pop(key, None)


class Directories(Table):
    """The table, and what the kernel says of directories: where they are now."""

    def mounts_of(self, key):
        """A root on each mount on which a directory may be; none once it is unmounted.

        Never one of another file system: a handle there may be that of another directory.
        """
        return {root.mount_id: root for root in reversed(self.mounts.get(key[:8], ()))}.values()

    def parent_of(self, root):
        """The key of the directory in which a root is an entry, on any mount, or None."""
        for other in self.mounts_of(root.key):
            try:
                with Closing(open_in(other, root.key[8:])) as fd, \
                        Closing(os.open(b"..", O_PATH_DIR, dir_fd=fd)) as up:
                    handle, mount_id = name_to_handle(up)
            except (Gone, OSError):
                continue                    # there is none on this mount
            if mount_id == other.mount_id and root.key[8:] != handle:
                return root.key[:8] + handle
        return None

    def open(self, key):
        """An O_PATH descriptor of a directory.  Raises Gone, or OSError."""
        for root in self.mounts_of(key):
            try:
                return open_in(root, key[8:])
            except Gone:
                pass
        raise Gone

    def walk(self, key):
        """Links from a directory up to what is known or to no tree, as it is now; never empty.

        Raises Gone, or OSError where the kernel can't tell for a reason of its own.
        """
        if key in self.anchors:
            return [self.anchors[key]]
        if not self.mounts.get(key[:8]):
            return no_way(key)          # unmounted, though it may be mounted elsewhere
        found = []
        for root in self.mounts_of(key):
            links = self.walk_on(root, key)
            if links and links[-1][1] is not None and links[-1][1] not in self.outside:
                return links
            found += [links] if links else []
        if not found:
            raise Gone
        # On a bind mount of another part of the file system there is no way up at all.
        return max(found, key=lambda links: (links != no_way(key), len(links)))

    def is_hidden(self, key):
        """Whether no mount of a root shows where a directory is."""
        try:
            return self.walk(key) == no_way(key)
        except (Gone, OSError):
            return False

    def walk_on(self, root, key):
        """walk() on the mount of one root; [] where the directory is gone."""
        try:
            fd = open_in(root, key[8:])
        except Gone:
            return []
        with Closing(fd):
            try:
                return self.climb(fd, key, root.mount_id)
            except Covered:
                pass
            try:
                return self.climb_in_copy(root, key)
            except OSError as error:
                return [] if error.errno == errno.ESTALE \
                    else [self.link_by_path(fd, key, root.mount_id)]

    def climb_in_copy(self, root, key):
        """walk() from a directory over which something is mounted, or over one above it: in a copy
        of the mount, in which nothing is.  OSError."""
        with root.opened() as mount_fd, Closing(copy_mount(mount_fd)) as copy, \
                Closing(open_by_handle(copy, key[8:])) as fd:
            return self.climb(fd, key, name_to_handle(copy)[1])

    def link_by_path(self, fd, key, mount_id):
        """A link from a directory to the root above it, by its path, where no mount may be copied:
        without CAP_SYS_ADMIN.  Of the directories between nothing is learned."""
        path = fd_path(fd)
        for root in self.mounts[key[:8]]:
            rest = root.mount_id == mount_id \
                and below(path, root.path if root.fd is None else fd_path(root.fd))
            if rest:
                self.covered.append(key)
                return key, root.key, without_deleted(fd, rest)
        return key, None, b""

    def climb(self, fd, key, mount_id):
        """walk() on one mount, from a directory open as `fd`.

        Raises Covered where a directory above it is: ".." leads into what is mounted there.
        """
        after = path_of(fd)
        for _ in range(CLIMB_TRIES):
            before = after
            trail, above, changed = self.trail(fd, key, mount_id)
            after = path_of(fd)
            if before == after:
                break                   # else moved meanwhile: of one way keys, of another names
        names = names_up(fd, after, len(trail) - (above is None)) + [b""]
        if before != after or abs(time.time() - changed) < RECENT:
            settle(fd, len(trail))
        return list(zip(trail, trail[1:] + [above], names))

    def trail(self, fd, key, mount_id):
        """(keys of a directory and those above it, that of the known one above these or None,
        when one of them last changed)."""
        trail, changed = [key], os.fstat(fd).st_ctime
        try:
            for at, up in way_above(fd):
                handle, mount = name_to_handle(up)
                if mount != mount_id and not is_mount_root(at):
                    raise Covered
                above = key[:8] + handle
                if mount != mount_id or above == trail[-1]:
                    break                       # the top
                changed = max(changed, os.fstat(up).st_ctime)
                if above in self.anchors or self.known(above):
                    return trail, above, changed
                trail.append(above)
        except FileNotFoundError:               # not below the root of this (bind) mount
            pass
        return trail, None, changed


def way_above(fd):
    """Yield (a directory, the one above it) from an open one upwards, without end: descriptors that
    are closed as the next are made.  FileNotFoundError: there is none, on a bind mount of what it
    has been moved out of, or of what is below it."""
    at = fd
    try:
        while True:
            below, at = at, os.open(b"..", O_PATH_DIR, dir_fd=at)
            try:
                yield below, at
            finally:
                if below != fd:
                    os.close(below)
    finally:
        if at != fd:
            os.close(at)


def look_up_nothing(directory):
    """Wait for whoever renames, makes or removes an entry of a directory just now."""
    try:
        os.stat(TOO_LONG, dir_fd=directory, follow_symlinks=False)
    except OSError:
        pass                            # ENAMETOOLONG, from the file system itself


def settle(fd, levels):
    """Wait until the events of all that was seen on the way up from a directory are queued.

    Looking up a name that is not cached takes the lock of its directory, under which the kernel
    renames, makes and removes what is in it and queues the event; see the top of this section.
    """
    try:
        for _, (_, up) in zip(range(levels), way_above(fd)):
            look_up_nothing(up)
    except OSError:
        pass                            # no parent on this mount, or no descriptor left


def no_way(key):
    """The links of a directory that has no way up: the top of a file system, or of what a mount
    shows; or that is on no mount."""
    return [(key, None, b"")]


def open_in(root, handle):
    """A descriptor of a directory on the mount of a root.  Raises Gone."""
    try:
        opened = root.opened()
    except OSError:
        raise Gone
    with opened as mount_fd:
        try:
            return open_by_handle(mount_fd, handle)
        except OSError as error:
            if error.errno in (errno.ESTALE, errno.ENOENT, errno.ENOTDIR):
                raise Gone
            raise


def path_of(fd):
    """fd_path(), or None where it is too long for /proc."""
    try:
        return fd_path(fd)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return None


def without_deleted(fd, path):
    """The path of an open directory without what /proc adds to that of a removed one."""
    deleted = b" (deleted)"
    return path[:-len(deleted)] if path.endswith(deleted) and is_removed(fd) else path


# How a server says that what is open here was removed: NFS, and FUSE and 9p.
GONE = errno.ESTALE, errno.ENOENT


def is_removed(fd):
    """Whether what is open has no name any more."""
    try:
        return os.fstat(fd).st_nlink == 0
    except OSError as error:
        if error.errno in GONE:
            return True
        raise


def names_up(fd, path, count):
    """The names, as bytes, of a directory and those above it, by its path_of(): `count` of them or
    all there are."""
    if path is None:
        return names_by_search(fd, count)
    names = without_deleted(fd, path).split(b"/")[:0:-1]
    return names[:count] + [b""] * (count - len(names))


def names_by_search(fd, count):
    """The names of a directory and those above it, `count` of them, where no path can hold them.

    /proc gives no path of more than 4096 bytes, so each is looked for in its parent by number.
    """
    names = []
    for _, (at, up) in zip(range(count), way_above(fd)):
        number = os.fstat(at).st_ino
        names += [each.name for each in os.scandir(path_to_fd(up)) if each.inode() == number][:1]
    if len(names) < count:
        raise Gone                      # moved meanwhile
    return names


# --- mounts ---

Mount = collections.namedtuple("Mount", "id parent device root path kind options")


# Kinds of file systems that somebody else answers for, a program here or a server elsewhere, who
# may never do so: who asks then waits in the kernel, for ever.  (What is asked of an autofs is to
# mount something.)
ANSWERED_KINDS = frozenset("""
    9p afs autofs beegfs ceph cifs coda fuse fuseblk gfs2 lustre ncpfs nfs nfs4 ocfs2 orangefs smb3
    smbfs vboxsf virtiofs""".split())
LOOP_MAJOR = "7:"
P9_CACHE_META, P9_CACHE_LOOSE = 2, 8    # <fs/9p/v9fs.h>, as /proc/PID/mountinfo has it


def is_answered(mount):
    """Whether somebody else answers for a file system: fuse.sshfs is a fuse, too."""
    return mount.kind.partition(".")[0] in ANSWERED_KINDS


def forgets_inodes(mount):
    """Whether a directory is another inode when it is opened, once nobody has it open, so that a
    watch on the one before gives nothing: 9p, unless mounted with cache=loose or fscache."""
    if mount.kind != "9p":
        return False
    options = dict(each.partition(b"=")[::2] for each in mount.options.split(b","))
    cache = options.get(b"cache", b"none")
    try:
        return not int(cache, 16) & (P9_CACHE_META | P9_CACHE_LOOSE)
    except ValueError:                  # before Linux 6.4: a word
        return cache not in (b"loose", b"fscache")


def far_paths(mounts, near=()):
    """The paths, as bytes, from which on a way leads into what somebody else answers for.

    Not "/": this process itself lives there; nor what is on devices that are `near`.
    """
    covered = {(mount.parent, mount.path) for mount in mounts}
    return [mount.path for mount in mounts if is_answered(mount) and mount.path != b"/"
            and (mount.id, mount.path) not in covered and mount.device not in near]


def is_far(path, far):
    """Whether a path leads into one of far_paths()."""
    return any(below(path, each) is not None for each in far)


def lies_far(mount, far):
    """Whether somebody else answers for a mount, for its place, or for what it is made of."""
    return is_answered(mount) or is_far(mount.path, far) \
        or bool(far) and any(is_far(path, far) for path in made_of(mount))


def made_of(mount):
    """The paths of what a file system is kept in, where that is files: overlayfs, loop devices."""
    if mount.kind == "overlay":
        options = (option.partition(b"=") for option in mount.options.split(b","))
        return [path for name, _, value in options if name.startswith((b"lowerdir", b"upperdir"))
                for path in value.split(b":")]
    if mount.device.startswith(LOOP_MAJOR):
        return [read_file("/sys/dev/block/%s/loop/backing_file" % mount.device).rstrip(b"\n")]
    return []


def path_on(path, mount_id, directory=None):
    """An O_PATH descriptor of what is at a path, if that is on the mount of a number.

    Raises FileNotFoundError, before anything is asked of what else may be mounted there by now.
    """
    fd = os.open(path, O_PATH_ENTRY, dir_fd=directory)
    with OnFailure(os.close, fd):
        if mount_id_of(fd) == mount_id:
            return fd
        raise FileNotFoundError(errno.ENOENT, "another mount has its path by now")


def visible_path(fd, far):
    """The path that leads to an open directory, as bytes; None where none does, or into one of the
    far_paths().

    Of what is in a mount that was unmounted, /proc says a path that is another's.
    """
    try:
        path = fd_path(fd)
        same = not is_far(path, far) and os.path.samestat(os.stat(path), os.fstat(fd))
        return path if same else None
    except OSError:
        return None


def read_mounts():
    """The mounts of this process: a list of Mount, paths as bytes.  proc(5), mountinfo.

    No number is twice in it, though the kernel gives it in pieces, each as it is then: of two lines
    the later one is of the mount that has the number, and the one before is of what is gone.
    """
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise failure(error.errno, "reading the list of mounts", "/proc/self/mountinfo",
                      "/proc is not mounted? mount -t proc proc /proc")
    mounts = collections.OrderedDict()
    for line in lines:
        fields = line.split(b" ")
        number = int(fields[0])
        mounts.pop(number, None)
        kind_at = fields.index(b"-") + 1
        mounts[number] = Mount(number, int(fields[1]), os.fsdecode(fields[2]),
                               unescape_octal(fields[3]), unescape_octal(fields[4]),
                               os.fsdecode(fields[kind_at]), unescape_octal(fields[kind_at + 2]))
    return list(mounts.values())


class Place(collections.namedtuple("Place", "source key name")):
    """Where a mount is in a tree: an entry of a directory of a source.

    source  what has the directory, and says how the entry is called now: entry(key, name)
    key     of the directory, for that source alone; another knows nothing of it
    name    bytes
    """

    __slots__ = ()

    def shown(self, otherwise=None):
        """What to call it now; None: its directory has left the tree; `otherwise` while that can't
        be told."""
        return self.source.entry(self.key, self.name, otherwise)


def path_to(mount_id, may_wait=False):
    """The path of the mount of a number, as bytes.  FileNotFoundError: there is none, or it leads
    into one of the far_paths(), unless who asks `may_wait`."""
    mounts = read_mounts()
    far = [] if may_wait else far_paths(mounts)
    for mount in mounts:
        if mount.id == mount_id and not is_far(mount.path, far):
            return mount.path
    raise FileNotFoundError(errno.ENOENT, "it is mounted nowhere, or out of reach")


def whole_device(root):
    """The number by which the kernel's side knows a file system (s_dev), if a root is all of it.

    One without a descriptor is the root of its mount, whose path may just become another.
    """
    for mount in read_mounts():
        if mount.id == root.mount_id and mount.root == b"/" \
                and (root.fd is None or mount.path == root.path):
            major, minor = map(int, mount.device.split(":"))
            return major << 20 | minor
    return None


def mount_id_of(fd, name=b""):
    """The id of the mount of an open file, or of that to which a name in it leads.  OSError.

    Without opening it, which would be in the way of an umount: statx(2), Linux 5.8; else proc(5),
    fdinfo.
    """
    number = mount_id_by_statx(fd, name, STATX_MNT_ID)
    if number is not None:
        return number
    if name:
        with Closing(os.open(name, O_PATH_ENTRY, dir_fd=fd)) as entry:
            return mount_id_of(entry)
    with open("/proc/self/fdinfo/%d" % fd) as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def inode_of(fd):
    """What identifies the inode of an open file: (device, number)."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def mount_at(path, follow=True):
    """(id of the mount, real path) of what a path leads to; not to `follow` a link is to look at
    the link itself."""
    with Closing(os.open(path, O_PATH | os.O_CLOEXEC if follow else O_PATH_ENTRY)) as fd:
        return mount_id_of(fd), fd_path(fd)


def mount_id_by_statx(fd, name, kind):
    """mount_id_of(), or None where it is not told.

    `kind`: STATX_MNT_ID, or STATX_MNT_ID_UNIQUE, a number that no other mount ever has: Linux 6.8.
    """
    found = statx(fd, name, AT_SYMLINK_NOFOLLOW if name else AT_EMPTY_PATH, kind)
    return found.mnt_id if found is not None and found.mask & kind else None


def copy_mount(fd):
    """A descriptor of a copy of the mount that an open directory is in: nobody sees it, and nothing
    is mounted in it.  open_tree(2), Linux 5.2."""
    mount_id = mount_id_of(fd)
    for at, up in way_above(fd):
        # The top has another mount above it, or itself where a namespace or this process's root
        # ends.  A directory over which something is mounted looks like another, too.
        if mount_id_of(up) == mount_id and inode_of(up) != inode_of(at):
            continue
        copy = system_call("open_tree", at, b"", AT_EMPTY_PATH | OPEN_TREE_CLONE | os.O_CLOEXEC)
        if copy < 0:
            raise failure(ctypes.get_errno(), "copying a mount, to look where it does not show")
        with Closing(copy):
            return os.open(b".", O_READ_DIR, dir_fd=copy)   # it is an O_PATH: opens no handle


def spot_of(mount, far):
    """What tells where a mount is, and which of all that ever had its number: (device and inode
    number of the directory, its name there, the number that no other mount has, or None).

    None if its path does not lead to it: another is mounted over it, or above it, or a directory
    above it has another name by now; or where it leads into one of the far_paths().
    """
    parent, name = os.path.split(mount.path)
    if is_far(parent, far):
        return None
    try:
        with Closing(os.open(parent, O_PATH_DIR)) as above:
            same = mount_id_of(above, name or b".") == mount.id
            return inode_of(above) + (name, mount_id_by_statx(
                above, name or b".", STATX_MNT_ID_UNIQUE)) if same else None
    except OSError:
        return None


def unescape_octal(path):
    """A path of /proc/self/mountinfo, where space, tab, newline and backslash are octal."""
    if b"\\" not in path:
        return path
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


# =============================================================================================
# 4. BPF objects
# =============================================================================================
# Four rooms, each usable without the next:
#
#   read_object(data, name)      the ELF file that clang made, as plain data (Object)
#   part_of(object, programs)    some of its programs and what they refer to, an Object too: one
#                                file holds what different kernels can take
#   relocate(object, kernel)     instructions that fit the kernel described by its BTF (Image);
#                                no system call, but to read what is needed and was not given
#   load(object, kernel)         system calls: maps, programs, struct_ops (Loaded)
#
# An Object or an Image never changes after it was made.  Whatever is wrong with an object is an
# Error(ENOEXEC) that names it; whatever the kernel refuses is an Error with the kernel's errno.
# Memory and work are bounded by the size of the object, whatever it says.  Nothing is pinned but
# what load() was given a folder for, so the kernel drops the rest with the last descriptor: the
# end of the process, however it comes, is the end of all that was loaded.

# --- BTF: the types of an object or a kernel ---

(BTF_VOID, BTF_INT, BTF_PTR, BTF_ARRAY, BTF_STRUCT, BTF_UNION, BTF_ENUM, BTF_FWD, BTF_TYPEDEF,
 BTF_VOLATILE, BTF_CONST, BTF_RESTRICT, BTF_FUNC, BTF_FUNC_PROTO, BTF_VAR, BTF_DATASEC, BTF_FLOAT,
 BTF_DECL_TAG, BTF_TYPE_TAG, BTF_ENUM64) = range(20)

BTF_MODIFIERS = frozenset((BTF_TYPEDEF, BTF_VOLATILE, BTF_CONST, BTF_RESTRICT, BTF_TYPE_TAG))
BTF_COMPOSITES = frozenset((BTF_STRUCT, BTF_UNION))
BTF_ENUMS = frozenset((BTF_ENUM, BTF_ENUM64))
BTF_SIZED = BTF_COMPOSITES | BTF_ENUMS | {BTF_INT, BTF_FLOAT, BTF_DATASEC}
BTF_KIND_NAMES = ("void int ptr array struct union enum fwd typedef volatile const restrict func "
                  "func_proto var datasec float decl_tag type_tag enum64").split()

# Length of a type in 32-bit words: what every one of the kind has, and what each item adds.  A kind
# that is not known gets a length that no section has, which ends the walk there.
_BEYOND = 1 << 40
_FIXED_WORDS = [_BEYOND, 4, 3, 6] + [3] * 10 + [4, 3, 3, 4, 3, 3] + [_BEYOND] * 12
_ITEM_WORDS = {BTF_STRUCT: 3, BTF_UNION: 3, BTF_ENUM: 2, BTF_FUNC_PROTO: 2, BTF_DATASEC: 3,
               BTF_ENUM64: 3}


class _Lengths(dict):
    """{second word of a type: its length in words}, each worked out once: there are few."""

    def __missing__(self, info):
        kind = info >> 24 & 31
        self[info] = length = _FIXED_WORDS[kind] + (info & 0xffff) * _ITEM_WORDS.get(kind, 0)
        return length


MAX_NAME = 512          # longest name accepted, as the kernel has it
MANY_NAMES = 256        # looked for one by one; more are looked up in a table of all
MAX_HOPS = 32           # modifiers in a row, or types in types: what libbpf allows


def object_damaged(name, what, *args, doing="reading", number=errno.ENOEXEC):
    """The Error for an object in which something is wrong, or that the kernel is not for."""
    return Error(number, printable("%s BPF object %s: %s" % (doing, name, what % args)))


# size: in bytes, or for kinds that refer to a type its id.  items, by kind:
#   struct, union   Member...           enum, enum64   (name, value)...
#   func_proto      (name, type)...     datasec        (type, offset, size)...
#   array           (element, index, count)            int (encoding, bit offset, bits)
#   var             (linkage,)                         decl_tag (component,)
Type = collections.namedtuple("Type", "id kind name flag vlen size items")
Member = collections.namedtuple("Member", "name type bit_offset bit_size")


class Btf:
    """The types of a blob of BTF, found where they lie.

    A kernel has 150,000 types and a program asks for a few dozen.  So the blob is walked once for
    where each type starts, names are looked for in the string section, and only a type that is
    asked for is made into an object.  Each string is made once: many may have the same.
    """

    def __init__(self, data, name):
        self.name = name
        self.data = bytes(data)
        self._at, end, first, last = self._read_header()
        self._words = array("I")
        self._words.frombytes(self.data[self._at:end])
        self._strings = self.data[first:last]
        if self._strings[:1] != b"\0" or self._strings[-1:] != b"\0":
            raise self.damaged("its BTF has no proper string section")
        self._starts = self._walk()
        self._names = b""
        self._texts, self._found = {0: ""}, {}
        self._types = {0: Type(0, BTF_VOID, "", 0, 0, 0, ())}
        self._is_whole = False

    def damaged(self, what, *args):
        return object_damaged(self.name, what, *args)

    def _read_header(self):
        """Start and end of the types, start and end of the strings, checked against the data."""
        magic, version, _, length, type_off, type_len, str_off, str_len = struct.unpack(
            "=HBBIIIII", self.data[:24].ljust(24, b"\0"))
        if magic != 0xeb9f or version != 1:
            raise self.damaged("its BTF is no BTF of version 1")
        if length < 24 or length % 4 or type_off % 4 or type_len % 4:
            raise self.damaged("its BTF is not aligned")
        if max(type_off + type_len, str_off + str_len) > len(self.data) - length:
            raise self.damaged("its BTF is cut off")
        types, strings = length + type_off, length + str_off
        return types, types + type_len, strings, strings + str_len

    def _walk(self):
        """Where each type starts, in words, by id; and after the last, the end."""
        lengths, seconds = _Lengths(), memoryview(self._words)[1:]
        starts = [0]                    # id 0 is void, and lies nowhere
        append = starts.append
        at, end = 0, len(self._words)
        try:
            while at < end:
                append(at)
                at += lengths[seconds[at]]
        except IndexError:
            at = _BEYOND
        if at != end:
            raise self.damaged("its BTF is damaged or too new at type %d", len(starts) - 1)
        append(end)
        return starts

    def __len__(self):
        """Number of types, void included: ids are below it."""
        return len(self._starts) - 1

    def string(self, offset):
        """The string at an offset of the string section, str.  None is the end of another: no
        producer shares them, and so all together are no longer than the section."""
        text = self._texts.get(offset)
        if text is None:
            end = self._strings.find(b"\0", offset, offset + MAX_NAME)
            if end < 0 or self._strings[offset - 1]:
                raise self.damaged("its BTF has no string at %d", offset)
            text = self._texts[offset] = self._strings[offset:end].decode("utf-8", "replace")
        return text

    def kind(self, number):
        """The kind of the type with this id, which is not made for that."""
        return self._words[self._starts[number] + 1] >> 24 & 31 if number else BTF_VOID

    def type(self, number):
        """The type with this id."""
        found = self._types.get(number)
        if found is None:
            if not 0 < number < len(self):
                raise self.damaged("its BTF has no type %d", number)
            at, end = self._starts[number], self._starts[number + 1]
            name, info, size = self._words[at:at + 3]
            kind, vlen, flag = info >> 24 & 31, info & 0xffff, info >> 31
            found = self._types[number] = Type(number, kind, self.string(name), flag, vlen, size,
                                               self._items(kind, flag, self._words[at + 3:end]))
        return found

    def _items(self, kind, flag, words):
        step = _ITEM_WORDS.get(kind, 1)
        rows = zip(*[words[at::step] for at in range(step)])
        if kind in BTF_COMPOSITES:
            bits, shift = (0xffffff, 24) if flag else (0xffffffff, 32)
            return [Member(self.string(name), type_id, where & bits, where >> shift)
                    for name, type_id, where in rows]
        if kind == BTF_ENUM:
            return [(self.string(name), value - (flag and value >> 31 << 32))
                    for name, value in rows]
        if kind == BTF_ENUM64:
            return [(self.string(name), low + (high << 32) - (flag and high >> 31 << 64))
                    for name, low, high in rows]
        if kind == BTF_FUNC_PROTO:
            return [(self.string(name), type_id) for name, type_id in rows]
        if kind == BTF_DATASEC:
            return list(rows)
        if kind == BTF_INT:
            return words[0] >> 24 & 15, words[0] >> 16 & 255, words[0] & 255
        return tuple(words)

    def place(self, number):
        """Where in the data the type starts, for the few who rewrite it."""
        return self._at + 4 * self._starts[number]

    def find(self, name, kinds):
        """The ids of the types of this name and of one of these kinds."""
        if name not in self._found and not self._is_whole:
            if len(self._found) < MANY_NAMES:
                self._found[name] = self._search(name)
            else:
                self._found, self._is_whole = {}, True
                for number in range(1, len(self)):
                    text = self.string(self._words[self._starts[number]])
                    self._found.setdefault(text, []).append(number)
        return [number for number in self._found.get(name, ()) if self.kind(number) in kinds]

    def _search(self, name):
        """Every type of this name: where the name is, which no producer has twice, and then the
        types with that."""
        if not self._names:
            names = map(self._words.__getitem__, self._starts[1:-1])
            self._names = bytes(4) + array("I", names).tobytes()
        ids, offset = [], self._strings.find(b"\0" + name.encode("utf-8", "replace") + b"\0") + 1
        wanted = struct.pack("=I", offset)
        at = self._names.find(wanted) if offset else -1
        while at >= 0:
            if at % 4 == 0:
                ids.append(at // 4)
            at = self._names.find(wanted, at + 1)
        return ids

    def skip(self, number):
        """The type behind typedefs and modifiers."""
        for _ in range(MAX_HOPS):
            found = self.type(number)
            if found.kind not in BTF_MODIFIERS:
                return found
            number = found.size
        raise self.damaged("its BTF has a loop at type %d", number)

    def size_of(self, number):
        """Size in bytes, or -1 for what has none (void, functions, forward declarations)."""
        count = 1
        for _ in range(MAX_HOPS):
            found = self.skip(number)
            if found.kind != BTF_ARRAY:
                return count * found.size if found.kind in BTF_SIZED else \
                    8 * count if found.kind == BTF_PTR else -1
            count *= found.items[2]
            number = found.items[0]
        raise self.damaged("its BTF has a loop at type %d", number)

    def describe(self, number):
        """`struct inode`, for messages."""
        found = self.type(number)
        return "%s %s" % (BTF_KIND_NAMES[found.kind], found.name or "(unnamed)")


def essential(name):
    """A name without its flavor: of x___y, x."""
    at = name.rfind("___")
    if at <= 0 or name[at - 1:at] == "_" or len(name) <= at + 3 or name[at + 3] == "_":
        return name
    return name[:at]


def kernel_btf(path="/sys/kernel/btf/vmlinux"):
    """The types of the running kernel."""
    try:
        with open(path, "rb", buffering=0) as file:
            data = file.read()
    except OSError as why:
        raise failure(why.errno, "reading the kernel's BTF", path, {
            errno.ENOENT: "the kernel must be built with CONFIG_DEBUG_INFO_BTF"})
    return Btf(data, path)


# --- reading an object: ELF ---

SHT_PROGBITS, SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL = 1, 2, 4, 8, 9
SHF_EXECINSTR = 4
STT_OBJECT, STT_FUNC = 1, 2
STB_LOCAL, STB_WEAK = 0, 2
STV_HIDDEN = 1, 2                       # internal, hidden
EM_BPF, ET_REL = 247, 1

# Instructions: opcode, registers, 16-bit offset, 32-bit immediate.  The registers, source and
# destination, are bit-fields of four bits: which comes first is the machine's order.
INSN = struct.Struct("=BBhi")
SOURCE = 4 if sys.byteorder == "little" else 0
BPF_CALL = 0x85
BPF_LD_IMM64 = 0x18
# The source register says what the immediate of a call, or of a 64-bit load, means.
BPF_PSEUDO_CALL, BPF_PSEUDO_KFUNC_CALL = 1, 2
BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE, BPF_PSEUDO_BTF_ID, BPF_PSEUDO_FUNC = 1, 2, 3, 4

Section = collections.namedtuple("Section", "index name type flags size data link info")
Symbol = collections.namedtuple("Symbol", "name value size type bind section is_hidden")

# Bytes that an object may ask for without having them, as .bss: the kernel gives up to 2 GB.
MAX_ZEROS = 1 << 26


class Elf:
    """An ELF file of the BPF kind: sections, symbols, relocations; every bound checked."""

    def __init__(self, data, name):
        self.name, self.data = name, memoryview(data)
        headers, names = self._read_header()
        table = self._contents(headers[names])
        self.sections = [Section(index, self._string(table, header[0]), header[1], header[2],
                                 header[5], self._contents(header), header[6], header[7])
                         for index, header in enumerate(headers)]
        has = sum(len(section.data) for section in self.sections)
        if has > len(self.data):
            raise self.damaged("its sections overlap")      # so all work is bounded by the file
        if sum(section.size for section in self.sections if section.type) - has > MAX_ZEROS:
            raise self.damaged("its .bss and the like are larger than %d MB", MAX_ZEROS >> 20)
        self.symbols = self._read_symbols()
        self.relocations = self._read_relocations()

    def damaged(self, what, *args):
        return object_damaged(self.name, what, *args)

    def cut(self, data, offset, size, what):
        """data[offset:offset + size], or an error that says what is cut off."""
        if offset + size > len(data):
            raise self.damaged("%s is cut off", what)
        return data[offset:offset + size]

    def _read_header(self):
        """The section headers, and which of them has the names."""
        if bytes(self.data[:4]) != b"\x7fELF":
            raise self.damaged("not an ELF file")
        ident, kind, machine, offset, size, count, names = struct.unpack(
            "=4x12sHH20xQ10xHHH", self.cut(self.data, 0, 64, "the ELF header"))
        if ident[0] != 2:
            raise self.damaged("a 32-bit ELF file; BPF objects are 64-bit")
        if ident[1] != {"little": 1, "big": 2}[sys.byteorder]:
            raise self.damaged("not for %s-endian machines, as this one is", sys.byteorder)
        if machine != EM_BPF or kind != ET_REL:
            raise self.damaged("an ELF file, but not a BPF object")
        if size != 64 or not names < count:
            raise self.damaged("its section headers are damaged")
        table = self.cut(self.data, offset, size * count, "the table of sections")
        return list(struct.iter_unpack("=IIQQQQIIQQ", table)), names

    def _contents(self, header):
        """The bytes of a section, none for those that have none in the file (.bss)."""
        if header[1] in (0, SHT_NOBITS):
            return self.data[:0]
        return self.cut(self.data, header[4], header[5], "a section")

    def _string(self, table, offset):
        text = bytes(table[offset:offset + MAX_NAME])
        end = text.find(b"\0")
        if end < 0:
            raise self.damaged("a name is cut off")
        return text[:end].decode("utf-8", "replace")

    def _read_symbols(self):
        tables = [section for section in self.sections if section.type == SHT_SYMTAB]
        if len(tables) != 1:
            raise self.damaged("it has %s symbol table", "no" if not tables else "more than one")
        table, names, symbols = tables[0], {0: ""}, []  # each name once: many may have the same
        if not table.link < len(self.sections) or table.size % 24:
            raise self.damaged("its symbol table is damaged")
        for name, info, other, section, value, size in struct.iter_unpack("=IBBHQQ", table.data):
            if name not in names:
                names[name] = self._string(self.sections[table.link].data, name)
            symbols.append(Symbol(names[name], value, size, info & 15, info >> 4, section,
                                  other & 3 in STV_HIDDEN))
        return symbols

    def section(self, name):
        """The section of this name, or None."""
        return next((section for section in self.sections if section.name == name), None)

    def _read_relocations(self):
        """{section index: [(offset, symbol)...]}."""
        found = {}
        for section in self.sections:
            # Those of BTF are relative to themselves already.
            if section.type not in (SHT_REL, SHT_RELA) or not section.info < len(self.sections) \
                    or self.sections[section.info].name in (".BTF", ".BTF.ext"):
                continue
            if section.type == SHT_RELA or section.size % 16:
                raise self.damaged("%s is no relocation section as clang makes them", section.name)
            rows = found.setdefault(section.info, [])
            for offset, info in struct.iter_unpack("=QQ", section.data):
                if not info >> 32 < len(self.symbols):
                    raise self.damaged("%s refers to a symbol that is not there", section.name)
                rows.append((offset, self.symbols[info >> 32]))
        return found


# --- reading an object: what the sections mean ---

CoreRelocation = collections.namedtuple("CoreRelocation", "index type access kind")
# insns: the instructions, as size bytes.  What they refer to, each a list of tuples:
#   calls    (instruction, key of the function that it calls or takes the address of)
#   maps     (instruction, name, offset in the map's value, or None for the map itself)
#   externs  (instruction, name)
#   core     CoreRelocation...
#   lines    (byte in the section, file, line, column), with string offsets
# callback: the key of the function that exceptions call, or None.
Function = collections.namedtuple(
    "Function", "name section section_name offset size insns is_program calls maps externs core "
    "lines type callback")
# inner: the MapSpec of the maps in a map, or None; values: {index: name of a map or program}.  A
# data section is a map of one value, and begins with these contents; zeros follow.
MapSpec = collections.namedtuple(
    "MapSpec", "name type key_size value_size max_entries map_flags numa_node map_extra pinning "
    "key_type value_type offset inner values contents variables")
MapSpec.__new__.__defaults__ = (0,) * 11 + (None, {}, b"", ())
MAP_NUMBERS = MapSpec._fields[1:9]      # what a map's struct may say as a number
# linkage: as BTF has it, or WEAK.
Variable = collections.namedtuple("Variable", "name type offset size linkage id")
# functions: {offset in data: name of the program}
StructOps = collections.namedtuple("StructOps", "name type data functions")
# type: 0 if only the address is wanted.
Extern = collections.namedtuple("Extern", "name type is_function weak")
Object = collections.namedtuple(
    "Object", "name license btf btf_load functions maps struct_ops externs")

MAX_MEMBERS = 1 << 16                   # of all struct_ops
STATIC, GLOBAL, EXTERN, WEAK = range(4)
MAP_ARRAY, MAPS_IN_MAPS, MAP_ARENA = 2, (12, 13), 33
BPF_F_RDONLY_PROG, BPF_F_MMAPABLE = 1 << 7, 1 << 10
ARENA_DATA, KCONFIG = ".addr_space.1", ".kconfig"
DATA_SECTIONS = ["", "data"], ["", "bss"], ["", "rodata"]      # and .data.NAME and the like


def read_object(data, name, programs=None):
    """The Object that an ELF file made by clang holds, or of it only what these programs and those
    in their sections need.  Error(ENOEXEC) says what is wrong."""
    elf = Elf(data, name)
    section = elf.section(".BTF")
    if section is None:
        raise elf.damaged("it has no BTF; compile it with clang -g")
    if elf.section("maps"):
        raise elf.damaged("its maps are of the old kind (section maps), not described by BTF")
    return _Reader(elf, Btf(section.data, name), programs).read()


def read_object_file(path=None, programs=None):
    """read_object() of a file; without a path, of the one that comes with this module."""
    hint = "name another, or leave --object out"
    if path is None:
        path = os.path.join(os.path.dirname(os.path.realpath(__file__)), "fan_fp.bpf.o")
        hint = "copy it from where fanfp.py is from, beside it" if sys.byteorder == "little" else \
            "make -B fan_fp.bpf.o, where fanfp.py is from, makes one on such a machine"
    # A pipe may never give anything, and /dev/zero never an end.
    if os.path.exists(path) and not os.path.isfile(path):
        raise failure(errno.EINVAL, "reading BPF object", path, "it is no file; " + hint)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise failure(error.errno, "reading BPF object", path, hint)
    try:
        return read_object(data, path, programs)
    except Error as error:
        raise Error(error.errno, error.reason, error.detail, hint)


class _Reader:
    """Makes an Object of what the sections of an ELF file and their types mean.

    What one part of a file says of another may be said many times: the work is bounded each time.
    """

    def __init__(self, elf, btf, programs):
        self.elf, self.btf, self.damaged = elf, btf, elf.damaged
        kept = {symbol.section for symbol in elf.symbols
                if programs is None or symbol.name in programs}
        self.code = {section.index: section.name for section in elf.sections
                     if section.flags & SHF_EXECINSTR
                     and (section.name == ".text" or section.index in kept)}
        self.symbols = {}               # {section index: {name: symbol}}: global variables, externs
        for symbol in elf.symbols:
            if (symbol.type == STT_OBJECT or not symbol.section) and symbol.bind != STB_LOCAL:
                self.symbols.setdefault(symbol.section, {})[symbol.name] = symbol
        self.weak = {symbol.name for symbol in elf.symbols
                     if not symbol.section and symbol.bind == STB_WEAK}
        self.datasecs, self.callbacks, self.kconfig, self.arena = {}, {}, {}, None
        for number in range(1, len(btf)):
            if btf.kind(number) == BTF_DATASEC:
                self.datasecs[btf.type(number).name] = btf.type(number)
            elif btf.kind(number) == BTF_DECL_TAG:
                what, _, callback = btf.type(number).name.partition(":")
                if what == "exception_callback":
                    self.callbacks[btf.type(btf.type(number).size).name] = callback

    def read(self):
        elf = self.elf
        self.sections = {section.index: self.variables(section) for section in elf.sections
                         if section.name in self.datasecs}
        self.maps, self.externs = self.read_maps(), self.read_externs()
        self.map_at = {spec.offset: name for name, spec in self.maps.items()}
        self.read_data()
        self.read_functions()
        section = elf.section("license")
        return Object(elf.name, bytes(section.data[:128]).split(b"\0")[0] if section else b"",
                      self.btf, self.btf_to_load(), self.functions, self.maps,
                      self.read_struct_ops(), self.externs)

    def variables(self, section):
        """The variables of a section, in order, where the symbol table says they are."""
        found, symbols = [], self.symbols.get(section.index, {})
        for number, offset, size in self.datasecs[section.name].items:
            var = self.btf.type(number)
            if var.kind != BTF_VAR:
                raise self.damaged("section %s holds %s", section.name, self.btf.describe(number))
            symbol = symbols.get(var.name) if var.items[0] != STATIC else None
            found.append(Variable(var.name, var.size, symbol.value if symbol else offset, size,
                                  STATIC if symbol and symbol.is_hidden else var.items[0], number))
        found.sort(key=lambda variable: variable.offset)
        ends = [0] + [variable.offset + variable.size for variable in found]
        for variable, end in zip(found, ends):
            if variable.offset < end or ends[-1] > section.size:
                raise self.damaged("variable %s of section %s overlaps another, or its end",
                                   variable.name, section.name)
        return found

    def read_maps(self):
        """{name: MapSpec}."""
        section = self.elf.section(".maps")
        index = section.index if section else 0
        rows = [(offset, symbol.name) for offset, symbol in self.elf.relocations.get(index, ())]
        return {variable.name: self.read_map(variable.name, variable.type, variable.offset, inside)
                for variable, inside in self.inside(self.sections.get(index, ()), rows)}

    def inside(self, variables, rows):
        """Each variable, or function, with those of the rows, (offset, ...), that are in it."""
        rows = sorted(rows)
        for variable in variables:
            yield variable, rows[bisect_right(rows, (variable.offset,)):
                                 bisect_right(rows, (variable.offset + variable.size,))]

    def read_map(self, name, type_id, offset=0, rows=None):
        """One map.  Its struct's members say all by their types: a number N is int (*member)[N]."""
        btf = self.btf
        description = btf.skip(type_id)
        if description.kind != BTF_STRUCT or description.vlen > len(MapSpec._fields):
            raise self.damaged("map %s is not described by a struct of a few members", name)
        said = {"name": name, "offset": offset}
        for member in description.items:
            kind = btf.skip(member.type)
            behind = btf.skip(kind.size) if kind.kind == BTF_PTR else None
            if member.name in ("key", "value"):
                said[member.name + "_size"] = btf.size_of(behind.id) if behind else -1
                said[member.name + "_type"] = kind.size
                if said[member.name + "_size"] < 0:
                    raise self.damaged("map %s: %s is of no known size", name, member.name)
            elif member.name in MAP_NUMBERS:
                if kind.kind in BTF_ENUMS and kind.items:
                    number = kind.items[0][1]
                elif behind and behind.kind == BTF_ARRAY:
                    number = behind.items[2]
                else:
                    raise self.damaged("map %s: %s is no number", name, member.name)
                said[member.name] = number & (1 << 64) - 1
            elif member.name == "values" and kind.kind == BTF_ARRAY and rows is not None:
                said["value_size"] = 4
                element = btf.skip(kind.items[0])
                if said.get("type") in MAPS_IN_MAPS and element.kind == BTF_PTR:
                    said["inner"] = self.read_map(name + ".inner", element.size)
                start = offset + member.bit_offset // 8
                said["values"] = {(at - start) // 8: value for at, value in rows}
            else:
                raise self.damaged("map %s: %s is not known", name, member.name)
        return MapSpec(**said)

    def read_data(self):
        """Add the maps of global variables and constants.

        Constants that have no name of their own (strings, tables of a switch) make a section
        without a DATASEC: it is loaded all the same.
        """
        arenas = [name for name, spec in self.maps.items() if spec.type == MAP_ARENA]
        for section in self.elf.sections:
            variables = self.sections.get(section.index, [])
            said = {"contents": bytes(section.data), "variables": variables}
            if section.name == ARENA_DATA and section.size:
                if len(arenas) != 1:
                    raise self.damaged("section %s needs one arena, and there are %d", ARENA_DATA,
                                       len(arenas))
                self.arena = arenas[0]
                self.maps[self.arena] = self.maps[self.arena]._replace(**said)
            kind = section.name.split(".")[:2]
            if kind not in DATA_SECTIONS or not section.size \
                    or section.type not in (SHT_PROGBITS, SHT_NOBITS):
                continue
            if section.name in self.maps:
                raise self.damaged("it has two sections %s", section.name)
            flags = BPF_F_MMAPABLE if any(one.linkage != STATIC for one in variables) else 0
            datasec = self.datasecs.get(section.name)
            self.maps[section.name] = MapSpec(
                section.name, MAP_ARRAY, 4, section.size, 1,
                flags | (BPF_F_RDONLY_PROG if kind[1] == "rodata" else 0),
                value_type=datasec.id if datasec else 0, **said)
        if KCONFIG in self.datasecs:
            self.maps[KCONFIG] = self.read_kconfig(self.datasecs[KCONFIG])
            self.kconfig = {one.name: one.offset for one in self.maps[KCONFIG].variables}

    def read_kconfig(self, datasec):
        """The variables that tell the kernel's configuration, in libbpf's order."""
        rows, variables, end = [], [], 0
        for number, _, _ in datasec.items:
            name, kind = self.btf.type(number).name, self.btf.skip(self.btf.type(number).size)
            element = self.btf.skip(kind.items[0]) if kind.kind == BTF_ARRAY else kind
            if element.kind not in (BTF_INT, BTF_ENUM) or not 0 < element.size <= 8:
                raise self.damaged("variable %s: the kernel's configuration has no %s", name,
                                   self.btf.describe(kind.id))
            rows.append((-element.size, self.btf.size_of(kind.id), name, number, kind.id))
        for minus_size, size, name, number, type_id in sorted(rows):
            end += -end % -minus_size
            variables.append(Variable(name, type_id, end, size,
                                      WEAK if name in self.weak else EXTERN, number))
            end += size
        if end > MAX_ZEROS:
            raise self.damaged("its .kconfig is larger than %d MB", MAX_ZEROS >> 20)
        return MapSpec(KCONFIG, MAP_ARRAY, 4, end, 1, BPF_F_RDONLY_PROG | BPF_F_MMAPABLE,
                       value_type=datasec.id, variables=variables)

    def read_externs(self):
        """{name: Extern} of what the kernel is to provide."""
        found = {}
        for number, _, _ in self.datasecs[".ksyms"].items if ".ksyms" in self.datasecs else ():
            kind = self.btf.type(number)
            if kind.kind not in (BTF_FUNC, BTF_VAR):
                raise self.damaged("section .ksyms holds %s", self.btf.describe(number))
            is_typed = self.btf.skip(kind.size).kind != BTF_VOID
            found[kind.name] = Extern(kind.name, kind.size if is_typed else 0,
                                      kind.kind == BTF_FUNC, kind.name in self.weak)
        return found

    def read_functions(self):
        """Fill in functions, {(section, offset): Function}, and in_section, by section."""
        elf, end = self.elf, (0, 0)
        types, lines, core = self.read_btf_ext()
        types = {(section, at): kind for section, rows in types.items() for at, kind in rows}
        symbols = sorted((symbol.section, symbol.value, symbol) for symbol in elf.symbols
                         if symbol.type == STT_FUNC and symbol.section in self.code)
        places = {symbol.name: (index, offset) for index, offset, symbol in symbols}
        self.functions, self.in_section = {}, {}
        for index, offset, symbol in symbols:
            if (index, offset) < end:       # so all of them are no more than the file has
                raise self.damaged("function %s overlaps another", symbol.name)
            end, section = (index, offset + symbol.size), elf.sections[index]
            insns = bytes(elf.cut(section.data, offset, symbol.size, "function " + symbol.name))
            if not insns or len(insns) % 8 or offset % 8 or section.type != SHT_PROGBITS:
                raise self.damaged("function %s is not made of instructions", symbol.name)
            is_program = section.name != ".text"
            if is_program and (symbol.bind == STB_LOCAL or places[symbol.name] != (index, offset)):
                raise self.damaged("program %s in section %s is static, or one of two", symbol.name,
                                   section.name)
            callback = self.callbacks.get(symbol.name)
            if callback and callback not in places:
                raise self.damaged("program %s has no exception callback %s", symbol.name, callback)
            function = self.functions[index, offset] = Function(
                symbol.name, index, section.name, offset, symbol.size, insns, is_program,
                [], [], [], [], [], types.get((index, offset), 0), places.get(callback))
            self.in_section.setdefault(index, []).append(function)
        for index in self.in_section:
            for function, rows in self.in_functions(index, elf.relocations, "a relocation"):
                for offset, symbol in rows:
                    self.refer(function, offset - function.offset, symbol)
                self.read_calls(function, {(row[0] - function.offset) // 8 for row in rows})
            for function, rows in self.in_functions(index, lines, "a line"):
                function.lines.extend(rows)
            for function, rows in self.in_functions(index, core, "a CO-RE relocation"):
                function.core.extend(
                    CoreRelocation((at - function.offset) // 8, kind, self.btf.string(access), what)
                    for at, kind, access, what in rows)

    def read_calls(self, function, relocated):
        """Add the calls that need no relocation, of functions in the same section."""
        for index, (opcode, registers, _, imm) in enumerate(INSN.iter_unpack(function.insns)):
            if opcode == BPF_CALL and registers >> SOURCE & 15 == BPF_PSEUDO_CALL \
                    and index not in relocated:
                function.calls.append(
                    (index, (function.section, function.offset + 8 * (index + imm + 1))))
        function.calls.sort()
        for index, target in function.calls:
            if target not in self.functions:
                raise self.damaged("function %s, instruction %d: it calls what is no function",
                                   function.name, index)

    def in_functions(self, section, rows, what):
        """Each function of a section with those of its rows, (offset, ...), that are in it."""
        rows = rows.get(section, ())
        found = list(self.inside(self.in_section[section], rows))
        if sum(len(inside) for _, inside in found) < len(rows) or any(row[0] % 8 for row in rows):
            raise self.damaged("section %s has %s outside of its functions",
                               self.elf.sections[section].name, what)
        return found

    def refer(self, function, offset, symbol):
        """Keep what an ELF relocation of an instruction means."""
        opcode, registers, _, imm = INSN.unpack_from(function.insns, offset)
        index = offset // 8

        def refuse(why, *args):
            return self.damaged("function %s, instruction %d: %s", function.name, index, why % args)

        is_call = opcode == BPF_CALL
        if not is_call and (opcode != BPF_LD_IMM64 or offset + 16 > len(function.insns)):
            raise refuse("a relocation, but neither call nor 64-bit load")
        if symbol.section == 0:
            if symbol.name in self.externs:
                return function.externs.append((index, symbol.name))
            if symbol.name in self.kconfig and not is_call:
                return function.maps.append((index, KCONFIG, self.kconfig[symbol.name]))
            raise refuse("%s is declared and nowhere defined", symbol.name or "a symbol")
        if not symbol.section < len(self.elf.sections) \
                or is_call and registers >> SOURCE & 15 != BPF_PSEUDO_CALL:
            raise refuse("symbol %s is in no section, or called by what is no call", symbol.name)
        section = self.elf.sections[symbol.section]
        if section.flags & SHF_EXECINSTR:
            # A call says how many instructions after itself, a load how far into the section.
            target = symbol.value + (8 * (imm + 1) if is_call else imm)
            return function.calls.append((index, (symbol.section, target)))
        if is_call:
            raise refuse("a call into section %s", section.name)
        if section.name == ".maps":
            if symbol.value + imm not in self.map_at:
                raise refuse("no map at offset %d of .maps", symbol.value + imm)
            return function.maps.append((index, self.map_at[symbol.value + imm], None))
        name = self.arena if section.name == ARENA_DATA else section.name
        if name not in self.maps:
            raise refuse("%s in section %s is neither map nor data", symbol.name, section.name)
        function.maps.append((index, name, symbol.value + imm))

    def read_btf_ext(self):
        """What .BTF.ext says of functions, of lines, and as CO-RE relocations: of each
        {section index: [record...]}."""
        section, cut = self.elf.section(".BTF.ext"), self.elf.cut
        if section is None:
            return {}, {}, {}
        data, found = section.data, []
        magic, version, _, length = struct.unpack_from("=HBBI", cut(data, 0, 24, ".BTF.ext"))
        if magic != 0xeb9f or version != 1 or length < 24 or length > len(data):
            raise self.damaged(".BTF.ext is damaged")
        for at, shape in ((8, "=II"), (16, "=IIII"), (24, "=IIII")):
            offset, size = struct.unpack_from("=II", data, at) if at + 8 <= length else (0, 0)
            found.append(self.records(cut(data, length + offset, size, ".BTF.ext"), shape))
        return found

    def records(self, data, shape):
        """The records of one part of .BTF.ext."""
        cut, known, found, at = self.elf.cut, struct.calcsize(shape), {}, 4
        size, = struct.unpack_from("=I", cut(data, 0, 4, ".BTF.ext")) if data else (known,)
        if size < known or size % 4:
            raise self.damaged(".BTF.ext: a record has %d bytes", size)
        indexes = {name: index for index, name in self.code.items()}
        while at < len(data):
            name, count = struct.unpack_from("=II", cut(data, at, 8, ".BTF.ext"))
            records = cut(data, at + 8, size * count, ".BTF.ext")
            name = self.btf.string(name)
            if name in indexes:
                found.setdefault(indexes[name], []).extend(
                    struct.iter_unpack(shape + "%dx" % (size - known), records))
            at += 8 + size * count
        return found

    def read_struct_ops(self):
        """{name: StructOps}.  One in a section whose name starts with ? is left out."""
        found, members = {}, 0
        for section in self.elf.sections:
            if section.name not in (".struct_ops", ".struct_ops.link") or not section.size:
                continue
            if section.index not in self.sections:
                raise self.damaged("section %s is not described by BTF", section.name)
            rows = []
            for offset, symbol in self.elf.relocations.get(section.index, ()):
                target = self.functions.get((symbol.section, symbol.value))
                if target is None and symbol.type == STT_FUNC:
                    continue            # not to be read
                if target is None or not target.is_program:
                    raise self.damaged("section %s refers to %s, which is no program", section.name,
                                       symbol.name or "something")
                rows.append((offset, target.name))
            for variable, inside in self.inside(self.sections[section.index], rows):
                kind, start = self.btf.skip(variable.type), variable.offset
                members += kind.vlen
                if variable.name in self.maps or variable.name in found:
                    raise self.damaged("it has two maps %s", variable.name)
                if kind.kind != BTF_STRUCT or kind.size > variable.size or members > MAX_MEMBERS:
                    raise self.damaged("%s in %s is no struct, or its members are too many",
                                       variable.name, section.name)
                found[variable.name] = StructOps(
                    variable.name, kind.id, bytes(section.data[start:start + variable.size]),
                    {at - start: name for at, name in inside})
        return found

    def btf_to_load(self):
        """The object's BTF as the kernel takes it.

        clang leaves to the loader the size of each DATASEC and the offsets in it.  What is hidden
        is static.  The kernel knows no externs: .ksyms becomes a struct, which has items of the
        same shape, an extern function a typedef of its prototype, and a variable one that is
        defined; one of .ksyms is an int.
        """
        btf, data = self.btf, bytearray(self.btf.data)

        def put(number, word, *values):
            struct.pack_into("=%dI" % len(values), data, btf.place(number) + 4 * word, *values)

        hidden = {symbol.name for symbol in self.elf.symbols
                  if symbol.is_hidden and symbol.type == STT_FUNC}
        for number in range(1, len(btf)) if hidden else ():
            if btf.kind(number) == BTF_FUNC and btf.type(number).name in hidden:
                put(number, 1, BTF_FUNC << 24 | STATIC)
        parts = [(section.name, section.size, self.sections[section.index])
                 for section in self.elf.sections if section.index in self.sections]
        if KCONFIG in self.maps:
            parts.append((KCONFIG, self.maps[KCONFIG].value_size, self.maps[KCONFIG].variables))
        for name, size, variables in parts:
            put(self.datasecs[name].id, 2, size)
            for index, one in enumerate(variables):
                put(self.datasecs[name].id, 3 + 3 * index, one.id, one.offset, one.size)
                put(one.id, 3, one.linkage if one.linkage < EXTERN else GLOBAL)
        if ".ksyms" in self.datasecs:
            externs = self.datasecs[".ksyms"]
            integer = next((number for number in range(1, len(btf)) if btf.kind(number) == BTF_INT
                            and btf.type(number).size == 4), 0)
            put(externs.id, 0, 0, BTF_STRUCT << 24 | externs.vlen, 4)
            for index, (number, _, _) in enumerate(externs.items):
                put(externs.id, 3 + 3 * index, 0, integer, 0)
                if btf.kind(number) == BTF_FUNC:
                    put(number, 1, BTF_TYPEDEF << 24)
                else:
                    put(number, 2, integer, GLOBAL)
        return bytes(data)


# --- reading an object: some of its programs ---

def part_of(obj, programs):
    """The Object of these programs alone, by their names, with all that they refer to: functions,
    maps and what is in them, data sections, externs, and a struct_ops with all of its programs.

    What the kernel lacks for the others does not matter then.  A program in a section whose name
    starts with ? is demanded by this.
    """
    wanted = set(programs)
    struct_ops = {name: ops for name, ops in obj.struct_ops.items()
                  if not wanted.isdisjoint(ops.functions.values())}
    for ops in struct_ops.values():
        wanted.update(ops.functions.values())
    by_name = {function.name: key for key, function in obj.functions.items()
               if function.is_program}
    functions, maps, externs = {}, set(), set()
    waiting = sorted(wanted)
    while waiting:
        name = waiting.pop()
        key = by_name.get(name, name)
        if key in functions:
            continue
        if key not in obj.functions:
            raise object_damaged(obj.name, "it has no program %s", name, number=errno.ENOENT)
        function = obj.functions[key]
        functions[key] = function._replace(section_name=function.section_name.lstrip("?"))
        waiting.extend(key for _, key in function.calls)
        waiting.extend([function.callback] if function.callback else [])
        externs.update(name for _, name in function.externs)
        for _, name, _ in function.maps:
            held = obj.maps[name].values.values()
            maps.update([name], held)
            waiting.extend(value for value in held if value not in obj.maps)

    return obj._replace(functions=functions, struct_ops=struct_ops,
                        maps={name: obj.maps[name] for name in obj.maps if name in maps},
                        externs={name: obj.externs[name] for name in externs})


# --- relocating: CO-RE ---

# clang compiles an access to a field of a kernel's type against the type as the source declares it,
# and leaves a CO-RE relocation: a root type, a path of indexes into it, and what is wanted of what
# lies there.  The path is followed by name through the kernel's type of the same name.

(FIELD_BYTE_OFFSET, FIELD_BYTE_SIZE, FIELD_EXISTS, FIELD_SIGNED, FIELD_LSHIFT_U64,
 FIELD_RSHIFT_U64, TYPE_ID_LOCAL, TYPE_ID_TARGET, TYPE_EXISTS, TYPE_SIZE, ENUMVAL_EXISTS,
 ENUMVAL_VALUE, TYPE_MATCHES) = range(13)
_FIELD_KINDS = range(FIELD_BYTE_OFFSET, TYPE_ID_LOCAL)
_ENUMVAL_KINDS = (ENUMVAL_EXISTS, ENUMVAL_VALUE)
_CORE_NAMES = ("offset", "size", "existence", "signedness", "left shift", "right shift",
               "local type id", "type id", "existence", "size", "existence", "value", "match")
MAX_PATH = 64
FIELD, KIND, MATCH, BEHIND = range(4)   # how types are alike

# Calls of functions that no kernel has: the verifier refuses them only if they can be reached.
POISON_CORE = 195896080
POISON_KFUNC = 2002000000

# A path followed to its end.  steps: the Member or the index at each.  member: the last that has a
# name, or the (name, value) of an enumerator; None if it ends with the element of an array or the
# root, which is of this type.
Path = collections.namedtuple("Path", "btf root steps bit_offset member type")
Path.__new__.__defaults__ = (), 0, None, 0
# What a relocation comes to.  value None: the kernel has nothing like it.  check: the instruction
# must hold the local value.  size and type: of the field, for loads that must change their width.
Answer = collections.namedtuple("Answer", "value check size type")
Answer.__new__.__defaults__ = True, 0, 0


class CoreError(Exception):
    """Why a CO-RE relocation can't be made; told with the function and instruction."""


def core_local_path(btf, relocation):
    """The path as the object's own types have it."""
    root, found = btf.skip(relocation.type), None
    parts = relocation.access.split(":", MAX_PATH)
    if all(part.isdecimal() and len(part) < 10 for part in parts):
        indexes = [int(part) for part in parts]
        if relocation.kind in _FIELD_KINDS:
            found = _follow(btf, relocation.type, indexes, _member_at)
        elif relocation.kind not in _ENUMVAL_KINDS:
            found = Path(btf, relocation.type) if indexes == [0] else None
        elif root.kind in BTF_ENUMS and len(indexes) == 1 and indexes[0] < len(root.items):
            found = Path(btf, relocation.type, member=root.items[indexes[0]])
    if found is None:
        raise CoreError("access %r leads nowhere in %s" % (relocation.access,
                                                           btf.describe(root.id)))
    return found


def _follow(btf, root, steps, find):
    """The Path from a type, or None.  find(struct, step) gives (Member, is it the last, bits to
    it), or None."""
    here, offset, member, flexible, done = btf.skip(root), 0, None, False, []
    for number, step in enumerate(steps):
        if number and (isinstance(step, Member) or here.kind in BTF_COMPOSITES):
            found = find(here, step)
            if found is None:
                return None
            item, flexible, distance = found
            here, offset = btf.skip(item.type), offset + distance
            if item.name:
                member = item
                done.append(item)
            continue
        if number:
            if here.kind != BTF_ARRAY or step >= here.items[2] and not (
                    flexible and here.items[2] == 0):
                return None
            here = btf.skip(here.items[0])
        offset += step * 8 * _core_size(btf, here.id)
        member = None
        done.append(step)
    return Path(btf, root, done, offset, member, here.id)


def _member_at(here, index):
    return (here.items[index], index == len(here.items) - 1,
            here.items[index].bit_offset) if index < len(here.items) else None


def _core_size(btf, number):
    size = btf.size_of(number)
    if size < 0:
        raise CoreError("%s has no size" % btf.describe(number))
    return size


def core_match(local, kind, btf, root, known):
    """The local path followed in another type of the same name, or None where it doesn't lead."""
    if kind in _FIELD_KINDS:
        return _follow(btf, root, local.steps, lambda here, step: _find_member(
            local.btf, step, btf, here, known, set()) if isinstance(step, Member) else None)
    if kind in _ENUMVAL_KINDS:
        there, wanted = btf.skip(root), essential(local.member[0])
        return next((Path(btf, root, member=item)
                     for item in (there.items if there.kind in BTF_ENUMS else ())
                     if essential(item[0]) == wanted), None)
    how = MATCH if kind == TYPE_MATCHES else KIND
    return Path(btf, root) if alike(how, local.btf, local.root, btf, root, known) else None


def _find_member(local, member, btf, composite, known, seen, depth=0):
    """(Member, is it the last, bits to it) of this name, unnamed structs looked into, or None.

    seen: ids of those looked into, so that types in themselves cost no more than they have.
    """
    if composite.kind not in BTF_COMPOSITES or depth > MAX_HOPS or composite.id in seen:
        return None
    seen.add(composite.id)
    for index, there in enumerate(composite.items):
        if not there.name:
            found = _find_member(local, member, btf, btf.skip(there.type), known, seen, depth + 1)
            if found is not None:
                return found[:2] + (found[2] + there.bit_offset,)
        elif there.name == member.name:
            is_alike = alike(FIELD, local, member.type, btf, there.type, known)
            is_last = index == len(composite.items) - 1
            return (there, is_last, there.bit_offset) if is_alike else None
    return None


def alike(how, local, local_id, btf, there_id, known, depth=MAX_HOPS):
    """Is a type of the object like one of the kernel's, as libbpf sees it?  how:

    FIELD    a field of one may stand for one of the other; their sizes may differ
    KIND     they are the same kind of thing, through pointers, arrays and prototypes
    MATCH    names, sizes and members are the same to the first pointer; BEHIND it only names

    known holds what was compared before: types that share parts cost no more than they have.
    """
    here, there = local.skip(local_id), btf.skip(there_id)
    key = how, here.id, there.id
    if key not in known:
        known[key] = True               # while it is being found out, it holds
        known[key] = depth > 0 and _compare(how, local, here, btf, there, known, depth - 1)
    return known[key]


def _compare(how, local, here, btf, there, known, depth):
    def again(one, other, how=how):
        return alike(how, local, one, btf, other, known, depth)

    kind, is_match = here.kind, how in (MATCH, BEHIND)
    same_name = essential(here.name) == essential(there.name)
    if is_match and not same_name:
        return False
    if how == FIELD and kind in BTF_COMPOSITES:
        return there.kind in BTF_COMPOSITES
    if how == BEHIND and (kind == BTF_FWD) != (there.kind == BTF_FWD):
        declared, defined = (here, there) if kind == BTF_FWD else (there, here)
        return defined.kind == (BTF_UNION if declared.flag else BTF_STRUCT)
    if kind != there.kind and not (kind in BTF_ENUMS and there.kind in BTF_ENUMS):
        return False
    if kind in BTF_COMPOSITES:
        return how != MATCH or _members_match(here, there, again)
    if kind in BTF_ENUMS and is_match:
        return {essential(name) for name, _ in here.items} <= {
            essential(name) for name, _ in there.items}
    if kind == BTF_FWD and is_match:
        return here.flag == there.flag
    if kind == BTF_FWD or kind in BTF_ENUMS:
        return how == KIND or same_name or not (here.name and there.name)
    if kind == BTF_INT:
        if is_match:
            return here.size == there.size and here.items[0] & 1 == there.items[0] & 1
        return here.items[1] == there.items[1] == 0
    if kind == BTF_PTR:
        return how == FIELD or again(here.size, there.size, BEHIND if is_match else how)
    if kind == BTF_ARRAY:
        return ((not is_match or here.items[2] == there.items[2])
                and again(here.items[0], there.items[0]))
    if kind == BTF_FUNC_PROTO and how != FIELD:
        return (here.vlen == there.vlen and again(here.size, there.size)
                and all(again(one[1], other[1]) for one, other in zip(here.items, there.items)))
    return kind == (BTF_FLOAT if how == FIELD else BTF_VOID)


def _members_match(here, there, again):
    """Has each member of the local struct one of its name and type in the other?"""
    by_name = {}
    for member in there.items:
        by_name.setdefault(essential(member.name), []).append(member.type)
    return all(any(again(member.type, type_id, MATCH)
                   for type_id in by_name.get(essential(member.name), ()))
               for member in here.items)


def core_answer(kind, path):
    """What a relocation of this kind wants to know of what a path leads to (None: nothing)."""
    if kind in (FIELD_EXISTS, TYPE_EXISTS, TYPE_MATCHES, ENUMVAL_EXISTS):
        return Answer(int(path is not None))
    if path is None:
        return Answer(0 if kind in (TYPE_ID_TARGET, TYPE_SIZE) else None)
    if kind in (TYPE_ID_LOCAL, TYPE_ID_TARGET):
        return Answer(path.root, False)
    if kind == TYPE_SIZE:
        return Answer(_core_size(path.btf, path.root))
    if kind == ENUMVAL_VALUE:
        return Answer(path.member[1])
    if kind not in _FIELD_KINDS:
        raise CoreError("relocation of kind %d is not known" % kind)
    return _field_answer(kind, path)


def _field_answer(kind, path):
    btf, member, first = path.btf, path.member, path.bit_offset
    field = btf.skip(member.type if member else path.type)
    bits = member.bit_size if member else 0
    if not bits and member and field.kind == BTF_INT and field.items[1:] != (0, 8 * field.size):
        bits = field.items[2]                           # a bit field of the old kind
    is_whole = not bits
    size = _core_size(btf, field.id) if is_whole else field.size
    while bits and size and first + bits > (first // 8 // size * size + size) * 8:
        size *= 2
    if bits and not 0 < size <= 8:
        raise CoreError("bit field %s is too wide" % member.name)
    offset, bits = (first // 8, 8 * size) if is_whole else (first // 8 // size * size, bits)
    if kind == FIELD_BYTE_OFFSET:
        return Answer(offset, True, size, field.id) if is_whole else Answer(offset, False)
    if kind == FIELD_BYTE_SIZE:
        return Answer(size, is_whole)
    if member is None:
        raise CoreError("%s of an array's element" % _CORE_NAMES[kind])
    if kind == FIELD_SIGNED:
        return Answer(field.flag if field.kind in BTF_ENUMS else
                      field.items[0] & 1 if field.kind == BTF_INT else 0)
    if kind == FIELD_RSHIFT_U64:
        return Answer(64 - bits)
    return Answer(64 - (first + bits - offset * 8) if sys.byteorder == "little" else
                  (8 - size) * 8 + first - offset * 8, is_whole)


def core_resolve(btf, relocation, kernel, known):
    """(local Path, local Answer, kernel's Answer).  All kernel types that match must agree."""
    local = core_local_path(btf, relocation)
    here = core_answer(relocation.kind, local)
    if relocation.kind == TYPE_ID_LOCAL:
        return local, here, here
    root = btf.type(relocation.type)
    if not root.name:
        raise CoreError("%s can't be looked for" % btf.describe(root.id))
    kinds = BTF_ENUMS if root.kind in BTF_ENUMS else (root.kind,)
    answers = {}
    for number in kernel.find(essential(root.name), kinds):
        path = core_match(local, relocation.kind, kernel, number, known)
        if path is not None:
            answer = core_answer(relocation.kind, path)
            answers.setdefault((path.bit_offset, answer.value), answer)
    if len(answers) > 1:
        raise CoreError("the kernel has several types %s, and they differ" % root.name)
    there = next(iter(answers.values())) if answers else core_answer(relocation.kind, None)
    return local, here, there


def core_apply(insns, index, btf, resolved, kernel):
    """Change one instruction of a bytearray.  False: it can't be, and must not be reached."""
    _, here, there = resolved
    opcode, registers, off, imm = INSN.unpack_from(insns, 8 * index)
    kind, value = opcode & 7, there.value
    if value is None:
        return False
    if kind in (4, 7) and not opcode & 8:                       # arithmetic with a constant
        held, meant, imm = imm, here.value and _signed(here.value, 32), _signed(value, 32)
    elif kind in (1, 2, 3):                                     # load or store
        held, meant, off = off, here.value, value
        if not 0 <= value <= 0x7fff:
            raise CoreError("offset %d is too far" % value)
        if here.size != there.size:
            if not _width_may_change(btf, here.type, kernel, there.type):
                return False
            if there.size not in (1, 2, 4, 8):
                raise CoreError("a field of %d bytes" % there.size)
            opcode = opcode & ~0x18 | {8: 0x18, 4: 0x00, 2: 0x08, 1: 0x10}[there.size]
    elif opcode == BPF_LD_IMM64 and not registers >> SOURCE & 15 and 8 * index + 16 <= len(insns):
        high = INSN.unpack_from(insns, 8 * index + 8)[3]
        held, meant = imm & 0xffffffff | (high & 0xffffffff) << 32, here.value & (1 << 64) - 1
        imm = _signed(value, 32)
        INSN.pack_into(insns, 8 * index + 8, 0, 0, 0, _signed(value >> 32, 32))
    else:
        raise CoreError("an instruction of opcode %#x" % opcode)
    if here.check and held != meant:
        raise CoreError("the instruction has %d where %d was meant" % (held, meant))
    INSN.pack_into(insns, 8 * index, opcode, registers, off, imm)
    return True


def _signed(value, bits):
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)


def _width_may_change(btf, local_id, kernel, there_id):
    """Only pointers and unsigned integers read the same at another width."""
    here, there = btf.skip(local_id), kernel.skip(there_id)
    return here.kind == there.kind and (here.kind == BTF_PTR or (
        here.kind == BTF_INT and not (here.items[0] | there.items[0]) & 1))


# --- relocating: whole programs ---

# A program as the kernel takes it, but for the descriptors of its maps: fixups has
# (instruction, map or section, offset in it or None).  poison: {instruction: what is missing}.
Program = collections.namedtuple(
    "Program", "name section kind attach_type flags attach_btf_id insns fixups func_info line_info "
    "poison")
# A struct_ops map's value as the kernel lays it out; functions: {offset in value: program}.
StructOpsValue = collections.namedtuple("StructOpsValue", "name type value_type value functions")
Image = collections.namedtuple("Image", "programs struct_ops")

MAX_SUBPROGRAMS = 256
MAX_ADDRESSES = 64      # typeless symbols: each is looked for in the whole of /proc/kallsyms
MAX_CODE = 1 << 26
BPF_F_SLEEPABLE, BPF_F_XDP_HAS_FRAGS = 1 << 4, 1 << 5
# What those who attach to something in the kernel's BTF look for: {attach type: (prefix, kind)}.
BTF_NAMES = {23: ("btf_trace_", BTF_TYPEDEF), 28: ("bpf_iter_", BTF_FUNC),
             27: ("bpf_lsm_", BTF_FUNC), 43: ("bpf_lsm_", BTF_FUNC)}

# What the names of sections say: the type of the program stands before them, and after = that of
# its attachment.  .s means that it may sleep.  With some types a slash follows, and a name for
# those who attach.
(PROG_KPROBE, PROG_TRACEPOINT, PROG_RAW_TP, PROG_RAW_TP_WRITABLE, PROG_TRACING, PROG_STRUCT_OPS,
 PROG_EXT, PROG_LSM) = NAMED_PROGRAMS = 2, 5, 17, 24, 26, 27, 28, 29
ATTACHED_BY_SECTION = PROG_RAW_TP, PROG_RAW_TP_WRITABLE, PROG_TRACING, PROG_EXT, PROG_LSM
_SECTIONS = """
1 socket 2 kprobe kretprobe ksyscall kretsyscall uprobe uprobe.s uretprobe uretprobe.s usdt usdt.s
kprobe.multi=42 kretprobe.multi=42 uprobe.multi=48 uprobe.multi.s=48 uretprobe.multi=48
uretprobe.multi.s=48 kprobe.session=56 uprobe.session=57 uprobe.session.s=57 3 tc classifier
tc/ingress=46 tc/egress=47 tcx/ingress=46 tcx/egress=47 netkit/primary=54 netkit/peer=55 4 action 5
tracepoint tp 6 xdp=37 xdp.frags=37 xdp/devmap=33 xdp.frags/devmap=33 xdp/cpumap=35
xdp.frags/cpumap=35 7 perf_event 8 cgroup_skb/ingress cgroup_skb/egress=1 cgroup/skb 9 cgroup/sock=2
cgroup/sock_create=2 cgroup/sock_release=34 cgroup/post_bind4=12 cgroup/post_bind6=13 10 lwt_in 11
lwt_out 12 lwt_xmit 19 lwt_seg6local 13 sockops=3 14 sk_skb sk_skb/stream_parser=4
sk_skb/stream_verdict=5 sk_skb/verdict=38 15 cgroup/dev=6 16 sk_msg=7 17 raw_tp raw_tracepoint 24
raw_tp.w raw_tracepoint.w 18 cgroup/bind4=8 cgroup/bind6=9 cgroup/connect4=10 cgroup/connect6=11
cgroup/connect_unix=49 cgroup/sendmsg4=14 cgroup/sendmsg6=15 cgroup/sendmsg_unix=50
cgroup/recvmsg4=19 cgroup/recvmsg6=20 cgroup/recvmsg_unix=51 cgroup/getpeername4=29
cgroup/getpeername6=30 cgroup/getpeername_unix=52 cgroup/getsockname4=31 cgroup/getsockname6=32
cgroup/getsockname_unix=53 23 cgroup/sysctl=18 25 cgroup/getsockopt=21 cgroup/setsockopt=22 20
lirc_mode2=16 22 flow_dissector=17 21 sk_reuseport=39 sk_reuseport/migrate=40 30 sk_lookup=36 32
netfilter=45 31 syscall 26 tp_btf=23 fentry=24 fentry.s=24 fexit=25 fexit.s=25 fmod_ret=26
fmod_ret.s=26 iter=28 iter.s=28 28 freplace 29 lsm=27 lsm.s=27 lsm_cgroup=43 27 struct_ops
struct_ops.s
"""
SECTIONS = {}


def section_kind(section):
    """(type, attach type, flags, name after the slash) that a section's name says, or None."""
    for word in _SECTIONS.split() if not SECTIONS else ():
        name, _, attach_type = word.partition("=")
        if word.isdigit():
            kind = int(word)
        else:
            SECTIONS[name] = kind, int(attach_type or 0)
    head, _, rest = (section, "", "") if section in SECTIONS else section.partition("/")
    kind, attach_type = SECTIONS.get(head, (0, 0))
    if head != section and kind not in NAMED_PROGRAMS or not kind:
        return None
    flags = BPF_F_SLEEPABLE if head.endswith(".s") or head == "syscall" else 0
    return kind, attach_type, BPF_F_XDP_HAS_FRAGS if head.startswith("xdp.frags") else flags, rest


def _put(code, index, source, value, high=0):
    """Give an instruction this source register and immediate; `high` is the second half of a
    64-bit load's."""
    opcode, registers, off, _ = INSN.unpack_from(code, 8 * index)
    registers = registers & 15 << 4 - SOURCE | source << SOURCE
    INSN.pack_into(code, 8 * index, opcode, registers, off, _signed(value, 32))
    if opcode == BPF_LD_IMM64:
        INSN.pack_into(code, 8 * index + 8, 0, 0, 0, _signed(high, 32))


def _refusal(obj, function, why, index=None, number=errno.ENOEXEC):
    return object_damaged(obj.name, "%s %s%s: %s", "program" if function.is_program else "function",
                          function.name, "" if index is None else ", instruction %d" % index, why,
                          doing="relocate", number=number)


def _spell(btf, path):
    """`struct dentry.d_u.d_alias`, for messages."""
    text = btf.describe(path.root)
    if path.member and not path.steps:
        return text + " " + path.member[0]
    return text + "".join("." + step.name if isinstance(step, Member) else "[%d]" % step
                          for step in path.steps[1:])


class _Linker:
    """Fits the programs of an Object to the kernel with this BTF."""

    def __init__(self, obj, kernel, target):
        self.obj, self.btf, self.target = obj, obj.btf, target
        self._kernel, self._addresses = kernel, None
        self.members = {}               # {program of a struct_ops: (its struct's BTF id, index)}
        self.known = {}                 # what CO-RE relocations came to, for many ask the same

    @property
    def kernel(self):
        """The kernel's BTF: to read it takes a while, and many objects need none."""
        if self._kernel is None:
            self._kernel = kernel_btf()
        return self._kernel

    def address(self, name):
        """That of a symbol of the running kernel, or 0.  All are looked for at once."""
        if self._addresses is None:
            names = [extern.name for extern in self.obj.externs.values() if not extern.type]
            if len(names) > MAX_ADDRESSES:
                raise object_damaged(self.obj.name, "it wants %d addresses, more than %d",
                                     len(names), MAX_ADDRESSES, doing="relocate")
            self._addresses = {}
            for one, address in kernel_symbols(names):
                if self._addresses.setdefault(one, address) != address:
                    raise object_damaged(self.obj.name, "this kernel has several %s", one,
                                         doing="relocate")
        return self._addresses.get(name, 0)

    def attachment(self, function):
        """(type, attach type, flags, BTF id), or None for a struct_ops program nobody refers to."""
        said = section_kind(function.section_name.lstrip("?"))
        if said is None:
            raise _refusal(self.obj, function,
                           "section %s is of no known kind" % function.section_name)
        kind, attach_type, flags, rest = said
        if kind == PROG_STRUCT_OPS:
            struct_id, index = self.members.get(function.name, (0, 0))
            return (kind, index, flags, struct_id) if struct_id else None
        if kind not in (PROG_TRACING, PROG_EXT, PROG_LSM):
            return kind, attach_type, flags, 0
        btf = self.target if kind == PROG_EXT else self.kernel
        prefix, wanted = BTF_NAMES.get(attach_type, ("", BTF_FUNC))
        found = btf.find(prefix + rest, (wanted,)) if rest and btf else ()
        if not found:
            raise _refusal(self.obj, function, "%s has no %s to attach to" % (
                "what it replaces a part of" if kind == PROG_EXT else "this kernel",
                rest or "name"), number=errno.ENOENT)
        return kind, attach_type, flags, found[0]

    def lay_out(self, ops, given_name):
        """A struct_ops in the kernel's layout."""
        name = essential(self.btf.type(ops.type).name)

        def refuse(why, *args, number=errno.ENOEXEC):
            return object_damaged(self.obj.name, "struct_ops %s: %s", ops.name, why % args,
                                  doing="relocate", number=number)

        found = [self.kernel.find(prefix + name, (BTF_STRUCT,))
                 for prefix in ("", "bpf_struct_ops_")]
        if not all(found):
            raise refuse("this kernel has no struct_ops of type %s", name, number=errno.ENOENT)
        theirs, wrapper = (self.kernel.type(ids[0]) for ids in found)
        data, = (member for member in wrapper.items if member.name == "data")
        value, functions = bytearray(wrapper.size), {}
        by_name = {member.name: (index, member) for index, member in enumerate(theirs.items)}
        for member in self.btf.type(ops.type).items:
            offset, size = member.bit_offset // 8, self.btf.size_of(member.type)
            mine, program = ops.data[offset:offset + max(size, 0)], ops.functions.get(offset)
            index, there = by_name.get(essential(member.name), (0, None))
            if there is None:
                if program or any(mine):
                    raise refuse("this kernel's %s has no member %s", name, member.name)
                continue
            place = (data.bit_offset + there.bit_offset) // 8
            kind, other = self.btf.skip(member.type), self.kernel.skip(there.type)
            if member.bit_size or there.bit_size or kind.kind != other.kind:
                raise refuse("member %s is %s here and %s in the kernel, or a bit field",
                             member.name, BTF_KIND_NAMES[kind.kind], BTF_KIND_NAMES[other.kind])
            if kind.kind == BTF_PTR:
                if any(mine) and not program or program and \
                        self.kernel.skip(other.size).kind != BTF_FUNC_PROTO:
                    raise refuse("member %s is a pointer to what is no program", member.name)
                if program:
                    if self.members.setdefault(program, (theirs.id, index)) != (theirs.id, index):
                        raise refuse("program %s is used for two members", program)
                    functions[place] = program
                continue
            if size != self.kernel.size_of(there.type) or size < 0:
                raise refuse("member %s is of another size in the kernel", member.name)
            if member.name == "name" and given_name is not None:
                mine = given_name.encode().ljust(size, b"\0")
                if mine[-1:] != b"\0" or len(mine) > size:
                    raise refuse("name %s is too long", given_name, number=errno.ENAMETOOLONG)
            value[place:place + size] = mine
        return StructOpsValue(ops.name, theirs.id, wrapper.id, bytes(value), functions)

    def link(self, function, attachment):
        """One program with all functions that it calls behind it, in the order of the calls."""
        code, placed, parts = bytearray(), {}, []
        waiting = [function.callback] if function.callback else []
        waiting.append((function.section, function.offset))
        # First the order and the places: depth first, as the calls stand in the code.
        while waiting:
            key = waiting.pop()
            if key in placed:
                continue
            if len(placed) >= MAX_SUBPROGRAMS:
                raise _refusal(self.obj, function,
                               "it has more than %d functions" % MAX_SUBPROGRAMS)
            placed[key] = len(code) // 8
            callee = self.obj.functions[key]
            parts.append((placed[key], callee))
            code += callee.insns
            waiting.extend(target for _, target in reversed(callee.calls))
        fixups, poison, func_info, line_info = [], {}, b"", b""
        pack = struct.Struct("=IIII").pack
        for base, callee in parts:
            for index, target in callee.calls:
                is_call = code[8 * (base + index)] == BPF_CALL
                _put(code, base + index, BPF_PSEUDO_CALL if is_call else BPF_PSEUDO_FUNC,
                     placed[target] - base - index - 1)
            self.relocate_core(callee, code, base, poison)
            self.fill_externs(callee, code, base, poison)
            fixups.extend((base + index, name, offset) for index, name, offset in callee.maps)
            if callee.type:
                func_info += struct.pack("=II", base, callee.type)
            first = base - callee.offset // 8
            line_info += b"".join([pack(first + at // 8, file, line, column)
                                   for at, file, line, column in callee.lines])
        if len(func_info) != 8 * len(parts):
            func_info = b""                 # the kernel takes all functions or none
        kind, attach_type, flags, btf_id = attachment
        return Program(function.name, function.section_name, kind, attach_type, flags, btf_id,
                       bytes(code), fixups, func_info, line_info if func_info else b"", poison)

    def relocate_core(self, function, code, base, poison):
        for relocation in function.core:
            try:
                key = relocation[1:]
                if key not in self.known:
                    self.known[key] = core_resolve(self.btf, relocation, self.kernel, self.known)
                index = base + relocation.index
                if core_apply(code, index, self.btf, self.known[key], self.kernel):
                    continue
            except CoreError as why:
                raise _refusal(self.obj, function, "CO-RE: %s" % why, relocation.index)
            poison[index] = "%s of %s" % (_CORE_NAMES[relocation.kind],
                                          _spell(self.btf, self.known[key][0]))
            if code[8 * index] == BPF_LD_IMM64:
                INSN.pack_into(code, 8 * index + 8, BPF_CALL, 0, 0, POISON_CORE)
            INSN.pack_into(code, 8 * index, BPF_CALL, 0, 0, POISON_CORE)

    def fill_externs(self, function, code, base, poison):
        """Kernel functions and variables: their ids in the kernel's BTF, or addresses."""
        for at, name in function.externs:
            index, extern = base + at, self.obj.externs[name]
            source, number = self.symbol(function, at, extern)
            if code[8 * index] == BPF_LD_IMM64:
                _put(code, index, source, number, number >> 32)
            elif number:
                _put(code, index, BPF_PSEUDO_KFUNC_CALL, number)
            else:
                poison[index] = "kernel function %s" % extern.name
                _put(code, index, 0, POISON_KFUNC)

    def symbol(self, function, index, extern):
        """What a load of an extern holds: (BPF_PSEUDO_BTF_ID, its id in the kernel's BTF),
        (0, address) of a typeless one, or (0, 0) for a weak one that is missing."""
        name, wanted, why = extern.name, BTF_VAR, "this kernel has no variable %s"
        if extern.is_function:
            name, wanted, why = essential(name), BTF_FUNC, "this kernel has no function %s"
        for number in self.kernel.find(name, (wanted,)) if extern.type else ():
            if alike(KIND, self.btf, extern.type, self.kernel, self.kernel.type(number).size,
                     self.known):
                return BPF_PSEUDO_BTF_ID, number
            if not extern.is_function:
                raise _refusal(self.obj, function, "%s is of another type in the kernel" % name,
                               index)
        if not extern.type:
            why = "this kernel tells no address of %s in /proc/kallsyms"
            if self.address(name):
                return 0, self.address(name)
        if extern.weak:
            return 0, 0
        raise _refusal(self.obj, function, why % name, index, errno.ENOENT)


def relocate(obj, kernel=None, ops_names=None, target=None):
    """The Image of an Object for the kernel with this BTF: the running one's, if none is given.

    ops_names gives struct_ops their `name` where the object's own will not do:
    {name of the struct_ops variable: name}.  target is the Btf of the program whose functions
    those of sections freplace replace.
    """
    linker = _Linker(obj, kernel, target)
    struct_ops = [linker.lay_out(ops, (ops_names or {}).get(ops.name))
                  for ops in obj.struct_ops.values()]
    programs, total = [], 0
    for function in obj.functions.values():
        # A section ? is for what is loaded only on demand: by a struct_ops, or see part_of().
        if function.is_program and (function.name in linker.members
                                    or not function.section_name.startswith("?")):
            attachment = linker.attachment(function)
            if attachment is not None:
                programs.append(linker.link(function, attachment))
                total += len(programs[-1].insns)
                if total > MAX_CODE:
                    raise _refusal(obj, function, "all programs together are too long")
    return Image(programs, struct_ops)


# --- loading: bpf(2) ---

(BPF_MAP_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_MAP_UPDATE_ELEM, BPF_MAP_DELETE_ELEM,
 BPF_MAP_GET_NEXT_KEY, BPF_PROG_LOAD) = range(6)
BPF_OBJ_PIN, BPF_OBJ_GET, BPF_PROG_RUN, BPF_OBJ_GET_INFO_BY_FD = 6, 7, 10, 15
BPF_RAW_TRACEPOINT_OPEN, BPF_BTF_LOAD, BPF_BTF_GET_FD_BY_ID, BPF_MAP_FREEZE = 17, 18, 19, 22
BPF_LINK_CREATE, BPF_STRUCT_OPS_ATTACH = 28, 44
BPF_F_LINK = 1 << 13

MAP_PERF_EVENT_ARRAY, MAP_STRUCT_OPS, MAP_RINGBUF, MAP_USER_RINGBUF = 4, 26, 27, 31
PER_CPU_MAPS = (5, 6, 10, 21)           # hash, array, LRU hash, cgroup storage

LOG_SIZES = (1 << 16, 1 << 20, 1 << 24)
PROT_READ_WRITE, MAP_SHARED, MAP_FIXED_NOREPLACE = 3, 1, 0x100000   # mmap(2)
ENOTSUPP = 524                          # the kernel's own
LACKS = errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM    # not for what it is
TRISTATE = "nym"                        # by its number: TRI_NO, TRI_YES, TRI_MODULE


def bpf(command, form, *values, doing, on=None, hint=None):
    """One bpf(2) call.  form and values: those of its union bpf_attr, as struct.pack() has them,
    where a buffer stands for its address.  Returns its result, or raises Error."""
    attributes = ctypes.create_string_buffer(struct.pack("=" + form, *[
        ctypes.addressof(value) if isinstance(value, ctypes.Array) else value for value in values]))
    for _ in range(5):                  # the verifier gives up when a signal comes: EAGAIN
        result = system_call("bpf", command, attributes, len(attributes) - 1)
        if result >= 0:
            return result
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR) and not (
                number == errno.EPERM and _raise_memory_limit()):
            break
    raise failure(number, doing, on, hint or {
        errno.EPERM: "needs root, or CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8), and "
                     "no lockdown", errno.ENOSYS: "this kernel has no bpf(2)"})


def _raise_memory_limit():
    """Before Linux 5.11 maps and programs count as locked memory, and too low a limit is EPERM.
    Raise it, if it can have stood in the way."""
    if _kernel_release() >= (5, 11):
        return False
    resource = module("resource", "loading BPF: raising the limit of locked memory")
    endless = (resource.RLIM_INFINITY,) * 2
    if resource.getrlimit(resource.RLIMIT_MEMLOCK) == endless:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, endless)
    except (ValueError, OSError):
        raise failure(errno.EPERM, "loading BPF", None, "needs root, or a higher limit of locked "
                      "memory (ulimit -l)")
    return True


def _buffer(data):
    """Bytes for a call to read or write."""
    return ctypes.create_string_buffer(bytes(data), max(len(data), 1))


def _short_name(name):
    """A name of at most 15 characters, of those that the kernel takes."""
    return "".join(c if c < "\x7f" and (c.isalnum() or c in "_.") else "_"
                   for c in name)[:15].encode()


# --- loading: maps ---

class Map:
    """A map: keys and values are bytes, or ints, made into as many bytes as there should be.

    Of a map for each CPU a value is one for each possible CPU, all in whole eight bytes.  The key
    of inode, task, socket and cgroup storage is a file descriptor; that of a queue is None.
    """

    def __init__(self, name, kind, fd, sizes, of):
        self.name, self.type, self.fd = name, kind, fd
        self.key_size, self.value_size, self.max_entries = sizes
        self.what = "%s of %s" % (name, of)

    def update(self, key, value, flags=0):
        """Set the value of a key; flags as of bpf(2): 1 only a new one, 2 only an old one."""
        self._element(BPF_MAP_UPDATE_ELEM, "setting an entry of BPF map", key,
                      self._bytes(value, self._room()), flags)

    def lookup(self, key):
        """The value of a key, or None if it has none."""
        return self._element(BPF_MAP_LOOKUP_ELEM, "looking up in BPF map", key, bytes(self._room()))

    def delete(self, key):
        """Take a key out; False if it was not there."""
        return self._element(BPF_MAP_DELETE_ELEM, "deleting from BPF map", key, b"") is not None

    def _room(self):
        return (self.value_size + 7 & ~7) * _possible_cpus() if self.type in PER_CPU_MAPS \
            else self.value_size

    def _bytes(self, value, size):
        if isinstance(value, int):
            bits = 8 * size
            return (value & (1 << bits) - 1).to_bytes(size, sys.byteorder)
        value = bytes(value)
        if len(value) > size:
            raise ValueError("%d bytes for map %s, which takes %d" % (len(value), self.name, size))
        return value.ljust(size, b"\0")

    def _element(self, command, doing, key, value, flags=0):
        """One call on an element; the value looked up, or None if there is no such element."""
        key = 0 if key is None else _buffer(self._bytes(key, self.key_size))
        value = _buffer(value) if value else 0
        try:
            bpf(command, "IIQQQ", self.fd, 0, key, value, flags, doing=doing, on=self.what)
        except Error as why:
            if why.errno == errno.ENOENT and command != BPF_MAP_UPDATE_ELEM:
                return None
            raise
        return value.raw if value and command == BPF_MAP_LOOKUP_ELEM else b""


def _possible_cpus():
    with open("/sys/devices/system/cpu/possible") as file:
        return int(file.read().replace(",", "-").split("-")[-1]) + 1


def _fitted(spec):
    """A MapSpec with as many entries as the kernel takes, and so of the maps in it."""
    entries = spec.max_entries
    if spec.type == MAP_PERF_EVENT_ARRAY and not entries:
        entries = _possible_cpus()
    if spec.type in (MAP_RINGBUF, MAP_USER_RINGBUF) and entries:    # a power of two, whole pages
        entries = 1 << (max(entries, os.sysconf("SC_PAGE_SIZE")) - 1).bit_length()
    return spec._replace(max_entries=entries, inner=spec.inner and _fitted(spec.inner))


def _create_map(spec, btf_fd, of, inner_fd=0, ops_type=0):
    """Create the map that a MapSpec of the object `of` describes."""
    doing, what = "creating BPF map", "%s of %s" % (spec.name, of)
    if max(spec[1:7]) >= 1 << 32:
        raise failure(errno.EINVAL, doing, what, "a number in its description is too large")
    if spec.inner:
        inner = _create_map(spec.inner, btf_fd, of)
        try:
            return _create_map(spec._replace(inner=None), btf_fd, of, inner_fd=inner.fd)
        finally:
            os.close(inner.fd)

    prefix = os.path.basename(of).split(".")[0][:7] if spec.name.startswith(".") else ""
    # Maps of some types take none, or not that of their keys: then again without.
    is_typed = btf_fd >= 0 and bool(spec.key_type or spec.value_type or ops_type)
    types = (btf_fd, spec.key_type, spec.value_type) if is_typed else (0, 0, 0)
    try:
        fd = bpf(BPF_MAP_CREATE, "IIIIIII16sIIIIIQ", spec.type, spec.key_size, spec.value_size,
                 spec.max_entries, spec.map_flags | (1 << 2 if spec.numa_node else 0), inner_fd,
                 spec.numa_node, _short_name(prefix + spec.name), 0, *types, ops_type,
                 spec.map_extra, doing=doing, on=what)
    except Error as why:
        if ops_type or not is_typed or why.errno in LACKS:
            raise
        return _create_map(spec, -1, of, inner_fd)
    return Map(spec.name, spec.type, fd, (spec.key_size, spec.value_size, spec.max_entries), of)


def _open_pinned(spec, btf_fd, of, folder):
    """The map that is pinned by this name, or a new one that is pinned from now on."""
    path = os.path.join(folder, spec.name.replace(".", "_"))
    name = _buffer(os.fsencode(path) + b"\0")
    try:
        fd = bpf(BPF_OBJ_GET, "QII", name, 0, 0, doing="opening pinned BPF map", on=path)
    except Error as why:
        if why.errno != errno.ENOENT:
            raise
        made = _create_map(spec, btf_fd, of)
        with OnFailure(os.close, made.fd):
            bpf(BPF_OBJ_PIN, "QII", name, made.fd, 0, doing="pinning BPF map %s at" % made.what,
                on=path, hint="the folder must be in a BPF file system")
        return made
    has = struct.unpack_from("=I4xIIII", object_info(fd, bytes(80)))
    if has != spec[1:6]:
        os.close(fd)
        raise failure(errno.EEXIST, "opening pinned BPF map", path,
                      "it is not as %s describes it" % printable(of))
    return Map(spec.name, spec.type, fd, has[1:4], of)


# --- loading: variables ---

class Globals:
    """An object's global variables by name, in the memory that its programs use.

    An int is read and set as one.  An array of ints is a memoryview of the memory itself: each of
    its items is read and set where it lies.  An array of char is bytes up to the first NUL, and
    anything else is bytes.  A section with what the kernel looks after (a lock) can't be mapped:
    what is read of it is a copy.
    """

    def __init__(self, btf):
        self._btf = btf
        self._places = {}   # name: (memory or Map, slice of it, struct's format, items or None)
        self._views = []

    def add(self, memory, variables):
        """Have the variables (Variable) of a section whose memory is this."""
        for variable in variables:
            kind, count, letter = self._btf.skip(variable.type), None, None
            if kind.kind == BTF_ARRAY:
                kind, count = self._btf.skip(kind.items[0]), kind.items[2]
            if kind.kind == BTF_INT or kind.kind in BTF_ENUMS:
                signed = kind.items[0] & 1 if kind.kind == BTF_INT else kind.flag
                letter = {1: "Bb", 2: "Hh", 4: "Ii", 8: "Qq"}.get(kind.size, (None,) * 2)[signed]
                if kind.size == 1 and count is not None and kind.name == "char":
                    letter = "s"
            self._places[variable.name] = memory, slice(
                variable.offset, variable.offset + variable.size), letter, count

    def __contains__(self, name):
        return name in self._places

    def __getitem__(self, name):
        memory, where, letter, count = self._places[name]
        if isinstance(memory, Map):
            memory = memory.lookup(0)
        whole = bytes(memory[where])
        if letter is None:
            return whole
        if letter == "s":
            return whole.split(b"\0")[0]
        if count is None:
            return struct.unpack("=" + letter, whole)[0]
        self._views.append(memoryview(memory)[where].cast(letter))
        return self._views[-1]

    def __setitem__(self, name, value):
        memory, where, letter, count = self._places[name]
        if letter not in (None, "s"):
            value = [value] if count is None else value
            value = struct.pack("=%d%s" % (len(value), letter), *value)
        whole = bytearray(memory.lookup(0)) if isinstance(memory, Map) else memory
        if len(value) > where.stop - where.start:
            raise ValueError("%s holds %d bytes, not %d" % (name, where.stop - where.start,
                                                            len(value)))
        whole[where.start:where.start + len(value)] = value
        if whole is not memory:
            memory.update(0, whole)

    def close(self):
        for view in self._views:
            view.release()
        self._views, self._places = [], {}


def _configuration():
    """{name: text} of the kernel's configuration, and of what libbpf tells beside it."""
    system = os.uname()
    # Debian's release is not the version: that is in uname -v.
    major, minor, patch = _numbers(system.version.partition("Debian ")[2] or system.release, 3)
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(system.machine, system.machine)
    wrapped = any(kernel_symbols(["__%s_sys_bpf" % machine]))
    found = {"LINUX_KERNEL_VERSION": str(major << 16 | minor << 8 | min(patch, 255)),
             "LINUX_HAS_BPF_COOKIE": TRISTATE[_kernel_release() >= (5, 15)],
             "LINUX_HAS_SYSCALL_WRAPPER": TRISTATE[wrapped]}
    for path, name in (("/boot/config-" + system.release, "io"), ("/proc/config.gz", "gzip")):
        try:
            with module(name, "reading the kernel's configuration").open(path, "rt") as file:
                found.update(line.strip().split("=", 1) for line in file
                             if line.startswith("CONFIG_"))
        except OSError:
            pass
    return found


# --- loading: all of it ---

class Loaded:
    """What load() has put into the kernel.  close(), or leaving the with block, takes it out.

    maps      {name: Map}, those of data sections and of struct_ops included
    programs  {name: descriptor}
    globals   the global variables, see Globals
    links     {name of struct_ops or program: descriptor}, after attach()
    """

    def __init__(self, obj):
        self.name, self._obj, self._btf = obj.name, obj, obj.btf
        self.maps, self.programs, self.links = {}, {}, {}
        self.points = {}                # {name of a program: its section; of a struct_ops: value}
        self.globals = Globals(obj.btf)
        self._btf_fd = -1
        self._unmap = []                # what to call so that nothing stays mapped

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def memory(self, array):
        """The values of an array map that can be mapped, shared with the kernel until close(): an
        mmap.mmap in which each takes its size rounded up to eight."""
        mmap = module("mmap", "loading BPF: reading and writing its variables")
        memory = mmap.mmap(array.fd, (array.value_size + 7 & ~7) * array.max_entries)
        self._unmap.append(memory.close)
        return memory

    def load_btf(self):
        """Tell the kernel the types.  If it refuses them the rest is tried without, for few objects
        need them: returns what to say if that fails too."""
        for data in (self._obj.btf_load, without_tags(self._obj)):
            try:
                self._btf_fd = _with_log((), lambda log, size: bpf(
                    BPF_BTF_LOAD, "QQIIII", _buffer(data), log, len(data), size, size > 0, 0,
                    doing="loading the types of BPF object", on=self.name))
                return None
            except Error as why:
                if why.errno in LACKS:
                    raise
                refusal = why.with_traceback(None)      # which holds whoever called this
        return refusal

    def load_maps(self, constants, pins):
        for spec in map(_fitted, self._obj.maps.values()):
            if spec.pinning and (pins is None or spec.pinning > 1):
                raise failure(errno.ENOTSUP, "pinning BPF map", "%s of %s" % (spec.name, self.name),
                              "no folder for that is given")
            made = self.maps[spec.name] = \
                _open_pinned(spec, self._btf_fd, self.name, pins) if spec.pinning \
                else _create_map(spec, self._btf_fd, self.name)
            if spec.type == MAP_ARENA:
                memory = self.map_arena(made, spec.map_extra)
                memory[:len(spec.contents)] = spec.contents
                self.globals.add(memory, spec.variables)
            elif spec.name.startswith("."):
                self.fill_data(made, spec, constants)

    def map_arena(self, arena, address):
        """Map an arena, which its programs need, where it wants to be; its bytes."""
        libc().mmap.restype = ctypes.c_void_p
        size = arena.max_entries * os.sysconf("SC_PAGE_SIZE")
        at = libc().mmap(ctypes.c_void_p(address), ctypes.c_size_t(size), PROT_READ_WRITE,
                         MAP_SHARED | (MAP_FIXED_NOREPLACE if address else 0), arena.fd,
                         ctypes.c_long(0))
        if at in (None, ctypes.c_void_p(-1).value):
            raise failure(ctypes.get_errno(), "mapping arena", arena.what)
        self._unmap.append(lambda: libc().munmap(ctypes.c_void_p(at), ctypes.c_size_t(size)))
        return memoryview((ctypes.c_char * size).from_address(at)).cast("B")

    def fill_data(self, made, spec, constants):
        """Give a data section its contents; it is mapped here if it can change."""
        memory, is_constant = None, spec.map_flags & BPF_F_RDONLY_PROG
        if spec.map_flags & BPF_F_MMAPABLE and not is_constant:
            try:
                memory = self.memory(made)
            except OSError as why:
                if why.errno != ENOTSUPP:
                    raise
        whole = bytearray(spec.value_size) if memory is None else memory
        whole[:len(spec.contents)] = spec.contents
        self.globals.add(whole, spec.variables)
        if spec.name == KCONFIG:
            constants = self.configuration(spec.variables)
        for variable in spec.variables:
            if variable.name in constants:
                self.globals[variable.name] = constants[variable.name]
        if memory is None:              # constants, or what the kernel looks after
            made.update(0, whole)
            self.globals.add(bytes(whole) if is_constant else made, spec.variables)
        if is_constant:
            bpf(BPF_MAP_FREEZE, "I", made.fd, doing="freezing BPF map", on=made.what)

    def configuration(self, variables):
        """{name: value} of the variables of .kconfig."""
        known, found = _configuration(), {}
        for variable in variables:
            text, kind = known.get(variable.name), self._btf.skip(variable.type)
            is_bool = kind.kind == BTF_INT and kind.items[0] & 4
            if text is None and variable.linkage == WEAK:
                continue
            try:
                if text[:1] == '"' and kind.kind == BTF_ARRAY:
                    found[variable.name] = text[1:-1].encode()[:variable.size - 1]
                elif kind.kind in BTF_ENUMS or is_bool:
                    found[variable.name] = ("ny" if is_bool else TRISTATE).index(text)
                else:
                    value = ord(text) if text in TRISTATE else int(text, 0)
                    value.to_bytes(variable.size, sys.byteorder, signed=value < 0)
                    found[variable.name] = value
            except (ValueError, TypeError, OverflowError):
                raise failure(errno.ENOENT, "setting variable", "%s of %s" % (
                    variable.name, self.name), "this kernel's configuration has " + (
                        text + ", which does not fit" if text else "none of that name"))
        return found

    def fill_map(self, spec):
        """Put in what an object says is in a map: maps, or programs."""
        for index, name in spec.values.items():
            fd = self.maps[name].fd if name in self.maps else self.programs.get(name, -1)
            if fd < 0:
                raise failure(errno.ENOENT, "filling BPF map", "%s of %s" % (spec.name, self.name),
                              "it holds %s, which is not loaded" % name)
            self.maps[spec.name].update(index, fd)

    def load_struct_ops(self, ops):
        """Always with a link, whatever the object's section says: without one it would stay."""
        if _kernel_release() < (6, 4):
            raise failure(errno.ENOTSUP, "creating struct_ops", "%s of %s" % (ops.name, self.name),
                          "struct_ops that go with the process need Linux 6.4")
        value = bytearray(ops.value)
        for offset, name in ops.functions.items():
            struct.pack_into("=Q", value, offset, self.programs[name])
        spec = MapSpec(ops.name, MAP_STRUCT_OPS, 4, len(value), 1, BPF_F_LINK)
        self.maps[ops.name] = _create_map(spec, self._btf_fd, self.name, ops_type=ops.value_type)
        self.points[ops.name] = bytes(value)

    def load_program(self, program, target):
        """Give a program to the verifier; on refusal once more, for its log."""
        insns = bytearray(program.insns)
        for index, name, offset in program.fixups:
            # A 64-bit load becomes that of a map, or of an address in the value of one.
            source = BPF_PSEUDO_MAP_FD if offset is None else BPF_PSEUDO_MAP_VALUE
            _put(insns, index, source, self.maps[name].fd, offset or 0)
        is_typed = self._btf_fd >= 0 and program.func_info
        funcs, lines = (program.func_info, program.line_info) if is_typed else (b"", b"")
        self.programs[program.name] = _with_log(program.poison, lambda log, size: bpf(
            BPF_PROG_LOAD, "IIQQIIQII16sIIIIQIIQIII", program.kind, len(insns) // 8,
            _buffer(insns), _buffer(self._obj.license + b"\0"), size > 0, size, log, 0,
            program.flags, _short_name(program.name), 0, program.attach_type,
            self._btf_fd if funcs else 0, 8 if funcs else 0, _buffer(funcs), len(funcs) // 8,
            16 if lines else 0, _buffer(lines), len(lines) // 16, program.attach_btf_id,
            target if program.kind == PROG_EXT else 0,
            doing="loading BPF program", on="%s of %s" % (program.name, self.name)))
        if "/" in program.section and program.kind in ATTACHED_BY_SECTION:
            self.points[program.name] = program.section

    def attach(self, *names):
        """Register struct_ops and run programs at their raw tracepoints, functions and hooks
        (fentry, lsm, freplace...), all of them or those named, until close().

        EEXIST: the kernel has a struct_ops of the same name.
        """
        for name in names or list(self.points):
            if name not in self.points:
                raise failure(errno.ENOTSUP, "attaching BPF program", "%s of %s" % (
                    name, self.name), "it is of no kind that is attached by its section")
            self.links[name] = self._register(name) if name in self.maps \
                else self._run_at_point(name)

    def _register(self, name):
        ops, said = self.maps[name], dict(doing="registering struct_ops", hint={
            errno.EEXIST: "another with its name is registered",
            errno.EINVAL: "the kernel takes names of letters, digits, _ and . only, and may "
                          "require members that are missing"})
        if self.points[name]:
            bpf(BPF_MAP_UPDATE_ELEM, "IIQQQ", ops.fd, 0, _buffer(bytes(4)),
                _buffer(self.points[name]), 0, on=ops.what, **said)
            self.points[name] = b""             # it holds it from now on
        return bpf(BPF_LINK_CREATE, "IIIIQQQ", ops.fd, 0, BPF_STRUCT_OPS_ATTACH, 0, 0, 0, 0,
                   on=ops.what, **said)

    def _run_at_point(self, program):
        kind, _, point = self.points[program].partition("/")
        named = SECTIONS[kind][0] in (PROG_RAW_TP, PROG_RAW_TP_WRITABLE)
        return bpf(BPF_RAW_TRACEPOINT_OPEN, "QI4x", _buffer(point.encode() + b"\0") if named else 0,
                   self.programs[program], on=self.points[program],
                   doing="running BPF program %s of %s at" % (program, self.name))

    def detach(self, *names):
        """Take out again what was attached, all of it or that named."""
        for name in names or list(self.links):
            os.close(self.links.pop(name))

    def close(self):
        """Links first, so that no program runs on while its maps go."""
        self.detach()
        self.globals.close()
        while self._unmap:
            self._unmap.pop()()
        for fd in list(self.programs.values()) + [found.fd for found in self.maps.values()] + (
                [self._btf_fd] if self._btf_fd >= 0 else []):
            os.close(fd)
        self.programs, self.maps, self._btf_fd = {}, {}, -1


def load(obj, kernel=None, ops_names=None, constants=None, pins=None, target=None):
    """Put an Object into the kernel and return what is Loaded; if anything fails, nothing stays.

    kernel, ops_names   see relocate()
    constants  {name: value} of globals, set before the programs are verified; .rodata only then
    pins       a folder in a BPF file system, where maps that are pinned by name are, and stay
    target     the descriptor of the program whose functions those of sections freplace replace
    """
    image = relocate(obj, kernel, ops_names, None if target is None else program_btf(target))
    loaded = Loaded(obj)
    with OnFailure(loaded.close):
        refusal = loaded.load_btf()
        try:
            loaded.load_maps(constants or {}, pins)
            for program in image.programs:
                loaded.load_program(program, target)
            for spec in obj.maps.values():
                loaded.fill_map(spec)
            for ops in image.struct_ops:
                loaded.load_struct_ops(ops)
        except Error as why:
            if refusal is None:
                raise
            raise Error(why.errno, "%s; and %s" % (why, refusal), why.detail) from None
        except OSError as why:          # mmap(2), /sys
            raise failure(why.errno, "loading BPF object", obj.name)
    return loaded


def without_tags(obj):
    """An object's BTF to load, without type tags: a kernel refuses those of types that it doesn't
    look after, and before Linux 5.17 all."""
    data = bytearray(obj.btf_load)
    for number in range(1, len(obj.btf)):
        if obj.btf.kind(number) == BTF_TYPE_TAG:
            struct.pack_into("=II", data, obj.btf.place(number), 0, BTF_CONST << 24)
    return data


def _with_log(poison, attempt):
    """What attempt(0, 0) returns.  If the kernel refuses it is asked again, attempt(buffer, size),
    for its log: the Error has the last line that says why and the source line it is about, in one
    line; the end of the log in detail.  poison: see Program."""
    why = None
    for size in (0,) + LOG_SIZES:
        log = _buffer(bytes(size)) if size else 0
        try:
            return attempt(log, size)
        except Error as error:
            why = why or error.with_traceback(None)     # which holds whoever called this
            if size and error.errno != errno.ENOSPC:
                break
    # Linux 7.3 says it again, at length.
    told = log.value.decode("utf-8", "replace").partition("\nVerification failed: ")[0]
    lines = [line for line in told.splitlines()
             if line.strip() and not line.startswith(("processed ", "verification time",
                                                      "stack depth", "Func#", "max_states"))]
    if not lines:
        raise why
    source = next((line.lstrip("; ") for line in reversed(lines) if line.startswith(";")), "")
    reason = lines[-1].strip()
    # The instruction that it came to last: others that are missing may not even be reached.
    at = next((line.partition(":")[0] for line in reversed(lines) if ": (85) call " in line), "")
    if at.isdigit() and int(at) in poison:
        reason += " (this kernel has no %s)" % poison[int(at)]
    hint = "turn on the kernel's compiler (sysctl net.core.bpf_jit_enable=1), where it has one " \
        "(CONFIG_BPF_JIT)" if "JIT" in reason else ""
    raise Error(why.errno, "%s: %s%s" % (why.reason, reason, ", at: " + source if source else ""),
                "\n".join(lines[-20:]), hint)


# --- asking the kernel ---

def object_info(fd, info):
    """What the kernel tells of a map, program or BTF, in as many bytes as info has, which says
    where it is to put more.  BPF_OBJ_GET_INFO_BY_FD."""
    buffer = _buffer(info)
    bpf(BPF_OBJ_GET_INFO_BY_FD, "IIQ", fd, len(info), buffer, doing="asking about a descriptor")
    return buffer.raw


def program_btf(program):
    """The Btf of a loaded program."""
    number, = struct.unpack_from("=I", object_info(program, bytes(216)), 128)
    fd = bpf(BPF_BTF_GET_FD_BY_ID, "I", number, doing="asking for the types of a program")
    try:
        size, = struct.unpack_from("=8xI", object_info(fd, bytes(16)))
        data = _buffer(bytes(size))
        object_info(fd, struct.pack("=QII", ctypes.addressof(data), size, 0))
    finally:
        os.close(fd)
    return Btf(data.raw, "of program %d" % program)


def kernel_symbols(names):
    """(name, address) of each kernel symbol of these names, where it is told.  It takes a while."""
    try:
        with open("/proc/kallsyms", "rb", buffering=0) as file:
            text = file.read()
    except OSError:
        return
    for name in names:
        for before in text.split(b" %s\n" % name.encode())[:-1]:
            address = int(before[before.rfind(b"\n") + 1:].split()[0], 16)
            if address:
                yield name, address


# =============================================================================================
# 5. Who did it
# =============================================================================================
# An event says the id of a process and nothing else, and is read a moment later: by then the
# process may have ended, and its id may be another's.  What is known: the event happened after
# `since`, when the queue was last seen empty; an id has one holder at a time; and of each process
# that ends a BPF program notes id, name, user, control group and when (Ended).  So it was
#
#   - who has the id now, if it began before `since`, or if nobody who had the id ended since;
#   - who was the last to end with it, if nobody has it now and nobody else ended with it since.
#
# All else can't be told apart, and is None.  Where there is no BPF, /proc has to do, and what it
# said of those that have ended since.
# A name is the last that the process had: a shell that runs a program in its own place is that.

BOOT_CLOCK = 7                  # CLOCK_BOOTTIME, as of start times; Python 3.6 has no name for it
EXIT_SECONDS = 1.0              # from a process's note to its last event, as its files are closed
RECENT_LIMIT = 4096             # processes and control groups remembered
IDS_A_SECOND = 5000             # more than programs on one processor take
TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")     # start times are cut down to it
FIRST_NAMESPACES = (("pid", 0xEFFFFFFC), ("time", 0xEFFFFFFA))      # PROC_PID_INIT_INO and so on


def boot_time():
    """Seconds since the host started, its sleep included."""
    return time.clock_gettime(BOOT_CLOCK)


class Process(collections.namedtuple("Process", "pid ppid comm uid gid exe cmdline cgroup")):
    """Who did it.  All but `pid` may be None: not known any more, or never.

    pid      int, process id
    ppid     int, that of its parent
    comm     str, its name (at most 15 bytes), proc(5)
    uid, gid int, real user and group id: of who runs it, also where it may do more
    exe      str, path of its executable
    cmdline  tuple of str, its arguments
    cgroup   str, path of its control group

    Of one that has ended, comm, uid, gid and cgroup are known at most.
    """

    __slots__ = ()

    @property
    def user(self):
        """The name of its user, or the number as str where /etc/passwd has no name for it."""
        return user_name(self.uid)

    @property
    def unit(self):
        """The systemd unit or the container that it is of, str, or None: see unit_of()."""
        return unit_of(self.cgroup)


class Processes:
    """The processes of a moment, by pid; each is asked for once, when it is wanted.

    who    what tells them
    since  boot_time() before the events whose processes are asked for
    """

    __slots__ = ("since", "who", "_names", "_all")

    def __init__(self, who, since):
        self.who, self.since = who, max(since, who.begun)
        self._names, self._all = {}, {}

    def name(self, pid):
        """The name of a process, str; "" where it is not known: one read, where all takes five."""
        name = self._names.get(pid)
        if name is None:
            name, ended = "", self.who.ended        # any thread may call close()
            if ended is not None:
                name = os.fsdecode(read_file("/proc/%d/comm" % pid)[:-1])
            if not name or not ended.had_none(pid, self.since):
                name = self[pid].comm or ""
            self._names[pid] = name
        return name

    def uid(self, pid):
        """The real user id of a process, int, or None."""
        return self[pid].uid

    def __getitem__(self, pid):
        """The Process of a pid."""
        process = self._all.get(pid)
        if process is None:
            process = self._all[pid] = self.who.find(pid, self.since)
        return process


class Noted:
    """The process of an event, as BPF noted it when that happened: what Processes is, for one."""

    __slots__ = ("_who", "_note", "_process")

    def __init__(self, who, note):
        """`note`: with pid, comm, uid, gid, cgroup and time, a Record."""
        self._who, self._note, self._process = who, note, None

    def name(self, _):
        return os.fsdecode(self._note.comm)

    def uid(self, _):
        return self._note.uid

    def __getitem__(self, _):
        if self._process is None:
            self._process = self._who.complete(self._note)
        return self._process


class Known:
    """The Process of an event that was pickled or copied, or None: what Processes is, for one."""

    __slots__ = ("_process",)

    def __init__(self, process):
        self._process = process

    def name(self, _):
        return self._process.comm

    def uid(self, _):
        return self._process.uid

    def __getitem__(self, _):
        return self._process


class Who:
    """Tells who did it, for all moments of a Watch.

    ended   Ended, or None
    begun   boot_time() of attach(), before which no event is
    """

    def __init__(self):
        self.ended, self._reason, self.begun = None, "", 0.0
        self._cgroups, self._proc = None, proc_is_ours()
        # Without notes: pid -> (Process, boot_time() by which it had begun).  Ids are given in
        # turn, so that nobody else gets one for as many seconds as all of them last.
        self._known = {}
        self._lasts = int(read_file("/proc/sys/kernel/pid_max") or 0) \
            / (IDS_A_SECOND * (os.cpu_count() or 1))

    def attach(self):
        """From now on have the ends of processes noted, if that is to be had."""
        if self.ended is not None:
            return
        try:
            require_first_namespaces()
            self.ended = Ended()
        except OSError as why:
            self._reason = str(why)
        self.begun = boot_time()

    def close(self):
        ended, self.ended = self.ended, None
        if ended is not None:
            ended.close()

    def means(self):
        """How the names of processes that have ended are known, in words."""
        return "by BPF" if self.ended is not None \
            else "by /proc, of those heard of before they ended: " + self._reason

    def find(self, pid, since):
        """The Process that had this id at some time after `since`; None for what can't be told."""
        ended = self.ended
        if ended is None:
            return self._without_notes(pid, since)
        found = read_process(pid) if self._proc else None
        if found is not None:
            process, begun, exited = found
            if begun < since or ended.had_none(pid, since):
                return process
        note, alone = ended.last(pid, since)
        if note is None or not alone or found is None and self._is_hidden(pid):
            return Process(pid, *[None] * 7)
        uid, gid = note.uid_gid & 0xffffffff, note.uid_gid >> 32
        noted = Process(pid, None, note.comm, uid, gid, None, None, self.cgroup(note.cgroup))
        if found is None:
            return noted
        if exited or note.when > begun:
            return process              # the note is its own
        # One of the two: what both say.
        return process._replace(**{field: None for field in Process._fields
                                   if getattr(process, field) != getattr(noted, field)})

    def complete(self, note):
        """The Process of a Noted: with what /proc says of it, if it is there and runs the program
        of then."""
        process = Process(note.pid, None, os.fsdecode(note.comm), note.uid, note.gid, None, None,
                          self.cgroup(note.cgroup))
        found = read_process(note.pid) if self._proc else None
        if found is None or found[1] > note.time / 1e9 or found[0].comm != process.comm:
            return process
        return process._replace(ppid=found[0].ppid, exe=found[0].exe, cmdline=found[0].cmdline,
                                cgroup=process.cgroup or found[0].cgroup)

    def _is_hidden(self, pid):
        """Whether there is a process, or a thread, of this id that /proc does not show."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return not (self._proc and os.path.isdir("/proc/%d" % pid))

    def _without_notes(self, pid, since):
        """find(), where nobody notes who has ended."""
        now, found = boot_time(), read_process(pid) if self._proc else None
        if found is None:
            process, begun = self._known.get(pid, (None, 0))
            is_it = now - begun < self._lasts
        else:
            process, begun, _ = found
            is_it = begun < since or now - since < self._lasts
            if len(self._known) > RECENT_LIMIT:
                self._known.clear()
            self._known[pid] = process, begun
        return process if process is not None and is_it else Process(pid, *[None] * 7)

    def cgroup(self, number):
        """The path of a control group by its id, if it is still there; else None."""
        if self._cgroups is None:
            self._cgroups = Cgroups()
        return self._cgroups.path(number)


class Ended:
    """The processes that have ended, as a BPF program notes them: see the end of
    bpf/fan_fp.bpf.c.  Its table takes 2 MB of the kernel's memory.  Raises Error where that is
    not to be had."""

    NOTE = struct.Struct("=QQQQQ16sQ")          # struct ended
    WORDS = struct.Struct("=8Q")
    Note = collections.namedtuple("Note", "pid when before uid_gid cgroup comm")

    def __init__(self):
        obj = read_object_file(programs=("note_ended", "note_ended_no_cgroup", "take_back"))
        try:
            self._load(obj, "note_ended")
        except Error as error:
            if error.errno != errno.EINVAL:
                raise
            self._load(obj, "note_ended_no_cgroup")     # a kernel without control groups

    def _load(self, obj, program):
        self.loaded = load(part_of(obj, [program, "take_back"]))
        with OnFailure(self.loaded.close):
            self.table = self.loaded.maps["ended"]
            self.memory = self.loaded.memory(self.table)
            self.loaded.attach()

    def _read(self, pid):
        """What is noted in the place of a pid: Note, None where there is nothing yet.

        Raises Error EIO if it is being written all the time.
        """
        at, size = pid % self.table.max_entries, self.NOTE.size
        for _ in range(3):
            raw = self.memory[at * size:(at + 1) * size]
            words = self.WORDS.unpack(raw)
            if not any(words):
                return None
            check = 1
            for word in words[:-1]:
                check = (check ^ word) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
            if check == words[-1]:
                break
        else:
            raise failure(errno.EIO, "reading who has ended")
        number, when, before, uid_gid, cgroup, comm, _ = self.NOTE.unpack(raw)
        slept = boot_time() - time.monotonic()      # more than it was then: on the safe side
        return self.Note(number, when / 1e9 + slept, before and before / 1e9 + slept, uid_gid,
                         cgroup, os.fsdecode(comm.split(b"\0")[0]))

    def last(self, pid, since):
        """(Note of the last process that ended with this pid or None, whether no other with it
        can have ended since then)."""
        since -= EXIT_SECONDS
        try:
            note = self._read(pid)
        except (Error, ValueError):     # the latter once it is closed
            return None, False
        if note is None:
            return None, True
        return note if note.pid == pid else None, note.before < since

    def had_none(self, pid, since):
        """Whether no process with this pid has ended since then."""
        note, alone = self.last(pid, since)
        return alone and (note is None or note.when < since - EXIT_SECONDS)

    def close(self):
        self.loaded.close()


class Cgroups:
    """The paths of the control groups of the cgroup2 hierarchy, by id.  None: it is gone, or this
    hierarchy is not what tells the units (systemd's own of version 1 does)."""

    def __init__(self):
        self._paths = {}
        lines = read_file("/proc/self/cgroup").splitlines()
        self._named = any(line.split(b":")[1:2] == [b"name=systemd"] for line in lines)
        self._top = next((mount.path for mount in read_mounts()
                          if mount.kind == "cgroup2" and mount.root == b"/"), None)

    def path(self, number):
        """The path of the control group of an id, str, or None."""
        if not number or self._top is None:
            return None
        if number not in self._paths:
            if len(self._paths) > RECENT_LIMIT:
                self._paths.clear()
            self._paths[number] = self._find(number)
        path = self._paths[number]
        return None if path == "/" and self._named else path

    def _find(self, number):
        try:
            with Closing(os.open(self._top, O_READ_DIR)) as top:
                kind = HANDLE_HEADER.unpack_from(name_to_handle(top)[0])[1]
                handle = HANDLE_HEADER.pack(8, kind) + struct.pack("=Q", number)
                with Closing(open_by_handle(top, handle)) as fd:
                    below_top = below(fd_path(fd), fd_path(top))
        except OSError:
            return None
        return None if below_top is None else "/" + os.fsdecode(below_top)


def require_first_namespaces():
    """The kernel notes ids and times as they are in the first namespaces."""
    for kind, number in FIRST_NAMESPACES:
        try:
            found = os.stat("/proc/self/ns/" + kind).st_ino
        except OSError as error:
            if kind == "pid":
                raise failure(error.errno, "noting who has ended", "/proc/self/ns/pid")
            continue                    # Linux before 5.6
        if found != number:
            raise failure(errno.ENOTSUP, "noting who has ended", None,
                          "this is a %s namespace of its own" % kind)


def proc_is_ours():
    """Whether the ids in /proc are those of this pid namespace: one that is inside has more."""
    status = read_status(read_file("/proc/self/status"))
    return status.get(b"NSpid") == b"%d" % os.getpid()


def read_status(text):
    """The fields of a /proc/PID/status by name, bytes."""
    return dict(line.split(b":\t", 1) for line in text.split(b"\n") if b":\t" in line)


def real_id(status, field):
    """The real one of the four ids in a field of a status; None where there is none."""
    return int(status[field].split()[0]) if field in status else None


def read_process(pid):
    """(Process, boot_time() by which it had begun, whether it is a zombie) as /proc has it now, or
    None: there is none.  proc(5).  All of it is of one process, as the directory is."""
    try:
        directory = os.open("/proc/%d" % pid, O_PATH_DIR)
    except OSError:
        return None
    with Closing(directory):
        status = read_status(read_file("status", directory))
        times = read_file("stat", directory).rpartition(b") ")[2].split()
        comm = read_file("comm", directory)         # may be empty, but for its newline
        if int(status.get(b"Tgid", 0)) != pid or len(times) < 20 or not comm:
            return None                 # the id may be one of a thread by now
        try:
            exe = os.readlink("exe", dir_fd=directory)
        except OSError:
            exe = None
        arguments = read_file("cmdline", directory).split(b"\0")[:-1]
        cgroup = cgroup_of(read_file("cgroup", directory))
    process = Process(pid, int(status[b"PPid"]), os.fsdecode(comm[:-1]), real_id(status, b"Uid"),
                      real_id(status, b"Gid"), exe, tuple(map(os.fsdecode, arguments)) or None,
                      cgroup)
    return process, (int(times[19]) + 1) * TICK_SECONDS, times[0] in (b"Z", b"X")


def cgroup_of(text):
    """The path in /proc/PID/cgroup that tells the unit: of cgroup2, or of systemd's own hierarchy
    where that has all in its top.  None: there is neither."""
    paths = {line.split(b":")[1]: line.split(b":", 2)[2] for line in text.splitlines()
             if line.count(b":") >= 2}
    path = paths.get(b"")
    if path in (None, b"/"):
        path = paths.get(b"name=systemd", path)
    return None if path is None else os.fsdecode(path)


UNIT_KINDS = (".service", ".scope", ".socket", ".mount", ".swap")
CONTAINER_ID = 64           # digits


def unit_of(cgroup):
    """What a control group's path says of who runs it, str: the outermost container in it, else
    the systemd unit, else None.

    Of a user's own service manager (user@1000.service) it is the unit below.
    """
    parent, unit = "", None
    for part in (cgroup or "").split("/"):
        container = part if parent == "lxc" else container_in(part)
        if container:
            return container
        parent = part
        if part.endswith(UNIT_KINDS) and (
                unit is None or unit.startswith("user@") and part != "init.scope"):
            unit = part
    return unit


def container_in(part):
    """The container of one name in a control group's path, or "": LXC's name, or of an id as
    Docker, Podman, containerd and CRI-O have it, the 12 digits that they show."""
    payload = "lxc.payload."
    if part.startswith(payload):
        return part[len(payload):]
    # docker-ID.scope, cri-containerd-ID.scope, ID, POD.slice:cri-containerd:ID.  What monitors a
    # container is outside: libpod-conmon-ID.scope.
    name = part[:-len(".scope")] if part.endswith(".scope") else part
    before, number = name[:-CONTAINER_ID], name[-CONTAINER_ID:]
    is_id = len(number) == CONTAINER_ID and not number.strip("0123456789abcdef")
    return number[:12] if is_id and before[-1:] in ("", "-", ":") and "conmon" not in before \
        else ""


_users = []


def users():
    """({name: user id}, {user id: name}) of /etc/passwd, read once.  passwd(5).

    By hand: the C library's look-up may ask the network, and wait.
    """
    if not _users:
        numbers, names = {}, {}
        for line in read_file("/etc/passwd", size=1 << 24).split(b"\n"):
            fields = line.split(b":")
            if len(fields) > 2 and fields[0] and fields[2].isdigit():
                name, number = os.fsdecode(fields[0]), int(fields[2])
                numbers.setdefault(name, number)
                names.setdefault(number, name)
        _users.extend((numbers, names))
    return _users


def user_name(uid):
    """The name of a user id, or the number as str where it has none; None for None."""
    return None if uid is None else users()[1].get(uid) or str(uid)


# =============================================================================================
# 6. Filters: which events reach user space
# =============================================================================================
# What comes in are roots, and the events of whole file systems; what goes out are the Events of the
# trees.  It uses sections 1 to 5.

# The bits fanotify can be asked for on a file system.  The rest is made here: DELETE_SELF and
# MOVE_SELF of a root from what happens to it as an entry of its parent (a *_SELF of any file on
# the file system would wake us, and an open root is never "deleted" itself); UNMOUNT from
# mountinfo.
ASKABLE = (ACCESS | MODIFY | ATTRIB | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | OPEN_EXEC | MOVED_FROM
           | MOVED_TO | CREATE | DELETE | RENAME | FS_ERROR)


ALL = 1 << 62                       # more buffers than are ever read


class Group:
    """A fanotify group and its marks: every event of the file systems that have a root comes.

    Those below hold back what is outside.  They may let too much through, since each event is
    judged all the same; they may never hold back one of a tree.
    """

    name = "user"
    lags = False        # whether caught_up() is to be called as soon as can be

    def __init__(self, wanted, notice, directories):
        self.notice, self.own, self.directories = notice, wanted.own, directories
        self.stats = collections.Counter()
        self.mask = wanted.mask | ALWAYS | ISDIR    # the bits that are reported
        self.fd = new_group()
        # The bits that each marked file system is asked for.
        self.asked = self.mask & ASKABLE & ~MOVES | DELETE | RENAME
        self.marked = set()         # ids of the file systems that are marked: those with a root
        self.ignored = {}           # key of a directory, outside or ignored -> number of the last
        #                             buffer in which its events are nothing new
        self.ignores_inside = False     # whether some of these are in a tree

    def mark(self, root, fd):
        """Mark the file system of a root, open as `fd`, if it is not."""
        if root.key[:8] not in self.marked:
            mark_filesystem(self.fd, self.asked | ISDIR, root, fd)
            self.marked.add(root.key[:8])

    def unmark(self, root):
        """No root is left on the file system of this one."""
        if root.key[:8] in self.marked and root.fd is not None:
            try:
                mark_filesystem(self.fd, self.asked | ISDIR, root, root.fd, FAN_MARK_REMOVE)
            except OSError:
                pass                    # an unmounted one has taken its mark along
        self.marked.discard(root.key[:8])

    def added(self, root):
        """The file system of a root or mount is marked."""

    def removed(self, root):
        """A root or mount is about to be let go of."""

    def ignore(self, key, number, is_inside):
        """Hold back what comes next of a directory outside, or of an ignored one inside: but what
        happens to directories in the latter.  `number` buffers are read."""
        self.ignored[key] = self.hold_back(key, number, is_inside)
        self.ignores_inside = self.ignores_inside or is_inside
        if len(self.ignored) > OUTSIDE_LIMIT:
            self.ignored.clear()        # they come once more

    def hold_back(self, key, number, is_inside):
        """ignore().  Returns the number of the last buffer in which the events of the directory are
        nothing new; ALL, if none of them is held back."""
        return ALL

    def ignore_none(self):
        """Hold back nothing any more.  Returns the directories of which something may have been."""
        marked = [key for key, number in self.ignored.items() if number != ALL]
        self.ignored.clear()
        self.ignores_inside = False
        return marked

    def caught_up(self):
        """The kernel's queue has been found empty."""

    def counters(self):
        """What the kernel's side counted: {name: int}."""
        return {}

    def close(self):
        os.close(self.fd)


class MarksGroup(Group):
    """An ignore mark on each outside directory of which an event comes, so that no other does.

    Evictable marks pin no inode: memory pressure may drop one, and one more event sets it again.
    """

    name = "marks"
    IGNORE = FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE

    def mark(self, root, fd):
        try:
            # An ignore mark is tried, and taken away, before the first event can be missed.
            for flags in (FAN_MARK_ADD | self.IGNORE, FAN_MARK_REMOVE | FAN_MARK_IGNORE):
                fanotify_mark(self.fd, flags, OPEN_EXEC | EVENT_ON_CHILD, fd, b".", root.display)
        except Error as error:
            if error.errno == errno.EINVAL:
                raise Error(errno.EINVAL, "setting an ignore mark on %s: this kernel has none "
                            "that ignores by directory (Linux 6.0 has)"
                            % printable(root.display), hint="use --filter user")
            if error.errno != errno.EXDEV:      # see hold_back()
                raise
        super().mark(root, fd)

    def hold_back(self, key, number, is_inside):
        # The mark of a directory also hides the events of its children, and a root may be one.
        # Those that tell of a root (its removal, ATTRIB) are of a directory: without ONDIR they
        # come.  So do those of a directory that is itself an entry, which are reported.  And
        # so do renames: a mark on one side would hide those of which the other is in a tree.
        mask = self.asked & ~(FS_ERROR | RENAME) | EVENT_ON_CHILD
        if not is_inside and self.directories.root_parents.isdisjoint((key, key[:8])) \
                and self.directories.leaf(key) is None:
            mask |= ISDIR
        try:
            fd = self.directories.open(key)
        except (Gone, OSError):
            return number
        try:
            fanotify_mark(self.fd, FAN_MARK_ADD | self.IGNORE, mask, fd, b".")
            self.stats["ignore marks set"] += 1
        except OSError as error:
            # A subvolume of btrfs has an id of its own, which no mark may have beside that of the
            # file system.  ENOENT: removed meanwhile.  Anything else costs events that are dropped
            # here.
            if error.errno == errno.EXDEV:
                return ALL
            if error.errno != errno.ENOENT:
                self.notice("%s; events outside the tree will cost more" % worded(error))
        finally:
            os.close(fd)
        # Events from before the mark may be in the next buffer, later ones only come if memory
        # pressure took the mark.
        return number + 1

    def ignore_none(self):
        # What came in may carry ignore marks anywhere.  The file-system marks stay.
        fanotify_mark(self.fd, FAN_MARK_FLUSH, 0, AT_FDCWD, None)
        self.stats["flushes"] += 1
        return super().ignore_none()


# The kernel interface of the fanotify fastpath.
FAN_IOC_ADD_FP = 0x40544600                     # _IOW('F', 0, struct fanotify_fastpath_args)
FAN_IOC_DEL_FP = 0x40404601                     # _IOW('F', 1, char[64])
FASTPATH_ARGS = struct.Struct("=64sIIQI")       # name, version, flags, init_args, their size
FASTPATH_SYSFS = "/sys/kernel/fanotify_fastpath"
QUEUED_SECONDS = 0.02                           # from the program's word to the event in the queue
KERNEL_COUNTERS = ("cache_hit", "cache_miss", "sent", "undecided", "skipped", "unasked", "own")


class FastpathGroup(Group):
    """A BPF program on the group (bpf/fan_fp.bpf.c): outside events are never queued.

    Invariant: while the kernel's filter has a root pinned, an ordinary descriptor of it, the
    hold, is open, since the pin alone would not keep the file system mounted.  The hold's number
    is above the group's: a process that is killed closes the highest first, and that close
    unpins, through the group.  Opening a tagged root pins it; that is why each is opened anew.
    """

    name = "fastpath"
    # The life of a slot for a root: enum slot_state of the program.
    FREE, WANTED, PINNED, RELEASED = range(4)
    KNOWN = struct.Struct("=IIQ")               # struct known: tag, unused, answer

    _instances = 0

    def __init__(self, wanted, notice, directories):
        super().__init__(wanted, notice, directories)
        self.slots, self.holds, self.whole = {}, {}, {}     # by Root
        self.left, self.left_at = 0, 0.0        # as counted by the program, and when first seen
        with OnFailure(os.close, self.fd):
            obj = read_object_file(wanted.object)
            self._require_kernel()
            self._load(obj)

    def _require_kernel(self):
        """FAN_IOC_DEL_FP does nothing where no program is attached; it fails where none can be."""
        fcntl = module("fcntl", "asking the kernel for the fanotify fastpath")
        try:
            fcntl.ioctl(self.fd, FAN_IOC_DEL_FP, bytes(64))
        except OSError as error:
            raise failure(error.errno, "asking the kernel for the fanotify fastpath", None,
                          "it has none (no released kernel has); use --filter marks")

    def _load(self, obj):
        """Load the object, register its handler under a name of our own, attach it."""
        import fcntl
        ops = [found for found in obj.struct_ops.values()
               if essential(obj.btf.type(found.type).name) == "fanotify_fastpath_ops"]
        if len(ops) != 1:
            raise Error(errno.ENOEXEC, "reading the BPF object %s: it has %d struct_ops of type "
                        "fanotify_fastpath_ops, not one" % (printable(obj.name), len(ops)))
        kernel = kernel_btf()
        part = part_of(obj, ops[0].functions.values())
        for attempt in range(20):
            # Another pid namespace may have the same pid, and the name belongs to the system.
            FastpathGroup._instances += 1
            name = "fanfp_%d_%d" % (os.getpid(), FastpathGroup._instances)
            self.loaded = load(part, kernel, {ops[0].name: name})
            try:
                self.loaded.attach(ops[0].name)
                break
            except Error as error:
                self.loaded.close()
                if error.errno != errno.EEXIST or attempt == 19:
                    raise
        with OnFailure(self.loaded.close):
            self.globals = self.loaded.globals
            if "left_read" not in self.globals:
                raise Error(errno.ENOEXEC, "reading the BPF object %s: it is of another version"
                            % printable(obj.name), hint="leave --object out")
            asked = self.mask & ASKABLE
            if asked & MOVES:
                asked |= MOVES
            self.globals["own_too"] = self.own
            self.globals["asked"] = asked or MOVES
            self.globals["asked_dir"] = asked | MOVES | DELETE
            try:
                fcntl.ioctl(self.fd, FAN_IOC_ADD_FP,
                            FASTPATH_ARGS.pack(name.encode(), 1, 0, 0, 0))
            except OSError as error:
                raise failure(error.errno, "attaching the handler %s to the group" % name)

    def added(self, root):
        device = whole_device(root)
        if device is None:
            self._pin(root)
        else:
            # Nothing to pin, and nothing to keep the file system from being unmounted.
            self.whole[root] = device
            self.loaded.maps["whole"].update(device, 1)
            self.globals["changes"] += 1

    def _pin(self, root):
        """Have the kernel's filter pin a root."""
        states = self.globals["slot_state"]
        slot = next((slot for slot, state in enumerate(states) if state == self.FREE), None)
        if slot is None:
            raise Error(errno.ENOSPC, "watching %s: the BPF object has room for %d roots; "
                        "use --filter marks" % (printable(root.display), len(states)))
        with root.opened() as fd:
            fanotify_mark(self.fd, FAN_MARK_ADD, OPEN | CLOSE_NOWRITE | ISDIR, fd, b".",
                          root.display)         # which a subvolume does not have
            self.globals["slots"] = max(self.globals["slots"], slot + 1)
            self.globals["roots"] += 1
            states[slot] = self.WANTED          # from here on nothing is judged to be outside
            self.loaded.maps["inode_storage_map"].update(fd, self.KNOWN.pack(slot + 1, 0, 0))
            hold = self._hold(fd)
        self.slots[root], self.holds[root] = slot, hold
        if states[slot] != self.PINNED:
            self.removed(root)
            raise Error(errno.EIO, "pinning %s: the kernel's filter did not take it; "
                        "use --filter marks" % printable(root.display))

    def _hold(self, fd):
        """A new ordinary descriptor of a root, open as `fd`, numbered above the group's."""
        import fcntl
        with Closing(os.open(b".", O_READ_DIR, dir_fd=fd)) as low:
            return fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, self.fd + 1)

    def removed(self, root):
        if root in self.whole:
            self.loaded.maps["whole"].delete(self.whole.pop(root))
            self.globals["changes"] += 1
        if root in self.slots:
            self.globals["slot_state"][self.slots.pop(root)] = self.RELEASED
            self.globals["roots"] -= 1
            os.close(self.holds.pop(root))      # here the program unpins

    def caught_up(self):
        """Tell the program that the moves of directories that it has sent are read.

        It counts one a moment before the event is queued; so only those counted a while ago.
        """
        left, now = self.globals["left"], time.monotonic()
        if left != self.left:
            self.left, self.left_at = left, now
        elif now - self.left_at > QUEUED_SECONDS:
            self.globals["left_read"] = left
        self.lags = self.globals["left_read"] != left

    def counters(self):
        return {"kernel " + name: self.globals[name] for name in KERNEL_COUNTERS}

    def close(self):
        super().close()
        for hold in self.holds.values():
            os.close(hold)
        self.loaded.close()


GROUPS_BY_FILTER = {each.name: each for each in (FastpathGroup, MarksGroup, Group)}

READ_SIZE = 1 << 16                 # below malloc's mmap threshold: a fresh mapping costs more
EVENT_ROOM = 1 << 12                # more than any event takes: two names, three handles
READ_ROOM = 1 << 22                 # characters of long paths in one read(): they have no limit
AHEAD_LIMIT = 256 << 20             # bytes of the queue read ahead of what is judged
WAIT_SECONDS = 2.0                  # how long the removal that names a directory may take
WAIT_LIMIT = 1 << 16                # directories of which events wait
RACE_SECONDS = 0.001                # by when the event of a removal just made has been queued
CATCH_UP_LIMIT = 10000              # entries looked at in what was moved in with an ignore mark
CLOCK_TICK = 0.02                   # seconds by which the time of a file may be behind the clock


# --- BPF programs on the functions that all events pass ---

Doer = collections.namedtuple("Doer", "pid uid gid cgroup comm")


class Record(collections.namedtuple(
        "Record", "time mask doer slot path old_slot old_path is_whole end moved")):
    """What happened, see Tracer."""

    __slots__ = ()
    pid = property(lambda self: self.doer.pid)
    uid = property(lambda self: self.doer.uid)
    gid = property(lambda self: self.doer.gid)
    cgroup = property(lambda self: self.doer.cgroup)
    comm = property(lambda self: self.doer.comm)


KPROBE_TYPE = "/sys/bus/event_source/devices/kprobe/type"
# The number of perf_event_open(2), <asm/unistd.h>, on the machines whose registers bpf/trace.h has.
PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "s390x": 331, "ppc64": 319,
                   "ppc64le": 319}
PERF_FLAG_FD_CLOEXEC = 8
# Where a function begins with instructions of the kernel's function tracer, in bytes, and there is
# no CONFIG_KPROBES_ON_FTRACE, nothing else may run at these (EINVAL).  Parameters outlast them.
TRACED_ENTRY = {"riscv64": 8}
# PERF_EVENT_IOC_ENABLE and PERF_EVENT_IOC_SET_BPF, <linux/perf_event.h>; PowerPC encodes otherwise.
PERF_IOCTLS, PERF_IOCTLS_POWERPC = (0x2400, 0x40042408), (0x20002400, 0x80042408)


def perf_event_number():
    """The number of perf_event_open(2), or Error where probes of functions are not known."""
    machine = os.uname().machine
    if machine not in PERF_EVENT_OPEN or struct.calcsize("P") != 8:
        raise Error(errno.ENOSYS, "tracing: not known on this machine (%s, %d bits); there are %s"
                    % (machine, 8 * struct.calcsize("P"), ", ".join(sorted(PERF_EVENT_OPEN))))
    return PERF_EVENT_OPEN[machine]


def open_kprobe(function, program):
    """Run a program at the entry of a kernel function until the descriptor is closed.
    perf_event_open(2)."""
    number, doing = perf_event_number(), "running a program at kernel function"
    try:
        with open(KPROBE_TYPE) as file:
            kind = int(file.read())
    except OSError as why:
        raise failure(why.errno, doing, function, "this kernel has no kprobes, or no /sys is here")
    name = ctypes.create_string_buffer(function.encode())
    for offset in sorted({0, TRACED_ENTRY.get(os.uname().machine, 0)}):
        attributes = struct.pack("=IIQQQQQIIQQ", kind, 72, 0, 0, 0, 0, 0, 0, 0,
                                 ctypes.addressof(name), offset)
        fd = libc().syscall(ctypes.c_long(number), attributes, ctypes.c_long(-1), ctypes.c_long(0),
                            ctypes.c_long(-1), ctypes.c_long(PERF_FLAG_FD_CLOEXEC))
        if fd >= 0 or ctypes.get_errno() != errno.EINVAL:
            break
    if fd < 0:
        number = ctypes.get_errno()
        raise failure(number, doing, function, {
            errno.EPERM: "needs root, or CAP_PERFMON",
            errno.EACCES: "needs root, or CAP_PERFMON, or while kernel.perf_event_paranoid is "
                          "above 2 (Debian's default) CAP_SYS_ADMIN",
            errno.ENOENT: "this kernel lets nothing run there",
            errno.EINVAL: "this kernel lets nothing run there"})
    enable, set_program = \
        PERF_IOCTLS_POWERPC if os.uname().machine.startswith("ppc") else PERF_IOCTLS
    with OnFailure(os.close, fd):
        for command, argument in ((set_program, program), (enable, 0)):
            if call("ioctl", fd, command, argument) < 0:
                raise failure(ctypes.get_errno(), doing, function)
    return fd


def run_program(program, context, doing):
    """Run a program in this process, now, with these bytes as its context.  BPF_PROG_RUN."""
    bpf(BPF_PROG_RUN, "IIIIQQIIIIQQIII4x", program, 0, 0, 0, 0, 0, 0, 0, len(context), 0,
        ctypes.create_string_buffer(context) if context else 0, 0, 0, 0, 0, doing=doing)


def missed_runs(program):
    """How many times the kernel could not run a program; 0 where it doesn't tell (Linux 5.12)."""
    return struct.unpack_from("=Q", object_info(program, bytes(216)), 208)[0]


def enumerators(btf, name):
    """The names that an enum of the kernel has."""
    return {item for number in btf.find(name, BTF_ENUMS) for item, _ in btf.type(number).items}


class Tracer:
    """The events of trees as they happen, from BPF programs (bpf/trace.h) on the two kernel
    functions that all events pass, and on a third that knows of names; for Linux 5.10 and later,
    by kprobes.

    asked, asked_dir   masks of the events wanted of files and of directories, 0: none
    own                whether events of this process are recorded
    devices            whether it is recorded what is done to device nodes that are open
    ring               bytes of the ring buffer, a power of two from 4096 up

    fd can be polled, and is readable while there is something to read.  caveat is a sentence on
    what this kernel does not allow, or "".

    The kernel calls the functions only for a file system on which somebody watches something, and
    only an inode that is watched can be a root: so a root has an inotify watch before its pin().
    A root whose file system is unmounted is taken out by the program itself, with a record of
    UNMOUNT; one that was removed ends with one of DELETE_SELF, if that was asked for, and is to be
    taken out by unpin().

    A Record is what happened:
      time                 nanoseconds of CLOCK_BOOTTIME
      mask                 the event's bits, or those of several, with ISDIR for directories
      doer                 the Doer, that moment's, whose fields the Record has as well:
        pid                  the process as seen in this pid namespace, None: of another
        uid gid cgroup comm  comm is bytes
      slot, path           the root and the path relative to it, b"" for the root itself; bytes.
                           path None: longer than 64 KB; slot None, too: not even whether it is
                           inside is known, below more than 65,536 directories (before Linux 5.17
                           2,000), or where directories above were being renamed all the time
      old_slot, old_path   where it was, for RENAME; of a file that is a root and is in the
                           directory of another: where it is by the name that was used; else None
      is_whole             False where something is missing, or the path may be of two moments,
                           since directories above were being renamed all the time
      end                  position() of the reader just after it
      moved                of a move: a number of what was moved, which nothing else there has
    RENAME has both sides inside; with one of them outside it is MOVED_TO or MOVED_FROM, if asked
    for.  A file that is a root has path b"" by whatever name it is used.  What the same process
    does further to a file or directory by the same name is in the mask of its last Record, while
    that is not read, as fanotify has it; but CREATE begins another, and a move is alone.

    pin(), unpin(), locate() and lost() are bpf(2) calls, which before Linux 5.19 need CAP_BPF
    where kernel.unprivileged_bpf_disabled is set.  Not to be used by two threads at once.

    Raises Error for what this kernel lacks.
    """

    ROOTS = 4096
    RING_SIZE = 1 << 24
    START, PIN, UNPIN, LOCATE, GO_ON, PIN_FLAT, ABOVE = range(7)    # what trace_place is asked
    DOER = struct.Struct("=IQQ16s")                     # of struct trace_record, who did it
    RECORD = struct.Struct("=QI%dsiiIIIIII" % DOER.size)
    # The same after the two words that the ring has before each.
    QUEUED = struct.Struct("=I4xQI%dsiiIIIIII" % DOER.size)
    BUSY = 1 << 31                              # of the first word; none is discarded
    LONGEST = QUEUED.size + 65536 + 1024        # PATH_ROOM, NAME_ROOM
    # Of struct trace_more, by byte.
    NO_MORE = 0xFFFFFFFF
    MERGED_BITS = ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE, OPEN, OPEN_EXEC, DELETE
    COUNTS = ("sent", "outside", "merged", "own", "detached", "too long", "unsettled", "too deep",
              "unknown data")               # enum trace_count
    SIGNATURES = {"fsnotify": 7, "__fsnotify_parent": 4, "d_move": 2}
    # By whether the kernel has bpf_loop(); the first three are run at these functions.
    PROGRAMS = {True: ("trace_event", "trace_child", "trace_move", "trace_place"),
                False: ("trace_event_tail", "trace_child_tail", "trace_move", "trace_place_tail",
                        "trace_climb")}

    def __init__(self, asked, asked_dir, own, ring=None, devices=True):
        self.caveat = ""
        self._lost, self._looked = 0, 0.0
        self._read = collections.deque()        # (when, position) of each read(), for a second
        self._barrier = RLock()
        self._merged = {}                       # what _merge() gave
        self._views, self._mapped = [], []
        size = ring or self._ring_size()
        if size < 4096 or size & size - 1:
            raise Error(errno.EINVAL, "making a ring buffer of %d bytes: that is no power of two "
                        "from 4096 up" % size)
        self._require_kprobes()
        kernel = kernel_btf()
        self._require_functions(kernel)
        helpers = enumerators(kernel, "bpf_func_id")
        programs = list(self.PROGRAMS["BPF_FUNC_loop" in helpers])
        self._entries = programs[:3]
        self._placing = programs[3]
        if "BPF_FUNC_kallsyms_lookup_name" in helpers:
            programs.append("trace_find_symbols")
        self._load(part_of(read_object_file(), programs), kernel, asked, asked_dir, own, size,
                   devices)
        with OnFailure(self.close):
            self._start(size)

    @classmethod
    def _ring_size(cls):
        """RING_SIZE, or on a small host a power of two of at most 1/64 of its memory."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return min(cls.RING_SIZE, max(1 << 16, 1 << (memory // 64).bit_length() - 1))

    @staticmethod
    def _require_kprobes():
        perf_event_number()
        if not os.path.exists(KPROBE_TYPE):
            raise failure(errno.ENOENT, "looking for kprobes", KPROBE_TYPE,
                          "the kernel must be built with CONFIG_KPROBE_EVENTS, and /sys be mounted")
        for path, word, why in (
                ("/sys/kernel/security/lockdown", b"[confidentiality]",
                 "the kernel is locked down (confidentiality), and lets no BPF program read its "
                 "memory"),
                ("/sys/kernel/debug/kprobes/enabled", b"0",
                 "all kprobes are switched off; echo 1 > /sys/kernel/debug/kprobes/enabled"),
                ("/proc/sys/kernel/ftrace_enabled", b"0",
                 "kprobes do not work without ftrace; sysctl kernel.ftrace_enabled=1")):
            try:
                found = read_file(path).split()
            except OSError:
                continue
            if word in found:
                raise Error(errno.EPERM, "tracing: " + why)

    @classmethod
    def _require_functions(cls, kernel):
        for name, count in cls.SIGNATURES.items():
            found = kernel.find(name, (BTF_FUNC,))
            if not found:
                raise Error(errno.ENOENT, "tracing: this kernel's BTF has no function %s()" % name)
            has = kernel.type(kernel.type(found[0]).size).vlen
            if has != count:
                raise Error(errno.ENOTSUP, "tracing: %s() takes %d parameters in this kernel, and "
                            "fanfp knows the one with %d" % (name, has, count))
        if "FSNOTIFY_EVENT_DENTRY" not in enumerators(kernel, "fsnotify_data_type"):
            raise Error(errno.ENOTSUP, "tracing: this kernel has no FS_RENAME (Linux 5.17)")

    def _load(self, part, kernel, asked, asked_dir, own, size, devices):
        cpus = _possible_cpus()
        part.maps["trace_works"] = part.maps["trace_works"]._replace(max_entries=cpus + 1)
        part.maps["trace_ring"] = part.maps["trace_ring"]._replace(max_entries=size)
        # About as many as the ring takes records.
        more_bits = max(6, (size // 128 // cpus).bit_length() - 1)
        part.maps["trace_more"] = part.maps["trace_more"]._replace(max_entries=cpus << more_bits)
        namespace = os.stat("/proc/self/ns/pid")
        device = namespace.st_dev
        first = namespace.st_ino == dict(FIRST_NAMESPACES)["pid"]
        self.loaded = load(part, kernel, constants={
            "trace_asked": self._with_moves(asked), "trace_asked_dir": self._with_moves(asked_dir),
            "trace_told": asked, "trace_told_dir": asked_dir, "trace_own_too": int(bool(own)),
            "trace_devices": int(bool(devices)),
            "trace_cpus": cpus, "trace_more_bits": more_bits,
            "trace_pidns_dev": os.major(device) << 20 | os.minor(device),
            "trace_pidns_ino": 0 if first else namespace.st_ino})
        self._cpus = cpus
        self._fields = {member.name: member.bit_offset // 8
                        for member in part.btf.skip(part.maps["trace_works"].value_type).items}

    @staticmethod
    def _with_moves(mask):
        """As the program asks: RENAME alone tells of all moves."""
        return mask & ~MOVES | (RENAME if mask & MOVES else 0)

    def _start(self, size):
        loaded = self.loaded
        works = loaded.maps["trace_works"]
        self._works, self._stride = loaded.memory(works), works.value_size + 7 & ~7
        self._more = memoryview(loaded.memory(loaded.maps["trace_more"])).cast("Q")
        # What of that has been read, as it was then.
        self._taken = array("Q", bytes(8 * loaded.maps["trace_more"].max_entries))
        self._views.append(self._more)
        self._map_ring(loaded.maps["trace_ring"], size)
        self._place(self.START)
        if "trace_climb" in loaded.programs:
            loaded.maps["trace_on"].update(0, loaded.programs["trace_climb"])
        if "trace_find_symbols" in loaded.programs:
            run_program(loaded.programs["trace_find_symbols"], b"", "looking for rename_lock")
        else:
            for name, address in kernel_symbols(["rename_lock", "rcu_state"]):
                loaded.globals["trace_" + name] = address
        if not loaded.globals["trace_rename_lock"]:
            self.caveat = ("paths are not certain while directories above are being renamed: the "
                           "kernel hides its addresses (kernel.kptr_restrict, CAP_SYSLOG)")
        for name, function in zip(self._entries, self.SIGNATURES):
            loaded.links[name] = open_kprobe(function, loaded.programs[name])

    def _map_ring(self, ring, size):
        """The ring as bpf(2) lays it out: what is consumed, what is produced, the data twice."""
        mmap = module("mmap", "reading the ring buffer")
        page = mmap.PAGESIZE
        self.fd, self._size = ring.fd, size
        consumer = mmap.mmap(ring.fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._mapped.append(consumer)
        producer = mmap.mmap(ring.fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ,
                             offset=page)
        self._mapped.append(producer)
        # A counter is read and written as one word.
        self._consumed = memoryview(consumer).cast("Q")
        self._produced = memoryview(producer).cast("Q")
        self._ring, self._page = producer, page
        self._views += [self._consumed, self._produced]

    def _place(self, what, fd=0, slot=0):
        """Ask trace_place; what it says."""
        run_program(self.loaded.programs[self._placing], struct.pack("=QQQ", what, fd, slot),
                    "looking at a root")
        return struct.unpack_from("=q", self._works, self._own_work() + self._fields["result"])[0]

    def _own_work(self):
        return self._cpus * self._stride

    def pin(self, fd, slot, flat=False):
        """Make the open file `fd`, O_PATH will do, root number `slot` (below ROOTS) from now on.
        Of a `flat` one only what happens to itself and to its own entries is recorded.

        Returns the slot it has: another, if it was a root before.  It must have an inotify watch.
        """
        result = self._place(self.PIN_FLAT if flat else self.PIN, fd, slot)
        if result < 0:
            raise Error(errno.EINVAL, "tracing a root: %s" % (
                "it has no inotify watch" if result == -1 else "the kernel takes no more roots"))
        return result

    def unpin(self, slot):
        """Nothing is below root number `slot` any more."""
        self._place(self.UNPIN, 0, slot)

    def locate(self, fd, above=False):
        """(slot, path relative to that root) of an open file, or of the directory `above` it; None
        where that is below no root."""
        result = self._place(self.ABOVE if above else self.LOCATE, fd)
        while result == 2:
            result = self._place(self.GO_ON)
        if not result:
            return None
        at = self._own_work() + self._fields["record"]
        header = self.RECORD.unpack_from(self._works, at)
        at += self.RECORD.size
        return header[3], self._path(self._works[at:at + header[5]])

    @staticmethod
    def _path(names):
        """A path of its names from the last to the first, each with a NUL."""
        return b"/".join(names.split(b"\0")[-2::-1])

    def read(self, limit):
        """The Records that are there, in order, of about `limit` bytes of the ring at most."""
        begin, waiting = self._consumed[0], self.waiting()
        if waiting > self._size:                        # one more than fits was never there
            raise Error(errno.EIO, "reading the ring buffer: it is damaged")
        start = self._page + (begin & self._size - 1)   # mapped twice: no record is in two pieces
        data = self._ring[start:start + min(waiting, limit + self.LONGEST)]
        queued, end = self._queued(data, limit)
        # From here on nothing more is merged into these; so what was is looked at after that.
        self._consumed[0] = begin + end
        with self._barrier:                             # which orders the two
            pass
        records = self._decode(data, queued, begin)
        self._let_go(begin + end)
        return records

    @classmethod
    def _queued(cls, data, limit):
        """([(where it begins, the fields of QUEUED)], where they end) of the records in a part of
        the ring, as far as they are whole, up to the one that reaches `limit`."""
        queued, at, unpack, busy = [], 0, cls.QUEUED.unpack_from, cls.BUSY
        put, until = queued.append, min(limit, len(data))
        while at < until:
            fields = unpack(data, at)
            if fields[0] & busy:
                break
            put((at, fields))
            at += fields[0] + 15 & ~7
        if at > len(data):
            raise Error(errno.EIO, "reading the ring buffer: it is damaged")
        return queued, at

    def _decode(self, data, queued, begin):
        """The Records of those; `begin`: position() of the part of the ring."""
        records, doers, added_to = [], {}, self._more
        make, kind, path_of_names, put = tuple.__new__, Record, self._path, records.append
        names_at, none, merged, taken = self.QUEUED.size, self.NO_MORE, self._merged, self._taken
        for at, (size, when, mask, who, slot, old_slot, length, old_length, flags, moved,
                 more, doubt) in queued:
            doer = doers.get(who)
            if doer is None:
                pid, cgroup, uid_gid, comm = self.DOER.unpack(who)
                doer = doers[who] = Doer(pid or None, uid_gid & 0xFFFFFFFF, uid_gid >> 32, cgroup,
                                         comm.split(b"\0")[0])
            if doubt != none:
                mask = self._untold(mask, doubt)
            if more != none:
                taken[more] = added = added_to[2 * more]
                if added:
                    mask |= merged.get(added) or self._merge(added)
            if not mask & ~ISDIR:
                continue
            path = old_path = None
            start = at + names_at
            if not flags or length or old_length:
                path = path_of_names(data[start:start + length])
                if old_slot >= 0:
                    start += length
                    old_path = path_of_names(data[start:start + old_length])
            put(make(kind, (when, mask, doer, slot if slot >= 0 else None, path,
                            old_slot if old_slot >= 0 else None, old_path, not flags,
                            begin + at + (size + 15 & ~7), moved)))
        return records

    def _untold(self, mask, more):
        """What is left of the mask of an event that was added to a record while that was read: what
        was not there yet.  A byte that has grown since may have been added to by another."""
        for byte, bit in enumerate(self.MERGED_BITS):
            was, now = (bits >> 8 * byte & 0xFF for bits in (self._taken[more],
                                                             self._more[2 * more]))
            if mask & bit and was and was == now:
                mask &= ~bit
        return mask

    def _merge(self, added):
        """The bits of the mask that were added, by the bytes of a struct trace_more."""
        self._merged[added] = sum(bit for byte, bit in enumerate(self.MERGED_BITS)
                                  if added >> 8 * byte & 0xFF)
        return self._merged[added]

    def _let_go(self, position):
        """Let the programs use what the records before `position` had of trace_more, but not for a
        second: none that found them unread is under way for longer."""
        now = time.monotonic()
        self._read.append((now, position))
        while self._read[0][0] < now - 1:
            self.loaded.globals["trace_read"] = self._read.popleft()[1]

    def position(self):
        """(consumed, produced): bytes of the ring that were read, and written, since the start."""
        return self._consumed[0], self._produced[0]

    def waiting(self):
        """Bytes of the ring that are not read yet."""
        return self._produced[0] - self._consumed[0]

    def counters(self):
        """{name: number} of what the programs did so far."""
        counts = {"kernel " + name: self._count(index) for index, name in enumerate(self.COUNTS)}
        return dict(counts, **{"kernel full": self.loaded.globals["trace_full"]})

    def _count(self, index):
        """One of COUNTS, of all processors."""
        first = self._fields["counts"] + 8 * index
        return sum(struct.unpack_from("=Q", self._works, first + cpu * self._stride)[0]
                   for cpu in range(self._cpus))

    def lost(self):
        """Events that were lost since the start: the ring was full, or a program was skipped,
        which the kernel tells since Linux 5.12, and of kprobes since 6.7."""
        if time.monotonic() - self._looked >= 1:
            self._looked = time.monotonic()
            try:
                self._lost = sum(missed_runs(self.loaded.programs[name]) for name in self._entries)
            except Error:
                pass                        # not permitted any more: before Linux 5.19
        return self._lost + self.loaded.globals["trace_full"]

    def why_lost(self):
        """Why those were lost, and what to do, in words."""
        if self._lost:
            return "the kernel skipped BPF programs, %d times; please report this" % self._lost
        return "the buffer of %d KB was full; see --ring" % (self._size >> 10)

    def close(self):
        """Detach, and let go of all of it."""
        for view in self._views:
            view.release()
        for memory in self._mapped:
            memory.close()
        self._views, self._mapped = [], []
        self.loaded.close()


# --- what a Watch reads from ---

class Wanted(collections.namedtuple("Wanted", "mask filter object own devices recursive "
                                              "dereference wait ring ignore who may_wait")):
    """What a Watch asks of its sources: its arguments, and

    mask      bits of EVENTS
    ignore    the Ignore
    who       whether events are chosen by who did it, which inotify does not tell
    may_wait  whether what may never answer is asked: by a thread that does nothing else
    """

    __slots__ = ()


class Source:
    """A source of events: the contract of all, with what most have to say.

    One that watches trees is made of (Wanted, the name of a filter, a function that takes notices,
    the MountList).  Each has, besides what is stated below:

    fd                     a descriptor to poll
    add(root, place=None)  watch a root of the kind it takes; the Place is that of a mount in a tree
    remove(root)           watch it no longer
    read(moment)           a batch of the events of the trees, [] where there are none
    close(forked=False)    let go of everything; `forked`: in a child, where what the descriptors
                           lead to is the parent's

    add(), remove() and inside() may ask the file system of a root, and so block where somebody else
    answers for that.  All else asks none of those, never waits and does a bounded amount of work.
    After add() no event is missed, and none is told twice.  What fails raises OSError, with an
    Error where there is more to say, and leaves nothing behind.

    roots    those given: a list of Root
    mounted  the same of what is mounted in the trees
    stats    collections.Counter
    backlog  whether there is more to do though nothing comes
    trees_changed  whether directories, and mounts in them, may have come into the trees or left
             them; whoever follows the mounts sets it to False
    has_bind_mounts  whether some bind mounts show what may come into the trees, or leave; that one
             says it
    over     whether it has come to its end, and is to be closed
    error    the OSError for which it has, or None
    follows_mounts  whether it gives the mounts in its trees their new names itself, when a
             directory there is moved; else whoever follows the mounts does
    filter_name  of the filter in use, one of FILTER_NAMES; None: it has no trees as yet
    """

    roots = mounted = ()
    backlog = trees_changed = has_bind_mounts = over = False
    error = filter_name = None
    follows_mounts = True

    def keep_root(self, root):
        """Enter a root that is watched from now on."""
        (self.mounted if root.fd is None else self.roots).append(root)
        root.source = self

    def drop_root(self, root):
        """Enter it no longer."""
        for roots in (self.roots, self.mounted):
            if root in roots:
                roots.remove(root)

    def on_move(self):
        """To be called, before all else, when a directory in its trees has been moved: whoever
        follows the mounts puts its own here."""

    def ahead(self):
        """What judged() will be when all that is queued now has been judged."""
        return 0

    def judged(self):
        """How far the judging has come."""
        return 0

    def is_behind(self, ahead):
        """Whether some of what was queued when ahead() was that is still to be judged."""
        return self.judged() < ahead and (self.backlog or readable(self.fd))

    def renamed_since(self, ahead):
        """Whether a directory was moved, or may have been, since ahead() was that."""
        return False

    def due(self):
        """Seconds after which to call read() though nothing has come; None: no need to."""
        return None

    def since(self):
        """boot_time() before all that the next read() gives; None where its events name who did it
        by more than a number."""
        return None

    def look_at_roots(self, moment):
        """Mounts have changed.  Returns the events that tell what that makes of the roots."""
        return []

    def unmounted(self, root, shown, moment):
        """The mount of a root is gone, which was called `shown`; None: it had left the trees.
        Returns the events that tell of it."""
        self.remove(root)
        return [] if shown is None else [Event(shown, UNMOUNT | ISDIR, None, time.time(), None,
                                               moment)]

    def inside(self, fd, path):
        """The key of an open directory, to which a path (bytes) leads, if it is known to be in a
        tree; else None.
        Raises Behind while what is to come may tell of it."""
        return None

    def entry(self, key, name, otherwise):
        """What to call an entry of a directory now; None: that has left the trees; `otherwise`
        where it can't be told."""
        return otherwise

    def uncovered(self, key, name):
        """A mount over an entry of a directory is gone, and what it covered is seen again."""

    def shown(self, root):
        """What to call a root now; None: it is a mount in a directory that left the tree."""
        return root.display

    def show_as(self, root, display):
        """A mount in another source's tree has another name in events from now on."""
        root.show_as(display)

    def is_shared(self, root):
        """Whether a mount shows a part of a file system on which another root is, and may be of no
        use: is_needed() tells."""
        return False

    def release(self, root):
        """remove() a mount that is not is_needed() any more.  What has happened in it till now is
        still told."""
        self.remove(root)

    def counters(self):
        """Counters since the start, {name: int}."""
        return self.stats


# --- fanotify ---
# It has three rooms.  Group and Queue are the kernel's: what it is asked for and held back (that is
# above), what it gives.  Past says where a directory was when the event being judged happened.
# Judge says what an event means: what is reported of it, and what it changes.  Fanotify puts them
# together.


class Batch:
    """A buffer read from the group and not judged to its end."""

    __slots__ = ("buffer", "start", "number", "since", "scanned", "at")

    def __init__(self, buffer, start, number, since):
        self.buffer, self.start, self.number = buffer, start, number
        self.at = 0                     # where to go on judging
        self.since = since      # boot_time() when the kernel's queue was last seen empty before it
        self.scanned = False            # whether Past.look_ahead() has been through it


class Queue:
    """The kernel's queue, and what is read of it and not judged yet.

    An offset counts the bytes read from the group since its start.
    """

    def __init__(self, fd, stats):
        self.fd, self.stats = fd, stats
        self.batches = collections.deque()      # in their order; the first is being judged
        self.position = 0           # offset of the end of the event being judged
        self.end = 0                # offset of the end of what is read
        self.number = 0             # buffers read
        self.empty_at = boot_time()     # when it was last empty
        self.drained = False        # whether the last read left nothing behind

    def fill(self):
        """Read one buffer from the kernel; whether there was anything."""
        now = boot_time()
        try:
            buffer = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            self.empty_at, self.drained = now, True
            return False
        except OSError as error:
            raise failure(error.errno, "reading events from the fanotify group")
        self.stats["reads"] += 1
        self.add(buffer)
        # The kernel stops short of a full buffer only where the queue has come to its end.
        self.drained = len(buffer) <= READ_SIZE - EVENT_ROOM
        if self.drained:
            self.empty_at = now
        return True

    def add(self, buffer):
        """Put a buffer of events behind those that are to be judged."""
        self.number += 1
        self.batches.append(Batch(buffer, self.end, self.number, self.empty_at))
        self.end += len(buffer)

    def read_on(self):
        """Read what is in the queue.

        Not until it is found empty: who writes without end would keep that from coming.
        """
        limit = self.position + AHEAD_LIMIT
        while self.end < limit and self.fill() and not self.drained:
            pass

    def bits_ahead(self, key):
        """{name: the bits of its events that are still to be judged}, of a directory's entries."""
        bits = {}
        for batch in self.batches:
            if key in batch.buffer:     # a search takes a twentieth of the decoding
                for raw in decode(batch.buffer, max(0, self.position - batch.start)):
                    if raw[2] == key:
                        bits[raw[3]] = bits.get(raw[3], 0) | raw[0]
        return bits


class MustWait(Exception):
    """The event can't be judged before that of the removal of directory args[0] is read."""


class Past:
    """Where a directory was when the event being judged happened: prefix().

    The table of directories says it, of what it knows.  Of the rest the events that are read and
    not judged say it: what moves or removes a directory says where it was until then.  Where they
    say nothing, the kernel's answer for now is that for then.  Of what is gone nobody says
    anything, until the event of its removal is read: what happened in it waits for that.

    Invariant: `before` holds what the scanned batches say of offsets beyond the queue's position;
    what it holds of earlier ones is over, and not looked at.  The scanned batches are the first.
    """

    def __init__(self, directories, queue):
        self.directories, self.queue = directories, queue
        self.before = {}            # key of a directory -> list of (offset, parent key, name)
        self.last_rename = 0        # offset of the last rename of a directory
        self.last_coming = 0        # and of the last to a directory not known to be outside
        self.room = OUTSIDE_LIMIT   # see trim()
        self.waiting = collections.OrderedDict()    # key -> (when, boot_time() before, [Raw])
        self.named = {}             # key -> (parent key, name), while judging what waited for it
        # Until the queue is found empty:
        self.gone = collections.OrderedDict()   # key -> (parent key, name), to its end
        self.moved = set()          # keys of directories renamed
        self.hidden = False         # whether the kernel had no way up from some directory

    # --- the question ---

    def prefix(self, key):
        """The path of a directory then, with a slash at its end, or None: it was outside.

        Raises MustWait while that can't be known, OSError if the kernel will not say.
        """
        directories = self.directories
        prefix = directories.prefixes.get(key) or directories.prefix(key)
        if prefix is None and key not in directories.outside:
            self.find(key)
            prefix = directories.prefix(key)
        return prefix

    def find(self, key):
        """Make known where a directory was then."""
        directories, way, at, seen = self.directories, [], key, set()
        while at is not None and not directories.known(at):
            if at in seen:
                # Every later move is in the queue, so that the way up is what it was.  Only where
                # the kernel has merged two can it seem to be a circle: some as they were then,
                # others as they are now.
                directories.outside.update(seen)
                return
            for link in self.links(at):
                seen.add(link[0])
                way.append(link)
            at = way[-1][1]
        if way:
            directories.place(way)

    def links(self, key):
        """Links from an unknown directory upwards, as many as can be known at once."""
        if key in self.directories.anchors:     # what a bind mount shows may move all the same
            return [self.directories.anchors[key]]
        link = self.named.get(key) or self.where(key)
        if link is None and key in self.gone:
            self.look_ahead()
            link = self.where(key) or self.gone[key]
        if link is not None:
            return [(key,) + link]
        try:
            links = self.directories.walk(key)
        except Gone:
            links = None
        self.look_ahead()
        link = self.where(key)
        if link is not None:
            return [(key,) + link]
        if links is None:
            raise MustWait(key)
        if links == no_way(key):
            self.hidden = True          # see Judge.leave()
        # From a directory on that the queue moves, the way up was another one then.
        for count, (each, _, _) in enumerate(links):
            if count and self.where(each) is not None:
                return links[:count]
        return links

    def where(self, key):
        """(parent key, name) of where the queue says a directory is, or None if it says nothing."""
        entries = self.before.get(key)
        while entries and entries[0][0] <= self.queue.position:
            del entries[0]
        return entries[0][1:] if entries else None

    def comes_ahead(self):
        """Whether an event not judged yet may move a directory into a tree."""
        return self.last_coming > self.queue.position

    # --- what is read and not judged ---

    def look_ahead(self):
        """Read what is in the queue, and note what it says of directories moved or removed."""
        self.queue.read_on()
        fresh = []
        for batch in reversed(self.queue.batches):
            if batch.scanned:
                break                   # and so are those before: thousands, behind a slow reader
            fresh.append(batch)
        for batch in reversed(fresh):
            self.scan(batch, max(0, self.queue.position - batch.start))

    def scan(self, batch, at):
        """Note the moves and removals of directories, from a place on."""
        batch.scanned = True
        buffer, size = batch.buffer, len(batch.buffer)
        unpack, telling = struct.Struct("=I4xQ").unpack_from, RENAME | DELETE
        while size - at >= METADATA.size:
            length, mask = unpack(buffer, at)
            if mask & ISDIR and mask & telling:
                self.note(decode_one(buffer, at, size), batch.start)
            if length < METADATA.size:
                break                       # decode() will say so
            at += length

    def note(self, raw, start):
        """Note where the directory of an event that moves or removes it was just before."""
        if raw.target is None:
            return
        offset, link = start + raw.end, (raw.key, raw.name)
        if raw.mask & RENAME:
            self.last_rename, link = offset, (raw.old_key, raw.old_name)
            if raw.key not in self.directories.outside:
                self.last_coming = offset
        if not raw.mask & CREATE:               # else it was not there before
            self.before.setdefault(raw.target, []).append((offset,) + link)

    # --- what is gone ---

    def note_gone(self, raw):
        """The removal of a directory was merged with its coming, and is read before what happened
        in it: no event to come will name it, nor will the kernel, if the table has to ask."""
        if raw.target is not None:
            self.gone[raw.target] = raw.key, raw.name
            if len(self.gone) > OUTSIDE_LIMIT:
                self.gone.popitem(last=False)

    def wait(self, key, raw, now, since):
        """Keep an event until the removal of a directory is read, which will name it."""
        self.waiting.setdefault(key, (now, since, []))[2].append(raw)
        if len(self.waiting) > WAIT_LIMIT:
            self.waiting.popitem(last=False)

    def name(self, raw):
        """The removal (or move) of a directory has been read: yield the events that waited for its
        name, which is known meanwhile."""
        waiting = self.waiting.pop(raw.target)[2]
        self.named[raw.target] = (raw.old_key, raw.old_name) if raw.mask & RENAME else (
            raw.key, raw.name)
        yield from waiting
        del self.named[raw.target]

    def unnamed(self, target):
        """Yield the events that no other will name, if it is a subvolume that has been deleted,
        with all that is in it."""
        inode, subvolume = btrfs_place(target[8:])
        if inode == BTRFS_ROOT and subvolume != BTRFS_TOP_SUBVOLUME:
            for key in list(self.waiting):
                if key[:8] == target[:8] and btrfs_place(key[8:])[1] == subvolume:
                    yield from self.waiting.pop(key)[2]

    def settle(self, now):
        """The queue has been found empty.

        Events have waited in vain for a directory that is gone and was not seen to go: it was
        outside.  Each directory on the way from a root to it would have been seen to go, and its
        removal is never ignored.  (Dropped wrongly are the last events of an unknown directory, if
        another was renamed onto it before they were read.  Nothing tells it from the many that are
        made and removed outside.)
        """
        self.gone.clear()
        self.moved.clear()
        self.hidden = False
        while self.waiting and now - next(iter(self.waiting.values()))[0] >= WAIT_SECONDS:
            self.waiting.popitem(last=False)

    def is_open(self):
        """Whether there is something to settle() as soon as the queue is found empty."""
        return bool(self.moved or self.waiting or self.gone)

    def trim(self):
        """Let go of what is over, where that is much, or all is."""
        position = self.queue.position
        if len(self.moved) > OUTSIDE_LIMIT:
            self.moved.clear()
        if not self.queue.batches:
            self.before.clear()
        # Behind a slow reader little is over: all is looked through again when twice as long.
        if len(self.before) > self.room:
            self.before = {key: entries for key, entries in self.before.items()
                           if entries and entries[-1][0] > position}
            self.room = max(OUTSIDE_LIMIT, 2 * len(self.before))


class Judge:
    """What an event means: what is reported of it, and what it changes in the table.

    One that the table knows and that is plain is Fanotify.read()'s alone.
    """

    def __init__(self, source, past):
        self.source, self.group, self.past = source, source.group, past
        self.queue, self.directories = past.queue, past.directories
        self.pid = os.getpid()
        self.now, self.moment = time.time(), None   # of the read() that goes on
        self.out = []                   # its Events
        self.room = READ_ROOM           # characters of long paths for which it has room

    def begin(self, moment):
        """Begin a read(); returns its list of Events."""
        self.now, self.moment = time.time(), moment
        self.out, self.room = [], READ_ROOM
        return self.out

    def judge(self, raw):
        """Report an event if it is of a tree, and keep the table right."""
        if raw[4] in self.past.waiting:
            for waited in self.past.name(Raw(*raw)):
                self.judge(waited)
        if raw[0] & ISDIR and raw[1] == self.pid:
            raw = (raw[0] & ~LISTING,) + raw[1:]    # fanfp itself reads directories
        try:
            self.judge_now(Raw(*raw))
        except MustWait as wait:
            self.past.wait(wait.args[0], raw, self.now, self.moment.processes.since)
        except Gone:
            pass                        # its file system has been unmounted meanwhile
        except OSError as error:
            self.group.notice("%s; its event is reported without a path" % worded(error))
            self.report(None, raw[0], raw[1])

    def judge_now(self, raw):
        mask, key, name = raw.mask, raw.key, raw.name
        if mask & Q_OVERFLOW:
            return self.overflow()
        if mask & FS_ERROR:
            return self.fs_error(raw)
        if mask & RENAME:
            return self.rename(raw)
        if mask & ISDIR and mask & DELETE and mask & CREATE:
            self.past.note_gone(raw)
        if key in self.directories.root_parents and mask & DELETE:
            self.source.root_entry(raw, key)
        path = self.place(key, name)
        if path is None:
            if mask & CREATE and mask & ISDIR and raw.target is not None:
                self.directories.outside.add(raw.target)    # it may be gone when it is asked for
            return None
        if mask & ISDIR and mask & DIRENT and raw.target is not None:
            self.directory_event(raw)
        if not mask & ISDIR and self.is_of_device(raw, path):
            mask &= ~THROUGH
        return self.report(path, mask, raw.pid)

    def place(self, key, name, is_new=True):
        """The path to show for an entry of a directory, or None: it was not in a tree.  Not
        `is_new`: such an event comes although the directory is ignored."""
        if key is None:
            return None
        prefix = self.past.prefix(key)
        if (is_new or key not in self.group.ignored) and (
                prefix is None or self.directories.ignore.hides_in(prefix)):
            self.ignore(key, prefix is not None)
        if prefix is None:
            return self.directories.leaf(key) if name == b"." else None
        return (prefix[:-1] or prefix) if name == b"." else prefix + os.fsdecode(name)

    def ignore(self, key, is_inside):
        """Have what comes next of a directory, which is outside or ignored, be held back.

        Not while a directory in the queue may come into a tree, and this one with it; nor what a
        bind mount shows, which may be in one by its own path.
        """
        if self.source.has_bind_mounts and key in self.directories.anchors \
                or self.group.ignored.get(key, 0) >= self.queue.batches[0].number:
            return
        self.past.look_ahead()
        if not self.past.comes_ahead():
            self.group.ignore(key, self.queue.number, is_inside)

    def is_of_device(self, raw, path):
        """Whether an event in a tree is of a device node, which is to make a difference."""
        if not raw.mask & THROUGH or not self.directories.holds_devices(
                raw.key, path[:path.rfind("/") + 1]):
            return False
        try:
            with Closing(self.directories.open(raw.key)) as fd:
                return is_device(fd, raw.name)
        except (Gone, OSError):
            return False

    def report(self, path, mask, pid, old_path=None):
        """Put out an event, if it is one that was asked for."""
        mask &= self.group.mask
        if mask & ~ISDIR:
            self.out.append(Event(path, mask, pid or None, self.now, old_path, self.moment))
            if path is not None and len(path) > PREFIX_LIMIT:
                self.room -= len(path)

    def overflow(self):
        """Events were lost, as the kernel says: what was known may be wrong now."""
        self.group.notice("the kernel's event queue overflowed: events were lost")
        self.directories.forget()
        self.source.came_in()
        self.report(None, Q_OVERFLOW, 0)

    def fs_error(self, raw):
        """A file system has met errors, in a tree or elsewhere on it."""
        shown = (self.source.shown(root) for root in self.directories.mounts.get(raw.key[:8], ()))
        moment = Moment(self.moment.roots, self.moment.processes, raw.name)
        self.out.append(Event(next((path for path in shown if path is not None), None),
                              FS_ERROR | ISDIR, raw.pid or None, self.now, None, moment))

    # --- moves ---

    def rename(self, raw):
        """RENAME names both sides."""
        if raw.old_key in self.directories.root_parents:
            self.source.root_entry(raw, raw.old_key)
        was, now = self.both_sides(raw)
        if was is None and now is None:
            return
        if was is not None and now is not None and self.group.mask & RENAME:
            self.report(now, RENAME | raw.mask & ISDIR, raw.pid, was)
        else:
            for path, side in ((was, MOVED_FROM), (now, MOVED_TO)):
                if path is not None:
                    self.report(path, side | raw.mask & ISDIR, raw.pid)
        if raw.mask & ISDIR and raw.target is not None:
            self.move(raw, was, now)

    def both_sides(self, raw):
        """The two paths of a RENAME, each None where it was outside.

        Where only one of the directories is to be known, which is in a tree, it can't wait: what
        comes next depends on it.  The other is gone, and would have been seen to go if it were
        in a tree.
        """
        sides = ((raw.old_key, raw.old_name), (raw.key, raw.name))
        for last in (False, True):
            paths, missing = [], []
            for key, name in sides:
                try:
                    paths.append(self.place(key, name, is_new=False))
                except MustWait as wait:
                    paths.append(None)
                    missing.append(wait)
            if missing and paths == [None, None]:
                raise missing[0]
            if not missing or last:
                return paths
            time.sleep(RACE_SECONDS)

    def move(self, raw, was, now):
        """A directory has been moved from one path to another (None: outside)."""
        target = raw.target
        if now is None:
            self.leave(target)
        elif was is None:
            self.enter(target, raw.key, raw.name)
        else:
            self.directories.put(target, raw.key, raw.name)
            ignore = self.directories.ignore
            if self.group.ignores_inside and (ignore.by_path or ignore.hides(was, True)):
                self.ignore_none(target, raw.key)
        if target in self.past.moved:
            # If it then was renamed a third time, just as the first, the kernel has merged that
            # into the first: its last place is another than the last event says.
            self.directories.cut(target)
        self.past.moved.add(target)
        if was is not None:
            self.source.on_move()

    def directory_event(self, raw):
        """A directory in a tree was made or removed."""
        if raw.mask & CREATE:
            self.directories.put(raw.target, raw.key, raw.name)
        else:                           # not merged with it: then what it held comes only now
            self.directories.delete(raw.target)
            for waited in self.past.unnamed(raw.target):
                self.report(None, waited[0], waited[1])

    def enter(self, target, key, name):
        """A directory has come into a tree, and may have brought ignore marks along."""
        self.directories.enter(target, key, name)
        self.ignore_none(target, key)

    def leave(self, target):
        """A directory has left the trees; or it may be in one by a bind mount still."""
        self.directories.cut(target)
        self.source.trees_changed = self.source.trees_changed or self.source.has_bind_mounts
        if self.past.hidden and self.directories.is_hidden(target):
            self.past.hidden = False
            self.group.notice("a directory left what a bind mount shows: what happened in it or "
                              "below it just before may be missing")

    # --- what ignore marks have hidden ---

    def ignore_none(self, target, key):
        """What was held back may be of a tree since a directory was moved to the directory `key`:
        hold back nothing, and report what may have been missed since then."""
        marked = self.source.came_in()
        if marked:
            since = came_at(self.directories, target, key,
                            self.queue.batches[0].since + time.time() - boot_time())
            left = CATCH_UP_LIMIT
            for each in marked:
                left -= self.catch_up(each, since, left)

    def catch_up(self, key, since, limit):
        """Report what may have happened in a directory that had an ignore mark when it came in.

        What was made or written later than `since`, when it came, is reported.  MODIFY of the
        directory says that there may be more: what was removed, which can't be named, what was made
        where the file system keeps no time of that, and what happened within one tick of the clock.
        Returns the number of entries looked at.
        """
        try:
            prefix = self.past.prefix(key)
            if prefix is None or self.directories.ignore.hides_in(prefix):
                return 0                # one of those still outside
            bits, found, count = changes_since(self.directories, key, since, limit)
        except (Gone, MustWait, OSError):
            return 0
        if bits and not self.group.mask & MODIFY or count > limit:
            self.group.notice("%s was moved in and changed before its ignore mark was gone: events "
                              "in it may be missing" % printable(prefix))
        elif bits:
            self.report(prefix[:-1], bits, None)
        ahead = self.queue.bits_ahead(key) if found else {}
        for name, bits in found:
            self.report(prefix + os.fsdecode(name), bits & ~ahead.get(name, 0), None)
        return count


class Fanotify(Source):
    """fanotify, with marks on whole file systems: roots, and the reading of events.

    Most events are plain and of a directory that the table knows: read() reports them itself.
    """

    def __init__(self, wanted, filter_name, notice, _):
        self.roots, self.mounted = [], []
        self.me = None if wanted.own else os.getpid()   # whose events are dropped
        self.directories = Directories(wanted.devices, wanted.recursive, wanted.ignore)
        self.group = GROUPS_BY_FILTER[filter_name](wanted, notice, self.directories)
        self.fd, self.stats = self.group.fd, self.group.stats
        self.queue = Queue(self.fd, self.stats)
        self.past = Past(self.directories, self.queue)
        self.judge = Judge(self, self.past)

    @property
    def filter_name(self):
        return self.group.name

    # --- roots and mounts ---

    def add(self, root, place=None):
        with root.opened() as fd:
            check_handles(root, fd)
            self.group.mark(root, fd)
        if place is not None or self.stats["reads"]:
            self.came_in()                  # what is below it was outside until now
        if place is not None and place.source is self:
            self.directories.add(root, place.key, place.name)
        else:
            self.directories.add(root)
        if root.is_part or root.fd is not None:
            self.find_parent(root)
        self.keep_root(root)
        with OnFailure(self.remove, root):
            self.group.added(root)

    def remove(self, root):
        self.group.removed(root)
        self.drop_root(root)
        self.directories.remove(root)
        if root.fd is None and root.is_part:
            self.came_in()                  # what it showed may be in a tree by its own path
        if not self.directories.mounts[root.key[:8]]:
            self.group.unmark(root)
        root.close()

    def came_in(self):
        """What was outside is in a tree now.  Returns the directories held back until now."""
        self.trees_changed = True
        self.past.last_coming = self.past.last_rename
        return self.group.ignore_none()

    def show_as(self, root, display):
        root.show_as(display)
        self.directories.rename(root)
        if self.group.ignores_inside:
            self.came_in()

    def entry(self, key, name, otherwise):
        try:
            prefix = self.past.prefix(key)
        except (MustWait, Gone, OSError):
            return otherwise
        return prefix and prefix + os.fsdecode(name)

    def inside(self, fd, path):
        try:
            key = key_of(fd, name_to_handle(fd)[0], os.fsdecode(path))
            return key if key[:8] in self.group.marked and self.past.prefix(key) else None
        except (MustWait, Gone, OSError):
            return None

    def shown(self, root):
        if root.fd is not None:
            return root.display
        try:
            prefix = self.past.prefix(root.key)
        except (MustWait, Gone, OSError):
            return root.display
        return prefix and prefix.rstrip("/")

    def is_shared(self, root):
        return root.is_part and len(self.directories.mounts.get(root.key[:8], ())) > 1

    def is_needed(self, root):
        """Whether a bind mount, which is_shared(), is what makes its directory one of a tree."""
        try:
            parent = self.directories.parent_of(root)
            itself = parent is not None and self.past.prefix(parent) is not None
            return not itself and self.shown(root) is not None
        except (MustWait, Gone, OSError):
            return True

    def root_entry(self, raw, key):
        """A root has been renamed or removed, as an event of the directory that had it says."""
        for root in list(self.roots):
            if root.parent_key != key or raw.target != root.key:
                continue
            if raw.mask & DELETE and root.removed():
                self.root_removed(root, raw.pid)
            elif raw.mask & RENAME:
                self.judge.report(root.display, MOVE_SELF | ISDIR, raw.pid)
                self.past.moved.add(root.key)       # see settle()
                # The new parent may carry a mark that hides the next such event.
                while self.find_parent(root):
                    self.came_in()
        for root in self.mounted:           # what a bind mount shows, where it really is
            while raw.target == root.key and raw.mask & RENAME and self.find_parent(root):
                self.came_in()

    def root_removed(self, root, pid):
        """A root has been deleted."""
        self.judge.report(root.display, DELETE_SELF | ISDIR, pid)
        self.remove(root)

    def find_parent(self, root):
        """Find the parent of a root anew; returns whether it is another than before."""
        before, root.parent_key = root.parent_key, self.directories.parent_of(root)
        if root.fd is not None:
            root.path = fd_path(root.fd)
        if root.parent_key is not None:
            self.directories.root_parents.add(root.parent_key)
        elif root.is_part or whole_device(root) is None:
            # It can't be known: no directory of the file system is marked but for files.
            self.directories.root_parents.add(root.key[:8])
        return root.parent_key != before

    # --- reading ---

    @property
    def backlog(self):
        return bool(self.queue.batches)

    def ahead(self):
        self.queue.read_on()
        return self.queue.end

    def judged(self):
        return self.queue.position

    def renamed_since(self, ahead):
        self.past.look_ahead()
        return self.past.last_rename > ahead

    def since(self):
        queue = self.queue
        since = queue.batches[0].since if queue.batches else queue.empty_at
        return min(since, next(iter(self.past.waiting.values()), (0, since))[1])

    def read(self, moment):
        """The events of the trees in one buffer, [] where the queue is empty.  Never waits."""
        queue, judge = self.queue, self.judge
        out = judge.begin(moment)
        if not queue.batches and not queue.fill():
            self.settle()
            return out
        batch, now = queue.batches[0], judge.now
        number, start = batch.number, batch.start
        me, mask_wanted, judge_one = self.me, self.group.mask, judge.judge
        make, kind, put = tuple.__new__, Event, out.append
        prefix_of, ignored_until = self.directories.prefixes.get, self.group.ignored.get
        intricate, encoding, errors = INTRICATE, _FS_ENCODING, _FS_ERRORS
        count = dropped = 0
        # One pass, plain and long, since all events go through it.  A call for each event would
        # cost as much as the rest.
        for raw in decode(batch.buffer, batch.at):
            mask, pid, key, name, target, old_key, old_name, end = raw
            count += 1
            if pid == me and not mask & FS_ERROR:   # which its look-ups may meet as well
                dropped += 1
                continue
            if not mask & intricate:
                prefix = prefix_of(key)
                if prefix:
                    bits = mask & mask_wanted
                    if bits:
                        put(make(kind, (prefix + name.decode(encoding, errors), bits,
                                        pid or None, now, None, moment)))
                    continue
                if ignored_until(key, 0) >= number:
                    dropped += 1
                    continue
            queue.position = start + end
            before = len(out)
            judge_one(raw)
            dropped += len(out) == before
            if judge.room < 0:
                break
        else:
            end = len(batch.buffer)
        queue.position, batch.at = start + end, end
        if end == len(batch.buffer):
            queue.batches.popleft()
        self.stats["events read"] += count
        self.stats["dropped in user space"] += dropped
        self.past.trim()
        self.directories.trim(self.backlog)
        if not queue.batches and (self.past.is_open() or self.group.lags) and not queue.fill():
            self.settle()
        judge.out = []
        return out

    def settle(self):
        """The queue is empty: what was waiting for the rest of it will wait no longer."""
        self.group.caught_up()
        self.past.settle(self.judge.now)
        # The removal of a root that was renamed at the same moment may have been hidden.
        for root in list(self.roots):
            if root.removed():
                self.root_removed(root, None)

    def counters(self):
        return dict(self.stats, **self.group.counters())

    def close(self, forked=False):
        for root in self.roots + self.mounted:
            if not forked:
                self.group.removed(root)
            root.close()
        self.roots, self.mounted = [], []
        if self.fd is not None:
            self.group.close()
            self.fd = None


def came_at(directories, target, parent, earliest):
    """When a directory was moved into its parent, by the clock of the file system; not before
    `earliest`.  Both bear that time, if nothing has changed in them since."""
    times = []
    for key, which in ((target, "st_ctime"), (parent, "st_mtime")):
        try:
            with Closing(directories.open(key)) as fd:
                times.append(getattr(os.fstat(fd), which))
        except (Gone, OSError):
            pass
    # A file system that keeps no parts of a second is behind by up to one; vfat, two.
    tick = 2 if times and all(each == int(each) for each in times) else CLOCK_TICK
    return max(earliest - tick, min(times or [0]))


def changes_since(directories, key, since, limit):
    """What changed in a directory since a time, by the times of its entries.

    Returns (its own bits, [(name, bits)], entries looked at, more than `limit` if there are).
    """
    found, count = [], 0
    with Closing(directories.open(key)) as fd:
        changed = unsure = os.fstat(fd).st_mtime >= since
        for name in os.listdir(path_to_fd(fd)):
            count += 1
            if count > limit:
                break
            status = status_of(fd, name)
            bits = CREATE if changed and status.birth > since else 0
            if stat.S_ISREG(status.mode) and status.mtime >= since:
                # A file of several names may have been written by another; so may one that had
                # them, and if one is removed after the write, only the second time is later.
                if status.mtime > since and status.links == 1 \
                        and (bits or status.ctime == status.mtime):
                    bits |= MODIFY | CLOSE_WRITE
                else:
                    unsure = True
            if bits:
                found.append((name, bits | (ISDIR if stat.S_ISDIR(status.mode) else 0)))
    return MODIFY | ISDIR if unsure else 0, found, count


def check_handles(root, fd):
    """Raise Error unless handles of the file system of a root, open as `fd`, can be opened, and
    the tops of mounts be told from what else is on the way up."""
    is_mount_root(fd)
    try:
        os.close(open_by_handle(fd, root.key[8:]))
    except OSError as error:
        raise failure(error.errno, "opening a directory by its handle", root.display,
                      forbidden(CAP_DAC_READ_SEARCH, "needs CAP_DAC_READ_SEARCH")
                      if error.errno == errno.EPERM else
                      "its file system can't do that; use --filter inotify")


# =============================================================================================
# 7. inotify, for where fanotify cannot be had
# =============================================================================================
# Roots come in, and what one inotify instance tells; events go out.  Each directory has a watch.
# Used are sections 1 to 3, and the Source of section 6.
#
# inotify does not say who did it, and nothing of what happens in a directory before that has its
# watch.  So a directory that is just made is listed once it is watched, and what is found there is
# reported as CREATE.  This is done a part at a time, with each read(): who moves large directories
# in and out makes nobody wait.
#
#     InotifyQueue   what the kernel tells, read and not judged yet; the halves of renames
#     Watches        the table: which directories are watched, and where they are
#     Scan           what is to be looked at: directories are opened, watched and listed
#     Inotify        what an event means; roots

INOTIFY_EVENT = struct.Struct("=iIII")      # wd, mask, cookie, len
INOTIFY_READ = 1 << 16
INOTIFY_LONGEST = INOTIFY_EVENT.size + 256  # bytes of an event
# What is needed to follow directories, whatever the user asked for.
INOTIFY_ALWAYS = CREATE | MOVED_FROM | MOVED_TO | DELETE | DELETE_SELF | MOVE_SELF
INOTIFY_ASKABLE = 0xFFF
SCAN_DEPTH = 128                            # directories kept open while there is work
MANY_REFUSED = 4                            # directories that are named in a line
HOLD_ROOM = SCAN_DEPTH + 64                 # descriptors left free for all else
# What one read() may do: so many entries are listed, or directories opened, each of which counts
# for several; and so many watches are removed.
CREDIT, LIST_STEP, OPEN_COST, LEAVE_STEP = 50000, 100, 10, 500
EVENTS_AT_ONCE = 1000                       # judged in one read()
ALL_OF_IT = 0.0                             # see Scan.work
SAME_TIME = 1e-6                            # what two ways to make a float of a time may differ by
CLOCK_REALTIME_COARSE = 5                   # which time.h has; what file systems take the time from
PAIR_SECONDS = 0.002                        # a MOVED_TO mostly follows its MOVED_FROM within this
PAIR_EVENTS = 1 << 15                       # read ahead for it: more than the queue holds
OPEN_TRIES = 3                              # for a directory that is not where it appeared


class PlainRoot(Root):
    """A root that is known by its inode, where there need be no file handles: `key` is inode_of().

    The descriptor of a given root keeps it known through renames, and alive when removed, so
    that its own DELETE_SELF never comes: its removal is an event of its parent.  A mount is another
    once its watch is gone, which IN_IGNORED says.

    prefix  what to put before the path of what is in it
    """

    def __init__(self, display, path, mount=None):
        super().__init__(display, path, mount)
        self.show_as(display)
        if mount is None:
            self.fd = os.open(path, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        with OnFailure(self.close):
            self.mount_id = mount_id_of(self.fd) if mount is None else mount.id
            with Closing(self.open()) as fd:
                self.key = inode_of(fd)

    def show_as(self, display):
        self.display, self.prefix = display, with_slash(display)

    def open(self):
        """A descriptor of the directory, O_PATH."""
        if self.fd is not None:
            return os.dup(self.fd)
        return self.open_by_path()

    def open_path(self):
        """An O_PATH descriptor of what its path leads to, if that is it.  OSError."""
        fd = path_on(self.path, self.mount_id)
        with OnFailure(os.close, fd):
            if self.key in (None, inode_of(fd)):
                return fd               # else its mount's number is another's by now
            raise another_there()


class InotifyRoot(PlainRoot):
    """A root.  It has a watch, and its parent has one, for its removal.

    watched    its Watched, None while there is none
    place      the Place of a mount in a tree, or None
    parent_wd  the watch of its parent, in which it is `name`; None: that has none
    forgets_inodes  whether its file system does: see Watches.hold()
    """

    forgets_inodes = False
    watched = place = parent_wd = name = None


class Reported:
    """The events that one read() of a source gives, as they are found.

    mask    bits of what was asked for
    events  list of Event
    now     time.time() of those that are reported next
    moment  their Moment; None before the first read()
    room    characters of paths that may still come: they have no limit, and memory has
    """

    def __init__(self, wanted):
        self.mask, self.events = wanted.mask | ALWAYS | ISDIR, []
        self.begin(None)

    def begin(self, moment):
        """A read() begins."""
        self.now, self.moment, self.room = time.time(), moment, READ_ROOM

    def add(self, path, mask, old_path=None, pid=None):
        """Report an event, if it is one that was asked for."""
        mask &= self.mask
        if mask & ~ISDIR:
            self.room -= len(path or "") + len(old_path or "")
            self.events.append(Event(path, mask, pid, self.now, old_path, self.moment))

    def take(self):
        """The events, which a read() returns."""
        events, self.events = self.events, []
        return events


class InotifyQueue:
    """The events of an inotify instance, read from it as they are judged.

    coming      those read and not judged: (wd, mask, cookie, name)
    arrivals    cookie -> the MOVED_TO in it, till that is judged, alone or as the other half
    bytes_read  of all events so far
    judged      of those judged; it grows when `coming` is empty
    after       when the kernel's queue was last seen empty before what is in `coming` was queued,
                by the clock of file systems
    emptied_at  the same before what will be read next
    """

    def __init__(self, fd, stats):
        self.fd, self.stats = fd, stats
        self.coming, self.arrivals = collections.deque(), {}
        self.bytes_read = self.judged = 0
        self.after = self.emptied_at = time.clock_gettime(CLOCK_REALTIME_COARSE)

    def fill(self):
        """Read one buffer from the kernel; whether there was anything."""
        if not self.coming:
            self.after = self.emptied_at
        now = time.clock_gettime(CLOCK_REALTIME_COARSE)
        try:
            buffer = os.read(self.fd, INOTIFY_READ)
        except BlockingIOError:
            buffer = b""
        if len(buffer) <= INOTIFY_READ - INOTIFY_LONGEST:
            self.emptied_at = now           # there was no more
        if not buffer:
            return False
        self.stats["reads"] += 1
        self.bytes_read += len(buffer)
        events = list(decode_inotify(buffer))
        self.coming.extend(events)
        self.arrivals.update((event[2], event) for event in events if event[1] & MOVED_TO)
        self.stats["events read"] += len(events)
        return True

    def ahead(self):
        """What `judged` will be when all that is queued now has been judged."""
        return self.bytes_read + queued(self.fd)

    def is_empty(self):
        """Whether nothing is to be judged, nor waits in the kernel."""
        return not self.coming and not queued(self.fd)

    def next(self):
        """Take the next event; None: it has been judged, as an other_half()."""
        event = self.coming.popleft()
        _, mask, cookie, _ = event
        return event if not mask & MOVED_TO or self.arrivals.pop(cookie, None) else None

    def other_half(self, cookie, settle):
        """The MOVED_TO of a MOVED_FROM, which is judged with it: its event, or None.

        The kernel queues the two one after the other, but other processors' events may come
        between, and a buffer may end there.  Both are queued under the lock of the directory
        moved from, for which settle() waits: see that of section 3.
        """
        if cookie not in self.arrivals:
            settle()
            while cookie not in self.arrivals and len(self.coming) < PAIR_EVENTS and self.fill():
                pass
        return self.arrivals.pop(cookie, None)


# --- the table of watches ---

class Watched:
    """A watched directory.

    wd        the descriptor of its watch
    inode     inode_of() it: what is opened by name may be another
    root      the root that it is, or None
    parent    the Watched in which it is an entry; None for a root that is in no other's tree
    name      of the entry
    children  name -> Watched
    unreadable  name of a directory in it that may not be read -> as in Scan.work
    held      a descriptor that keeps it open, or None: see Watches.hold()
    """

    __slots__ = ("wd", "parent", "name", "inode", "root", "children", "unreadable", "held")

    def __init__(self, wd, parent, name, inode, root=None):
        self.wd, self.parent, self.name, self.inode, self.root = wd, parent, name, inode, root
        self.children, self.unreadable, self.held = {}, {}, None


def way_up(watched):
    """(the innermost root above a watched directory, the names that lead to the directory)."""
    names = []
    while watched.root is None:
        names.append(watched.name)
        watched = watched.parent
    names.reverse()
    return watched.root, names


class Watches:
    """The watches of an inotify instance: which directories have one, and where they are.

    by_wd      wd -> Watched
    prefixes   wd -> prefix(), as far as that was asked for
    displaced  those whose entry another has by now, till they are moved from there or removed
    leaving    descriptors of watches that are in no tree any more, and to be removed
    can_hold   whether there is room for more that are held
    asked      the mask of all events that are wanted
    quiet      the same without those that our own listing makes
    """

    def __init__(self, fd, mask, notice):
        self.fd, self.notice = fd, notice
        self.asked = (mask & INOTIFY_ASKABLE) | INOTIFY_ALWAYS
        self.quiet = self.asked & ~LISTING
        self.by_wd, self.prefixes, self.displaced = {}, {}, set()
        self.leaving, self.can_hold = set(), True

    def has(self, watched):
        """Whether a directory, or None, is watched still."""
        return watched is not None and self.by_wd.get(watched.wd) is watched

    def prefix(self, watched):
        """The path of a watched directory, with a slash at its end."""
        prefix = self.prefixes.get(watched.wd)
        if prefix is None:
            top, names = way_up(watched)
            prefix = top.prefix + "".join(os.fsdecode(name) + "/" for name in names)
            if len(prefix) <= PREFIX_LIMIT:
                self.prefixes[watched.wd] = prefix
        return prefix

    # --- the kernel's side ---

    def set(self, path, mask, shown):
        """A watch on a path (bytes): its descriptor.  Raises Error, with the limit if reached.
        `shown`: what to call it then, str or a function that makes it."""
        mask |= IN_MASK_ADD
        try:
            return inotify_watch(self.fd, path, mask, shown, len(self.by_wd))
        except Error as error:
            if error.errno != errno.ENOSPC or not self.leaving:
                raise
        self.leave(len(self.leaving))
        return inotify_watch(self.fd, path, mask, shown, len(self.by_wd))

    def set_on(self, fd, shown):
        """A watch on an open directory, or the one that it has: its descriptor.  Not one that is
        `leaving`: what that has told meanwhile is not of the tree."""
        path, mask = path_to_fd(fd), self.quiet | IN_ONLYDIR
        wd = self.set(path, mask, shown)
        if wd in self.leaving:
            self.unset(wd)
            wd = self.set(path, mask, shown)
        return wd

    def unset(self, wd):
        """Remove a watch."""
        self.leaving.discard(wd)
        call("inotify_rm_watch", self.fd, wd)

    def leave(self, count):
        """Remove some of the watches that are `leaving`.  Each gives an event, and the queue is
        limited; and what is to be looked at does not wait for it."""
        for _ in range(min(count, len(self.leaving))):
            self.unset(next(iter(self.leaving)))

    def hold(self, watched, fd):
        """Keep a directory open while it is watched: on a file system that forgets inodes, a watch
        is lost with its inode, unless that is in use."""
        if not self.can_hold:
            return
        copy = os.dup(fd)               # the lowest number that is free
        if copy < os.sysconf("SC_OPEN_MAX") - HOLD_ROOM:
            watched.held = copy
            return
        os.close(copy)
        self.can_hold = False
        self.notice("%s; what happens there, and in directories like it, may be missed; raise "
                    "the limit (ulimit -n), or mount it with cache=loose"
                    % failure(errno.EMFILE, "keeping open", self.prefix(watched)))

    @staticmethod
    def let_go(watched):
        """Keep a directory open no longer."""
        if watched.held is not None:
            os.close(watched.held)
            watched.held = None

    # --- our side ---

    def enter(self, watched):
        """A directory has a new watch."""
        self.by_wd[watched.wd] = watched
        if watched.parent is not None:
            self.hang(watched, watched.parent, watched.name)

    def child(self, parent, name):
        """The directory that an event says was moved from a name, or None."""
        return next((each for each in self.displaced if (each.parent, each.name) == (parent, name)),
                    parent.children.get(name))

    def hang(self, child, parent, name):
        """A directory is an entry of another now, and all that is below it goes with it.

        What has the name is either removed, and the kernel says so (IN_IGNORED), or exchanged, and
        it is the one that will be moved from there.
        """
        self.unhang(child)
        before = parent.children.get(name)
        if before is not None:
            self.let_go(before)
            self.displaced.add(before)
        parent.children[name], child.parent, child.name = child, parent, name

    def unhang(self, child):
        """A directory is an entry of the one above it no more."""
        self.displaced.discard(child)
        if child.parent is not None and child.parent.children.get(child.name) is child:
            del child.parent.children[child.name]
        child.parent = None

    def forget(self, top, unwatch):
        """Drop a directory and all below it, and have their watches removed if `unwatch`."""
        stack = [top]
        while stack:
            watched = stack.pop()
            stack.extend(child for child in watched.children.values() if child.root is None)
            if self.has(watched):
                del self.by_wd[watched.wd]
                self.prefixes.pop(watched.wd, None)
                self.displaced.discard(watched)
                self.let_go(watched)
                if unwatch:
                    self.leaving.add(watched.wd)
        self.unhang(top)

    def close(self):
        for watched in self.by_wd.values():
            self.let_go(watched)


# --- looking at directories ---

class OpenDirectories:
    """Watched directories that are open while there is something to be looked at in them.

    opened  a Watched -> (O_PATH descriptor, id of its mount): SCAN_DEPTH of them, the last used
            at the end
    """

    def __init__(self):
        self.opened = collections.OrderedDict()

    def get(self, watched):
        """The O_PATH descriptor of a watched directory, opened name by name from its root and never
        through a symbolic link.  OSError where it is not: an event will say.

        It stays open until close(), or until many others have been opened after it.
        """
        chain = [watched]
        while chain[-1] not in self.opened and chain[-1].root is None:
            chain.append(chain[-1].parent)
        for each in reversed(chain):
            if each in self.opened:
                self.opened.move_to_end(each)
            else:
                self.keep(each, self.entry(each.parent, each.name) if each.root is None
                          else each.root.open())
        return self.opened[watched][0]

    def entry(self, watched, name):
        """An O_PATH descriptor of an entry of a watched directory.  OSError; also if something is
        mounted there."""
        fd = self.get(watched)
        return path_on(name, self.opened[watched][1], fd)

    def keep(self, watched, fd):
        """Have a descriptor for get(), which is closed if it is of another directory."""
        with OnFailure(os.close, fd):
            if inode_of(fd) != watched.inode:
                raise another_there()
            above = None if watched.root is not None else self.opened.get(watched.parent)
            mount_id = mount_id_of(fd) if above is None else above[1]
        if watched in self.opened:
            os.close(fd)
            return
        self.opened[watched] = fd, mount_id
        if len(self.opened) > SCAN_DEPTH:
            os.close(self.opened.popitem(last=False)[1][0])

    def close(self):
        while self.opened:
            os.close(self.opened.popitem()[1][0])


class Listing:
    """A directory that is being listed, a part at a time.

    since   what was made at that time or later is reported; None: nothing
    seen    names of which an event has come meanwhile: they are no news, or gone again
    """

    def __init__(self, watched, fd, since):
        self.watched, self.fd, self.since, self.seen = watched, fd, since, set()
        # If nothing has come into it since then, no entry needs a look.
        self.has_news = since is not None and os.fstat(fd).st_mtime >= since
        self.entries = os.scandir(path_to_fd(fd))      # Python 3.6 takes no descriptor

    def is_new(self, name, is_mount):
        """Whether an entry is to be reported.  `is_mount`: function(descriptor, name); what
        something is mounted on can't be asked when it was made."""
        if not self.has_news or not self.since:
            return self.has_news
        try:
            if is_mount(self.fd, name):
                return False
            status = status_of(self.fd, name)
        except OSError:
            return False                # gone again, as an event will say
        return (status.birth or status.ctime) >= self.since

    def close(self):
        self.entries.close()
        os.close(self.fd)


# The time at which a directory was moved in is asked for when that is open: it was after this, by
# the clock of file systems.
MovedIn = collections.namedtuple("MovedIn", "after")


def moved_at(status, above, after):
    """When a directory was moved into another, by the clock of the file system, from the
    os.stat_result of both: they bear that time, if nothing has changed in them since; it was
    `after` that.  In one tick of it before and after can't be told apart: what was made in
    that is reported."""
    since = min(status.st_ctime, above.st_mtime)
    if status.st_mtime >= since and above.st_mtime > status.st_ctime:
        return min(since, after)            # something has changed in both
    return since


class Scan:
    """What is to be looked at in the trees: directories to be watched, and listed.

    work      the latest first: (a Watched, a name in it, or b"" for itself, or None: to have all
              its events) -> (since, how often more to try).  What was made since then is news:
              ALL_OF_IT, or None of it, or what MovedIn tells
    lost      the same of what was not where it should be: an event to come will tell
    listing   the Listing that is under way, or None
    refused   what to call those that can't be read, till a line has told of them
    found     (Watched, name) of what was reported by a listing, whose CREATE may come yet
    own       (wd, name): LISTING there is of our own listing.  Till all below it has been listed a
              new watch does not have those at all
    """

    def __init__(self, wanted, watches, mount_list, notice, reported, watch_child):
        """`watch_child(fd, inode, parent, name)` has an open directory watched: its Watched, None
        if it is already."""
        self.wanted, self.watches, self.mounts, self.notice = wanted, watches, mount_list, notice
        self.reported, self.watch_child = reported, watch_child
        self.work, self.lost, self.listing = collections.OrderedDict(), {}, None
        self.open, self.refused, self.found, self.own = OpenDirectories(), [], set(), set()

    # --- what is to be done ---

    @property
    def is_under_way(self):
        """Whether there is something to be looked at."""
        return bool(self.work or self.listing)

    def add(self, watched, name=b"", since=None):
        """Something in a watched directory is to be looked at: see `work`.  Without a name: what is
        in it, and not watched, is to be."""
        if self.wanted.recursive or name is None:
            for table in (self.lost, self.work):
                table.pop((watched, name), None)
            self.work[watched, name] = since, OPEN_TRIES

    def entered(self, watched):
        """A directory has a new watch: it is to have all events in the end."""
        if self.watches.quiet != self.watches.asked:
            self.add(watched, None)

    def seen(self, watched, name):
        """An entry has an event: a listing that is under way leaves it out.  Returns whether one
        has reported it, and no event has come since."""
        if self.listing is not None and self.listing.watched is watched:
            self.listing.seen.add(name)
        was_found = (watched, name) in self.found
        self.found.discard((watched, name))
        return was_found

    def left(self, watched, name):
        """A directory has left one: its `since`, if it was still to be looked at."""
        listing, since = self.listing, None
        if listing is not None and listing.watched is watched and name not in listing.seen:
            since = listing.since       # it would have come to it
        for table in (self.lost, self.work):
            since = table.pop((watched, name), (since,))[0]
        self.seen(watched, name)
        return watched.unreadable.pop(name, since)

    def all_judged(self):
        """All events that were read are judged: what is still lost is looked for."""
        self.work.update(self.lost)
        self.lost.clear()

    def queue_empty(self):
        """No event of what has been done is to come."""
        self.found.clear()
        if not self.is_under_way:
            self.own.clear()

    def is_own(self, wd, mask, name):
        """Whether an event is of our own listing."""
        if (wd, name) not in self.own or not mask & LISTING or name and not mask & ISDIR:
            return False
        if mask & CLOSE_NOWRITE:
            self.own.discard((wd, name))
        return True

    # --- doing it ---

    def advance(self, credit):
        """Look at what is to be looked at, for as long as the credit lasts: what is left of it."""
        while self.is_under_way and self.reported.room >= 0 and credit > 0:
            if self.listing is not None:
                credit -= self.list_on(self.listing)
                continue
            (watched, name), (since, tries) = self.work.popitem()
            credit -= 1
            if self.watches.has(watched):
                credit -= OPEN_COST
                self.look(watched, name, since, tries)
        if not self.is_under_way:
            self.open.close()
            self.tell_refused()
        return credit

    def look(self, watched, name, since, tries):
        """Do one thing of `work`."""
        try:
            fd = self.open.get(watched)
            if name is None:
                self.watches.set(path_to_fd(fd), self.watches.asked,
                                 lambda: self.watches.prefix(watched))
            elif not name:
                self.begin(watched, os.dup(fd), since)
            else:
                self.look_at(watched, fd, name, since)
        except OSError as error:
            self.not_opened(error, watched, name, since, tries)

    def look_at(self, watched, fd, name, since):
        """Watch and list a directory in one that is open, unless something is mounted there, of
        which the list of mounts tells; or it is ignored."""
        if self.is_mount(fd, name) or self.wanted.ignore.hides(
                self.watches.prefix(watched) + os.fsdecode(name), True):
            return
        child, child_fd = None, self.open.entry(watched, name)
        try:
            status = os.fstat(child_fd)
            if not stat.S_ISDIR(status.st_mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if isinstance(since, MovedIn):
                since = moved_at(status, os.fstat(fd), since.after) - SAME_TIME
            child = self.watch_child(child_fd, (status.st_dev, status.st_ino), watched, name)
            watched.unreadable.pop(name, None)
        finally:
            if child is None:
                os.close(child_fd)
        if child is not None:
            self.begin(child, child_fd, since)

    def is_mount(self, fd, name):
        """Whether something is mounted at a name in an open directory, which is not opened; who
        may never answer for it is not asked."""
        return name in self.mounts.names() and (
            self.mounts.has_far(os.path.join(fd_path(fd), name))
            or mount_id_of(fd, name) != mount_id_of(fd))

    def not_opened(self, error, watched, name, since, tries):
        """Something of `work` could not be done."""
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            # Gone again; or it is elsewhere by now, as an event yet to be judged will say.
            if tries:
                self.lost[watched, name] = since, tries - 1
            return
        prefix = self.watches.prefix(watched)
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ENOMEM):
            if isinstance(error, Error):
                raise error
            raise failure(error.errno, "opening", prefix, "see ulimit -n")
        shown = printable(prefix + os.fsdecode(name or b""))
        if error.errno not in (errno.EACCES, errno.EPERM):
            return self.notice("%s is not watched: %s" % (shown, error.strerror))
        if name not in watched.unreadable:
            self.refused.append(shown)
        watched.unreadable[name] = since
        try:
            self.watches.set(path_to_fd(self.open.get(watched)), ATTRIB, shown)
        except OSError:
            pass

    def tell_refused(self):
        """Say what can't be read: in one line, however many."""
        shown, self.refused = self.refused, []
        if len(shown) == 1:
            self.notice("%s can't be read and is not watched" % shown[0])
        elif shown:
            more = len(shown) - MANY_REFUSED
            self.notice("%s%s can't be read and are not watched" % (
                ", ".join(shown[:MANY_REFUSED]), " and %d more" % more if more > 0 else ""))

    def begin(self, watched, fd, since):
        """List a directory, open as fd, which is closed in the end."""
        if self.watches.quiet != self.watches.asked:
            for each, name in ((watched, b""), (watched.parent, watched.name)):
                if each is not None and (each, None) not in self.work:
                    self.own.add((each.wd, name))
        with OnFailure(os.close, fd):
            self.listing = Listing(watched, fd, since)

    def list_on(self, listing):
        """Go on with a listing: what is new is reported as CREATE, and each directory is to be
        looked at.  Returns how many entries that were."""
        watched, entries = listing.watched, None
        if self.watches.has(watched):
            try:
                entries = [(entry.name, entry.is_dir(follow_symlinks=False))
                           for _, entry in zip(range(LIST_STEP), listing.entries)]
            except OSError as error:
                self.notice("reading %s: %s; not all that is below it is watched" % (
                    printable(self.watches.prefix(watched)), error.strerror))
        if not entries:
            self.listing = None
            listing.entries.close()
            self.open.keep(watched, listing.fd)
            return 0
        prefix = self.watches.prefix(watched) if listing.has_news else ""
        for name, is_dir in entries:
            if name in listing.seen:
                continue
            is_new = listing.is_new(name, self.is_mount)
            if is_new and (watched, name) not in self.found:
                self.found.add((watched, name))
                self.reported.add(prefix + os.fsdecode(name), CREATE | (ISDIR if is_dir else 0))
            if is_dir and name in watched.children:
                self.add(watched.children[name])
            elif is_dir:
                self.add(watched, name, listing.since)
        return len(entries)

    def forget(self):
        """Nothing is to be looked at."""
        self.work.clear()
        self.lost.clear()

    def close(self):
        if self.listing is not None:
            self.listing.close()
            self.listing = None
        self.open.close()


# --- what an event means ---

class Inotify(Source):
    """An inotify instance that follows trees.  What bind mounts show is followed at once, so that
    none is_shared(): see forget(), watch_child().

    learning  descriptors of the watches from before an overflow, until all is looked at; else None
    moved_roots  those that may have been removed before their new parents were watched
    """

    filter_name, follows_mounts = "inotify", False

    def __init__(self, wanted, _, notice, mount_list):
        self.wanted, self.notice, self.mounts = wanted, notice, mount_list
        self.stats = collections.Counter()
        self.roots, self.mounted = [], []
        self.fd = new_inotify()
        self.queue, self.reported = InotifyQueue(self.fd, self.stats), Reported(wanted)
        self.watches = Watches(self.fd, wanted.mask, notice)
        self.scan = Scan(wanted, self.watches, mount_list, notice, self.reported, self.watch_child)
        self.learning, self.moved_roots = None, []

    # --- roots ---

    def add(self, root, place=None):
        """Watch a root and all below it; a mount in a tree with the next read()s."""
        self.keep_root(root)
        root.place = place
        with OnFailure(self.remove, root):
            self.start(root)
            is_running = self.reported.moment is not None
            while self.scan.is_under_way and not (is_running and root.fd is None):
                self.reported.room = READ_ROOM
                self.advance(CREDIT)

    def start(self, root):
        """Set the watch of a root; what is below it is to be looked at."""
        root.forgets_inodes = any(mount.id == root.mount_id and forgets_inodes(mount)
                                  for mount in self.mounts.current())
        with Closing(root.open()) as fd:
            wd = self.watches.set_on(fd, root.display)
        known = self.watches.by_wd.get(wd)
        if known is not None and root.fd is None:
            raise Duplicate
        if root.fd is not None:
            self.watch_parent(root)
        if known is not None:
            # In another root's tree: it is watched already.  The deeper root names what is in it.
            root.watched, known.root = known, root
            self.watches.prefixes.clear()
        else:
            root.watched = Watched(wd, None, b"", root.key, root)
            self.watches.enter(root.watched)
            self.scan.entered(root.watched)
            self.scan.add(root.watched)

    def watch_parent(self, root):
        """Watch the parent directory of a root, for its renaming and removal."""
        path, root.parent_wd = fd_path(root.fd), None
        root.name = os.path.basename(path)
        if path == b"/":
            return
        try:
            root.parent_wd = self.watches.set(os.path.dirname(path),
                                              DELETE | IN_ONLYDIR, root.display)
        except Error as error:
            self.notice("%s; the removal of %s won't be seen" % (error, printable(root.display)))

    def remove(self, root):
        """Watch a root or mount no longer."""
        self.drop_root(root)
        watched = root.watched
        if watched is not None and watched.root is root:
            if self.watches.has(watched.parent) and not root.removed():
                watched.root = None     # it is in another's tree
                self.watches.prefixes.clear()
            else:
                self.forget(watched)
        if root.place is not None and root.watched is not None:
            root.place.source.uncovered(root.place.key, root.place.name)
        root.close()

    def uncovered(self, parent, name):
        """A mount is gone: the directory it covered is watched from now on, and what was made
        there meanwhile and could not be opened."""
        if not self.watches.has(parent):
            return
        if name in parent.children:
            self.scan.add(parent.children[name])
        else:
            self.appeared(parent, name, None)

    def forget(self, top, unwatch=True):
        """Drop a directory and all below it, and have their watches removed if `unwatch`."""
        self.watches.forget(top, unwatch)
        self.trees_changed = self.trees_changed or self.has_bind_mounts
        if top.root is None:
            self.on_move()

    # --- where directories are ---

    def inside(self, fd, path):
        """The key of a directory is its Watched."""
        mount_id, inode = mount_id_of(fd), inode_of(fd)
        for root in self.roots + self.mounted:
            top = root.path if root.fd is None else fd_path(root.fd)
            rest = below(path, top) if root.mount_id == mount_id else None
            watched = root.watched if rest is not None else None
            for name in rest.split(b"/") if rest else ():
                watched = watched and watched.children.get(name)
            if watched is not None and watched.inode == inode:
                return watched
        if self.backlog or readable(self.fd):               # else the table may be behind
            raise Behind
        return None

    def entry(self, key, name, _):
        return self.watches.prefix(key) + os.fsdecode(name) if self.watches.has(key) else None

    def show_as(self, root, display):
        root.show_as(display)
        self.watches.prefixes.clear()

    # --- looking at directories ---

    def appeared(self, watched, name, since):
        """A directory was made in, or moved into, a watched one.  `since`: see Scan.work."""
        if self.wanted.recursive:
            self.trees_changed = self.trees_changed or since != ALL_OF_IT
        self.scan.add(watched, name, since)

    def mode_changed(self, watched, name=None):
        """So it has of an entry of a directory, or of that itself: what could not be read there is
        tried again."""
        for each, since in list(watched.unreadable.items()):
            if name in (None, each):
                self.appeared(watched, each, since)

    def watch_child(self, fd, inode, parent, name):
        """Set the watch of a directory open as fd; None if it has one already.  OSError."""
        watches = self.watches
        wd = watches.set_on(fd, lambda: watches.prefix(parent) + os.fsdecode(name))
        known = watches.by_wd.get(wd)
        if known is None:
            child = Watched(wd, parent, name, inode)
            watches.enter(child)
            self.scan.entered(child)
            if parent.held is not None or parent.root is not None and parent.root.forgets_inodes:
                watches.hold(child, fd)
            return child
        if parent.children.get(name) is known:
            return None
        if hangs_on(parent, known):
            raise another_there()       # what is above it has moved, as an event will say
        if known.root in self.mounted:
            # Known by a bind mount, which it does not need any more.
            self.mounted.remove(known.root)
            known.root, self.trees_changed = None, True
        # Moved here, and the event is still to be judged; or a root in another's tree.
        self.moved(known, parent, name)
        if known.root is None:
            self.scan.add(known)        # what was lost below it while it was looked for elsewhere
        return None

    def moved(self, child, parent, name):
        """A directory is an entry of another now."""
        self.watches.hang(child, parent, name)
        self.watches.prefixes.clear()
        self.on_move()

    def advance(self, credit):
        """Look at what is to be looked at: what is left of the credit."""
        credit = self.scan.advance(credit)
        if self.learning is not None and not self.scan.is_under_way:
            self.watches.leaving.update(self.learning - self.watches.by_wd.keys())
            self.learning = None
        return credit

    # --- events ---

    def read(self, moment):
        """The events of the trees in one buffer, [] where there is nothing to read."""
        queue, reported, coming = self.queue, self.reported, self.queue.coming
        reported.begin(moment)
        credit = CREDIT
        if self.learning is None and not coming:
            queue.fill()
        for _ in range(EVENTS_AT_ONCE):
            if not coming or self.learning is not None or reported.room < 0:
                break
            event, count = queue.next(), len(reported.events)
            if event is not None:
                self.judge(*event)
                self.stats["dropped in user space"] += count == len(reported.events)
            if self.scan.work:
                credit = self.advance(credit)       # at once, if that is not too much
        if not coming:
            queue.judged = queue.bytes_read
            self.scan.all_judged()
        self.advance(credit)
        if queue.is_empty():
            self.end_removed(self.moved_roots)
            self.moved_roots.clear()
            self.scan.queue_empty()
        self.watches.leave(LEAVE_STEP)
        return reported.take()

    @property
    def backlog(self):
        return bool(self.queue.coming or self.reported.events or self.watches.leaving
                    or self.scan.is_under_way)

    def ahead(self):
        return self.queue.ahead()

    def judged(self):
        return self.queue.judged

    def renamed_since(self, ahead):
        return self.ahead() != ahead

    def due(self):
        return PAIR_SECONDS if self.scan.lost else None

    def judge(self, wd, mask, cookie, name):
        """Report an event if it is of a tree, and keep the table right."""
        if mask & Q_OVERFLOW:
            return self.overflow()
        if mask & DELETE:
            self.end_removed([root for root in self.roots
                              if root.parent_wd == wd and root.name == name])
        watched = self.watches.by_wd.get(wd)
        if watched is None or self.scan.own and self.scan.is_own(wd, mask, name):
            return None
        if mask & (UNMOUNT | IN_IGNORED | DELETE_SELF | MOVE_SELF) or not name:
            return self.self_event(watched, mask)
        return self.entry_event(watched, mask, cookie, name)

    def entry_event(self, watched, mask, cookie, name):
        """An event of an entry of a watched directory."""
        if mask & ATTRIB:
            self.mode_changed(watched, name)
        since = None
        # In an exchange what comes is queued first: that may still be to be looked at.
        if mask & ISDIR and (mask & DELETE or mask & MOVED_FROM and name not in watched.children):
            since = self.scan.left(watched, name)
        elif mask & (CREATE | DELETE | MOVED_FROM | MOVED_TO) and self.scan.seen(watched, name):
            mask &= ~CREATE
            if not mask & INOTIFY_ASKABLE:
                return None
        path = self.watches.prefix(watched) + os.fsdecode(name)
        if mask & DELETE:
            child = watched.children.get(name)
            # Of a subvolume nothing else tells what was in it; of one held, that it is gone.
            if child is not None and child.root is None and (
                    child.inode[0] != watched.inode[0] or child.held is not None):
                self.forget(child)
        elif mask & MOVED_FROM:
            other = self.queue.other_half(cookie, lambda: self.settle(watched))
            target = other and self.watches.by_wd.get(other[0])
            if target is not None:
                return self.renamed(watched, name, path, target, other[3], mask, since)
            child = self.watches.child(watched, name) if mask & ISDIR else None
            if child is not None and child.root is None:
                self.forget(child)
            elif child is not None:
                self.watches.unhang(child)
        if not mask & ISDIR and mask & THROUGH and self.is_of_device(watched, name):
            mask &= ~THROUGH
        self.reported.add(path, mask)
        if mask & ISDIR and mask & (CREATE | MOVED_TO):
            self.appeared(watched, name,
                          ALL_OF_IT if mask & CREATE else MovedIn(self.queue.after))
        return None

    def is_of_device(self, watched, name):
        """Whether an entry is a device node, which is to make a difference."""
        try:
            return not self.wanted.devices \
                and has_devices(self.watches.prefix(watched), way_up(watched)[0].kind) \
                and is_device(self.scan.open.get(watched), name)
        except OSError:
            return False

    def settle(self, watched):
        """Wait for who renames an entry of a directory just now."""
        try:
            look_up_nothing(self.scan.open.get(watched))
        except OSError:
            time.sleep(PAIR_SECONDS)        # moved or removed itself

    def renamed(self, old_parent, old_name, old_path, parent, name, mask, since):
        """A rename within the trees; `since`: of a directory that is still to be looked at."""
        path = self.watches.prefix(parent) + os.fsdecode(name)
        if self.wanted.mask & RENAME:
            self.reported.add(path, RENAME | (mask & ISDIR), old_path)
        else:
            self.reported.add(old_path, mask)
            self.reported.add(path, MOVED_TO | (mask & ISDIR))
        self.scan.left(parent, name)        # what had the name is gone
        if not mask & ISDIR:
            return None
        child = self.watches.child(old_parent, old_name)
        if child is None or hangs_on(parent, child):
            # It is where a scan has found it, or yet to be looked at.
            if child is None and since is None and self.wanted.ignore.hides(old_path, True):
                since = MovedIn(self.queue.after)       # as if from outside
            return self.appeared(parent, name, since)
        if child.root is None and self.wanted.ignore.hides(path, True):
            return self.forget(child)
        if self.wanted.ignore.by_path:
            self.scan.add(child)        # what is ignored in it may be other than before
        return self.moved(child, parent, name)

    def self_event(self, watched, mask):
        """An event of a watched directory itself: its parent has it, too, unless it's a root."""
        root = watched.root
        if mask & IN_IGNORED:
            return self.forget(watched)     # with what is in it: a subvolume goes as a whole
        if mask & ATTRIB:
            self.mode_changed(watched)
        if root is None:
            return None
        told = mask | ISDIR                 # which the kernel leaves out of MOVE_SELF
        if root.fd is None:                 # what a bind mount shows has moved, not the mount
            told &= ~(MOVE_SELF | DELETE_SELF)
        self.reported.add(root.display, told)
        if mask & MOVE_SELF and root.fd is not None:
            self.watch_parent(root)
            self.moved_roots.append(root)
        if mask & (UNMOUNT | DELETE_SELF):
            self.remove(root)
        return None

    def end_removed(self, roots):
        """End those of some roots that were removed."""
        for root in roots:
            if root.removed():
                self.reported.add(root.display, DELETE_SELF | ISDIR)
                self.remove(root)

    def overflow(self):
        """Events were lost, and what is known may be wrong: forget it, and look where all
        directories are now.

        The watches stay, and no more is judged until that is done, so nothing is lost of what
        waits.  Mounts inside are found again by the list of mounts.
        """
        self.notice("inotify's event queue overflowed: events were lost; "
                    "see /proc/sys/fs/inotify/max_queued_events")
        self.reported.add(None, Q_OVERFLOW)
        for root in list(self.mounted):
            self.remove(root)
            self.trees_changed = True
        self.learning = set(self.watches.by_wd)
        for root in self.roots:
            self.forget(root.watched, False)
        self.scan.forget()
        for root in self.roots:
            self.start(root)

    def close(self, forked=False):
        for root in self.roots + self.mounted:
            root.close()
        self.scan.close()
        self.watches.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


# --- the system calls ---

def new_inotify():
    """A new inotify instance: its file descriptor.  inotify_init1(2)."""
    fd = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
    if fd < 0:
        raise failure(ctypes.get_errno(), "making an inotify instance", None,
                      {errno.EMFILE: "see /proc/sys/fs/inotify/max_user_instances and ulimit -n"})
    return fd


def inotify_watch(fd, path, mask, shown, count):
    """A watch on a path (bytes), beside `count`: its descriptor.  inotify_add_watch(2).

    Raises Error, with the limit if reached.  `shown`: what to call it then, str or a function that
    makes it.
    """
    wd = call("inotify_add_watch", fd, path, mask)
    if wd >= 0:
        return wd
    number = ctypes.get_errno()
    shown = shown() if callable(shown) else shown
    if number == errno.ENOSPC:
        raise Error(number, "watching %s: %d directories are watched and %s is reached; "
                    "raise it, or run as root to use fanotify"
                    % (printable(shown), count, inotify_limit()))
    raise failure(number, "watching", shown)


def inotify_limit():
    """The name and value of the limit on inotify watches that is reached first."""
    limits = []
    for path in ("/proc/sys/fs/inotify/max_user_watches", "/proc/sys/user/max_inotify_watches"):
        try:
            with open(path) as file:
                limits.append((int(file.read()), path))
        except (OSError, ValueError):
            pass
    return "%s (%d)" % min(limits)[::-1] if limits else "max_user_watches"


def decode_inotify(buffer):
    """Yield (wd, mask, cookie, name) of a buffer read from inotify.  inotify(7)."""
    at, size = 0, len(buffer)
    while at < size:
        if size - at < INOTIFY_EVENT.size:
            raise damaged(at, "%d bytes are no inotify event" % (size - at))
        wd, mask, cookie, length = INOTIFY_EVENT.unpack_from(buffer, at)
        start = at + INOTIFY_EVENT.size
        at = start + length
        if at > size:
            raise damaged(start, "a name of %d bytes is cut off" % length)
        yield wd, mask, cookie, buffer[start:at].rstrip(b"\0")


# =============================================================================================
# 8. trace: the kernel decides, on any file system
# =============================================================================================
# BPF programs on the two functions through which all events pass find out whether an event is of
# a tree, and what it is called, at the moment when it happens (Tracer, in section 6).  What is
# left to do here is to put what a root is called before the path.
#
# The kernel calls these functions only where somebody watches something of a file system.  So each
# root gets an inotify watch, of which nothing is ever wanted; it also keeps the root's inode.
#
# A file system that is mounted inside a tree is one more root.  Where it is in the tree is a Spot,
# which the moves of directories change as they are read.

TRACE_READ = 1 << 18                    # bytes of the ring buffer in one read()
# Of directories, whether asked for or not: see moved().
TRACE_ALWAYS = MOVES | DELETE | DELETE_SELF | MOVE_SELF


class TraceRoot(PlainRoot):
    """A root.

    slot   the number that its records have; None once it is released
    is_gone whether its file system has been unmounted, as the kernel says
    opened   a descriptor of it from Trace.open() on, until it is added
    inotify  after that: an inotify instance of its own, which has its watch
    """

    slot = opened = inotify = None
    is_gone = False

    def remains(self, path):
        return not self.is_gone

    def close(self):
        super().close()
        for fd in (self.opened, self.inotify):
            if fd is not None:
                os.close(fd)
        self.opened = self.inotify = None


class Spot:
    """A directory in a tree: the root that it is in, and the path from there, b"" for itself.  The
    root is None once the directory has left the trees.

    after  where in the ring buffer it was found: moves from there on change it
    """

    __slots__ = ("root", "path", "after", "__weakref__")

    def __init__(self, root, path, after):
        self.root, self.path, self.after = root, path, after


class Traced:
    """A Tracer, and the watches that make the kernel call its programs.  ENOSPC where there are too
    many of those."""

    def __init__(self, asked, asked_dir, own, ring, devices):
        self.tracer = Tracer(asked, asked_dir, own, ring, devices)
        self.watches = {}                   # number -> (watch, or None: it is held elsewhere;
        #                                     inode_of() what is pinned)
        self.numbers = {}                   # inode -> number
        # The number that was free longest is given next: records of what had it are read by then.
        self.free = collections.deque(range(Tracer.ROOTS))
        self.told_lost = 0                  # how many of the lost events are told of
        with OnFailure(self.tracer.close):
            self.inotify = new_inotify()
        self.fd = self.tracer.fd

    def pin(self, fd, shown, flags=0, flat=False):
        """Have what happens in an open directory recorded, or to an open file; the number that the
        records have.  `flags`: of inotify; `flat`: only of the entries of the directory itself."""
        watch = inotify_watch(self.inotify, path_to_fd(fd), DELETE_SELF | flags, shown,
                              len(self.watches))
        return self.pin_watched(fd, shown, inode_of(fd), watch, flat)

    def pin_watched(self, fd, shown, inode, watch=None, flat=False):
        """The same, of what has its watch, and is this inode_of(): nothing is asked of its file
        system."""
        if inode not in self.numbers and not self.free:
            raise Error(errno.ENOSPC, "watching %s: there is room for %d roots and mounts in them"
                        % (printable(shown), Tracer.ROOTS), hint="watch what is above them")
        if inode not in self.numbers:
            self.numbers[inode] = self.free.popleft()
        number = self.numbers[inode]
        self.watches[number] = watch, inode
        with OnFailure(self.unpin, number):
            self.tracer.pin(fd, number, flat)
        return number

    def unpin(self, number):
        """Not any more."""
        self.tracer.unpin(number)
        watch, inode = self.watches.pop(number)
        del self.numbers[inode]
        self.free.append(number)
        if watch is not None:
            call("inotify_rm_watch", self.inotify, watch)

    def read(self, moment):
        """Yield the records of one read: (record, seconds since the epoch, its events' Moment)."""
        moments, clock = {}, time.time() - boot_time()
        for record in self.tracer.read(TRACE_READ):
            doer = record[2]
            its_moment = moments.get(doer)
            if its_moment is None:
                its_moment = moments[doer] = Moment(moment.roots,
                                                    Noted(moment.processes.who, record))
            yield record, clock + record[0] / 1e9, its_moment

    def lost(self):
        """What to say of the events that were lost since the last call, or ""."""
        lost, before = self.tracer.lost(), self.told_lost
        self.told_lost = lost
        return "%d events were lost: %s" % (lost - before, self.tracer.why_lost()) \
            if lost != before else ""

    def close(self):
        os.close(self.inotify)
        self.tracer.close()


class Trace(Source):
    """BPF programs that record the events of the trees, and the ring buffer they put them into."""

    filter_name, follows_mounts = "trace", False

    def __init__(self, wanted, _, notice, __):
        self.notice, self.recursive = notice, wanted.recursive
        self.mask = wanted.mask | ALWAYS | ISDIR
        self.stats = collections.Counter()
        self.roots, self.mounted = [], []
        self.slots = {}                     # number -> TraceRoot
        self.spots = WeakSet()      # of all Places in its trees
        self.renamed = None, None, 0, 0     # the last move of a directory: to, from, moved, end
        self.pid = os.getpid()
        self.out = []
        asked = wanted.mask & ASKABLE & ~FS_ERROR
        if asked & MOVES:
            asked |= RENAME                 # where that was not asked for it is two: see report()
        self.traced = Traced(asked, asked | TRACE_ALWAYS, wanted.own, wanted.ring, wanted.devices)
        self.tracer, self.fd = self.traced.tracer, self.traced.fd
        if self.tracer.caveat:
            notice(self.tracer.caveat)

    # --- roots and mounts ---

    @staticmethod
    def open(root):
        """Do with a root, which is returned, what may have to wait for who answers for its file
        system, before it is added; in any thread.  What it holds, its close() lets go of, whether
        it is added or not."""
        with OnFailure(root.close):
            root.opened, root.inotify = root.open(), new_inotify()
            inotify_watch(root.inotify, path_to_fd(root.opened), DELETE_SELF | IN_ONLYDIR,
                          root.display, 0)
        return root

    def add(self, root, place=None):
        """Watch a root.  After open() nobody is asked any more."""
        fd, root.opened = root.opened, None
        if fd is not None:
            with Closing(fd):
                root.slot = self.traced.pin_watched(fd, root.display, root.key)
        else:
            with Closing(root.open()) as fd:
                root.slot = self.traced.pin(fd, root.display, IN_ONLYDIR)
        self.slots[root.slot] = root
        self.keep_root(root)
        self.trees_changed = True           # what is mounted below it

    def remove(self, root):
        """Watch a root or mount no longer."""
        self.drop_root(root)
        if self.slots.pop(root.slot, None) is not None:
            self.traced.unpin(root.slot)
        for spot in self.spots:
            if spot.root is root:
                spot.root = None
        root.close()

    def release(self, root):
        """Records that are to be read may have its number, and are of it until another gets that.

        Whether it is needed the kernel says of now, and so it may be ahead of what is read."""
        slot = root.slot
        self.remove(root)
        self.slots[slot], root.slot = root, None

    def inside(self, fd, path):
        """The key of a directory is its Spot."""
        for _ in range(MOUNT_TRIES):            # no move comes between the two
            after = self.ahead()
            found = self.tracer.locate(fd)
            if not self.renamed_since(after):
                break
        if found is None or found[0] not in self.slots:
            return None
        spot = Spot(self.slots[found[0]], found[1], after)
        self.spots.add(spot)
        return spot

    def entry(self, key, name, _):
        if key.root is None:
            return None
        return key.root.prefix + os.fsdecode(key.path and key.path + b"/") + os.fsdecode(name)

    def is_shared(self, root):
        return root.is_part and not root.is_far

    def is_needed(self, root):
        """Whether a bind mount is what makes its directory one of a tree."""
        try:
            fd = root.open()
        except OSError:
            return True
        with Closing(fd):
            return self.tracer.locate(fd, above=True) is None

    # --- reading ---

    def ahead(self):
        return self.tracer.position()[1]

    def judged(self):
        return self.tracer.position()[0]

    def is_behind(self, ahead):
        return self.judged() < ahead

    def renamed_since(self, ahead):
        return self.tracer.position()[1] > ahead

    def read(self, moment):
        """The events that the ring buffer has, as far as one read goes.  Never waits."""
        out, count, dropped, begin = [], 0, 0, self.judged()
        self.out = out
        make, kind, put, root_of = tuple.__new__, Event, out.append, self.slots.get
        # What is not plain is judged: the plain case, nine in ten, takes no call.
        intricate, wanted = INTRICATE if self.recursive else -1, self.mask
        encoding, errors = _FS_ENCODING, _FS_ERRORS
        for record, when, its_moment in self.traced.read(moment):
            count += 1
            _, mask, doer, slot, path, old_slot, _, _, _, _ = record
            if not mask & intricate and path and old_slot is None:
                root, bits = root_of(slot), mask & wanted
                if bits and root:
                    put(make(kind, (root.prefix + path.decode(encoding, errors), bits, doer[0],
                                    when, None, its_moment)))
                else:
                    dropped += 1
                continue
            before, self.now, self.moment = len(out), when, its_moment
            self.judge(record)
            dropped += before == len(out)
        # Not whenever there is more: what comes while this is read is to gather, and be merged.
        self.backlog = self.judged() - begin >= TRACE_READ
        self.stats["reads"] += 1
        self.stats["events read"] += count
        self.stats["dropped in user space"] += dropped
        lost = self.traced.lost()
        if lost:
            self.notice(lost)
            out.append(Event(None, Q_OVERFLOW, None, time.time(), None, moment))
            self.trees_changed = True
        self.out = []
        return out

    def judge(self, record):
        """Report a record, and keep up with where the mounts are."""
        if record.mask & UNMOUNT:           # the list of mounts tells that, which knows each mount
            if record.slot in self.slots:
                self.slots[record.slot].is_gone = True
            return
        if record.slot is None:             # a climb that came to no end
            self.put(None, record.mask, record)
            return
        if record.mask & ISDIR and record.mask & MOVES:
            self.moved(record)
        if not self.recursive:
            record = self.at_the_top(record)
        root = record and self.slots.get(record.slot)
        if not root:
            return                          # it is a root no more
        if record.mask & ISDIR and record.mask & LISTING and record.pid == self.pid:
            record = record._replace(mask=record.mask & ~LISTING)   # fanfp itself reads directories
        mask, old_root = record.mask, self.slots.get(record.old_slot)
        if mask & RENAME and old_root is None:
            record = record._replace(mask=mask & ~RENAME | MOVED_TO)
        if mask & (DELETE_SELF | MOVE_SELF) and root.fd is None:
            return                          # of what a bind mount shows, not of the mount
        self.report(self.path(root, record.path), record,
                    old_root and self.path(old_root, record.old_path))
        if mask & DELETE_SELF:
            self.remove(root)

    @staticmethod
    def path(root, path):
        """What to call a path below a root, str; None for None."""
        if not path:
            return path if path is None else root.display
        return root.prefix + os.fsdecode(path)

    @staticmethod
    def at_the_top(record):
        """What is left of a record where only entries of the roots count, or None."""
        now = record.path is not None and b"/" not in record.path
        was = record.old_path is not None and b"/" not in record.old_path
        if record.old_path is None or now and was:
            return record if now else None
        if now:
            return record._replace(mask=record.mask & ~RENAME | MOVED_TO, old_path=None)
        return was and record._replace(mask=record.mask & ~RENAME | MOVED_FROM, old_path=None,
                                       slot=record.old_slot, path=record.old_path) or None

    def report(self, path, record, old_path):
        if record.mask & RENAME and not self.mask & RENAME:
            bits = record.mask & ~RENAME
            self.put(old_path, bits | MOVED_FROM, record)
            self.put(path, bits | MOVED_TO, record)
        else:
            self.put(path, record.mask, record, old_path)

    def put(self, path, mask, record, old_path=None):
        """Put out an event, if it is one that was asked for."""
        mask &= self.mask
        if mask & ~ISDIR:
            self.out.append(Event(path, mask, record.pid, self.now, old_path, self.moment))

    def moved(self, record):
        """A directory was moved: with it the places that are in it."""
        if record.mask & RENAME:
            before, after = (record.old_slot, record.old_path), (record.slot, record.path)
        elif record.mask & MOVED_FROM:
            before, after = (record.slot, record.path), None
        else:
            before = after = None
        root = self.slots.get(record.slot)
        if not record.mask & RENAME or self.has_bind_mounts or root is not None and root.is_far:
            self.trees_changed = True       # what is mounted in it; what is far is named by path
        # Two that are exchanged have a record each, and the second does not undo the first.
        first, self.renamed = self.renamed, (after, before, record.moved, record.end)
        is_exchange = first[:2] == (before, after) and first[2] != record.moved
        changed = False
        for spot in list(self.spots) if before else ():
            if spot.root is None or spot.root.slot != before[0] or before[1] is None \
                    or record.end <= spot.after or is_exchange and spot.after == first[3]:
                continue
            rest = below(spot.path, before[1])
            if rest is None:
                continue
            changed, spot.after = True, record.end
            root = after and self.slots.get(after[0])
            spot.root = None if root is None or root.slot is None else root
            if spot.root is not None:
                spot.path = after[1] + (b"/" + rest if rest else b"")
        if changed:
            self.on_move()

    def counters(self):
        return dict(self.stats, **self.tracer.counters())

    def close(self, forked=False):
        for root in self.roots + self.mounted:
            root.close()
        self.roots, self.mounted, self.slots = [], [], {}
        if self.fd is not None:
            self.traced.close()
            self.fd = None


# =============================================================================================
# 9. Names: files and symbolic links as roots
# =============================================================================================
# Files and symbolic links come in; events of the files go out, and directories to which links lead,
# for a source of trees.  Used are the sections on fanotify, inotify and trace.
#
# Such a root is two things: names, and what they lead to now.  The directories that hold the names
# are listened to, for what becomes of these alone; a file is listened to by its inode as well, and
# so whatever other name or mount it is used by.  When a name changes, what it leads to is looked up
# again, from the directory of the first on.  What a root led to stays its own until its names lead
# to something else.
#
# Marks on these few inodes are all that it takes, in a group of its own: no mark of a file system,
# no filter.  And in the same group no ignore mark may hide what is done by another name.

LINK_LIMIT = 40                             # links on one way: path_resolution(7)
WAY_TRIES = 5                               # of a way that is changed at the same time
NAME_EVENTS = CREATE | DELETE | MOVED_FROM | MOVED_TO


class Way:
    """What names lead to from an open directory on, found as the kernel does; see close().

    entries  [(descriptor of a directory, name)]: the symbolic links on the way, or all names, and,
             last, what is no directory, or is missing
    fd       an O_PATH descriptor of what they lead to; None: there is nothing
    names    those that are left, backwards
    rest     the names from the first entry on; None: there is no entry
    own      which of the entries is the file itself, or what is missing: its index, or None
    mounts   the ids of the mounts that it is on: a set
    error    the OSError that ended it, or None
    """

    def __init__(self, start, names, follow=True, may_ask=None, all_names=False):
        """`may_ask`: function(id of a mount), called before anything there is asked what it is;
        raises OSError to forbid that.  `all_names`: directories are entries, too."""
        self.error = None
        self.entries, self.names, self.rest, self.own = [], names[::-1], None, None
        self.follow, self.may_ask, self.all_names = follow, may_ask, all_names
        self.mounts, self.links, self.proc = set(), 0, os.stat("/proc").st_dev
        self.fd = os.dup(start)
        try:
            while self.names and self.fd is not None:
                at, self.fd = self.fd, None
                with Closing(at):
                    self.step(at, self.names.pop())
        except OSError as error:
            self.leave()
            self.error = error

    def step(self, at, name):
        """By one name on from an open directory."""
        status = self.come_to(at, name)
        if status and stat.S_ISLNK(status.st_mode) and (self.names or self.follow):
            if status.st_dev != self.proc:
                return self.step_by_link(at, name)
            # The text of one in /proc may be what it does not lead to.
            status = self.come_to(at, name, O_PATH | os.O_CLOEXEC)
        is_dir = status and stat.S_ISDIR(status.st_mode)
        if not is_dir or self.all_names:
            self.note(at, name)
        if not is_dir and self.names:
            self.leave()
        elif not is_dir:
            self.own = len(self.entries) - 1
        return None

    def step_by_link(self, at, name):
        """On from the directory where a symbolic link, which is open, starts: by its text."""
        self.note(at, name)
        self.links += 1
        if self.links > LINK_LIMIT:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        text = os.readlink(b"", dir_fd=self.fd)
        self.names += split_names(text)[::-1]
        self.leave()
        self.fd = os.open(b"/" if text.startswith(b"/") else b".", O_PATH_DIR, dir_fd=at)

    def come_to(self, at, name, flags=O_PATH_ENTRY):
        """Open a name: its os.stat_result, if it may be asked; None where there is nothing."""
        self.leave()
        try:
            self.fd = os.open(name, flags, dir_fd=at)
            number = mount_id_of(self.fd)
            self.mounts.add(number)
            if self.may_ask is not None:
                self.may_ask(number)
            return os.fstat(self.fd)
        except OSError as error:
            if error.errno not in GONE:
                raise
            self.leave()
            return None

    def note(self, directory, name):
        """Note an entry."""
        self.entries.append((os.dup(directory), name))
        if self.rest is None:
            self.rest = [name] + self.names[::-1]

    @property
    def is_dir(self):
        """Whether it leads to a directory."""
        return self.fd is not None and stat.S_ISDIR(os.fstat(self.fd).st_mode)

    def identity(self):
        """What two Ways have in common that are the same."""
        return ([(inode_of(fd), name) for fd, name in self.entries],
                self.fd is not None and inode_of(self.fd))

    def leave(self):
        """Close what it has come to."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def close(self):
        self.leave()
        for fd, _ in self.entries:
            os.close(fd)
        self.entries = []


def way_to(path, follow=True, may_ask=None, all_names=False):
    """The Way to a path, bytes.  An empty one leads nowhere, as for the kernel."""
    with Closing(os.open(b"/" if path.startswith(b"/") else path and b".", O_PATH_DIR)) as start:
        return Way(start, split_names(path), follow or path.endswith(b"/"), may_ask, all_names)


def way_taken(path, follow, waits):
    """(id of the mount, real path, whether it is a directory) of what a path leads to, None where
    that is nothing, which is waited for; and the ids of the mounts that the way there is on."""
    way = way_to(path, follow, all_names=waits)
    try:
        if way.error is not None:
            raise way.error
        if way.fd is None and waits:
            return None, way.mounts
        if way.fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return (mount_id_of(way.fd), fd_path(way.fd), way.is_dir), way.mounts
    finally:
        way.close()


def split_names(path):
    """The names in a path, bytes: a list."""
    return [name for name in path.split(b"/") if name not in (b"", b".")]


class Given:
    """A root that is known by its names, and what these lead to now.

    display   str, as the user gave it, without trailing slashes
    fd        an O_PATH descriptor of the directory that has the first of its names; of a root that
              is watched it is that in Names.places, and not to be closed
    names     the names from there on, list of bytes; None: it is a plain directory
    identity  what it has in common with the same root given again
    is_listed whether the mount of `fd` was in the list of mounts
    may_ask   see Way
    waits     whether it may not be there, and is known by all names that lead to it
    is_there  whether it was when that was told last
    why_not   why it could not be followed when that was tried last, as it was told; else None
    untold    whether it is another since before the event of that was read

    entries   [(key of a directory, name)]: those on the way, see Way; and that of the directory of
              `fd` while the first name is missing: what tells that the directory is gone, and with
              it the root
    own       which of them is the file itself, or what is missing; None: it is a directory
    inode     key of the file that it is; None: it is a directory, or can't be listened to
    border    from where on, in the measure of Names.ahead(), an event of the file by its own name
              comes once more, from its inode; see InotifyNames
    covered   whether another file is mounted over the entry
    leads_to  inode_of() what the names lead to, None: to nothing
    last      the same of what they led to last; None: that is gone
    is_dir    whether that is a directory
    tree      the Root of that directory; None where it is no tree of its own
    """

    def __init__(self, display, path, follow=True, may_ask=None, waits=False):
        self.display, self.follow = display, follow or path.endswith(b"/")
        self.may_ask, self.waits, self.entries, self.border = may_ask, waits, [], 0
        self.fd = self.names = self.why_not = self.own = self.inode = None
        self.leads_to = self.last = self.tree = None
        self.is_listed = self.untold = self.covered = False
        self.is_there = True
        if not waits:
            os.stat(path, follow_symlinks=self.follow)  # for the kernel's word, if it is no root
        way = way_to(path, self.follow, may_ask, waits)
        try:
            if way.error is not None:
                raise way.error
            self.is_dir = way.is_dir
            if way.entries:
                self.fd, self.names = os.dup(way.entries[0][0]), way.rest
                self.identity = inode_of(self.fd), tuple(self.names), self.follow
                self.mount_id = mount_id_of(self.fd)
        finally:
            way.close()

    def way(self):
        """Where its names lead now."""
        return Way(self.fd, self.names, self.follow, self.may_ask, self.waits)

    def heard(self):
        """What is listened to for it: see Names.heard."""
        return self.entries + ([] if self.inode is None else [self.inode])

    def removed(self):
        """Whether the directory that has its name has been deleted."""
        return is_removed(self.fd)

    def may_be_another(self):
        """Whether mounts may have made it another, as they do below a link, or on a file."""
        if self.covered or self.entries[:1] != [self.own]:
            return True
        try:
            return mount_id_of(self.fd, self.own[1]) != self.mount_id
        except OSError:
            return False

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Names(Source):
    """A source of the events of roots that are Given, in none of which anything is mounted.

    given     identity of a root -> Given
    places    key of a directory that is listened to -> a descriptor of it
    heard     what is listened to -> [Given]: an entry (key of a directory, name), or key of a file
    stale     whether something may be listened to in vain
    gone      roots whose directory is gone -> pid: of whose event
    done      what has been judged, in the measure of ahead()

    What it is made with: `lead(given, fd)` has the tree watched that a root is now, open as `fd`,
    or no tree (None), and returns the events that are left of the one before; `in_tree(fd)` says
    whether a directory is in a tree, which then reports its entries.

    Subclasses listen, each by keys of its own:

    make()             what is needed for that; the descriptor to read
    listen(fd, is_own) have events of the names in an open directory, and of what happens to their
                       files if `is_own`; its key
    mark(given, fd)    have events of an open file by any name; its key, None if that can't be
    unlisten(key, fd)  not any more: to a directory, open as `fd`, or a file (None)
    key(fd)            the key of an open file, where events tell whose file an entry was
    ahead()            see Source
    events()           yield (mask, pid, (key, name), target) of the events in one buffer, which is
                       read: of an entry of a directory, or None; and the key of the file, or None
    """

    def __init__(self, wanted, filter_name, notice, lead, in_tree):
        self.notice, self.lead, self.in_tree = notice, lead, in_tree
        self.own, self.filter_name, self.reported = wanted.own, filter_name, Reported(wanted)
        self.given, self.places, self.heard, self.gone = collections.OrderedDict(), {}, {}, {}
        self.stale, self.stats = False, collections.Counter()
        self.done, self.fd = 0, self.make()

    # --- roots ---

    @property
    def roots(self):
        """The roots, but for those that are trees now."""
        return [given for given in self.given.values() if given.tree is None]

    def add(self, given):
        """Watch a root."""
        self.given[given.identity] = given
        with OnFailure(self.forget, given):
            self.resolve(given)
        given.close()                       # one descriptor does for all files of a directory
        given.fd = self.places[given.entries[0][0]]
        given.source = self
        self.say_if_there(given)

    def say_if_there(self, given):
        """Say whether a root that is waited for is there, if that has changed."""
        if given.waits and given.is_there != (given.leads_to is not None):
            given.is_there = not given.is_there
            self.notice("%s is %s" % (printable(given.display), "there, and watched from now on"
                                      if given.is_there else "not there; it is waited for"))

    def remove(self, given):
        """Watch a root no longer."""
        self.forget(given)
        given.fd = None

    def forget(self, given):
        """Know a root no more; `given.fd` is left to whoever calls this."""
        del self.given[given.identity]
        self.gone.pop(given, None)
        self.hear(given, [], None)
        self.tidy()

    # --- what a root is ---

    def resolve(self, given, target=None):
        """Look up what a root is now, and listen to all that leads to it.  OSError.

        A file that is not the `target` has the name since an event to come, and is the root then.
        """
        before, way = None, given.way()
        try:
            for _ in range(WAY_TRIES):
                if way.identity() == before:
                    break
                before, own = way.identity(), way.own
                entries = [(self.listen(fd, index == own), name)
                           for index, (fd, name) in enumerate(way.entries)]
                way.close()
                way = given.way()       # the same, or it was changed before we listened
            if way.error is not None:   # any of the names, these or those before, may mend that
                self.hear(given, entries + given.entries, given.inode)
                raise way.error
            before, given.own = given.own, None if own is None else entries[own]
            if before != given.own:
                target = None           # it is of what had the name, a link now
            self.hear(given, entries, given.inode)
            self.be(given, way, target)
        finally:
            way.close()

    def be(self, given, way, target):
        """A root is what a Way leads to; or what it was before, where that leads to nothing."""
        given.covered, given.leads_to = False, None
        if way.fd is None:
            return self.await_end(given)
        is_dir, leads_to = way.is_dir, inode_of(way.fd)
        if is_dir and given.last != leads_to or not is_dir and given.tree is not None:
            self.reported.events += self.lead(given, way.fd if is_dir else None)
        if is_dir:
            self.hear(given, given.entries, None)
        elif target is None or self.key(way.fd) == target:
            self.hear(given, given.entries, self.mark(given, way.fd))
            given.covered = mount_id_of(way.fd) != mount_id_of(way.entries[-1][0])
        given.is_dir, given.last, given.leads_to = is_dir, leads_to, leads_to
        return None

    def await_end(self, given):
        """Where the first name of a root is missing, have an event of the removal of the directory
        that had it, which can't be removed as long as it has an entry."""
        for _ in range(WAY_TRIES if len(given.entries) == 1 else 0):
            if given.removed():
                break
            path = fd_path(given.fd)
            with Closing(os.open(b"..", O_PATH_DIR, dir_fd=given.fd)) as up:
                parent = self.listen(up, False), os.path.basename(path)
            self.hear(given, given.entries[:1] + [parent], given.inode)
            if fd_path(given.fd) == path:
                break                       # else moved meanwhile, maybe before we listened

    # --- what is listened to ---

    def place(self, key, fd):
        """Keep a descriptor of a directory that is listened to; its key is returned."""
        if key not in self.places:
            self.places[key] = os.dup(fd)
        return key

    def hear(self, given, entries, inode):
        """Have the events of some entries, and of the file of a key or of none (None), be those of
        a root, and of nothing else."""
        if inode != given.inode:
            for other in list(self.heard.get(inode, ())):
                if other.leads_to is None:  # what it was has the name of another root now
                    self.hear(other, other.entries, None)
        for what in given.heard():
            self.heard[what].remove(given)
        given.entries, given.inode = list(collections.OrderedDict.fromkeys(entries)), inode
        for what in given.heard():
            self.heard.setdefault(what, []).append(given)
        self.stale = True

    def tidy(self):
        """Listen to nothing in vain."""
        if not self.stale:
            return
        self.stale = False
        for what in [what for what, roots in self.heard.items() if not roots]:
            del self.heard[what]
            if not isinstance(what, tuple):
                self.unlisten(what, None)
        used = {what[0] for what in self.heard if isinstance(what, tuple)}
        for key in self.places.keys() - used:
            with Closing(self.places.pop(key)) as fd:
                self.unlisten(key, fd)

    # --- events ---

    def judge(self, mask, pid, entry, target):
        """Report an event of an entry (key, name), or of a file by whatever name: its key."""
        named = list(self.heard.get(entry, ()))
        for given in named:
            self.entry_event(given, entry, mask, pid, target)
        mask &= ~NAME_EVENTS
        for given in self.heard.get(target, ()):
            if given not in named:
                self.report(given, mask, pid)

    def entry_event(self, given, entry, mask, pid, target):
        """Something has happened to one of the names that lead to a root."""
        is_own = entry == given.own and not given.covered
        told_by_tree = is_own and self.in_tree(self.places[entry[0]])
        if is_own and mask & NAME_EVENTS:
            if given.untold and mask & ISDIR:
                mask &= ~DELETE             # its tree has said so, before this event was read
            given.untold = False
            # Not what is there now, which may have been another's until an event to come says so.
            self.follow(given, mask & (CREATE | MOVED_TO), target)
        elif mask & NAME_EVENTS:
            before = given.leads_to
            self.follow(given)
            changed = given.untold or given.leads_to != before
            # Of the removal of a directory its tree tells.
            told = NAME_EVENTS & ~DELETE if mask & ISDIR else NAME_EVENTS
            mask = mask & told if changed else 0
            given.untold = bool(changed and not mask and given.leads_to)
        elif not is_own or self.is_told_twice(given):
            mask = 0
        if mask and not told_by_tree:
            self.report(given, mask, pid)
        self.note_if_gone(given, pid)

    def is_told_twice(self, given):
        """Whether an event of a file by its own name comes once more, from its inode."""
        return False

    def follow(self, given, is_there=True, target=None):
        """A name that leads to a root has changed: look up what the root is now.

        `is_there`: whether the file was there after the change; `target`: and its key, where that
        is known.
        """
        why_not = None
        try:
            if is_there:
                self.resolve(given, target)
            else:
                given.leads_to = None
                self.await_end(given)
        except OSError as error:
            why_not = worded(error)
            if why_not != given.why_not:
                self.notice("%s can't be followed to what it leads to now: %s"
                            % (printable(given.display), why_not))
        given.why_not = why_not
        self.say_if_there(given)

    def note_if_gone(self, given, pid=None):
        """A root ends with the directory that had its name; see end_what_is_gone()."""
        if given.leads_to is None and given.removed():
            self.gone[given] = pid

    def end_what_is_gone(self):
        """End these roots.  What was done in a directory that is gone is queued by now: it is
        judged first, and DELETE_SELF comes right after it, whatever others did meanwhile."""
        while self.gone:
            gone, ahead = list(self.gone), self.ahead()
            while self.judged() < ahead and self.read_buffer():
                pass
            events = self.reported.events
            last = {event.path: at for at, event in enumerate(events)}
            for given in sorted(set(gone) & set(self.gone),
                                key=lambda each: -last.get(each.display, -1)):
                count, at = len(events), last.get(given.display, -1) + 1
                if given.tree is None:      # one that is a tree goes on as that
                    self.report(given, DELETE_SELF, self.gone[given])
                events[at:] = events[count:] + events[at:count]
                self.remove(given)

    def lost_trees(self):
        """The roots that were trees which have ended, as their sources told."""
        return [given for given in self.given.values() if given.tree is not None
                and given.tree not in given.tree.source.roots]

    def look_at_roots(self, moment):
        """Mounts have changed, which may cover files; or the tree that a root was has ended.
        Returns the events of that."""
        self.reported.begin(moment)
        for given in self.lost_trees():
            given.tree = given.last = None
        for given in list(self.given.values()):
            if given.may_be_another():
                self.look_at(given)
        return self.finish()

    def look_at(self, given):
        """Look up what a root is now, though no name has changed; or the event is to come."""
        covered, last, leads_to = given.covered, given.last, given.leads_to
        self.follow(given)
        given.untold = given.untold or given.leads_to != leads_to
        if covered and given.last != last:
            self.report(given, UNMOUNT, None)
        self.note_if_gone(given)

    def report(self, given, mask, pid):
        """Report an event of a root, if it is one that was asked for."""
        mask = mask & ~ISDIR | (ISDIR if given.is_dir else 0)
        self.reported.add(given.display, mask, None, pid or None)

    def read(self, moment):
        """The events of the roots in one buffer, [] where there is none, and what is queued when
        a root ends.  Never waits."""
        self.reported.begin(moment)
        self.read_buffer()
        return self.finish()

    def finish(self):
        """The events of a read, which ends."""
        self.end_what_is_gone()
        self.tidy()
        return self.reported.take()

    def read_buffer(self):
        """Read one buffer and judge what is in it; whether there was anything."""
        begun = self.judged()
        self.stats["reads"] += 1
        for mask, pid, entry, target in self.events():
            self.stats["events read"] += 1
            before = len(self.reported.events)
            if mask & Q_OVERFLOW:
                self.overflow()
            else:
                self.judge(mask, pid, entry, target)
            self.stats["dropped in user space"] += before == len(self.reported.events)
        return self.judged() != begun

    def overflow(self):
        """Events were lost: look where all names lead."""
        self.notice("the event queue of the files given overflowed: events were lost")
        self.reported.add(None, Q_OVERFLOW)
        for given in list(self.given.values()):
            self.follow(given)

    def judged(self):
        return self.done

    def close(self, forked=False):
        for fd in self.places.values():
            os.close(fd)
        self.given, self.places = {}, {}
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class FanotifyNames(Names):
    """By fanotify, with marks on the inodes.  Keys are file-system ids and file handles."""

    def make(self):
        """An event of a file by whatever name comes once, though two marks ask for it."""
        self.pid, self.quiet_at = os.getpid(), boot_time()  # `quiet_at`: as since()
        self.asked = self.reported.mask & ASKABLE & ~MOVES & ~NAME_EVENTS & ~FS_ERROR
        return new_group()

    def key(self, fd):
        shown = os.fsdecode(fd_path(fd))
        return filesystem_id(fd, shown) + name_to_handle(fd, shown=shown)[0]

    def listen(self, fd, is_own):
        mask = NAME_EVENTS | ISDIR | (self.asked | EVENT_ON_CHILD if is_own else 0)
        fanotify_mark(self.fd, FAN_MARK_ADD, mask, fd, b".", os.fsdecode(fd_path(fd)))
        return self.place(self.key(fd), fd)

    def mark(self, given, fd):
        if self.asked:
            fanotify_mark(self.fd, FAN_MARK_ADD, self.asked, AT_FDCWD, path_to_fd(fd),
                          given.display)
        return self.key(fd)

    def unlisten(self, key, fd):
        """A file that can't be opened is gone, or soon; or it is on a file system of which no
        directory is open here, and what comes of it is dropped."""
        if fd is not None:
            fanotify_mark(self.fd, FAN_MARK_REMOVE,
                          NAME_EVENTS | ISDIR | self.asked | EVENT_ON_CHILD, fd, b".")
            return
        place = next((fd for each, fd in self.places.items() if each[:8] == key[:8]), None)
        if place is None or not self.asked:
            return
        with Closing(os.open(b".", O_READ_DIR, dir_fd=place)) as mount_fd:
            try:
                with Closing(open_by_handle(mount_fd, key[8:], O_PATH | os.O_CLOEXEC)) as fd:
                    fanotify_mark(self.fd, FAN_MARK_REMOVE, self.asked, AT_FDCWD, path_to_fd(fd))
            except OSError:
                pass

    def ahead(self):
        # Of each event that waits the kernel counts the first part alone.
        return self.done + queued(self.fd) // METADATA.size

    def since(self):
        return self.quiet_at

    def events(self):
        began, at, buffer = boot_time(), 0, read_waiting(self.fd, READ_SIZE)
        if len(buffer) <= READ_SIZE - EVENT_ROOM:
            self.quiet_at = began           # there was no more
        while at < len(buffer):
            raw = decode_one(buffer, at, len(buffer))
            at = raw.end
            self.done += 1
            if self.own or raw.pid != self.pid:
                yield raw.mask, raw.pid, (raw.key, raw.name), raw.target


class TraceNames(Names):
    """By the programs of `trace`.  Keys are the numbers that records have."""

    def make(self):
        asked = self.reported.mask & ASKABLE & ~FS_ERROR | NAME_EVENTS | RENAME
        self.traced = Traced(asked, asked, self.own, None, True)
        return os.dup(self.traced.fd)

    def listen(self, fd, is_own):
        return self.place(self.traced.pin(fd, os.fsdecode(fd_path(fd)), flat=True), fd)

    def unlisten(self, key, _):
        self.traced.unpin(key)

    def mark(self, given, fd):
        return self.traced.pin(fd, given.display)

    def key(self, fd):
        return self.traced.numbers.get(inode_of(fd))

    def ahead(self):
        return self.traced.tracer.position()[1]

    def judged(self):
        return self.traced.tracer.position()[0]

    def events(self):
        reported, moment = self.reported, self.reported.moment
        for record, when, its_moment in self.traced.read(moment):
            reported.now, reported.moment = when, its_moment
            mask, pid = record.mask & ~(DELETE_SELF | MOVE_SELF | UNMOUNT), record.pid
            here, there = (record.slot, record.path), (record.old_slot, record.old_path)
            if mask & RENAME:
                yield mask & ~RENAME | MOVED_FROM, pid, there, None
                yield mask & ~RENAME | MOVED_TO, pid, here, None
            elif record.path:
                yield mask, pid, here, None
            else:
                yield mask, pid, None if record.old_path is None else there, record.slot
        reported.moment = moment
        if self.traced.lost():
            yield Q_OVERFLOW, None, None, None

    def close(self, forked=False):
        if self.fd is not None:
            self.traced.close()
        super().close(forked)


class InotifyNames(Names):
    """By inotify.  Keys are watch descriptors."""

    def make(self):
        self.asked = self.reported.mask & INOTIFY_ASKABLE \
            & ~(NAME_EVENTS | DELETE_SELF | MOVE_SELF)
        self.start = 0                      # where the buffer begins that is judged; `done`: ends
        return new_inotify()

    def listen(self, fd, is_own):
        mask = NAME_EVENTS | IN_ONLYDIR | IN_MASK_ADD | (self.asked if is_own else 0)
        return self.place(self.watch(fd, mask, os.fsdecode(fd_path(fd))), fd)

    def unlisten(self, key, _):
        call("inotify_rm_watch", self.fd, key)

    def watch(self, fd, mask, shown):
        return inotify_watch(self.fd, path_to_fd(fd), mask, shown, len(self.places))

    def mark(self, given, fd):
        """What happens to it by its own name comes twice from now on, from its directory and from
        itself.  So from the end of what is queued now its directory is not listened to.
        """
        if not self.asked:
            return None
        try:
            key = self.watch(fd, self.asked, given.display)
        except Error as error:
            if error.errno != errno.EACCES:
                raise
            self.notice("%s; what is done to it by another name won't be seen" % error)
            given.border = 1 << 62
            return None
        if key != given.inode:
            given.border = self.ahead()
        return key

    def ahead(self):
        return self.done + queued(self.fd)

    def is_told_twice(self, given):
        return given.inode is not None and self.start >= given.border

    def events(self):
        """No buffer goes beyond a border."""
        buffer = read_waiting(self.fd, min([INOTIFY_READ] + [
            given.border - self.done for given in self.given.values()
            if given.border > self.done]))
        self.start = self.done
        self.done += len(buffer)
        for wd, mask, _, name in decode_inotify(buffer):
            if mask & IN_IGNORED:
                for given in self.heard.pop(wd, ()):
                    given.inode = None
            elif name:
                yield mask, None, (wd, name), None
            else:
                yield mask, None, None, wd


# =============================================================================================
# 10. Sources: which of them watches what
# =============================================================================================
# Roots come in by name, mounts from section 11.  Events go out, and the reasons why something is
# watched with less than the best, or can't be.  Used are all sources, in sections 6 to 9.
#
# The best source that can watch a root does, and so it is with what is mounted in one.  What
# somebody else answers for has a source and a thread of its own.

FILTER_NAMES = ("auto", "fastpath", "marks", "trace", "user", "inotify")    # the better first

# What a filter has less than the better ones; trace, by what it tells, has nothing less.
LESSER = {"marks": "", "user": ", which reads every event of the file system",
          "inotify": ", which does not tell who"}
NOT_TOLD = {"inotify": OPEN_EXEC | FS_ERROR, "trace": FS_ERROR}     # of events, by filter


# What watches trees with a filter, the roots it takes, and what watches names.
Kind = collections.namedtuple("Kind", "trees root names")
KINDS = dict.fromkeys(FILTER_NAMES, Kind(Fanotify, HandleRoot, FanotifyNames))
KINDS["inotify"] = Kind(Inotify, InotifyRoot, InotifyNames)
KINDS["trace"] = Kind(Trace, TraceRoot, TraceNames)


def no_root(error, shown):
    """The Error for a root that can't be looked at."""
    if error.errno == errno.EREMOTE:        # see MountList.may_ask()
        return Error(error.errno, "watching %s: %s" % (printable(shown), in_words(error).reason),
                     hint="make it first")
    hint = "name a directory or a file" if error.errno in (errno.ENOENT, errno.ENOTDIR) else ""
    return failure(error.errno, "watching", shown, hint)


def is_below_any(path, tops):
    """Whether a path is that of one of some directories, or below one; None stands for none."""
    return any(top is not None and below(path, top) is not None for top in tops)


def top_of(root, far):
    """The path that leads to a root now, or None, as of visible_path()."""
    return root.path if root.fd is None or root.is_far else visible_path(root.fd, far)


class MountList:
    """Tells when the list of mounts has changed.  proc(5), /proc/PID/mountinfo.

    The kernel tells each change once to a descriptor, whoever polls it: a select() on the epoll
    that it is in takes it from the epoll_wait() that follows.  So one descriptor is there to wake,
    and another, which nobody else polls, to tell.
    """

    def __init__(self):
        self._files = []
        self._news = False                      # a change not told yet
        self._mounts = None                     # current(), and with it names() and far()
        self.near = set()                       # see wait_for()
        try:
            for _ in range(2):
                self._files.append(open("/proc/self/mountinfo", "rb"))
        except OSError as error:
            self.close()
            raise failure(error.errno, "opening", "/proc/self/mountinfo",
                          "/proc is not mounted? mount -t proc proc /proc")
        self._poll = select.poll()
        self._poll.register(self._files[1], select.POLLPRI)

    def fileno(self):
        """A descriptor to wait on for EPOLLPRI; what says that there is news is changed()."""
        return self._files[0].fileno()

    def changed(self):
        """Whether there has been a change since the last call."""
        self._look()
        news, self._news = self._news, False
        return news

    def _look(self):
        if self._poll.poll(0):
            self._news, self._mounts = True, None

    @staticmethod
    def read():
        """{(id, device, path): Mount}"""
        return {(mount.id, mount.device, mount.path): mount for mount in read_mounts()}

    def current(self):
        """The mounts, a list of Mount, not read again while it is the same."""
        self._look()
        if self._mounts is None:
            self._mounts = read_mounts()
            self._names = {mount.path.rpartition(b"/")[2] for mount in self._mounts}
            self._far = far_paths(self._mounts, self.near)
        return self._mounts

    def names(self):
        """The last parts of the paths of all mounts: a set of bytes."""
        self.current()
        return self._names

    def far(self):
        """far_paths() of all mounts."""
        self.current()
        return self._far

    def wait_for(self, mounts):
        """Whoever answers for these mounts is waited for, as long as it takes: their devices are
        not far, but `near`."""
        self.near.update(mount.device for mount in mounts)
        self._mounts = None

    def has_far(self, path):
        """Whether a mount that lies_far() is at a path now.  The renaming of a directory above one
        changes its path, and is no change of the list."""
        mounts = read_mounts() if self.far() else []
        far = far_paths(mounts)
        return any(mount.path == path and lies_far(mount, far) for mount in mounts)

    def may_ask(self, number):
        """Raise Error if somebody else answers for the mount of a number, or for what it lies on.

        Not for "/", as in far_paths().
        """
        for mount in self.current() if self.far() else ():
            if mount.id == number and mount.path != b"/" and mount.device not in self.near \
                    and lies_far(mount, self.far()):
                raise Error(errno.EREMOTE, "it leads into %s, %s, which may never answer"
                            % (printable(os.fsdecode(mount.path)), mount.kind))

    def close(self):
        for file in self._files:
            file.close()


# --- what somebody else answers for ---

# Where somebody else answers for a file system, a server that may be gone, whoever asks it waits in
# the kernel for as long as it takes.  So nothing is asked there by who reads the events: a thread
# for each such mount does all that is to be done.  What is one is seen in the list of mounts, which
# asks nobody; see lies_far().

ANSWER_SECONDS = 1.0        # after which somebody is said not to answer
THREAD_ROOM = 10000         # batches of events of such a thread that may wait to be read
THREAD_BATCHES = 16         # of them in one read()


class Asked:
    """A question put by a thread of its own, which may get no answer."""

    def __init__(self, function):
        import threading
        self.answer = self.error = None
        self._come = threading.Event()
        threading.Thread(target=self._ask, args=(function,), daemon=True).start()

    def _ask(self, function):
        try:
            self.answer = function()
        except OSError as error:
            self.error = error
        self._come.set()

    def has_come(self, seconds):
        """Whether there is an answer, or an error, within some seconds."""
        return self._come.wait(seconds)


class ThreadSource(Source):
    """A source for one root on a file system that somebody else answers for.  A thread, which may
    have to wait, watches the root and passes the events on; or it opens it for another source,
    which takes it over.

    The reader never waits.  A thread that gets no answer is left behind, and lets go of all it has
    when it gets one.

    root       as the others know it: nothing is asked there
    kind       of its file system, str
    is_inner   whether it is a mount in a tree, which the thread's Watch shows as "/"
    take_over  function of what the thread has opened; None: the thread watches
    news       (what, value) from the thread, as far as the reader has not come to it
    fd         readable when there is some; None: nobody reads it any more
    watch      the thread's Watch, once it is made
    is_ready   whether the thread has had an answer
    is_announced  whether what becomes of it is news
    deadline   when to give up waiting for the thread, time.monotonic(); None: nothing is awaited
    farewell   what to call it in its UNMOUNT, None: not at all, in a list, once its mount is gone:
               what the thread has read comes first, and then it ends; else []
    """

    def __init__(self, root, kind, make, notice, is_inner, take_over=None):
        """`make`: function(notice), called by the thread: a Watch, or what take_over() takes, which
        has close()."""
        import threading
        self.root, self.kind, self.notice, self.is_inner = root, kind, notice, is_inner
        self.roots, self.mounted = ([], [root]) if is_inner else ([root], [])
        root.source = self
        self.stats, self.take_over = collections.Counter(), take_over
        self.is_ready = self.is_announced = False
        self.deadline, self.farewell = time.monotonic() + ANSWER_SECONDS, []
        self.news, self.watch = collections.deque(), None
        self.fd, signal = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        threading.Thread(target=self._work, args=(make, signal), daemon=True).start()

    @property
    def filter_name(self):
        return "inotify" if self.is_ready and self.take_over is None else None

    # --- in the thread ---

    def _work(self, make, signal):
        def put(what, value=None):
            self.news.append((what, value))
            try:
                os.write(signal, b"n")
            except (BlockingIOError, BrokenPipeError):
                pass                        # the reader is awake; or has gone
        try:
            made = make(lambda message: put("notice", message))
            put("ready", made)
            if self.take_over is None:
                with made:
                    self.watch = made
                    self._pass_on(put)
            elif self.fd is None:
                self._discard()
        except OSError as error:
            put("failed", error)
        finally:
            put("over")
            os.close(signal)

    def _pass_on(self, put):
        while not self.watch.ended and self.fd is not None:
            while len(self.news) > THREAD_ROOM and self.fd is not None:
                time.sleep(0.01)            # its kernel queue has a limit, and says when it is met
            is_last = bool(self.farewell)
            events = self.watch.read(0 if is_last else None)
            if events:
                put("events", events)
            elif is_last and not self.watch.pending:
                return

    # --- in the reader's ---

    def read(self, moment):
        """The events that the thread has read, as far as they have come.  Never waits."""
        out = []
        read_waiting(self.fd, 1 << 16)
        for _ in range(min(len(self.news), THREAD_BATCHES)):
            what, value = self.news.popleft()
            if what == "events":
                self.stats["events read"] += len(value)
                # What is mounted in it is called by the path that it has.
                self.trees_changed = self.trees_changed or any(
                    event.mask & MOVES and event.mask & ISDIR for event in value)
                out += filter(None, (self._in_words_of_the_tree(event, moment) for event in value))
            elif what == "notice":
                self.notice(value)
            elif what == "ready":
                self._begun(value)
            elif what == "failed":
                self.error = value
            else:
                self.deadline, self.over = None, True
        if self.deadline is not None and time.monotonic() >= self.deadline:
            self._give_up()
        if self.over and self.farewell:
            out += super().unmounted(self.root, self.farewell.pop(), moment)
        return out

    def _begun(self, made):
        """There is an answer, and what the thread was to make."""
        self.is_ready, self.deadline = True, None
        if self.take_over is not None:
            if self.farewell or self.over:
                return made.close()
            try:
                self.take_over(made)
            except OSError as error:
                self.error = error
                return None
        if self.is_announced:
            self.notice("%s, %s mounted inside, is watched from now on"
                        % (printable(self.root.display), self.kind))
        return None

    def _give_up(self):
        """There was no answer in time: say so, and take it when it comes; or let it be."""
        self.deadline = None
        if self.farewell:
            self.over = True
        elif self.is_inner and self.error is None:
            self.is_announced = True
            self.notice("not watched: %s, %s does not answer"
                        % (printable(self.root.display), self.kind))

    def _in_words_of_the_tree(self, event, moment):
        """An event of the thread's Watch by the path that it has in the tree; None: not to tell."""
        if not self.is_inner:
            return event._replace(moment=moment)
        if event.path == "/" and event.mask & UNMOUNT:
            return None                     # the list of mounts tells that
        path, old_path = (path and (self.root.display + path).rstrip("/")
                          for path in (event.path, event.old_path))
        return event._replace(path=path, old_path=old_path, moment=moment)

    @property
    def backlog(self):
        return bool(self.news)

    def due(self):
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def unmounted(self, root, shown, moment):
        """What the thread has read till then comes first."""
        if not self.is_ready or self.over:
            return super().unmounted(root, shown, moment)
        if not self.farewell:
            self.farewell = [shown]
            self.deadline = time.monotonic() + ANSWER_SECONDS
            self._wake()
        return []

    def remove(self, root):
        self.drop_root(root)
        self.over = True

    def close(self, forked=False):
        """Leave the thread to itself."""
        if self.fd is not None:
            self.over, fd, self.fd = True, self.fd, None
            self._wake()
            self._discard()
            os.close(fd)

    def _wake(self):
        if self.watch is not None:
            self.watch.wake()

    def _discard(self):
        """Let go of what was opened for somebody else: either side does, whichever is the last."""
        try:
            while self.take_over is not None:
                what, value = self.news.popleft()
                if what == "ready":
                    value.close()
        except IndexError:
            pass


# --- all sources of a Watch ---

class SourceList:
    """The sources of a Watch, as it reads from them.

    all      in the order in which they were made; none is closed
    poll     the epoll that they are registered with
    events   of no source's read(): what is reported with the next
    moment   the Moment of the last read()
    who      Who, attached once a source tells who by a number alone
    counts   counters of sources that are closed
    mount_list  the MountList.  Opened before anything is looked up, so that no mount made meanwhile
             is missed; where none is watched too, since a root may be unmounted
    """

    def __init__(self, wanted, poll):
        self.wanted, self.poll, self.all = wanted, poll, []
        self.mount_list = MountList()
        poll.register(self.mount_list.fileno(), select.EPOLLPRI)
        self.events, self.counts = collections.deque(), collections.Counter()
        self.who = Who()
        self.moment = Moment((), Processes(self.who, 0.0))

    def on_move(self):
        """A directory in the trees has been moved.  Mounts puts its own here."""

    # --- which there are ---

    @property
    def names(self):
        """The sources whose roots are known by their names."""
        return [source for source in self.all if isinstance(source, Names)]

    @property
    def trees(self):
        """The sources whose roots are trees."""
        return [source for source in self.all if not isinstance(source, Names)]

    @property
    def roots(self):
        """What the roots are called: a tuple of str."""
        return tuple(root.display for source in self.all for root in source.roots[:])

    def tops(self, name=None):
        """The paths that lead to the roots of trees now, or to those of a name; see top_of()."""
        far = self.mount_list.far()
        return [top_of(root, far) for source in self.trees for root in source.roots
                if name in (None, root.display)]

    def filter_names(self):
        """The names of the filters in use, the better first."""
        return sorted({source.filter_name for source in self.all
                       if source.roots or source.mounted} - {None}, key=FILTER_NAMES.index)

    def register(self, source):
        """Read from a source from now on; it is returned."""
        source.on_move = self.on_move
        self.all.append(source)
        self.poll.register(source.fd, select.EPOLLIN)
        return source

    # --- reading ---

    def backlog(self):
        """The descriptors of those that have more to do though nothing comes."""
        return [source.fd for source in self.all if source.backlog]

    def due(self):
        """[(seconds after which it is to be read though nothing comes, descriptor)]"""
        due = [(source.due(), source.fd) for source in self.all]
        return [(seconds, fd) for seconds, fd in due if seconds is not None]

    @property
    def pending(self):
        """Whether something has happened that read() has still to report, or to look at."""
        return bool(self.events) or any(source.backlog or source.due() is not None
                                        or readable(source.fd) for source in self.all)

    def read(self, ready, first=()):
        """The events of those whose descriptors are `ready`, as far as one read of each goes; but
        before that of those of the sources `first` that have some, as far as their queues go."""
        reading = [source for source in sorted(self.all, key=lambda each: each not in first)
                   if source in first or source.fd in ready]
        since = [source.since() for source in reading]
        self.moment = Moment(self.roots, Processes(self.who, min(
            [each for each in since if each is not None] or [0.0])))
        self.wanted.ignore.watch(self.moment.roots)
        events = []
        for source in reading:
            if source in first:
                events += self.read_queued(source)
            if source.fd in ready:
                events += source.read(self.moment)
        for names in self.names:
            if names.lost_trees():
                events += names.look_at_roots(self.moment)
        return events

    def read_queued(self, source):
        """The events that are queued in a source now."""
        events, ahead = [], source.ahead()
        while source.is_behind(ahead):
            events += source.read(self.moment)
        return events

    def ahead(self):
        """{source: its ahead()}"""
        return {source: source.ahead() for source in self.all}

    def behind(self, ahead):
        """The descriptors of those in which some of what was queued at that ahead() is still to be
        judged."""
        return [source.fd for source in self.all if source.is_behind(ahead.get(source, 0))]

    # --- the end ---

    def drop_over(self):
        """Let go of those that have come to their end, and return them."""
        over = [source for source in self.all if source.over]
        for source in over:
            self.drop(source)
        return over

    def drop(self, source):
        self.all.remove(source)
        self.poll.unregister(source.fd)
        self.counts.update(source.counters())
        source.close()

    @property
    def events_read(self):
        """How many events those that are open have read."""
        return sum(source.stats["events read"] for source in self.all)

    def counters(self):
        """Counters since the start, {name: int}."""
        total = collections.Counter(self.counts)
        for source in self.all:
            total.update(source.counters())
        return total

    def close(self, forked=False):
        self.who.close()
        self.mount_list.close()
        sources, self.all = self.all, []
        for source in sources:
            source.close(forked)


class Sources(SourceList):
    """Which source watches what.

    Comes in   names of roots (add_root(), remove_root()); mounts in them (add(), add_far());
               descriptors that are ready (read()).
    Goes out   Events, from read() and in `events`.  Calls of on_move() and on_lead(), for Mounts.
               Notices, Errors.
    May block  add_root() and add() ask the file system of a root.  Where somebody else answers for
               that, add_root() waits for the answer and says so; add_far() does not wait.
               Nothing else waits.

    by_kind       Fanotify, Trace, Inotify -> the one that has trees
    why_no_trace  the Error of the first try to make one, or None
    told          what tell_once() has told
    """

    def __init__(self, wanted, notice, poll, thread_watch, begin_thread):
        """`notice`: Notices.  `thread_watch(*roots, mount=None, notice=...)`: the ThreadWatch of a
        root or Mount, made by the thread that is to have it.  `begin_thread()`: what a thread does
        first."""
        super().__init__(wanted, poll)
        self.notice, self.thread_watch, self.begin_thread = notice, thread_watch, begin_thread
        self.by_kind, self.why_no_trace, self.told = {}, None, set()

    def on_lead(self, path):
        """A root that is known by its names leads to another directory, whose path this is, or to
        none (None).  Mounts puts its own here."""

    @property
    def fanotify(self):
        """The source that watches trees with fanotify, or None."""
        return self.by_kind.get(Fanotify)

    # --- roots, by what they are called ---

    def add_root(self, display):
        """Watch a root, by its names or as a tree; the name it has."""
        wanted, path, shown = self.wanted, os.fsencode(display), shown_name(display)
        wanted.ignore.watch(self.roots + (shown,))
        name = None if wanted.may_wait else self.add_far_root(display, path)
        if name is not None:
            return name
        try:
            given = Given(shown, path, wanted.dereference,
                          None if wanted.may_wait else self.mount_list.may_ask, wanted.wait)
        except OSError as error:
            raise no_root(error, display)
        if given.names is None:
            return self.add_tree(shown, path).display
        for names in self.names:
            other = names.given.get(given.identity)
            if other is not None:
                given.close()
                return other.display
        self.add_given(given, path)
        return shown

    def remove_root(self, name):
        """Watch the roots of a name no longer."""
        for names in self.names:
            for given in [given for given in names.given.values() if given.display == name]:
                names.remove(given)
        for source in self.trees:
            for root in [root for root in source.roots if root.display == name]:
                source.remove(root)

    def add_given(self, given, path):
        """Watch a root that is known by its names."""
        _, name, reasons = self.first_that_works(lambda name: self.add_to_names(name, given))
        if name is not None:
            if not given.is_dir:
                self.tell_lesser(reasons, name)
            return
        given.close()
        if not given.is_dir:
            self.refuse(given.display, reasons[-1][1])
        self.add_tree(given.display, path)
        self.notice("%s won't be followed when it leads elsewhere: %s"
                    % (printable(given.display), worded(reasons[-1][1])))

    def add_to_names(self, name, given):
        """Watch a root that is known by its names, with the filter of a name."""
        kind = KINDS[name].names
        for names in self.names:
            try:
                if isinstance(names, kind):
                    return names.add(given)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise           # else one of the two is a subvolume, which takes its own group
        return self.begin(kind(self.wanted, name, self.notice, self.lead, self.in_tree),
                          lambda names: names.add(given))

    def lead(self, given, fd):
        """A root leads to another directory now, open as `fd`, or to none (None).  Returns the
        events that are left of the one before."""
        events = []
        if given.tree is not None:
            root, given.tree = given.tree, None
            events = self.read_queued(root.source)
            if root in root.source.roots:
                root.source.remove(root)
                self.on_lead(None)
        if fd is not None:
            before = [root for source in self.trees for root in source.roots]
            root = self.add_tree(given.display, path_to_fd(fd))
            given.tree = root if root not in before else None
            self.on_lead(visible_path(fd, self.mount_list.far()))
        return events

    def in_tree(self, fd):
        """Whether an open directory is in a tree, so that its entries are reported."""
        trees = [root for source in self.trees for root in source.roots + source.mounted]
        if not trees:
            return False
        path, mount_id = fd_path(fd), mount_id_of(fd)
        tops = [root.path if root.fd is None else fd_path(root.fd) for root in trees
                if root.mount_id == mount_id]
        return is_below_any(path, tops) if self.wanted.recursive else path in tops

    def add_tree(self, shown, path):
        """Watch a directory as a root: that root, or the one that it is already."""
        root, name, reasons = self.first_that_works(lambda name: self.add(name, shown, path))
        if name is None:
            self.refuse(shown, reasons[-1][1])
        self.tell_lesser(reasons, name)
        return root

    def add_far_root(self, display, path):
        """add_far() a root, if somebody else answers for where it is: the name it has, else None.
        Waits for the answer for as long as it takes."""
        wanted, mounts = self.wanted, self.mount_list.current()
        if not any(map(is_answered, mounts)):
            return None
        asked = Asked(lambda: way_taken(path, wanted.dereference, wanted.wait))
        self.wait_for(asked.has_come, display, "")
        if asked.error is not None:
            raise no_root(asked.error, display)
        found, crossed = asked.answer
        number, real, is_dir = found or (None, None, False)
        far = self.mount_list.far()
        beyond = [mount for mount in mounts if lies_far(mount, far) and (
            mount.id == number or mount.id in crossed and mount.path != b"/")]
        if not beyond:
            return None
        if "inotify" not in self.candidates():
            self.mount_list.wait_for(beyond)    # a filter that was asked for may wait
            return None
        if real is None:
            return None                     # it is not there yet
        # What may lead elsewhere later, and a file, is followed by inotify.
        is_plain = is_dir and real == os.path.abspath(path)
        other = self.far_root(number, real) if is_plain else None
        if other is not None:
            return other.display            # given twice
        source = self.add_far(
            shown_name(display), real, number, beyond[0].kind,
            lambda notice: self.thread_watch(display, notice=notice, ignore=wanted.ignore.globs),
            self.trace_if_any() if is_plain and not wanted.wait else None)
        while not source.is_ready and not source.over:
            self.wait_for(lambda seconds: select.select([source.fd], [], [], seconds)[0],
                          display, source.kind)
            self.events.extend(source.read(self.moment))
        if source.error is not None or source.take_over is not None:
            self.drop(source)
        if source.error is not None:
            self.refuse(display, source.error)
        return source.root.display

    def far_root(self, number, path):
        """The root that was given by the path of what is on the mount of a number, and won't lead
        elsewhere, where somebody else answers for it; None if there is none."""
        return next((root for source in self.trees for root in source.roots
                     if root.is_far and root.mount_id == number
                     and root.path == path == os.path.abspath(os.fsencode(root.display))), None)

    def wait_for(self, has_come, display, kind):
        """Wait until has_come(seconds), and say for what when it takes long."""
        while not has_come(ANSWER_SECONDS):
            self.tell_once("waiting for %s: %s does not answer"
                           % (printable(display), kind or "its file system"))

    # --- what can't be had ---

    def tell_lesser(self, reasons, name):
        """Say that a filter is used, and why no better one: [(its name, error)]."""
        if reasons and name in LESSER:
            better, error = reasons[0]
            self.tell_once("%s can't be used: %s; so it is %s%s"
                           % (better, in_words(error).reason, name, LESSER[name]))

    def tell_once(self, message):
        """Give a notice that was not given before."""
        if message not in self.told:
            self.told.add(message)
            self.notice(message)

    def refuse(self, shown, error):
        """Raise the Error that tells why a root can't be watched."""
        error = self.without_inotify(error)
        if error.errno == errno.EACCES and not os.path.isdir(shown):
            raise failure(error.errno, "watching", shown, "the directory it is in can't be read; "
                          "run as root, or watch where you may read")
        if isinstance(error, Error):
            raise error
        raise failure(error.errno, "watching", shown)

    def without_inotify(self, error):
        """An error of fanotify, which does not advise inotify where that is no choice."""
        if not self.wanted.who or self.wanted.filter != "auto":
            return error
        return Error(error.errno, in_words(error).reason, hint="choosing by process takes "
                     "fanotify: root, and a file system that has file handles")

    # --- to the best that works ---

    def candidates(self):
        """The filters to try for a root, in order."""
        if self.wanted.filter != "auto":
            return [self.wanted.filter]
        last = [] if self.wanted.who else ["inotify"]       # which does not tell who
        if self.fanotify is not None:
            name = self.fanotify.filter_name
            return [name] + (["trace"] if name != "user" else []) + last
        if self.wanted.object is not None:
            return ["fastpath"]
        # One stat spares a stock kernel the making of a group for nothing.
        names = [name for name in FILTER_NAMES[1:-1]
                 if name != "fastpath" or os.path.isdir(FASTPATH_SYSFS)]
        return names + last

    def first_that_works(self, add):
        """Try add(name) with the name of each of the candidates: (what it returned, the name, None
        if all failed; [(name, OSError)] of those before)."""
        reasons = []
        for name in self.candidates():
            try:
                return add(name), name, reasons
            except OSError as error:
                reasons.append((name, error))
        return None, None, reasons

    def add(self, name, shown, path, place=None, mount=None):
        """Watch a directory as a root, with the filter of a name: that root, or the one that it is
        already.  Of a mount in a tree, the Place and the Mount; None if it is a root, too."""
        if not self.wanted.mask & ~NOT_TOLD.get(name, 0):
            raise Error(errno.EINVAL, "watching %s: %s does not tell of %s" % (
                printable(shown), name, " or ".join(event_names(self.wanted.mask))),
                        hint="choose other events, or --filter marks")
        kind = KINDS[name]
        root = kind.root(shown, path, mount)
        root.may_wait = self.wanted.may_wait
        source = self.by_kind.get(kind.trees)
        with OnFailure(root.close):
            for other in source.roots if source is not None else ():
                if root.key == other.key:
                    root.close()                # given twice
                    return other if mount is None else None
            if source is not None:
                source.add(root, place)
            else:
                self.make(name, lambda made: made.add(root, place))
        return root

    def make(self, name, add=lambda made: None):
        """Make what watches trees with the filter of a name, and have it begin()."""
        if name == "trace" and self.why_no_trace is not None:
            raise self.why_no_trace
        kind = KINDS[name].trees
        try:
            made = kind(self.wanted, name, self.notice, self.mount_list)
        except Error as error:
            if name == "trace":
                # Another one: what this has on its way up holds descriptors.
                self.why_no_trace = Error(error.errno, error.reason, error.detail)
            raise
        self.by_kind[kind] = self.begin(made, add)
        return made

    def begin(self, source, add):
        """Have a new source add() its first root, and read from it from now on: the source.  It is
        closed where that fails."""
        with OnFailure(source.close):
            if isinstance(source, (Fanotify, FanotifyNames)):
                self.who.attach()
            add(source)
        return self.register(source)

    def trace_if_any(self):
        """What watches trees with `trace`, made if need be; None if that is not to be had, or not
        wanted."""
        if Trace not in self.by_kind and "trace" in self.candidates():
            try:
                self.make("trace")
            except Error:
                pass                        # inotify serves, too
        return self.by_kind.get(Trace)

    def add_far(self, display, path, mount_id, kind, watch, trace, mount=None,
                on_open=lambda opened: None):
        """Watch what is at a real path, given or a Mount in a tree: its ThreadSource.  A thread
        watches it, by watch(notice), a Watch; or opens it for `trace`, if that is the source for
        it, which asks nobody any more then.  on_open() has the TraceRoot."""
        begin, root = self.begin_thread, Root(display, path)
        root.is_far, root.mount_id = True, mount_id

        def make(notice):
            begin()
            return watch(notice) if trace is None \
                else trace.open(TraceRoot(display, path, mount))

        def take_over(opened):
            if any(opened.key == other.key for other in trace.roots):
                return opened.close()       # given twice
            opened.show_as(root.display)
            opened.is_far = True
            with OnFailure(opened.close):
                trace.add(opened)
            return on_open(opened)
        return self.register(ThreadSource(root, kind, make, self.notice, mount is not None,
                                          take_over if trace is not None else None))

    def settle_who(self):
        """All roots of the start are added: close what was to name those who did it, if that is
        left over from a filter that was not to be had."""
        if self.fanotify is None and not any(isinstance(each, FanotifyNames) for each in self.all):
            self.who.close()


# =============================================================================================
# 11. Mounts: what is mounted inside the trees
# =============================================================================================
# The list of mounts comes in, and how far the sources have read; roots for the sources go out, and
# UNMOUNT.  Used are Sources and the Places of section 3.
#
# A file system that is mounted inside a tree is watched like a root, by the best source for it, but
# called by where it is in the tree.  The list of mounts says which there are; the source that
# watches the directory in which one is says how that is called now.

# File systems of the kernel's own making: nothing in them is created, written or removed in
# the sense of events, and most have no marks.  And what a desktop shows one user, and no other,
# of what is elsewhere.
KERNEL_KINDS = frozenset("""
    autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs fusectl mqueue nsfs
    proc pstore rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs
    fuse.gvfsd-fuse fuse.lxcfs fuse.portal""".split())
# Those that every host has somewhere, and where nobody asks who did it.
PLAIN_KINDS = ("hugetlbfs", "ramfs")

MANY_MOUNTS = 3             # of a kind, of which it is said how many they are and not which
MOUNT_TRIES = 5             # to find the mounts while directories above them are renamed


class InnerMount:
    """A mount in a tree, as it is known.

    root    the Root by which a source watches it; None: nothing does
    display  what it was called when it was found
    place   its Place in the tree, where a source has the directory that it is in; else None
    above   what the directory is in, where none has: another InnerMount or a Root that is far, and
            what it is called follows from the paths of both
    path    bytes, as last listed
    spot    its spot_of(), which stays the same when directories above are renamed; None where
            nothing is asked
    """

    def __init__(self, mount, place, above, spot):
        self.root, self.path = None, mount.path
        self.place, self.above, self.spot = place, above, spot
        self.display = self.shown()

    @property
    def is_watched(self):
        """Whether it is, in a tree: what has left those has left its source, too."""
        return self.root is not None and self.root in self.root.source.mounted

    @property
    def is_foreign(self):
        """Whether its source does not follow what it is called, as in the tree of another."""
        return self.place is None or self.place.source is not self.root.source \
            or not self.root.source.follows_mounts

    def shown(self):
        """What to call it now; None: it has left the tree."""
        if self.root is not None and not self.is_foreign:
            return self.root.source.shown(self.root)
        if self.place is not None:
            return self.place.shown(self.root and self.root.display)
        above, rest = self.above.shown(), below(self.path, self.above.path)
        return None if above is None or rest is None else with_slash(above) + os.fsdecode(rest)

    def is_at(self, mount, far, hidden):
        """Whether a mount of the list, of the same number, is this one.  Where it is hidden, that
        is `hidden` if it has the same name, which no rename above changes."""
        if self.spot is None:
            return hidden
        spot = spot_of(mount, far)
        if spot is None:
            return hidden and os.path.basename(mount.path) == self.spot[2]
        return spot == self.spot and (self.root is None or self.root.remains(mount.path))

    def uncovered(self):
        """It is gone: what it covered is seen again."""
        if self.place is not None:
            self.place.source.uncovered(self.place.key, self.place.name)


class MountSummary:
    """What there is to say of the mounts found at one time: few lines, however many they are."""

    def __init__(self):
        self._clear()

    def _clear(self):
        self._lesser = []       # (what to call it, kind) of those watched with less than others
        self._failed = {}       # errno -> ([the same], Error) of those not watched

    def lesser(self, shown, kind):
        """One is watched with inotify, for want of better."""
        if kind not in PLAIN_KINDS:
            self._lesser.append((shown, kind))

    def failed(self, shown, kind, error):
        """One can't be watched."""
        if error.errno == errno.ENOTDIR:
            error = Error(error.errno, "what is mounted there is a file", hint="give it as a root")
        self._failed.setdefault(error.errno, ([], error))[0].append((shown, kind))

    def tell(self, notice):
        if self._lesser:
            notice("watched with inotify, which does not tell who: %s" % listed(self._lesser))
        for mounts, error in self._failed.values():
            notice("not watched: %s: %s" % (listed(mounts), worded(error)))
        self._clear()


def is_device_node(path):
    """Whether a path leads to a device now."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def listed(mounts):
    """Mounts, (what to call it, kind), in a line: each of them, or their number where a kind has
    many, as overlay has where containers run."""
    kinds = {}
    for shown, kind in mounts:
        kinds.setdefault(kind, []).append("%s (%s)" % (printable(shown), kind))
    return ", ".join("%d of kind %s" % (len(each), kind) if len(each) > MANY_MOUNTS
                     else ", ".join(each) for kind, each in kinds.items())


class NewMounts:
    """How a mount in a tree comes to be watched: watch(), and what it takes.

    known    the table of Mounts
    summary  a MountSummary, empty but while mounts are taken in
    """

    def __init__(self, sources, known):
        self.sources, self.list, self.known = sources, sources.mount_list, known
        self.notice, self.summary = sources.notice, MountSummary()

    def find(self, mount):
        """The InnerMount, not watched as yet, of a mount that is below a root's path.  Raises
        Hidden, before all else: what covers it may be watched already."""
        far = self.list.far()
        spot, above_is_far = spot_of(mount, far), is_far(os.path.dirname(mount.path), far)
        if spot is None and not above_is_far:
            raise Hidden
        inner = InnerMount(mount, *self.where(mount, above_is_far), spot=spot)
        if inner.display is None or self.sources.wanted.ignore.hides(inner.display, True):
            raise Hidden                # the table is behind; or until it is not ignored
        return inner

    def where(self, mount, above_is_far):
        """(the Place of a mount, None), or (None, what has the directory that it is in: see
        InnerMount).  Raises Hidden."""
        directory, name = os.path.split(mount.path)
        if not above_is_far:
            source, key = self.inside(directory, self.sources.all)
            if source is not None:
                return Place(source, key, name), None
        # It may be in what is in a tree and has no source, or one that can't be asked.
        tops = [inner for identity, inner in self.known.items()
                if inner is not None and identity[0] == mount.parent]
        tops += [root for source in self.sources.all for root in source.roots
                 if root.is_far and root.mount_id == mount.parent]
        for above in tops:
            if below(directory, above.path) is not None:
                return None, above
        raise Hidden                    # or the table is behind: see Source.trees_changed

    @staticmethod
    def inside(path, sources):
        """(which of some sources has the directory at a path in a tree, or None; its key there)"""
        try:
            fd = os.open(path, O_PATH_DIR)
        except OSError:
            return None, None               # a file; or a directory above it is being renamed
        with Closing(fd):
            # inotify last: only a handle tells at once that a directory is not one of its own.
            for source in sorted(sources, key=lambda each: isinstance(each, Inotify)):
                key = source.inside(fd, path)
                if key is not None:
                    return source, key
        return None, None

    def watch(self, inner, mount):
        """Have a mount watched, if it can be.  Raises Hidden, or Duplicate."""
        if mount.kind in KERNEL_KINDS:
            return                      # as everybody expects: nothing is said
        if mount.device not in self.list.near and lies_far(mount, self.list.far()):
            self.add_far(inner, mount)
        elif self.inside(mount.path, [source for source in self.sources.all if not isinstance(
                source, Inotify)])[0] is not None:      # which sees by itself
            raise Duplicate
        elif spot_of(mount, self.list.far()) != inner.spot:
            raise Hidden                # it has moved while the sources were asked
        else:
            self.add(inner, mount)

    def add(self, inner, mount):
        """Have a mount watched by the best source that can."""
        shown = inner.display

        def add(name):
            try:
                return self.sources.add(name, shown, mount.path, inner.place, mount)
            except OSError:
                if spot_of(mount, self.list.far()) is None:
                    raise Hidden            # a directory above it is being renamed
                raise
        inner.root, name, reasons = self.sources.first_that_works(add)
        lesser = name == "inotify" and reasons and self.has_better()
        if name is None:
            error = self.sources.without_inotify(reasons[0][1])
            # But for what is watched as itself; and nodes as containers have in /dev, and over
            # files in /proc.
            if error.errno != errno.ENOTDIR or not (
                    shown in self.sources.roots
                    or not self.sources.wanted.devices and is_device_node(mount.path)):
                self.summary.failed(shown, mount.kind, error)
        elif inner.root is None:
            pass                            # it is a root, too
        elif self.notice.running:
            self.notice("%s, %s mounted inside, is watched from now on%s" % (
                printable(shown), mount.kind, ", with inotify" if lesser else ""))
        elif lesser:
            self.summary.lesser(shown, mount.kind)

    def has_better(self):
        """Whether some trees are watched with more than inotify."""
        return bool({Fanotify, Trace} & self.sources.by_kind.keys())

    def add_far(self, inner, mount):
        """Watch a mount that somebody else answers for."""
        sources, trace = self.sources, self.sources.trace_if_any()
        if sources.far_root(mount.id, mount.path) is not None:
            return None                     # it is a root, too
        if trace is None and "inotify" not in sources.candidates():
            return self.notice("not watched: %s, %s mounted inside: somebody else answers for it, "
                               "and only trace or inotify is used there"
                               % (printable(inner.display), mount.kind))

        def on_open(opened):
            opened.is_covered = is_far(os.path.dirname(opened.path), self.list.far())
            inner.root = opened
        source = sources.add_far(
            inner.display, mount.path, mount.id, mount.kind,
            lambda notice: sources.thread_watch(mount=mount, notice=notice), trace, mount, on_open)
        inner.root, source.is_announced = source.root, self.notice.running
        return None


class Mounts:
    """The mounts inside the trees: which there are, as the list of mounts and the trees change.

    Comes in   calls when roots have changed (start(), look_again(), drop_outside()) and when the
               sources have been read (follow()).  The list of mounts is read here.
    Goes out   roots, to Sources.add().  UNMOUNT, into Sources.events.  Notices of what is watched
               with less than the best, or can't be.
    May block  the file system of a new mount is asked, unless somebody else answers for it: then
               its thread is.  start() waits for these threads, ANSWER_SECONDS at most.
    """

    def __init__(self, sources, inner):
        """`inner`: whether mounts inside the trees are watched; else roots alone are followed."""
        self.sources, self.list, self.inner = sources, sources.mount_list, inner
        self.known = {}         # identity, as of MountList.read() -> InnerMount, or None: it is in
        #                         no tree; as of the list followed last
        self.new = NewMounts(sources, self.known)
        self.duplicates = set()  # InnerMounts that are Duplicate, and may not be after a move
        self.foreign = []       # those that are, and are watched; what has others in it first
        self.news = False       # the list or the trees may be others than those followed last
        self.pending = None     # a list to follow when sources are as far: (their ahead(), list)
        sources.on_move, sources.on_lead = self.follow_foreign, self.follow_root

    @property
    def is_due(self):
        """Whether follow() has something to do."""
        return self.news or self.pending is not None \
            or any(source.trees_changed for source in self.sources.all)

    @property
    def first(self):
        """The sources to be read before others.  A mount in another source's tree is called as the
        directory there is: a rename there is read before what was done after it in the mount."""
        return {inner.place.source for inner in self.foreign
                if inner.place is not None and inner.place.source is not inner.root.source}

    # --- what the Watch calls ---

    def start(self):
        """Watch what is mounted in the trees of the start."""
        self.find()
        threads = [source for source in self.sources.all if isinstance(source, ThreadSource)]
        while True:
            waits = [source.due() for source in threads if source.due() is not None]
            if not waits:
                break
            select.select([source.fd for source in threads], [], [], min(waits))
            for source in threads:
                self.sources.events.extend(source.read(self.sources.moment))
        self.drop_over()
        for source in threads:
            if source.mounted and source.filter_name and self.new.has_better():
                self.new.summary.lesser(source.root.display, source.kind)
        self.new.summary.tell(self.sources.notice)

    def look_again(self, tops):
        """Watch what is mounted below some directories, bytes or None, which are in a tree now."""
        self.forget_outside(tops)
        self.find()
        self.drop_over()

    def follow(self):
        """Follow the list if there is news of it: when what was queued before has been judged, so
        that the sources are as far as the list is."""
        for source in self.sources.all:
            self.news, source.trees_changed = self.news or source.trees_changed, False
        self.news = self.list.changed() or self.news
        if self.is_due:
            if self.pending is None:
                self.pending, self.news = self.as_of_now(), False
            after, current = self.pending
            # Not until no more waits: in a busy tree more comes while that is judged.
            if not self.sources.behind(after):
                self.pending = None
                self.news = self.follow_list(current) or self.news
        if not self.is_due:
            self.drop_over()

    def drop_outside(self):
        """Let go of the mounts that are in no tree any more."""
        tops = self.sources.tops()
        for identity, inner in list(self.known.items()):
            if inner is not None and not is_below_any(inner.path, tops):
                del self.known[identity]
                if inner.is_watched:
                    inner.root.source.remove(inner.root)

    # --- what the sources call ---

    def follow_foreign(self):
        """Have the foreign mounts called as their places are called now; let go of those that left
        the tree: they are found again when they come back."""
        for inner in list(self.foreign):
            root, shown = inner.root, inner.shown()
            if shown is None:
                self.foreign.remove(inner)
                root.source.remove(root)
                self.news = True
            elif shown != root.display:
                root.source.show_as(root, shown)

    def follow_root(self, path):
        """A root is another directory, whose path this is, or none (None)."""
        if path is None:
            self.drop_outside()
        else:
            self.forget_outside([path])
            self.news = True

    # --- the list ---

    def find(self):
        """Watch what is mounted in the trees now."""
        for _ in range(MOUNT_TRIES):
            if not self.follow_list(self.list.read()):
                break

    def forget_outside(self, tops):
        """Have the mounts below some directories looked at, that were not watched until now."""
        for identity, inner in list(self.known.items()):
            if (inner is None or inner.root is None) and is_below_any(identity[2], tops):
                del self.known[identity]

    def as_of_now(self):
        """(Sources.ahead(), list), as they are at one moment: no directory was moved between, so
        that its move and the unmounting of what is in it are in both or in neither.  (Where they
        are moved all the time, after some tries, one follows the other.)"""
        after = self.sources.ahead()
        for _ in range(MOUNT_TRIES):
            before, current = after, self.list.read()
            after = self.sources.ahead()
            if not any(source.renamed_since(end) for source, end in before.items()):
                return after, current
        return before, current

    def follow_list(self, current):
        """Watch the file systems mounted inside the trees, as a list of them has it; let go of
        those that are gone.  Returns whether the list is out of date."""
        self.let_go(current)
        hidden = self.take_in(current) if self.inner else set()
        self.foreign = [inner for inner in self.known.values()
                        if inner is not None and inner.root is not None and inner.is_foreign]
        self.foreign.sort(key=lambda inner: len(inner.root.display))
        self.follow_foreign()
        for source in list(self.sources.all):
            self.sources.events += source.look_at_roots(self.sources.moment)
        for source in self.sources.all:
            source.has_bind_mounts = bool(self.duplicates) \
                or any(map(source.is_shared, source.mounted))
        # Covered; or else a directory above has been renamed.
        return bool(hidden) and not hidden <= self.list.read().keys()

    # --- those that go ---

    def let_go(self, current):
        """Know no more of the mounts that are gone, and the new paths of those that are not."""
        before = dict(self.known)
        self.known.clear()
        by_id = {mount.id: mount for mount in current.values()}
        far = self.list.far()
        # What one is called may depend on another, so none goes before all are asked.
        shown = {inner: inner.shown() for inner in before.values() if inner is not None}
        gone = []
        for identity, inner in before.items():
            if inner is None:
                if identity in current:
                    self.known[identity] = None
                continue
            if inner.root is not None and not inner.is_foreign:     # else see follow_foreign()
                inner.root.display = shown[inner] or inner.root.display
            mount = by_id.get(identity[0])
            # Of another device it may be what got the number; or it was found by a list in which
            # the one before it still had that.
            if mount is None or not inner.is_at(mount, far, hidden=mount.device == identity[1]):
                gone += [(inner.root, shown[inner])] * inner.is_watched
                inner.uncovered()
            elif inner.is_watched or inner.root is None and shown[inner] is not None:
                self.keep(inner, mount, far)
        gone += self.roots_gone(by_id)
        for root, name in gone[::-1]:       # what was mounted last goes first
            self.sources.events += root.source.unmounted(root, name, self.sources.moment)

    def keep(self, inner, mount, far):
        """A mount in a tree is still there, maybe at another path: know it by that."""
        inner.path, root = mount.path, inner.root
        if root is not None:
            root.path, root.is_covered = mount.path, is_far(mount.path, far)
            if root.source.is_shared(root) and not root.source.is_needed(root):
                return root.source.release(root)
        self.known[mount.id, mount.device, mount.path] = inner
        return None

    def roots_gone(self, by_id):
        """The roots whose mounts are gone: [(root, what to call it)].

        A root may be on a mount that is in no list: in a chroot, in another namespace, or unmounted
        before.  Only what was in one can be unmounted.
        """
        gone = []
        for source in self.sources.all:
            for root in source.roots:
                if root.mount_id in by_id:
                    root.is_listed = True
                elif root.is_listed:
                    gone.append((root, source.shown(root)))
        return gone

    def drop_over(self):
        """Let go of the sources that have come to their end, and say why, if that is news.  Not
        before the list is followed: that a mount is gone is reported first."""
        for source in self.sources.drop_over():
            for inner in self.known.values():
                if inner is not None and inner.root is not None and inner.root.source is source:
                    inner.root = None
            self.foreign = [inner for inner in self.foreign if inner.root is not None]
            self.say_why(source)

    def say_why(self, source):
        """Say why a ThreadSource has come to its end, unless that is nobody's loss: its root was
        given up, or has come and gone."""
        root, error = source.root, source.error
        is_given_up = root not in source.roots + source.mounted
        if error is None or error.errno == errno.ENOENT or is_given_up:
            return
        if not source.is_inner or any(mount.id == root.mount_id for mount in self.list.current()):
            self.sources.notice("not watched: %s, %s%s: %s" % (
                printable(root.display), source.kind,
                " mounted inside" if source.is_inner else "", worded(error)))

    # --- those that come ---

    def take_in(self, current):
        """Watch the mounts in the trees that are not watched yet; the identities of those that
        are hidden."""
        hidden, again, self.duplicates = set(), self.duplicates, set()
        far = self.list.far()                   # by now: the list may have waited
        tops = [(top_of(root, far), root.mount_id) for source in self.sources.trees
                for root in source.roots]
        for identity, mount in current.items():
            if identity in self.known and self.known[identity] not in again:
                continue
            if not any(path is not None and mount.id != mount_id
                       and below(mount.path, path) is not None for path, mount_id in tops):
                self.known[identity] = None
                continue
            try:
                inner = self.new.find(mount)
                try:
                    self.new.watch(inner, mount)
                except Duplicate:               # until what it shows leaves the tree
                    self.duplicates.add(inner)
                self.known[identity] = inner
            except Hidden as reason:            # until the list of mounts changes again
                self.news = self.news or isinstance(reason, Behind)
                hidden.add(identity)
                if identity in self.known:
                    self.duplicates.add(self.known[identity])
        if self.sources.notice.running:
            self.new.summary.tell(self.sources.notice)
        return hidden


# =============================================================================================
# 12. Watch: the public interface
# =============================================================================================
# Arguments come in; events go out, from read() and the iterations.  Used are Sources and Mounts,
# which find what is watched by what.
#
#     Wait       what there is to wait for, and who may end the waiting
#     Selection  which events are told: by path, by who did it
#     Turn       one thread at a time
#     Notices    what is said, when nothing is half done
#     Watch      what a program uses

COMM_LENGTH = 15    # bytes of a process's name that the kernel keeps
BURST = 16          # events within `latency` seconds before reading waits for more to gather
LONGEST_WAIT = 86400.0  # seconds; epoll_wait() takes less than a month

STATISTICS = ("events read", "reported", "dropped in user space", "ignore marks set", "flushes",
              "reads")


def tell(message, start="fanfp: "):
    """What a Watch says of itself when nothing else was asked: a line on standard error.

    Where that can't be written, watching goes on.
    """
    try:
        if sys.stderr is not None:      # None: it was closed when Python started
            sys.stderr.write("%s%s\n" % (start, message))
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


class Alarm:
    """Makes an epoll readable after some time.  timerfd_create(2).

    For those who wait for fileno() with a select() of their own, and know nothing of what is due.
    """

    SETTING = struct.Struct("@4l")      # struct itimerspec: interval and first, sec and nsec
    SETTING64 = struct.Struct("=4q")    # the kernel's own, whatever C libraries make of it

    def __init__(self):
        self.fd = call("timerfd_create", time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise failure(ctypes.get_errno(), "making a timer")

    def set(self, seconds):
        """Ring once after some seconds; 0: at once."""
        setting = (0, 0) + divmod(max(1, int(seconds * 1e9)), 10 ** 9)
        # Programs of 32 bits may have times of 64.  Their kernels have a call that takes no other;
        # before Linux 5.1 they have none, and no C library has such times in this function.
        if sys.maxsize > 1 << 32 or system_call(
                "timerfd_settime64", self.fd, 0, self.SETTING64.pack(*setting), None) < 0:
            call("timerfd_settime", self.fd, 0, self.SETTING.pack(*setting), None)

    def stop(self):
        """It has rung, and rings no more."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass


class Wait:
    """What a Watch waits with.

    epoll    of all there is to wait for: sources, the list of mounts, and what is below
    alarm    an Alarm, for what is due though nothing comes
    pipe     (read end, write end) to wake who waits; None once it is closed
    lock     held while it is written to the pipe, or that is closed
    wakers   epoll of what makes a read() return when it is ready: the pipe, and others'
    woken    whether any was when that was looked at last
    window   (when the first event of a burst was read, how many since): see gather()
    """

    def __init__(self, latency):
        self.latency, self.window = latency, (0.0, 0)
        self.lock, self.woken = RLock(), False
        self.epoll = self.wakers = self.alarm = self.pipe = None
        with OnFailure(self.close):
            self.epoll, self.wakers = select.epoll(), select.epoll()
            self.epoll.register(self.wakers, select.EPOLLIN)
            self.pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self.wake_on(self.pipe[0], select.EPOLLIN)
            self.alarm = Alarm()
            self.epoll.register(self.alarm.fd, select.EPOLLIN)

    def wait(self, seconds):
        """Wait for so long (None: for ever): (the descriptors that are ready, whether it is time
        for what is due)."""
        ready = [fd for fd, _ in self.epoll.poll(-1 if seconds is None else seconds)]
        self.woken = False
        if self.wakers.fileno() in ready:
            self._doze(0)
        if self.alarm.fd in ready:
            self.alarm.stop()
        return ready, not ready or self.alarm.fd in ready

    def _doze(self, seconds):
        """Wait for so long for nothing but being woken."""
        ready = [fd for fd, _ in self.wakers.poll(seconds)]
        self.woken = bool(ready)
        if self.pipe[0] in ready:
            os.read(self.pipe[0], 4096)

    def gather(self, deadline):
        """Under load, wait until `latency` has passed since the first event was read: the
        events that wait are merged, and one read carries many.  The first goes out at once.
        No longer than until a deadline, if there is one.
        """
        begun, count = self.window
        now = time.monotonic()
        if count >= BURST and now - begun < self.latency:
            until = begun + min(self.latency, LONGEST_WAIT)
            self._doze(max(0, (until if deadline is None else min(until, deadline)) - now))
            now = time.monotonic()
        if now - begun >= self.latency:
            self.window = (now, 0)

    def count(self, events):
        """So many were read.  What is dropped counts too: gathering it costs nobody time, and not
        gathering made the outside events that no mark holds back (ATTRIB) several times dearer."""
        self.window = self.window[0], self.window[1] + events

    def wake(self):
        """Make wait() return, or the next one: in any thread or signal handler."""
        with self.lock:
            try:
                if self.pipe is not None:
                    os.write(self.pipe[1], b"w")
            except BlockingIOError:
                pass                        # it is awake

    def wake_on(self, fd, events):
        self.wakers.register(fd, events)

    def close(self, forked=False):
        if forked:
            self.lock = RLock()             # a thread that is not here may have the other
        for epoll in (self.epoll, self.wakers):
            if epoll is not None:
                epoll.close()
        with self.lock:
            pipe, self.pipe = self.pipe, None
            for fd in pipe or ():
                os.close(fd)
        if self.alarm is not None:
            os.close(self.alarm.fd)
            self.alarm = None


class Selection:
    """Which events a Watch reports, of those in its trees: by their paths, and by who did it.

    include, exclude  the searches of those
    ignore   the Ignore
    doers    functions of an event, of which each must say yes
    in_full  whether the process is read in full with each event
    count    of the events reported
    """

    def __init__(self, include, exclude, ignore, doers, in_full):
        self.include, self.exclude, self.ignore = include, exclude, ignore
        self.doers, self.in_full, self.count = doers, in_full, 0

    def of(self, events):
        """Those of some events that were asked for: a list."""
        if self.include or self.exclude or self.ignore.rules:
            events = list(filter(None, map(self.by_path, events)))
        for is_chosen in self.doers:
            events = [event for event in events
                      if event.mask & (ALWAYS | OF_NO_NAME) or is_chosen(event)]
        for event in events if self.in_full else ():
            read_doer(event)
        self.count += len(events)
        return events

    def by_path(self, event):
        """What include, exclude and ignore leave of an event, None for nothing.

        They are a border, as that of the tree is: of a RENAME across it one half is left,
        whether the halves were asked for or not.
        """
        path, old_path = event.path, event.old_path
        now = path is None or event.mask & OF_NO_NAME or self.has(path, event.is_dir)
        was = now if old_path is None else self.has(old_path, event.is_dir)
        if was and now:
            return event
        if not was and not now:
            return None
        mask = event.mask & ~RENAME | (MOVED_TO if now else MOVED_FROM)
        return event._replace(path=path if now else old_path, old_path=None, mask=mask)

    def has(self, path, is_dir):
        """Whether include, exclude and ignore let a path through."""
        return (not self.include or any(search(path) for search in self.include)) \
            and not any(search(path) for search in self.exclude) \
            and not self.ignore.hides(path, is_dir)


def read_doer(event):
    """Have the process of an event read now, while it is there."""
    return event.process


class Turn:
    """What one has at a time: another thread waits for it.

    Who interrupts the one who has it, a signal handler, does not get it: what that one is doing is
    half done.
    """

    def __init__(self, refusal):
        self._lock, self._taken, self._refusal = RLock(), False, refusal

    def take(self, patient=True):
        """Take it, after waiting if `patient`; whether that went well."""
        if not self._lock.acquire(patient):
            return False
        if self._taken:
            self._lock.release()
            return False
        self._taken = True
        return True

    def leave(self):
        self._taken = False
        self._lock.release()

    def __enter__(self):
        if not self.take():
            raise Error(errno.EBUSY, self._refusal)

    def __exit__(self, *_):
        self.leave()


class Notices:
    """Calls a Watch's `notice`: when the Watch is `running`, not before its tables are in order, as
    the function may call the Watch."""

    def __init__(self, notice):
        self.notice, self.waiting, self.running = notice, collections.deque(), False

    def __call__(self, message):
        if self.running:
            self.waiting.append(message)
        else:
            self.notice(message)

    def tell(self):
        """Tell what has waited."""
        while self.waiting:
            self.notice(self.waiting.popleft())


class Watch:
    """Watch directory trees (or single files): iterate over it for Events.

        with fanfp.Watch("/srv/data", events=("CREATE", "DELETE")) as watch:
            for event in watch:
                print(event.path, event.events)

    roots    str or bytes or os.PathLike, directories or files, at least one.  Paths are shown
             as the root was given + the rest.  A file is watched by whatever name it is used; it
             is followed by its own, and ends (DELETE_SELF) with the directory that has that
    events   names (see EVENTS; also "ALL", "CLOSE", "MOVE"), any case
    filter   "auto", or by name: "fastpath", "marks", "user" (fanotify), "trace" (BPF alone),
             "inotify"
    object   a BPF object for the "fastpath" filter, instead of the one beside this file
    include  regular expression, str or bytes (see searches()) or compiled, or a list of these:
             only paths in which one is found
    exclude  the same: no paths in which one is found.  Of a RENAME from or to such a path the
             other half is reported, MOVED_TO or MOVED_FROM
    ignore   glob of gitignore(5), str or bytes, or a list of these, of which the last that matches
             counts: no paths below the root that it matches, nor what is in such a directory,
             whose other names are a border as for `exclude`.  "/x": in the root itself; "x/": only
             directories; "!x": not that, after all
    comm     name of a process, str, or several: only what it did; "!NAME": not what it did.
             At most 15 bytes count, as in the kernel
    pid      process id, int (or str, for "!PID"), or several
    user     name of a user in /etc/passwd, or its number, int or str, or several; also "!NAME".
             Of the real user.  What is chosen by two or three of them has to match each;
             an event of which it is not known who did it matches only the ones with "!"
    process  bool, whether who did it is read in full with each event.  Without it event.process
             is read when it is asked for: of what has ended by then, comm, uid, gid, cgroup alone
    latency  float, seconds to let events gather, and be merged, under load
    recursive  bool, whether what is below is watched too; else only the directories given, and
             their entries
    mounts   bool, whether file systems mounted inside the trees are watched too
    devices  bool, whether the opening, reading and writing of character and block devices is
             reported.  Without it only their making, renaming and removal is, and ATTRIB
    own      bool, whether events of this very process are reported: all but that it opens and
             reads directories, as fanfp does too.  inotify does not say who did it, and reports all
    dereference  bool, whether a root that is a symbolic link is what the link leads to, also
             when it leads elsewhere later; else it is the link itself
    wait     bool, whether a root that is not there is waited for, and one that goes for its coming
             again.  `notice` is called for both
    ring     int, bytes of the buffer in which the events of "trace" wait to be read
    notice   function(str), told what was lost or can't be watched; default: standard error

    Once it is made no event is missed.  Iteration ends when stop() or close() was called or when no
    root is left: all have been removed or unmounted.  Leaving a `for` loses nothing: what it has
    not come to is what the next one, or read(), begins with.

    Errors: Error, an OSError; TypeError or ValueError for an argument that can't be right.

    Threads: one reads at a time (read(), `for`, `async for`), another gets an Error; all else may
    be called from any thread meanwhile, also from `notice`.  A signal handler may call stop(),
    wake() and close().  In a child after fork() a Watch is closed; that of the parent goes on.
    """

    _may_wait = False                       # see Wanted
    _closed = True                          # until it has been started
    _process = 0

    def __init__(self, *roots, events=DEFAULT_EVENTS, filter="auto", object=None, include=None,
                 exclude=None, ignore=None, comm=(), pid=(), user=(), process=False, latency=0.005,
                 recursive=True, mounts=True, devices=False, own=True, dereference=True,
                 wait=False, ring=None, notice=tell):
        if not sys.platform.startswith("linux"):
            raise Error(errno.ENOSYS, "watching: this is %s, and fanotify and inotify are "
                        "Linux's" % sys.platform)
        if filter not in FILTER_NAMES:
            raise Error(errno.EINVAL, "choosing a filter: there is no filter %s; there are %s"
                        % (printable(str(filter)), " ".join(FILTER_NAMES)))
        if not roots:
            raise Error(errno.EINVAL, "watching: no root given; name a directory")
        roots = [name_of_root(root) for root in roots]
        if object is not None:
            object = path_name("object", object)
        if not callable(notice):
            raise TypeError("notice: a function(str) is wanted, not %r" % (notice,))
        latency = duration("latency", latency)
        ignore, doers = Ignore(globs_of(ignore)), choose_doers(comm, pid, user)
        self._wanted = Wanted(
            event_mask(events), filter, object, own, devices, recursive, dereference, wait,
            None if ring is None else ring_size(ring), ignore, bool(doers), self._may_wait)
        self._selection = Selection(searches(include, "include"), searches(exclude, "exclude"),
                                    ignore, doers, process)
        self._notice = Notices(notice)
        if doers and filter == "inotify":
            raise Error(errno.EINVAL, "choosing by process: inotify does not tell who did it; "
                                      "leave --filter inotify out")
        self._reading = Turn("reading events: a read() is under way already")
        self._tables = Turn("from a signal handler, while the watch is at work: only stop(), "
                            "wake() and close() may be called there")
        self._rest = collections.deque()    # events read, that the caller has not come to
        self._stopped = False
        self._emptied = False               # the last root was given up by remove()
        self._waiter = None                 # what ends the waiting of an `async for`: a function
        self._wait = self._sources = self._mounts = None
        self._process, self._closed = os.getpid(), False
        open_watches.add(self)
        try:
            self._start(roots, mounts and recursive, latency)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError) and not isinstance(error, Error):
                raise failure(error.errno, "starting to watch")
            raise

    # --- starting ---

    def _start(self, roots, inner_mounts, latency):
        self._wait, wanted = Wait(latency), self._wanted
        options = {"events": event_names(wanted.mask), "latency": latency, "own": wanted.own,
                   "recursive": wanted.recursive, "devices": wanted.devices,
                   "dereference": wanted.dereference}
        self._sources = Sources(
            wanted, self._notice, self._wait.epoll,
            lambda *roots, **more: ThreadWatch(*roots, **dict(options, **more)),
            self._begin_thread)
        self._mounts = Mounts(self._sources, inner_mounts)
        for root in roots:
            self._add_root(root)
        self._sources.settle_who()
        self._mounts.start()
        self._notice.running = True

    def _add_root(self, display):
        """Watch a root; the name it has."""
        return self._sources.add_root(display)

    @staticmethod
    def _begin_thread():
        """What a thread beside the reading does first: see ProgramWatch."""

    # --- reading ---

    def read(self, timeout=None):
        """A list of events; [] after `timeout` seconds (None: for ever), at the end, or when woken
        by wake() or a descriptor of wake_on().

        With a timeout of 0 it never waits: for use when select or asyncio says that fileno()
        is readable.
        """
        self._check("reading events")
        deadline = None
        if timeout is not None:
            deadline = time.monotonic() + duration("timeout", timeout, float("inf"))
        if not self._reading.take(patient=False):
            raise Error(errno.EBUSY, "reading events: a read() is under way already")
        try:
            return self._read(deadline, timeout)
        except OSError as error:
            raise in_words(error)
        finally:
            self._reading.leave()
            self._settle()

    def _read(self, deadline, timeout):
        while not (self._rest or self.ended):
            self._collect(deadline, timeout)
            self._notice.tell()
            if self._rest or self._wait.woken or self._closed:
                break
            if deadline is not None and time.monotonic() >= deadline:
                break
        if self._closed:
            return []
        if self.ended:
            self._rest.extend(self._sources.events)
            self._sources.events.clear()
        events = list(self._rest)
        self._rest.clear()
        if timeout is not None and not self.ended:
            self._set_alarm()
        return events

    def _set_alarm(self):
        """Have fileno() be readable when there is more to do, though nothing comes."""
        if self._closed:
            return
        due = [seconds for seconds, _ in self._sources.due()]
        if self._rest or self._mounts.is_due or self._sources.backlog():
            self._wait.alarm.set(0)
        elif due:
            self._wait.alarm.set(min(due))

    def _collect(self, deadline, timeout):
        """Wait for the sources, then keep what those have that have something."""
        with self._tables:
            backlog = self._sources.backlog()
            due = [] if backlog else self._sources.due()
            waits = [seconds for seconds, _ in due]
            if backlog or self._mounts.is_due:
                waits.append(0)
        if deadline is not None:
            waits.append(min(LONGEST_WAIT, max(0.0, deadline - time.monotonic())))
        # While it waits, other threads may add and remove roots.
        ready, is_time = self._wait.wait(min(waits) if waits else None)
        if is_time:
            ready += [fd for _, fd in due]
        if timeout != 0 and ready and not (backlog or self._wait.woken):
            self._wait.gather(deadline)
        with self._tables:
            read_before = self._sources.events_read
            self._keep(self._sources.read(ready + backlog, self._mounts.first))
            self._wait.count(self._sources.events_read - read_before)
            self._mounts.follow()
            self._keep([])

    def _keep(self, events):
        """Have those of the events, and of those made here, that are asked for told."""
        events = events + list(self._sources.events)
        self._sources.events.clear()
        self._rest.extend(self._selection.of(events))

    def _read_queued(self):
        """Keep for the next read() what has happened until now: it is of the roots as they are."""
        ahead = self._sources.ahead()
        behind = self._sources.behind(ahead)
        while behind:
            self._keep(self._sources.read(behind, self._mounts.first))
            behind = self._sources.behind(ahead)

    @property
    def ended(self):
        """Whether stop() or close() was called, or no root is left (but that were given up by
        remove()): read() gives no more."""
        return self._stopped or self._closed or not (
            self._emptied or any(source.roots for source in self._sources.all))

    def __iter__(self):
        self._check("iterating over events")
        return self._each()

    def _each(self):
        try:
            while self._rest or self._more():
                while self._rest:
                    yield self._rest.popleft()
        finally:
            self._set_alarm()           # the rest is for whoever waits for fileno()

    def _more(self, timeout=None):
        """Read on, for an iteration; whether that goes on."""
        try:
            self._rest.extend(self.read(timeout))
        except Error:
            if not self._closed or self._process != os.getpid():
                raise
        return bool(self._rest) or not self.ended

    def __aiter__(self):
        self._check("iterating over events")
        return self

    async def __anext__(self):
        if self._waiter is not None:
            raise Error(errno.EBUSY, "iterating over events: another `async for` waits for them")
        while not self._rest:
            if not self._more(0):
                raise StopAsyncIteration
            if self._rest:
                self._set_alarm()       # this loop may be left, and another wait for fileno()
            else:
                await self._readable()
        return self._rest.popleft()

    async def _readable(self):
        """Wait until there is something to read, or close() is called."""
        import asyncio
        loop = getattr(asyncio, "get_running_loop", asyncio.get_event_loop)()
        ready = loop.create_future()

        def wake():
            if not ready.done():
                ready.set_result(None)
        self._waiter = lambda: loop.call_soon_threadsafe(wake)
        fd = None
        try:
            # Of its own: close() may come from another thread, and the number be another's then.
            fd = os.dup(self.fileno())
            loop.add_reader(fd, wake)
            await ready
        except Error:
            if not self._closed:
                raise
        finally:
            self._waiter = None
            if fd is not None:
                loop.remove_reader(fd)
                os.close(fd)

    # --- roots that come and go ---

    def add(self, root):
        """Watch another root from now on; returns the name that it has in `roots` and Event.root.

        One that is watched already is not watched twice, whatever it is called.
        """
        root = name_of_root(root)
        doing = "watching %s" % printable(root)
        self._check(doing)
        os.path.exists(root)                # where that takes long, nobody waits but us
        try:
            with self._tables:
                self._check(doing)
                self._read_queued()
                name = self._add_root(root)
                self._emptied = False
                self._look_again(self._sources.tops(name))
        finally:
            self._settle()
        return name

    def remove(self, root):
        """Watch a root no longer, and what is mounted in it.  What has happened in it before is
        still told."""
        name = shown_name(name_of_root(root))
        doing = "giving up %s" % (printable(name) or '""')
        self._check(doing)
        try:
            with self._tables:
                self._check(doing)
                if name not in self.roots:
                    raise Error(errno.ENOENT, "%s: it is not watched; %s" % (doing, (
                        "these are: " + " ".join(map(printable, self.roots)))
                        if self.roots else "nothing is"))
                self._read_queued()
                tops = self._sources.tops(name)
                self._emptied = set(self.roots) == {name}
                self._sources.remove_root(name)
                self._mounts.drop_outside()
                self._look_again(tops)
        finally:
            self._settle()

    def _look_again(self, tops):
        """Follow what is mounted below some directories, of roots that are others now; then have a
        read() that waits look at what there is."""
        self._mounts.look_again(tops)
        self._wait.alarm.set(0)

    # --- the rest ---

    @property
    def filter(self):
        """The name of the filter in use; two joined by "+" if some root needed inotify."""
        return "+".join(self._sources.filter_names())

    @property
    def roots(self):
        """The roots still watched, as they were given: a tuple of str."""
        return self._sources.roots

    def fileno(self):
        """A descriptor that select, poll and asyncio can wait on; then call read(0)."""
        self._check("asking for the descriptor to wait on")
        return self._wait.epoll.fileno()

    def stats(self):
        """Counters since the start: a dict of str to int."""
        total = collections.Counter({name: 0 for name in STATISTICS})
        total["reported"] = self._selection.count
        total.update(self._sources.counters())
        return dict(total)

    def stop(self):
        """End the iteration, from any thread or signal handler.  Safe to call at any time."""
        self._stopped = True
        self.wake()

    def wake(self):
        """Make the read() that waits, or the next, return what it has, maybe nothing.  From any
        thread or signal handler."""
        if self._wait is not None and self._process == os.getpid():
            self._wait.wake()

    def wake_on(self, fd, events=select.EPOLLIN):
        """Have read() return, as by wake(), whenever a descriptor is ready: that given to
        signal.set_wakeup_fd(), say.  Whoever registers it reads it, and closes it later than this.

        `events` is as for select.epoll.register(); 0 stands for EPOLLERR and EPOLLHUP alone: the
        reader of a pipe has gone.  Raises OSError where it can't be waited for: a regular file.
        """
        self._check("waiting for a descriptor")
        self._wait.wake_on(fd, events)

    @property
    def pending(self):
        """Whether something has happened that read() has still to report, or to look at."""
        return bool(self._rest) or self._mounts.is_due or self._sources.pending

    def _check(self, doing):
        """Raise Error unless it is open, and of this process."""
        if self._process != os.getpid():
            self._forked()
        if self._closed:
            raise Error(errno.EBADF, "%s: the watch %s" % (
                doing, "is closed" if self._process == os.getpid() else
                "is that of the process that this one was forked from; make another"))

    def close(self):
        """Let go of everything.  No descriptor is left.

        A read() that waits in another thread returns []; iteration ends, there too.  In a signal
        handler that interrupted this thread's read(), that closes it when it returns.
        """
        if self._closed:
            return
        if self._process != os.getpid():
            return self._forked()
        self._closed = True
        self._rest = collections.deque()
        self.wake()
        waiter = self._waiter
        if waiter is not None:
            try:
                waiter()
            except RuntimeError:
                pass                        # its loop has ended
        if self._reading.take():
            self._reading.leave()
        self._settle()

    def _settle(self):
        """What is to be done after each call: give the notices that wait; let go of everything,
        if close() came meanwhile."""
        self._notice.tell()
        if self._closed and self._reading.take(patient=False):
            try:
                if self._tables.take():
                    try:
                        self._release()
                    finally:
                        self._tables.leave()
            finally:
                self._reading.leave()

    def _release(self, forked=False):
        if self._sources is not None:
            self._sources.close(forked)
        if self._wait is not None:
            self._wait.close(forked)

    def _forked(self):
        """In a child: close what it has got by the fork, and nothing more.  The group, the epoll
        and the rest are one with the parent's."""
        if not self._closed:
            self._closed = True
            self._release(forked=True)

    def __del__(self):
        try:
            if not self._closed and self._process == os.getpid():
                # Not of the module warnings: when Python ends, nothing can be imported.
                warn("a Watch of %s was not closed" % " ".join(map(printable, self.roots)),
                     ResourceWarning, 2, self)
        finally:
            self.close()    # also where warnings are errors

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class ThreadWatch(Watch):
    """A Watch for a ThreadSource, whose thread may wait: of a given root, or of a mount in a tree,
    which it shows as "/" and does not hold."""

    _may_wait = True

    def __init__(self, *roots, mount=None, **options):
        self._mount = mount
        super().__init__(*(roots or ("/",)), filter="inotify", mounts=False, **options)

    def _add_root(self, display):
        if self._mount is None:
            return super()._add_root(display)
        return self._sources.add("inotify", display, self._mount.path, mount=self._mount).display

    @property
    def ended(self):
        return self._stopped or self._closed or not any(source.roots or source.mounted
                                                        for source in self._sources.all)


# --- forks ---

open_watches = WeakSet()


def close_in_child():
    """After a fork: the child's descriptors would keep the parent's group and mounts alive."""
    for watch in list(open_watches):
        watch._forked()


if hasattr(os, "register_at_fork"):         # Python 3.7; before, whatever is called notices it
    os.register_at_fork(after_in_child=close_in_child)


# --- the arguments of a Watch ---

def duration(name, value, most=1e9):
    """A number of seconds that was given as an argument, as float."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        value = float(value)
    except TypeError:
        raise TypeError("%s: a number of seconds is wanted, not %r" % (name, value))
    if not 0 <= value <= most:
        raise ValueError("%s: a number of seconds from 0 on is wanted, not %r" % (name, value))
    return value


def ring_size(value):
    """The size of a ring buffer, as the kernel takes it: a power of two, at least as large."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError("ring: a number of bytes (int) is wanted, not %r" % (value,))
    if not 0 < value <= 1 << 30:
        raise ValueError("ring: a number of bytes up to 1 GiB is wanted, not %r" % (value,))
    return max(1 << (value - 1).bit_length(), os.sysconf("SC_PAGE_SIZE"))


def path_name(name, path):
    """A path that was given as an argument, as str."""
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise TypeError("%s: a path (str, bytes or os.PathLike) is wanted, not %r" % (name, path))
    if "\0" in text:
        raise ValueError("%s: a path can't have a NUL: %r" % (name, path))
    return text


def name_of_root(root):
    """A root that was given as an argument, as str."""
    return path_name("watching", root)


def globs_of(ignore):
    """The globs that were given as an argument, as a list of str."""
    if isinstance(ignore, (str, bytes)):
        ignore = [ignore]
    try:
        globs = list(ignore or ())
    except TypeError:
        raise TypeError("ignore: a glob (str) or a list of them is wanted, not %r" % (ignore,))
    return [path_name("ignore", each) for each in globs]


def choose_doers(comm, pid, user):
    """What to ask of each event for a Watch's `comm`, `pid` and `user`: functions, the cheapest
    first, of which each must say yes."""
    choices = (("pid", pid, read_pid, lambda event: event.pid),
               ("user", user, read_user, lambda event: event.uid),
               ("comm", comm, read_comm, lambda event: event.comm))
    return [doer_test(name, given, read, ask) for name, given, read, ask in choices
            if given not in (None, (), [])]


def doer_test(name, given, read, ask):
    """One function from an event to whether what `ask` says of it is among those given."""
    given = tuple(given) if isinstance(given, (tuple, list, set, frozenset)) else (given,)
    if not all(isinstance(each, (str, int)) for each in given):
        raise TypeError("%s: not a str or int, or a list of them: %r" % (name, given))
    wanted, unwanted = set(), set()
    for text in map(str, given):
        if text.startswith("!"):
            unwanted.add(read(text[1:]))
        else:
            wanted.add(read(text))

    def is_chosen(event):
        who = ask(event)
        return who not in unwanted and (not wanted or who in wanted)
    return is_chosen


MOST_PIDS, NO_USER = 1 << 22, (1 << 32) - 1     # proc(5), pid_max; chown(2)


def read_pid(text):
    """The process id of a text."""
    if not is_number(text) or not 0 < int(text) <= MOST_PIDS:
        raise Error(errno.EINVAL, "choosing by pid: %s is no process id; give a number from 1 to "
                                  "%d, or ! and one" % (printable(text) or '""', MOST_PIDS))
    return int(text)


def read_user(text):
    """The user id of a name in /etc/passwd or a number."""
    if is_number(text) and int(text) < NO_USER:
        return int(text)
    try:
        return users()[0][text]
    except KeyError:
        raise Error(errno.EINVAL, "choosing by user: there is no user %s in /etc/passwd; give "
                                  "the number" % (printable(text) or '""'))


def read_comm(text):
    """A process's name as the kernel keeps it, cut to 15 bytes.  proc(5), /proc/PID/comm."""
    if not text:
        raise Error(errno.EINVAL, 'choosing by command: "" is no name; give one as ps -o comm '
                                  "shows it")
    return os.fsdecode(os.fsencode(text)[:COMM_LENGTH])


def is_number(text):
    """Whether a text is a whole number, in ASCII digits."""
    return not text.strip("0123456789") and text != ""


# POSIX's classes of characters, to be put into a set.  As in the C locale, and in inotifywait.
POSIX_CLASSES = {
    "alnum": "0-9A-Za-z", "alpha": "A-Za-z", "blank": r" \t", "cntrl": r"\x00-\x1f\x7f",
    "digit": "0-9", "graph": "!-~", "lower": "a-z", "print": " -~", "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v", "upper": "A-Z", "xdigit": "0-9A-Fa-f"}
WORD_ENDS = {r"\<": r"\b(?=\w)", r"\>": r"\b(?<=\w)"}      # GNU's


def searches(patterns, name):
    """The searches for regular expressions, functions of a path (str): a list, [] for None.

    `patterns`: a str or bytes (which looks at the bytes of the path), a compiled one, or an
    iterable of these.  They are Python's; of POSIX's and GNU's, [[:digit:]] and \\< \\> are
    known too, and a dot is any character.  A compiled one is used as it is.  `name`: for errors.
    """
    if patterns is None:
        return []
    if isinstance(patterns, (str, bytes)) or hasattr(patterns, "search"):
        patterns = [patterns]
    try:
        return [search_for(each, name) for each in patterns]
    except TypeError:
        raise TypeError("%s: not a regular expression (str, bytes or compiled) or a list of them: "
                        "%r" % (name, patterns))


def search_for(pattern, name):
    """The search for one regular expression: a function of a path (str)."""
    if not hasattr(pattern, "search"):
        pattern = compiled(pattern, name)
    if isinstance(pattern.pattern, bytes):
        return lambda path: pattern.search(os.fsencode(path))
    return pattern.search


def compiled(pattern, name, caseless=False):
    """A regular expression, str or bytes, compiled."""
    re = module("re", "reading " + name)
    try:
        if isinstance(pattern, bytes):
            text = from_posix(pattern.decode("latin-1")).encode("latin-1")
        else:
            text = from_posix(pattern)
        return re.compile(text, re.DOTALL | (re.IGNORECASE if caseless else 0))
    except (re.error, ValueError, OverflowError, RecursionError) as reason:
        given, hint = os.fsdecode(pattern), ""
        if given[:1] in ("*", "?") and "{" not in given and glob_regex(given):
            hint = "; is that a glob? as a regular expression: (^|/)%s$" % glob_regex(given)
        text = "reading %s %s: not a regular expression: %s%s" % (name, given, reason, hint)
        # A backslash alone is right here, and an escape says the same in a regular expression.
        raise Error(errno.EINVAL, printable(text).replace("\\\\", "\\"))


def from_posix(pattern):
    """A regular expression with what is POSIX's or GNU's written as Python has it; ValueError
    for what can't be."""
    import re

    def in_set(match):
        kind, word = match.groups()
        if kind is None:
            # Escaped already; or Python would warn of sets in sets, which it has not yet.
            return match.group() if match.group()[0] == "\\" else "\\" + match.group()
        if kind != ":" or word not in POSIX_CLASSES:
            raise ValueError("there is no %s; there are %s" % (
                match.group(), " ".join("[:%s:]" % each for each in POSIX_CLASSES)))
        return POSIX_CLASSES[word]

    def piece(match):
        text, start = match.group(), match.group(1)
        if start is None:
            return WORD_ENDS.get(text, text)
        if re.match(r"\[\^?:\w+:\]$", text):
            raise ValueError("a class of characters is written in a set: [%s]" % text)
        return start + re.sub(r"\\.|\[([:.=])([^]]*?)\1\]|[\[&~|]", in_set, text[len(start):-1],
                              flags=re.DOTALL) + "]"

    # What is escaped, or a set.
    return re.sub(r"\\.|(\[\^?\]?)(?:\[([:.=])[^]]*?\2\]|\\.|[^]\\])*\]", piece, pattern,
                  flags=re.DOTALL)


class Ignore:
    """Which paths are ignored, by globs as in gitignore(5): of those that match the last counts,
    but what is in an ignored directory is ignored.  A path is looked at from its root on, the
    innermost; a root is not ignored.

    globs    tuple of str, as given
    tops     the roots of the Watch with a slash at their ends, the longest first
    by_path  whether it depends on the directories above an entry whether that matches
    """

    def __init__(self, globs):
        self.globs, self.roots, self.tops, self.known = tuple(globs), (), (), {}
        self.rules = []             # [(match, negated, only_dirs, by_path)], the last glob's first
        for glob in self.globs:
            re = module("re", "reading globs to ignore")
            text = glob[1:] if glob.startswith("!") else glob
            name = text[:-1] if text.endswith("/") else text
            match = re.compile(glob_regex(name) or "(?!)", re.DOTALL).fullmatch
            self.rules.insert(0, (match, text != glob, name != text, "/" in name))
        self.by_path = any(rule[3] for rule in self.rules)

    def watch(self, roots):
        """These are the roots from now on."""
        if roots != self.roots:
            self.roots, self.known = roots, {}
            self.tops = sorted(map(with_slash, roots), key=len, reverse=True)

    def start(self, path):
        """Where in a path that begins which is below its root."""
        return next((len(top) for top in self.tops if path.startswith(top)), len(path))

    def hides(self, path, is_dir):
        """Whether a path (str) is ignored."""
        start, at = self.start(path), path.rfind("/") + 1
        if not self.rules or start >= len(path) or path in self.roots:
            return False
        return self.hides_in(path[:at]) or self.is_match(path[start:], path[at:], is_dir)

    def hides_in(self, prefix):
        """Whether all that is in a directory is ignored; its path has a slash at its end."""
        known = self.known.get(prefix) if self.rules else False
        if known is None:
            start = at = self.start(prefix)
            known = False
            while not known and at < len(prefix):
                end = prefix.index("/", at)
                known = self.is_match(prefix[start:end], prefix[at:end], True)
                at = end + 1
            if len(self.known) > OUTSIDE_LIMIT:
                self.known.clear()
            if len(prefix) <= PREFIX_LIMIT:
                self.known[prefix] = known
        return known

    def is_match(self, path, name, is_dir):
        """Whether the globs ignore an entry of a directory that is not ignored."""
        for match, negated, only_dirs, by_path in self.rules:
            if (is_dir or not only_dirs) and match(path if by_path else name):
                return not negated
        return False


# What a glob consists of: **/, ** at the end, *, ?, a set, what is escaped or not whole, the rest.
GLOB = (r"(?:^|(?<=/))(\*\*+/)|(?:^|(?<=/))(\*\*+$)|(\*+)|(\?)|\[([!^]?)"
        r"(\]?(?:\[:[^]]*:\]|\[(?!:[^]]*:\])|\\.|[^]\\[])*)\]|([\\[])(.?)|(.)")
GLOB_SET = r"\[:([^]]*):\]|(\\.|[^\\])-(\\.|[^\\])|(\\.|[^\\])"


def glob_regex(glob):
    """A regular expression for a glob of gitignore(5), to match all of a path from the root on or,
    where the glob has no slash, of a name; None where it can match nothing."""
    import re

    def in_set(found):
        name, low, high, single = found.groups()
        if name is not None:
            return POSIX_CLASSES[name]
        first = re.escape((low or single)[-1])      # of a range of nothing that is left
        return first + "-" + re.escape(high[-1]) if low and low[-1] <= high[-1] else first

    def piece(found):
        kind, text = found.lastindex, found.group(found.lastindex)
        if kind < 5:
            return ("\0d", ".*", "\0s", r"[^\x2f]")[kind - 1]
        if kind == 6:
            items = re.sub(GLOB_SET, in_set, text, flags=re.DOTALL).replace("/", r"\x2f")
            return r"(?%s[%s])[^\x2f]" % ("!" if found.group(5) else "=", items)
        if text == "\0" or kind == 8 and (found.group(7) == "[" or not text):
            raise KeyError              # a set that does not end, or a backslash before nothing
        return re.escape(text)

    try:
        # As in git, to which ** after a plain beginning, a**/x, is one that follows a slash.
        plain = re.match(r"/?([^*?[\\]*)", glob)
        text = re.escape(plain.group(1)) + re.sub(GLOB, piece, glob[plain.end():], flags=re.DOTALL)
    except KeyError:                    # or a class that there is not
        return None
    # Where another * follows, the first is as short as can be: to try the longer, too, would find
    # nothing more, and take years.  So it is with **/.
    for mark, fixed, some in (("\0s", r"[^/\0]*", "[^/]*"), ("\0d", r"[^\0]*", "(?:.*?/)?")):
        def shortest(found):
            name = "%s%d" % (mark[1], found.start())
            return "(?=(?P<%s>%s?%s))(?P=%s)" % (name, some, found.group(1), name)
        text = re.sub("%s(%s)(?=%s)" % (mark, fixed, mark), shortest, text).replace(mark, some)
    return text


# =============================================================================================
# 13. The command line
# =============================================================================================
# In comes a command line, out go lines, commands that are run, and an exit status.  main() reads
# the Options; run() makes a Watch (section 12) and goes round in follow(): events in, text out, and
# what the Parts have to do.  inotify-tools' names have fanfp say and print what those would.


# --- options ---
#
# In come the words of a command line, out go Options, or an Error that says what is wrong with
# them.  The tables are all there is to know of an option: reading and help are made from them, for
# inotify-tools' own options, too (see TOOL_OPTIONS).  Not with argparse or getopt: to import and
# set up either takes a fifth to a third of the time until fanfp is ready.

EXAMPLES = """\
fanfp /srv/data                           each change, by whom, as it happens
fanfp --top /srv/data                     who is busy there, and where
fanfp --run make --ignore /build/ src     build when something has changed

usage: fanfp [OPTION...] ROOT...

Watch directory trees and print an event a line: every event under them, none
from outside.  A ROOT is a directory or a file.

"""

EPILOG = """
%s
%s
        ALL, CLOSE, MOVE stand for several
format: %%w directory, %%f name, %%P path, %%o old path, %%e events, %%T time,
        %%0 NUL, %%n newline, %%%% percent.  Names are escaped, but with a %%0.
        Who: %%p pid, %%C command, %%u user, %%U its number, %%G group's number,
        %%q parent's pid, %%x executable, %%a command line, %%k control group,
        %%s systemd unit or container.  Empty where it is not known.
--exec: the command of each event has ended before the next begins; what fails
        is told.  SIGINT, SIGTERM and SIGHUP start no more, and are passed on
        to all that the one that runs has started: killed after %d s.
        For a shell, with "$1" for the path: --exec "sh -c 'COMMANDS' - {}"
        Never {} in COMMANDS: the name of a file may hold some, $(reboot).
exit status: 0 --count reached, or the reader of the output has gone; 1 error,
        or no root left; 2 --timeout reached.  At SIGINT, SIGTERM and SIGHUP
        it writes what has happened, and dies of that signal
"""

HELP_WIDTH = 80
HELP_INDENT = 24
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S"

EXIT_ERROR, EXIT_TIMEOUT = 1, 2
WIDE = 100          # columns from which on a line has room for the user
F_GETFL = 3                             # <fcntl.h>; not every Python has its module
TOOL_NAMES = ("inotifywait", "fsnotifywait", "inotifywatch", "fsnotifywatch")

OPTIONS = (
    # Letter, name, argument, what it is.  inotifywait's words where it has them.
    ("h", "help", "", "say what the options are, and end"),
    ("e", "event", "EVENT[,EVENT...]", "what to report"),
    ("", "json", "", "a JSON object a line"),
    ("c", "csv", "", "directory, events, name, old path, pid, command, user id; more with --who"),
    ("", "format", "FORMAT", "a line of your own, see below"),
    ("", "who", "", "more of who did it: user, parent's pid, systemd unit or container; in --json "
     "and --csv group, executable, command line, control group too"),
    ("", "timefmt", "FORMAT", "strftime format of %T in --format"),
    ("", "no-newline", "", "no newline after --format"),
    ("", "include", "REGEX", "only paths with a match"),
    ("", "includei", "REGEX", "the same, whatever the case"),
    ("", "exclude", "REGEX", "no paths with a match"),
    ("", "excludei", "REGEX", "the same, whatever the case"),
    ("", "ignore", "GLOB", "no paths that match, as in .gitignore: NAME, DIRECTORY/, /IN/ROOT"),
    ("", "ignore-file", "FILE", "the same, a glob a line"),
    ("C", "comm", "NAME", "only what processes of this name did; '!NAME': not what they did"),
    ("", "pid", "PID", "only what this process did; '!PID': not what it did"),
    ("", "user", "USER", "only what this user did, by name or number; '!USER': not what it did"),
    ("t", "timeout", "SECONDS", "end with status 2 when there was no event for so long (0: never)"),
    ("", "count", "N", "end after N events"),
    ("q", "quiet", "", "say only what went wrong; twice: print no events"),
    ("o", "outfile", "FILE", "append to a file; -: standard output"),
    ("m", "monitor", "", "accepted: it always goes on"),
    ("r", "recursive", "", "accepted: it is anyway"),
    ("", "no-recursive", "", "only a directory given and its entries, nothing below"),
    ("", "filter", "{%s}" % ",".join(FILTER_NAMES), "how to keep outside events away"),
    ("", "object", "FILE", "a BPF object for --filter fastpath"),
    ("", "ring", "SIZE", "of the buffer in which events wait with --filter trace, as 64M"),
    ("", "latency", "SECONDS", "let events gather for so long under load (0.005)"),
    ("", "one-file-system", "", "don't watch what is mounted inside"),
    ("", "devices", "", "tell who opens, reads and writes device nodes such as /dev/null, too"),
    ("", "no-dereference", "", "watch a symbolic link given, not its target"),
    ("", "wait", "", "wait for roots that are not there, and for those that go to come again"),
    ("", "top", "", "tables of who is busy, where and how, and of growing files, anew each second"),
    ("", "summary", "", "no events, but these tables at the end and at SIGUSR1; --json, --csv"),
    ("", "exec", "COMMAND", "run a command for each event, one at a time, without a shell: {} is "
     "the path; FANFP_PATH, _OLD_PATH, _EVENTS, _IS_DIR, _PID, _COMM, _UID and more of who did it "
     "are in its environment; see below"),
    ("", "run", "COMMAND", "run a command for all that changed until it was quiet for a while: "
     "the paths are on its standard input, a NUL after each, FANFP_COUNT of them"),
    ("", "quiet-for", "SECONDS", "that while (0.1)"),
    ("", "restart", "", "--run it at once, and end it then and start it again: for servers"),
    ("", "stats", "", "counters, at the end, on standard error"),
    ("", "probe", "", "say what this host has, and end"),
    ("", "as", "TOOL", "first of all: be %s, as under that name" % ", ".join(TOOL_NAMES)),
    ("", "version", "", "say which this is, and end"),
)

SEVERAL = ("EVENT[,EVENT...]", "REGEX", "GLOB", "NAME", "PID", "USER", "event[,event]", "list")
"""Arguments of options of which all count, not the last alone."""

IDLE = (
    # Options, others with which each is a mistake (!: without which; &: and), and maybe why.
    ("--timefmt", "!%T", "{} does nothing without a {} in --format"),
    ("--no-newline", "!--format"),
    ("--restart --quiet-for", "!--run"),
    ("--object", "!--filter=None&!--filter=auto&!--filter=fastpath"),
    ("--devices", "!THROUGH", "{} does nothing with these events"),
    ("--who", "--filter=inotify", "{} does nothing with {}, which does not tell who"),
    ("--who", "--format", "{} does nothing with {}, whose letters say what is wanted"),
    ("--json --csv --format --who --top --summary --outfile", "-qq",
     "{} does nothing with {}, which prints no events"),
    ("--top", "--exec --run", "{} leaves the command of {} no place to print; have --summary"),
    ("--who --format", "--top --summary", "{} does nothing with {}, which prints no events"),
    ("--json --csv", "--top&!--summary", "{} does nothing with --top, but for its {}"),
    ("--one-file-system", "--no-recursive", "{} does nothing with {}, which watches no mounts"),
    ("--recursive", "--no-recursive"),
    ("--exec", "--run"),
    ("--json --csv", "--format"),
    ("--json", "--csv"),
)


def read_options(arguments, rows):
    """([(option, its argument or "")], the rest) of the words of a command line, as
    getopt_long(3) reads them.  `rows`: tuples that begin as those of OPTIONS.  Raises ValueError
    in its words."""
    pairs, rest, words = [], [], iter(arguments)

    def add(row, value, missing):
        if row[2] and value is None:
            value = next(words, None)
            if value is None:
                raise ValueError(missing)
        pairs.append((row[1], value or ""))
    for word in words:
        if word == "--":
            rest.extend(words)
        elif word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            found = [row for row in rows if row[1] == name] \
                or [row for row in rows if row[1].startswith(name)]
            if len(found) != 1:
                raise ValueError("unrecognized option '--%s'" % name if not found else
                                 "option '--%s' is ambiguous; possibilities:%s" % (
                                     name, "".join(" '--%s'" % row[1] for row in found)))
            if has_value and not found[0][2]:
                raise ValueError("option '--%s' doesn't allow an argument" % name)
            add(found[0], value if has_value else None,
                "option '--%s' requires an argument" % found[0][1])
        elif word.startswith("-") and word != "-":
            while word[1:]:
                row = next((row for row in rows if row[0] == word[1]), None)
                if row is None:
                    raise ValueError("invalid option -- '%s'" % word[1])
                add(row, row[2] and word[2:] or None,
                    "option requires an argument -- '%s'" % row[0])
                word = "" if row[2] else "-" + word[2:]
        else:
            rest.append(word)
    return pairs, rest


def refuse(why):
    """Raise the Error for a mistake on the command line."""
    raise Error(errno.EINVAL, "reading the command line: %s; see --help" % printable(str(why)))


class Options:
    """What a command line asks for: `rest`, `given` (names of options), and an attribute for each
    row: how often it was given; of one with an argument the last, or None, or all.  wrong(why) is
    called for a mistake."""

    def __init__(self, arguments, rows=OPTIONS, wrong=refuse):
        try:
            pairs, self.rest = read_options(arguments, rows)
            for _, name, argument, _ in rows:
                values = [read_value(name, argument, text) for each, text in pairs if each == name]
                setattr(self, name.replace("-", "_"), len(values) if not argument else
                        values if argument in SEVERAL else values[-1] if values else None)
        except ValueError as why:
            wrong(why)
        self.given = [name for name, _ in pairs]
        self.ignore = [glob for name, text in pairs if name.startswith("ignore")
                       for glob in ([text] if name == "ignore" else ignored_in(text))]


def read_value(name, argument, text):
    """The value of an option's argument.  Raises ValueError where it is not what the option
    takes."""
    wanted = {"SECONDS": "a number of seconds, 0 or more", "N": "a whole number above 0",
              "SIZE": "a number of bytes up to 1G, as 64M",
              "GLOB": "a glob as in .gitignore, which can match something"}.get(argument)
    try:
        if argument == "SECONDS":
            if set(text) - set("0123456789.e+-"):
                raise ValueError            # float() takes 1_0, spaces and other scripts' digits
            return duration("", float(text))
        if argument == "SIZE":
            number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, " ")
            return ring_size(int(number) << 10 * " KMG".index(unit))
        if argument == "N" and not (is_number(text) and int(text)) \
                or argument == "GLOB" and not glob_regex(text.lstrip("!").rstrip("/")):
            raise ValueError
        return int(text) if argument == "N" else text
    except ValueError:
        raise ValueError("--%s: it takes %s, not %s" % (name, wanted, text or '""'))


def refuse_by(rules, is_there, both, without, wrong=refuse):
    """Where of the options that are there one does nothing, by such rules as IDLE, call wrong()
    with the rule's own words, or one of two sentences, for str.format()."""
    for options, others, *words in rules:
        for option in filter(is_there.__contains__, options.split()):
            for parts in [other.split("&") for other in others.split()]:
                if all((part[0] != "!") == (part.strip("!") in is_there) for part in parts):
                    other = parts[-1]
                    text, = words or [without if other[0] == "!" else both]
                    wrong(text.format(option, other.strip("!")))


def refuse_idle(options):
    """An option that would do nothing is a mistake: raise the Error that says what it needs."""
    is_there = {"--" + name for name in options.given}
    is_there.update(("--filter=%s" % options.filter, "-qq" if options.quiet > 1 else ""))
    is_there.update("%" + letter for letter in format_letters(options.format or ""))
    if not options.event or event_mask(
            ",".join(options.event).replace(",", " ").split()) & THROUGH:
        is_there.add("THROUGH")
    refuse_by(IDLE, is_there, "{} and {}: only one of them", "{} does nothing without {}")


def ignored_in(path):
    """The globs in a file that is like a .gitignore.  Raises Error."""
    import re
    lines = (re.sub("\r$", "", line) for line in lines_of(path))
    # Spaces at the end do not count but after a backslash.
    lines = (re.sub(r"^((?:\\.|[^\\])*?) +$", r"\1", line) for line in lines)
    return [line for line in lines if line and not line.startswith("#")]


def lines_of(path):
    """The lines of a text, of paths or globs, in a file or ("-") on standard input.  Raises
    Error."""
    try:
        with open(0 if path == "-" else path, "rb", closefd=path != "-") as file:
            data = file.read()
    except OSError as error:
        raise failure(error.errno, "reading", path, "name a file that has a line for each")
    if b"\0" in data:
        raise Error(errno.EINVAL, "reading %s: there is a NUL in it, as in UTF-16 or after each "
                    "path of find -print0; have a line for each, in UTF-8" % printable(path))
    return os.fsdecode(data[3:] if data.startswith(b"\xef\xbb\xbf") else data).split("\n")


def help_rows(rows):
    """Options for people, as OPTIONS has them."""
    text = ""
    for letter, name, argument, what in rows:
        flags = ("  %s--%s %s" % ("-%s, " % letter if letter else "", name, argument)).rstrip()
        what = folded(what, HELP_INDENT, HELP_INDENT * " ")
        text += flags + ("\n" + what if what and len(flags) >= HELP_INDENT else
                         what[len(flags):]) + "\n"
    return text


def folded(text, indent=8, first=""):
    """A text in lines of HELP_WIDTH, those after the first indented."""
    return module("textwrap", "showing help").fill(
        text, HELP_WIDTH, initial_indent=first, subsequent_indent=indent * " ")


# --- output: the text of events ---
#
# In comes a list of events, out goes their text: a function for each way to print, which knows
# nothing of who reads it.  choose_output() says which.

FORMAT_EVENT = {"P": "path", "o": "old_path", "p": "pid", "C": "comm", "U": "uid"}
FORMAT_PROCESS = {"u": "user", "G": "gid", "q": "ppid", "x": "exe", "a": "cmdline",
                  "k": "cgroup", "s": "unit"}
"""Letters of --format that stand for an attribute, of an Event or its Process.  find -printf's %u,
%U and %G, ps's %a."""
FORMAT_FIXED = {"0": "\0", "n": "\n", "%": "%"}
FORMAT_OWN = tuple("wfPoTc")            # what is not the same for all of a process and a kind
CSV = "wefopCU"                         # what --csv has, and with --who FORMAT_PROCESS
FORMAT_LETTERS = "".join(("wfTe", *FORMAT_EVENT, *FORMAT_PROCESS, *FORMAT_FIXED))
WHO = tuple(FORMAT_PROCESS.values())    # what --who adds
WITH_USER, WITH_ALL = 1, 2              # how much more named() says


def named(event, detail=0):
    """Who did it, for people: "command(pid)"; with the user, if it is not root; with all that
    --who has: user, parent's pid, and unit or container."""
    text = "%s(%s)" % (printable(event.comm or "?"), "?" if event.pid is None else event.pid)
    if detail == WITH_USER and event.uid:
        return text + " " + printable(user_name(event.uid))
    process = event.process if detail == WITH_ALL else None
    if process is not None:
        for form, value in ((" %s", process.user), (" ppid=%s", process.ppid),
                            (" unit=%s", process.unit)):
            text += "" if value is None else form % printable(str(value))
    return text


def text_lines(events, detail=0):
    """The default: time, who, events, path, for people."""
    out = []
    stamp, now, heads = "", None, {}    # a buffer's events have few times, processes and masks
    for event in events:
        path, mask, pid, when, old_path, moment = event
        milliseconds = int(when * 1000)
        if milliseconds != now:
            now = milliseconds
            stamp = time.strftime("%H:%M:%S", time.localtime(when)) + ".%03d " % (now % 1000)
        head = heads.get((moment, pid, mask))
        if head is None:
            head = heads[moment, pid, mask] = "%s: %s " % (named(event, detail), names_text(mask))
        shown = "-" if path is None else path \
            if path.isprintable() and "\\" not in path else printable(path)
        if old_path is not None:
            shown = printable(old_path) + " -> " + shown
        if mask & FS_ERROR:
            shown += " " + error_text(event.fs_error)
        out.append(stamp + head + shown + "\n")
    return "".join(out)


def error_text(error):
    """An FsError for people."""
    return "(%s, errno %d, %d time%s%s)" % (
        os.strerror(error.error), error.error, error.count, "s" if error.count > 1 else "",
        "" if error.inode is None else ", inode %d" % error.inode)


_texts = {}


def names_text(mask):
    """The names in a mask with commas, ISDIR too: "CREATE,ISDIR"."""
    text = _texts.get(mask)
    if text is None:
        names = event_names(mask) + (("ISDIR",) if mask & ISDIR else ())
        text = _texts[mask] = ",".join(names)
    return text


def json_lines(events, who=False):
    """--json: an object a line, ASCII only; bytes that are no UTF-8 as lone surrogates."""
    from json.encoder import encode_basestring_ascii as quote
    if who:
        from json import dumps
    out = []
    stamp, now, around = "", None, {}   # as in text_lines()
    for event in events:
        path, mask, pid, when, old_path, moment = event
        if when != now:
            now, stamp = when, '{"time": %.3f' % when
        both = around.get((moment, pid, mask))
        if both is None:
            names, command, uid = '", "'.join(event_names(mask)), event.comm, event.uid
            both = around[moment, pid, mask] = (
                ', "events": ["%s"], "path": ' % names,
                ', "pid": %s, "comm": %s, "uid": %s, %s"is_dir": %s}\n' % (
                    "null" if pid is None else pid,
                    "null" if command is None else quote(command),
                    "null" if uid is None else uid,
                    "".join('"%s": %s, ' % (name, dumps(getattr(event.process, name, None)))
                            for name in WHO if who),
                    "true" if mask & ISDIR else "false"))
        shown = "null" if path is None else quote(path)
        if old_path is not None:
            shown += ', "old_path": ' + quote(old_path)
        if mask & FS_ERROR:
            shown += ', "error": %d, "error_count": %d, "inode": %s' % (
                event.fs_error[:2] + (text_of(event.fs_error.inode) or "null",))
        out.append(stamp + both[0] + shown + both[1])
    return "".join(out)


def split_path(path):
    """(directory with its slash, name) of a path, as inotifywait's %w and %f."""
    directory, slash, name = (path or "").rpartition("/")
    return directory + slash, name


def text_of(value):
    """What is known of a process as a text: "" for None, a command line with spaces, as ps."""
    return "" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)


def csv_field(text):
    """A text as a field of RFC 4180."""
    if "," in text or '"' in text or "\n" in text or text[:1] == " " or text[-1:] == " ":
        return '"%s"' % text.replace('"', '""')
    return text


def csv_shown(text):
    """A text as a field of a table that has a row a line."""
    return csv_field(printable(text))


def format_pieces(letters):
    """A regular expression of what is no plain text in a format: a % with one of these letters;
    with an e for events, after what is to be between them; with another letter, or none."""
    import re
    return re.compile("%%(?:([%s])|(.)e|(.?))" % letters, re.DOTALL)


def format_letters(pattern):
    """The letters in the format of --format.  Raises Error."""
    found = set()
    for match in format_pieces(FORMAT_LETTERS).finditer(pattern) if pattern else ():
        letter, separator, wrong = match.groups()
        if wrong is not None:
            raise Error(errno.EINVAL, "reading --format %s: %s" % (
                printable(pattern), "%c, inotifywait's cookie, is not to be had; a RENAME has %o, "
                "and the command is %C" if wrong == "c" else
                "%%%s is not known; --help lists them" % printable(wrong)))
        found.add(letter or "e")
    return found


def format_lines(pattern, values, end, key):
    """--format: a function from events to text, each of which ends with `end`.  `values`: what a
    letter stands for, a function of an event; it is asked once for all of a list that have the
    same key(event), but for FORMAT_OWN."""
    own, common = [], []

    def field(found):
        letter, separator, wrong = found.groups()
        if letter in FORMAT_FIXED or wrong is not None:
            return FORMAT_FIXED.get(letter, found.group()).replace("%", "%%%%")
        value, is_own = values[letter or "e"], letter in FORMAT_OWN
        (own if is_own else common).append(
            value if is_own else lambda event: value(event).replace(",", separator or ",")
            .replace("%", "%%"))
        return "%%s" if is_own else "%s"
    line = format_pieces("".join((*values, *FORMAT_FIXED))).sub(field, pattern) + end

    def lines(events):
        out, known = [], {}
        for event in events:
            which = key(event)
            if which not in known:
                known[which] = line % tuple([value(event) for value in common])
            out.append(known[which] % tuple([value(event) for value in own]))
        return "".join(out)
    return lines


def format_values(timefmt, show):
    """{letter: a function of an event} for format_lines(); `show`: what texts are shown by."""
    values = {letter: lambda event, name=name: show(text_of(getattr(event, name)))
              for letter, name in FORMAT_EVENT.items()}
    for letter, name in FORMAT_PROCESS.items():
        values[letter] = lambda event, name=name: show(text_of(getattr(event.process, name, None)))
    return dict(values,
                w=lambda event: show(split_path(event.path)[0]),
                f=lambda event: show(split_path(event.path)[1]),
                e=lambda event: show(names_text(event.mask)),
                T=lambda event: time.strftime(timefmt, time.localtime(event.time)))


# --- signals and descriptors ---
#
# In come signals and text, out goes the text to where it belongs, and what has come.  Nothing here
# waits for longer than a signal lets it.

ENDING = ("SIGINT", "SIGTERM", "SIGHUP")        # what ends fanfp, once all is written
END_SECONDS = 0.5           # after a signal, for what has happened to be read and written


class Signals:
    """The signals that end fanfp, and others that are asked for, as something to poll.

    A handler in Python runs between two instructions: when a signal comes just before a system
    call that waits, after that call.  The wakeup descriptor is written to at once, so whoever
    waits polls `fd` too, and nothing is done in a handler.
    """

    def __init__(self):
        self.number = self.since = None         # the signal that ends, and when it was seen
        self.others = set()                     # names of those that came: see had()
        self.ending = set(ENDING)
        self.fd, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def catch(self, *others):
        """From now on, `others` too; before, a signal does what it does by default: end a start
        that hangs."""
        signal.set_wakeup_fd(self._write)
        for name in ENDING + ("SIGCHLD",) + others:
            number = getattr(signal, name)
            # nohup has it ignore SIGHUP, so be it.  Not SIGINT, which a shell has what it starts
            # in the background ignore: who sends it there with kill means it.
            if name != "SIGHUP" or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, lambda *_: None)

    def take(self):
        """Read what has come; the first signal that ends stays in `number`."""
        try:
            numbers = os.read(self.fd, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            self.others.add(signal_name(number))
            if signal_name(number) in self.ending:
                self.end(number)

    def end(self, number):
        """Have fanfp end by a signal, if none came before."""
        if self.number is None:
            self.number, self.since = number, time.monotonic()

    def had(self, name):
        """Whether a signal of a name has come since the last call."""
        had = name in self.others
        self.others.discard(name)
        return had

    def left(self, seconds):
        """How much is left of the time after a signal that ends; None: there was none."""
        if self.number is None:
            return None
        return max(0.0, self.since + seconds - time.monotonic())

    def wait(self, seconds):
        """Wait for a signal, so many seconds or (None) for ever, and take it."""
        readable(self.fd, seconds)
        self.take()


def signal_name(number):
    """SIGTERM for 15, SIG34 for one that has no name."""
    return next((name for name, value in vars(signal).items() if value == number
                 and name.startswith("SIG") and name[3:4] != "_"), "SIG%d" % number)


class Part:
    """What the main loop has to do beside reading and printing; nothing, where a part says nothing.

    begin()      it begins
    add(events)  some have come
    due()        seconds after which to call advance() though nothing has come; None: no need to
    advance()    do what is to be done by now; whether fanfp is to end
    leave()      it has ended, by whatever; the Watch is still there
    finish()     do what is left to be done, without the Watch
    """

    nothing = begin = add = due = advance = leave = finish = lambda *_: None


class Output:
    """A descriptor that text is written to, to the last byte.  `doing`, `lost`: for errors.
    Where writing must end before, the last line is still whole, if it fits into PIPE_BUF.

    No write blocks, since a signal that came just before would not be heard: poll(2) says when
    there is room, and of two that write to one pipe the one that is late finds none.  Where a
    descriptor can't be had that does not block, a signal ends the write at least, since it is not
    os.write(), which would begin again (PEP 475).
    """

    def __init__(self, fd, name, signals, doing="writing events to",
                 lost="the events since are lost"):
        self.fd, self.name, self.signals, self.doing, self.lost = fd, name, signals, doing, lost
        self.own_fd = without_blocking(fd)
        self.told = 0                   # messages till now
        self.poll = select.poll()
        self.poll.register(fd, select.POLLOUT)
        self.poll.register(signals.fd, select.POLLIN)

    def write(self, text):
        """Write all of a text.  Raises BrokenPipeError, or Error when it can't, or when a signal
        came and nobody reads it."""
        data, at = text.encode(_FS_ENCODING, _FS_ERRORS), 0
        while at < len(data):
            self.wait()
            part = data[at:at + select.PIPE_BUF]
            part = part[:part.rfind(b"\n") + 1] or part     # a pipe takes all of it or nothing
            written = call("write", self.own_fd, part, len(part))
            number = ctypes.get_errno()
            if written >= 0:
                at += written
            elif number == errno.EPIPE:
                raise BrokenPipeError
            elif number not in (errno.EINTR, errno.EAGAIN):
                raise failure(number, self.doing, self.name,
                              self.lost + "; free some space, or write elsewhere")

    def wait(self):
        """Wait until there is room; after a signal not for long."""
        while True:
            left = self.signals.left(END_SECONDS)
            for fd, _ in self.poll.poll(None if left is None else left * 1000):
                if fd == self.fd:
                    return
            if left == 0:
                raise Error(errno.ETIMEDOUT, "%s %s: nobody reads it, and %s came; what was left "
                            "is lost" % (self.doing, printable(self.name),
                                         signal_name(self.signals.number)))
            self.signals.take()

    def broken(self):
        """Whether who reads it has gone."""
        return any(fd == self.fd and bits & (select.POLLERR | select.POLLHUP)
                   for fd, bits in self.poll.poll(0))

    def tell(self, message):
        """What the function tell() does, but that a signal ends it."""
        self.told += 1
        self.say("fanfp: " + message)

    def say(self, line):
        """Write a line, if that can be."""
        try:
            return self.write(line + "\n")
        except OSError:
            return None                 # nobody to tell

    def size(self):
        """(columns, rows) of the terminal that it is, as it is now."""
        try:
            columns, rows = os.get_terminal_size(self.fd)
        except OSError:
            columns = rows = 0
        return columns or 80, rows or 24        # a serial line does not know

    def path(self):
        """The path of the file written to, if it is one: inotify does not say who wrote."""
        try:
            return os.fsdecode(fd_path(self.fd))
        except OSError:
            return None


def without_blocking(fd):
    """A descriptor of the same pipe or terminal, of which a write never blocks; `fd` itself where
    it is something else, or may not be opened.

    Not fcntl(2), O_NONBLOCK: that would be so for all who have the same open file.
    """
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) and os.isatty(fd):
            return os.open(path_to_fd(fd), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        pass
    return fd


def open_output(path, signals, used=True, **words):
    """The Output of a file's path, or (None, "-") standard output.  `used`: whether anything will
    be written."""
    if path is None or path == "-":
        output = Output(1, "standard output", signals, **words)
        if used and call("fcntl", 1, F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise failure(errno.EBADF, output.doing, output.name, "it is closed; have it open, or "
                          "name an --outfile")
        return output
    return Output(open_to_append(path, "choose another --outfile"), path, signals, **words)


def open_to_append(path, hint, flags=0):
    """A descriptor of a file to write to, which is made if there is none."""
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, 0o644)
    except OSError as error:
        raise failure(error.errno, "opening", path, hint)


def has_terminal():
    """Whether this process has a controlling terminal.  proc(5), /proc/PID/stat."""
    return read_file("/proc/self/stat").rpartition(b")")[2].split()[4:5] != [b"0"]


def say_ready(tell):
    """Tell who has started fanfp that all is ready, if that is asked for.  sd_notify(3)."""
    address = os.environ.pop("NOTIFY_SOCKET", "")       # not for commands
    name = "\0" + address[1:] if address[:1] == "@" else address
    try:
        if name:
            socket = module("socket", "saying READY=1")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
                connection.settimeout(ANSWER_SECONDS)
                connection.sendto(b"READY=1", os.fsencode(name))
    except OSError as error:
        tell("saying READY=1 to NOTIFY_SOCKET, %s: %s; who has started fanfp may wait for it"
             % (printable(address), error.strerror or error))


def say(text):
    """Write a text of fanfp's own, not events, to standard output.  Returns 0."""
    open_output(None, Signals(), doing="writing to", lost="it is not whole").write(text)
    return 0


# --- commands: --exec, --run, --restart ---
#
# In come events, out go commands, one at a time, each with all that it starts, and notices of how
# they ended.  A Runner is a Part: it never waits, but for the last ones when all else is over.

KILL_SECONDS = 5            # after a signal, for a command to end
QUIET_SECONDS = 0.1         # without an event before the command of --run is run
LOOP_RUNS = 3, 10           # in a row, by the same path or by others each time, are a loop, if what
SUSPECT_AFTER, SUSPECT_SECONDS = 0.1, 2.0   # starts a command comes so soon after its end or start
MANY_GLOBS = 3              # of more it is said which directories they are in
# What a shell would do something about, in a command from which quotes were taken: operators and
# redirections that begin a word, a semicolon that ends one, a variable, what a command prints.
QUOTED = r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\""""
SHELL_WORD = r"([|;&]+|(?:\d*|&)[<>]\S*|\S*;)$|\S*(\$[A-Za-z_{(]|`)"
SHELLS = r"(ba|da|z|k|mk|a|fi|c|tc)?sh$"


def read_command(command, option="--exec"):
    """The words of a command, and notes about it: a list of str.  Raises Error."""
    import re
    shlex, shutil = module("shlex", "reading " + option), module("shutil", "reading " + option)
    safe = "sh -c 'COMMANDS' - {}" if option == "--exec" else "sh -c 'COMMANDS'"
    try:
        words = shlex.split(command)
    except ValueError as reason:
        raise Error(errno.EINVAL, "reading %s %s: %s; as a shell has it: close the quotes, or "
                    "put \\ before one that is meant" % (option, printable(command), reason))
    if not any(words[:1]):
        raise Error(errno.EINVAL, "reading %s: it is empty; name a command" % option)
    if option != "--exec" and "{}" in command:
        raise Error(errno.EINVAL, "reading %s %s: {} is a path for --exec; here the paths are on "
                    "standard input, as for xargs -0" % (option, printable(command)))
    # "$NAME" as a whole word is quoted for a shell, so one was thought of.
    bare = re.sub(r'(^|\s)"(\$\w+|\$\{\w+\})"(?=\s|$)', r"\1\2", command)
    bare = re.sub(QUOTED, "q", bare, flags=re.DOTALL).split()
    for word in bare:
        if re.match(SHELL_WORD, word):
            raise Error(errno.EINVAL, "reading %s %s: %s is for a shell, and none is used; say "
                        "%s \"%s\"%s, or put it in quotes" % (
                            option, printable(command), printable(word), option, safe,
                            ', where "$1" is the path' if option == "--exec" else ""))
    if "{}" not in words[0] and not shutil.which(words[0]):
        if os.path.exists(words[0]):
            raise failure(errno.EACCES, "running", words[0],
                          "have it run by its interpreter, or make it a program (chmod +x)")
        raise failure(errno.ENOENT, "running", words[0], "name a program in %s; what only a shell "
                      "knows (cd, an alias) needs sh -c" % option)
    notes = ["%s uses no shell: %s is handed on as it is" % (option, printable(word))
             for word in bare if "*" in word or word[0] == "~"]
    for shell, flag, script in zip(words, words[1:], words[2:]):
        if re.match(SHELLS, os.path.basename(shell)) and re.match(r"-\w*c$", flag) \
                and "{}" in script:
            notes.append("--exec: {} in the script of %s lets the name of a file run commands; "
                         "say %s %s '... \"$1\"' - {}" % (shell, shell, flag))
    return words, notes


class Runner(Part):
    """--exec: a command for each event, one at a time, while reading goes on.

    Each is a session of its own, so that a signal of the terminal comes to it by us alone, and
    its process group is what it has started.
    """

    restarts = says_all = False         # a command is to go on; any end of it is reported
    quiet_for = 0.0                     # seconds without a change before a command is started

    def __init__(self, words, signals, tell):
        self.words, self.signals, self.tell = words, signals, tell
        self.subprocess = module("subprocess", "reading --exec")
        self.waiting = collections.deque()      # what a command is to be run for
        self.last = float("-inf")               # time.monotonic() of the last change
        self.child, self.shown = None, ""       # the one that runs, and what to call it
        self.suspect_until = self.last          # what comes before may be of its own making
        self.is_over = False            # it has ended; what it has started may go on
        self.told = self.kill_at = None         # the signal that told it to end, and when to kill
        self.null = open_null(os.O_RDONLY)

    def add(self, events):
        self.waiting.extend(events)
        self.advance()

    def due(self):
        if self.child is not None and self.told:
            return 0.05                 # no signal tells of a group's end
        if self.waiting and (self.child is None or self.restarts):
            return max(0.0, self.last + self.quiet_for - time.monotonic())
        return None

    def advance(self):
        """Start the next command, or end the one before, when there was nothing new for long
        enough.  After a signal: none, and pass it on."""
        if self.child is not None and self.has_ended():
            self.child, self.suspect_until = None, time.monotonic() + SUSPECT_AFTER
        number = self.told or self.signals.number
        if self.child is not None and number is not None:
            self.tell_to_end(number)
        elif self.waiting and self.signals.number is None \
                and time.monotonic() >= self.last + self.quiet_for:
            if self.child is None:
                self.start(self.waiting.popleft())
            elif self.restarts:
                self.tell_to_end(signal.SIGTERM)

    def start(self, event):
        """Run the command for an event."""
        path = event.path or ""
        values = {"events": names_text(event.mask), "is_dir": int(event.is_dir)}
        values.update((name, getattr(event, name)) for name in FORMAT_EVENT.values())
        values.update((name, getattr(event.process, name, None)) for name in WHO)
        self.launch([word.replace("{}", path) for word in self.words],
                    " for " + (shorten(printable(path)) or "-"), values, self.null)

    def launch(self, words, what, values, stdin):
        """Run a command for something, with values for its environment; where that can't be, say
        so."""
        self.shown = shorten(printable(words[0])) + what
        self.told, self.kill_at, self.is_over = None, None, False
        variables = {"FANFP_" + name.upper(): text_of(value) for name, value in values.items()}
        try:
            self.child = self.subprocess.Popen(words, env=dict(os.environ, **variables),
                                               start_new_session=True, stdin=stdin)
        except (OSError, ValueError) as error:      # of what was possible at the start
            number = getattr(error, "errno", None)
            self.tell("running %s: %s; it is skipped"
                      % (self.shown, error if number is None else os.strerror(number)))

    def has_ended(self):
        """Whether the command has ended, of which is said how.  Where it was told to, and where it
        is to go on: with all that it has started."""
        if not self.is_over:
            # It is not waited for yet, so that its number stays that of its process group, in
            # which others may go on.
            end = os.waitid(os.P_PID, self.child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            self.is_over = end is not None
            if self.is_over and (self.says_all or end.si_status and not self.told):
                self.tell("running %s: it %s" % (
                    self.shown, "ended with status %d" % end.si_status
                    if end.si_code == os.CLD_EXITED else
                    "was killed by " + signal_name(end.si_status)))
        if not self.is_over or self.restarts and not self.told:
            return False
        return self.child.wait() is not None and (not self.told or self.group_has_ended())

    def tell_to_end(self, number):
        """Send a signal, once, to all that the command has started, and in time kill it."""
        if not self.told:
            self.told, self.kill_at = number, time.monotonic() + KILL_SECONDS
            self.send(number)
        elif time.monotonic() >= self.kill_at:
            self.kill_at = float("inf")
            killed = "was killed" if self.send(signal.SIGKILL) else "may not be killed from here"
            self.tell("running %s: it did not end within %d s of %s, and %s"
                      % (self.shown, KILL_SECONDS, signal_name(self.told), killed))

    def group_has_ended(self):
        """Whether nothing is left of what the command has started."""
        try:
            while os.waitpid(-self.child.pid, os.WNOHANG)[0]:
                pass                    # an orphan: we are the first process of a container
        except ChildProcessError:
            pass
        return not self.send(0)

    def send(self, number):
        """Send a signal to all that the command has started; whether there was anything."""
        try:
            os.killpg(self.child.pid, number)
        except OSError:                 # gone by now, or of another user by sudo
            return False
        return True

    def finish(self):
        """Run what waits, or end what is to go on; after a signal only see the end of what runs."""
        self.quiet_for = 0.0
        if self.restarts:
            self.waiting.clear()
            if self.child is not None and self.signals.number is None:
                self.tell_to_end(signal.SIGTERM)
        self.advance()
        while self.kill_at != float("inf") and (
                self.child is not None or self.waiting and self.signals.number is None):
            self.signals.wait(self.due())
            self.advance()
        if self.waiting:
            self.tell("ended by %s; commands that were not run: %d"
                      % (signal_name(self.signals.number), len(self.waiting)))


class BatchRunner(Runner):
    """--run: a command for all that has changed until it was quiet for a while, their paths on its
    standard input.  With --restart it runs from the start on, and goes on: each such batch has it
    ended, with all that it has started, and started again.

    A batch is {path: (its root, whether it is a directory)}, and one waits at most.
    """

    def __init__(self, words, signals, tell, options):
        super().__init__(words, signals, tell)
        self.input_of(()).close()               # or that can't be had here
        self.restarts, self.says_all = options.restart, not options.quiet
        self.quiet_for = QUIET_SECONDS if options.quiet_for is None else options.quiet_for
        self.common, self.loops = {}, 0         # see note_loop()
        if self.restarts:
            self.waiting.append({})

    def add(self, events):
        self.last = time.monotonic()
        if not self.waiting:
            self.waiting.append({})
            self.loops = self.loops + 1 if self.last < self.suspect_until else 0
        for event in events:
            paths = [path for path in (event.path, event.old_path) if path is not None]
            for path in paths or event.moment.roots:    # anything, where events were lost
                if path not in self.waiting[0]:
                    self.waiting[0][path] = event.moment.root_of(path, False), event.is_dir
        self.advance()

    def start(self, batch):
        self.note_loop(batch)
        with self.input_of(batch) as stdin:
            what = " for %d path%s" % (len(batch), "s"[len(batch) == 1:]) if batch else ""
            self.launch(self.words, what, {"count": len(batch)}, stdin)
        self.suspect_until = time.monotonic() + SUSPECT_SECONDS if self.restarts else float("inf")

    @staticmethod
    def input_of(paths):
        """A file to read paths from, with a NUL after each, which is in no tree."""
        fd = call("memfd_create", b"fanfp", 1)          # MFD_CLOEXEC
        if fd < 0:
            raise failure(ctypes.get_errno(), "making a file for the paths for --run")
        file = open(fd, "w+b")
        file.writelines(os.fsencode(path) + b"\0" for path in paths)
        file.seek(0)
        return file

    def note_loop(self, batch):
        """Say so when, several times in a row, what changed while the command ran, or just after
        its start if it goes on, has it started again."""
        self.common = {path: of for path, of in batch.items()
                       if self.loops < 2 or path in self.common}
        if self.loops == LOOP_RUNS[not self.common]:
            self.tell("running %s: %d times in a row it was started by what changed while it ran; "
                      "if it writes that itself, %s ends the loop" % (
                          shorten(printable(self.words[0])), self.loops,
                          ignore_options(self.common or batch)))


def ignore_options(paths):
    """What to say on a command line to have paths ignored, {path: (root, is_dir)}: few options, so
    of many paths the directories next to the root."""
    import re
    import shlex
    globs = [path[len(root.rstrip("/")):] + ("/" if is_dir else "")
             for path, (root, is_dir) in sorted(paths.items()) if root not in (None, path)]
    if len(globs) > MANY_GLOBS:
        globs = sorted({each[:each.find("/", 1) + 1] or each for each in globs})
    return " ".join("--ignore " + shlex.quote(re.sub(r"[\\*?[]", r"\\\g<0>", printable(each)))
                    for each in globs[:MANY_GLOBS])


def shorten(text, most=300):
    """A text with its middle left out if it is longer than that."""
    most = max(most, 12)
    half = most // 2
    return text if len(text) <= most else text[:half] + "..." + text[half + 3 - most:]


# --- for people: the lines of a terminal ---
#
# In come events, as for the functions above, out go lines with escapes, or one line anew.

COLOURS = ((FS_ERROR | Q_OVERFLOW | UNMOUNT, "1;31"), (RENAME | MOVE_SELF, "36"),
           (DELETE | DELETE_SELF | MOVED_FROM, "31"), (CREATE | MOVED_TO, "32"),
           (MODIFY | CLOSE_WRITE | ATTRIB, "33"))
"""What events are shown in, by the first that fits: ECMA-48, SGR."""


class TerminalLines:
    """The default on a terminal: time, who, what, and the path from the root on.

    What happens again to the same file is one line that counts, written anew in its place, unless
    something else may be below it by now.
    """

    def __init__(self, output, errors, who, alone):
        """`who`: as named() has it; `alone`: nobody else writes to the terminal."""
        self.output, self.errors, self.who = output, errors, who
        self.goes_back = alone and not is_dumb()
        self.has_colours = not (is_dumb() or os.environ.get("NO_COLOR"))
        self.run, self.mask, self.count = None, 0, 0    # what the last line is of, and how often
        self.told = 0                           # errors.told then; -1 if it is more than a row

    def __call__(self, events):
        from itertools import groupby
        text = ""
        # What is done through an open file is one, as it is for the kernel where it can.
        for run, same in groupby(events, lambda event: (
                event.path, event.old_path, event.pid, event.mask & ~THROUGH, event.fs_error)):
            if run != self.run:
                self.run, self.count, self.mask = run, 0, 0
            elif self.goes_back and self.told == self.errors.told:
                text = "\x1b[A\r\x1b[K"
            for event in same:
                self.count, self.mask = self.count + 1, self.mask | event.mask
            text += self.line(event._replace(mask=self.mask), self.count)
        return text

    def line(self, event, count):
        """The line of an event that came so often."""
        columns, roots = self.output.size()[0], event.moment.roots
        who = named(event, self.who or (WITH_USER if columns >= WIDE else 0))
        what = names_text(event.mask & ~ISDIR) + (" x%d" % count if count > 1 else "")
        root = roots[0] if len(roots) == 1 else None
        paths = [from_root(path, root, event.is_dir) for path in (event.old_path, event.path)
                 if path is not None]
        fields = [time.strftime("%H:%M:%S", time.localtime(event.time)), "%-18s" % who,
                  "%-*s" % (25 if columns >= WIDE else 18, what), " -> ".join(paths) or "-"]
        if event.fs_error is not None:
            fields.append(error_text(event.fs_error))
        # No character is wider than what it takes in UTF-8.
        width = len(" ".join(fields).encode("utf-8", _FS_ERRORS))
        self.told = self.errors.told if width <= columns else -1
        if self.has_colours:
            colour = next((each for bits, each in COLOURS if event.mask & bits), "0")
            fields[0] = "\x1b[2m%s\x1b[0m" % fields[0]
            fields[2] = "\x1b[%sm%s\x1b[0m" % (colour, fields[2])
        return " ".join(fields) + "\n"


def is_dumb():
    """Whether the terminal knows no escapes."""
    return os.environ.get("TERM", "dumb") in ("", "dumb")


def from_root(path, root, is_dir=False):
    """What to call a path below a root (None: as it is); "." is the root itself."""
    rest = None if root is None else below(path, root)
    path = path if rest is None else rest or "."
    return printable(with_slash(path) if is_dir and path != "." else path)


# --- for people: --top and --summary ---
#
# In come events, which a Tally counts, and keys; out go tables of it: on a screen, in a line, in a
# text at the end.  All memory is bounded.

TALLY_ROOM = 10000          # what is counted apart from the rest; beyond, there is less detail
TALLY_DEPTH = 64            # levels; what is deeper counts there


class Tally(Part):
    """How often what has happened, by whom and where, and which files grow; in bounded memory.

    total, last  Counter: (doer, directory, mask) -> events, in all, and in the `span` seconds
                 before `at`; a doer is (command, pid, user id), a directory "" stands for no path
    sizes        path -> [last known size, bytes grown in all, bytes grown in that span]
    show()       is called after each span; but for --top, of one with events
    """

    show = Part.nothing

    def __init__(self, watch, manner):
        self.watch, self.roots, self.manner = watch, watch.roots, manner
        self.begun = self.at = time.monotonic()
        self.total, self.last, self.recent = (collections.Counter() for _ in range(3))
        self.span, self.sizes, self.written = 1.0, {}, set()

    def add(self, events):
        doers, self.roots = {}, self.watch.roots or self.roots
        for event in events:
            path, mask, pid = event[:3]
            if pid not in doers:
                doers[pid] = event.comm or "?", pid, event.uid
            self.recent[doers[pid], self.place(event), mask] += 1
            if path and not mask & ISDIR and mask & (CREATE | MODIFY | CLOSE_WRITE | RENAME):
                size = self.sizes.pop(event.old_path or path, None)
                if size is None and len(self.sizes) < TALLY_ROOM:
                    # Of a file that was there before, what was written until now is not known.
                    size = [None if mask & CREATE else self.size_of(path), 0, 0]
                if size is not None:
                    self.sizes[path] = [0 if mask & CREATE else size[0]] + size[1:]
                    if mask & (MODIFY | CLOSE_WRITE | RENAME):     # or it may be a link
                        self.written.add(path)

    def size_of(self, path):
        """The size of a file in bytes; None where it is not known, or might never be."""
        try:
            return os.lstat(path).st_size if self.watch.answers(path) else None
        except OSError:
            return None

    def place(self, event):
        """The directory that an event counts in; "" where there is none.  A root is in itself."""
        path = event.path or ""
        if path.count("/") > TALLY_DEPTH:
            path = "/".join(path.split("/")[:TALLY_DEPTH + 1])
        return path if path in self.roots else self.above(path)

    def above(self, path):
        """The directory that a path is in; "" above a root."""
        if path in self.roots or path == "/":
            return ""
        return path.rpartition("/")[0] or path[:path.startswith("/")]

    def sums(self):
        """(the time of day, events in all, events of the last span)."""
        return time.strftime("%H:%M:%S"), sum(self.total.values()), sum(self.last.values())

    def due(self):
        left = max(0.0, self.at + 1 - time.monotonic())
        return left if self.recent or self.manner.options.top else None

    def advance(self):
        if self.due() == 0:
            self.tick()
            self.show()

    def tick(self):
        """Begin another span."""
        now = time.monotonic()
        self.span, self.at = max(0.001, now - self.at), now
        self.last, self.recent = self.less(self.recent), collections.Counter()
        self.total = self.less(self.total + self.last)
        for path, size in self.sizes.items():
            before = size[0]
            known = self.size_of(path) if path in self.written else before
            size[2] = 0 if None in (before, known) else max(0, known - before)
            size[:2] = before if known is None else known, size[1] + size[2]
        self.written.clear()
        if len(self.sizes) >= TALLY_ROOM:
            most = sorted(self.sizes.items(), key=lambda item: item[1][1])
            self.sizes = dict(most[-TALLY_ROOM // 2:])
    leave = tick

    def less(self, counts):
        """Of too many counts only the largest, and the rest by root."""
        if len(counts) <= TALLY_ROOM:
            return counts
        most = counts.most_common()
        counts = collections.Counter(dict(most[:TALLY_ROOM // 2]))
        for (_, directory, mask), count in most[TALLY_ROOM // 2:]:
            root = next((root for root in self.roots if below(directory, root) is not None), "")
            counts[("(others)", None, None), root, mask] += count
        return counts

    def table(self, focus, keys):
        """{key: [events, events of the last span]} of what is in or below a directory ("": all),
        by keys(doer, directory, mask), of which there may be several."""
        table = {}
        for which, counts in enumerate((self.total, self.last)):
            for (doer, directory, mask), count in counts.items():
                if not focus or not directory or below(directory, focus) is not None:
                    for key in keys(doer, directory or focus, mask):
                        table.setdefault(key, [0, 0])[which] += count
        return table

    def directories(self, focus, most, which):
        """{directory: [events, of the last span]} of the busiest subtrees, so many at most: each
        without what is shown of another in it.  The least busy by all events, or (`which` 1) by
        those of the last span, are counted where they are in."""
        table, sums = self.table(focus, lambda doer, directory, mask: [directory]), \
            collections.Counter()
        for directory, counts in table.items():
            sums[directory] += counts[which]
            while directory not in (focus, ""):
                directory = self.above(directory)
                sums[directory] += counts[which]
        # What a directory is in comes after it.
        for part in sorted(sums, key=lambda each: (sums[each], -len(each))):
            if len(table) > most and part in table and part not in (focus, ""):
                counts, row = table.pop(part), table.setdefault(self.above(part), [0, 0])
                row[:] = row[0] + counts[0], row[1] + counts[1]
        return table


ORDERS = ("total", "rate", "name")


def tables(tally, focus, order, room, seconds=None):
    """[(heading, rows)] of --top and --summary, of so many rows in all but for the headings.  A
    row: (label, number, number a second of the last span, or of all `seconds`, key)."""
    found = []

    def add(heading, table, label, most):
        rows = [(label(key), count, count / seconds if seconds else recent / tally.span, key)
                for key, (count, recent) in table.items()]
        rows.sort(key=lambda row: (-row[2] if order == "rate" else 0, -row[1], row[0]))
        found.insert(0, (heading, sorted(rows[:most]) if order == "name" else rows[:most]))
        return room - len(found[0][1])

    def process(key):
        return "%-16s%8s %s" % (printable(key[0]), text_of(key[1]),
                                "" if key[2] is None else printable(user_name(key[2])))
    room = add("GROWING FILE, BYTES", {
        path: size[1:] for path, size in tally.sizes.items()
        if size[1] and (not focus or below(path, focus) is not None)},
        lambda path: from_root(path, focus or None), room // 6)
    room = add("EVENT", tally.table(focus, lambda doer, _, mask: event_names(mask)), str, room // 3)
    processes = tally.table(focus, lambda doer, *_: [doer])
    if len(processes) > room // 2:      # too many: those of a name together
        processes = tally.table(focus, lambda doer, *_: [(doer[0], None, doer[2])])
    room = add("%-16s%8s USER" % ("PROCESS", "PID"), processes, process, room // 2)
    add("DIRECTORY", tally.directories(focus, room, order == "rate"),
        lambda path: from_root(path, focus or None, True) if path else "-", room)
    return found


def table_lines(heading, rows, keys=""):
    """A table, its heading first; before the labels of the first rows are the keys for them."""
    return ["%9s %9s    %s" % ("TOTAL", "A SECOND", heading)] + [
        "%9d %9.1f  %1s %s" % (row[1], row[2], keys[at:at + 1], row[0])
        for at, row in enumerate(rows)]


SUMMARY_COLUMNS = ("kind", "name", "pid", "uid", "seconds", "bytes", "total")


class Summary(Tally):
    """--summary: all that was counted, at the end and whenever SIGUSR1 comes.  For people it is the
    tables of --top, with rates over all the time; for programs see rows()."""

    def __init__(self, watch, manner):
        super().__init__(watch, manner)
        manner.signals.catch("SIGUSR1")

    def advance(self):
        super().advance()
        if self.manner.signals.had("SIGUSR1"):
            self.tick()
            self.finish()

    def finish(self):
        options, columns = self.manner.options, SUMMARY_COLUMNS + tuple(EVENTS)
        if not options.summary:
            return
        if options.json:
            lines = map(module("json", "writing --summary --json").dumps, self.rows())
        elif options.csv:
            lines = [",".join(columns)] + [",".join(csv_shown(text_of(row.get(name)))
                                                    for name in columns) for row in self.rows()]
        else:
            total, seconds = sum(self.total.values()), self.at - self.begun
            lines = ["%d events in %.1f s, %.1f a second" % (total, seconds, total / seconds)]
            for table in tables(self, "", ORDERS[0], 60, seconds):
                lines += [""] + table_lines(*table)
        self.manner.output.write("\n".join(lines) + "\n")

    def rows(self):
        """Dicts of all, the processes, the directories and the files that have grown, with
        SUMMARY_COLUMNS and numbers of events by name."""
        found = {("all",): collections.Counter(seconds=round(self.at - self.begun, 3), total=0)}
        for (doer, directory, mask), count in self.total.items():
            for key in ("all",), ("process",) + doer, ("directory", directory or None):
                row = found.setdefault(key, collections.Counter())
                for name in ("total",) + event_names(mask):
                    row[name] += count
        rows = sorted(found.items(), key=lambda item: (item[0][0], -item[1]["total"]))
        return [dict(zip(SUMMARY_COLUMNS, key), **counts) for key, counts in rows] + [
            {"kind": "file", "name": path, "bytes": size[1]} for path, size in sorted(
                self.sizes.items(), key=lambda item: -item[1][1]) if size[1]]


class Top(Summary):
    """--top where there is no terminal: a line a second, of what is new."""

    def show(self):
        parts = [", ".join("%s %.0f" % (" ".join(row[0].split()), row[2] * self.span)
                           for row in rows[:3] if row[2])
                 for _, rows in tables(self, "", "rate", 40)]
        self.manner.output.write("; ".join(filter(None, [
            "%s %d events, %d of them new" % self.sums()] + parts)) + "\n")


DIGITS = "123456789"
KEYS_SHOWN = "q quit   p pause   s sort   1 to 9: into a directory   left: out of it"


class Screen(Top):
    """--top on a terminal: tables renewed each second.  Only what has changed is written, since
    a serial line is slow."""

    def __init__(self, watch, manner):
        super().__init__(watch, manner)
        self.output, self.signals, self.errors = manner.output, manner.signals, manner.errors
        self.signals.catch("SIGTSTP", "SIGCONT", "SIGQUIT")
        self.signals.ending.add("SIGQUIT")      # by itself it would leave the terminal as it is
        self.notes = collections.deque(maxlen=1000)     # what is told meanwhile
        self.tell = self.notes.append       # instead of that of the errors
        self.tty, self.termios = module("tty", "reading keys"), module("termios", "reading keys")
        self.order, self.is_paused, self.focus = ORDERS[0], False, ""
        self.modes = None                   # of the terminal that keys come from, as they were

    def begin(self):
        """Take the terminal: another screen, no cursor, nothing wrapped; keys as they come."""
        self.shown, self.size = [], None
        self.manner.errors = self if os.isatty(self.errors.fd) else self.errors
        if os.isatty(0):
            try:
                modes = self.termios.tcgetattr(0)
                self.tty.setcbreak(0, self.termios.TCSANOW)
                if self.modes is None:
                    self.watch.wake_on(0)
                    self.modes = modes
            except self.termios.error:      # stopped by it, in the background, and continued;
                pass                        # or it has gone
        self.output.write("\x1b[?1049h\x1b[?25l\x1b[?7l")
        self.renew()

    def leave(self):
        super().leave()
        self.manner.errors = self.errors
        try:
            if not self.is_in_background():
                if self.modes is not None:
                    self.termios.tcsetattr(0, self.termios.TCSANOW, self.modes)
                self.output.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        except (OSError, self.termios.error):
            pass                            # it has gone
        while self.notes:
            self.errors.tell(self.notes.popleft())

    def is_in_background(self):
        """Whether the terminal is somebody else's now: who changes it then is stopped."""
        try:
            return os.tcgetpgrp(self.output.fd) != os.getpgrp()
        except OSError:
            return False                    # it controls nobody here

    def advance(self):
        super().advance()
        if self.signals.had("SIGTSTP"):
            self.leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            return None
        # Others had the terminal, whatever stopped fanfp.  Not where it is only to end.
        if self.signals.had("SIGCONT") and self.signals.number is None:
            self.begin()
        if self.modes is not None and readable(0):
            import re
            keys = os.read(0, 4096).decode("latin-1")
            if not keys or "q" in keys:
                return True
            for key in re.sub("\x1b[O[][0-9;]*", "", keys):    # or F5 would be 1 and 5, too
                self.press(key)
            self.renew()
        return None

    def press(self, key):
        if key in "p ":
            self.is_paused = not self.is_paused
        elif key == "s":
            self.order = ORDERS[(ORDERS.index(self.order) + 1) % len(ORDERS)]
        elif key in DIGITS[:len(self.choices)]:
            self.focus = self.choices[DIGITS.index(key)]
        elif key in "Dh\b\x7f":       # D: the end of the left arrow's
            self.focus = self.above(self.focus)

    def show(self):
        if not self.is_paused:
            self.renew()

    def renew(self):
        """Write what has changed since the last time."""
        text, size, before = "", self.output.size(), self.shown
        if size != self.size:
            self.size, before, text = size, [], "\x1b[2J"
        self.shown = self.lines(*size)
        for number, line in enumerate(self.shown):
            if before[number:number + 1] != [line]:
                # Erased before: after the last column the cursor is still in it.
                text += "\x1b[%d;1H\x1b[K%s\x1b[0m" % (number + 1, line)
        self.output.write(text)

    def lines(self, columns, rows):
        """The rows of the screen."""
        self.focus = self.focus or (self.roots[0] if len(self.roots) == 1 else "")
        found = tables(self, self.focus, self.order, max(0, rows - 6))
        self.choices = [row[-1] for row in found[0][1][:len(DIGITS)]]
        now, total, last = self.sums()
        title = "%s  %d events, %.1f a second  by %s%s  " % (
            now, total, last / self.span, self.order, ", paused" if self.is_paused else "")
        lines = [(title + shorten(printable(self.focus), columns - len(title)))[:columns]]
        for heading, table in found:
            keys = DIGITS if table is found[0][1] else ""
            texts = [shorten(text, columns) for text in table_lines(heading, table, keys)]
            lines += ["\x1b[1m" + texts[0]] + texts[1:]
        lines = (lines + [""] * rows)[:max(0, rows - 1)]
        return lines + [shorten(self.notes[-1] if self.notes else KEYS_SHOWN, columns)]


# --- a run ---
#
# In come Options, out goes the exit status: a Watch, the parts beside it, and the loop around both.
# What is told, and in which words, is a Manner's: fanfp's own or another's.

def choose_output(options, output, errors):
    """The function from events to text that the options ask for; the rest as for TerminalLines."""
    if options.top or options.summary:
        return lambda events: ""
    if options.json:
        module("json.encoder", "reading options: --json")
        return lambda events: json_lines(events, options.who)
    pattern, show = options.format, printable
    if options.csv:
        pattern = "%" + ",%".join(CSV + "".join(FORMAT_PROCESS) * bool(options.who))
        show = csv_shown
    if pattern is not None:
        raw = "0" in format_letters(pattern)            # names as they are, for xargs -0
        timefmt = TIME_FORMAT if options.timefmt is None else options.timefmt
        return format_lines(pattern, format_values(timefmt, str if raw else show),
                            "" if raw or options.no_newline else "\n",
                            lambda event: (event.moment, event.pid, event.mask))
    if os.isatty(output.fd):
        return TerminalLines(output, errors, WITH_ALL * bool(options.who),
                             options.exec is None and options.run is None)
    return lambda events: text_lines(events, WITH_ALL * bool(options.who))


def watch_arguments(options):
    """The arguments of the Watch that the options ask for, by name, but for `notice`."""
    given = {name: getattr(options, name) for name in ("filter", "latency")
             if getattr(options, name) is not None}
    for name in "include", "exclude":
        given[name] = [compiled(each, "--" + option, option != name) for option in (
            name, name + "i") for each in getattr(options, option)]
    return {"events": ",".join(options.event) if options.event else DEFAULT_EVENTS,
            "comm": options.comm, "pid": options.pid, "user": options.user,
            # An event waits for the commands before its own.
            "process": options.exec is not None, "ignore": options.ignore,
            "object": options.object, "ring": options.ring,
            "recursive": not options.no_recursive, "mounts": not options.one_file_system,
            "devices": bool(options.devices), "dereference": not options.no_dereference,
            "wait": bool(options.wait), "own": False, **given}


def make_runner(options, signals, tell):
    """The Runner of --exec or --run, with notes about the command told; None without."""
    if options.exec is None and options.run is None:
        return None
    words, notes = read_command(options.exec or options.run or "",
                                "--exec" if options.run is None else "--run")
    for note in notes if not options.quiet else ():
        tell(note)
    return Runner(words, signals, tell) if options.run is None \
        else BatchRunner(words, signals, tell, options)


def view_of(options, output):
    """The class of the Part that --top or --summary is."""
    return Summary if not options.top else \
        Screen if os.isatty(output.fd) and not is_dumb() else Top


class Manner(Part):
    """What a run tells, and in which words: fanfp's own.  Another is below: see Tool."""

    options = output = lines = None     # of the run; of the events, once it is open; their text
    has_terminal = False                # when it began, and SIGHUP does not just end it
    goes_on = True                      # until no root is left, which is told

    def __init__(self):
        self.signals = Signals()
        self.errors = Output(2, "standard error", self.signals)

    def tell(self, message):
        """Say what went wrong, or what is to be known."""
        self.errors.tell(message)

    def start(self):
        """The watch is about to be made."""
        self.lines = choose_output(self.options, self.output, self.errors)

    def ready(self, watch):
        """From now on nothing is missed."""
        if not self.options.quiet:
            self.tell("watching %s (filter: %s)" % (" ".join(map(printable, watch.roots)),
                                                    watch.filter))

    def advance(self):
        """SIGHUP has the output file opened again, which has been renamed meanwhile.  Where the
        terminal has gone it ends fanfp, as it does without a file."""
        if "SIGHUP" in self.signals.ending or not self.signals.had("SIGHUP"):
            return
        if self.has_terminal and not has_terminal():
            return self.signals.end(signal.SIGHUP)
        old = self.output
        try:
            # Never waits for who reads, if it is a pipe by now.
            fd = open_to_append(old.name, "the old file is written on", os.O_NONBLOCK)
        except Error as error:
            return self.tell(str(error))
        self.output = Output(fd, old.name, self.signals)
        for fd in {old.fd, old.own_fd}:
            os.close(fd)

    def choose(self, events):
        """Of what the watch has told, what is to be told on, as `lines` takes it; None: an end."""
        return events

    def end(self, status, roots):
        """All is over, with a status of the main loop and these roots left; the exit status."""
        if self.goes_on and not roots:
            self.tell("no root is left")
        return self.die(status)

    def die(self, status):
        """End as a program does that does not catch the signal that ended the run, so that a shell
        knows to end its loop; the exit status, where there was none."""
        if self.signals.number is None:
            return status
        signal.signal(self.signals.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.signals.number)
        # Still here: the first process of a container is not ended by it.
        return 128 + self.signals.number


def run(options, manner):
    """Watch and print until told to stop; the exit status."""
    manner.options, signals = options, manner.signals
    arguments = watch_arguments(options)
    runner = make_runner(options, signals, manner.tell)
    parts = [manner] + ([runner] if runner is not None else [])
    output = manner.output = open_output(options.outfile, signals, options.quiet < 2)
    raise_descriptor_limit()
    manner.start()
    with ProgramWatch(*options.rest, notice=manner.tell, **arguments) as watch:
        if runner is None:              # a command gets what fanfp was started with
            inner = options.wait or not (options.one_file_system or options.no_recursive)
            drop_capabilities(watch, inner, options.who or
                              "x" in format_letters(options.format or ""))
        signals.catch()
        if options.top or options.summary:
            parts.append(view_of(options, output)(watch, manner))
        watch.wake_on(signals.fd)
        if options.quiet < 2:
            try:
                watch.wake_on(output.fd, 0)
            except PermissionError:     # a file: nobody reads it as it is written
                if output.fd != 1:
                    signals.ending.discard("SIGHUP")
                    manner.has_terminal = has_terminal()
        manner.ready(watch)
        say_ready(manner.tell)
        gc.enable()
        try:
            for part in parts:
                part.begin()
            status = follow(watch, options, manner, parts, signals)
        except BrokenPipeError:
            status = 0
        except Error as error:          # of the output; what has been started is finished
            manner.tell(str(error))
            status = EXIT_ERROR
        finally:
            for part in parts:
                part.leave()
        roots, counters = watch.roots, watch.stats()
    for part in parts:
        part.finish()
    if options.stats:
        manner.tell("stats: " + ", ".join("%s %d" % item for item in counters.items()))
    return manner.end(status, roots)


def follow(watch, options, manner, parts, signals):
    """The main loop: read, print, do the parts of it, until the end; the exit status."""
    left = options.count
    timeout = options.timeout or None
    last = time.monotonic()
    while True:
        wait = None if timeout is None else max(0.0, last + timeout - time.monotonic())
        waits = [wait] + [part.due() for part in parts]
        wait = min((each for each in waits if each is not None), default=None)
        if signals.number is not None:  # what has happened by now, as long as it does not go on
            wait = min(signals.left(END_SECONDS), 0.01)
        events = watch.read(wait)
        signals.take()
        own = manner.output.path() if events and "inotify" in watch.filter else None
        if own is not None:             # which is another file since it was renamed
            events = [event for event in events if not is_own(event, own)]
        events = manner.choose(events)
        if events is None:
            return EXIT_ERROR
        if any([part.advance() for part in parts]):
            return 0
        if events:
            last = time.monotonic()
            if left is not None:
                events = events[:left]
                left -= len(events)
            if options.quiet < 2:
                manner.output.write(manner.lines(events))
            for part in parts:
                part.add(events)
        if left == 0:
            return 0
        if watch.ended:
            return EXIT_ERROR
        if signals.number is not None:
            if not watch.pending or not signals.left(END_SECONDS):
                return 0
        elif not events:
            if timeout is not None and time.monotonic() >= last + timeout:
                return EXIT_TIMEOUT
            if options.quiet < 2 and manner.output.broken():
                raise BrokenPipeError


def is_own(event, own):
    """Whether an event of inotify is of the file that fanfp itself writes."""
    if event.path is None or os.path.basename(event.path) != os.path.basename(own) \
            or not event.mask & (MODIFY | CLOSE_WRITE | OPEN):
        return False
    path = os.path.abspath(event.path)
    # Where the way leads into what somebody else answers for, it is not asked for.
    return path == own or not is_far(os.fsencode(path), far_paths(read_mounts())) \
        and os.path.realpath(path) == own


class ProgramWatch(Watch):
    """The Watch of the command line: its threads drop their capabilities, which are each thread's
    own, before they ask anything.

    In somebody's program they have what that has: where one thread may not change its user, and
    the others may, the C library ends the process.
    """

    def answers(self, path):
        """Whether it is known that nobody else has to answer for what a path leads to."""
        return not is_far(os.fsencode(path), self._sources.mount_list.far())

    @property
    def may_load(self):
        """Whether `trace` may have its first tree later: what is mounted, or a root that comes."""
        sources = self._sources
        return Trace not in sources.by_kind and sources.why_no_trace is None \
            and "trace" in sources.candidates()

    @staticmethod
    def _begin_thread():
        try:
            keep_capabilities(kept_to_read())
        except Error:
            pass                        # drop_capabilities() says so


def kept_to_read():
    """The capability to read what is closed to others."""
    # Root in a container has the second alone.
    return CAP_DAC_READ_SEARCH if capabilities() & CAP_DAC_READ_SEARCH else CAP_DAC_OVERRIDE


def drop_capabilities(watch, mounts, executables):
    """Keep only what watching on takes; what that is was found by trying without.

    Directories are read, climbed and opened by handle whatever their mode: CAP_DAC_READ_SEARCH.
    A file system that is mounted later, or has a root that comes later, is marked, or BPF programs
    are loaded for it: CAP_SYS_ADMIN, and CAP_SYSLOG to find rename_lock.
    Ignore marks, their flush, the maps of the BPF program and the names of processes take none;
    nor does what `trace` does for a mount or a root, where bpf(2) is for all who have the
    descriptors: 5.19.
    /proc/PID/exe of a process that may do more than this one is not to be read without
    CAP_SYS_PTRACE.
    """
    kept, filters = kept_to_read(), set(watch.filter.split("+")) - {"inotify"}
    if _kernel_release() < (5, 19):
        mounts = mounts or "trace" in filters
    elif not watch.may_load:
        filters.discard("trace")
    if mounts and filters:
        kept |= CAP_SYS_ADMIN | (CAP_SYSLOG if watch.may_load else 0)
    if executables:
        kept |= CAP_SYS_PTRACE
    try:
        keep_capabilities(kept)
    except Error as error:
        tell(str(error))


def fill_standard_descriptors():
    """Open those of 0, 1 and 2 that are closed: else a descriptor of ours gets the number, and
    events are written into it.  What is written to 1 is an error all the same."""
    for fd, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            open_null(flags)


def open_null(flags):
    """A descriptor of /dev/null; where there is none, one as good as closed, but with a number."""
    try:
        return os.open(os.devnull, flags)
    except OSError:
        return os.open("/", O_PATH)


def raise_descriptor_limit():
    """Allow as many descriptors as the system lets us: many roots and deep scans need them."""
    try:
        import resource
    except ImportError:
        return                          # this Python can't; see module()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- --probe ---
#
# In come roots, out go rows: what this host has, and what each filter says of each root when it is
# tried.

def probe(roots):
    """Print what this host has, and which filter `auto` would take for the roots and why."""
    def init(flags):
        os.close(fanotify_init(FAN_REPORT_FID | flags))
    def yes(is_so):
        return "yes" if is_so else "no"
    who, wrong = Who(), []
    who.attach()
    rows = [("kernel", "%s %s %s" % (os.uname().sysname, os.uname().release, os.uname().machine)),
            ("python", "%d.%d.%d" % sys.version_info[:3]),
            ("CAP_SYS_ADMIN", yes(capabilities() & CAP_SYS_ADMIN)),
            ("CAP_DAC_READ_SEARCH", yes(capabilities() & CAP_DAC_READ_SEARCH)),
            ("BTF", yes(os.path.exists("/sys/kernel/btf/vmlinux"))),
            ("fastpath", yes(os.path.isdir(FASTPATH_SYSFS))), ("fanotify", attempt(init, 0)),
            ("FAN_RENAME, target handles", attempt(
                init, FAN_REPORT_DIR_FID | FAN_REPORT_NAME | FAN_REPORT_TARGET_FID)),
            ("names of ended processes", who.means())]
    who.close()
    for root in roots:
        try:
            rows += [("root", printable(root))] + probe_root(root)
        except OSError as error:
            wrong.append(no_root(error, root))
    width = max(len(name) for name, _ in rows)
    say("".join("%-*s  %s\n" % (width, name, text) for name, text in rows))
    for error in wrong:
        tell(str(error))
    return EXIT_ERROR if wrong else 0


def probe_root(root):
    """Rows about one root.  Raises OSError where it can't be looked at."""
    def use(name):
        # What is below and mounted inside has its own answer.
        with Watch(root, filter=name, recursive=False, mounts=False,
                   notice=lambda _: None) as watch:
            return watch.filter if name == "auto" else None
    asked = Asked(lambda: mount_at(os.fsencode(root)))
    if not asked.has_come(ANSWER_SECONDS):
        return [("  error", "its file system does not answer; a start would wait for it")]
    if asked.error is not None:
        raise asked.error
    kind = next((mount.kind for mount in read_mounts() if mount.id == asked.answer[0]), "unknown")
    return [("  file system", kind)] + [("  filter " + name, attempt(use, name))
                                        for name in FILTER_NAMES[1:]] + [
        ("  auto takes", attempt(use, "auto"))]


def attempt(action, *arguments):
    """What an action returns, "yes" if that is nothing, or its Error as text."""
    try:
        return action(*arguments) or "yes"
    except OSError as error:
        return "no: " + worded(error)


# --- inotify-tools' own ---
#
# In comes a command line of inotifywait, fsnotifywait, inotifywatch or fsnotifywatch, out go their
# lines, messages and exit statuses.  A Tool is a Manner that has Options made of it for run(), and
# makes of each Event the Lines that inotify would have told; the rest is fanfp's.

TOOL_OPTIONS = {
    # Letter-name=argument, as getopt_long(3) is told them.
    "both": "h-help -fromfile=list -exclude=pattern -excludei=pattern -include=pattern "
            "-includei=pattern P-no-dereference r-recursive I-inotify F-fanotify S-filesystem "
            "-filter=name e-event=event[,event]",
    "wait": "m-monitor d-daemon o-outfile=file s-syslog q-quiet -format=fmt -no-newline "
            "-timefmt=fmt c-csv t-timeout=seconds",
    "watch": "v-verbose z-zero t-timeout=seconds a-ascending=event d-descending=event",
}
TOOL_IDLE = (
    # As IDLE, and maybe the words of the tool.
    ("--timefmt --no-newline", "!--format"),
    ("--exclude --excludei", "--include --includei",
     "include and exclude regexp cannot both be specified."),
    ("--exclude --include", "--excludei --includei"),
    ("--csv", "--format", "-c and --format cannot both be specified."),
    ("%T", "!--timefmt", "%T is in --format string, but --timefmt was not specified."),
    ("--daemon", "!--outfile", "-o must be specified with -d."),
    ("--ascending", "--descending", "Please specify -a or -d once only!"),
)
# The columns of inotifywatch.
TOOL_EVENTS = (ACCESS, MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE, OPEN, MOVED_FROM, MOVED_TO,
               MOVE_SELF, CREATE, DELETE, DELETE_SELF, UNMOUNT)
TOOL_GROUPS = {"close": CLOSE_WRITE | CLOSE_NOWRITE, "move": MOVED_FROM | MOVED_TO}
TOOL_WORDS = dict(TOOL_GROUPS, **{event_names(bit)[0].lower(): bit for bit in TOOL_EVENTS})
SELF = MOVE_SELF | DELETE_SELF | UNMOUNT

Line = collections.namedtuple("Line", "directory name mask cookie time")
"""What inotifywait prints a line of: %w, %f, one bit of an event and maybe ISDIR, %c, %T."""


def called_as(program, arguments):
    """(the tool of inotify-tools to be, or None; the arguments for it)."""
    flag, _, name = "".join(arguments[:1]).partition("=")
    if flag != "--as":
        name = os.path.basename(program)
        return name if name in TOOL_NAMES else None, arguments
    rest = arguments[1:]
    if not name:
        name, rest = "".join(rest[:1]), rest[1:]
    if name not in TOOL_NAMES:
        refuse("--as: it takes %s, not %s" % (", ".join(TOOL_NAMES), name or '""'))
    return name, rest


def mistake(message):
    """Raise the Error for a mistake on the command line, in the words of the tool."""
    raise Error(errno.EINVAL, message)


def tool_rows(name):
    """The options of a tool, as in OPTIONS, but what they are is in the tool's own manual."""
    words = TOOL_OPTIONS["both"] + " " + TOOL_OPTIONS[name.partition("notify")[2]]
    pairs = [word.partition("=")[::2] for word in words.split()]
    return [flag.partition("-")[::2] + (argument, "") for flag, argument in pairs]


def tool_mask(names):
    """The bits of events by name, as -e has them: 0 where there are none."""
    mask = 0
    for name in filter(None, ",".join(names).split(",")):
        if name.lower() not in TOOL_WORDS:
            mistake("'%s' is not a valid event!  Run with the '--help' option to see a list "
                    "of events." % printable(name))
        mask |= TOOL_WORDS[name.lower()]
    return mask


def tool_paths(given):
    """(what to watch, what not to): lists of paths, also of those that are in files."""
    names = list(given.rest)
    for path in given.fromfile:
        try:
            names += lines_of(path)
        except Error as error:
            tell("Couldn't open " + worded(error)[len("reading "):], "")
    roots = [name for name in names if name and name[0] != "@"]
    if not roots:
        mistake("No files specified to watch!")
    return roots, [name[1:].rstrip("/") for name in names if name[:1] == "@" and name[1:]]


def tool_search(given):
    """Whether --include or --exclude wants a path, a function of it."""
    for option in "exclude", "excludei", "include", "includei":
        if option in given.given:
            try:
                search = compiled(getattr(given, option), option, option[7:] == "i").search
            except Error as error:
                mistake("Error in `%s' regular expression.  %s" % (option[:7], worded(error)))
            return lambda path: bool(search(path)) == option.startswith("include")
    return lambda _: True


def tool_format(given):
    """The function from Lines to text that the options ask for."""
    show = csv_field if given.csv else str
    pattern = "%w,%e,%f" if given.csv else "%w %e %f" if given.format is None else given.format
    return format_lines(pattern, {
        "w": lambda line: show(line.directory), "f": lambda line: show(line.name),
        # Of inotifywait "CLOSE_WRITE,CLOSE" is one event.
        "e": lambda line: show(names_text(line.mask).replace("WRITE", "WRITE,CLOSE")),
        "c": lambda line: "%x" % line.cookie,
        "T": lambda line: time.strftime(given.timefmt, time.localtime(line.time))},
        "" if given.no_newline else "\n", lambda line: line.mask)


class Tool(Manner):
    """What inotifywait or fsnotifywait tells; `given`: the Options of its command line.

    A Watch tells of a name what has happened to it; inotify, on each directory that is watched,
    what its watch has seen: one thing at a time, of a directory in a tree that it was opened by
    the watch above it and by its own.  fsnotifywait's fanotify tells it by that of its own alone.
    """

    starts, established = "Setting up watches.", "Watches established."
    waits = True                        # or else it counts
    ready_fd = errors = before = None
    cookie = 0

    def __init__(self, name, given):
        self.given, self.signals = given, Signals()
        self.is_plain = name[0] == "i" or given.inotify     # it tells what inotify would
        self.asked = tool_mask(given.event) or sum(TOOL_EVENTS)
        used = {"--" + name for name in given.given}
        if self.waits and "%T" in (given.format or ""):
            used.add("%T")
        refuse_by(TOOL_IDLE, used, "{} and {} cannot both be specified.",
                  "{} cannot be specified without {}.", mistake)
        try:
            self.seconds = max(0, int(given.timeout or 0))
        except ValueError:
            mistake("'%s' is not a valid timeout value.\nPlease specify a long int value."
                    % printable(given.timeout))
        self.lines = tool_format(given) if self.waits else None
        self.search = tool_search(given)
        self.roots, self.left_out = tool_paths(given)
        self.goes_on = not self.waits or given.monitor or given.daemon
        if self.waits and (given.syslog or given.daemon):
            syslog = module("syslog", "reading options: --syslog")
            syslog.openlog(name, syslog.LOG_PID | syslog.LOG_NDELAY, syslog.LOG_DAEMON)
            self.say = syslog.syslog
        else:                           # of which a daemon keeps nothing open
            self.say = Output(2, "standard error", self.signals).say

    def read_options(self):
        """fanfp's options that do what this one's ask for."""
        given, options = self.given, Options([])
        roots = self.roots if self.is_plain else map(os.path.abspath, self.roots)
        options.rest = list(map(top_of_mount, roots) if given.filesystem else roots)
        options.event = list(event_names(self.asked | DIRENT | SELF))
        options.no_recursive = not given.filesystem and not given.recursive
        options.one_file_system = given.filesystem
        options.no_dereference = given.no_dereference
        if self.waits:
            options.count = None if self.goes_on else 1
            options.timeout = self.seconds
            options.quiet, options.outfile = given.quiet, given.outfile
        # Without privilege inotify is what is expected, and nothing to be said.
        options.filter = given.filter or (
            "inotify" if given.inotify or not capabilities() & CAP_SYS_ADMIN else None)
        return options

    def tell(self, message):
        if not message.endswith(LESSER["inotify"]):     # no tool tells who
            self.say("fanfp: " + message)

    def start(self):
        for option in ("exclude", "excludei"):
            if self.given.given.count(option) > 1:
                self.say("--%s: only the last option will be taken into consideration." % option)
        if not self.options.quiet:
            self.say("Setting up filesystem watches." if self.waits and self.given.filesystem else
                     self.starts + "  Beware: since -r was given, this may take a while!"
                     * (self.given.recursive and self.waits))

    def ready(self, watch):
        self.roots = watch.roots
        self.files = {root for root in watch.roots if not os.path.isdir(root)
                      or self.options.no_dereference and os.path.islink(root)}
        if not self.options.quiet:
            self.say(self.established)
        if self.ready_fd is not None:
            null = open_null(os.O_RDWR)
            for fd in range(3):
                os.dup2(null, fd)
            os.write(self.ready_fd, b"+")
            os.close(self.ready_fd)

    def choose(self, events):
        chosen = []
        for line in (line for event in events for line in self.told(event)):
            path = line.directory + line.name
            if line.mask & self.asked:
                if self.search(path) and not any(
                        below(path, top) is not None and path != top for top in self.left_out):
                    chosen.append(line)
            elif line.mask & (DELETE_SELF | UNMOUNT) and not (chosen or self.goes_on) \
                    and path.rstrip("/") in self.roots:
                return None
        return chosen

    def told(self, event):
        """The Lines of an Event, in the order in which it must have been."""
        path, mask, _, when, old_path, _ = event
        of_root = path in self.roots and event.root == path
        is_dir = mask & ISDIR
        # Whether a directory in the tree has a watch of its own.
        is_watched = is_dir and path and not (self.is_plain and self.options.no_recursive)
        self.cookie += 1
        for bit in map(EVENTS.get, event_names(mask & ~(OPEN_EXEC | Q_OVERFLOW))):
            parts = [(path, bit)] if bit != RENAME else [(old_path, MOVED_FROM), (path, MOVED_TO)]
            lines = [split_path(each) + (part | is_dir,) for each, part in parts]
            if of_root:
                lines = self.of_root(path, bit, is_dir)
            elif is_watched and bit & (LISTING | ATTRIB):
                lines = lines * self.is_plain + [(path + "/", "", bit | is_dir)]
            elif is_watched and self.is_plain and bit == DELETE:
                lines.insert(0, (path + "/", "", DELETE_SELF))
            elif is_watched and self.is_plain and bit & (RENAME | MOVED_FROM):
                lines.append((path + "/", "", MOVE_SELF))
            for directory, name, each in lines:
                yield Line(directory, name, each, self.cookie if each & TOOL_GROUPS["move"] else 0,
                           when)

    def of_root(self, path, bit, is_dir):
        """(directory, name, bits) of what has happened to a root.  Of a file inotify tells what
        comes of it for the one that had the name at the start."""
        if path not in self.files:
            shown = path if path.endswith("/") else path + "/", ""
            if bit & SELF and self.is_plain:
                is_dir = 0
            return [] if bit & DIRENT else [shown + (bit | is_dir,)]
        shown = (path, "") if self.is_plain else split_path(path)
        before, self.before = self.before, (path, bit)
        if bit & (DELETE | MOVED_TO):   # that it has lost a link is told by itself, or not
            return ([] if before == (path, ATTRIB) else [shown + (ATTRIB,)]) \
                + [shown + (DELETE_SELF,)]
        if bit == CREATE:
            return []
        return [shown + (MOVE_SELF if bit == MOVED_FROM else bit,)]


class CountingTool(Tool):
    """What inotifywatch or fsnotifywatch tells: a table, at the end."""

    starts = "Establishing watches..."
    established, waits = "Finished establishing watches, now collecting statistics.", False

    def __init__(self, name, given):
        super().__init__(name, given)
        self.counts = {}                    # {path: Counter of bits}
        self.signals.ending.add("SIGALRM")
        self.sign = -1 if given.ascending is None else 1
        key = given.ascending or given.descending or "total"
        self.key = dict(TOOL_WORDS, total=self.asked).get(key.lower())      # the bits to sort by
        if self.key is None:
            mistake("'%s' is not a valid key for sorting!" % printable(key))
        if not self.key & self.asked:
            mistake("Can't sort by an event which isn't being watched for!")

    def start(self):
        super().start()
        for root in self.options.rest if self.given.verbose and self.given.recursive else ():
            self.say("Setting up watch(es) on " + root)

    def ready(self, watch):
        if self.given.verbose:
            for root in watch.roots if self.given.recursive else ():
                self.say("OK, %s is now being watched." % root)
            self.say("Total of %d watches." % len(watch.roots))
        super().ready(watch)
        if self.given.verbose and self.seconds:
            self.say("Will listen for events for %d seconds." % self.seconds)
        self.signals.catch("SIGALRM")
        signal.alarm(min(self.seconds, 2**31 - 1))
        if self.given.zero:
            for line in (self.of_root(root, OPEN, 0)[0] for root in watch.roots):
                self.counts[line[0] + line[1]] = collections.Counter()

    def choose(self, events):
        for line in super().choose(events):
            row = line.directory if self.is_plain else line.directory + line.name
            self.counts.setdefault(row, collections.Counter())[line.mask & ~ISDIR] += 1
        return []

    def end(self, status, roots):
        if self.signals.number == signal.SIGALRM:
            self.signals.number = None      # who reads may take longer
        if any(self.counts.values()):
            self.output.write(self.table())
        else:
            self.say("No events occurred.")
        return EXIT_ERROR if status == EXIT_ERROR and roots else 0

    def table(self):
        """The counts, a row for each path."""
        bits = [bit for bit in TOOL_EVENTS if any(each[bit] for each in self.counts.values())
                or self.given.zero and bit & self.asked & ~UNMOUNT]
        paths = sorted(self.counts, key=lambda path: (self.sign * sum(
            count for bit, count in self.counts[path].items() if bit & self.key), path))
        columns = [["total"] + [sum(self.counts[path].values()) for path in paths]] + [
            [event_names(bit)[0].lower()] + [self.counts[path][bit] for path in paths]
            for bit in bits]
        widths = [max(len(str(cell)) for cell in column) for column in columns]
        line = "".join("%%-%ds  " % width for width in widths) + "%s\n"
        return "".join([line % row for row in zip(*columns, ["filename"] + paths)])


def top_of_mount(path):
    """The path at which the file system of a path is mounted."""
    try:
        number, _ = mount_at(os.fsencode(path))
    except OSError as error:
        mistake("Couldn't add filesystem watch %s: %s"
                % (printable(path), os.strerror(error.errno)))
    return next((os.fsdecode(mount.path) for mount in read_mounts() if mount.id == number), path)


def in_background():
    """Go on in the background.  Who called waits until something is written to the descriptor
    that is returned; if that never is, for the exit status."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child:
        os.close(write_end)
        os._exit(0 if os.read(read_end, 1) else os.WEXITSTATUS(os.waitpid(child, 0)[1])
                 or EXIT_ERROR)
    os.close(read_end)
    os.setsid()
    return write_end


def tool_words(name, error):
    """An Error in the words of a tool, where scripts look at them."""
    text = worded(error)
    root = text[len("watching "):].partition(": ")[0]
    if error.errno == errno.ENOSPC and "inotify" in text:
        return ("Failed to watch %s; upper limit on inotify watches reached!\nPlease increase the "
                "amount of inotify watches allowed per user via "
                "`/proc/sys/fs/inotify/max_user_watches'." % root)
    for start, words in (
            ("watching ", "Failed to watch " if name.endswith("watch") else "Couldn't watch "),
            ("opening ", "Failed to open output file ")):
        if text.startswith(start):
            return words + text[len(start):]
    return text


def run_tool(name, arguments):
    """Be one of inotify-tools; the exit status."""
    given = Options(arguments, tool_rows(name),
                    lambda why: mistake("%s: %s" % (name, printable(str(why)))))
    if given.help:
        say("%s (fanfp %s)\nUsage: %s [ options ] file1 [ file2 ] [ ... ]; @FILE: not this one\n"
            "\n%s\nSee %s(1).\n%s\n" % (
                name, __version__, name, help_rows(tool_rows(name)), name,
                folded("Events: " + " ".join(sorted(TOOL_WORDS)))))
        return EXIT_ERROR               # as they have it
    tool = (CountingTool if name.endswith("watch") else Tool)(name, given)
    options = tool.read_options()
    if tool.waits and given.daemon:
        tool.ready_fd = in_background()
    try:
        return run(options, tool)
    except Error as error:
        if not (tool.waits and given.syslog):       # -d alone is still in the foreground
            raise
        tool.say(tool_words(name, error))
        return EXIT_ERROR


# --- the start ---

def main():
    """Run the command line; the exit status."""
    tool = None
    try:
        # No KeyboardInterrupt: until all is ready there is nothing to do about it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        fill_standard_descriptors()
        tool, arguments = called_as(sys.argv[0], sys.argv[1:])
        gc.disable()                    # until all is ready nothing is garbage: see run()
        # For ps(1) and pkill(1): else it is one more python3.
        name = ctypes.create_string_buffer((tool or "fanfp").encode())
        call("prctl", PR_SET_NAME, ctypes.addressof(name), 0, 0, 0)
        if tool is not None:
            return run_tool(tool, arguments)
        options = Options(arguments)
        if options.help:
            return say(EXAMPLES + help_rows(OPTIONS) + EPILOG % (
                folded("default: " + " ".join(DEFAULT_EVENTS)),
                folded("events: " + " ".join(EVENTS)), KILL_SECONDS))
        if "as" in options.given:
            refuse("--as comes first, before all that is for a tool")
        if options.version:
            return say("fanfp %s\n" % __version__)
        if options.probe:
            if set(options.given) != {"probe"}:
                refuse("--probe takes roots and no other options")
            return probe(options.rest)
        if not options.rest:
            raise Error(errno.EINVAL, "watching: no root given; name a directory, or see --help")
        refuse_idle(options)
        return run(options, Manner())
    except BrokenPipeError:
        return 0
    except OSError as error:
        if tool is None:
            tell(worded(error))
        else:
            tell(tool_words(tool, error), "")
        return EXIT_ERROR
    except MemoryError:
        tell("watching: out of memory; see ulimit -v, or the limit of the control group")
        return EXIT_ERROR


if __name__ == "__main__":
    sys.exit(main())
