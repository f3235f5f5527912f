"""Checks of pods outside of the tunnel: those that may be, and those that are protected late, deleted, or kept away."""

import json

from cluster import AGENT, DEPLOY, script, wait_for

TAINT = "tencrypt.io/startup"


def listed(cluster, node, name):
    """Names in a list of an agent's `status`."""
    status = json.loads(cluster.agent(node, "/bin/tencrypt-node", "status", "--json"))
    return [stray["name"] for stray in status["node"][name]]


def events(cluster, pod):
    """The reasons of a pod's events that are tencrypt's."""
    found = cluster.get("events", "-n", pod.namespace, "--field-selector", f"involvedObject.uid={pod.document['metadata']['uid']}")
    return sorted(event["reason"] for event in found if event.get("source", {}).get("component") == AGENT)


def write_tenant(cluster, name, text):
    """Writes a tenant's file."""
    data = {"data": {f"{name}.toml": text}}
    cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-tenants", "--type", "merge", "-p", json.dumps(data))


def stay_out(cluster, results):
    """A pod stays in plain by its annotation where its tenant lets it, and is protected when that is taken off."""
    cluster.enrol("stay")
    node = cluster.nodes[0]
    write_tenant(cluster, "stay", 'namespaces = ["stay"]\npods_may_opt_out = true\n')
    wait_for(lambda: False, 1)  # until the agents have heard of it
    metadata = {"name": "out", "namespace": "stay", "labels": {"app": "out"}, "annotations": {"tencrypt.io/protect": "false"}}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": cluster.spec(node)})
    (pod,), _ = cluster.ready_pods("stay", 1, "app=out", 60)
    inside = cluster.pod("stay", "in", node)
    told, took = wait_for(lambda: events(cluster, pod) == ["OutsideTenant"], 30)
    is_listed = listed(cluster, node, "outside") == ["stay/out"]
    is_out = not cluster.is_protected(pod) and cluster.is_protected(inside)
    results.add(bool(told) and is_listed and is_out, "a pod stays out by its annotation", f"told after {took:.1f} s: {events(cluster, pod)}")
    cluster.kubectl("annotate", "pod", "-n", "stay", "out", "tencrypt.io/protect-")
    done, took = wait_for(lambda: cluster.is_protected(pod), 30)
    answer, _ = cluster.ask(inside, pod.addresses[0], 8080)
    results.add(bool(done) and answer is not None, "without it, it is protected where it runs", f"after {took:.1f} s, answered in {answer} ms, restarts {pod.restarts}")
    cluster.kubectl("delete", "namespace", "stay", "--wait", limit=120)


def unnoted(cluster, results):
    """A pod that runs is protected when its namespace gets a label, though the runtime's note of it is gone."""
    cluster.enrol("late")
    cluster.kubectl("label", "namespace", "late", "tencrypt.io/tenant-")
    node = cluster.nodes[0]
    pod, _ = wait_for(lambda: (lambda made: None if cluster.is_protected(made) else made)(cluster.pod("late", "old", node)), 60)
    hide = 'cd /var/lib/cni/results && for f in $(grep -lwF "$1" *); do mv "$f" "/tmp/$f" && echo "$f"; done'
    hidden = cluster.node(node, "sh", "-c", hide, "sh", pod.addresses[0]).split()
    try:
        cluster.kubectl("label", "namespace", "late", "tencrypt.io/tenant=late")
        done, took = wait_for(lambda: cluster.is_protected(pod), 60)
        other = cluster.pod("late", "new", cluster.nodes[-1])
        answer, _ = cluster.ask(other, pod.addresses[0], 8080)
        told, _ = wait_for(lambda: events(cluster, pod) == ["ProtectedLate"], 30)
        is_good = len(hidden) == 1 and done and answer is not None and told
        results.add(bool(is_good), "a pod is found by its processes", f"{len(hidden)} notes hidden, protected after {took:.1f} s, answered in {answer} ms, told {events(cluster, pod)}")
    finally:
        for name in hidden:
            cluster.node(node, "mv", f"/tmp/{name}", f"/var/lib/cni/results/{name}")
    cluster.kubectl("delete", "namespace", "late", "--wait", limit=120)


