"""The checks of a cluster: one function each, in the order in which they are run. Each makes what it needs, and can be run alone."""

import json
import subprocess

from cluster import CANARY, HERE, Sniffer, run, wait_for

CONNECTIONS = 1_000  # of 4 backends each gets a quarter, with a standard deviation of 1.4 points: 5 are 3.7 of them
ACCOUNT = "system:serviceaccount:tencrypt:tencrypt-node"

# Verb, resource, namespace (`-`: all), and if the agents may.
RIGHTS = [
    *((verb, kind, "-", True) for kind in ("namespaces", "services", "nodes", "endpointslices.discovery.k8s.io") for verb in ("list", "watch")),
    ("list", "pods", "-", True), ("watch", "pods", "-", True),
    *((verb, "secrets/tencrypt-key", "shop", True) for verb in ("list", "watch")),
    ("get", "secrets/other", "shop", False), ("list", "secrets", "shop", False), ("list", "secrets", "-", False),
    ("get", "secrets/tencrypt-key", "default", False), ("get", "secrets/tencrypt-key", "tencrypt", False),
    ("get", "secrets/tencrypt-key", "shop", False), ("get", "namespaces", "-", False), ("patch", "leases.coordination.k8s.io", "kube-node-lease", True),
    ("update", "secrets/tencrypt-key", "shop", False), ("get", "pods", "-", False), ("create", "pods", "-", False), ("delete", "pods", "-", False),
    ("patch", "pods", "-", False), ("create", "pods/exec", "-", False), ("create", "events", "-", True), ("list", "events", "-", False), ("patch", "nodes", "-", False),
    ("list", "configmaps/tencrypt-tenants", "tencrypt", True), ("list", "configmaps", "tencrypt", False), ("get", "configmaps/tencrypt-node", "tencrypt", False), ("patch", "namespaces", "-", False), ("create", "serviceaccounts/token", "-", False),
]


class Results:
    """The results so far."""

    def __init__(self):
        self.ok = self.failed = 0

    def add(self, is_good, name, figure):
        """Prints a row of the table."""
        self.ok, self.failed = self.ok + bool(is_good), self.failed + (not is_good)
        print(f"{'ok' if is_good else 'failed':7} {name:40} {figure}", flush=True)


def installation(cluster, results):
    """The agents come, and the plugin stands last in each node's network configuration."""
    took = cluster.install()
    agents = cluster.agents()
    chains = [plugins(cluster, node) for node in cluster.nodes]
    is_good = sorted(agents) == cluster.nodes and all(chain and chain[-1].startswith("tencrypt-cni-") for chain in chains)
    results.add(is_good, "agents are ready, the plugin stands", f"{len(agents)} of {len(cluster.nodes)} nodes, {took:.0f} s more; {' -> '.join(chains[0])}")


def plugins(cluster, node):
    """The types of the plugins in the first network configuration of a node."""
    text = cluster.node(node, "sh", "-c", "cat $(ls /etc/cni/net.d/*.conflist | head -n 1)")
    return [plugin["type"] for plugin in json.loads(text)["plugins"]]


def rights(cluster, results):
    """The agents have the rights that they need, and no others."""
    cluster.enrol("shop")
    wrong = []
    for verb, kind, namespace, expected in RIGHTS:
        where = ["--all-namespaces"] if namespace == "-" else ["-n", namespace]
        command = [*cluster.kubectl_words, "auth", "can-i", verb, kind, *where, f"--as={ACCOUNT}", "--quiet"]
        if (subprocess.run(command, capture_output=True, timeout=60).returncode == 0) != expected:
            wrong.append(f"{verb} {kind} {namespace} {'refused' if expected else 'ALLOWED'}")
    figure = f"{sum(row[3] for row in RIGHTS)} allowed, {sum(not row[3] for row in RIGHTS)} refused"
    results.add(not wrong, "rights of the service account", "; ".join(wrong) or figure)
    selector = ["get", "secrets", "-n", "shop", f"--as={ACCOUNT}", "-o", "name"]
    named = cluster.kubectl(*selector, "--field-selector=metadata.name=tencrypt-key").split()
    try:
        every = cluster.kubectl(*selector)
    except RuntimeError:
        every = None
    results.add(named == ["secret/tencrypt-key"] and every is None, "the tenant's key by its name alone", f"by name {named}; without it {every or 'refused'}")


