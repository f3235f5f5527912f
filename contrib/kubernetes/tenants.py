"""Checks of many tenants, of addresses and namespaces that go from one to another, and of the first packets of a pod."""

import base64
import collections
import json
import os
import re
import time

from cluster import CANARY, DEPLOY, Sniffer, script, start, wait_for
from rolling import addresses_of, clean

TENANTS, PODS = 20, 3
PORT = 7_009  # of datagrams that are counted


def small(cluster, name, namespace, node=None, **more):
    """A pod that does nothing but serve its name."""
    spec = cluster.spec(node)
    spec["containers"][0] = {key: value for key, value in spec["containers"][0].items() if not key.endswith("Probe")}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}}, "spec": {**spec, **more}}


def many(cluster, names):
    """Makes tenants of one namespace each, as `Cluster.enrol` makes one."""
    role = script(f"{DEPLOY}/tenant", "role.yaml")
    cluster.apply(*({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"tencrypt.io/tenant": name}}} for name in names))
    secrets = []
    for name in names:
        cluster.program("genkey", f"{cluster.work}/{name}.key")
        with open(f"{cluster.work}/{name}.key", "rb") as file:
            key = base64.b64encode(file.read()).decode()
        os.remove(f"{cluster.work}/{name}.key")
        secrets.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tencrypt-key", "namespace": name}, "data": {"tenant.key": key}})
        cluster.kubectl("apply", "-n", name, "-f", "-", stdin=role)
    cluster.apply(*secrets)
    data = {f"{name}.toml": f'namespaces = ["{name}"]\n' for name in names}
    cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-tenants", "--type", "merge", "-p", json.dumps({"data": data}))
    cluster.forget_default(names[-1])


def forget(cluster, names):
    """Takes tenants away, with their namespaces."""
    cluster.kubectl("delete", "namespace", *names, "--ignore-not-found", "--wait", limit=240)
    data = {f"{name}.toml": None for name in names}
    cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-tenants", "--type", "merge", "-p", json.dumps({"data": data}))


def resident(cluster, node, pattern):
    """The resident memory of processes of a node whose command line has this pattern, in MiB: each one's."""
    found = cluster.node(node, "ps", "-eo", "rss,args").splitlines()
    return sorted(int(line.split()[0]) / 1_024 for line in found if re.match(pattern, line.split(None, 1)[1]))


def tenants(cluster, results):
    """Sixty pods of twenty tenants are protected, each reaches its own and no other."""
    cluster.install()
    names = [f"many-{number:02}" for number in range(TENANTS)]
    many(cluster, names)
    try:
        # The first pod waits until the kubelet has brought the tenants to the nodes, which the time of the others is not to have in it.
        for number, node in enumerate(cluster.nodes):
            cluster.apply(small(cluster, f"first-{number}", names[-1], node))
        _, brought = cluster.ready_pods(names[-1], len(cluster.nodes), limit=180)
        clean(cluster, names[-1], *(f"first-{number}" for number in range(len(cluster.nodes))))
        begun = time.monotonic()
        cluster.apply(*(small(cluster, f"pod-{number}", name, cluster.nodes[number % len(cluster.nodes)]) for name in names for number in range(PODS)))

        def count():
            found = [entry for node in cluster.nodes for name, entry in cluster.protected(node).items() if name.startswith("many-")]
            return sum(entry["state"] == "protected" for entry in found) == TENANTS * PODS

        done, _ = wait_for(count, 240)
        took = time.monotonic() - begun
        pods = {name: cluster.ready_pods(name, PODS, limit=60)[0] for name in names}
        ready = time.monotonic() - begun
        agents = [memory for node in cluster.nodes for memory in resident(cluster, node, "/bin/tencrypt-node run")]
        paths = [memory for node in cluster.nodes for memory in resident(cluster, node, "/var/lib/tencrypt/tencrypt-")]
        figure = f"{TENANTS * PODS} pods of {TENANTS} tenants on {len(cluster.nodes)} nodes after {took:.0f} s, ready after {ready:.0f} s (a new tenant is known on a node after {brought:.0f} s)"
        memory = f"agents {', '.join(f'{one:.0f}' for one in agents)} MiB, {len(paths)} data paths of {paths[0]:.0f} to {paths[-1]:.0f} MiB, {sum(paths):.0f} MiB together, resident"
        results.add(done, "sixty pods of twenty tenants", f"{figure}; {memory}" if done else "not all protected within 240 s")
        isolated(cluster, results, pods)
    finally:
        forget(cluster, names)


