"""A sniffer of everything that pods send: `sniff.py FILE CANARY [PREFIX]`, in the network namespace of the node, until SIGTERM.

A packet socket that is bound to no interface sees each frame that comes out of a pod once as incoming at the node's end of the
cable, an interface whose name begins with PREFIX, by default `veth`. One line a frame that is neither ARP nor neighbour discovery, as
a literal of Python; datagrams of tencrypt without the canary are only counted, by their addresses. It needs of Python's library what
Debian's python3-minimal has.
"""

import collections
import ipaddress
import signal
import socket
import struct
import sys
import time

ETH_P_ALL, PACKET_OUTGOING, SO_RCVBUFFORCE = 3, 4, 33
SOL_PACKET, PACKET_STATISTICS = 263, 6
PORT = 8362
NEIGHBOUR_DISCOVERY = range(130, 138)  # types of ICMPv6, with those of multicast listeners


def parse(frame):
    """Source, destination, protocol and the two ports of a frame; none if it is no IP packet of a pod's own."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x0800:
        start = 14 + (frame[14] & 15) * 4
        protocol, source, destination = frame[23], frame[26:30], frame[30:34]
    elif kind == 0x86DD:
        start, protocol, source, destination = 54, frame[20], frame[22:38], frame[38:54]
        if protocol == 0 or (protocol == 58 and frame[54] in NEIGHBOUR_DISCOVERY) or (protocol == 58 and frame[54] == 143):
            return None
    else:
        return None
    ports = struct.unpack("!HH", frame[start : start + 4]) if protocol in (6, 17) and len(frame) >= start + 4 else (0, 0)
    return str(ipaddress.ip_address(source)), str(ipaddress.ip_address(destination)), protocol, *ports


def main(path, canary, prefix="veth"):
    """Writes the file until SIGTERM."""
    over = []
    signal.signal(signal.SIGTERM, lambda *_: over.append(True))
    sealed, canary = collections.Counter(), canary.encode()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as sniffer, open(path, "w", encoding="utf-8") as out:
        sniffer.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sniffer.settimeout(0.1)
        print("ready", flush=True)
        while not over:
            try:
                frame, (device, _, direction, *_) = sniffer.recvfrom(65_600)
            except TimeoutError:
                continue
            if direction == PACKET_OUTGOING or not device.startswith(prefix) or len(frame) < 34:
                continue
            found = parse(frame)
            if found is None:
                continue
            source, destination, protocol, source_port, port = found
            has_canary = canary in frame
            if protocol == 17 and PORT in (source_port, port) and not has_canary:
                sealed[source, destination] += 1
                continue
            line = {"at": time.monotonic(), "device": device, "from": source, "to": destination, "protocol": protocol, "port": port, "canary": has_canary}
            out.write(f"{line}\n")
        _, lost = struct.unpack("II", sniffer.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        last = {"sealed": [[*pair, count] for pair, count in sealed.items()], "lost": lost}
        out.write(f"{last}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