def probes(cluster, results):
    """The kubelet's probes of three kinds pass, and are seen to fail."""
    pods, _ = cluster.shop()
    protected = [cluster.is_protected(pod) for pod in pods]
    restarts = sum(pod.restarts for pod in pods)
    results.add(all(protected), "pods of a Deployment are protected", f"{sum(protected)} of {len(pods)} on {len({pod.node for pod in pods})} nodes")
    results.add(restarts == 0, "probes pass", f"startup by TCP, liveness by HTTP, readiness by exec: {len(pods)} pods ready, {restarts} restarts")
    pod = cluster.pod("shop", "probed")
    cluster.kubectl("exec", "-n", "shop", pod.name, "--", "/bin/sh", "-c", ": > /tmp/unready")
    state = lambda: cluster.pods("shop", "app=probed")[0].is_ready
    unready, took = wait_for(lambda: not state(), 20)
    cluster.kubectl("exec", "-n", "shop", pod.name, "--", "/bin/sh", "-c", "busybox rm /tmp/unready")
    again, more = wait_for(state, 20)
    results.add(unready and again, "a probe that fails is seen", f"not ready after {took:.1f} s, ready again after {more:.1f} s")
    cluster.kubectl("delete", "pod", "-n", "shop", pod.name, "--wait")


def ciphertext(cluster, results):
    """Sniffers between the nodes and at the pods' ends see nothing but records between pods of a tenant; those of open pods they read."""
    pods, service = cluster.shop()
    cluster.open_namespace("open")
    one = cluster.pod("open", "one", cluster.nodes[0])
    other = cluster.pod("open", "other", cluster.nodes[-1])
    path = f"/{CANARY}"
    with Sniffer(cluster) as sniffer:
        answered, _ = cluster.ask(one, other.addresses[0], 8080, path=path)
    frames = sniffer.plain(one.addresses, other.addresses)
    read = sum(frame["canary"] for frame in frames)
    results.add(answered is not None and read, "control: open pods are read", f"{len(frames)} frames in plain, {read} with the canary, {sniffer.lost} lost")
    asked = [(pod, target.addresses[0], 8080) for pod in pods for target in pods if pod is not target] + [(pod, service, 80) for pod in pods]
    with Sniffer(cluster) as sniffer:
        answers = [cluster.ask(*question, path=path)[0] for question in asked]
    addresses = [address for pod in pods for address in pod.addresses]
    frames = sniffer.plain([*addresses, service], [*addresses, service])
    canaries = sum(frame["canary"] for seen in sniffer.frames for frame in seen)
    between, ends = sniffer.records(addresses)
    is_good = None not in answers and not frames and not canaries and between and ends and not sniffer.lost
    figure = f"{len(answers) - answers.count(None)} of {len(answers)} answered; {between} records between nodes and {ends} at pods, {len(frames)} other frames, canary {canaries} times, {sniffer.lost} lost"
    results.add(is_good, "pods of a tenant: UDP 8362 alone", figure)


def balancing(cluster, results):
    """Connections to a Service with another target port go to each of its four backends."""
    _, service = cluster.shop()
    client = cluster.pod("shop", "client")
    lines = run(cluster.in_pod(client, "balance", service, "80", "/hostname", str(CONNECTIONS)), limit=240).splitlines()
    counts = {words[2]: int(words[1]) for words in map(str.split, lines) if words[0] == "from" and len(words) == 3}
    shares = {name: count * 100 / CONNECTIONS for name, count in counts.items()}
    is_good = len(shares) == 4 and all(abs(share - 25) <= 5 for share in shares.values()) and sum(counts.values()) == CONNECTIONS
    spread = ", ".join(f"{share:.1f} %" for share in sorted(shares.values()))
    results.add(is_good, "a Service's four backends", f"{sum(counts.values())} of {CONNECTIONS} connections answered, port 80 to 8080: {spread}")
    cluster.kubectl("delete", "pod", "-n", "shop", client.name, "--wait")


