"""A sniffer of frames in plain alone, for traffic that is too much for `../containerd/sniff.py`: `plain.py TEXT FILE CANARY PREFIX`.

It writes what that one writes, whose text it is handed, at its end and once for all frames that are alike, with their `count`. The
kernel leaves out the datagrams of tencrypt, which are only counted, and not searched for the canary.
"""

import array
import collections
import signal
import socket
import struct
import sys

ETH_P_ALL, PACKET_OUTGOING, SO_RCVBUFFORCE, SO_ATTACH_FILTER = 3, 4, 33, 26
SOL_PACKET, PACKET_STATISTICS = 263, 6
LD_B, LD_H, LD_H_X, LDX_HEADER, IF_EQUAL, IF_SET, RETURN = 0x30, 0x28, 0x48, 0xB1, 0x15, 0x45, 0x06  # linux/filter.h


def program(port, ours, others):
    """A filter: returns `ours` for UDP of this port, and `others` for everything else. 0 leaves a frame out."""
    # Code, number, and the line where to go on if it is true, and if it is not; 0: the next one.
    lines = [
        (LD_H, 12, 0, 0), (IF_EQUAL, 0x0800, 0, 11),
        (LD_B, 23, 0, 0), (IF_EQUAL, socket.IPPROTO_UDP, 0, 19), (LD_H, 20, 0, 0), (IF_SET, 0x1FFF, 19, 0),  # of IPv4; no later fragment
        (LDX_HEADER, 14, 0, 0), (LD_H_X, 14, 0, 0), (IF_EQUAL, port, 18, 0), (LD_H_X, 16, 0, 0), (IF_EQUAL, port, 18, 19),
        (IF_EQUAL, 0x86DD, 0, 19), (LD_B, 20, 0, 0), (IF_EQUAL, socket.IPPROTO_UDP, 0, 19),  # of IPv6
        (LD_H, 54, 0, 0), (IF_EQUAL, port, 18, 0), (LD_H, 56, 0, 0), (IF_EQUAL, port, 18, 19),
        (RETURN, ours, 0, 0), (RETURN, others, 0, 0),
    ]
    ahead = lambda line, target: target - line - 1 if target else 0
    return b"".join(struct.pack("HBBI", code, ahead(line, yes), ahead(line, no), number) for line, (code, number, yes, no) in enumerate(lines))


def sniffer(*verdicts):
    """A packet socket with such a filter."""
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    code = array.array("B", program(*verdicts))
    address, length = code.buffer_info()
    one.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", length // 8, address))
    # What came before the filter.
    one.setblocking(False)
    try:
        while True:
            one.recv(1)
    except BlockingIOError:
        return one


def statistics(one):
    """The frames that the filter let pass, and those of them that were lost."""
    return struct.unpack("II", one.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))


def main(text, path, canary, prefix):
    """Writes the file until SIGTERM."""
    known = {"__name__": "sniff"}
    exec(text, known)
    over, alike = [], collections.Counter()
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    canary = canary.encode()
    # Nobody reads the second one: it counts.
    with sniffer(known["PORT"], 0, 65_535) as plain, sniffer(known["PORT"], 1, 0) as counter, open(path, "w", encoding="utf-8") as out:
        plain.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        plain.settimeout(0.1)
        print("ready", flush=True)
        while not over:
            try:
                frame, (device, _, direction, *_) = plain.recvfrom(65_600)
            except TimeoutError:
                continue
            if direction == PACKET_OUTGOING or not device.startswith(prefix) or len(frame) < 34:
                continue
            found = known["parse"](frame)
            if found is None:
                continue
            source, destination, protocol, _, port = found
            alike[device, source, destination, protocol, port, canary in frame] += 1
        for key, count in alike.items():
            line = dict(zip(("device", "from", "to", "protocol", "port", "canary"), key), count=count)
            out.write(f"{line}\n")
        last = {"sealed": [["all", "all", statistics(counter)[0]]], "lost": statistics(plain)[1]}
        out.write(f"{last}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
