# SPDX-License-Identifier: GPL-2.0-only
"""Debian's own kernels, and other architectures' programs: found, unpacked, kept by version."""

import lzma
import os
import re
import shutil
import tempfile
import time

from common import (
    Error,
    cache,
    digest,
    drop_unused,
    locked,
    need_packages,
    pathlib,
    replace_tree,
    run,
    say,
)

# Each name a kernel can be asked for by: how its releases begin, and the suites that have it.
NATIVE = "amd64"
KERNELS = {
    "5.10": ("5.10.", ["bullseye", "bullseye-security"]),
    "6.1": ("6.1.", ["bookworm", "bookworm-security"]),
    "6.12": ("6.12.", ["trixie", "trixie-security"]),
    "6.18": ("6.18.", ["trixie-backports"]),
    "newest": ("", ["trixie-backports", "sid"]),
}
# A kernel of another architecture has its name, and its programs come from the same suites.
FOREIGN = {
    "arm64": ("6.12.", ["trixie"]),
    "riscv64": ("6.12.", ["trixie"]),
    "s390x": ("6.1.", ["bookworm"]),
    "ppc64el": ("", ["forky"]),
}
KINDS = {"ppc64el": "powerpc64le"}      # of kernels, where it is not the architecture's name
FRESH_DAYS = 7          # how long a kernel is used before Debian is asked for a newer one
SECURITY = "-security"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = ["debian-archive-keyring", "kmod", "xz-utils"]

# An image neither for clouds nor for real time, and not the name of whatever is newest.
IMAGE = r"linux-image-(\d+\.\d+\.\d+(?:\.\d+)*(?:[+-][\w.]+)?)-%s$"

# What the tests want of a kernel, which has all of it as modules. crc32c comes first: others look
# for it when they are loaded.
MODULES = ["crc32c_generic", "crc32c_intel", "virtio_pci", "virtio_console", "virtio_rng",
           "9pnet_virtio", "9p", "loop", "ext4", "xfs", "btrfs", "overlay", "fuse"]
NFS_MODULES = ["nfsd", "nfsv4"]     # what lab/nfs loads

# What a machine of another architecture has its programs from; this host's are of no use there.
PROGRAMS = ["busybox-static", "python3", "dash", "bash", "coreutils", "tar", "findutils", "attr",
            "util-linux", "mount", "libcap2-bin", "e2fsprogs", "xfsprogs", "btrfs-progs", "strace",
            "git", "bindfs", "netbase"]


def get(name):
    """The directory of the cache that has this kernel, fetched first if need be."""
    with locked(f"kernel-{name}"):
        recipe = digest(*MODULES, *NFS_MODULES, *(
            [FOREIGN[name], *PROGRAMS] if name in FOREIGN else ()))
        kept = max(cache().glob(f"kernel-{name}-*-{recipe}"), key=checked, default=None)
        if not kept or checked(kept) < time.time() - FRESH_DAYS * 86400:
            try:
                kept = fetch(name, recipe)
            except Error as error:
                if not kept:
                    raise
                say(f"the kernel {name} stays as it is: {error}")
        os.utime(kept)
        return kept


def checked(path):
    """When this was the newest of its kind."""
    stamp = path / "checked"
    return stamp.stat().st_mtime if stamp.exists() else 0


def fetch(name, recipe):
    """Find the newest kernel of this name, and fetch it unless the cache has it."""
    need_packages(PACKAGES, f"fetching the kernel {name}")
    with tempfile.TemporaryDirectory(dir=cache()) as directory:
        work = pathlib.Path(directory)
        prefix, suites = {**KERNELS, **FOREIGN}[name]
        architecture = name if name in FOREIGN else NATIVE
        kind = KINDS.get(architecture, architecture)
        apt = Apt(work, suites, architecture)
        releases = [match.group(1) for package in apt.names("linux-image-")
                    for match in [re.match(IMAGE % kind, package)]
                    if match and match.group(1).startswith(prefix)]
        if not releases:
            raise Error(f"Debian's {' and '.join(suites)} have no kernel {name}")
        release = max(releases, key=lambda each: [int(n) for n in re.findall(r"\d+", each)])
        release += "-" + kind
        path = cache() / f"kernel-{name}-{release}-{recipe}"
        if not path.exists():
            say(f"fetching the kernel {name} ({release})")
            # Up to 6.18 the image is one package; from 7.1 on there are three.
            wanted = [f"linux-{part}-{release}" for part in ("image", "binary", "modules")]
            apt.unpack([each for each in wanted if each in apt.names(each)], work / "root")
            new = work / "new"
            keep(work / "root", release, new)
            if name in FOREIGN:
                apt.unpack(apt.needed(PROGRAMS), new / "programs")
            replace_tree(new, path)
        (path / "checked").touch()
    drop_unused(f"kernel-{name}-*", path)
    return path


