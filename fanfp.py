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
    3. Directories               file handle -> path
    4. BPF objects               reading, relocating and loading them
    5. Filters                   which events reach user space, and the fanotify group
    6. inotify                   for where fanotify cannot be had
    7. Watch                     the public interface
    8. The command line
"""

import collections
import ctypes
import errno
import os
import select
import struct
import sys
import time

__version__ = "1.0"
__all__ = ["Watch", "Event", "Error", "EVENTS", "DEFAULT_EVENTS"]


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
IN_IGNORED = 0x8000                     # inotify only
EVENT_ON_CHILD = 0x08000000             # fanotify only
RENAME = 0x10000000                     # fanotify only (5.17); fanfp makes it from inotify's pair
ISDIR = 0x40000000                      # FAN_ONDIR, IN_ISDIR

# inotify_add_watch(2) flags
IN_ONLYDIR = 0x01000000
IN_DONT_FOLLOW = 0x02000000
IN_MASK_ADD = 0x20000000

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
MAX_HANDLE_SZ = 128
O_PATH_DIR = getattr(os, "O_PATH", 0o10000000) | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
O_READ_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class Error(OSError):
    """Anything a person can meet: what was being done, on what, why not, and what to do.

    An OSError: `errno` is the number, str() the one line to show.  `detail` has further
    lines where there are any (a verifier's log), else "".
    """

    def __init__(self, number, message, detail=""):
        super().__init__(number, message)
        self.detail = detail

    def __str__(self):
        return self.strerror


def failure(number, doing, on="", hint=""):
    """The Error for errno `number` met while `doing` something `on` a thing; `hint`: what to do."""
    text = doing + (" " + printable(on) if on else "") + ": " + os.strerror(number)
    return Error(number, text + ("; " + hint if hint else ""))


PROTOTYPES = {
    "fanotify_init": (ctypes.c_uint, ctypes.c_uint),
    "fanotify_mark": (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int,
                      ctypes.c_char_p),
    "name_to_handle_at": (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p,
                          ctypes.c_int),
    "open_by_handle_at": (ctypes.c_int, ctypes.c_char_p, ctypes.c_int),
    "inotify_init1": (ctypes.c_int,),
    "inotify_add_watch": (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32),
    "inotify_rm_watch": (ctypes.c_int, ctypes.c_int),
    "statfs": (ctypes.c_char_p, ctypes.c_void_p),
    "statfs64": (ctypes.c_char_p, ctypes.c_void_p),
}
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
        try:
            function = getattr(libc(), name)
        except AttributeError:
            raise Error(errno.ENOSYS, "calling %s: this C library has no such function; "
                                      "use another Python build or --filter inotify" % name)
        function.argtypes = PROTOTYPES[name]
        _functions[name] = function
    return function(*arguments)


NEEDS_ROOT = "needs root (CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH), or --filter inotify"


def fanotify_init(flags):
    """A new notification group: its file descriptor.  fanotify_init(2)."""
    fd = call("fanotify_init", flags | FAN_CLASS_NOTIF | FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY)
    if fd < 0:
        number = ctypes.get_errno()
        hint = {errno.EPERM: NEEDS_ROOT,
                errno.ENOSYS: "this kernel has no fanotify; use --filter inotify",
                errno.EMFILE: "too many groups or descriptors; see "
                              "/proc/sys/fs/fanotify/max_user_groups and ulimit -n"}
        raise failure(number, "making a fanotify group", "", hint.get(number, ""))
    return fd


def fanotify_mark(group, flags, mask, directory, path, shown=""):
    """Add, remove or flush marks of a group.  fanotify_mark(2).  `path` is bytes or None."""
    if call("fanotify_mark", group, flags, mask, directory, path) < 0:
        number = ctypes.get_errno()
        hint = {errno.EPERM: NEEDS_ROOT,
                errno.ENOSPC: "see /proc/sys/fs/fanotify/max_user_marks",
                errno.EOPNOTSUPP: "this file system has no file handles; use --filter inotify",
                errno.ENODEV: "this file system has no identifier; use --filter inotify",
                errno.EXDEV: "a subvolume can't be marked; use --filter inotify"}
        raise failure(number, "marking", shown or os.fsdecode(path or b""), hint.get(number, ""))


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


def open_by_handle(mount_fd, handle):
    """An O_PATH descriptor (which makes no event) of the directory of a handle, or OSError.

    ESTALE: it is gone.  open_by_handle_at(2).  `mount_fd`: any ordinary descriptor there.
    """
    fd = call("open_by_handle_at", mount_fd, handle, O_PATH_DIR)
    if fd < 0:
        number = ctypes.get_errno()
        raise failure(number, "opening a file handle", "",
                      "needs CAP_DAC_READ_SEARCH" if number == errno.EPERM else "")
    return fd


def fd_path(fd):
    """The path of an open descriptor, as bytes, as it is now.  Needs /proc."""
    try:
        return os.readlink(b"/proc/self/fd/%d" % fd)
    except FileNotFoundError:
        raise Error(errno.ENOENT, "reading /proc/self/fd: /proc is not mounted; "
                                  "mount -t proc proc /proc")


def filesystem_id(path):
    """The 8 bytes by which fanotify events name the file system of `path`.  statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    machine, wide = os.uname().machine, sys.maxsize > 2 ** 32
    if call("statfs" if wide else "statfs64", path, buffer) < 0:
        raise failure(ctypes.get_errno(), "asking for the file system of", os.fsdecode(path))
    # f_fsid comes after f_type, f_bsize and five counts.  The first two are words, but 32 bits
    # on s390; the counts are 64 bits; MIPS has one word more.
    offset = 48 if machine.startswith("s390") or not wide else 56
    if machine.startswith("mips") and wide:
        offset = 64
    return buffer.raw[offset:offset + 8]


def printable(text):
    """`text` with what could move a terminal or end a line written as an escape (\\n, \\x1b).

    Backslashes are doubled, so that the result says exactly which name it is.  Bytes that are
    no UTF-8 come as \\xNN.
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
        "\\x%02x" % code if code < 0x100 else
        "\\u%04x" % code if code < 0x10000 else "\\U%08x" % code)


# =============================================================================================
# 2. Events
# =============================================================================================

EVENTS = {
    "ACCESS": ACCESS, "MODIFY": MODIFY, "ATTRIB": ATTRIB, "CLOSE_WRITE": CLOSE_WRITE,
    "CLOSE_NOWRITE": CLOSE_NOWRITE, "OPEN": OPEN, "OPEN_EXEC": OPEN_EXEC,
    "MOVED_FROM": MOVED_FROM, "MOVED_TO": MOVED_TO, "CREATE": CREATE, "DELETE": DELETE,
    "DELETE_SELF": DELETE_SELF, "MOVE_SELF": MOVE_SELF, "RENAME": RENAME,
    "UNMOUNT": UNMOUNT, "Q_OVERFLOW": Q_OVERFLOW,
}
"""Every event's name and bit.  The names are those of inotifywait."""

DEFAULT_EVENTS = ("CREATE", "DELETE", "MODIFY", "CLOSE_WRITE", "RENAME", "MOVED_FROM", "MOVED_TO",
                  "DELETE_SELF", "MOVE_SELF")
"""Changes of names and contents.  Not ATTRIB: every unlink makes one that no mark can hold back."""

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
    for name in names:
        for each in GROUPS.get(name.upper(), (name.upper(),)):
            if each not in EVENTS:
                raise Error(errno.EINVAL, "choosing events: there is no event %s; there are %s"
                            % (printable(name), " ".join(list(EVENTS) + list(GROUPS))))
            mask |= EVENTS[each]
    return mask


class Event(collections.namedtuple("Event", "path mask pid time old_path")):
    """One event, or several of one name that the kernel merged while they waited.

    path      str as os.fsdecode gives it, or None for Q_OVERFLOW and for what can't be named
    mask      int, bits of EVENTS and ISDIR
    pid       int, process id of who did it; None where inotify, which does not say, is used
    time      float, seconds since the epoch, when it was read
    old_path  str, the path before a RENAME, else None
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


# --- what read(2) gives on a fanotify descriptor, fanotify(7) ---

# struct fanotify_event_metadata, then the start of the first information record:
# event_len, (vers, reserved, metadata_len), mask, fd, pid | info_type, pad, len, fsid, file_handle
METADATA = struct.Struct("=IIQii")
FIRST_INFO = struct.Struct("=IIQ4xiBxH8xI4x")
INFO = struct.Struct("=BxH8xI4x")
VERSION = struct.unpack("=I", struct.pack("=BBH", 3, 0, METADATA.size))[0]

# Record types, enum fanotify_event_info_type.  DFID_NAME has a directory's handle and a name.
INFO_FID = 1
INFO_DFID_NAME = 2
INFO_DFID = 3
INFO_OLD_DFID_NAME = 10
INFO_NEW_DFID_NAME = 12

DIRENT = MOVED_FROM | MOVED_TO | CREATE | DELETE | RENAME
MOVES = MOVED_FROM | MOVED_TO | RENAME
# Events that need more than a directory and a name; decode() gives these all their records.
INTRICATE = ISDIR | MOVES | DELETE_SELF | MOVE_SELF | Q_OVERFLOW

Raw = collections.namedtuple("Raw", "mask pid key name target old_key old_name end")
"""A decoded event.  A key is the bytes of a file-system id and a file handle.

key, name          of the directory and the entry in it; None where the event has none
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
    found = {}
    info_at = at + METADATA.size
    while info_at < end:
        if end - info_at < 4:
            raise damaged(at, "an information record is cut off")
        kind, info = struct.unpack_from("=BxH", buffer, info_at)
        if not 4 <= info <= end - info_at:
            raise damaged(at, "an information record of %d bytes" % info)
        if kind in (INFO_FID, INFO_DFID, INFO_DFID_NAME, INFO_OLD_DFID_NAME, INFO_NEW_DFID_NAME):
            found[kind] = decode_info(buffer, info_at, info, kind, at)
        info_at += info
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


def damaged(at, what):
    """The Error for a buffer that can't be decoded at offset `at`."""
    return Error(errno.EBADMSG, "decoding fanotify events at byte %d: %s; please report this "
                                "with the output of uname -a" % (at, what))


_FS_ENCODING = sys.getfilesystemencoding()
_FS_ERRORS = "surrogateescape"


# =============================================================================================
# 3. Directories: file handle -> path
# =============================================================================================
# Events name a directory by its handle.  `links` holds, for each directory known to be in a
# tree, its parent and its name; a root's link is (None, what to show for it).  Invariant: a
# link says where the directory was when the event being judged happened.  Three sources:
#
#   - events judged: CREATE, RENAME, MOVED_TO, DELETE of a directory carry its own handle;
#   - events still in the queue: a directory that is going to be renamed, moved out or deleted
#     is now where that event says it was (see Fanotify.look_ahead);
#   - the kernel: open by handle and walk up with "..".  That tells where it is now, which is
#     the same thing once no event in the queue says otherwise.
#
# Walking up compares handles, never paths, so it does not matter what the roots are called by
# now, through which mount one looks, or how many roots there are.

TABLE_LIMIT = 1 << 17                   # directories remembered; some 40 MB when full
PREFIX_LIMIT = 4096                     # longer paths are composed anew each time


class Gone(Exception):
    """The handle of a directory opens no more."""


class Unknown(Exception):
    """No link leads from this key; args[0] is where the way up stops."""


class Root:
    """A directory given to watch, or the root of a mount inside one.

    display  str, as the user gave it, without trailing slashes
    fd       an ordinary descriptor of the directory.  It pins the mount, as a shell in it
             would; so a mount inside the tree has none and is opened when needed
    only     bytes, the name of the one file to watch in it, or None: the whole tree
    """

    def __init__(self, display, path, only=None, pinned=True):
        self.display, self.path, self.only = display, path, only
        self.fd = os.open(path, O_READ_DIR) if pinned else None
        try:
            fd = self.fd if pinned else os.open(path, O_READ_DIR)
            try:
                self.device = os.fstat(fd).st_dev
                handle, self.mount_id = name_to_handle(fd, shown=display)
            finally:
                if not pinned:
                    os.close(fd)
            self.key = filesystem_id(path) + handle
            self.parent_key = self.name = None
            self.renamed = False            # since the queue was last empty
            self.find_parent()
        except BaseException:
            self.close()
            raise

    def find_parent(self):
        """Learn in which directory the root is an entry, for its own renames and removal."""
        if self.fd is None:
            return
        up = os.open(b"..", O_PATH_DIR, dir_fd=self.fd)
        try:
            handle, mount_id = name_to_handle(up)
        finally:
            os.close(up)
        at_top = mount_id != self.mount_id or self.key[8:] == handle
        self.parent_key = None if at_top else self.key[:8] + handle
        self.path = fd_path(self.fd)
        self.name = os.path.basename(self.path)

    def open_mount(self):
        """(descriptor for open_by_handle, whether to close it); OSError when unmounted."""
        if self.fd is not None:
            return self.fd, False
        fd = os.open(self.path, O_READ_DIR)
        if os.fstat(fd).st_dev != self.device:
            os.close(fd)
            raise Gone
        return fd, True

    def removed(self):
        """Whether the directory has been deleted."""
        return self.fd is not None and os.fstat(self.fd).st_nlink == 0

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Directories:
    """The table.  `met_outside(key, fd)` is called with each directory found to be outside."""

    def __init__(self, met_outside):
        self.met_outside = met_outside
        self.prefixes = {}      # key -> "path/" to put before a name, or None: outside
        self.links = {}         # key -> (parent key, name)
        self.outside = set()    # keys met on the way up from an outside directory, and exiles
        self.exiles = False     # whether a directory with links under it has been moved out
        self.anchors = {}       # the links that are never forgotten: roots and mounts
        self.mounts = {}        # file-system id -> roots on it, one for each mount
        self.fringe = set()     # keys of the directories that have a root as an entry

    # --- roots ---

    def add(self, root, parent=None, name=None):
        """Anchor a root: shown as itself or, for a mount in the tree, below its parent."""
        if root.only is None:
            display = root.display if root.display.endswith("/") else root.display + "/"
            link = (None, display) if parent is None else (parent, name)
            self.anchors[root.key] = self.links[root.key] = link
            self.prefixes.clear()
            self.outside.clear()
        others = self.mounts.setdefault(root.key[:8], [])
        others.append(root)
        self.fringe.add(root.parent_key)

    def remove(self, root):
        """Forget a root and what is known below it."""
        self.anchors.pop(root.key, None)
        if root in self.mounts.get(root.key[:8], ()):
            self.mounts[root.key[:8]].remove(root)
        self.forget()

    def forget(self):
        """Forget all but the anchors: the kernel will be asked again."""
        self.prefixes.clear()
        self.outside.clear()
        self.links = dict(self.anchors)
        self.exiles = False

    # --- what is known ---

    def compose(self, key):
        """The prefix of a directory by its links, or None: outside.  Raises Unknown."""
        names, at, prefixes = [], key, self.prefixes
        while True:
            base = prefixes.get(at, "")
            if base is None or at in self.outside:
                return None
            if base:
                break
            link = self.links.get(at)
            if link is None:
                raise Unknown(at)
            at, name = link
            if at is None:
                base = name
                break
            names.append(name)
            if len(names) > 100000:     # links make no ring; if they did, the kernel knows
                raise Unknown(key)
        prefix = base
        if names:
            names.reverse()
            prefix += "/".join(names) + "/"
        if len(prefix) <= PREFIX_LIMIT:
            prefixes[key] = prefix
        return prefix

    def trim(self):
        """Keep the tables within TABLE_LIMIT by forgetting their older halves.

        Returns whether links were forgotten, some of which the queue may have told.
        """
        if len(self.outside) > TABLE_LIMIT:
            if not self.exiles:
                self.outside.clear()
            else:
                self.forget()
        if len(self.prefixes) > TABLE_LIMIT:
            self.prefixes = dict(list(self.prefixes.items())[TABLE_LIMIT // 2:])
        if len(self.links) <= TABLE_LIMIT:
            return False
        self.links = dict(list(self.links.items())[TABLE_LIMIT // 2:])
        self.links.update(self.anchors)
        return True

    # --- what the events tell ---

    def learn(self, key, parent, name):
        """A directory is now (made, or renamed within the tree) `name` in `parent`."""
        if key in self.anchors:
            return
        known = key in self.links
        self.links[key] = (parent, os.fsdecode(name))
        self.outside.discard(key)
        if known:
            self.prefixes.clear()       # paths under it follow; filled again as they are used
        else:
            self.prefixes.pop(key, None)

    def expect(self, key, parent, name):
        """An event in the queue says that a directory is, until then, `name` in `parent`."""
        self.links.setdefault(key, (parent, os.fsdecode(name)))

    def exile(self, key):
        """A directory has been moved out of the tree, and all below it."""
        if key in self.anchors:
            return
        self.links.pop(key, None)
        self.outside.add(key)
        self.exiles = True
        self.prefixes.clear()

    def enter(self, key, parent, name):
        """A directory has been moved into the tree: what was outside may not be any more."""
        if self.exiles:
            self.forget()
        self.prefixes.clear()
        self.outside.clear()
        if key is not None and key not in self.anchors:
            self.links[key] = (parent, os.fsdecode(name))

    def delete(self, key):
        """A directory has been deleted."""
        if key not in self.anchors:
            self.links.pop(key, None)
            self.prefixes.pop(key, None)

    # --- what the kernel tells ---

    def locate(self, key):
        """Where a directory is now: links from it up to a known one, or None: outside.

        Links are (key, parent key, name), the directory's own first.  Raises Gone, or OSError
        where the kernel can't tell for a reason of its own.
        """
        roots = self.mounts.get(key[:8]) or [root for roots in self.mounts.values()
                                             for root in roots]
        looked, passed, outside_fd = set(), [], None
        try:
            for root in roots:
                if root.mount_id in looked:
                    continue
                looked.add(root.mount_id)
                try:
                    fd = open_in(root, key[8:])
                except Gone:
                    continue
                try:
                    trail, inside = self._trail(fd, key, root.mount_id)
                    if inside:
                        return name_trail(fd, trail)
                    passed += trail[1:]
                    if outside_fd is None:
                        outside_fd, fd = fd, None
                finally:
                    if fd is not None:
                        os.close(fd)
            if outside_fd is None:
                raise Gone
            self.outside.update(passed)
            self.met_outside(key, outside_fd)
            return None
        finally:
            if outside_fd is not None:
                os.close(outside_fd)

    def _trail(self, fd, key, mount_id):
        """(keys from a directory up to the first that is known or the top, whether in a tree)."""
        trail, at = [key], fd
        try:
            while True:
                try:
                    up = os.open(b"..", O_PATH_DIR, dir_fd=at)
                except FileNotFoundError:       # not below the root of this (bind) mount
                    return trail, False
                if at != fd:
                    os.close(at)
                at = up
                handle, mount = name_to_handle(at)
                above = key[:8] + handle
                if mount != mount_id or above == trail[-1] or above in self.outside:
                    return trail, False
                trail.append(above)
                if above in self.links:
                    return trail, True
        finally:
            if at != fd:
                os.close(at)


def open_in(root, handle):
    """An O_PATH descriptor of a directory on the mount of a root.  Raises Gone."""
    try:
        mount_fd, temporary = root.open_mount()
    except OSError:
        raise Gone
    try:
        return open_by_handle(mount_fd, handle)
    except OSError as error:
        if error.errno in (errno.ESTALE, errno.ENOENT, errno.ENOTDIR):
            raise Gone
        raise
    finally:
        if temporary:
            os.close(mount_fd)


def name_trail(fd, trail):
    """Links for a trail of keys, with names from the path of its first directory, open as fd."""
    try:
        path = fd_path(fd)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        names = names_by_search(fd, len(trail) - 1)
    else:
        if os.fstat(fd).st_nlink == 0 and path.endswith(b" (deleted)"):
            path = path[:-len(b" (deleted)")]
        names = path.split(b"/")[:-len(trail):-1]
    return [(key, parent, os.fsdecode(name))
            for key, parent, name in zip(trail, trail[1:], names)]


def names_by_search(fd, count):
    """The names of a directory and its parents, `count` of them, where no path can hold them.

    /proc gives no path of more than 4096 bytes, so each is looked for in its parent by number.
    """
    names, at = [], os.dup(fd)
    try:
        for _ in range(count):
            number = os.fstat(at).st_ino
            up = os.open(b"..", O_READ_DIR, dir_fd=at)
            os.close(at)
            at = up
            names.append(next((name for name in map(os.fsencode, os.listdir(at))
                               if os.stat(name, dir_fd=at, follow_symlinks=False).st_ino
                               == number), None))
            if names[-1] is None:
                raise Gone
    finally:
        os.close(at)
    return names


# --- mounts ---

Mount = collections.namedtuple("Mount", "id device root path kind")


def read_mounts():
    """The mounts of this process: a list of Mount, paths as bytes.  proc(5), mountinfo."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise failure(error.errno, "reading the list of mounts", "/proc/self/mountinfo",
                      "/proc is not mounted? mount -t proc proc /proc")
    mounts = []
    for line in lines:
        fields = line.split(b" ")
        mounts.append(Mount(int(fields[0]), fields[2], unescape_octal(fields[3]),
                            unescape_octal(fields[4]),
                            os.fsdecode(fields[fields.index(b"-") + 1])))
    return mounts


def unescape_octal(path):
    """A path of /proc/self/mountinfo, where space, tab, newline and backslash are octal."""
    if b"\\" not in path:
        return path
    first, *rest = path.split(b"\\")
    return first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def below(path, top):
    """What follows `top` in `path`, b"" for itself; None where it is not below it."""
    if path == top:
        return b""
    top = top if top.endswith(b"/") else top + b"/"
    return path[len(top):] if path.startswith(top) else None


# =============================================================================================
# 5. Filters: which events reach user space
# =============================================================================================
# A filter keeps events from outside the tree from reaching user space.  It may let too much
# through, since each event is judged here all the same; it may never hold back one of the tree.

# Asked for whatever the user wants: without these the table of directories would go wrong.
ALWAYS_ASKED = DELETE | MOVED_FROM | MOVED_TO | RENAME

# The bits fanotify can be asked for on a file system.  The rest is made here: DELETE_SELF and
# MOVE_SELF of a root from what happens to it as an entry of its parent (a *_SELF of any file on
# the file system would wake us, and an open root is never "deleted" itself); UNMOUNT from
# mountinfo.
ASKABLE = (ACCESS | MODIFY | ATTRIB | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | OPEN_EXEC | MOVED_FROM
           | MOVED_TO | CREATE | DELETE | RENAME)


class UserFilter:
    """No filter: every event of the file system comes, and user space drops what is outside."""

    name = "user"

    def __init__(self, group):
        self.group = group

    def prepare(self, root):
        """Called before the file system of a root is marked; raises Error where it can't work."""

    def outside(self, key, fd):
        """A directory outside the tree, open as `fd` (O_PATH), has been heard from."""

    def moved_in(self):
        """A directory that was outside is in the tree now, with all below it."""


class MarksFilter(UserFilter):
    """An ignore mark on each outside directory that is heard from, so that it is not again.

    Evictable marks pin no inode: memory pressure may drop one, and one more event sets it again.
    """

    name = "marks"
    IGNORE = FAN_MARK_IGNORE | FAN_MARK_IGNORED_SURV_MODIFY | FAN_MARK_EVICTABLE

    def prepare(self, root):
        # Tried on the root itself, and taken away, before the first event can be missed.
        for flags in (FAN_MARK_ADD, FAN_MARK_REMOVE):
            try:
                fanotify_mark(self.group.fd, flags | (self.IGNORE if flags == FAN_MARK_ADD
                                                      else FAN_MARK_IGNORE),
                              OPEN_EXEC | EVENT_ON_CHILD, root.fd, b".", root.display)
            except Error as error:
                if error.errno == errno.EINVAL:
                    raise Error(errno.EINVAL, "setting an ignore mark on %s: this kernel has none "
                                "that ignores by directory (Linux 6.0 has); use --filter user"
                                % printable(root.display))
                raise

    def outside(self, key, fd):
        # The mark of a directory also hides the events of its children, and a root may be one.
        # Those that tell of a root (its rename, its removal) are of a directory: without ONDIR
        # they come.
        mask = self.group.asked | EVENT_ON_CHILD
        if key not in self.group.directories.fringe:
            mask |= ISDIR
        try:
            fanotify_mark(self.group.fd, FAN_MARK_ADD | self.IGNORE, mask, fd, b".")
            self.group.stats["ignore marks set"] += 1
        except OSError as error:
            # ENOENT: removed meanwhile.  Anything else costs events that are dropped here.
            if error.errno != errno.ENOENT:
                self.group.notice("%s; events outside the tree will cost more" % error)

    def moved_in(self):
        # What came in may carry ignore marks anywhere.  The file-system marks stay.
        fanotify_mark(self.group.fd, FAN_MARK_FLUSH, 0, AT_FDCWD, None)
        self.group.stats["flushes"] += 1


FILTERS = {"marks": MarksFilter, "user": UserFilter}
"""The filters that need fanotify, by name, the better first."""

READ_SIZE = 1 << 16                 # below malloc's mmap threshold: a fresh mapping costs more
AHEAD_LIMIT = 64 << 20              # bytes of the queue read ahead of what is judged
HELD_SECONDS = 0.1                  # how long a removed directory may take to tell its name
HELD_LIMIT = 1 << 16


class Held(Exception):
    """The event can't be judged before that of the removal of directory args[0] is read."""


class Batch:
    """A buffer read from the group and not judged to its end."""

    __slots__ = ("buffer", "scanned", "moves")

    def __init__(self, buffer):
        self.buffer = buffer
        self.scanned = False
        self.moves = 0              # directories moved or removed in it, once scanned


class Fanotify:
    """A fanotify group with file-system marks, and the judging of its events.

    read() gives the events of the trees and no others.  What makes that hard is that an event
    tells of a moment past and the kernel answers for now; see section 3, and look_ahead().
    """

    def __init__(self, mask, filter_name, notice):
        self.notice = notice
        self.mask = mask | ALWAYS | ISDIR
        self.pid = os.getpid()
        self.roots = []                     # given ones; mounts in the tree are in .mounted
        self.mounted = []
        self.files = {}                     # key of a directory -> {name: Root of one file}
        self.marked = {}                    # file-system id -> a root on it
        self.stats = collections.Counter()
        self.queue = collections.deque()    # Batches
        self.unread = False                 # whether the last read may have left something
        self.held = collections.OrderedDict()   # key -> (when, [Raw])
        self.renamed = {}                   # halves of RENAMEs judged that are still to come
        self.early = set()                  # halves judged before their RENAME
        self.coming = {}                    # halves of RENAMEs seen by look_ahead
        self.lossy = False                  # an overflow: absence of an event proves nothing
        self.out = []
        base = FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME
        base |= FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS
        self.asked = (mask & ASKABLE) | ALWAYS_ASKED
        self.targets = True
        try:
            self.fd = fanotify_init(base | FAN_REPORT_TARGET_FID)
        except Error as error:
            if error.errno != errno.EINVAL:
                raise
            self.targets = False            # before Linux 5.17: no FAN_RENAME either
            self.asked &= ~RENAME
            self.fd = fanotify_init(base)
        self.filter = FILTERS[filter_name](self)
        self.directories = Directories(self.filter.outside)

    # --- roots and mounts ---

    def add(self, root, parent=None, name=None):
        """Watch a root.  For a mount inside a tree, `parent` and `name` say where it is."""
        if root.fd is not None:
            self.filter.prepare(root)
            check_handles(root)
        fsid = root.key[:8]
        if fsid not in self.marked:
            # Anchored first: its events may come as soon as it is marked.
            fanotify_mark(self.fd, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, self.asked | ISDIR,
                          AT_FDCWD, root.path, root.display)
            self.marked[fsid] = root
        elif parent is not None:
            self.filter.moved_in()          # a bind mount shows what was outside until now
        if root.only is not None:
            self.files.setdefault(root.key, {})[root.only] = root
        self.directories.add(root, parent, name)
        (self.roots if parent is None and root.fd is not None else self.mounted).append(root)

    def remove(self, root):
        """Watch a root or mount no longer."""
        for roots in (self.roots, self.mounted):
            if root in roots:
                roots.remove(root)
        if root.only is not None:
            self.files[root.key].pop(root.only, None)
        self.directories.remove(root)
        root.close()

    def inside(self, path):
        """(display prefix, key) of the directory at a path if it is in a tree now, else None."""
        try:
            fd = os.open(path, O_PATH_DIR)
        except OSError:
            return None
        try:
            key = filesystem_id(path) + name_to_handle(fd)[0]
        except OSError:
            return None
        finally:
            os.close(fd)
        if key[:8] not in self.marked:
            return None
        try:
            prefix = self.resolve(key)
        except (Held, OSError):
            return None
        return prefix and (prefix, key)

    # --- reading ---

    def fill(self):
        """Read one buffer from the kernel; whether there was anything."""
        try:
            buffer = os.read(self.fd, READ_SIZE)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno == errno.EINVAL:     # an event larger than READ_SIZE: can't be
                raise failure(error.errno, "reading events")
            raise
        self.stats["reads"] += 1
        self.queue.append(Batch(buffer))
        return True

    def read(self):
        """The events of the trees in one buffer, [] where the queue is empty.  Never waits."""
        if not self.queue and not self.fill():
            self.expire()
            return self.bury()
        batch = self.queue[0]
        now = time.time()
        self.now = now
        self.out = out = []
        me, mask_wanted = self.pid, self.mask
        directories, make, kind = self.directories, tuple.__new__, Event
        prefixes = directories.prefixes
        missing, intricate, plain = "", INTRICATE, str
        count = dropped = 0
        # One pass, plain and long, since all events go through it.  A call for each event would
        # cost as much as the rest.
        for raw in decode(batch.buffer):
            mask, pid, key, name, target, old_key, old_name, end = raw
            count += 1
            if pid == me:
                dropped += 1
                continue
            if not mask & intricate:
                prefix = prefixes.get(key, missing)
                if prefix is None:
                    dropped += 1
                    continue
                if prefix:
                    bits = mask & mask_wanted
                    if bits:
                        out.append(make(kind, (prefix + plain(name, _FS_ENCODING, _FS_ERRORS),
                                               bits, pid, now, None)))
                    continue
            self.position = end
            before = len(out)
            self.judge(raw)
            dropped += len(out) == before
            prefixes = directories.prefixes
        self.queue.popleft()
        self.stats["events read"] += count
        self.stats["dropped in user space"] += dropped
        if directories.trim():
            for each in self.queue:
                each.scanned = False
        if self.held:
            self.expire()
        self.out = []
        return out

    def look_ahead(self):
        """Read the rest of the queue and note what it says of directories that are moved or
        removed in it: until then they are where it says they were.

        Returns whether there was anything new of this kind.
        """
        news = False
        total = sum(len(batch.buffer) for batch in self.queue)
        while total < AHEAD_LIMIT and self.fill():
            total += len(self.queue[-1].buffer)
        for number, batch in enumerate(self.queue):
            if not batch.scanned:
                news |= self.scan(batch, self.position if number == 0 else 0)
        return news

    def scan(self, batch, at):
        """Note the moves and removals of directories, and all RENAMEs, from an offset on."""
        batch.scanned = True
        buffer, size = batch.buffer, len(batch.buffer)
        unpack, telling = struct.Struct("=I4xQ").unpack_from, MOVED_FROM | MOVED_TO | DELETE
        while size - at >= METADATA.size:
            length, mask = unpack(buffer, at)
            if mask & RENAME or (mask & ISDIR and mask & telling):
                raw = decode_one(buffer, at, size)
                if mask & ISDIR:
                    batch.moves += 1
                    self.foresee(raw)
                if mask & RENAME:
                    self.coming[MOVED_FROM, raw.old_key, raw.old_name, raw.target] = raw
                    self.coming[MOVED_TO, raw.key, raw.name, raw.target] = raw
            if length < METADATA.size:
                break                       # decode() will say so
            at += length
        return batch.moves > 0

    def foresee(self, raw):
        """Note where a directory that an event still to be judged will move is until then."""
        if raw.target is None or raw.key is None:
            return
        directories = self.directories
        if raw.mask & RENAME:
            directories.expect(raw.target, raw.old_key, raw.old_name)
        elif raw.mask & (MOVED_FROM | DELETE):
            directories.expect(raw.target, raw.key, raw.name)
        elif raw.target not in directories.links:
            directories.outside.add(raw.target)

    # --- where an event was ---

    def resolve(self, key):
        """The prefix of a directory when the event being judged happened; None: outside.

        Raises Held while that can't be known, OSError if the kernel will not say.
        """
        directories = self.directories
        for attempt in range(10):
            try:
                prefix = directories.compose(key)
                if prefix is None and key not in directories.prefixes:
                    self.shun(key)
                return prefix
            except Unknown as unknown:
                missing = unknown.args[0]
            try:
                found = directories.locate(missing)
            except Gone:
                found = Gone
            if self.look_ahead() and attempt < 9:
                continue                    # something moved while we looked: look again
            if missing in directories.links:
                continue                    # the queue knew
            if found is Gone:
                raise Held(missing)
            if found is None:
                directories.prefixes[missing] = None
                continue
            for each, parent, name in found:
                directories.links.setdefault(each, (parent, name))
        raise failure(errno.EAGAIN, "finding the path of a directory that keeps moving")

    def shun(self, key):
        """Let the filter know of an outside directory that the table, not the kernel, told of.

        Not while the queue holds moves: it may be in a tree by now.
        """
        directories = self.directories
        directories.prefixes[key] = None
        if any(batch.moves for batch in self.queue):
            del directories.prefixes[key]
            return
        for root in directories.mounts.get(key[:8], ()):
            try:
                fd = open_in(root, key[8:])
            except (Gone, OSError):
                continue
            self.filter.outside(key, fd)
            os.close(fd)
            return

    def place(self, key, name):
        """The path to show for an entry of a directory, or None: it is not in a tree."""
        if key is None:
            return None
        if key in self.files:
            root = self.files[key].get(name)
            if root is not None:
                return root.display
            if key not in self.directories.links:
                return None
        prefix = self.resolve(key)
        if prefix is None:
            return None
        return (prefix[:-1] or prefix) if name == b"." else prefix + os.fsdecode(name)

    # --- judging ---

    def judge(self, raw):
        """Report an event if it is of a tree, and keep the table right."""
        if raw[4] in self.held:
            self.release(raw)
        try:
            self._judge(raw)
        except Held as held:
            key = held.args[0]
            self.held.setdefault(key, (self.now, []))[1].append(raw)
            if len(self.held) > HELD_LIMIT:
                self.drop(*self.held.popitem(last=False)[1])
        except Gone:
            pass
        except OSError as error:
            self.notice("%s; its event is reported without a path" % error)
            self.report(None, raw[0], raw[1])

    def _judge(self, raw):
        mask, pid, key, name, target, old_key, old_name, _ = raw
        if mask & Q_OVERFLOW:
            return self.overflow()
        if key in self.directories.fringe and mask & (MOVED_FROM | DELETE):
            self.root_entry(raw)
        if mask & RENAME:
            return self.rename(raw)
        path = self.place(key, name)
        if path is None:
            return None
        entering = leaving = False
        if mask & MOVED_FROM:
            leaving = not self.half(MOVED_FROM, raw)
        if mask & MOVED_TO:
            entering = not self.half(MOVED_TO, raw)
        if mask & ISDIR and mask & DIRENT:
            self.directory_event(raw, entering, leaving)
        if self.mask & RENAME:
            mask &= ~((0 if leaving else MOVED_FROM) | (0 if entering else MOVED_TO))
        file_root = self.files.get(key, {}).get(name)
        if file_root is not None and mask & DELETE and not exists(name, file_root.fd):
            self.report(path, (mask & ~DELETE) | DELETE_SELF, pid)
            return self.remove(file_root)
        return self.report(path, mask, pid)

    def report(self, path, mask, pid, old_path=None):
        """Put out an event, if it is one that was asked for."""
        mask &= self.mask
        if mask & ~ISDIR or path is None:
            self.out.append(Event(path, mask, pid, self.now, old_path))

    def rename(self, raw):
        """RENAME names both sides.  Only within the trees is it one event; else its halves,
        MOVED_FROM and MOVED_TO, which come as well, tell of it."""
        mask, pid, key, name, target, old_key, old_name, _ = raw
        for token in ((MOVED_FROM, old_key, old_name, target), (MOVED_TO, key, name, target)):
            self.coming.pop(token, None)
        was = self.place(old_key, old_name)
        now = self.place(key, name)
        if was is None or now is None:
            return
        for token in ((MOVED_FROM, old_key, old_name, target), (MOVED_TO, key, name, target)):
            if token in self.early:
                self.early.discard(token)
            else:
                self.renamed[token] = None
        if len(self.renamed) > 10000:
            self.renamed = dict.fromkeys(list(self.renamed)[5000:])
        if mask & ISDIR and target is not None:
            self.directories.learn(target, key, name)
        self.report(now, mask, pid, was)

    def half(self, side, raw):
        """Whether a MOVED_FROM or MOVED_TO is half of a RENAME within the trees.

        The kernel queues RENAME first; but it may merge a half into an older event of the same
        entry, and then the RENAME is found ahead.
        """
        token = (side, raw[2], raw[3], raw[4])
        if token in self.renamed:
            del self.renamed[token]
            return True
        if not raw[0] & ~(side | ISDIR) or not self.targets:
            return False
        self.look_ahead()
        ahead = self.coming.get(token)
        if ahead is None or self.place(ahead.key, ahead.name) is None \
                or self.place(ahead.old_key, ahead.old_name) is None:
            return False
        self.early.add(token)
        return True

    def directory_event(self, raw, entering, leaving):
        """Keep the table right: a directory in a tree was made, removed, moved in or out."""
        mask, _, key, name, target = raw[:5]
        directories = self.directories
        if target is None:
            if mask & (MOVED_FROM | MOVED_TO | DELETE):
                directories.forget()        # the kernel does not say which; all will be asked
                self.filter.moved_in()
            return
        if entering:
            directories.enter(target, key, name)
            self.filter.moved_in()
        if leaving:
            if entering:
                directories.forget()        # in and out, or out and in: the kernel knows
            else:
                directories.exile(target)
        if mask & DELETE:
            directories.delete(target)
        elif mask & CREATE and not mask & (MOVED_FROM | MOVED_TO):
            directories.learn(target, key, name)

    def root_entry(self, raw):
        """A root has been renamed or removed, as its parent directory tells."""
        mask, pid, key, name, target = raw[:5]
        for root in list(self.roots):
            if root.only is not None or root.parent_key != key or (
                    target != root.key if target is not None else name != root.name):
                continue
            if mask & DELETE and root.removed():
                self.report(root.display, DELETE_SELF | ISDIR, pid)
                self.remove(root)
            elif mask & MOVED_FROM:
                self.report(root.display, MOVE_SELF | ISDIR, pid)
                # The new parent may carry a mark that hides the next such event.
                while self.refringe(root):
                    self.filter.moved_in()

    def bury(self):
        """The removal of a root that was renamed at the same moment may have been hidden."""
        self.out, self.now = [], time.time()
        for root in list(self.roots):
            if root.renamed and root.removed():
                self.report(root.display, DELETE_SELF | ISDIR, 0)
                self.remove(root)
            root.renamed = False
        return self.out

    def refringe(self, root):
        """Find the parent of a root anew; returns whether it is another than before."""
        before = root.parent_key
        root.find_parent()
        root.renamed = True
        self.directories.fringe.add(root.parent_key)
        return root.parent_key != before

    def overflow(self):
        """Events were lost, as the kernel says: what was known may be wrong now."""
        self.notice("the kernel's event queue overflowed: events were lost")
        self.directories.forget()
        self.filter.moved_in()
        self.lossy = True
        self.report(None, Q_OVERFLOW, 0)

    # --- events of directories that are gone ---

    def release(self, raw):
        """The removal (or move) of a directory has been read: judge what waited for its name."""
        _, waiting = self.held.pop(raw[4])
        if raw[5] is not None:
            self.directories.expect(raw[4], raw[5], raw[6])
        else:
            self.directories.expect(raw[4], raw[2], raw[3])
        for each in waiting:
            self.judge(each)

    def expire(self):
        """Give up on held events: the removal of a directory in a tree would have been heard."""
        limit = time.time() - HELD_SECONDS
        while self.held:
            key, (when, waiting) = next(iter(self.held.items()))
            if when > limit:
                break
            del self.held[key]
            self.drop(when, waiting)

    def drop(self, when, waiting):
        """Events of a directory that is gone and was not seen to go: it was outside.

        Each directory on the way from a root to it would have been seen to go, and its removal
        is never ignored.  After an overflow that proves nothing, and they are reported.
        """
        for raw in waiting:
            if self.lossy:
                self.report(None, raw[0], raw[1])

    def close(self):
        for root in self.roots + self.mounted:
            root.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def exists(name, directory):
    """Whether a directory, open as a descriptor, has an entry of a name."""
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    return True


def check_handles(root):
    """Raise Error unless handles of the file system of a root can be opened."""
    try:
        os.close(open_by_handle(root.fd, root.key[8:]))
    except OSError as error:
        raise failure(error.errno, "opening a directory by its handle", root.display,
                      "needs CAP_DAC_READ_SEARCH" if error.errno == errno.EPERM else
                      "its file system can't do that; use --filter inotify")


# =============================================================================================
# 6. inotify, for where fanotify cannot be had
# =============================================================================================
# One watch for each directory.  What nature does not give: the process that did it, and events
# between the making of a directory and the setting of its watch.  So a just-made directory is
# listed once its watch is set, and what is found is reported as CREATE.

INOTIFY_EVENT = struct.Struct("=iIII")      # wd, mask, cookie, len
INOTIFY_READ = 1 << 16
# What is needed to follow directories, whatever the user asked for.
INOTIFY_ALWAYS = CREATE | MOVED_FROM | MOVED_TO | DELETE | DELETE_SELF | MOVE_SELF
INOTIFY_ASKABLE = 0xFFF
SCAN_DEPTH = 128                            # directories open at once in a scan
PAIR_SECONDS = 0.002                        # a MOVED_TO follows its MOVED_FROM within this,
PAIR_DISTANCE = 16                          # and within so many events


class Watched:
    """A watched directory: its descriptor wd, where it is, what is known in it."""

    __slots__ = ("wd", "parent", "name", "children", "found", "root")

    def __init__(self, wd, parent, name, root=None):
        self.wd, self.parent, self.name, self.root = wd, parent, name, root
        self.children = {}              # name -> Watched
        self.found = set()              # names reported by a scan, whose CREATE may come yet


def way_up(watched):
    """(the root above a watched directory, the names that lead from it to the directory)."""
    names = []
    while watched.root is None:
        names.append(watched.name)
        watched = watched.parent
    names.reverse()
    return watched.root, names


class InotifyRoot:
    """A root: a directory, or one file in it (`only`).

    The descriptor of a given root keeps it known through renames, and alive when removed, so
    that its own DELETE_SELF never comes: its removal is heard from its parent's watch.  A mount
    inside the tree is opened when needed, so as not to pin it.
    """

    def __init__(self, display, path, only=None, pinned=True):
        self.display, self.path, self.only = display, path, only
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if pinned else None
        self.prefix = display if display.endswith("/") else display + "/"
        self.watched = self.parent_wd = self.name = None
        fd = self.open()
        status = os.fstat(fd)
        os.close(fd)
        self.key = (status.st_dev, status.st_ino)

    def open(self):
        """An ordinary descriptor of the directory."""
        if self.fd is None:
            return os.open(self.path, O_READ_DIR)
        return os.open(b".", O_READ_DIR, dir_fd=self.fd)

    def removed(self):
        """Whether the directory has been deleted."""
        return self.fd is not None and os.fstat(self.fd).st_nlink == 0

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


class Inotify:
    """An inotify instance that follows trees; the same methods as Fanotify."""

    def __init__(self, mask, notice):
        self.notice = notice
        self.mask = mask | ALWAYS | ISDIR
        self.asked = (mask & INOTIFY_ASKABLE) | INOTIFY_ALWAYS
        self.stats = collections.Counter()
        self.roots, self.mounted = [], []
        self.by_wd = {}
        self.prefixes = {}                  # wd -> path prefix
        self.parents = {}                   # wd of a root's parent -> [InotifyRoot]
        self.coming = collections.deque()   # decoded and not judged
        self.out = []
        self.now = time.time()
        self.fd = call("inotify_init1", os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise failure(number, "making an inotify instance", "",
                          "see /proc/sys/fs/inotify/max_user_instances"
                          if number == errno.EMFILE else "")

    # --- watches ---

    def add_watch(self, path, mask, shown):
        """A watch on a path (bytes): its descriptor.  Raises Error, with the limit if reached."""
        wd = call("inotify_add_watch", self.fd, path, mask)
        if wd >= 0:
            return wd
        number = ctypes.get_errno()
        hint = ""
        if number == errno.ENOSPC:
            raise Error(number, "watching %s: %d directories are watched and %s is reached; "
                        "raise it, or run as root to use fanotify"
                        % (printable(shown), len(self.by_wd), inotify_limit()))
        if number == errno.EACCES:
            hint = "not permitted to read it"
        raise failure(number, "watching", shown, hint)

    def add(self, root, parent=None, name=None):
        """Watch a root and, unless it is one file's directory, all below it."""
        (self.mounted if root.fd is None else self.roots).append(root)
        try:
            self.start(root)
        except BaseException:
            self.remove(root)
            raise

    def start(self, root):
        """Set the watches of a root."""
        fd = root.open()
        try:
            wd = self.add_watch(b"/proc/self/fd/%d" % fd, self.asked | IN_ONLYDIR, root.display)
        except BaseException:
            os.close(fd)
            raise
        known = self.by_wd.get(wd)
        if root.fd is not None and root.only is None:
            self.watch_parent(root)
        if known is not None and not (known.root is not None and known.root.only):
            # In another root's tree: it is watched already.  The deeper root names what is in it.
            root.watched = known
            if root.only is None:
                known.root = root
                self.prefixes.clear()
            os.close(fd)
        elif known is not None and root.only is not None:
            root.watched = known            # several files of one directory
            os.close(fd)
        else:
            root.watched = self.by_wd[wd] = Watched(wd, None, b"", root)
            if root.only is None:
                self.scan(fd, root.watched, False)
            else:
                os.close(fd)

    def watch_parent(self, root):
        """Hear of the renaming and removal of a root from its parent directory."""
        path = fd_path(root.fd)
        root.name = os.path.basename(path)
        if path == b"/":
            return
        try:
            wd = self.add_watch(os.path.dirname(path), DELETE | MOVED_FROM | IN_ONLYDIR
                                | IN_MASK_ADD, root.display)
        except Error as error:
            return self.notice("%s; the removal of %s won't be seen"
                               % (error, printable(root.display)))
        root.parent_wd = wd
        self.parents.setdefault(wd, []).append(root)

    def remove(self, root):
        for roots in (self.roots, self.mounted):
            if root in roots:
                roots.remove(root)
        if root.watched is not None and not any(other.watched is root.watched
                                                for other in self.roots):
            self.forget(root.watched, True)
        if root in self.parents.get(root.parent_wd, ()):
            self.parents[root.parent_wd].remove(root)
        root.close()

    def forget(self, top, unwatch):
        """Drop a directory and all below it from the table, and their watches."""
        stack = [top]
        while stack:
            watched = stack.pop()
            stack.extend(child for child in watched.children.values() if child.root is None)
            if self.by_wd.get(watched.wd) is watched:
                del self.by_wd[watched.wd]
                self.prefixes.pop(watched.wd, None)
                if unwatch:
                    call("inotify_rm_watch", self.fd, watched.wd)
        if top.parent is not None and top.parent.children.get(top.name) is top:
            del top.parent.children[top.name]

    def prefix(self, watched):
        """The path of a watched directory, with a slash at its end."""
        prefix = self.prefixes.get(watched.wd)
        if prefix is None:
            top, names = way_up(watched)
            prefix = top.prefix + "".join(os.fsdecode(name) + "/" for name in names)
            if len(prefix) <= PREFIX_LIMIT:
                self.prefixes[watched.wd] = prefix
        return prefix

    def open_directory(self, watched):
        """A descriptor of a watched directory, opened name by name from its root."""
        top, names = way_up(watched)
        fd = top.open()
        for name in names:
            try:
                below_fd = os.open(name, O_READ_DIR | os.O_NOFOLLOW, dir_fd=fd)
            finally:
                os.close(fd)
            fd = below_fd
        return fd

    def scan(self, fd, watched, new):
        """Watch all directories below one that is watched and open as fd (which is closed).

        `new`: the tree was just made, so that what is found is reported as CREATE.  Opened name
        by name and never through a symbolic link; at most SCAN_DEPTH are open at a time.
        """
        device = os.fstat(fd).st_dev
        later = collections.deque()
        stack = [(fd, watched, self.entries(fd, watched, new))]
        while stack or later:
            if not stack:
                watched = later.popleft()
                try:
                    fd = self.open_directory(watched)
                except OSError:
                    continue
                stack.append((fd, watched, self.entries(fd, watched, new)))
            fd, watched, names = stack[-1]
            if not names:
                os.close(fd)
                stack.pop()
                continue
            name = names.pop()
            try:
                child_fd = os.open(name, O_READ_DIR | os.O_NOFOLLOW, dir_fd=fd)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EPERM):
                    self.notice("%s%s can't be read and is not watched"
                                % (printable(self.prefix(watched)), printable(os.fsdecode(name))))
                elif error.errno in (errno.EMFILE, errno.ENFILE):
                    for each in stack:
                        os.close(each[0])
                    raise failure(error.errno, "opening", self.prefix(watched), "see ulimit -n")
                continue                # removed or replaced meanwhile: its event comes
            if os.fstat(child_fd).st_dev != device:
                os.close(child_fd)      # a mount: the list of mounts tells of it
                continue
            try:
                child = self.watch_child(child_fd, watched, name)
            except BaseException:
                os.close(child_fd)
                for each in stack:
                    os.close(each[0])
                raise
            if child is None:
                os.close(child_fd)
            elif len(stack) < SCAN_DEPTH:
                stack.append((child_fd, child, self.entries(child_fd, child, new)))
            else:
                os.close(child_fd)
                later.append(child)

    def watch_child(self, fd, parent, name):
        """Set the watch of a directory open as fd; None if it is gone or has been scanned."""
        shown = self.prefix(parent) + os.fsdecode(name)
        try:
            wd = self.add_watch(b"/proc/self/fd/%d" % fd, self.asked | IN_ONLYDIR, shown)
        except Error as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        known = self.by_wd.get(wd)
        if known is not None and (known.root is not None or known.parent is parent
                                  and known.name == name):
            return None
        if known is not None:
            self.forget(known, False)       # moved here before we heard of it
        child = Watched(wd, parent, name)
        self.by_wd[wd] = child
        self.prefixes.pop(wd, None)
        parent.children[name] = child
        return child

    def entries(self, fd, watched, new):
        """The names of the directories in one; with `new`, reports each entry as CREATE."""
        directories = []
        try:
            if sys.version_info >= (3, 7):
                with os.scandir(fd) as scan:
                    found = [(os.fsencode(entry.name), entry.is_dir(follow_symlinks=False))
                             for entry in scan]
            else:
                found = [(name, is_directory(name, fd))
                         for name in map(os.fsencode, os.listdir(fd))]
        except OSError:
            return directories
        for name, is_dir in found:
            if is_dir:
                directories.append(name)
            if new and name not in watched.found:
                watched.found.add(name)
                self.report(self.prefix(watched) + os.fsdecode(name),
                            CREATE | (ISDIR if is_dir else 0))
        return directories

    # --- events ---

    def report(self, path, mask, old_path=None):
        mask &= self.mask
        if mask & ~ISDIR:
            self.out.append(Event(path, mask, None, self.now, old_path))

    def read(self):
        """The events of the trees in one buffer, [] where there is nothing to read."""
        self.out, self.now = [], time.time()
        self.fill()
        while self.coming:
            before = len(self.out)
            self.judge(*self.coming.popleft())
            self.stats["dropped in user space"] += before == len(self.out)
        return self.out

    def fill(self):
        """Read one buffer from the kernel; whether there was anything."""
        try:
            buffer = os.read(self.fd, INOTIFY_READ)
        except BlockingIOError:
            return False
        self.stats["reads"] += 1
        before = len(self.coming)
        self.coming.extend(decode_inotify(buffer))
        self.stats["events read"] += len(self.coming) - before
        return True

    def other_half(self, cookie):
        """Take the MOVED_TO of a MOVED_FROM out of what is coming: its event, or None.

        The kernel queues the two at once, but other processors' events may come between, and a
        buffer may end there.
        """
        limit = None
        while True:
            for index, event in enumerate(self.coming):
                if event[2] == cookie and event[1] & MOVED_TO:
                    del self.coming[index]
                    return event
            if len(self.coming) > PAIR_DISTANCE:
                return None
            if not self.fill():
                limit = limit or time.monotonic() + PAIR_SECONDS
                if time.monotonic() > limit:
                    return None
                time.sleep(PAIR_SECONDS / 8)

    def judge(self, wd, mask, cookie, name):
        if mask & Q_OVERFLOW:
            return self.overflow()
        if wd in self.parents and mask & (DELETE | MOVED_FROM):
            self.root_entry(wd, mask, name)
        watched = self.by_wd.get(wd)
        if watched is None:
            return None
        if mask & (UNMOUNT | IN_IGNORED | DELETE_SELF | MOVE_SELF) or not name:
            return self.self_event(watched, mask)
        if watched.root is not None and watched.root.only is not None:
            return self.file_event(watched, mask, cookie, name)
        if mask & (CREATE | MOVED_TO) and name in watched.found:
            watched.found.discard(name)
            mask &= ~CREATE
            if not mask & INOTIFY_ASKABLE:
                return None
        if mask & (DELETE | MOVED_FROM):
            watched.found.discard(name)
        path = self.prefix(watched) + os.fsdecode(name)
        if mask & MOVED_FROM:
            other = self.other_half(cookie)
            target = None if other is None else self.by_wd.get(other[0])
            if target is not None and not (target.root is not None and target.root.only):
                return self.renamed(watched, name, path, target, other[3], mask)
            child = watched.children.get(name)
            if child is not None and child.root is None and mask & ISDIR:
                self.forget(child, True)
        self.report(path, mask)
        if mask & ISDIR and mask & (CREATE | MOVED_TO):
            self.appeared(watched, name, bool(mask & CREATE))
        return None

    def renamed(self, old_parent, old_name, old_path, parent, name, mask):
        """A rename within the trees."""
        path = self.prefix(parent) + os.fsdecode(name)
        if self.mask & RENAME:
            self.report(path, RENAME | (mask & ISDIR), old_path)
        else:
            self.report(old_path, mask)
            self.report(path, MOVED_TO | (mask & ISDIR))
        parent.found.discard(name)
        if not mask & ISDIR:
            return None
        child = old_parent.children.pop(old_name, None)
        if child is None:
            return self.appeared(parent, name, False)
        replaced = parent.children.get(name)
        if replaced is not None and replaced is not child:
            self.forget(replaced, False)
        child.parent, child.name = parent, name
        parent.children[name] = child
        self.prefixes.clear()               # all paths below follow
        return None

    def appeared(self, watched, name, new):
        """A directory was made in, or moved into, a watched one: watch it and what it holds."""
        try:
            parent_fd = self.open_directory(watched)
            try:
                fd = os.open(name, O_READ_DIR | os.O_NOFOLLOW, dir_fd=parent_fd)
                same = os.fstat(fd).st_dev == os.fstat(parent_fd).st_dev
            finally:
                os.close(parent_fd)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return                      # gone again
            if error.errno in (errno.EACCES, errno.EPERM):
                return self.notice("%s can't be read and is not watched" % printable(
                    self.prefix(watched) + os.fsdecode(name)))
            raise
        child = self.watch_child(fd, watched, name) if same else None
        if child is None:
            os.close(fd)
        else:
            self.scan(fd, child, new)

    def self_event(self, watched, mask):
        """An event of a watched directory itself: its parent tells of it, unless it's a root."""
        if mask & IN_IGNORED:
            self.forget(watched, False)
            return
        if watched.root is None or watched.root.only is not None:
            return
        if mask & UNMOUNT:
            self.report(watched.root.display, UNMOUNT | ISDIR)
            self.remove(watched.root)
            return
        self.report(watched.root.display, mask)
        if mask & DELETE_SELF:
            self.remove(watched.root)

    def root_entry(self, wd, mask, name):
        """A root was renamed or removed, as its parent tells (MOVE_SELF it tells itself)."""
        for root in list(self.parents.get(wd, ())):
            if root.name != name:
                continue
            if mask & DELETE and root.removed():
                self.report(root.display, DELETE_SELF | ISDIR)
                self.remove(root)
            elif mask & MOVED_FROM:
                self.parents[wd].remove(root)
                self.watch_parent(root)

    def file_event(self, watched, mask, cookie, name):
        """An event in the directory of files given as roots."""
        for root in [root for root in self.roots if root.watched is watched
                     and root.only == name]:
            if mask & DELETE and not exists(name, root.fd):
                self.report(root.display, (mask & ~DELETE) | DELETE_SELF)
                self.remove(root)
            else:
                self.report(root.display, mask)

    def overflow(self):
        """Events were lost: look for directories that are not watched yet."""
        self.notice("inotify's event queue overflowed: events were lost; "
                    "see /proc/sys/fs/inotify/max_queued_events")
        self.report(None, Q_OVERFLOW)
        for root in self.roots + self.mounted:
            if root.watched is not None:
                self.forget(root.watched, True)
        for root in self.roots + self.mounted:
            self.start(root)

    def inside(self, path):
        """(display prefix, None) of the directory at a path if it is in a tree, else None."""
        for root in self.roots:
            rest = below(path, fd_path(root.fd)) if root.only is None else None
            if rest is not None:
                return root.prefix + (os.fsdecode(rest) + "/" if rest else ""), None
        return None

    def close(self):
        for root in self.roots + self.mounted:
            root.close()
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


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


def is_directory(name, directory):
    """Whether an entry is a directory, for Python 3.6, whose scandir takes no descriptor."""
    import stat
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except OSError:
        return False


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
# 7. Watch: the public interface
# =============================================================================================

FILTER_NAMES = ("auto",) + tuple(FILTERS) + ("inotify",)

# File systems of the kernel's own making: nothing in them is created, written or removed in
# the sense of events, and most have no marks.
KERNEL_KINDS = frozenset("""autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts efivarfs
    fusectl mqueue nsfs proc pstore rpc_pipefs securityfs selinuxfs smackfs sysfs tracefs""".split())

BURST = 16          # events within `latency` seconds before reading waits for more to gather


def tell(message):
    """What a Watch says of itself when nothing else was asked: a line on standard error."""
    sys.stderr.write("fanfp: %s\n" % message)
    sys.stderr.flush()


class Watch:
    """Watch directory trees (or single files): iterate over it for Events.

        with fanfp.Watch("/srv/data", events=("CREATE", "DELETE")) as watch:
            for event in watch:
                print(event.path, event.events)

    roots    str or bytes or os.PathLike, directories or files, at least one.  Paths are shown
             as the root was given + the rest
    events   names (see EVENTS; also "ALL", "CLOSE", "MOVE"), any case
    filter   "auto", or by name: "marks", "user" (fanotify), "inotify"
    object   a BPF object for the "fastpath" filter, instead of the one beside this file
    include  regular expression (str or compiled): only paths in which it is found
    exclude  regular expression: no paths in which it is found
    latency  float, seconds to let events gather (and the kernel merge them) under load
    mounts   bool, whether file systems mounted inside the trees are watched too
    notice   function(str), told what was lost or can't be watched; default: standard error

    Once it is made no event is missed.  Raises Error.  Iteration ends when stop() was called or
    when no root is left.  Not for use from several threads, stop() excepted.
    """

    def __init__(self, *roots, events=DEFAULT_EVENTS, filter="auto", object=None, include=None,
                 exclude=None, latency=0.005, mounts=True, notice=tell):
        self._sources, self._extra_fds = [], []
        self._fanotify = self._inotify = self._mounts_file = None
        self._known_mounts, self._events = {}, collections.deque()
        self._window = (0.0, 0)
        self._stopped = False
        self._poll = None
        if not sys.platform.startswith("linux"):
            raise Error(errno.ENOSYS, "watching: this is %s, and fanotify and inotify are "
                        "Linux's" % sys.platform)
        if filter not in FILTER_NAMES:
            raise Error(errno.EINVAL, "choosing a filter: there is no filter %s; there are %s"
                        % (printable(str(filter)), " ".join(FILTER_NAMES)))
        if not roots:
            raise Error(errno.EINVAL, "watching: no root given; name a directory")
        if isinstance(events, str):
            events = events.replace(",", " ").split()
        self._mask = event_mask(events)
        self._wanted_filter, self.object, self._latency = filter, object, latency
        self._notice = notice
        self._include, self._exclude = compiled(include), compiled(exclude)
        try:
            self._start(roots, mounts)
        except BaseException:
            self.close()
            raise

    # --- starting ---

    def _start(self, roots, mounts):
        self._poll = select.epoll()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._extra_fds = [self._wake_read, self._wake_write]
        self._poll.register(self._wake_read, select.EPOLLIN)
        if mounts:
            # Opened before anything is looked up, so that no mount made meanwhile is missed.
            try:
                self._mounts_file = open("/proc/self/mountinfo", "rb")
            except OSError as error:
                raise failure(error.errno, "opening", "/proc/self/mountinfo",
                              "/proc is not mounted? mount -t proc proc /proc")
            self._poll.register(self._mounts_file.fileno(), select.EPOLLPRI)
        for root in roots:
            self._add_root(os.fsdecode(root))
        if mounts:
            self._follow_mounts(starting=True)

    def _add_root(self, display):
        """Find which source can watch a root, and add it there."""
        path = os.fsencode(display)
        try:
            is_dir = os.path.isdir(path) or not os.stat(path)
        except OSError as error:
            raise failure(error.errno, "watching", display, "name a directory or a file"
                          if error.errno == errno.ENOENT else "")
        shown = display.rstrip("/") or "/"
        only = None
        if not is_dir:
            path = os.path.realpath(path)
            path, only = os.path.split(path)
        reasons = []
        for name in self._candidates():
            try:
                self._add_to(name, shown, path, only)
                break
            except OSError as error:
                reasons.append((name, error))
                if self._wanted_filter == "auto" and error.errno == errno.EMFILE:
                    break
        else:
            self._refuse(shown, reasons)
            return
        for name, error in reasons:
            # EPERM and EINVAL (an older kernel) are what `auto` is for; the rest is news.
            if error.errno not in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
                self._notice("%s: %s" % (name, error))
                break

    def _refuse(self, shown, reasons):
        """Raise the Error that tells why a root can't be watched."""
        error = reasons[-1][1]
        if isinstance(error, Error):
            raise error
        raise failure(error.errno, "watching", shown)

    def _candidates(self):
        """The filters to try for a root, in order."""
        if self._wanted_filter != "auto":
            return [self._wanted_filter]
        if self._fanotify is not None:
            return [self._fanotify.filter.name, "inotify"]
        return list(FILTERS) + ["inotify"]

    def _add_to(self, name, shown, path, only, mounted=None):
        """Watch a root with the filter of a name; `mounted`: (prefix, parent key, name)."""
        pinned = mounted is None
        if name == "inotify":
            root = InotifyRoot(shown, path, only, pinned)
            if self._inotify is None:
                self._inotify = self._register(Inotify(self._mask, self._notice))
            source = self._inotify
        else:
            root = Root(shown, path, only, pinned)
            if self._fanotify is None:
                fanotify = Fanotify(self._mask, name, self._notice)
                try:
                    fanotify.add(root)
                except BaseException:
                    root.close()
                    fanotify.close()
                    raise
                self._fanotify = self._register(fanotify)
                return root
            source = self._fanotify
        if any(root.key == other.key and root.only == other.only for other in source.roots):
            root.close()                    # given twice
            return None
        try:
            source.add(root, *(mounted or ()))
        except BaseException:
            root.close()
            raise
        return root

    def _register(self, source):
        self._sources.append(source)
        self._poll.register(source.fd, select.EPOLLIN)
        return source

    # --- mounts ---

    def _follow_mounts(self, starting=False):
        """Watch the file systems mounted inside the trees; let go of those that are gone."""
        current = {(mount.id, mount.device, mount.path): mount for mount in read_mounts()}
        for identity in [each for each in self._known_mounts if each not in current]:
            found = self._known_mounts.pop(identity)
            if found is not None:
                self._unmounted(*found)
        ids = {mount.id for mount in current.values()}
        for source in self._sources:
            for root in list(source.roots):
                if getattr(root, "mount_id", None) is not None and root.mount_id not in ids:
                    self._unmounted(source, root)
        skipped = []
        for identity, mount in current.items():
            if identity not in self._known_mounts:
                self._known_mounts[identity] = self._mount_found(mount, skipped)
        if skipped:
            self._notice("not watched, file systems of the kernel's own: %s" % " ".join(skipped))

    def _mount_found(self, mount, skipped):
        """Watch a mount if it is inside a tree: (source, root), or None."""
        if not any(root.only is None and root.fd is not None
                   and below(mount.path, fd_path(root.fd)) is not None
                   and getattr(root, "mount_id", mount_id_of(root)) != mount.id
                   for source in self._sources for root in source.roots):
            return None
        parent, name = os.path.split(mount.path)
        place = self._inside(parent)
        if place is None:
            return None
        prefix, key = place
        shown = prefix + os.fsdecode(name)
        if mount.kind in KERNEL_KINDS:
            skipped.append(printable(shown))
            return None
        fanotify = self._fanotify
        if fanotify is not None and fanotify.inside(mount.path):
            return None                     # a bind mount of a part of the tree itself
        names = [fanotify.filter.name] if fanotify is not None else []
        if fanotify is None and self._wanted_filter == "auto":
            names = []
        if self._wanted_filter in ("auto", "inotify"):
            names.append("inotify")
        reason = None
        for each in names:
            try:
                root = self._add_to(each, shown, mount.path, None,
                                    (key, os.fsencode(name).decode(_FS_ENCODING, _FS_ERRORS)))
            except OSError as error:
                reason = reason or error
                continue
            return (self._fanotify if each != "inotify" else self._inotify), root
        self._notice("not watched: %s, %s mounted inside: %s"
                     % (printable(shown), mount.kind, reason))
        return None

    def _inside(self, path):
        """(display prefix, key or None) of a directory if it is in a tree of any source."""
        for source in self._sources:
            place = source.inside(path)
            if place:
                return place
        return None

    def _unmounted(self, source, root):
        """A file system is gone: say so, in the order of events."""
        if root not in source.roots and root not in source.mounted:
            return                          # inotify has told already
        self._events.append(Event(root.display, UNMOUNT | ISDIR, None, time.time(), None))
        source.remove(root)

    # --- reading ---

    def read(self, timeout=None):
        """A list of events; [] after `timeout` seconds (None: for ever) or at the end.

        With a timeout of 0 it never waits: for use when select or asyncio says that fileno()
        is readable.
        """
        if self._poll is None:
            raise Error(errno.EBADF, "reading events: the watch is closed")
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._ended():
            events = self._collect(deadline, timeout)
            if events:
                return events
            if deadline is not None and time.monotonic() >= deadline:
                break
        events, self._events = list(self._events), collections.deque()
        return events

    def _collect(self, deadline, timeout):
        """Wait for the sources, then read those that have something."""
        backlog = [source for source in self._sources if getattr(source, "queue", None)]
        if backlog:
            ready = [source.fd for source in backlog]
        else:
            wait = -1 if deadline is None else max(0.0, deadline - time.monotonic())
            ready = [fd for fd, _ in self._poll.poll(wait)]
            if timeout != 0 and ready:
                self._gather()
        events = []
        for source in self._sources:
            if source.fd in ready:
                events += source.read()
        if self._mounts_file is not None and self._mounts_file.fileno() in ready:
            self._follow_mounts()
        if self._wake_read in ready:
            try:
                os.read(self._wake_read, 4096)
            except BlockingIOError:
                pass
            self._woken = True
        if self._events:
            events += self._events
            self._events.clear()
        if self._include is not None or self._exclude is not None:
            events = [event for event in events if self._passes(event)]
        begun, count = self._window
        self._window = (begun, count + len(events))
        for source in self._sources:
            source.stats["reported"] += len(events)
            break
        return events

    def _gather(self):
        """Under load, wait until `latency` has passed since the first event was read: the
        kernel merges events that wait, and one read carries many.  The first goes out at once.
        """
        begun, count = self._window
        now = time.monotonic()
        if count >= BURST and now - begun < self._latency:
            time.sleep(self._latency - (now - begun))
            now = time.monotonic()
        if now - begun >= self._latency:
            self._window = (now, 0)

    def _passes(self, event):
        """Whether include and exclude let an event through; either path of a RENAME may."""
        paths = [path for path in (event.path, event.old_path) if path is not None]
        if not paths:
            return True
        if self._include is not None and not any(map(self._include.search, paths)):
            return False
        return self._exclude is None or not all(map(self._exclude.search, paths))

    def _ended(self):
        return self._stopped or not any(source.roots for source in self._sources)

    def __iter__(self):
        while True:
            events = self.read()
            if not events:
                if self._ended():
                    return
                continue
            for event in events:
                yield event

    def __aiter__(self):
        self._ready_events = collections.deque()
        return self

    async def __anext__(self):
        import asyncio
        while not self._ready_events:
            self._ready_events.extend(self.read(0))
            if self._ready_events:
                break
            if self._ended():
                raise StopAsyncIteration
            loop = asyncio.get_event_loop()
            readable = loop.create_future()
            loop.add_reader(self.fileno(), lambda: readable.done() or readable.set_result(None))
            try:
                await readable
            finally:
                loop.remove_reader(self.fileno())
        return self._ready_events.popleft()

    # --- the rest ---

    @property
    def filter(self):
        """The name of the filter in use; two joined by "+" if some root needed inotify."""
        names = [self._fanotify.filter.name] if self._fanotify is not None else []
        return "+".join(names + (["inotify"] if self._inotify is not None else []))

    @property
    def roots(self):
        """The roots still watched, as they were given: a tuple of str."""
        return tuple(root.display for source in self._sources for root in source.roots)

    def fileno(self):
        """A descriptor that select, poll and asyncio can wait on; then call read(0)."""
        return self._poll.fileno()

    def stats(self):
        """Counters since the start: a dict of str to int."""
        total = collections.Counter({name: 0 for name in STATISTICS})
        for source in self._sources:
            total.update(source.stats)
        return dict(total)

    def stop(self):
        """End the iteration, from any thread or signal handler.  Safe to call at any time."""
        self._stopped = True
        self.wake()

    def wake(self):
        """Make a read() that waits return what it has, maybe nothing."""
        try:
            os.write(self._wake_write, b"w")
        except (BlockingIOError, OSError):
            pass

    def close(self):
        """Let go of everything.  No descriptor is left."""
        for source in self._sources:
            source.close()
        self._sources = []
        if self._mounts_file is not None:
            self._mounts_file.close()
            self._mounts_file = None
        if self._poll is not None:
            self._poll.close()
            self._poll = None
        for fd in self._extra_fds:
            os.close(fd)
        self._extra_fds = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


STATISTICS = ("events read", "reported", "dropped in user space", "ignore marks set", "flushes",
              "reads")


def compiled(pattern):
    """A compiled regular expression of a str (or one compiled already), or None."""
    if pattern is None or hasattr(pattern, "search"):
        return pattern
    import re
    try:
        return re.compile(pattern)
    except re.error as reason:
        raise Error(errno.EINVAL, "reading the regular expression %s: %s"
                    % (printable(pattern), reason))


def mount_id_of(root):
    """The id of the mount a root of inotify is on, which needs no handle: from fdinfo."""
    if root.fd is None:
        return None
    with open("/proc/self/fdinfo/%d" % root.fd) as file:
        for line in file:
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    return None


# =============================================================================================
# 8. The command line
# =============================================================================================

DESCRIPTION = """\
Watch directory trees and print an event a line: every event under them, none from outside."""

EPILOG = """\
events: %s
        ALL, CLOSE, MOVE stand for several
default: %s
format: %%w directory, %%f name, %%P path, %%o old path, %%e events, %%T time, %%p pid, %%c command,
        %%0 NUL, %%n newline, %%%% percent.  Names are escaped unless the format has a %%0.
exit status: 0 stopped, or --count reached, or no root left; 1 error; 2 --timeout reached"""

EXIT_ERROR, EXIT_TIMEOUT = 1, 2


def build_parser():
    """The command line's grammar: inotifywait's words where it has them."""
    import argparse
    parser = argparse.ArgumentParser(
        prog="fanfp", description=DESCRIPTION, formatter_class=argparse.RawTextHelpFormatter,
        epilog=(EPILOG % (" ".join(EVENTS), " ".join(DEFAULT_EVENTS))))
    add = parser.add_argument
    add("roots", nargs="*", metavar="ROOT", help="a directory or a file")
    add("-e", "--event", action="append", metavar="EVENT[,EVENT...]", help="what to report")
    add("--json", action="store_true", help="a JSON object a line")
    add("--csv", "-c", action="store_true",
        help="directory,events,name,old path,pid,command")
    add("--format", metavar="FORMAT", help="a line of your own, see below")
    add("--timefmt", metavar="FORMAT", default="%Y-%m-%dT%H:%M:%S",
        help="strftime format of %%T in --format")
    add("--no-newline", action="store_true", help="no newline after --format")
    add("--include", action="append", metavar="REGEX", help="only paths with a match")
    add("--includei", action="append", metavar="REGEX", help="the same, whatever the case")
    add("--exclude", action="append", metavar="REGEX", help="no paths with a match")
    add("--excludei", action="append", metavar="REGEX", help="the same, whatever the case")
    add("-t", "--timeout", type=seconds, default=0, metavar="SECONDS",
        help="end with status 2 when there was no event for so long")
    add("--count", type=positive, metavar="N", help="end after N events")
    add("-q", "--quiet", action="count", default=0,
        help="say only what went wrong; twice: print no events")
    add("-o", "--outfile", metavar="FILE", help="append to a file, not to standard output")
    add("-m", "--monitor", action="store_true", help="accepted: it always goes on")
    add("-r", "--recursive", action="store_true", help="accepted: it always is")
    add("--filter", choices=FILTER_NAMES, default="auto", help="how to keep outside events away")
    add("--latency", type=seconds, default=0.005, metavar="SECONDS",
        help="let events gather for so long under load (0.005)")
    add("--one-file-system", action="store_true", help="don't watch what is mounted inside")
    add("--exec", dest="command", metavar="COMMAND",
        help="run a command for each event, one at a time, without a shell: {} is the path;\n"
             "FANFP_PATH, _OLD_PATH, _EVENTS, _PID, _IS_DIR are in its environment")
    add("--stats", action="store_true", help="counters, at the end, on standard error")
    add("--probe", action="store_true", help="say what this host has, and end")
    add("--version", action="version", version="fanfp " + __version__)
    return parser


def seconds(text):
    """An argparse type: a number of seconds, not negative, finite."""
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError
    return value


def positive(text):
    """An argparse type: a whole number above 0."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value


# --- output: one function from a list of events to text, for each way to print ---

class Commands:
    """Names of processes, kept for one batch: a pid is soon used again, or runs another program."""

    def __init__(self):
        self.names = {}

    def __getitem__(self, pid):
        name = self.names.get(pid)
        if name is None:
            try:
                with open("/proc/%d/comm" % pid, "rb") as file:
                    name = os.fsdecode(file.read()[:-1])
            except (OSError, TypeError):
                name = ""               # gone already, or not known (inotify)
            self.names[pid] = name
        return name


def text_lines(events):
    """The default: time, command(pid), events, path, for people."""
    out, commands, who = [], Commands(), {}
    stamp, now = "", None
    for path, mask, pid, when, old_path in events:
        if when != now:
            now = when
            stamp = time.strftime("%H:%M:%S", time.localtime(when)) + ".%03d" % (when * 1000 % 1000)
        name = who.get(pid)
        if name is None:
            name = who[pid] = "%s(%s)" % (printable(commands[pid]) or "?",
                                          "?" if pid is None else pid)
        if path is None:
            shown = "-"
        elif path.isprintable() and "\\" not in path:
            shown = path
        else:
            shown = printable(path)
        if old_path is not None:
            shown = printable(old_path) + " -> " + shown
        out.append("%s %s: %s %s\n" % (stamp, name, names_text(mask), shown))
    return "".join(out)


_texts = {}


def names_text(mask):
    """The names in a mask with commas, ISDIR too: "CREATE,ISDIR"."""
    text = _texts.get(mask)
    if text is None:
        names = event_names(mask) + (("ISDIR",) if mask & ISDIR else ())
        text = _texts[mask] = ",".join(names)
    return text


def json_lines(events):
    """--json: an object a line, ASCII only; bytes that are no UTF-8 as lone surrogates."""
    from json.encoder import encode_basestring_ascii as quote
    out, commands = [], Commands()
    for path, mask, pid, when, old_path in events:
        old = ', "old_path": ' + quote(old_path) if old_path is not None else ""
        names = '", "'.join(event_names(mask))
        out.append('{"time": %.3f, "events": ["%s"], "path": %s%s, "pid": %s, "comm": %s, '
                   '"is_dir": %s}\n'
                   % (when, names, "null" if path is None else quote(path), old,
                      "null" if pid is None else pid, quote(commands[pid]) or "null",
                      "true" if mask & ISDIR else "false"))
    return "".join(out)


def split_path(path):
    """(directory with its slash, name) of a path, as inotifywait's %w and %f."""
    directory, slash, name = (path or "").rpartition("/")
    return directory + slash, name


def csv_lines(events):
    """--csv: inotifywait's three columns, then old path, pid and command."""
    out, commands = [], Commands()
    for path, mask, pid, when, old_path in events:
        directory, name = split_path(path)
        fields = (directory, names_text(mask), name, old_path or "",
                  "" if pid is None else str(pid), commands[pid])
        out.append(",".join(map(csv_field, fields)) + "\n")
    return "".join(out)


def csv_field(text):
    """A field of RFC 4180, on one line whatever is in it."""
    text = printable(text)
    return '"%s"' % text.replace('"', '""') if any(c in text for c in ',"') else text


def format_lines(pattern, timefmt, newline):
    """--format: a function from events to text, for an inotifywait-like pattern."""
    pieces = parse_format(pattern)
    raw = ("0",) in pieces
    show = (lambda text: text) if raw else printable
    end = "" if raw or not newline else "\n"

    def value(kind, argument, event, commands):
        path, mask, pid, when, old_path = event
        if kind == "w":
            return show(split_path(path)[0])
        if kind == "f":
            return show(split_path(path)[1])
        if kind == "P":
            return show(path or "")
        if kind == "o":
            return show(old_path or "")
        if kind == "e":
            return names_text(mask).replace(",", argument)
        if kind == "T":
            return time.strftime(timefmt, time.localtime(when))
        if kind == "p":
            return "" if pid is None else str(pid)
        return show(commands[pid])

    constant = {"0": "\0", "n": "\n", "%": "%"}

    def lines(events):
        commands = Commands()
        return "".join("".join(
            piece if isinstance(piece, str) else constant.get(piece[0])
            or value(piece[0], piece[-1], event, commands) for piece in pieces) + end
            for event in events)
    return lines


def parse_format(pattern):
    """Split a format: str for text as it is, tuples (letter, [separator]) for the rest."""
    pieces, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char != "%":
            pieces.append(char)
            at += 1
            continue
        letter = pattern[at + 1:at + 2]
        if letter and letter in "wfPoTpc0n%":
            pieces.append((letter,))
            at += 2
        elif letter == "e":
            pieces.append(("e", ","))
            at += 2
        elif pattern[at + 2:at + 3] == "e":     # %Xe: events separated by X
            pieces.append(("e", letter))
            at += 3
        else:
            raise Error(errno.EINVAL, "reading --format %s: %%%s is not known; --help lists them"
                        % (printable(pattern), printable(letter)))
    return pieces


class Output:
    """Where lines go: a descriptor, written to the last byte."""

    def __init__(self, path):
        self.name = path or "standard output"
        self.fd = 1
        if path:
            try:
                self.fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC,
                                  0o644)
            except OSError as error:
                raise failure(error.errno, "opening", path, "choose another --outfile")

    def write(self, text):
        """Write all of a text.  Raises BrokenPipeError, or Error when it can't."""
        data = text.encode(_FS_ENCODING, _FS_ERRORS)
        while data:
            try:
                data = data[os.write(self.fd, data):]
            except BrokenPipeError:
                raise
            except BlockingIOError:
                select.select([], [self.fd], [])
            except OSError as error:
                raise failure(error.errno, "writing events to", self.name,
                              "the events since are lost")

    def is_path(self):
        """The path of the file written to, if it is one: inotify does not say who wrote."""
        try:
            return os.fsdecode(fd_path(self.fd))
        except OSError:
            return None


class Runner:
    """--exec: a command for each event, one at a time, while reading goes on."""

    def __init__(self, command, watch):
        import shlex
        import signal
        import subprocess
        self.subprocess = subprocess
        try:
            self.words = shlex.split(command)
        except ValueError as reason:
            raise Error(errno.EINVAL, "reading --exec %s: %s" % (printable(command), reason))
        if not self.words:
            raise Error(errno.EINVAL, "reading --exec: no command")
        self.waiting = collections.deque()
        self.child = None
        signal.signal(signal.SIGCHLD, lambda *_: watch.wake())

    def add(self, events):
        self.waiting.extend(events)
        self.advance()

    def advance(self):
        """Start the next command if none is running."""
        while self.child is None or self.child.poll() is not None:
            self.child = None
            if not self.waiting:
                return
            event = self.waiting.popleft()
            path = event.path or ""
            environment = dict(os.environ, FANFP_PATH=path, FANFP_OLD_PATH=event.old_path or "",
                               FANFP_EVENTS=names_text(event.mask),
                               FANFP_PID="" if event.pid is None else str(event.pid),
                               FANFP_IS_DIR="1" if event.is_dir else "0")
            words = [word.replace("{}", path) for word in self.words]
            try:
                self.child = self.subprocess.Popen(words, env=environment,
                                                   stdin=self.subprocess.DEVNULL)
            except (OSError, ValueError) as error:
                raise failure(getattr(error, "errno", None) or errno.EINVAL, "running",
                              words[0], "see --exec")

    def finish(self):
        """Run what is left."""
        while self.waiting or self.child is not None:
            if self.child is not None:
                self.child.wait()
            self.advance()


def choose_output(options):
    """The function from events to text that the options ask for."""
    if sum(map(bool, (options.json, options.csv, options.format is not None))) > 1:
        raise Error(errno.EINVAL, "reading options: only one of --json, --csv and --format")
    if options.json:
        return json_lines
    if options.csv:
        return csv_lines
    if options.format is not None:
        return format_lines(options.format, options.timefmt, not options.no_newline)
    return text_lines


def choose_pattern(plain, caseless, name):
    """One regular expression of those given with --include and --includei, or None."""
    patterns = ["(?:%s)" % each for each in plain or ()]
    patterns += ["(?i:%s)" % each for each in caseless or ()]
    for each in (plain or []) + (caseless or []):
        compiled(each)                          # so that an error names the one given
    return "|".join(patterns) or None


def run(options):
    """Watch and print until told to stop; the exit status."""
    import signal
    lines = choose_output(options)
    include = choose_pattern(options.include, options.includei, "--include")
    exclude = choose_pattern(options.exclude, options.excludei, "--exclude")
    events = ",".join(options.event) if options.event else DEFAULT_EVENTS
    output = Output(options.outfile)
    raise_descriptor_limit()
    with Watch(*options.roots, events=events, filter=options.filter, include=include,
               exclude=exclude, latency=options.latency,
               mounts=not options.one_file_system) as watch:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: watch.stop())
        own = output.is_path() if "inotify" in watch.filter else None
        runner = Runner(options.command, watch) if options.command else None
        if not options.quiet:
            tell("watching %s (filter: %s)" % (" ".join(map(printable, watch.roots)),
                                               watch.filter))
        try:
            status = follow(watch, options, lines, output, runner, own)
        except BrokenPipeError:
            status = 0
        if runner is not None:
            runner.finish()
        if options.stats:
            tell("stats: " + ", ".join("%s %d" % item for item in watch.stats().items()))
        if not watch.roots and not options.quiet:
            tell("no root is left")
        return status


def follow(watch, options, lines, output, runner, own):
    """The main loop: read, print, until the end; the exit status."""
    left = options.count
    timeout = options.timeout or None
    last = time.monotonic()
    while True:
        wait = None if timeout is None else max(0.0, last + timeout - time.monotonic())
        events = watch.read(wait)
        if own is not None:
            events = [event for event in events if not is_own(event, own)]
        if runner is not None:
            runner.advance()
        if not events:
            if watch._ended():
                return 0
            if timeout is not None and time.monotonic() >= last + timeout:
                return EXIT_TIMEOUT
            continue
        last = time.monotonic()
        if left is not None:
            events = events[:left]
            left -= len(events)
        if options.quiet < 2:
            output.write(lines(events))
        if runner is not None:
            runner.add(events)
        if left == 0:
            return 0


def is_own(event, own):
    """Whether an event of inotify is of the file that fanfp itself writes."""
    return event.path is not None and os.path.basename(event.path) == os.path.basename(own) \
        and event.mask & (MODIFY | CLOSE_WRITE | OPEN) and os.path.realpath(event.path) == own


def raise_descriptor_limit():
    """Allow as many descriptors as the system lets us: many roots and deep scans need them."""
    import resource
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- --probe ---

def probe(roots):
    """Print what this host has, and which filter `auto` would take for the roots and why."""
    rows = [("kernel", "%s %s %s" % (os.uname().sysname, os.uname().release, os.uname().machine)),
            ("python", "%d.%d.%d" % sys.version_info[:3]),
            ("CAP_SYS_ADMIN", yes_no(has_capability(21))),
            ("CAP_DAC_READ_SEARCH", yes_no(has_capability(2))),
            ("BTF", yes_no(os.path.exists("/sys/kernel/btf/vmlinux"))),
            ("fanotify", attempt(lambda: os.close(fanotify_init(FAN_REPORT_FID)))),
            ("FAN_RENAME, target handles", attempt(lambda: os.close(fanotify_init(
                FAN_REPORT_FID | FAN_REPORT_DIR_FID | FAN_REPORT_NAME | FAN_REPORT_TARGET_FID))))]
    for root in roots:
        rows.append(("root", printable(root)))
        rows += probe_root(root)
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print("%-*s  %s" % (width, name, text))
    return 0


def probe_root(root):
    """Rows about one root."""
    rows = []
    try:
        device = os.stat(root).st_dev
        kind = [mount.kind for mount in read_mounts()
                if mount.device == "%d:%d" % (os.major(device), os.minor(device))]
        rows.append(("  file system", kind[0] if kind else "unknown"))
    except OSError as error:
        return [("  error", str(error))]
    chosen = None
    for name in FILTER_NAMES[1:]:
        try:
            # --one-file-system: what is mounted inside has its own answer.
            watch = Watch(root, filter=name, mounts=False, notice=lambda _: None) \
                if name != "inotify" else None
        except Error as error:
            rows.append(("  filter " + name, "no: %s" % error))
            continue
        if watch is not None:
            watch.close()
        rows.append(("  filter " + name, "yes"))
        chosen = chosen or name
    rows.append(("  auto takes", chosen))
    return rows


def yes_no(value):
    return "yes" if value else "no"


def attempt(action):
    """"yes", or the Error of an action as text."""
    try:
        action()
    except OSError as error:
        return "no: %s" % error
    return "yes"


def has_capability(number):
    """Whether this process has a capability in effect.  proc(5), status."""
    try:
        with open("/proc/self/status") as file:
            for line in file:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> number & 1)
    except OSError:
        pass
    return False


def main(arguments=None):
    """Run the command line; the exit status."""
    try:
        parser = build_parser()
        options = parser.parse_args(arguments)
        if options.probe:
            return probe(options.roots)
        if not options.roots:
            raise Error(errno.EINVAL, "watching: no root given; name a directory, or see --help")
        return run(options)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:
        return 0
    except OSError as error:
        tell(str(error))
        return EXIT_ERROR
    except SystemExit as end:
        return EXIT_ERROR if end.code else 0


if __name__ == "__main__":
    sys.exit(main())
