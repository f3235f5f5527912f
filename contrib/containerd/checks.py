"""The checks of the plugin and the agent: one function each, in the order in which they are run."""

import glob
import json
import os
import signal
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import cri
import node as lab
from node import wait_for

ROUNDS = 7


class Results:
    """The results so far."""

    def __init__(self):
        self.ok = self.failed = 0

    def add(self, is_good, name, figures):
        """Prints a result."""
        self.ok, self.failed = self.ok + bool(is_good), self.failed + (not is_good)
        print(f"{'ok' if is_good else 'FAILED'} {name}: {figures}", flush=True)
        return is_good


def seconds(values):
    """Median and worst of some times."""
    return f"{statistics.median(values):.3f} s, worst {max(values):.3f} s" if values else "none"


def times_of(node, namespace, is_fine=lambda pod: True):
    """The times that sandboxes take, one after the other, to be made and to be removed; and how many were fine."""
    made, removed, fine = [], [], 0
    for _ in range(ROUNDS):
        pod = node.make(namespace)
        fine += is_fine(pod)
        made.append(pod.took)
        removed.append(node.remove(pod))
    return made, removed, fine


def difference(before, now):
    """What is not as it was."""
    return {key: f"{before[key]} -> {now[key]}" for key in before if before[key] != now[key]}


def without_the_plugin(node, results):
    """Times of a sandbox before there is an agent."""
    node.remove(node.make("default"))
    made, removed, _ = times_of(node, "shop")
    node.baseline = made
    results.add(True, "sandbox without tencrypt", f"made in {seconds(made)}; removed in {seconds(removed)}")


def installation(node, results):
    """The agent installs the plugin."""
    took = node.start_agent()

    def stands():
        with open(node.conflist, encoding="utf-8") as text:
            plugins = json.load(text)["plugins"]
        return plugins if plugins[-1]["type"].startswith("tencrypt-cni-") else None

    plugins, later = wait_for(stands, 5)
    kinds = [plugin["type"] for plugin in plugins or []]
    program = os.path.join(node.plugins, kinds[-1]) if kinds else ""
    is_good = kinds[:-1] == ["bridge"] and os.access(program, os.X_OK)
    results.add(is_good, "installation", f"{' -> '.join(kinds)}; agent ready after {took:.3f} s, entry {later:.3f} s later")
    ready, _ = wait_for(lambda: cri.conditions().get("NetworkReady"), 5, 0.1)
    results.add(ready, "network is ready with the plugin", f"conditions {cri.conditions()}")


def one_pod(node, results):
    """A pod of an enrolled namespace, an open one, one that nobody knows; the end of each."""
    before = node.census()
    made, removed, fine = times_of(node, "shop", node.is_protected)
    more = statistics.median(made) - statistics.median(node.baseline)
    results.add(fine == ROUNDS, "enrolled pod", f"{fine} of {ROUNDS} protected when RunPodSandbox returned; made in {seconds(made)}, {more * 1000:.0f} ms more; removed in {seconds(removed)}")
    made, _, fine = times_of(node, "default", lambda pod: not node.is_protected(pod) and not node.traces(pod.id))
    results.add(fine == ROUNDS, "open pod", f"{fine} of {ROUNDS} without a data path; made in {seconds(made)}")
    try:
        node.make("nobody")
        results.add(False, "unknown namespace", "its pod was started")
    except cri.CallError as error:
        results.add("nobody says if namespace nobody" in str(error), "unknown namespace", f"refused: {error}")
    node.remove_all()
    pod = node.make("shop")
    had = node.traces(pod.id)
    cri.stop_sandbox(pod.sandbox)
    at_once = [path for path in (*node.traces(pod.id), pod.path) if os.path.exists(path)]
    cri.remove_sandbox(pod.sandbox)
    gone, took = wait_for(lambda: not node.traces(pod.id) and not os.path.exists(pod.path), 5)
    results.add(gone and had, "removed pod", f"of {len(had)} files and groups {len(at_once)} were left when StopPodSandbox returned, none {took:.3f} s after RemovePodSandbox")
    left = wait_for(lambda: not difference(before, node.census()), 10, 0.1)
    results.add(left[0], "nothing is left of 16 pods", f"{left[1]:.3f} s after the last; {difference(before, node.census()) or 'all counts as before'}")


