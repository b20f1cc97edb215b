# SPDX-License-Identifier: GPL-2.0-only
"""The kernels that the machine can boot: built here, or Debian's own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import debian
from common import (
    LAB,
    Error,
    cache,
    digest,
    drop_unused,
    locked,
    need_packages,
    package_version,
    pathlib,
    replace_tree,
    run,
    say,
)

SOURCE = "linux-source-6.12"
BUILD_PACKAGES = [SOURCE, "build-essential", "bc", "bison", "flex", "kmod", "libelf-dev",
                  "libssl-dev", "dwarves", "patch", "python3", "xz-utils"]
BPFTOOL_SOURCES = ["tools", "scripts", "include/uapi", "kernel/bpf", "arch/x86/include", "Makefile"]

# Each name a kernel can be asked for by.
BUILT = {"fastpath": ["kernel.config"], "fastpath-debug": ["kernel.config", "debug.config"]}
NAMES = [*BUILT, *debian.KERNELS, *debian.FOREIGN]


class Kernel:
    """A directory of the cache: bzImage; modules/ if it needs any; programs/ for a kernel of
    another architecture."""

    def __init__(self, name, path):
        self.name = name
        self.image = path / "bzImage"
        self.modules = path / "modules"
        self.programs = path / "programs"
        self.architecture = name if name in debian.FOREIGN else debian.NATIVE


def get(name):
    """The kernel of this name, built or fetched first if need be."""
    if name in BUILT:
        return Kernel(name, built(name))
    if name in debian.KERNELS or name in debian.FOREIGN:
        return Kernel(name, debian.get(name))
    raise Error(f"no kernel is named {name!r}; there are {', '.join(NAMES)}")


def built(name, force=False):
    """Build a kernel, unless the cache has one of the same patches, options and source."""
    patches = sorted((LAB / "patches").glob("*.patch"))
    configs = [LAB / config for config in BUILT[name]]
    path = cache() / f"kernel-{name}-{digest(*patches, *configs)}"
    if not force and usable(path):
        return path
    with locked(f"kernel-{name}"):
        if not force and usable(path):
            return path     # another process has built it meanwhile
        need_packages(BUILD_PACKAGES, f"building the kernel {name}")
        work = cache() / f"build-{name}"
        shutil.rmtree(work, ignore_errors=True)
        new = work / "new"
        new.mkdir(parents=True)
        try:
            seconds = build(name, work, new, patches, configs)
            (new / "about.json").write_text(json.dumps({
                "source": package_version(SOURCE), "seconds": round(seconds)}) + "\n")
            replace_tree(new, path)
        finally:
            # gigabytes; the log beside it stays
            shutil.rmtree(work, ignore_errors=True)
        drop_unused(f"kernel-{name}-" + "?" * 16, path)
    return path


def usable(path):
    """Whether the cache has this kernel; if so, it is in use from now on."""
    about = path / "about.json"
    if not about.exists():
        return False
    # Another version of the source means another kernel; no source means none of it is due.
    if package_version(SOURCE) not in (None, json.loads(about.read_text())["source"]):
        return False
    os.utime(path)
    return True


def build(name, work, new, patches, configs):
    """Unpack, patch, configure and build in work; leave what is kept in new."""
    start = time.monotonic()
    log = cache() / f"build-{name}.log"
    say(f"building the kernel {name} (minutes; all of it is in {log})")
    run("tar", "-C", work, "-xf", f"/usr/src/{SOURCE}.tar.xz")
    tree = work / SOURCE
    for patch in patches:
        with open(patch, "rb") as text:
            if subprocess.run(["patch", "-p1", "-s", "-f", "-d", str(tree)], stdin=text,
                              check=False).returncode:
                raise Error(f"{patch.name} does not apply to {SOURCE} {package_version(SOURCE)}")
    fragment = "".join(config.read_text() for config in configs)
    (work / "config").write_text(fragment)
    make = ["make", "-C", str(tree), f"-j{os.cpu_count()}", "LOCALVERSION=-" + name,
            "KBUILD_BUILD_USER=fanfp", "KBUILD_BUILD_HOST=lab",
            f"KCONFIG_ALLCONFIG={work / 'config'}"]
    with open(log, "wb") as out:
        subprocess.run([*make, "allnoconfig"], stdout=out, stderr=out, check=False)
        check_config(fragment, (tree / ".config").read_text())
        child = subprocess.Popen([*make, "bzImage"], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        shown = start
        for steps, line in enumerate(child.stdout, 1):
            out.write(line)
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                what = line.decode(errors="replace").strip()
                say(f"  {steps} steps, {shown - start:.0f} s: {what}")
        if child.wait():
            out.flush()
            sys.stderr.write("".join(log.read_text(errors="replace").splitlines(True)[-30:]))
            raise Error(f"the kernel {name} could not be built; see {log}")
    shutil.copy(tree / "arch/x86/boot/bzImage", new / "bzImage")
    shutil.copy(tree / ".config", new / "config")
    shutil.copy(tree / "System.map", new / "System.map")
    run("objcopy", "--dump-section", f".BTF={new / 'vmlinux.btf'}", tree / "vmlinux", "/dev/null")
    seconds = time.monotonic() - start
    say(f"built the kernel {name} in {seconds:.0f} s")
    return seconds


def bpftool():
    """The directory of bpftool as of the kernel's source; Debian's own is too old for struct_ops
    that are links."""
    with locked("bpftool"):
        need_packages([*BUILD_PACKAGES, "zlib1g-dev"], "building bpftool")
        path = cache() / f"bpftool-{package_version(SOURCE)}"
        if (path / "bpftool").exists():
            return path
        say(f"building bpftool (a minute or two; all of it is in {cache() / 'build-bpftool.log'})")
        with tempfile.TemporaryDirectory(dir=cache()) as directory:
            work = pathlib.Path(directory)
            run("tar", "-C", work, "-xf", f"/usr/src/{SOURCE}.tar.xz",
                *(f"{SOURCE}/{each}" for each in BPFTOOL_SOURCES))
            # Without what it can do with LLVM, libbfd and clang, which loading needs none of.
            options = [f"feature-{each}=0" for each in ("llvm", "libbfd", "clang-bpf-co-re")]
            with open(cache() / "build-bpftool.log", "wb") as out:
                built = subprocess.run(
                    ["make", "-C", str(work / SOURCE / "tools/bpf/bpftool"),
                     f"-j{os.cpu_count()}", *options], stdout=out, stderr=out, check=False)
            if built.returncode:
                raise Error(f"bpftool could not be built; see {cache() / 'build-bpftool.log'}")
            new = work / "new"
            new.mkdir()
            shutil.copy(work / SOURCE / "tools/bpf/bpftool/bpftool", new)
            for old in cache().glob("bpftool-*"):
                shutil.rmtree(old)
            replace_tree(new, path)
        return path


def check_config(fragment, config):
    """An option that got lost (renamed, or short of another one) is an error, not a surprise."""
    have = set(config.splitlines())
    want = dict(line.split("=", 1) for line in fragment.splitlines() if line.startswith("CONFIG_"))
    lost = [option for option, value in want.items()
            if (f"{option}={value}" not in have if value != "n" else
                any(line.startswith(option + "=") for line in have))]
    if lost:
        raise Error(f"the kernel source does not take {' '.join(lost)}")
