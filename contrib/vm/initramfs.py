"""The guest's whole file system: busybox, the program with its libraries, and the modules of a kernel."""

import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Of each kernel; what these need, by modules.dep, comes with them.
MODULES = [
    r"/net/netfilter/", r"/net/ipv[46]/", r"/net/bridge/", r"/net/802/", r"/net/llc/", r"/net/sched/",
    r"/drivers/net/(tun|tap|veth|dummy|virtio_net)\.ko", r"/drivers/virtio/", r"/drivers/virt/vmgenid\.ko",
]


def build(kernel: Path, program: Path, busybox: Path, into: Path) -> tuple[Path, str]:
    """Writes the initramfs of a kernel's unpacked package to `into`; returns the kernel's image and release."""
    [modules] = [path for path in (*kernel.glob("lib/modules/*"), *kernel.glob("usr/lib/modules/*")) if path.is_dir()]
    release = modules.name
    [image] = [*kernel.glob("boot/vmlinuz-*"), *modules.glob("vmlinuz")]
    with tempfile.TemporaryDirectory(dir=into.parent) as folder:
        root = Path(folder)
        for name in ["bin", "dev", "etc", "lib", "proc", "root", "run", "sbin", "sys", "tmp", "var/run"]:
            (root / name).mkdir(parents=True)
        shutil.copy(HERE / "guest.sh", root / "init")
        shutil.copy(busybox, root / "bin/busybox")
        (root / "bin/sh").symlink_to("busybox")
        (root / "sbin/modprobe").symlink_to("../bin/busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        _program(program, root)
        _modules(modules, root / "lib/modules" / release)
        subprocess.run(["/sbin/depmod", "-b", root, release], check=True)
        _archive(root, into)
    return image, release


def _program(program: Path, root: Path):
    shutil.copy(program, root / "bin/tencrypt")
    # Debugging information would be most of it.
    subprocess.run(["strip", root / "bin/tencrypt"], check=True)
    linked = subprocess.run(["ldd", program], text=True, capture_output=True)
    for library in re.findall(r"(/\S+) \(0x", linked.stdout):
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])


def _modules(source: Path, into: Path):
    """Copies modules, uncompressed, so that the guest's modprobe needs no decompressor."""
    into.mkdir(parents=True)
    for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"]:
        if (source / name).exists():
            shutil.copy(source / name, into)
    files = {path.name.split(".ko")[0].replace("-", "_"): path for path in source.rglob("*.ko*")}
    wanted = [name for name, path in files.items() if any(re.search(one, str(path)) for one in MODULES)]
    seen = set()
    while wanted:
        name = wanted.pop()
        if name in seen or name not in files:
            continue
        seen.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        # As modinfo prints it: the section .modinfo is text with zeros between.
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        wanted += [need.decode().replace("-", "_") for need in (needs[1].split(b",") if needs else [])]
        target = into / files[name].relative_to(source).with_name(f"{files[name].name.split('.ko')[0]}.ko")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def _archive(root: Path, into: Path):
    """Writes `root` as a cpio archive of the form "newc" (the kernel's buffer-format.rst), owned by root."""
    with into.open("wb") as out:
        entries = sorted(path for path in root.rglob("*"))
        for number, path in enumerate(entries, 1):
            status = path.lstat()
            content = b""
            if path.is_symlink():
                content = os.readlink(path).encode()
            elif path.is_file():
                content = path.read_bytes()
            mode = status.st_mode | (0o755 if stat.S_ISREG(status.st_mode) else 0)
            _entry(out, number, mode, str(path.relative_to(root)), content)
        # The console is needed before devtmpfs is there.
        _entry(out, len(entries) + 1, stat.S_IFCHR | 0o600, "dev/console", b"", device=(5, 1))
        _entry(out, 0, 0, "TRAILER!!!", b"")


def _entry(out, number: int, mode: int, name: str, content: bytes, device=(0, 0)):
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name) + 1, 0]
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    out.write(header + bytes(-len(header) % 4) + content + bytes(-len(content) % 4))