class Apt:
    """apt with suites of its own, from the place where this machine has its own from."""

    def __init__(self, work, suites, architecture):
        self.options = ["-q"]
        for option in (f"Dir::Etc::sourcelist={work}/sources", "Dir::Etc::sourceparts=/dev/null",
                       "Dir::State::status=/dev/null", f"Dir::State::lists={work}/lists",
                       f"Dir::Cache={work}/cache", f"APT::Architecture={architecture}",
                       f"APT::Architectures::={architecture}", "APT::Sandbox::User=root",
                       "Acquire::Languages=none", "Acquire::Retries=3",
                       "APT::Update::Error-Mode=any"):
            self.options += ["-o", option]
        for directory in ("lists/partial", "cache/archives/partial"):
            (work / directory).mkdir(parents=True)
        self.work = work
        places = self.places()
        sources = [f"deb [signed-by={KEYS}] {places[suite.endswith(SECURITY)]} {suite} main\n"
                   for suite in suites if suite.endswith(SECURITY) in places]
        (work / "sources").write_text("".join(sources))
        run("apt-get", *self.options, "update")

    @staticmethod
    def places():
        """Where this machine has Debian's release from, and (True) its security updates."""
        release = run("sh", "-c", ". /etc/os-release && echo $VERSION_CODENAME").strip()
        lists = run("apt-get", "--print-uris", "update")
        found = {suite.endswith(SECURITY): place for place, suite in re.findall(
            rf"^'(\S+)/dists/({release}|{release}{SECURITY})/InRelease'", lists, re.MULTILINE)}
        if False not in found:
            raise Error(f"apt's sources do not have Debian's {release}, so no place for others")
        return found

    def names(self, prefix):
        """The packages whose names begin so."""
        return run("apt-cache", *self.options, "pkgnames", prefix).split()

    def needed(self, names):
        """Packages, and all those that they depend on."""
        lines = run("apt-get", *self.options, "--no-install-recommends", "-s", "install", *names)
        return re.findall(r"^Inst (\S+)", lines, re.MULTILINE)

    def unpack(self, names, target):
        """Fetch packages and unpack their files."""
        with tempfile.TemporaryDirectory(dir=self.work) as fetched:
            run("apt-get", *self.options, "download", *names, cwd=fetched)
            for package in pathlib.Path(fetched).glob("*.deb"):
                run("dpkg-deb", "-x", package, target)


def keep(root, release, new):
    """Copy from the files of a kernel's packages what the machine needs of it."""
    usr = root / "usr" if (root / "usr/lib/modules").exists() else root
    tree = usr / "lib/modules" / release
    (new / "modules").mkdir(parents=True)
    images = [*(root / "boot").glob(f"vmlinu[xz]-{release}"), tree / "vmlinuz"]
    shutil.copy(images[0], new / "bzImage")
    run("depmod", "-b", usr, release)
    for name, modules in ("order", MODULES), ("nfs", NFS_MODULES):
        order = copy_modules(tree, modules, new / "modules")
        (new / "modules" / name).write_text("".join(module + "\n" for module in order))


def copy_modules(tree, wanted, target):
    """Copy the modules wanted and those they need; return them in order of loading."""
    needs, paths = {}, {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, rest = line.partition(":")
        paths[module_name(path)] = tree / path
        needs[module_name(path)] = [module_name(word) for word in rest.split()]
    soft = (tree / "modules.softdep").read_text()
    for module, before in re.findall(r"^softdep (\S+) pre: (.*)$", soft, re.MULTILINE):
        needs.get(module_name(module), []).extend(module_name(word) for word in before.split())
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

    for module in wanted:
        add(module_name(module))
    return order


def module_name(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")
