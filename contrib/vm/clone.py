"""A machine that is copied while its pods speak: what the copy does that has another generation id, and one that has not."""

import json
import time
from pathlib import Path

import frames
from machine import Machine

ORIGINAL = "11111111-1111-4111-8111-111111111111"
OTHER = "99999999-9999-4999-8999-999999999999"
# Seconds of traffic that are compared; the emulated guest needs some for a handshake.
SECONDS = 15
# Seconds from the kernel's word to the last record under old keys: the emulated processor has to let the program run.
REACTION = 0.05
# The guest's own address, and what its kernel says of a copy.
GUEST = bytes([192, 0, 2, 1])
WORD = b"crng reseeded due to virtual machine fork"


class Run:
    """What a machine did from the moment of the copy on."""

    def __init__(self, text: str, before: dict, capture: Path):
        seen = frames.read(capture)
        self.told_at = next((frame.time for frame in seen if frame.source == GUEST and WORD in frame.payload), None)
        self.frames = [frame for frame in seen if frame.source != GUEST]
        self.records = frames.records(self.frames)
        self.states = {name: _states(text, name) for name in "ab"}
        self.renewed = all(of_pod and of_pod[-1]["renewal"]["count"] == 1 for of_pod in self.states.values())
        self.keys_differ = all(
            of_pod and of_pod[-1]["identity"]["public_key"] != before[name]["identity"]["public_key"]
            for name, of_pod in self.states.items()
        )
        self.logged = int((_said(text, "log") or ["0"])[-1])
        echoed = [int(count) for count in _said(text, "echoed")]
        self.echoed = echoed[-1] - echoed[0] if echoed else 0

    def old(self, sessions: set) -> list[frames.Frame]:
        """Records of sessions that are older than the copy."""
        return [frame for frame in self.frames if frame.kind == frames.DATA and _session(frame) in sessions]

    def plain(self) -> int:
        """Packets that another program than the tunnel sent."""
        return sum(frame.plain for frame in self.frames)


def _session(frame) -> tuple:
    return frame.source, frame.target, frame.index


def _said(text: str, name: str) -> list[str]:
    return [line.strip()[len(name) + 2 :] for line in text.splitlines() if line.startswith(f"@{name} ")]


def _states(text: str, pod: str) -> list[dict]:
    states = []
    for line in _said(text, f"status-{pod}"):
        # The line that the copy was made in lacks its beginning or its end.
        try:
            states.append(json.loads(line))
        except ValueError:
            pass
    return states


def shared(one: Run, other: Run) -> int:
    """Counters of one session under which two machines sealed different packets: the harm of a copy."""
    return sum(other.records.get(place, sealed) != sealed for place, sealed in one.records.items())


class Copies:
    """The original and two copies of it: `told` has another generation id, `untold` has the same."""

    def __init__(self, folder: Path, image: Path, initramfs: Path, limit: float):
        state, self.folder = folder / "state", folder
        with Machine(folder / "original", image, initramfs, "clone", ORIGINAL) as machine:
            text = machine.until(r"^@echoed [1-9][0-9]+\r?$[^\0]*^@log", limit)
            before = {name: _states(text, name)[-1] for name in "ab"}
            self.signs = before["a"]["renewal"]["signs"]
            self.kernel = _said(text, "kernel")[-1]
            self.driver = _said(text, "driver")[-1] != "0"
            machine.save(state)
            self.sessions = {_session(frame) for frame in frames.read(machine.capture) if frame.kind == frames.DATA}
            length = len(machine.serial.read_text(errors="replace"))
            machine.record_to(folder / "original/after.pcap")
            machine.ask("cont")
            time.sleep(SECONDS)
            machine.ask("stop")
            text = machine.serial.read_text(errors="replace")[length:]
        self.original = Run(text, before, folder / "original/after.pcap")
        runs = []
        for name, generation in [("told", OTHER), ("untold", ORIGINAL)]:
            with Machine(folder / name, image, initramfs, "clone", generation, state) as machine:
                machine.restored()
                machine.ask("cont")
                time.sleep(SECONDS)
                machine.ask("stop")
                text = machine.serial.read_text(errors="replace")
            runs.append(Run(text, before, folder / name / "frames.pcap"))
        self.told, self.untold = runs
        state.unlink()
        self.before = before

    def check(self, verdict) -> bool:
        """Says what was seen; true if it is as the documents promise for this kernel."""
        told, promised = self.told, "kernel_log" in self.signs
        outcomes = [
            verdict("signs", promised == self.driver, f"status promises {', '.join(self.signs)}; driver: {self.driver}"),
            verdict("traffic", self.original.echoed > 0 and told.echoed > 0, f"a connection goes on: {told.echoed} lines echoed by the copy"),
            verdict("plain", told.plain() == 0, f"{told.plain()} packets in plain"),
            verdict("control", shared(self.original, self.untold) > 0 and not self.untold.renewed,
                    f"a copy with the same id: {shared(self.original, self.untold)} counters spent twice for different packets"),
        ]
        old = told.old(self.sessions)
        twice = shared(self.original, told)
        if promised:
            begins = told.frames[0].time
            span, word = ((time - begins) * 1000 for time in (old[-1].time if old else begins, told.told_at or begins))
            new = [frame for frame in told.frames if frame.kind == frames.DATA and _session(frame) not in self.sessions]
            late = [frame for frame in old if told.told_at is None or frame.time > told.told_at + REACTION]
            window = f"{len(old)} in {span:.0f} ms, where the kernel's word was on the wire after {word:.0f} ms"
            outcomes += [
                verdict("noticed", told.renewed, f"renewals: {[of_pod[-1]['renewal'] for of_pod in told.states.values() if of_pod]}"),
                verdict("keys", told.keys_differ, "both pods have other static keys"),
                verdict("sessions", bool(new) and not late, f"{len(new)} records under new ones; under old ones {window}"),
                verdict("counters", twice <= len(old), f"{twice} spent twice for different packets, of those {len(old)}"),
            ]
        else:
            outcomes.append(verdict("unnoticed", not told.renewed, f"as status says: {twice} counters spent twice for different packets"))
        outcomes.append(verdict("kernel", (told.logged > 0) == promised, f"the kernel logged it {told.logged} times"))
        return all(outcomes)

    def row(self) -> list[str]:
        """The kernel's row of the table."""
        twice = shared(self.original, self.told)
        return [
            self.kernel, "yes" if self.driver else "no", ", ".join(self.signs),
            "new keys" if self.told.renewed else "not noticed",
            str(len(self.told.old(self.sessions))), str(twice), str(shared(self.original, self.untold)),
        ]
