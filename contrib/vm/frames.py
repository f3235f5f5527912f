"""Frames of a pcap file, as far as the tunnel's promises go: what is plain, and which counters of which session were spent."""

import struct
from collections import namedtuple
from pathlib import Path

# `time` in seconds; `plain` is true of what another program than the tunnel sent; `kind` is a datagram's first byte.
Frame = namedtuple("Frame", "time source target port plain kind index counter payload")
Record = namedtuple("Record", "source target index counter")
PORT, LANES = 8362, 16
DATA = 4
ICMPV6 = 58


def read(path: Path) -> list[Frame]:
    """Reads the IP packets of a capture of Ethernet, in their order; neighbour discovery and the like are left out."""
    content = path.read_bytes()
    frames, place = [], 24
    while place + 16 <= len(content):
        seconds, micros, length, _ = struct.unpack_from("<IIII", content, place)
        frame = _frame(seconds + micros / 1e6, content[place + 16 : place + 16 + length])
        place += 16 + length
        if frame:
            frames.append(frame)
    return frames


def _frame(time: float, data: bytes) -> Frame | None:
    [kind] = struct.unpack_from(">H", data, 12) if len(data) >= 14 else [0]
    if kind == 0x0800 and len(data) >= 34:
        protocol, source, target, body = data[23], data[26:30], data[30:34], data[14 + (data[14] & 15) * 4 :]
    elif kind == 0x86DD and len(data) >= 54:
        protocol, source, target, body = data[20], data[22:38], data[38:54], data[54:]
    else:
        return None
    link = kind == 0x86DD and (target[0] == 0xFF or source[:2] == b"\xfe\x80" or source == bytes(16))
    if link or (protocol == ICMPV6 and body[:1] in (b"\x87", b"\x88")) or protocol == 0:
        return None
    port = struct.unpack_from(">H", body)[0] if len(body) >= 4 else 0
    if protocol != 17 or not PORT <= struct.unpack_from(">H", body, 2)[0] < PORT + LANES:
        return Frame(time, source, target, port, True, None, None, None, body)
    length = struct.unpack_from(">H", body, 4)[0]
    payload = body[8:length]
    index = counter = None
    if payload[:1] == bytes([DATA]) and len(payload) >= 32:
        index, counter = struct.unpack_from("<IQ", payload, 4)
    return Frame(time, source, target, port, False, payload[0] if payload else None, index, counter, payload)


def records(frames: list[Frame]) -> dict[Record, bytes]:
    """Returns what was sealed under each session index and counter. The index is the receiver's."""
    return {Record(frame.source, frame.target, frame.index, frame.counter): frame.payload for frame in frames if frame.kind == DATA}