def with_settings(cluster, lines):
    """Has the agents run with further settings of the cluster; returns the settings of before."""
    config = json.loads(cluster.kubectl("get", "configmap", "-n", "tencrypt", "tencrypt-node", "-o", "json"))
    before = config["data"]["node.toml"]
    restart(cluster, before.replace("[kubernetes]\n", f"[kubernetes]\n{lines}"))
    return before


def restart(cluster, text):
    """Has the agents run with these settings."""
    patch = json.dumps({"data": {"node.toml": text}})
    cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-node", "--type", "merge", "-p", patch)
    cluster.kubectl("rollout", "restart", "-n", "tencrypt", f"daemonset/{AGENT}")
    cluster.rollout()


def repaired(cluster, results):
    """A pod that cannot be protected where it runs is deleted by the policy, and its controller makes another; a taint is taken off."""
    cluster.enrol("mend")
    for file in ("repair/delete.yaml", "startup-taint/role.yaml"):
        cluster.kubectl("apply", "-f", "-", stdin=script(DEPLOY, file))
    node = cluster.nodes[0]
    other = "example.org/other"
    cluster.kubectl("taint", "node", node, f"{TAINT}=:NoSchedule", f"{other}=:PreferNoSchedule")
    before = with_settings(cluster, f'repair = "delete"\nstartup_taint = "{TAINT}"\n')
    try:
        keys = lambda: [taint["key"] for taint in cluster.get("nodes")[0]["spec"].get("taints", [])]
        done, took = wait_for(lambda: keys() == [other], 60)
        results.add(bool(done), "the startup taint is taken off, another stays", f"after {took:.1f} s: {keys()}")
        stray(cluster, results, node)
    finally:
        cluster.kubectl("taint", "node", node, f"{other}-")
        restart(cluster, before)
        for kind in ("clusterrolebinding", "clusterrole"):
            cluster.kubectl("delete", kind, "tencrypt-node-repair-delete", "tencrypt-node-startup-taint")
    cluster.kubectl("delete", "namespace", "mend", "--wait", limit=120)


def stray(cluster, results, node):
    """Makes a pod in plain that nothing leads to, and waits for the one in its place."""
    cluster.kubectl("label", "namespace", "mend", "tencrypt.io/tenant-")
    labels = {"app": "lost"}
    template = {"metadata": {"labels": labels}, "spec": cluster.spec(node)}
    for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
        del template["spec"]["containers"][0][probe]
    spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}

    def made():
        """Makes the Deployment until its pod is open: the agents hear of the label a moment later."""
        cluster.kubectl("delete", "deployment", "-n", "mend", "lost", "--ignore-not-found", "--wait")
        wait_for(lambda: not cluster.pods("mend", "app=lost"), 60)
        cluster.apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "lost", "namespace": "mend"}, "spec": spec})
        pod = cluster.ready_pods("mend", 1, "app=lost", 60)[0][0]
        return None if cluster.is_protected(pod) else pod

    pod, _ = wait_for(made, 120)
    # Neither notes nor processes lead to a namespace that has not the pod's addresses.
    cluster.node(node, "nsenter", f"--net={cluster.namespace_of(pod)}", "ip", "address", "flush", "dev", "eth0")
    cluster.kubectl("label", "namespace", "mend", "tencrypt.io/tenant=mend")

    def replaced():
        pods = [found for found in cluster.pods("mend", "app=lost") if found.name != pod.name and found.is_ready]
        return pods and cluster.is_protected(pods[0])

    done, took = wait_for(replaced, 120)
    told = events(cluster, pod)
    results.add(bool(done) and told == ["Unprotected"], "a pod that nothing leads to is deleted, the next one protected", f"after {took:.1f} s, told {told}")


ALL = [stay_out, unnoted, repaired]
