#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Tests of the fanotify fastpath itself: the raw interface, with the kernel's own test handlers.

Runs as root on a kernel with CONFIG_FANOTIFY_FASTPATH_TEST; elsewhere all but one test are skipped.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import fanfp  # noqa: E402  (its reader of the kernel's types)
import test_fanfp  # noqa: E402  (its way to run tests and to tell)

FAN_CLOEXEC, FAN_NONBLOCK, FAN_CLASS_CONTENT = 0x1, 0x2, 0x4
FAN_REPORT_FID, FAN_REPORT_DFID_NAME = 0x200, 0xC00
FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x1, 0x100
FAN_CLOSE_WRITE, FAN_CREATE, FAN_DELETE = 0x8, 0x100, 0x200
FAN_OPEN_PERM, FAN_ONDIR, FAN_EVENT_ON_CHILD = 0x10000, 0x40000000, 0x08000000
FAN_DENY = 2
DEFAULT_MASK = FAN_CREATE | FAN_DELETE | FAN_CLOSE_WRITE | FAN_EVENT_ON_CHILD

# _IOW('F', 0, struct fanotify_fastpath_args) and _IOW('F', 1, char[64])
ARGS = struct.Struct("=64sIIQI")
FAN_IOC_ADD_FP = 1 << 30 | ARGS.size << 16 | ord("F") << 8 | 0
FAN_IOC_DEL_FP = 1 << 30 | 64 << 16 | ord("F") << 8 | 1

SYSFS = "/sys/kernel/fanotify_fastpath"
TEST = "/sys/module/fanotify_fastpath_test/parameters"
METADATA = struct.Struct("=IBBHQii")

libc = ctypes.CDLL(None, use_errno=True)
libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int,
                               ctypes.c_char_p]


def check(result):
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


