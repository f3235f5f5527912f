"""A nameserver for a cluster without one: `names.py ADDRESS`, at UDP port 53 of a node, until standard input ends.

Standard input has a line for each record: `NAME A ADDRESS`, `NAME AAAA ADDRESS` or `NAME CNAME NAME`; `.` in place of them begins the list
anew. What is not in it does not exist (NXDOMAIN).
"""

import ipaddress
import socket
import struct
import sys
import threading

KINDS = {"A": 1, "CNAME": 5, "AAAA": 28}
TTL = 1


def wire(name):
    """A name as it is sent."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".")) + b"\0"


def question(query):
    """The name and the type that are asked for, and the end of the question."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
        at += 1 + query[at]
    return ".".join(labels), struct.unpack("!H", query[at + 1 : at + 3])[0], at + 5


def answer(query, records):
    """The answer to a query."""
    name, kind, end = question(query)
    found, is_known, asked = [], False, name
    for _ in range(8):
        own = [(type_, value) for known, type_, value in records if known == asked]
        is_known = is_known or bool(own)
        alias = next((value for type_, value in own if type_ == "CNAME"), None)
        for type_, value in own:
            if KINDS[type_] == kind or type_ == "CNAME":
                data = wire(value) if type_ == "CNAME" else ipaddress.ip_address(value).packed
                found.append(wire(asked) + struct.pack("!HHIH", KINDS[type_], 1, TTL, len(data)) + data)
        if alias is None:
            break
        asked = alias
    flags = 0x8580 | (0 if is_known else 3)
    return query[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0) + query[12:end] + b"".join(found)


def main(address):
    """Answers."""
    records, over = [], threading.Event()

    def follow():
        for line in sys.stdin:
            words = line.split()
            if words == ["."]:
                records.clear()
            else:
                records.append(words)
        over.set()

    threading.Thread(target=follow, daemon=True).start()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((address, 53))
        one.settimeout(0.1)
        print("ready", flush=True)
        while not over.is_set():
            try:
                query, client = one.recvfrom(4_096)
                one.sendto(answer(query, list(records)), client)
            except (OSError, IndexError, struct.error, UnicodeDecodeError):
                pass


if __name__ == "__main__":
    main(*sys.argv[1:])
