"""Checks of changes under traffic: a key that is rotated, a label, an agent that is deleted."""

import json

from cluster import AGENT, Sniffer, Stream, wait_for

STEPS = ("add", "activate", "retire")  # of `tencrypt rotate`


def far_pair(pods):
    """Two pods on different nodes, if there are."""
    return pods[0], next((pod for pod in pods if pod.node != pods[0].node), pods[1])


def data_paths(cluster, pods):
    """The processes and keys of pods' data paths."""
    known = {node: cluster.protected(node) for node in {pod.node for pod in pods}}
    found = [known[pod.node].get(f"{pod.namespace}/{pod.name}", {}) for pod in pods]
    return [(entry.get("pid"), entry.get("public_key")) for entry in found]


def keys(cluster, pods):
    """The keys that pods' data paths have: the epoch that is sent, and those that are accepted."""
    known = {node: cluster.protected(node) for node in {pod.node for pod in pods}}
    status = [(known[pod.node].get(f"{pod.namespace}/{pod.name}", {}).get("status") or {}).get("keys", {}) for pod in pods]
    return [(entry.get("send"), tuple(entry.get("accept", ()))) for entry in status]


def key_rotated(cluster, results):
    """The tenant's key is changed in three steps while a stream goes."""
    pods, _ = cluster.shop()
    cluster.take_key("shop")
    before = data_paths(cluster, pods)
    took, stream = [], Stream(cluster, *far_pair(pods))
    addresses = [address for pod in pods for address in pod.addresses]
    with Sniffer(cluster) as sniffer, stream:
        for step in STEPS:
            cluster.program("rotate", step, f"{cluster.work}/shop.key")
            file = json.loads(cluster.program("inspect", f"{cluster.work}/shop.key", "--json"))
            expected = (file["send"], tuple(sorted(map(int, file["fingerprints"]))))
            cluster.give_key("shop")
            # The agent hears of the Secret; what it says of its data paths is some seconds old.
            done, seconds = wait_for(lambda: all(entry == expected for entry in keys(cluster, pods)), 60)
            took.append(f"{step} {seconds:.1f} s" if done else f"{step} NOT within 60 s: {keys(cluster, pods)}")
            if not done:
                break
            # Sessions with traffic go over within 4 s (docs/operations.md).
            wait_for(lambda: False, 5)
    is_good = len(took) == len(STEPS) and "NOT" not in took[-1] and stream.is_whole
    plain = sniffer.plain(addresses, addresses)
    results.add(is_good and not plain and data_paths(cluster, pods) == before, "key rotated under a stream", f"{', '.join(took)}; {stream.figure}; {len(plain)} frames in plain")


def label(cluster, results):
    """A namespace's label is taken off and put on again."""
    cluster.enrol("flip")
    one = cluster.pod("flip", "one", cluster.nodes[0])
    results.add(cluster.is_protected(one), "with the label a pod is protected", one.name)
    cluster.kubectl("label", "namespace", "flip", "tencrypt.io/tenant-")

    def made(name, expected):
        """Makes pods until one is as the label says, for a minute: the agents hear of it a moment later."""
        return wait_for(lambda: cluster.is_protected(cluster.pod("flip", name, cluster.nodes[-1])) == expected, 60)

    opened, took = made("two", False)
    results.add(opened, "without it a new one is open", f"after {took:.1f} s")
    cluster.kubectl("label", "namespace", "flip", "tencrypt.io/tenant=flip")
    again, took = made("three", True)
    results.add(again, "with it again a new one is protected", f"after {took:.1f} s")
    meanwhile, took = wait_for(lambda: cluster.is_protected(cluster.pods("flip", "app=two")[0]), 60)
    results.add(meanwhile, "so is the one of meanwhile", f"after {took:.1f} s" if meanwhile else "not within 60 s")
    others = [cluster.pods("flip", f"app={name}")[0] for name in ("two", "three")]
    answers = [cluster.ask(others[1], pod.addresses[0], 8080)[0] for pod in (one, others[0])]
    results.add(None not in answers, "all of them talk", f"answered in {answers} ms")
    cluster.kubectl("delete", "pods", "-n", "flip", "--all", "--wait", limit=90)


def agent_deleted(cluster, results):
    """An agent's pod is deleted under a stream of a pod of its node."""
    pods, _ = cluster.shop()
    pair = far_pair(pods)
    before = data_paths(cluster, pods)
    addresses = [address for pod in pods for address in pod.addresses]
    stream = Stream(cluster, *pair)
    with Sniffer(cluster) as sniffer, stream:
        for pod in pair:
            cluster.kubectl("delete", "pod", "-n", "tencrypt", cluster.agents()[pod.node].name, "--wait")
            took = cluster.rollout()
    plain = sniffer.plain(addresses, addresses)
    status = json.loads(cluster.agent(pair[0].node, "/bin/tencrypt-node", "status", "--json"))
    adopted = status["node"]["counts"]["adopted"]
    is_good = stream.is_whole and data_paths(cluster, pods) == before and not plain and adopted
    results.add(is_good, f"{AGENT} deleted under a stream", f"{stream.figure}; {len(plain)} frames in plain; ready {took:.1f} s after the end, {adopted} data paths taken over")
