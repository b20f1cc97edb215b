# SPDX-License-Identifier: GPL-2.0-only
"""The kernels that the machine can boot: built here, or Debian's own."""

import json
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

from common import (
    LAB,
    Error,
    apt_lists,
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
STOCK = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
NAMES = [*BUILT, *STOCK]

# What the tests want of a stock kernel, which has all of it as modules. crc32c comes first: others
# look for it when they are loaded.
STOCK_MODULES = ["crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_console", "virtio_rng",
                 "9pnet_virtio", "9p", "loop", "ext4", "xfs", "btrfs", "overlay", "fuse"]


class Kernel:
    """A directory of the cache: bzImage, modules/ and modules.order if it needs any."""

    def __init__(self, name, path):
        self.name = name
        self.image = path / "bzImage"
        self.modules = path / "modules"


def get(name):
    """The kernel of this name, built or fetched first if need be."""
    if name in BUILT:
        return Kernel(name, built(name))
    if name in STOCK:
        return Kernel(name, stock(name))
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


def stock(name):
    """Fetch one of Debian's kernels and unpack what the machine needs of it."""
    with locked(f"kernel-{name}"):
        recipe = digest(*STOCK_MODULES)
        for path in cache().glob(f"kernel-{name}-*-{recipe}"):
            return path
        need_packages(["kmod", "xz-utils"], f"unpacking the kernel {name}")
        apt_lists()
        depends = run("apt-cache", "depends", "--important", STOCK[name])
        package = re.search(r"Depends: (linux-image-[\d.]+\S*)", depends)
        if not package:
            raise Error(f"no package here is the kernel {name} ({STOCK[name]} depends on none)")
        say(f"fetching the kernel {name} (package {package.group(1)})")
        with tempfile.TemporaryDirectory(dir=cache()) as directory:
            work = pathlib.Path(directory)
            run("apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", package.group(1),
                cwd=work)
            deb, = work.glob("*.deb")
            run("dpkg-deb", "-x", deb, work / "root")
            image, = (work / "root/boot").glob("vmlinuz-*")
            release = image.name[len("vmlinuz-"):]
            new = work / "new"
            (new / "modules").mkdir(parents=True)
            shutil.copy(image, new / "bzImage")
            order = copy_modules(work / "root", release, new / "modules")
            (new / "modules/order").write_text("".join(module + "\n" for module in order))
            for old in cache().glob(f"kernel-{name}-*"):
                shutil.rmtree(old)
            path = cache() / f"kernel-{name}-{release}-{recipe}"
            replace_tree(new, path)
            return path


def copy_modules(root, release, target):
    """Copy the modules wanted and those they need; return them in order of loading."""
    usr = root / "usr" if (root / "usr/lib/modules").exists() else root
    tree = usr / "lib/modules" / release
    run("depmod", "-b", usr if usr == root else root / "usr", release)
    needs, paths = {}, {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[module_name(path)] = tree / path
        needs[module_name(path)] = [module_name(word) for word in rest.split()]
    soft = (tree / "modules.softdep").read_text()
    for module, wanted in re.findall(r"^softdep (\S+) pre: (.*)$", soft, re.MULTILINE):
        needs.get(module_name(module), []).extend(module_name(word) for word in wanted.split())
    order = []

    def add(module):
        if module not in paths or module in order:
            return      # built in, or in the list already
        for other in needs[module]:
            add(other)
        data = paths[module].read_bytes()
        if paths[module].suffix == ".xz":
            data = lzma.decompress(data)
        (target / f"{module}.ko").write_bytes(data)
        order.append(module)

    for module in STOCK_MODULES:
        add(module_name(module))
    return order


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")
