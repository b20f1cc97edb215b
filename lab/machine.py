# SPDX-License-Identifier: GPL-2.0-only
"""One run of the machine: QEMU with a kernel, the project, a command, and what came of it."""

import collections
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import debian
import initramfs
from common import PROJECT, Error, cache, locked, need_packages, say


class Kind(collections.namedtuple("Kind", "package program options processor console")):
    """How QEMU is called for an architecture, and how its kernel names the serial port."""


# q35: the tables of the other PC route interrupts by a loop in ACPI's language, which the kernel
# gives up after 30 s on a busy host, and then it has no devices.
KINDS = {
    "amd64": Kind("qemu-system-x86", "x86_64", "q35", "max", "ttyS0"),
    "arm64": Kind("qemu-system-arm", "aarch64", "virt,gic-version=3", "max,pauth-impdef=on",
                  "ttyAMA0"),
    "ppc64el": Kind("qemu-system-ppc", "ppc64", "pseries", "power9", "hvc0"),
    "riscv64": Kind("qemu-system-misc", "riscv64", "virt", "rv64", "ttyS0"),
    "s390x": Kind("qemu-system-misc", "s390x", "s390-ccw-virtio", "max", "ttysclp0"),
}

# Time in the machine passes slowly on a busy host: a stall is one only after minutes.
CMDLINE = ("console={} loglevel=5 panic=-1 oops=panic audit=0 apparmor=0 "
           "random.trust_cpu=on rcupdate.rcu_cpu_stall_timeout=300 watchdog_thresh=60 "
           "sysctl.kernel.hung_task_timeout_secs=300 no_timer_check")

# On a host busy enough, even devices time out while the kernel starts: then it is started again.
BOOT_LIMIT, BOOTS = 240, 3

# Lines of the kernel's log that fail a run whatever the tests say.
PROBLEM = re.compile(
    r"\bBUG:|WARNING:|Oops|KASAN|KFENCE|UBSAN|Kernel panic|general protection fault|refcount_t:|"
    r"blocked for more than|soft lockup|hard LOCKUP|detected stalls|self-detected stall|"
    r"VFS: Busy inodes|kobject.*tried to|possible recursive locking|possible circular locking|"
    r"suspicious RCU usage|lab: ")


class Result:
    """How a run ended: the command's exit status (None: it did not end), and what went wrong."""

    def __init__(self, status, failure, log):
        self.status = status
        self.failure = failure
        self.log = log


def accelerator(kernel):
    """KVM where it has been seen to boot a kernel, else QEMU's own translation."""
    chosen = os.environ.get("FANFP_ACCEL")
    if kernel.architecture != debian.NATIVE:
        return "tcg"
    if chosen:
        return chosen
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    with locked("accel"):
        known = cache() / "accel"
        if not known.exists():
            # It may be there and yet hang.
            say("trying KVM, for 20 s at most")
            result = run(kernel, "true", limit=20, accel="kvm", stderr=subprocess.DEVNULL)
            known.write_text("kvm" if result.status == 0 else "tcg")
        return known.read_text()


def run(kernel, command=None, limit=900, output=None, env=None, memory="2G", share=None,
        accel=None, stderr=None):
    """Boot a kernel and run a shell command in it, or a shell on this terminal without one.

    What the command prints is handed to output() as it comes (bytes; to standard output by
    default). The directory share, if any, is /share in the machine. The machine ends with the
    command, or after limit seconds. Returns a Result.
    """
    need_packages([KINDS[kernel.architecture].package], "the machine")
    files = initramfs.get(kernel)
    accel = accel or accelerator(kernel)
    for left in reversed(range(BOOTS)):
        result, started = boot(kernel, files, accel, command, limit, output, env, memory, share,
                               stderr)
        if started or not left or (limit and limit < BOOT_LIMIT):
            return result
        say(f"the kernel {kernel.name} did not come up, trying again: {result.failure}")
    return None