class Group:
    """A fanotify group; by default of the kind that needs no privilege."""

    def __init__(self, flags=FAN_REPORT_DFID_NAME):
        self.fd = check(libc.fanotify_init(flags | FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def mark(self, path, mask=DEFAULT_MASK, flags=0):
        check(libc.fanotify_mark(self.fd, FAN_MARK_ADD | flags, mask, -1, os.fsencode(path)))
        return self

    def add(self, name, init_args=b"", version=1, flags=0, size=None, address=None):
        buffer = ctypes.create_string_buffer(init_args, max(len(init_args), 1))
        if address is None:
            address = ctypes.addressof(buffer)
        fcntl.ioctl(self.fd, FAN_IOC_ADD_FP, ARGS.pack(
            name.encode(), version, flags, address, len(init_args) if size is None else size))
        return self

    def delete(self):
        fcntl.ioctl(self.fd, FAN_IOC_DEL_FP, bytes(64))
        return self

    def names(self):
        """The file names of all events in the queue."""
        found = []
        while True:
            try:
                data = os.read(self.fd, 1 << 16)
            except BlockingIOError:
                return found
            while data:
                length, _, _, head, *_ = METADATA.unpack_from(data)
                # one record: its header, the file-system id, the handle, the name
                if length > head:
                    size, = struct.unpack_from("=I", data, head + 12)
                    found.append(data[head + 20 + size:length].split(b"\0")[0].decode())
                data = data[length:]


def parameter(name):
    with open(f"{TEST}/{name}") as file:
        return file.read().strip()


def set_parameter(name, value):
    with open(f"{TEST}/{name}", "w") as file:
        file.write(value)


def touch(path):
    with open(path, "w"):
        pass


def wait_until(condition, what, seconds=60):
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.001)


def wait_for_calls(number=1):
    """Wait until handlers have been called this often from now on."""
    wanted = int(parameter("calls")) + number
    wait_until(lambda: int(parameter("calls")) >= wanted, "calls of a handler")


def settle():
    """Wait until no event is on its way that was made before: detaching waits for the handlers."""
    with Group() as group:
        group.add("lab-skip").delete()


@contextlib.contextmanager
def noise(path, processes=2):
    """Other processes that make events under path all the time."""
    script = ("import os, sys\n"
              "name = os.path.join(sys.argv[1], 'noise-%d' % os.getpid())\n"
              "while True:\n"
              "    for i in range(50):\n"
              "        open(name + str(i), 'w').close()\n"
              "    for i in range(50):\n"
              "        os.unlink(name + str(i))\n")
    children = [subprocess.Popen([sys.executable, "-IS", "-c", script, path])
                for _ in range(processes)]
    try:
        wait_until(lambda: os.listdir(path), "the first file of a process that makes events")
        yield
        for child in children:
            if child.poll() is not None:
                raise AssertionError("a process that makes events has ended")
    finally:
        for child in children:
            child.kill()
            child.wait()


class WithoutFastpath(unittest.TestCase):
    @unittest.skipIf(os.path.exists(SYSFS), "this kernel has the fastpath")
    def test_kernel_without_fastpath_says_enotty(self):
        with Group() as group:
            for call in (lambda: group.add("lab-skip"), group.delete):
                with self.assertRaises(OSError) as caught:
                    call()
                self.assertEqual(caught.exception.errno, errno.ENOTTY)


@unittest.skipUnless(os.path.exists(TEST), "this kernel has no CONFIG_FANOTIFY_FASTPATH_TEST")
@unittest.skipUnless(os.geteuid() == 0, "needs root")
class Fastpath(unittest.TestCase):
    def setUp(self):
        self.assertEqual(parameter("registered"), "Y")
        self.assertEqual(parameter("hooks"), "0")
        self.root = tempfile.mkdtemp(prefix="fastpath-")
        self.addCleanup(self.clean_up)

    def clean_up(self):
        shutil.rmtree(self.root, ignore_errors=True)
        set_parameter("registered", "1")
        self.assertEqual(parameter("hooks"), "0", "handlers were not freed")

    def path(self, name):
        return os.path.join(self.root, name)

    def refused(self, code, group, *args, **options):
        with self.assertRaises(OSError) as caught:
            group.add(*args, **options)
        self.assertEqual(errno.errorcode[caught.exception.errno], errno.errorcode[code])


class Arguments(Fastpath):
    """Each error of FAN_IOC_ADD_FP, and that the group is as before after it."""

    def test_size_of_the_arguments(self):
        self.assertEqual(ARGS.size, 84)
        self.assertEqual(FAN_IOC_ADD_FP, 0x40544600)
        self.assertEqual(FAN_IOC_DEL_FP, 0x40404601)

    def test_efault(self):
        with Group() as group:
            command = ctypes.c_ulong(FAN_IOC_ADD_FP)
            self.assertEqual(libc.ioctl(group.fd, command, ctypes.c_void_p(8)), -1)
            self.assertEqual(ctypes.get_errno(), errno.EFAULT)
            self.refused(errno.EFAULT, group, "lab-skip", size=4, address=8)
            group.add("lab-skip")

    def test_einval_version(self):
        with Group() as group:
            for version in (0, 2, 0xFFFFFFFF):
                self.refused(errno.EINVAL, group, "lab-skip", version=version)

    def test_einval_flags(self):
        with Group() as group:
            for flags in (1, 0x80000000):
                self.refused(errno.EINVAL, group, "lab-skip", flags=flags)

    def test_einval_size(self):
        with Group() as group:
            self.refused(errno.EINVAL, group, "lab-skip", b"x" * 65)
            self.refused(errno.EINVAL, group, "lab-skip", size=0xFFFFFFFF)
            group.add("lab-skip", b"x" * 63 + b"\0")

    def test_size_zero_needs_no_address(self):
        with Group() as group:
            group.add("lab-skip", size=0, address=8)

    def test_ebusy(self):
        with Group() as group:
            group.add("lab-skip")
            self.refused(errno.EBUSY, group, "lab-skip")
            self.refused(errno.EBUSY, group, "lab-admin")
            self.assertEqual(parameter("hooks"), "1")

    def test_enoent(self):
        with Group() as group:
            for name in ("", "lab-ski", "lab-skip2", "x" * 64, "."):
                self.refused(errno.ENOENT, group, name)

    def test_eperm_without_the_capability(self):
        # A group of an ordinary user may have a handler, unless that is for administrators only.
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.setgroups([])
                os.setresgid(65534, 65534, 65534)
                os.setresuid(65534, 65534, 65534)
                with Group(FAN_REPORT_FID) as group:
                    self.refused(errno.EPERM, group, "lab-admin")
                    group.add("lab-skip")
                    group.delete()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        with Group() as group:
            group.add("lab-admin")

    def test_what_fp_init_returns(self):
        with Group() as group:
            self.refused(errno.EDOM, group, "lab-fail")
            self.refused(errno.ELIBBAD, group, "lab-fail", struct.pack("i", errno.ELIBBAD))
            self.refused(errno.ENAMETOOLONG, group, "lab-skip", b"x" * 64)
            # neither success nor an error number: must not be taken for a pointer
            for code in (-1, -5000, 5000):
                self.refused(errno.EINVAL, group, "lab-fail", struct.pack("i", code))
            group.add("lab-skip")

    def test_delete(self):
        with Group() as group:
            group.delete()
            group.add("lab-skip")
            group.delete()
            group.delete()
            self.assertEqual(parameter("hooks"), "0")
            group.add("lab-skip")

    def test_delete_ignores_its_argument(self):
        with Group() as group:
            group.add("lab-skip")
            self.assertEqual(libc.ioctl(group.fd, ctypes.c_ulong(FAN_IOC_DEL_FP), None), 0)
            self.assertEqual(parameter("hooks"), "0")

    def test_other_ioctls_are_as_before(self):
        with Group() as group:
            with self.assertRaises(OSError) as caught:
                fcntl.ioctl(group.fd, FAN_IOC_ADD_FP + 2, bytes(84))
            self.assertEqual(caught.exception.errno, errno.ENOTTY)


class Registry(Fastpath):
    def test_sysfs(self):
        entries = {}
        for name in filter(lambda name: name.startswith("lab-"), os.listdir(SYSFS)):
            entries[name] = []
            for item in ("flags", "desc", "init_args"):
                with open(f"{SYSFS}/{name}/{item}") as file:
                    entries[name].append(file.read())
        self.assertEqual(sorted(entries), ["lab-admin", "lab-fail", "lab-skip", "lab-slow"])
        self.assertEqual(entries["lab-admin"],
                         ["0x1\n", "send all events, for CAP_SYS_ADMIN only\n", "N/A\n"])
        self.assertEqual(entries["lab-fail"], ["0x0\n", "N/A\n", "int errno; none: EDOM\n"])
        self.assertEqual(sorted(os.listdir(f"{SYSFS}/lab-skip")), ["desc", "flags", "init_args"])

    def test_names_that_clash(self):
        with self.assertRaises(OSError) as caught:
            set_parameter("clash", "1")
        self.assertEqual(caught.exception.errno, errno.EEXIST)
        self.assertTrue(os.path.exists(f"{SYSFS}/lab-skip/desc"))

    def test_unregistered_and_registered_again(self):
        for _ in range(20):
            set_parameter("registered", "0")
            self.assertFalse(os.path.exists(f"{SYSFS}/lab-skip"))
            with Group() as group:
                self.refused(errno.ENOENT, group, "lab-skip")
            set_parameter("clash", "1")     # the name is free now
            set_parameter("registered", "1")
            self.assertTrue(os.path.exists(f"{SYSFS}/lab-skip/flags"))

    def test_entry_open_while_unregistered(self):
        with open(f"{SYSFS}/lab-skip/desc") as file:
            set_parameter("registered", "0")
            with self.assertRaises(OSError) as caught:
                file.read()
            self.assertEqual(caught.exception.errno, errno.ENODEV)

    def test_unregistered_while_attached(self):
        with Group() as group:
            group.mark(self.root).add("lab-skip", b"skip\0")
            set_parameter("registered", "0")
            touch(self.path("skip-1"))
            touch(self.path("send-1"))
            self.assertEqual(set(group.names()), {"send-1"})
            self.assertEqual(parameter("hooks"), "1")
            set_parameter("registered", "1")
            touch(self.path("skip-2"))
            self.assertEqual(group.names(), [])


class Events(Fastpath):
    def test_skipped_events_do_not_arrive(self):
        with Group() as group:
            group.mark(self.root)
            touch(self.path("skip-before"))
            group.add("lab-skip", b"skip\0")
            touch(self.path("skip-1"))
            touch(self.path("send-1"))
            os.unlink(self.path("skip-1"))
            group.delete()
            touch(self.path("skip-after"))
            self.assertEqual(list(dict.fromkeys(group.names())),
                             ["skip-before", "send-1", "skip-after"])

    def test_nothing_to_poll_for(self):
        with Group() as group:
            group.mark(self.root).add("lab-skip")
            before = int(parameter("calls"))
            touch(self.path("x"))
            # handlers run, and events are queued, before the call that makes them returns
            self.assertGreater(int(parameter("calls")), before)
            self.assertEqual(select.select([group.fd], [], [], 0)[0], [])

    def test_only_events_the_mask_lets_through(self):
        with Group() as group:
            group.mark(self.root, FAN_DELETE).add("lab-skip")
            before = int(parameter("calls"))
            touch(self.path("x"))
            self.assertEqual(int(parameter("calls")), before)

    def test_two_groups(self):
        with Group() as one, Group() as two, Group() as three:
            for group in (one, two, three):
                group.mark(self.root)
            one.add("lab-skip", b"a\0")
            two.add("lab-skip", b"b\0")
            self.assertEqual(parameter("hooks"), "2")
            for name in "abc":
                touch(self.path(name))
            self.assertEqual(set(one.names()), {"b", "c"})
            self.assertEqual(set(two.names()), {"a", "c"})
            self.assertEqual(set(three.names()), {"a", "b", "c"})
            one.close()
            self.assertEqual(parameter("hooks"), "1")
            touch(self.path("b"))
            self.assertEqual(two.names(), [])

    def test_closing_the_group_detaches(self):
        with Group() as group:
            group.mark(self.root).add("lab-skip")
            copy = os.dup(group.fd)
            group.close()
            self.assertEqual(parameter("hooks"), "1")
            os.close(copy)
        self.assertEqual(parameter("hooks"), "0")

    def test_death_of_the_process_detaches(self):
        pid = os.fork()
        if pid == 0:
            Group().mark(self.root).add("lab-skip")
            os.kill(os.getpid(), 9)
        os.waitpid(pid, 0)
        self.assertEqual(parameter("hooks"), "0")

    def test_skipped_permission_event_means_allow(self):
        # Nobody answers: without the handler the open would wait for ever.
        touch(self.path("x"))
        with Group(FAN_CLASS_CONTENT) as group:
            group.mark(self.path("x"), FAN_OPEN_PERM).add("lab-skip")
            with open(self.path("x")):
                pass
            group.delete()

    def test_sent_permission_event_is_asked(self):
        touch(self.path("x"))
        with Group(FAN_CLASS_CONTENT) as group:
            group.mark(self.path("x"), FAN_OPEN_PERM).add("lab-admin")
            child = subprocess.Popen(["cat", self.path("x")], stderr=subprocess.DEVNULL)
            self.assertTrue(select.select([group.fd], [], [], 60)[0])
            event = METADATA.unpack(os.read(group.fd, METADATA.size))
            os.write(group.fd, struct.pack("iI", event[5], FAN_DENY))
            os.close(event[5])
            self.assertNotEqual(child.wait(), 0)

    def test_file_system_mark(self):
        outside = tempfile.mkdtemp(prefix="outside-", dir=os.path.dirname(self.root))
        self.addCleanup(shutil.rmtree, outside)
        with Group() as group:
            group.mark(self.root, FAN_CREATE | FAN_ONDIR, FAN_MARK_FILESYSTEM)
            group.add("lab-skip", b"skip\0")
            touch(os.path.join(outside, "skip-1"))
            touch(os.path.join(outside, "send-1"))
            self.assertEqual(group.names(), ["send-1"])


class Kfuncs(Fastpath):
    """Who may call the kernel's functions for handlers: programs of this struct_ops type only."""

    NAMES = ("bpf_fanotify_data_dentry", "bpf_fanotify_data_inode", "bpf_dput", "bpf_iput",
             "bpf_is_subdir")

    @classmethod
    def setUpClass(cls):
        cls.kernel = fanfp.kernel_btf()

    def verifier(self, function, ops, member):
        """What the verifier says of a program of a struct_ops type that calls one of them."""
        function, = self.kernel.find(function, {fanfp.BTF_FUNC})
        ops, = self.kernel.find(ops, {fanfp.BTF_STRUCT})
        members = [each.name for each in self.kernel.type(ops).items]
        insns = ctypes.create_string_buffer(
            fanfp.INSN.pack(0x85, fanfp.BPF_PSEUDO_KFUNC_CALL << 4, 0, function)    # call
            + fanfp.INSN.pack(0xB7, 0, 0, 0) + fanfp.INSN.pack(0x95, 0, 0, 0))      # r0 = 0; exit
        license, log = ctypes.create_string_buffer(b"GPL"), ctypes.create_string_buffer(1 << 16)
        with self.assertRaises(fanfp.Error):
            os.close(fanfp.bpf(
                fanfp.BPF_PROG_LOAD, "IIQQIIQII16sIIIIQIIQIII", fanfp.PROG_STRUCT_OPS, 3, insns,
                license, 1, len(log), log, 0, 0, b"kfunc", 0, members.index(member), 0, 0, 0, 0, 0,
                0, 0, ops, 0, doing="loading BPF program"))
        return log.value.decode()

    def test_programs_of_another_type_may_not_call_them(self):
        for name in self.NAMES:
            with self.subTest(name):
                refusal = f"calling kernel function {name} is not allowed"
                self.assertIn(refusal, self.verifier(name, "bpf_dummy_ops", "test_1"))
                # A handler may. What is wrong there is what it gives or where it is called.
                log = self.verifier(name, "fanotify_fastpath_ops", "fp_handler")
                self.assertNotIn(refusal, log)
                self.assertRegex(log, "arg#0|R1 |must be sleepable")


class Load(Fastpath):
    """What may go wrong only while events flow."""

    ROUNDS = 100

    def test_attach_and_detach(self):
        with noise(self.root), Group() as group:
            group.mark(self.root)
            for _ in range(self.ROUNDS):
                group.add("lab-skip")
                group.delete()
                group.names()

    def test_no_event_gets_by_a_handler(self):
        with noise(self.root), Group() as group:
            group.mark(self.root)
            for _ in range(20):
                group.add("lab-skip", b"noise\0")
                settle()
                group.names()           # of before
                touch(self.path("mine"))
                wait_for_calls(100)
                self.assertEqual(set(group.names()), {"mine"})
                group.delete()

    def test_groups_closed(self):
        with noise(self.root):
            for _ in range(self.ROUNDS):
                with Group() as group:
                    group.mark(self.root).add("lab-skip")

    def test_groups_closed_while_their_handler_runs(self):
        with noise(self.root):
            for _ in range(self.ROUNDS // 2):
                with Group() as group:
                    group.mark(self.root).add("lab-slow")
                    wait_for_calls()    # it sleeps after it has been counted

    def test_detached_while_the_handler_runs(self):
        with noise(self.root), Group() as group:
            group.mark(self.root)
            for _ in range(self.ROUNDS // 2):
                group.add("lab-slow")
                wait_for_calls()
                group.delete()
                self.assertEqual(parameter("hooks"), "0")

    def test_many_threads_on_one_group(self):
        outcomes = {0: 0, errno.EBUSY: 0}
        with noise(self.root, 1), Group() as group:
            group.mark(self.root)

            def work():
                for _ in range(self.ROUNDS):
                    try:
                        group.add("lab-skip")
                        outcomes[0] += 1
                        group.delete()
                    except OSError as error:
                        outcomes[error.errno] = outcomes.get(error.errno, 0) + 1

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            group.delete()
        self.assertEqual(set(outcomes), {0, errno.EBUSY})
        self.assertTrue(outcomes[0])

    def test_unregistered_while_attached_and_running(self):
        with noise(self.root):
            for _ in range(self.ROUNDS // 5):
                with Group() as slow, Group() as skip:
                    slow.mark(self.root).add("lab-slow")
                    skip.mark(self.root).add("lab-skip")
                    wait_for_calls()
                    set_parameter("registered", "0")
                    slow.delete()
                    skip.close()
                    set_parameter("registered", "1")

    def test_registered_and_attached_at_the_same_time(self):
        stop = threading.Event()

        def toggle():
            while not stop.is_set():
                set_parameter("registered", "0")
                set_parameter("registered", "1")

        thread = threading.Thread(target=toggle)
        with noise(self.root, 1):
            thread.start()
            try:
                for _ in range(self.ROUNDS):
                    with Group() as group:
                        group.mark(self.root)
                        try:
                            group.add("lab-skip")
                        except FileNotFoundError:
                            pass
            finally:
                stop.set()
                thread.join()

    def test_sysfs_read_while_unregistered(self):
        stop = threading.Event()
        unexpected = []

        def read():
            while not stop.is_set():
                try:
                    with open(f"{SYSFS}/lab-skip/desc") as file:
                        file.read()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENODEV):
                        unexpected.append(error)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(self.ROUNDS):
                set_parameter("registered", "0")
                set_parameter("registered", "1")
        finally:
            stop.set()
            thread.join()
        self.assertEqual(unexpected, [])

    def test_many_groups(self):
        groups = []
        try:
            for _ in range(64):
                groups.append(Group().mark(self.root).add("lab-skip"))
            self.assertEqual(parameter("hooks"), "64")
            touch(self.path("x"))
        finally:
            for group in groups:
                group.close()


if __name__ == "__main__":
    sys.exit(test_fanfp.main())
