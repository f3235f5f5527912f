"""The cluster as the checks see it: by kubectl, and by commands in its nodes."""

import ast
import base64
import json
import os
import shlex
import subprocess
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
DEPLOY = f"{HERE}/../../deploy"
AGENT = "tencrypt-node"
CANARY = "canary-of-tencrypt-5f0e"


def wait_for(what, limit, pause=0.5):
    """Waits until `what` returns something true, and returns it with the seconds that it took; the last answer after `limit` seconds."""
    start = time.monotonic()
    while True:
        found = what()
        took = time.monotonic() - start
        if found or took > limit:
            return found, took
        time.sleep(pause)


def run(command, stdin="", limit=60):
    """Runs a command with a text as its input, and returns its output. Another exit code than 0 is an error, and more seconds than `limit`."""
    named = " ".join(word for word in command if "\n" not in word)
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=limit, text=True)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{named}: not done within {limit} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{named}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def start(command, limit=30):
    """Starts a program that says `ready`, and goes on until its input ends."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    timer = threading.Timer(limit, process.kill)
    timer.start()
    line = process.stdout.readline()
    timer.cancel()
    if line != "ready\n":
        process.stdin.close()
        raise RuntimeError(f"a program in a pod or node does not begin: {line.strip() or 'nothing said'}")
    return process


def script(folder, name):
    """The text of a program that nodes are handed."""
    with open(f"{folder}/{name}", encoding="utf-8") as text:
        return text.read()


class Pod:
    """A pod as the API tells of it."""

    def __init__(self, document):
        self.document = document
        self.name, self.namespace = document["metadata"]["name"], document["metadata"]["namespace"]
        status = document.get("status", {})
        self.addresses = [entry["ip"] for entry in status.get("podIPs", [])]
        self.node = document["spec"].get("nodeName")
        self.restarts = sum(entry["restartCount"] for entry in status.get("containerStatuses", []))
        conditions = {entry["type"]: entry["status"] for entry in status.get("conditions", [])}
        self.is_ready = conditions.get("Ready") == "True" and "deletionTimestamp" not in document["metadata"]


class Cluster:
    """kubectl, the nodes, and the programs."""

    def __init__(self, work, binaries, archive):
        self.work, self.binaries, self.archive = work, binaries, archive
        self.kubectl_words = shlex.split(os.environ.get("KUBECTL", "kubectl"))
        self.node_words = shlex.split(os.environ["NODE_EXEC"])
        self.between_words = shlex.split(os.environ["BETWEEN"])
        self.image = os.environ.get("IMAGE", "localhost/pause:1")
        self.plugins = os.environ.get("PLUGINS", "/opt/cni/bin")
        self.ranges = os.environ["RANGES"]
        self.nodes = sorted(item["metadata"]["name"] for item in self.get("nodes"))

    # By kubectl.

    def kubectl(self, *arguments, stdin="", limit=60):
        """Runs kubectl."""
        return run([*self.kubectl_words, *arguments], stdin, limit)

    def get(self, *arguments):
        """The items of a kind."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))["items"]

    def apply(self, *documents):
        """Applies documents."""
        self.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}))

    def pods(self, namespace, selector=""):
        """The pods of a namespace."""
        return [Pod(item) for item in self.get("pods", "-n", namespace, "-l", selector)]

    def ready_pods(self, namespace, count, selector="", limit=90):
        """The pods of a namespace once so many are ready, and no others are there."""

        def ready():
            pods = self.pods(namespace, selector)
            return pods if len(pods) == count and all(pod.is_ready for pod in pods) else None

        pods, took = wait_for(ready, limit)
        if not pods:
            events = self.kubectl("get", "events", "-n", namespace, "--sort-by=.lastTimestamp").splitlines()[-3:]
            raise RuntimeError(f"{count} pods of {namespace} are not ready within {limit} s: {'; '.join(events)}")
        return sorted(pods, key=lambda pod: pod.name), took

    # In nodes.

    def node(self, name, *command, stdin="", limit=60):
        """Runs a command in a node."""
        return run(self.command(name, *command), stdin, limit)

    def command(self, name, *command):
        """The command line of a command in a node, which is counted from 1."""
        return [*self.node_words, str(self.nodes.index(name) + 1), *command]

    def namespace_of(self, pod):
        """The file of a pod's network namespace, on its node."""
        look = 'for f in /run/netns/*; do nsenter --net=$f ip -o address 2>/dev/null | grep -qwF "inet $1" && echo $f; done; true'
        found = self.node(pod.node, "sh", "-c", look, "sh", pod.addresses[0]).split()
        if len(found) != 1:
            raise RuntimeError(f"{pod.name}: namespaces {found} have {pod.addresses[0]}")
        return found[0]

    def in_pod(self, pod, *arguments):
        """The command line of `traffic.py` in a pod."""
        inside = ["nsenter", f"--net={self.namespace_of(pod)}", "python3", "-c", script(HERE, "traffic.py")]
        return self.command(pod.node, *inside, *arguments)

    def ask(self, pod, address, port, limit=5, path="/hostname"):
        """Asks a web server from a pod: the milliseconds until it answered and its answer, or none and the error."""
        word, *figures = run(self.in_pod(pod, "ask", address, str(port), path, str(limit)), limit=limit + 30).split()
        return (int(figures[0]), " ".join(figures[1:])) if word == "answered" else (None, figures[0])

    # The agents.

    def agents(self):
        """The agents' pods, by node."""
        return {pod.node: pod for pod in self.pods("tencrypt", f"app.kubernetes.io/name={AGENT}")}

    def agent(self, node, *command):
        """Runs a program of the image beside the agent of a node."""
        return self.kubectl("exec", "-n", "tencrypt", self.agents()[node].name, "-c", AGENT, "--", *command)

    def protected(self, node):
        """What the agent of a node says of its pods, by `NAMESPACE/NAME`."""
        return {pod["name"]: pod for pod in json.loads(self.agent(node, "/bin/tencrypt-node", "pods", "--json"))["pods"]}

    def is_protected(self, pod):
        """Tells if a pod has a data path that protects it."""
        return self.protected(pod.node).get(f"{pod.namespace}/{pod.name}", {}).get("state") == "protected"

    def program(self, *arguments):
        """Runs `tencrypt` on this machine."""
        return run([f"{self.binaries}/tencrypt", *arguments])

    # What the checks begin with.

    def install(self):
        """Imports the image into every node and installs the agents, if they are not there."""
        if self.kubectl("get", "daemonset", "-n", "tencrypt", AGENT, "--ignore-not-found", "-o", "name"):
            return self.rollout()
        with open(self.archive, "rb") as archive:
            content = archive.read()
        for node in self.nodes:
            done = subprocess.run(self.command(node, "ctr", "-n", "k8s.io", "images", "import", "-"), input=content, capture_output=True, timeout=120)
            if done.returncode != 0:
                raise RuntimeError(f"{node}: {done.stderr.decode().strip()}")
        overlay = f"{self.work}/deploy/overlays/checks"
        if not os.path.exists(overlay):
            subprocess.run(["cp", "-r", DEPLOY, f"{self.work}/deploy"], check=True)
            os.makedirs(overlay)
        with open(f"{overlay}/kustomization.yaml", "w", encoding="utf-8") as out:
            # Of kustomize as kubectl 1.20 has it.
            out.write("bases: [../../base]\npatchesStrategicMerge: [daemonset.yaml]\n")
        volume = {"name": "plugins", "hostPath": {"path": self.plugins}}
        patch = {"spec": {"template": {"spec": {"containers": [self.container()], "volumes": [volume]}}}}
        with open(f"{overlay}/daemonset.yaml", "w", encoding="utf-8") as out:
            json.dump({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": AGENT, "namespace": "tencrypt"}, **patch}, out)
        with open(f"{self.work}/deploy/base/pod.toml", "a", encoding="utf-8") as out:
            # There is no DNS in the cluster; tenants' pods call each other by address.
            out.write("[dns]\ncapture = false\n")
        command = [f"{self.work}/deploy/install", "-p", self.ranges, "-o", overlay]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=400)
        if done.returncode != 0:
            raise RuntimeError(f"deploy/install: {done.stderr.strip()}")
        return self.rollout()

    def environment(self):
        """The environment of the scripts of `deploy`."""
        return {**os.environ, "TMPDIR": self.work}

    def container(self):
        """The patch of the agent's container: without the right that a machine may not have to give."""
        container = {"name": AGENT, "imagePullPolicy": "Never"}
        if os.environ.get("WITHOUT"):
            kept = [right for right in ("SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE", "DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "BPF", "SYS_RESOURCE", "SYSLOG") if right not in os.environ["WITHOUT"].split(",")]
            container["securityContext"] = {"capabilities": {"add": kept}}
        return container

    def rollout(self):
        """Waits until the agents are ready, and returns the seconds."""
        start = time.monotonic()
        self.kubectl("rollout", "status", "-n", "tencrypt", f"daemonset/{AGENT}", "--timeout=120s", limit=130)
        return time.monotonic() - start

    def enrol(self, name):
        """Makes a tenant of one namespace, with a key of its own, if it is not there."""
        self.install()
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.kubectl("apply", "-n", name, "-f", "-", stdin=script(f"{DEPLOY}/tenant", "role.yaml"))
        tenants = {"data": {f"{name}.toml": f'namespaces = ["{name}"]\n'}}
        self.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-tenants", "--type", "merge", "-p", json.dumps(tenants))
        if not self.kubectl("get", "secret", "-n", name, "tencrypt-key", "--ignore-not-found", "-o", "name"):
            key = f"{self.work}/{name}.key"
            if not os.path.exists(key):
                self.program("genkey", key)
            self.give_key(name)
        self.kubectl("label", "--overwrite", "namespace", name, f"tencrypt.io/tenant={name}")
        self.forget_default(name)

    def forget_default(self, name):
        """Waits for the service account that pods need."""
        wait_for(lambda: self.kubectl("get", "serviceaccount", "-n", name, "default", "--ignore-not-found", "-o", "name"), 30)

    def give_key(self, name):
        """Puts the tenant's key file into its Secret, in place of the one before."""
        with open(f"{self.work}/{name}.key", "rb") as file:
            key = base64.b64encode(file.read()).decode()
        metadata = {"name": "tencrypt-key", "namespace": name}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": {"tenant.key": key}})

    def take_key(self, name):
        """Writes the tenant's key file as its Secret has it."""
        secret = json.loads(self.kubectl("get", "secret", "-n", name, "tencrypt-key", "-o", "json"))
        with open(f"{self.work}/{name}.key", "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(base64.b64decode(secret["data"]["tenant.key"]))

    def open_namespace(self, name):
        """Makes a namespace without a tenant, if it is not there."""
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        self.forget_default(name)

    def spec(self, node=None):
        """The specification of a pod with a web server at 8080 that answers `/hostname` with the pod's name, and with three probes."""
        http = {"httpGet": {"path": "/hostname", "port": 8080}, "periodSeconds": 2, "failureThreshold": 2}
        container = {
            "name": "web", "image": self.image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/httpd", "-f", "-p", "8080", "-h", "/etc"],
            "readinessProbe": {"exec": {"command": ["/bin/sh", "-c", "! [ -e /tmp/unready ]"]}, "periodSeconds": 2, "failureThreshold": 1},
            "livenessProbe": {**http, "failureThreshold": 5}, "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
        }
        spec = {"containers": [container], "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": False}
        return {**spec, "nodeSelector": {"kubernetes.io/hostname": node}} if node else spec

    def pod(self, namespace, name, node=None, limit=150):
        """Makes a pod anew, and returns it once it is ready."""
        # Kubelet 1.20 takes its time for what its containers leave, up to a minute.
        self.kubectl("delete", "pod", "-n", namespace, name, "--ignore-not-found", "--wait", limit=150)
        metadata = {"name": name, "namespace": namespace, "labels": {"app": name}}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.spec(node)})
        return self.ready_pods(namespace, 1, f"app={name}", limit)[0][0]

    def kept_pod(self, namespace, name, node):
        """A pod that is there and ready, or else a new one."""
        found = [pod for pod in self.pods(namespace, f"app={name}") if pod.is_ready and pod.node == node]
        return found[0] if len(found) == 1 else self.pod(namespace, name, node)

    def shop(self):
        """Four pods of the tenant shop, two a node where there are two, behind a Service of port 80: the pods, and the Service's address."""
        self.enrol("shop")
        labels = {"app": "web"}
        spread = [{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": labels}}]
        template = {"metadata": {"labels": labels}, "spec": {**self.spec(), "topologySpreadConstraints": spread}}
        self.apply(
            {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"replicas": 4, "selector": {"matchLabels": labels}, "template": template}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}},
        )
        pods, _ = self.ready_pods("shop", 4, "app=web", 150)
        service = json.loads(self.kubectl("get", "service", "-n", "shop", "web", "-o", "json"))["spec"]["clusterIP"]
        return pods, service


class Sniffer:
    """Sniffers between the nodes and at the pods' ends of each node, until the end of the `with`."""

    def __init__(self, cluster, nodes=None):
        self.cluster, self.nodes, self.processes = cluster, nodes or cluster.nodes, []

    def __enter__(self):
        # The shell ends it when its own input ends: a signal to whatever NODE_EXEC is would not reach the node.
        end = 'python3 -c "$@" & read -r _; kill $!; wait $!'
        words = ["sh", "-c", end, "sh", *self.program(), CANARY]
        commands = [self.cluster.command(node, *words, "veth") for node in self.nodes]
        for command in [[*self.cluster.between_words, *words, ""], *commands]:
            process, lines = start(command), []
            # It is read all the time: one that waits for its reader sees nothing.
            reader = threading.Thread(target=lambda process=process, lines=lines: lines.extend(process.stdout), daemon=True)
            reader.start()
            self.processes.append((process, reader, lines))
        return self

    def __exit__(self, *_):
        time.sleep(0.5)
        self.frames, self.sealed, self.lost = [], [], 0
        for process, reader, lines in self.processes:
            process.stdin.write("\n")
            process.stdin.close()
            reader.join(30)
            process.wait(30)
            *frames, last = map(ast.literal_eval, lines)
            self.frames.append(frames)
            self.sealed.append({(source, target): count for source, target, count in last["sealed"]})
            self.lost += last["lost"]

    def program(self):
        """The program's text, and what comes before the canary."""
        return script(f"{HERE}/../containerd", "sniff.py"), "/dev/stdout"

    def plain(self, some, others):
        """The frames in plain between addresses of `some` and those of `others`, wherever they were seen."""
        some, others = set(some), set(others)
        is_one = lambda frame: (frame["from"] in some and frame["to"] in others) or (frame["from"] in others and frame["to"] in some)
        return [frame for frames in self.frames for frame in frames if is_one(frame)]

    def records(self, addresses):
        """The datagrams of tencrypt among these addresses: between the nodes, and at the pods' ends."""
        count = lambda sealed: sum(count for pair, count in sealed.items() if set(pair) <= set(addresses))
        return count(self.sealed[0]), sum(map(count, self.sealed[1:]))


class PlainSniffer(Sniffer):
    """Sniffers for much traffic: of tencrypt's datagrams they count how many there are, and of others how many are alike."""

    def program(self):
        return script(HERE, "plain.py"), script(f"{HERE}/../containerd", "sniff.py"), "/dev/stdout"

    def count(self):
        """The datagrams of tencrypt."""
        return sum(count for sealed in self.sealed for count in sealed.values())


class Stream:
    """A TCP connection between two pods, whose bytes are numbers, until the end of the `with`."""

    def __init__(self, cluster, client, server, port=7_000):
        self.taking = start(cluster.in_pod(server, "take", str(port)))
        self.sending = start(cluster.in_pod(client, "send", server.addresses[0], str(port)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        sent, _ = self.sending.communicate(timeout=90)
        took, _ = self.taking.communicate(timeout=90)
        _, self.sent, sending_fault = (sent.split() + ["?"] * 3)[:3]
        _, self.took, taking_fault, silence = (took.split() + ["?"] * 4)[:4]
        self.silence = int(silence) if silence.isdigit() else 1 << 30
        self.is_whole = self.sent == self.took and self.sent not in ("0", "?") and sending_fault == taking_fault == "-"
        self.figure = f"{self.took} of {self.sent} bytes in order, faults {sending_fault} {taking_fault}, longest silence {silence} ms"