def boot(kernel, files, accel, command, limit, output, env, memory, share, stderr):
    """Do what run() does, once. Returns a Result, and whether it came as far as the command."""
    with tempfile.TemporaryDirectory(prefix="fanfp-lab-") as directory:
        lab = pathlib.Path(directory)
        size = shutil.get_terminal_size()
        variables = {"LAB_KERNEL": kernel.name, "LAB_ROWS": size.lines, "LAB_COLUMNS": size.columns,
                     "PYTHONDONTWRITEBYTECODE": 1, **(env or {})}
        (lab / "env").write_text("".join(f"export {name}={shlex.quote(str(value))}\n"
                                         for name, value in variables.items()))
        if command is not None:
            (lab / "command").write_text(command + "\n")
        log = lab / "log"
        child = subprocess.Popen(
            qemu(kernel, files, lab, log, memory, share, accel, command is None),
            # never written to, but open: at its end QEMU would drop the output too
            stdin=subprocess.PIPE if command is not None else None,
            stdout=subprocess.PIPE if command is not None else None, stderr=stderr)
        failure = None
        started = lab / "started"
        timers = [threading.Timer(BOOT_LIMIT, lambda: started.exists() or child.kill())]
        if limit:
            timers.append(threading.Timer(limit, child.kill))
        begin = time.monotonic()
        try:
            for timer in timers:
                timer.start()
            if command is not None:
                copy(child.stdout, output or write_out)
            child.wait()
            if child.returncode == -9:
                failure = f"did not end within {time.monotonic() - begin:.0f} s"
        finally:
            for timer in timers:
                timer.cancel()
            child.kill()
            child.wait()
        text = log.read_text(errors="replace").replace("\r", "") if log.exists() else ""
        try:
            status = int((lab / "status").read_text())
        except (OSError, ValueError):
            status = None
        trouble = problems(text)
        if trouble:
            failure = "the kernel's log has:\n" + trouble
        elif status is None and not failure:
            failure = "the machine ended before the command did; the kernel's log ends:\n" + \
                "\n".join(text.splitlines()[-15:])
        return Result(status, failure, text), started.exists()


def qemu(kernel, files, lab, log, memory, share, accel, interactive):
    """The command line of QEMU."""
    kind = KINDS[kernel.architecture]
    files_of = "local,security_model=none,multidevs=remap"
    shares = ["-virtfs", f"{files_of},path={comma(PROJECT)},mount_tag=fanfp,readonly=on",
              "-virtfs", f"{files_of},path={comma(lab)},mount_tag=lab"]
    if share:
        shares += ["-virtfs", f"{files_of},path={comma(os.path.abspath(share))},mount_tag=share"]
    return [
        # which ends with whoever starts it, however that ends
        "setpriv", "--pdeathsig", "KILL",
        f"qemu-system-{kind.program}", "-machine", kind.options, "-nodefaults",
        "-no-user-config", "-no-reboot", "-display", "none",
        "-accel", "tcg,thread=multi,tb-size=512" if accel == "tcg" else accel,
        "-cpu", kind.processor if accel == "tcg" else "host", "-smp", "2", "-m", memory,
        "-kernel", str(kernel.image), "-initrd", str(files),
        "-append", CMDLINE.format(kind.console), "-serial", f"file:{log}",
        "-chardev", "stdio,id=out,signal=off", "-device", "virtio-serial",
        "-device",
        "virtconsole,chardev=out" if interactive else "virtserialport,chardev=out,name=out",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng,rng=rng",
        *shares,
    ]


def comma(path):
    """A path as QEMU's options want it."""
    return str(path).replace(",", ",,")


def copy(stream, output):
    while True:
        data = os.read(stream.fileno(), 65536)
        if not data:
            return
        output(data)


def write_out(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def problems(log):
    """The lines of a kernel's log that tell of a problem, the first with what follows it."""
    lines = log.splitlines()
    found = [number for number, line in enumerate(lines) if PROBLEM.search(line)]
    if not found:
        return None
    first = lines[found[0]:found[0] + 40]
    later = [lines[number] for number in found if number >= found[0] + 40]
    return "\n".join(first + later[:20])


def environment():
    """The variables that are passed on into the machine."""
    local = {"FANFP_CACHE", "FANFP_ACCEL", "FANFP_NO_INSTALL"}
    return {name: value for name, value in os.environ.items()
            if name.startswith("FANFP_") and name not in local}


def failed(result):
    """Say what went wrong with a run, and return its exit status."""
    if result.failure:
        raise Error(result.failure)
    return result.status
