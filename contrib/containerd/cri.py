"""A client of the CRI, as far as the checks need it: gRPC by curl, protocol buffers by hand.

Numbers of fields: k8s.io/cri-api, pkg/apis/runtime/v1/api.proto.
"""

import json
import os
import struct
import subprocess
import tempfile
import urllib.parse

SOCKET = "/run/containerd/containerd.sock"
POD, CONTAINER = 0, 1  # NamespaceMode


class CallError(Exception):
    """An answer of the runtime that is an error; its text is the runtime's message."""


def varint(number):
    """A number, seven bits a byte."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def message(*fields):
    """A message of (number, value) pairs: whole numbers, texts, bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return out


def fields(data):
    """The fields of a message: a list of values for each number."""
    found, at = {}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            value = number()
        elif kind == 2:
            length = number()
            value = data[at : at + length]
            at += length
        else:
            length = {1: 8, 5: 4}[kind]
            value = data[at : at + length]
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


def call(method, request, limit=60):
    """Calls a method of the runtime, and returns the fields of its answer within `limit` seconds."""
    with tempfile.TemporaryDirectory(dir="/run") as folder:
        head, body = os.path.join(folder, "head"), os.path.join(folder, "body")
        command = ["curl", "-sS", "--http2-prior-knowledge", "--unix-socket", SOCKET, "--max-time", str(limit)]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", "-D", head, "-o", body]
        command += ["--data-binary", "@-", f"http://localhost/runtime.v1.RuntimeService/{method}"]
        framed = b"\0" + struct.pack(">I", len(request)) + request
        done = subprocess.run(command, input=framed, capture_output=True, timeout=limit + 10)
        if done.returncode != 0:
            raise CallError(f"{method}: {done.stderr.decode().strip()}")
        with open(head, encoding="utf-8") as lines:
            parts = (line.partition(":") for line in lines)
            headers = {name.lower(): value.strip() for name, _, value in parts}
        if headers.get("grpc-status") != "0":
            raise CallError(urllib.parse.unquote(headers.get("grpc-message", "no grpc-status")))
        with open(body, "rb") as answer:
            data = answer.read()
    return fields(data[5 : 5 + struct.unpack(">I", data[1:5])[0]])


def conditions():
    """The conditions of the runtime: true or false by name."""
    status = fields(call("Status", b"", 5)[1][0])
    pairs = (fields(condition) for condition in status.get(1, []))
    return {pair[1][0].decode(): bool(pair.get(2, [0])[0]) for pair in pairs}


def run_sandbox(namespace, name, cgroup, attempt=0):
    """Makes a sandbox, and returns its id."""
    labels = {"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": namespace}
    modes = message((1, POD), (2, CONTAINER), (3, POD))
    config = message(
        (1, message((1, name), (2, f"uid-{namespace}-{name}"), (3, namespace), (4, attempt))),
        (2, name),
        (4, message((1, "192.0.2.53"))),
        *((6, message((1, key), (2, value))) for key, value in labels.items()),
        (8, message((1, cgroup), (2, message((1, modes))))),
    )
    return call("RunPodSandbox", message((1, config)))[1][0].decode()


def stop_sandbox(sandbox):
    """Stops a sandbox."""
    call("StopPodSandbox", message((1, sandbox)))


def remove_sandbox(sandbox):
    """Removes a sandbox that was stopped."""
    call("RemovePodSandbox", message((1, sandbox)))


def sandboxes():
    """The ids of all sandboxes: true by id if one is ready."""
    items = [fields(item) for item in call("ListPodSandbox", b"").get(1, [])]
    return {item[1][0].decode(): item.get(3, [0])[0] == 0 for item in items}


def inspect_sandbox(sandbox):
    """The first process, the path of the network namespace, and the addresses of a sandbox."""
    answer = call("PodSandboxStatus", message((1, sandbox), (2, 1)))
    network = fields(fields(answer[1][0])[5][0])
    addresses = [network[1][0].decode()] if 1 in network else []
    addresses += [fields(more)[1][0].decode() for more in network.get(2, [])]
    verbose = {pair[1][0]: pair[2][0] for pair in map(fields, answer[2])}
    info = json.loads(verbose[b"info"])
    kinds = {entry["type"]: entry.get("path") for entry in info["runtimeSpec"]["linux"]["namespaces"]}
    return info["pid"], kinds["network"], addresses
