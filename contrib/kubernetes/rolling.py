"""Checks of rolling updates, and of agents that are killed, stopped, or run out of memory: each under `Load`."""

import json

from cluster import AGENT, wait_for
from live import data_paths
from load import ECHO, Load, echo_container

LIMIT = "6Mi"  # of an agent that is to run out of memory
STOPPED = 10  # seconds
AGENT_COMMAND = "^/bin/tencrypt-node run"


def steady(cluster):
    """Two pods of the tenant on different nodes, if there are, which no update ends."""
    cluster.enrol("shop")
    return [cluster.pod("shop", name, node) for name, node in (("steady-one", cluster.nodes[0]), ("steady-other", cluster.nodes[-1]))]


def clean(cluster, namespace, *names):
    """Deletes pods."""
    cluster.kubectl("delete", "pod", "-n", namespace, *names, "--ignore-not-found", "--wait", limit=90)


def addresses_of(*groups):
    """The addresses of pods."""
    return {address for pods in groups for pod in pods for address in pod.addresses}


def echoes(cluster):
    """A Deployment of four pods that echo, behind a Service: its pods, and the Service's address."""
    labels = {"app": "echo"}
    spec = cluster.spec()
    spec["containers"].append(echo_container(cluster))
    spec["terminationGracePeriodSeconds"] = 3
    meta = {"name": "echo", "namespace": "shop"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": {"replicas": 4, "selector": {"matchLabels": labels}, "template": template}},
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": labels, "ports": [{"port": ECHO, "targetPort": ECHO}]}},
    )
    pods, _ = cluster.ready_pods("shop", 4, "app=echo", 150)
    wait_for(lambda: False, 2)  # until the agents know of them
    return pods, json.loads(cluster.kubectl("get", "service", "-n", "shop", "echo", "-o", "json"))["spec"]["clusterIP"]


def end_echoes(cluster):
    """Takes Deployment and Service away."""
    cluster.kubectl("delete", "-n", "shop", "deployment/echo", "service/echo", "--ignore-not-found", "--wait")
    wait_for(lambda: not cluster.pods("shop", "app=echo"), 60)


def rolling_deployment(cluster, results):
    """A Deployment behind a Service is replaced pod by pod, under streams of others and connections to it."""
    pair = steady(cluster)
    before, service = echoes(cluster)
    try:
        with Load(cluster, pair, service) as load:
            wait_for(lambda: False, 3)
            cluster.kubectl("rollout", "restart", "-n", "shop", "deployment/echo")
            cluster.kubectl("rollout", "status", "-n", "shop", "deployment/echo", "--timeout=120s", limit=130)
            after, took = cluster.ready_pods("shop", 4, "app=echo")
            wait_for(lambda: False, 3)
        ended = {pod.name for pod in before}
        others, rounds = load.rounds.lost_of_others(ended), load.rounds
        figure = f"{len(rounds.lost)} connections ended with their pods, {len(others)} of others {others or ''}, {len(rounds.unmade)} not made, {len(rounds.held)} held at the end"
        is_good = not others and rounds.lost and len(rounds.held) and {words[1] for words in rounds.held} <= {pod.name for pod in after}
        load.judge(results, "rolling update of a Deployment", addresses_of(pair, before, after) | {service}, is_good, figure)
    finally:
        end_echoes(cluster)
        clean(cluster, "shop", *(pod.name for pod in pair))


def under_load(cluster, results, name, act):
    """Does something to agents under load: data paths are the same after it, connections are held, nothing is in plain."""
    pair = steady(cluster)
    pods, service = echoes(cluster)
    everybody = [*pair, *pods]
    try:
        before = data_paths(cluster, everybody)
        with Load(cluster, pair, service) as load:
            wait_for(lambda: False, 2)
            is_good, figure = act()
            wait_for(lambda: False, 2)
        known, _ = wait_for(lambda: data_paths(cluster, everybody) == before, 30)
        rounds = load.rounds
        lost = [" ".join(words[1:]) for words in (*rounds.lost, *rounds.unmade)]
        told = f"{figure}; {'the same' if known else 'OTHER'} data paths; {len(lost)} of {len(rounds.held)} connections lost {lost or ''}"
        is_good = is_good and known and rounds.held and not rounds.lost and not rounds.unmade and all(pid for pid, _ in before)
        load.judge(results, name, addresses_of(everybody) | {service}, is_good, told)
    finally:
        end_echoes(cluster)
        clean(cluster, "shop", *(pod.name for pod in pair))


def adopted(cluster):
    """How many data paths the agents that run now have taken over, by node."""
    return {node: json.loads(cluster.agent(node, "/bin/tencrypt-node", "status", "--json"))["node"]["counts"]["adopted"] for node in cluster.nodes}


def nothing(cluster, results):
    """Nothing happens: what the load and the machine alone do to a stream. The others' silences are to be read beside this one."""
    cluster.enrol("shop")
    under_load(cluster, results, "control: nothing happens", lambda: (wait_for(lambda: False, 15) and True, "15 s"))


