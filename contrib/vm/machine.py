"""A virtual machine without KVM, whose generation id can be chosen: QEMU, spoken to by QMP."""

import json
import re
import socket
import subprocess
import time
from pathlib import Path


class Machine:
    """A machine that runs, and is killed at the end of the `with`. Its cards are on one hub, recorded as pcap: one for
    each pod, and the third for the kernel's log."""

    def __init__(self, folder: Path, image: Path, initramfs: Path, mode: str, generation: str, state: Path | None = None):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.serial = folder / "serial.log"
        self.capture = folder / "frames.pcap"
        self.qmp_path = folder / "qmp"
        for path in [self.serial, self.capture, self.qmp_path]:
            path.unlink(missing_ok=True)
        card = "virtio-net-pci,romfile="
        command = [
            "qemu-system-x86_64", "-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "2", "-m", "768",
            "-nodefaults", "-display", "none", "-no-reboot", "-kernel", image, "-initrd", initramfs,
            "-append", f"console=ttyS0 panic=-1 loglevel=4 random.trust_cpu=on tencrypt.mode={mode}",
            "-serial", f"file:{self.serial}", "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
            "-device", f"vmgenid,guid={generation}",
            "-netdev", "hubport,id=hub0,hubid=0", "-device", f"{card},netdev=hub0,mac=52:54:00:00:00:01",
            "-netdev", "hubport,id=hub1,hubid=0", "-device", f"{card},netdev=hub1,mac=52:54:00:00:00:02",
            "-netdev", "hubport,id=hub2,hubid=0", "-device", f"{card},netdev=hub2,mac=52:54:00:00:00:03",
            "-object", f"filter-dump,id=frames,netdev=hub0,file={self.capture}",
        ]
        if state:
            command += ["-S", "-incoming", f"exec:cat '{state}'"]
        with (folder / "qemu.log").open("w") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        self.qmp = self._connect()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def _connect(self):
        for _ in range(100):
            try:
                channel = socket.socket(socket.AF_UNIX)
                channel.connect(str(self.qmp_path))
                break
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit((self.folder / "qemu.log").read_text()) from None
                time.sleep(0.1)
        stream = channel.makefile("rw")
        stream.readline()
        self.qmp = stream
        self.ask("qmp_capabilities")
        return stream

    def ask(self, command: str, **arguments):
        """Gives a command of QMP, and returns its answer."""
        self.qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.qmp.flush()
        while True:
            answer = json.loads(self.qmp.readline())
            if "error" in answer:
                raise SystemExit(f"{command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def until(self, pattern: str, limit: float) -> str:
        """Waits for a line of the serial line; returns all that was said."""
        end = time.monotonic() + limit
        while True:
            text = self.serial.read_text(errors="replace") if self.serial.exists() else ""
            if re.search(pattern, text, re.MULTILINE):
                return text
            if time.monotonic() > end or self.process.poll() is not None:
                tail = "\n".join(text.splitlines()[-20:])
                raise TimeoutError(f"no line {pattern!r} within {limit:.0f} s; the last lines are\n{tail}")
            time.sleep(0.2)

    def record_to(self, capture: Path):
        """Goes on with another file of frames."""
        capture.unlink(missing_ok=True)
        self.ask("object-del", id="frames")
        self.ask("object-add", **{"qom-type": "filter-dump", "id": "frames", "netdev": "hub0", "file": str(capture)})

    def save(self, state: Path):
        """Stops the machine, and writes its whole state."""
        self.ask("stop")
        self.ask("migrate", uri=f"exec:cat >'{state}'")
        self._migrated()

    def restored(self):
        """Waits until the state is read; the machine stands still then."""
        self._migrated()

    def _migrated(self):
        end = time.monotonic() + 300
        while (status := self.ask("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > end:
                raise SystemExit(f"the state of the machine: {status}")
            time.sleep(0.2)
