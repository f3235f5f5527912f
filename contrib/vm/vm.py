#!/usr/bin/env python3
"""The program on Debian's kernels, in virtual machines without KVM: one at a time, each with two pods.

Needs Python 3.10, apt, dpkg, kmod, binutils, qemu-system-x86 and busybox-static; no rights. docs/kernels.md has the results.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import frames
from clone import ORIGINAL, Copies
from debian import Archive
from initramfs import build
from machine import Machine

SERIES = ["5.10", "6.1", "6.12", "6.18", "7.3"]
# Seconds for a whole matrix run of one kernel: its processor is emulated.
LIMIT = 600


def said(text: str, name: str) -> list[str]:
    """The lines of this name that the guest said."""
    return [line.strip()[len(name) + 2 :] for line in text.splitlines() if line.startswith(f"@{name} ")]


def verdict(name: str, passed: bool, detail: str = "") -> bool:
    print(f"   {'pass' if passed else 'FAIL'}  {name:<14} {detail}".rstrip(), flush=True)
    return passed


def demo(text: str) -> tuple[bool, str]:
    """What `tencrypt demo` observed in the guest."""
    between = text.partition("@demo-begins")[2].partition("@demo-ends")[0]
    begins = between.find("{")
    if begins < 0:
        return verdict("demo", False, between.strip()[:200]), "failed"
    report = json.loads(between[begins : between.rfind("}") + 1])
    for observed in report["observed"]:
        verdict(observed["observation"], True, observed["detail"][:90])
    if not report["ok"]:
        verdict("demo", False, str(report["failure"]))
    return report["ok"], f"{len(report['observed'])} of 7"


def lanes(text: str, capture: Path) -> bool:
    """What the two pods of two lanes did, and what was seen between them."""
    results = dict(line.split() for line in said(text, "result"))
    outcomes = [verdict(name, results.get(name) == "pass") for name in ["ready", "ping", "ping6", "fetch"]]
    # Plain packets are there from before the pods were protected: the control that the capture sees them.
    seen = frames.read(capture)
    first = next((number for number, frame in enumerate(seen) if not frame.plain), len(seen))
    control, leaks = first, sum(frame.plain for frame in seen[first:])
    ports = sorted({frame.port for frame in seen if frame.kind == frames.DATA})
    sealed = sum(frame.kind == frames.DATA for frame in seen)
    outcomes.append(verdict("encrypted", control > 0 and leaks == 0 and sealed > 0, f"{sealed} sealed, {leaks} plain after {control}"))
    outcomes.append(verdict("both-lanes", ports == [frames.PORT, frames.PORT + 1], f"from ports {ports}"))
    return all(outcomes)


def matrix(kernel: tuple[Path, Path, Path], limit: float) -> tuple[bool, list[str]]:
    """Runs demo and two lanes; returns true if both passed, and the kernel's row."""
    image, initramfs, folder = kernel
    with Machine(folder, image, initramfs, "matrix", ORIGINAL) as machine:
        try:
            text = machine.until(r"^@end", limit)
        except TimeoutError as error:
            text = machine.serial.read_text(errors="replace")
            verdict("end", False, str(error))
    for line in said(text, "error"):
        verdict("guest", False, line)
    demo_passed, observed = demo(text)
    lanes_passed = lanes(text, machine.capture)
    status = [json.loads(line) for line in said(text, "status-a") if line.startswith("{")]
    differs = features(text, status[-1]) if status else ["?"]
    release = (said(text, "kernel") or ["?"])[-1]
    return demo_passed and lanes_passed, [release, observed, "pass" if lanes_passed else "FAIL", *differs]


def features(text: str, status: dict) -> list[str]:
    """What this kernel gives, by the program's own word."""
    driver = (said(text, "driver") or ["0"])[-1]
    return [
        "yes" if status["hardening"]["secret_memory"] else "no",
        "yes" if driver != "0" else "no",
        ", ".join(status["renewal"]["signs"]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["matrix", "clone"])
    parser.add_argument("series", nargs="*", default=SERIES, help="of kernels, as 6.12")
    parser.add_argument("--program", type=Path, default=Path("target/debug/tencrypt"), help="the program tencrypt")
    parser.add_argument("--busybox", type=Path, help="static; default: Debian's busybox-static, fetched")
    parser.add_argument("--folder", type=Path, default=Path("target/vm"), help="for kernels, states and captures")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for one machine")
    arguments = parser.parse_args()
    for tool in ["qemu-system-x86_64", "apt-get", "dpkg-deb", "strip"]:
        if not shutil.which(tool):
            raise SystemExit(f"there is no {tool}: install qemu-system-x86, apt, dpkg and binutils")
    folder = arguments.folder.resolve()
    archive = Archive(folder / "apt", arguments.mirror)
    archive.update()
    busybox = arguments.busybox or archive.unpack("busybox-static") / "usr/bin/busybox"
    rows, failed = [], False
    for series in arguments.series:
        package = archive.kernel(series)
        print(f"\n{package}", flush=True)
        of_kernel = folder / series
        of_kernel.mkdir(parents=True, exist_ok=True)
        image, _ = build(archive.unpack(package), arguments.program, busybox, of_kernel / "initramfs")
        if arguments.command == "matrix":
            passed, row = matrix((image, of_kernel / "initramfs", of_kernel), arguments.limit)
        else:
            copies = Copies(of_kernel, image, of_kernel / "initramfs", arguments.limit)
            passed, row = copies.check(verdict), copies.row()
        failed |= not passed
        rows.append(row)
    print()
    for row in rows:
        print("| " + " | ".join(row) + " |")
    sys.exit(failed)


if __name__ == "__main__":
    main()