def fifty(node, results):
    """Fifty pods of two tenants at once."""
    before = node.census()
    found_before = node.metric("tencrypt_found_unprotected_pods_total")
    start = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        pods = list(pool.map(lambda number: node.make("shop" if number % 2 else "bank"), range(50)))
        took = time.monotonic() - start
        asked = node.agent_pods()
        right = sum(asked.get(pod.id, {}).get("state") == "protected" and asked[pod.id]["tenant"] == pod.namespace for pod in pods)
        fine = sum(pool.map(node.is_protected, pods))
        peak = node.census()
        start = time.monotonic()
        list(pool.map(node.remove, pods))
        removed = time.monotonic() - start
    results.add(right == fine == 50, "50 pods at once", f"{fine} protected, {right} of the right tenant; the last after {took:.1f} s; each made in {seconds([pod.took for pod in pods])}; {peak}")
    left = wait_for(lambda: not difference(before, node.census()), 15, 0.1)
    results.add(left[0], "50 pods removed", f"in {removed:.1f} s, all counts as before {left[1]:.3f} s later {difference(before, node.census()) or ''}")
    found = node.metric("tencrypt_found_unprotected_pods_total") - found_before
    results.add(found == 0, "no pod was taken for one without protection", f"{found} found unprotected")


def failing_agent(node, results):
    """An agent that is stopped or dead: enrolled pods wait, open ones do not."""

    def attempt(namespace):
        start = time.monotonic()
        try:
            pod = node.make(namespace)
            node.remove(pod)
            return None, pod.took
        except cri.CallError as error:
            return str(error), time.monotonic() - start

    def both(name):
        refused, took = attempt("shop")
        opened, open_took = attempt("default")
        is_good = refused and "tencrypt-cni" in refused and opened is None and took < 12
        more = open_took - statistics.median(node.baseline)
        results.add(is_good, name, f"enrolled: {took:.3f} s, {refused}; open: {opened or 'started'} in {open_took:.3f} s, {more * 1000:.0f} ms more")

    node.agent.send_signal(signal.SIGSTOP)
    both("agent stopped")
    node.agent.send_signal(signal.SIGCONT)
    refused, took = attempt("shop")
    results.add(refused is None, "agent goes on", f"{refused or 'started'} in {took:.3f} s")
    node.end_agent(signal.SIGKILL)
    both("agent killed")
    ready = node.start_agent()
    refused, took = attempt("shop")
    results.add(refused is None, "agent is back", f"ready after {ready:.3f} s; {refused or 'started'} in {took:.3f} s")
    node.remove_all()


def dead_pause(node, results):
    """The sandbox's process is killed; the kubelet then stops the sandbox and makes another of the same pod."""
    before = node.census()
    pod = node.make("shop", "dead-0")
    os.kill(pod.pid, signal.SIGKILL)
    noticed = wait_for(lambda: not cri.sandboxes().get(pod.sandbox), 10, 0.05)
    closed = node.is_protected(pod)
    cri.stop_sandbox(pod.sandbox)
    again = node.make("shop", "dead-0", 1)
    is_new = again.id != pod.id and node.is_protected(again)
    cri.remove_sandbox(pod.sandbox)
    results.add(noticed[0] and is_new, "pause killed", f"noticed after {noticed[1]:.3f} s, data path {'goes on' if closed else 'ended'} until DEL; the pod again in {again.took:.3f} s, in another namespace, protected")
    gone = wait_for(lambda: not node.traces(pod.id), 10)
    results.add(gone[0], "of the dead sandbox nothing is left", f"{gone[1]:.3f} s after ADD {node.traces(pod.id) or ''}")
    node.remove(again)
    left = wait_for(lambda: not difference(before, node.census()), 10, 0.1)
    results.add(left[0], "nothing is left of both", f"{difference(before, node.census()) or 'all counts as before'}")


import overwriting  # noqa: E402
import traffic  # noqa: E402

NEEDED_BY_ALL = [without_the_plugin, installation]
ALL = [
    without_the_plugin, installation, one_pod, fifty, traffic.two_tenants, failing_agent, dead_pause,
    overwriting.overwritten, overwriting.overwritten_while_away, traffic.address_reused, traffic.agent_restarted,
]