def isolated(cluster, results, pods):
    """Of a sample of tenants each reaches its own pod on the other node, and none of the next tenant."""
    sample = list(pods)[:: TENANTS // 5]
    with Sniffer(cluster) as sniffer:
        own = [cluster.ask(pods[name][0], pods[name][1].addresses[0], 8080, path=f"/{CANARY}")[0] for name in sample]
        others = [cluster.ask(pods[name][0], pods[other][1].addresses[0], 8080, 2, f"/{CANARY}")[0] for name, other in zip(sample, sample[1:] + sample[:1])]
    all_of_them = addresses_of(*pods.values())
    plain = sniffer.plain(all_of_them, all_of_them)
    is_good = None not in own and others == [None] * len(others) and not plain
    results.add(is_good, "a sample of five tenants", f"{len(own) - own.count(None)} of {len(own)} reach their own, {len(others) - others.count(None)} of {len(others)} another tenant's; {len(plain)} frames in plain")


def next_address(cluster, node, address):
    """Has the node's IPAM (host-local) give this address next. IPAM is the folder of its notes."""
    folder = os.environ.get("IPAM", "/var/lib/cni/networks")
    *network, last = address.split(".")
    before = f"{'.'.join(network)}.{int(last) - 1}"
    command = 'f=$(find "$1" -name last_reserved_ip.0); [ -n "$f" ] || exit 1; [ -e "${f%/*}/$3" ] && exit 2; printf %s "$2" > "$f"'
    cluster.node(node, "sh", "-c", command, "sh", folder, before, address)


def address_reused(cluster, results):
    """A pod's address goes to a pod of another tenant, and then of none: peers of the first send it nothing in plain, and it hears nothing."""
    cluster.enrol("shop")
    cluster.enrol("bank")
    cluster.open_namespace("open")
    node = cluster.nodes[-1]
    # A pod that waits until its tenant is known on the node takes an address each time that it is tried.
    cluster.pod("bank", "known", node)
    clean(cluster, "bank", "known")
    peer = cluster.pod("shop", "peer", cluster.nodes[0])
    first = cluster.pod("shop", "first", node)
    address = first.addresses[0]
    try:
        with Sniffer(cluster) as sniffer:
            control = speak(cluster, peer, first)
        plain = sniffer.plain(peer.addresses, [address])
        figure = f"answered in {control[0]} ms, {control[1]} of 20 datagrams arrived; {len(plain)} frames in plain"
        results.add(control[0] is not None and control[1] and not plain, "control: the address is the tenant's", figure)
        holders = [("shop", "first")]
        for namespace in ("bank", "open"):
            clean(cluster, *holders.pop())
            next_address(cluster, node, address)
            holders.append((namespace, "second"))
            second = cluster.pod(namespace, "second", node)
            if second.addresses[0] != address:
                raise RuntimeError(f"{second.name} has {second.addresses[0]}, not {address}: the check needs host-local, and IPAM set")
            with Sniffer(cluster) as sniffer:
                answered, counted = speak(cluster, peer, second)
            plain = sniffer.plain(peer.addresses, second.addresses)
            # An open pod answers a handshake with ICMP (no such port): that is its own, and in plain.
            sent = [frame for frame in plain if frame["from"] in peer.addresses]
            others = collections.Counter(f"{frame['from']} protocol {frame['protocol']}" for frame in plain)
            title = "of another tenant" if namespace == "bank" else "without a tenant"
            figure = f"{address}: answered {answered}, {counted} of 20 datagrams arrived, {len(sent)} frames in plain of the tenant's, {len(plain)} in all {dict(others) or ''}"
            results.add(answered is None and not counted and not sent, f"an address taken by a pod {title}", figure)
    finally:
        for namespace, name in (("shop", "first"), ("bank", "second"), ("open", "second"), ("shop", "peer")):
            clean(cluster, namespace, name)


def speak(cluster, one, other):
    """Asks a pod's web server and sends it datagrams: the milliseconds until it answered, and how many datagrams arrived."""
    server = start(cluster.in_pod(other, "count_plain", str(PORT)))
    answered, _ = cluster.ask(one, other.addresses[0], 8080, 4, f"/{CANARY}")
    send = f'import socket, time\nfor _ in range(20):\n try: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"{CANARY}", ("{other.addresses[0]}", {PORT}))\n except OSError: pass\n time.sleep(0.02)'
    cluster.node(one.node, "nsenter", f"--net={cluster.namespace_of(one)}", "python3", "-c", send)
    time.sleep(1)
    out, _ = server.communicate("", timeout=30)
    return answered, int(out.split()[1])


def first_packets(cluster, results):
    """What an init container sends as its first action is encrypted, and arrives."""
    cluster.enrol("shop")
    cluster.open_namespace("open")
    for namespace in ("open", "shop"):
        target = cluster.pod(namespace, "target", cluster.nodes[0])
        address = target.addresses[0]
        # A datagram with a name, which nobody answers, comes first; the ping says that packets go both ways.
        words = f"nslookup {CANARY} {address} & ping -c 3 -W 5 {address}"
        init = {"name": "first", "image": cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sh", "-c", words]}
        server = start(cluster.in_pod(target, "count_plain", "53"))
        try:
            with Sniffer(cluster) as sniffer:
                cluster.apply(small(cluster, "starting", namespace, cluster.nodes[-1], initContainers=[init]))
                (pod,), took = cluster.ready_pods(namespace, 1, "app=starting", 150)
                time.sleep(1)
            log = cluster.kubectl("logs", "-n", namespace, "starting", "-c", "first")
        finally:
            out, _ = server.communicate("", timeout=30)
            clean(cluster, namespace, "starting", "target")
        lost = next((part.strip() for part in log.replace("\n", ",").split(",") if "packet loss" in part), log.strip())
        counted = int(out.split()[1])
        plain = sniffer.plain(pod.addresses, target.addresses)
        canaries = sum(frame["canary"] for frames in sniffer.frames for frame in frames)
        figure = f"{counted} datagrams arrived, 3 pings: {lost}; {len(plain)} frames in plain, {canaries} with the canary"
        if namespace == "open":
            results.add(canaries and counted, "control: an open pod's first packets", figure)
        else:
            results.add(not plain and not canaries and counted and lost.startswith("0%"), "an init container's first packets", figure)


def label_to_another(cluster, results):
    """A namespace's label is changed to another tenant's: its pod has that one's key then, and talks to that tenant alone."""
    cluster.enrol("flip")
    cluster.enrol("shop")
    # `shop` admits it too; the Secret of the namespace is to have the key of the tenant that the label names.
    own = json.loads(cluster.kubectl("get", "secret", "-n", "flip", "tencrypt-key", "-o", "json"))["data"]
    its = json.loads(cluster.kubectl("get", "secret", "-n", "shop", "tencrypt-key", "-o", "json"))["data"]
    admit = lambda *namespaces: cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-tenants", "--type", "merge", "-p", json.dumps({"data": {"shop.toml": f"namespaces = {json.dumps(namespaces)}\n"}}))
    put = lambda data: cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tencrypt-key", "namespace": "flip"}, "data": data})
    moving, staying = cluster.pod("flip", "moving", cluster.nodes[-1]), cluster.pod("shop", "staying", cluster.nodes[0])
    answer = lambda: cluster.ask(staying, moving.addresses[0], 8080, 2)[0]
    try:
        before = answer()
        admit("shop", "flip")
        with Sniffer(cluster) as sniffer:
            start_time = time.monotonic()
            put(its)
            cluster.kubectl("label", "--overwrite", "namespace", "flip", "tencrypt.io/tenant=shop")
            after, _ = wait_for(answer, 150)
            took = time.monotonic() - start_time
        state = cluster.protected(moving.node).get("flip/moving", {})
        plain = sniffer.plain(moving.addresses, staying.addresses)
        is_good = before is None and after is not None and state.get("tenant") == "shop" and not plain
        figure = f"before: {before}; answered {took:.1f} s after, tenant {state.get('tenant')}, {state.get('state')}; {len(plain)} frames in plain"
        results.add(is_good, "a label changed to another tenant", figure)
    finally:
        put(own)
        cluster.kubectl("label", "--overwrite", "namespace", "flip", "tencrypt.io/tenant=flip")
        admit("shop")
        clean(cluster, "flip", "moving")
        clean(cluster, "shop", "staying")


ALL = [tenants, address_reused, first_packets, label_to_another]
