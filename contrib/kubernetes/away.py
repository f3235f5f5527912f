"""Checks of what a node does while something is away: the API, the tenant's Secret, a data path, the node itself."""

import json
import os
import time

from cluster import Sniffer, Stream, run, wait_for
from live import data_paths, far_pair, keys
from load import Calls, Rounds, echo_container, ECHO
from rolling import AGENT_COMMAND, addresses_of, clean, steady

# Ends all processes of a network namespace: the kubelet makes the pod's sandbox anew.
END_ALL = 'n=$(stat -Lc %i "$1"); for p in /proc/[0-9]*; do [ "$(stat -Lc %i $p/ns/net 2>/dev/null)" = $n ] && kill -9 ${p#/proc/}; done; true'
BACK = 1_000  # ms until a client is back after the death of a server's data path
DEATHS = 3


def protected_namespaces(cluster, node, old):
    """The network namespaces of a node with a data path's device, but for one. Asked in the node: kubectl may have nobody to ask."""
    look = f"for f in /run/netns/*; do [ $f = {old} ] || nsenter --net=$f ip -o address 2>/dev/null | grep -q tenc0 && echo $f; done; true"
    return set(cluster.node(node, "sh", "-c", look).split())


def without_api(cluster, results, names, seconds):
    """Processes of the API stand still for a time under a stream; a sandbox of the tenant dies meanwhile, and is made anew, protected."""
    pods, _ = cluster.shop()
    pair = far_pair(pods)
    victim = next(pod for pod in pods if pod not in pair)
    old = cluster.namespace_of(victim)
    stopped = [cluster.node(cluster.nodes[0], "pgrep", "-x", name).split() for name in names]
    title = f"{' and '.join(names)} stopped"
    if any(len(found) != 1 for found in stopped):
        results.add(False, title, f"processes of these names in {cluster.nodes[0]}: {stopped}")
        return
    before = protected_namespaces(cluster, victim.node, old)
    with Sniffer(cluster) as sniffer, Stream(cluster, *pair) as stream:
        start = time.monotonic()
        cluster.node(cluster.nodes[0], "kill", "-STOP", *sum(stopped, []))
        try:
            # Half of the time it is away already.
            wait_for(lambda: False, max(0, seconds / 2))
            cluster.node(victim.node, "sh", "-c", END_ALL, "sh", old)
            fresh, took = wait_for(lambda: protected_namespaces(cluster, victim.node, old) - before, 60)
            wait_for(lambda: False, start + seconds - time.monotonic())
        finally:
            cluster.node(cluster.nodes[0], "kill", "-CONT", *sum(stopped, []))
        away = time.monotonic() - start
    results.add(fresh, f"{title}: a new sandbox", f"away for {away:.0f} s; protected {took:.1f} s after its death" if fresh else "none within 60 s")
    wait_for(lambda: is_ready(cluster), 60)
    again, _ = cluster.ready_pods("shop", 4, "app=web", 120)
    plain = sniffer.plain(addresses_of(pods, again), addresses_of(pods, again))
    results.add(stream.is_whole and not plain, f"{title}: a stream meanwhile", f"{stream.figure}; {len(plain)} frames in plain")
    known = [cluster.is_protected(pod) for pod in again]
    new = next((pod for pod in again if pod.name == victim.name), again[0])
    took, _ = cluster.ask(pair[0], new.addresses[0], 8080, 10)
    results.add(all(known) and took is not None, "after it all are as before", f"{sum(known)} of {len(again)} protected; {new.name} answers at {new.addresses[0]} in {took} ms")


def is_ready(cluster):
    """Tells if the API server is ready."""
    try:
        return cluster.kubectl("get", "--raw", "/readyz") == "ok"
    except RuntimeError:
        return False


def api_stopped(cluster, results):
    """The API server stands still."""
    without_api(cluster, results, ["kube-apiserver"], 0)


def api_away(cluster, results):
    """The API server and etcd stand still for minutes."""
    without_api(cluster, results, ["kube-apiserver", "etcd"], int(os.environ.get("API_AWAY", "300")))


