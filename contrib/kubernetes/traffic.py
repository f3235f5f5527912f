"""Traffic of a pod: `traffic.py MODE ARGUMENTS`, in the pod's network namespace, until standard input ends.

It is handed to the node's Python as text, and needs of its library what Debian's python3-minimal has. Each line that it writes is a
word and figures.
"""

import socket
import sys
import threading
import time

BLOCK = 64  # numbers of 8 bytes
PAUSE = 0.002  # seconds between two blocks
TRY = 1.0  # seconds that an attempt to connect may take
CALL = 0.2  # seconds that a call may take: less than the kernel's first retransmission of a SYN
LINE = b"." * 63 + b"\n"  # of a round trip


def family(address):
    """The family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def say(*words):
    """Writes a line at once."""
    print(*words, flush=True)


def over():
    """Set when standard input ends."""
    event = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), event.set()), daemon=True).start()
    return event


def take(port):
    """Takes a stream of numbers: `ready`, then `took BYTES FAULT MS`, with the longest silence; the fault is `-` if no byte was lost."""
    with socket.create_server(("", int(port)), family=socket.AF_INET) as listener:
        say("ready")
        listener.settimeout(60)
        stream, _ = listener.accept()
    stream.settimeout(60)
    number, rest, silence, fault, last = 0, b"", 0.0, "-", time.monotonic()
    try:
        while data := stream.recv(65_536):
            now = time.monotonic()
            silence, last, rest = max(silence, now - last), now, rest + data
            while len(rest) >= 8 and fault == "-":
                if int.from_bytes(rest[:8], "big") != number:
                    fault = f"number-{number}-is-missing"
                number, rest = number + 1, rest[8:]
    except OSError as error:
        fault = type(error).__name__
    say("took", number * 8, fault, int(silence * 1000))


def send(address, port):
    """Sends a stream of numbers until standard input ends: `ready` once connected, then `sent BYTES FAULT`."""
    end, number, fault = over(), 0, "-"
    try:
        with socket.create_connection((address, int(port)), 10) as stream:
            stream.settimeout(60)
            say("ready")
            while not end.wait(PAUSE):
                stream.sendall(b"".join((number + more).to_bytes(8, "big") for more in range(BLOCK)))
                number += BLOCK
            stream.shutdown(socket.SHUT_WR)
            stream.recv(1)
    except OSError as error:
        fault = type(error).__name__
    say("sent", number * 8, fault)


def ask(address, port, path, limit):
    """Asks a web server until it answers: `answered MS TEXT`, or `silent ERROR` after `limit` seconds."""
    start, error = time.monotonic(), "none"
    while time.monotonic() - start < float(limit):
        begun = time.monotonic()
        try:
            with socket.create_connection((address, int(port)), TRY) as stream:
                stream.settimeout(TRY)
                stream.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answer = b""
                while data := stream.recv(4_096):
                    answer += data
            if b"\r\n\r\n" in answer:
                say("answered", int((time.monotonic() - start) * 1000), answer.split(b"\r\n\r\n", 1)[1].decode().strip())
                return
        except OSError as refusal:
            error = type(refusal).__name__
        time.sleep(max(0, begun + 0.1 - time.monotonic()))
    say("silent", error)


def balance(address, port, path, count):
    """Makes connections to a Service one after the other: a line `from COUNT TEXT` for each answer that there was, `none COUNT`.

    After 20 connections without an answer it makes no more.
    """
    answers = {}
    for _ in range(int(count)):
        if answers.get(None) == 20:
            break
        answer = None
        try:
            with socket.create_connection((address, int(port)), TRY) as stream:
                stream.settimeout(TRY)
                stream.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                data = b"".join(iter(lambda: stream.recv(4_096), b""))
                answer = data.split(b"\r\n\r\n", 1)[1].decode().strip()
        except (OSError, IndexError):
            pass
        answers[answer] = answers.get(answer, 0) + 1
    for answer, times in answers.items():
        say(*(("none", times) if answer is None else ("from", times, answer)))


def round_trips(address, port, end, lines):
    """Sends lines to a server that says its name and then echoes, over one connection until it is lost, and then over another.

    Adds to `lines` one for each connection: `held` or `lost`, the server's name, round trips, the longest in ms, and the error.
    """
    while not end.is_set():
        name, error, count, longest = "-", "-", 0, 0.0
        try:
            with socket.create_connection((address, int(port)), TRY) as stream, stream.makefile("rb") as reader:
                stream.settimeout(2 * TRY)
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                name = reader.readline().decode().strip() or "-"
                while not end.wait(PAUSE):
                    begun = time.monotonic()
                    stream.sendall(LINE)
                    if reader.readline() != LINE:
                        raise ConnectionAbortedError
                    count, longest = count + 1, max(longest, time.monotonic() - begun)
        except OSError as fault:
            error = type(fault).__name__
        lines.append(("held" if error == "-" else "lost", name, count, int(longest * 1000), error))
        end.wait(PAUSE)


def rounds(address, port, count):
    """Keeps connections with round trips until standard input ends: `ready`, then the lines of `round_trips`."""
    end, lines = over(), []
    threads = [threading.Thread(target=round_trips, args=(address, port, end, lines)) for _ in range(int(count))]
    for thread in threads:
        thread.start()
    say("ready")
    for thread in threads:
        thread.join()
    for line in lines:
        say(*line)


def call(address, port, path, limit):
    """Asks a web server once, and returns its answer; none if there was none in time."""
    try:
        with socket.create_connection((address, int(port)), limit) as stream:
            stream.settimeout(limit)
            stream.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            data = b"".join(iter(lambda: stream.recv(4_096), b""))
            return data.split(b"\r\n\r\n", 1)[1].decode().strip() or "-"
    except (OSError, IndexError):
        return None


def calls(address, port, path):
    """Asks a web server again and again, over a new connection each time, until standard input ends: `ready`, `from COUNT TEXT` for
    each answer that there was, and `calls ANSWERED FAILED MS`, with the longest time without an answer."""
    end, answers, failed, longest = over(), {}, 0, 0.0
    say("ready")
    last = time.monotonic()
    while not end.wait(PAUSE):
        answer = call(address, port, path, CALL)
        now = time.monotonic()
        longest = max(longest, now - last)
        if answer is None:
            failed += 1
        else:
            last, answers[answer] = now, answers.get(answer, 0) + 1
    for answer, times in answers.items():
        say("from", times, answer)
    say("calls", sum(answers.values()), failed, int(longest * 1000))


def datagrams(address, port, count):
    """Sends datagrams, each from a socket of its own, and waits for what comes back: `from COUNT TEXT`, `none COUNT`, as `balance`."""
    answers = {}
    for _ in range(int(count)):
        with socket.socket(family(address), socket.SOCK_DGRAM) as one:
            one.settimeout(TRY)
            try:
                one.connect((address, int(port)))
                one.send(LINE)
                answer = one.recv(4_096).decode().split("\n")[0]
            except OSError:
                answer = None
        answers[answer] = answers.get(answer, 0) + 1
    for answer, times in answers.items():
        say(*(("none", times) if answer is None else ("from", times, answer)))


def taken(port):
    """The datagrams that come to a port until standard input ends, each as the socket and its sender: `ready` first."""
    end = over()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", int(port)))
        one.settimeout(0.1)
        say("ready")
        while not end.is_set():
            try:
                _, client = one.recvfrom(4_096)
            except OSError:
                continue
            yield one, client


def say_name(port, name):
    """Answers datagrams with a name until standard input ends: `ready`."""
    for one, client in taken(port):
        try:
            one.sendto(name.encode(), client)
        except OSError:
            pass


def count_plain(port):
    """Counts datagrams at a port until standard input ends: `ready`, then `counted COUNT`."""
    say("counted", sum(1 for _ in taken(port)))


MODES = {mode.__name__: mode for mode in (take, send, ask, balance, rounds, calls, datagrams, say_name, count_plain)}


def main(mode, *arguments):
    """Does what the mode says."""
    MODES[mode](*arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