def rolling_agent(cluster, results):
    """The DaemonSet's pods are replaced, node by node."""
    cluster.enrol("shop")

    def act():
        before = {pod.name for pod in cluster.agents().values()}
        cluster.kubectl("rollout", "restart", "-n", "tencrypt", f"daemonset/{AGENT}")
        took = cluster.rollout()
        after = {pod.name for pod in cluster.agents().values()}
        counts = adopted(cluster)
        return not before & after and all(counts.values()), f"{len(after)} agents in {took:.1f} s, took over {list(counts.values())} data paths"

    under_load(cluster, results, "rolling update of the DaemonSet", act)


def agent_state(cluster, node):
    """The agent's container as the API tells of it."""
    statuses = cluster.agents()[node].document["status"].get("containerStatuses") or [{}]
    return statuses[0]


def agent_process(cluster, node):
    """The process of a node's agent."""
    found = cluster.node(node, "pgrep", "-f", AGENT_COMMAND).split()
    if len(found) != 1:
        raise RuntimeError(f"{node}: processes of the agent: {found}")
    return found[0]


def agent_killed(cluster, results):
    """The agents' processes are killed (SIGKILL)."""
    cluster.enrol("shop")

    def act():
        times = []
        for node in cluster.nodes:
            restarts = agent_state(cluster, node)["restartCount"]
            cluster.node(node, "kill", "-KILL", agent_process(cluster, node))
            is_new = lambda: agent_state(cluster, node).get("restartCount", 0) > restarts and cluster.agents()[node].is_ready
            done, took = wait_for(is_new, 90)
            times.append(f"{took:.1f} s" if done else "NOT within 90 s")
        counts = adopted(cluster)
        return "NOT" not in " ".join(times) and all(counts.values()), f"ready again after {', '.join(times)}, took over {list(counts.values())} data paths"

    under_load(cluster, results, "agents killed (SIGKILL)", act)


def agent_stopped(cluster, results):
    """An agent stands still (SIGSTOP) for 10 seconds: pods of its node go on, and a new one waits for it."""
    cluster.enrol("shop")
    node = cluster.nodes[0]

    def act():
        restarts = agent_state(cluster, node)["restartCount"]
        process = agent_process(cluster, node)
        cluster.node(node, "kill", "-STOP", process)
        try:
            metadata = {"name": "waiting", "namespace": "shop", "labels": {"app": "waiting"}}
            cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": cluster.spec(node)})
            early, _ = wait_for(lambda: cluster.pods("shop", "app=waiting")[0].is_ready, STOPPED)
        finally:
            cluster.node(node, "kill", "-CONT", process)
        (pod,), took = cluster.ready_pods("shop", 1, "app=waiting", 60)
        protected = cluster.is_protected(pod)
        clean(cluster, "shop", "waiting")
        state = agent_state(cluster, node)
        is_good = not early and protected and state["restartCount"] == restarts and process == agent_process(cluster, node)
        return is_good, f"{STOPPED} s; a new pod {'STARTED' if early else 'waited'}, ready {took:.1f} s after, {'' if protected else 'NOT '}protected; {state['restartCount'] - restarts} restarts"

    under_load(cluster, results, "an agent stopped (SIGSTOP)", act)


def agent_out_of_memory(cluster, results):
    """The agents get a limit that is too low for them: the kernel kills the first one that has it, and it is taken away again."""
    cluster.enrol("shop")

    def memory(limit):
        container = {"name": AGENT, "resources": {"limits": {"memory": limit}, "requests": {"memory": limit}}}
        patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
        cluster.kubectl("patch", "daemonset", "-n", "tencrypt", AGENT, "--type", "strategic", "-p", json.dumps(patch))

    def killed():
        for node in cluster.nodes:
            state = agent_state(cluster, node)
            for part in (*state.get("state", {}).values(), *state.get("lastState", {}).values()):
                if part.get("reason") == "OOMKilled":
                    return node
        return None

    def act():
        memory(LIMIT)
        try:
            said, took = wait_for(killed, 60)
            states = "" if said else str([agent_state(cluster, node).get("state") for node in cluster.agents()])
        finally:
            cluster.kubectl("rollout", "undo", "-n", "tencrypt", f"daemonset/{AGENT}")
            # The one that waits longer and longer between its starts is replaced at once.
            back = cluster.rollout()
        # The update does not come to the other nodes before the first is ready: their agents are the ones of before.
        counts = adopted(cluster)
        how = f"OOMKilled on {said}" if said else f"NOT OOMKilled within 60 s: {states}"
        return said and counts[said], f"limit {LIMIT}: {how} after {took:.0f} s; without it ready {back:.1f} s later, took over {list(counts.values())} data paths"

    under_load(cluster, results, "an agent out of memory", act)


ALL = [nothing, rolling_deployment, rolling_agent, agent_killed, agent_stopped, agent_out_of_memory]