def tenant_problem(cluster, node, name):
    """What the agent of a node says of a tenant: the problem of its status, and its metric."""
    status = json.loads(cluster.agent(node, "/bin/tencrypt-node", "status", "--json"))
    problem = next((tenant["problem"] for tenant in status["node"]["tenants"] if tenant["name"] == name), "not known")
    metrics = cluster.agent(node, "/bin/tencrypt-node", "metrics").splitlines()
    value = next((line.split()[-1] for line in metrics if line.startswith(f'tencrypt_tenant_problems{{tenant="{name}"}}')), None)
    return problem, value


def secret(cluster, results):
    """The tenant's Secret is broken, mended, deleted, and put back: the keys in force stay, and the agent says what is wrong."""
    pods, _ = cluster.shop()
    cluster.take_key("shop")
    pair, before, in_force = far_pair(pods), data_paths(cluster, pods), keys(cluster, pods)
    named = {"name": "tencrypt-key", "namespace": "shop"}
    broken = {"apiVersion": "v1", "kind": "Secret", "metadata": named, "type": "Opaque", "stringData": {"tenant.key": "no key file"}}
    steps = (
        ("broken", lambda: cluster.apply(broken), True), ("mended", lambda: cluster.give_key("shop"), False),
        ("deleted", lambda: cluster.kubectl("delete", "secret", "-n", "shop", "tencrypt-key"), True), ("put back", lambda: cluster.give_key("shop"), False),
    )
    with Sniffer(cluster) as sniffer, Stream(cluster, *pair) as stream:
        try:
            for name, act, is_wrong in steps:
                act()
                told = lambda: (tenant_problem(cluster, pair[0].node, "shop")[1] == "1") == is_wrong
                said, took = wait_for(told, 30)
                problem, value = tenant_problem(cluster, pair[0].node, "shop")
                kept = keys(cluster, pods) == in_force and data_paths(cluster, pods) == before
                figure = f"told after {took:.1f} s: {problem or 'no problem'}; metric {value}; keys in force {'stay' if kept else 'are OTHERS'}"
                if is_wrong:
                    # Its node has keys of the tenant, which are used: docs/kubernetes.md, and docs/node.md on keys.
                    new = cluster.pod("shop", "meanwhile", pair[0].node)
                    answered, _ = cluster.ask(new, pods[-1].addresses[0], 8080)
                    figure += f"; a new pod {'protected' if cluster.is_protected(new) else 'NOT protected'}, answered in {answered} ms"
                    kept = kept and cluster.is_protected(new) and answered is not None
                results.add(said and kept, f"Secret {name}", figure)
        finally:
            cluster.give_key("shop")
            clean(cluster, "shop", "meanwhile")
    plain = sniffer.plain(addresses_of(pods), addresses_of(pods))
    results.add(stream.is_whole and not plain, "Secret: a stream meanwhile", f"{stream.figure}; {len(plain)} frames in plain")


def server_path_restarted(cluster, results):
    """A server's data path is killed: clients of its Service are back at once. One that stands still is seen to be away."""
    client, _ = pair = steady(cluster)
    labels, meta = {"app": "lone"}, {"name": "lone", "namespace": "shop"}
    spec = cluster.spec(cluster.nodes[-1])
    spec["containers"].append(echo_container(cluster))
    ports = [{"name": "web", "port": 80, "targetPort": 8080}, {"name": "echo", "port": ECHO, "targetPort": ECHO}]
    cluster.apply(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "labels": labels}, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": ports}},
    )
    try:
        (server,), _ = cluster.ready_pods("shop", 1, "app=lone", 150)
        service = json.loads(cluster.kubectl("get", "service", "-n", "shop", "lone", "-o", "json"))["spec"]["clusterIP"]
        cluster.ask(client, service, 80, 20)
        process = lambda: data_paths(cluster, [server])[0][0]

        def during(act):
            with Calls(cluster, client, service, 80) as calls:
                wait_for(lambda: False, 1)
                act()
                wait_for(lambda: False, 4)
            return calls.longest

        def stand_still():
            first = str(process())
            cluster.node(server.node, "sh", "-c", 'kill -STOP "$1"; sleep 1.5; kill -CONT "$1"', "sh", first)

        quiet, stopped = during(lambda: None), during(stand_still)
        results.add(quiet < BACK and stopped > BACK, "control: a data path that stands still", f"longest time without an answer {stopped} ms for 1500 ms; without an event {quiet} ms")
        gaps = []
        with Sniffer(cluster) as sniffer, Rounds(cluster, client, service, 1) as rounds:
            for _ in range(DEATHS):
                victim = process()
                gaps.append(during(lambda: cluster.node(server.node, "kill", "-KILL", str(victim))))
                wait_for(lambda: process() not in (None, victim), 20)
                wait_for(lambda: False, 8)  # one that dies within 10 s of its start is not started again at once
        plain = sniffer.plain(addresses_of([client, server]) | {service}, addresses_of([client, server]) | {service})
        is_good = max(gaps) < BACK and rounds.held and not rounds.lost and not rounds.unmade and not plain and any(sniffer.records(addresses_of([client, server])))
        figure = f"new connections answered again after {', '.join(map(str, gaps))} ms; one that was open is {'LOST' if rounds.lost else 'held'}, longest of {rounds.trips} round trips {rounds.longest} ms"
        results.add(is_good, "a server's data path is killed", f"{figure}; {len(plain)} frames in plain")
    finally:
        cluster.kubectl("delete", "service", "-n", "shop", "lone", "--ignore-not-found")
        clean(cluster, "shop", "lone", *(pod.name for pod in pair))