def outsiders(cluster, results):
    """Pods without a tenant and of another one get no answer from a tenant's, and the other way round."""
    pods, service = cluster.shop()
    cluster.enrol("bank")
    cluster.open_namespace("open")
    for namespace in ("open", "bank"):
        one = cluster.pod(namespace, "one", cluster.nodes[0])
        other = cluster.pod(namespace, "other", cluster.nodes[-1])
        control, _ = cluster.ask(one, other.addresses[0], 8080)
        targets = [(pods[0].addresses[0], 8080), (pods[-1].addresses[0], 8080), (service, 80)]
        targets += [(address, 8080) for address in pods[0].addresses[1:]]
        answers = [cluster.ask(one, *target, limit=3) for target in targets]
        back = cluster.ask(pods[0], one.addresses[0], 8080, limit=3) if namespace == "bank" else (None, "not asked")
        is_good = control is not None and not any(took is not None for took, _ in (*answers, back))
        errors = ", ".join(sorted({error for _, error in answers}))
        name = "pods without a tenant are refused" if namespace == "open" else "another tenant's pods are refused"
        results.add(is_good, name, f"control answered in {control} ms; {len(answers)} addresses: {errors}; back: {back[1]}")


def refused(cluster, results):
    """A namespace whose label names a tenant that does not admit it: its pods do not start. One without a label is open."""
    cluster.enrol("shop")
    cluster.open_namespace("intruder")
    cluster.kubectl("label", "--overwrite", "namespace", "intruder", "tencrypt.io/tenant=shop")
    try:
        cluster.pod("intruder", "web", limit=20)
        started = True
    except RuntimeError:
        started = False
    events = cluster.kubectl("get", "events", "-n", "intruder", "-o", "jsonpath={.items[*].message}")
    said = "tencrypt-cni" in events
    results.add(not started and said, "a label that the tenant does not admit", f"{'STARTED' if started else 'not started in 20 s'}; the event names the plugin: {said}")
    cluster.kubectl("label", "namespace", "intruder", "tencrypt.io/tenant-")
    try:
        _, took = cluster.ready_pods("intruder", 1, "app=web", 120)
        results.add(True, "without the label it starts", f"after {took:.0f} s")
    except RuntimeError as error:
        results.add(False, "without the label it starts", str(error))
    cluster.kubectl("delete", "namespace", "intruder", "--wait", limit=120)


def uninstall(cluster, results):
    """Takes everything away: no closed pod, no plugin, no data path, and the tenant's pods talk in plain."""
    pods, service = cluster.shop()
    environment = cluster.environment()
    done = subprocess.run([f"{HERE}/../../deploy/uninstall"], env=environment, capture_output=True, text=True, timeout=400)
    said = [line for line in done.stdout.splitlines() if line.endswith(" opened")]
    results.add(done.returncode == 0, "uninstall", "; ".join(said) or done.stderr.strip())
    look = 'for p in /var/lib/tencrypt/tencrypt-*; do $p list; break; done; ps -eo args | grep -c "^/var/lib/tencrypt/tencryp[t]"; true'
    lists = [cluster.node(node, "sh", "-c", look).split("\n")[:2] for node in cluster.nodes]
    chains = [plugins(cluster, node) for node in cluster.nodes]
    is_gone = not any(kind.startswith("tencrypt") for chain in chains for kind in chain)
    results.add(all(found == ["no tunnels", "0"] for found in lists), "no closed pod and no data path", f"tencrypt list and processes: {lists}")
    results.add(is_gone, "no plugin", " -> ".join(chains[0]))
    with Sniffer(cluster) as sniffer:
        answers = [cluster.ask(pods[0], target.addresses[0], 8080, path=f"/{CANARY}")[0] for target in pods[1:]]
        by_name, _ = cluster.ask(pods[0], service, 80)
    addresses = [address for pod in pods for address in pod.addresses]
    frames = sniffer.plain(addresses, addresses)
    is_plain = None not in (*answers, by_name) and sum(frame["canary"] for frame in frames) and not any(sniffer.records(addresses))
    results.add(is_plain, "traffic is in plain again", f"answered in {answers} ms, Service in {by_name} ms; {len(frames)} frames in plain")
    new = cluster.pod("shop", "new")
    took, _ = cluster.ask(new, pods[0].addresses[0], 8080)
    results.add(took is not None, "new pods start and talk", f"answered in {took} ms")


import answers  # noqa: E402
import away  # noqa: E402
import live  # noqa: E402
import rolling  # noqa: E402
import services  # noqa: E402
import strays  # noqa: E402
import tenants  # noqa: E402
import verify  # noqa: E402

ALL = [
    answers.answers, installation, rights, probes, ciphertext, balancing, outsiders, refused, verify.verified,
    live.key_rotated, live.label, live.agent_deleted, *rolling.ALL, *away.ALL,
    *services.ALL, *tenants.ALL, *strays.ALL, uninstall,
]
