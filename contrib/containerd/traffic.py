"""Checks with traffic: who reaches whom, and what a sniffer on the node sees."""

import os
import shutil
import signal
import socket
import threading
import time

import node as lab
from node import CANARY, Sniffer, wait_for

PORT = 7_000
PAUSE = 0.02  # seconds between two questions
RESTARTS = 10


class Echo:
    """A server of a pod that answers each datagram with itself, and notes who has asked."""

    def __init__(self, pod, family=socket.AF_INET):
        self.socket = pod.socket(socket.SOCK_DGRAM, family)
        if family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        self.socket.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", PORT))
        self.heard, self.over = [], False
        self.socket.settimeout(0.2)
        self.thread = threading.Thread(target=self._serve, daemon=True)
        self.thread.start()

    def _serve(self):
        while not self.over:
            try:
                data, sender = self.socket.recvfrom(2_000)
                self.heard.append((time.monotonic(), sender[0], data))
                self.socket.sendto(data, sender)
            except OSError:  # nothing has come, or an ICMP error of an earlier answer has
                continue

    def close(self):
        """Ends it."""
        self.over = True
        self.thread.join()
        self.socket.close()


def ask(pod, address, limit):
    """Asks the server at an address until it answers; the seconds until then, none after `limit`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    start = time.monotonic()
    with pod.socket(socket.SOCK_DGRAM, family) as client:
        client.settimeout(PAUSE)
        while time.monotonic() - start < limit:
            begun = time.monotonic()
            try:
                client.sendto(CANARY.encode(), (address, PORT))
                client.recvfrom(2_000)
                return time.monotonic() - start
            except OSError:  # no answer yet, or an error that ICMP or the routes give
                time.sleep(max(0, begun + PAUSE - time.monotonic()))
    return None


def talk(node, results, namespace):
    """Two pods of a namespace talk in both families; returns what was seen."""
    one, other = node.make(namespace), node.make(namespace)
    servers = [Echo(other), Echo(other, socket.AF_INET6)]
    with Sniffer(node) as sniffer:
        took = [ask(one, address, 5) for address in other.addresses]
        for _ in range(20):
            for address in other.addresses:
                ask(one, address, 1)
    for server in servers:
        server.close()
    return one, other, took, sniffer, sniffer.between(one.addresses, other.addresses)


def two_tenants(node, results):
    """Pods of a tenant talk and nobody reads along; other tenants get no answer."""
    one, other, took, sniffer, plain = talk(node, results, "default")
    is_seen = any(frame["canary"] for frame in plain)
    results.add(is_seen and all(took), "sniffer sees an open namespace", f"{len(plain)} frames in plain, {sum(frame['canary'] for frame in plain)} with the canary, {sniffer.lost} lost")
    shop, web, took, sniffer, plain = talk(node, results, "shop")
    sealed = sum(count for (source, target), count in sniffer.sealed.items() if {source, target} <= {*shop.addresses, *web.addresses})
    answered = ", ".join(f"{seconds:.3f} s" if seconds is not None else "no" for seconds in took)
    is_good = all(seconds is not None for seconds in took) and sealed and not plain and not any(frame["canary"] for frame in sniffer.plain) and not sniffer.lost
    results.add(is_good, "two pods of shop", f"first answer by IPv4, IPv6 after {answered}; {sealed} frames of UDP 8362, {len(plain)} others, canary 0 times, {sniffer.lost} lost")
    bank = node.make("bank")
    servers = [Echo(web), Echo(web, socket.AF_INET6), Echo(bank), Echo(bank, socket.AF_INET6)]
    with Sniffer(node) as sniffer:
        answers = [ask(bank, address, 2) for address in web.addresses] + [ask(shop, address, 2) for address in bank.addresses]
        outside = [ask(one, address, 2) for address in web.addresses]
        heard = sum(len(server.heard) for server in servers)
    plain = sniffer.between(bank.addresses, (*web.addresses, *shop.addresses))
    is_good = not any(answers) and not any(outside) and not heard
    results.add(is_good, "other tenants and outsiders", f"answers {answers} and {outside}; {heard} datagrams reached a server; {len(plain)} frames in plain between tenants")
    for server in servers:
        server.close()
    node.remove_all()


def give_again(node, addresses):
    """Has host-local give these addresses next: it takes the ones behind the last that it has noted (`last_reserved_ip`)."""
    for number, address in enumerate(addresses):
        before = lab.ipaddress.ip_address(address) - 1
        with open(f"{node.work}/ipam/{lab.NETWORK}/last_reserved_ip.{number}", "w", encoding="utf-8") as out:
            out.write(str(before))


def forget_neighbours(pod):
    """Has the pod ask again who has which address. Kernel and bridge plugin keep the old answer for 20 to 45 s, without tencrypt too."""
    lab.run("nsenter", f"--net={pod.path}", "ip", "neighbour", "flush", "all")


def address_reused(node, results):
    """A pod of shop is removed, and a pod of bank gets its addresses at once."""
    shop, old, bank = node.make("shop"), node.make("shop"), node.make("bank")
    server, shops = Echo(old), Echo(shop)
    address = old.addresses[0]
    first, refused = ask(shop, address, 5), ask(bank, address, 2)
    over = threading.Event()

    def insist():
        with shop.socket(socket.SOCK_DGRAM) as client:
            while not over.wait(0.01):
                try:
                    client.sendto(CANARY.encode(), (address, PORT))
                except OSError:
                    pass

    sender = threading.Thread(target=insist)
    sender.start()
    with Sniffer(node) as sniffer:
        time.sleep(0.5)
        begun = time.monotonic()
        node.remove(old)
        server.close()
        give_again(node, old.addresses)
        new = node.make("bank")
        changed = time.monotonic() - begun
        for peer in (shop, bank):
            forget_neighbours(peer)
        server = Echo(new)
        took = ask(bank, address, 60)
        fresh = node.make("bank")
        first_time = ask(fresh, address, 60)
        with new.socket(socket.SOCK_DGRAM) as client:
            client.setblocking(False)
            for _ in range(50):
                try:
                    client.sendto(b"from bank", (shop.addresses[0], PORT))
                except OSError:
                    pass
                time.sleep(0.02)
        over.set()
        sender.join()
    of_shop = [entry for entry in server.heard if entry[1] in shop.addresses]
    to_shop = [entry for entry in shops.heard if entry[2] == b"from bank"]
    plain = sniffer.between(shop.addresses, new.addresses)
    is_same = new.addresses == old.addresses and changed < 5
    reached = "never within 60 s" if took is None else f"after {took:.3f} s"
    is_good = is_same and first is not None and refused is None and took is not None and first_time is not None and not of_shop and not to_shop and not plain and not sniffer.lost
    results.add(is_good, "address of shop given to bank", f"{address} again after {changed:.3f} s: {len(of_shop)} datagrams of shop's peer taken, {len(to_shop)} of bank's by shop, {len(plain)} frames in plain; bank's peer, refused before, reaches it {reached}, another after {first_time or 99:.3f} s")
    server.close()
    shops.close()
    node.remove_all()


class Stream:
    """A TCP connection between two pods, whose bytes are numbers."""

    def __init__(self, client, server):
        self.silence, self.received, self.fault = [], 0, None
        self.over = threading.Event()
        listener = server.socket(socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", PORT))
        listener.listen()
        listener.settimeout(10)
        self.sending = client.socket(socket.SOCK_STREAM)
        self.sending.settimeout(10)
        self.sending.connect((server.addresses[0], PORT))
        self.taking, _ = listener.accept()
        listener.close()
        self.taking.settimeout(10)
        self.threads = [threading.Thread(target=guarded, args=(self, part)) for part in (self._send, self._take)]
        for thread in self.threads:
            thread.start()

    def _send(self):
        number = 0
        while not self.over.wait(0.002):
            block = b"".join((number + more).to_bytes(8, "big") for more in range(64))
            self.sending.sendall(block)
            number += 64
        self.sending.shutdown(socket.SHUT_WR)

    def _take(self):
        rest, last = b"", time.monotonic()
        while data := self.taking.recv(65_536):
            now = time.monotonic()
            self.silence.append((last, now - last))
            last, rest = now, rest + data
            while len(rest) >= 8:
                if int.from_bytes(rest[:8], "big") != self.received:
                    raise RuntimeError(f"number {self.received} is missing")
                self.received, rest = self.received + 1, rest[8:]

    def longest(self, since):
        """The longest silence that ended after a time."""
        return max((length for start, length in self.silence if start + length > since), default=float("inf"))

    def end(self):
        """Ends it, and returns what went wrong."""
        self.over.set()
        for thread in self.threads:
            thread.join(20)
        self.sending.close()
        self.taking.close()
        return self.fault


def guarded(stream, part):
    """Runs a part of a stream, and notes why it ends early."""
    try:
        part()
    except (OSError, RuntimeError) as error:
        stream.fault = f"{type(error).__name__}: {error}"


def agent_restarted(node, results):
    """The agent is killed, ended and brought up with another program while two pods talk."""
    one, other = node.make("shop"), node.make("shop")
    wait_for(lambda: False, 0.2)
    with Sniffer(node) as sniffer:
        stream = Stream(one, other)
        time.sleep(1)
        quiet = stream.longest(0)
        figures = [f"undisturbed {quiet * 1000:.0f} ms"]
        before = {pod: node.agent_pods()[pod.id]["pid"] for pod in (one, other)}
        for name, number in (("killed", signal.SIGKILL), ("ended", signal.SIGTERM)):
            since = time.monotonic()
            for _ in range(RESTARTS):
                node.end_agent(number)
                time.sleep(0.3)
                node.start_agent()
                time.sleep(0.3)
            figures.append(f"{name} {RESTARTS} times {stream.longest(since) * 1000:.0f} ms")
        pods = node.agent_pods()
        is_adopted = all(pods.get(pod.id, {}).get("pid") == pid and pods[pod.id]["state"] == "protected" for pod, pid in before.items())
        newer = f"{node.work}/bin/tencrypt-newer"
        shutil.copy(node.program, newer)
        with open(newer, "ab") as program:
            program.write(b"\0")
        node.write_settings(newer)
        since = time.monotonic()
        node.end_agent(signal.SIGTERM)
        node.start_agent()
        replaced, took = wait_for(lambda: is_upgraded(node, (one, other), newer), 20, 0.1)
        time.sleep(2)
        figures.append(f"upgraded {stream.longest(since) * 1000:.0f} ms")
        fault = stream.end()
    plain = sniffer.between(one.addresses, other.addresses)
    sealed = sum(count for (source, target), count in sniffer.sealed.items() if {source, target} <= {*one.addresses, *other.addresses})
    results.add(is_adopted, "data paths are taken over", f"by {2 * RESTARTS} agents one after the other, {'the same' if is_adopted else 'other'} processes")
    results.add(replaced, "data paths are upgraded", f"both run the new program {took:.1f} s after the new agent's start")
    is_good = fault is None and stream.received and not plain and sealed and not sniffer.lost
    results.add(is_good, "TCP stream meanwhile", f"{stream.received * 8} bytes in order, {fault or 'not lost'}; {len(plain)} frames in plain, {sealed} sealed, {sniffer.lost} not seen; longest silence: {', '.join(figures)}")
    node.remove_all()


def is_upgraded(node, pods, program):
    """Tells if these pods have data paths of this program."""
    known = node.agent_pods()
    found = [known.get(pod.id, {}) for pod in pods]
    runs = lambda pod: os.readlink(f"/proc/{pod['pid']}/exe") == program
    try:
        return all(pod.get("state") == "protected" and pod.get("current") and runs(pod) for pod in found)
    except OSError:
        return False