def node_reboot(cluster, results):
    """A node is restarted while the API server is away: its pods are protected when they are back, or closed, and never in plain."""
    command = os.environ.get("REBOOT")
    if not command:
        print("NOT RUN: node_reboot: not set: REBOOT, a command that restarts the node with the number behind it")
        return
    pods, _ = cluster.shop()
    node = cluster.nodes[-1]
    here = next(pod for pod in pods if pod.node == cluster.nodes[0])
    there = [pod for pod in pods if pod.node == node]
    api = cluster.node(cluster.nodes[0], "pgrep", "-x", "kube-apiserver").split()
    if node == cluster.nodes[0] or len(api) != 1 or not there:
        results.add(False, "a node restarted", f"needs two nodes, with the API server on the first: {cluster.nodes}, {api}")
        return
    # At the end of the node's own cable: a sniffer within the node would end with it.
    sniffer = Sniffer(cluster, [cluster.nodes[0]])
    with sniffer:
        cluster.node(cluster.nodes[0], "kill", "-STOP", *api)
        try:
            run([*command.split(), str(cluster.nodes.index(node) + 1)], limit=90)
            silent = [cluster.ask(here, pod.addresses[0], 8080, 2)[0] for pod in there]
            wait_for(lambda: False, 15)
            alone = cluster.node(node, "sh", "-c", "ls /run/netns 2>/dev/null | wc -l").strip()
        finally:
            cluster.node(cluster.nodes[0], "kill", "-CONT", *api)
        start = time.monotonic()
        wait_for(lambda: is_ready(cluster), 60)
        # What the API says of the agent is of before, until its process is there.
        wait_for(lambda: cluster.node(node, "sh", "-c", f'pgrep -f "{AGENT_COMMAND}"; true'), 120)
        wait_for(lambda: node in cluster.agents() and cluster.agents()[node].is_ready, 120)
        agent = time.monotonic() - start
        again, _ = wait_for(lambda: answers_of(cluster, here, 4, node), 120, 1)
        took = time.monotonic() - start
    now = cluster.ready_pods("shop", 4, "app=web", 120)[0]
    plain = sniffer.plain(addresses_of(pods, now), addresses_of(pods, now))
    known = [cluster.is_protected(pod) for pod in now]
    records = sum(sniffer.records(addresses_of(pods, now)))
    figure = f"without the API {alone} namespaces of pods after 15 s, answers {silent}; agent ready {agent:.0f} s after the API"
    figure += f", {sum(known)} of {len(now)} pods protected and answering after {took:.0f} s; {len(plain)} frames in plain, {records} records"
    results.add(again and all(known) and not plain and records, "a node restarted with the API away", figure)


def answers_of(cluster, client, count, node):
    """The answers of the tenant's pods on a node, once all of them are ready and answer."""
    pods = cluster.pods("shop", "app=web")
    if len(pods) != count or not all(pod.is_ready and pod.addresses for pod in pods):
        return None
    try:
        if not all(cluster.is_protected(pod) for pod in pods):
            return None
        answers = [cluster.ask(client, pod.addresses[0], 8080, 3)[0] for pod in pods if pod.node == node]
    except RuntimeError:  # the agent, or the pod's namespace, is not there yet
        return None
    return answers if answers and None not in answers else None


ALL = [api_stopped, api_away, secret, server_path_restarted, node_reboot]
