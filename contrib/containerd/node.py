"""A node: containerd, the agent, and what can be seen of both. Everything is in the namespaces that `run` has made."""

import ast
import base64
import ctypes
import glob
import hashlib
import io
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time

import cri

HERE = os.path.dirname(os.path.abspath(__file__))
IMAGE = "localhost/pause:1"
NETWORK = "pods"
BRIDGE = "cni0"
RESULTS = "/var/lib/cni/results"
RUN = "/run/tencrypt"
SUBNETS = ("10.88.0.0/16", "fd00:88::/64")
CANARY = "canary-of-tencrypt-5f0e"
CLONE_NEWNET = 0x40000000

PAUSE = """#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); signal(SIGINT, end); for (;;) pause(); }
"""

CONTAINERD = """version = 2
root = "{work}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  # runc fails without CAP_SYS_RESOURCE otherwise
  restrict_oom_score_adj = true
  sandbox_image = "localhost/pause:1"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{work}/cni/bin"
    conf_dir = "{work}/cni/net.d"
"""


def wait_for(what, limit, pause=0.01):
    """Waits until `what` returns something true, and returns it with the seconds that it took; false after `limit` seconds."""
    start = time.monotonic()
    while True:
        found = what()
        took = time.monotonic() - start
        if found or took > limit:
            return found, took
        time.sleep(pause)


def run(*command, limit=30):
    """Runs a command, and returns its output. An exit code other than 0 is an error."""
    done = subprocess.run(command, capture_output=True, timeout=limit, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def socket_in(path, family, kind, **options):
    """A socket in the network namespace at `path`: it stays there, the thread comes back."""
    made = []

    def make():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(path, "rb") as namespace:
            if libc.setns(namespace.fileno(), CLONE_NEWNET) == 0:
                made.append(socket.socket(family, kind, **options))

    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if not made:
        raise RuntimeError(f"{path} cannot be entered")
    return made[0]


class Pod:
    """A sandbox that was made."""

    def __init__(self, namespace, name, sandbox, took):
        self.namespace, self.name, self.sandbox, self.took = namespace, name, sandbox, took
        self.made = time.monotonic()
        self.pid, self.path, self.addresses = cri.inspect_sandbox(sandbox)
        found = os.stat(self.path)
        self.id = f"{found.st_dev}-{found.st_ino}"

    def socket(self, kind, family=socket.AF_INET):
        """A socket of the pod."""
        return socket_in(self.path, family, kind)


class Node:
    """The node's programs, its folders, and its pods."""

    def __init__(self, work, binaries, group):
        self.work, self.group = work, group
        self.binaries = binaries
        self.networks, self.plugins = f"{work}/cni/net.d", f"{work}/cni/bin"
        self.conflist = f"{self.networks}/10-pods.conflist"
        self.containerd = self.agent = None
        self.pods = {}
        self.lock = threading.Lock()
        self.numbers = iter(range(1_000_000))
        self.program = f"{work}/bin/tencrypt"

    # What there is before anything runs.

    def prepare(self):
        """Makes folders, plugins, the image, the network configuration and the tenants' files."""
        for folder in (self.networks, self.plugins, f"{self.work}/bin", f"{self.work}/etc/pods", RUN):
            os.makedirs(folder, mode=0o700)
        for name in ("bridge", "host-local", "loopback"):
            shutil.copy(f"/usr/lib/cni/{name}", self.plugins)
        for name in ("tencrypt", "tencrypt-node", "tencrypt-cni"):
            shutil.copy(f"{self.binaries}/{name}", f"{self.work}/bin/{name}")
        self.owners = json.dumps({
            "cniVersion": "1.0.0",
            "name": NETWORK,
            "plugins": [{
                "type": "bridge", "bridge": BRIDGE, "isGateway": True, "hairpinMode": True,
                "ipam": {
                    "type": "host-local", "dataDir": f"{self.work}/ipam",
                    "ranges": [[{"subnet": subnet}] for subnet in SUBNETS],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            }],
        }, indent=2) + "\n"
        with open(self.conflist, "w", encoding="utf-8") as out:
            out.write(self.owners)
        self._image()
        for tenant in ("shop", "bank"):
            self._tenant(tenant)
        self.write_settings(self.program)

    def _image(self):
        source, program = f"{self.work}/pause.c", f"{self.work}/pause"
        with open(source, "w", encoding="utf-8") as out:
            out.write(PAUSE)
        run("gcc", "-static", "-O", "-o", program, source)
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as archive:
            archive.add(program, "pause")
        digest = hashlib.sha256(layer.getvalue()).hexdigest()
        config = json.dumps({
            "architecture": "amd64" if os.uname().machine == "x86_64" else "arm64", "os": "linux",
            "config": {"Entrypoint": ["/pause"]}, "history": [{"created_by": "run"}],
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }).encode()
        named = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": named, "RepoTags": [IMAGE], "Layers": [f"{digest}/layer.tar"]}]
        files = [(named, config), (f"{digest}/layer.tar", layer.getvalue()), ("manifest.json", json.dumps(manifest).encode())]
        with tarfile.open(f"{self.work}/pause.tar", "w") as archive:
            for name, content in files:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))

    def _tenant(self, name):
        folder = f"{self.work}/etc/tenants/{name}"
        os.makedirs(folder, mode=0o700)
        run(f"{self.work}/bin/tencrypt", "genkey", f"{folder}/tenant.key")
        protected = ", ".join(f'"{subnet}"' for subnet in SUBNETS)
        with open(f"{folder}/pod.toml", "w", encoding="utf-8") as out:
            out.write(f'[tenant]\nproject = "{name}"\ncluster_domain = "cluster.local"\n[network]\nprotected = [{protected}]\n[dns]\ncapture = false\n')
        with open(f"{folder}/tenant.toml", "w", encoding="utf-8") as out:
            out.write(f'namespaces = ["{name}"]\n')

    def write_settings(self, program):
        """Writes the agent's settings."""
        with open(f"{self.work}/etc/node.toml", "w", encoding="utf-8") as out:
            out.write(f"""tenants = "{self.work}/etc/tenants"
pods = "{self.work}/etc/pods"
list = "{self.work}/namespaces"
open = ["default"]
program = "{program}"
group = "{self.group}-paths"
host_namespaces = false
[plugin]
program = "{self.work}/bin/tencrypt-cni"
folder = "{self.plugins}"
networks = "{self.networks}"
results = "{RESULTS}"
""")

    # Programs.

    def start_containerd(self):
        """Starts containerd, and gives it the image."""
        config = f"{self.work}/containerd.toml"
        with open(config, "w", encoding="utf-8") as out:
            out.write(CONTAINERD.format(work=self.work))
        with open(f"{self.work}/containerd.log", "ab") as log:
            self.containerd = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

        def is_ready():
            try:
                return cri.conditions().get("NetworkReady")
            except (cri.CallError, KeyError):
                return False

        if not wait_for(is_ready, 30, 0.1)[0]:
            raise RuntimeError("containerd is not ready within 30 s")
        run("ctr", "-n", "k8s.io", "images", "import", f"{self.work}/pause.tar")

    def start_agent(self):
        """Starts the agent, and returns the seconds until it said that it is ready."""
        start = time.monotonic()
        environment = dict(os.environ, TENCRYPT_RUN_DIR=RUN)
        with open(f"{self.work}/agent.log", "ab") as log:
            command = [f"{self.work}/bin/tencrypt-node", "-v", "run", "--config", f"{self.work}/etc/node.toml"]
            self.agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, env=environment, text=True)
        said = []
        reader = threading.Thread(target=lambda: said.append(self.agent.stdout.readline()), daemon=True)
        reader.start()
        reader.join(30)
        if said != ["ready\n"]:
            raise RuntimeError(f"the agent is not ready within 30 s: {said}")
        return time.monotonic() - start

    def end_agent(self, number=signal.SIGTERM):
        """Ends the agent."""
        self.agent.send_signal(number)
        self.agent.send_signal(signal.SIGCONT)
        self.agent.wait(10)
        self.agent.stdout.close()

    # What can be seen.

    def ask(self, *words):
        """Asks the agent."""
        if self.agent.poll() is not None:
            raise RuntimeError(f"the agent has ended with {self.agent.returncode}")
        return run(f"{self.work}/bin/tencrypt-node", *words)

    def agent_pods(self):
        """The agent's pods by the id of their namespace."""
        return {pod["id"]: pod for pod in json.loads(self.ask("pods", "--json"))["pods"]}

    def metric(self, name):
        """A metric of the agent without labels."""
        return int(re.search(rf"^{name} (\d+)$", self.ask("metrics"), re.MULTILINE)[1])

    def is_protected(self, pod):
        """Tells if a data path is in force in the pod, by asking that data path itself."""
        environment = dict(os.environ, TENCRYPT_RUN_DIR=RUN)
        command = [self.program, "status", "--netns", pod.path]
        return subprocess.run(command, capture_output=True, timeout=10, env=environment).returncode == 0

    def traces(self, pod_id):
        """What is left of a pod's data path: its socket, its record, its control groups, its process."""
        left = [path for path in glob.glob(f"{RUN}/**", recursive=True) if pod_id in path]
        return left + glob.glob(f"/sys/fs/cgroup/*/{self.group}-paths/{pod_id}") + glob.glob(f"/sys/fs/cgroup/{self.group}-paths/{pod_id}")

    def census(self):
        """How many processes, namespaces, cables and control groups there are."""
        names = []
        for entry in glob.glob("/proc/[0-9]*/comm"):
            try:
                with open(entry, encoding="utf-8") as name:
                    names.append(name.read().strip())
            except OSError:
                pass
        groups = [path for path, *_ in (item for root in glob.glob(f"/sys/fs/cgroup/**/{self.group}*", recursive=True) for item in os.walk(root))]
        links = json.loads(run("ip", "-j", "link"))
        return {
            "data paths": names.count("tencrypt"),
            "pauses": names.count("pause"),
            "shims": sum(name.startswith("containerd-shim") for name in names),
            "namespaces": len(glob.glob("/run/netns/*")),
            "cables": sum(link["ifname"].startswith("veth") for link in links),
            "control groups": sum(1 for path in set(groups) if os.path.basename(path) not in (self.group, f"{self.group}-paths")),
            "files": len(glob.glob(f"{RUN}/*.sock")) + len(glob.glob(f"{RUN}/pods/*")),
            "results": len(glob.glob(f"{RESULTS}/*")),
        }

    def was_asked(self, pod):
        """Tells by the runtime's own note if the plugin stood in the list that the pod was made by."""
        with open(f"{RESULTS}/{NETWORK}-{pod.sandbox}-eth0", encoding="utf-8") as note:
            return b'"tencrypt-cni' in base64.b64decode(json.load(note)["config"])

    # Pods.

    def make(self, namespace, name=None, attempt=0):
        """Makes a sandbox."""
        with self.lock:
            name = name or f"web-{next(self.numbers)}"
        start = time.monotonic()
        sandbox = cri.run_sandbox(namespace, name, f"/{self.group}", attempt)
        pod = Pod(namespace, name, sandbox, time.monotonic() - start)
        with self.lock:
            self.pods[sandbox] = pod
        return pod

    def remove(self, pod):
        """Stops and removes a sandbox, and returns the seconds that it took."""
        start = time.monotonic()
        cri.stop_sandbox(pod.sandbox)
        cri.remove_sandbox(pod.sandbox)
        with self.lock:
            self.pods.pop(pod.sandbox, None)
        return time.monotonic() - start

    def remove_all(self):
        """Removes all sandboxes, those that were not made to the end too."""
        for sandbox in cri.sandboxes():
            cri.stop_sandbox(sandbox)
            cri.remove_sandbox(sandbox)
        self.pods.clear()


class Sniffer:
    """A sniffer of what pods send, until the end of the `with`."""

    def __init__(self, node):
        self.path = f"{node.work}/sniffed"

    def __enter__(self):
        command = [sys.executable, f"{HERE}/sniff.py", self.path, CANARY]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("the sniffer does not start")
        return self

    def __exit__(self, *_):
        time.sleep(0.3)
        self.process.terminate()
        self.process.wait(20)
        self.process.stdout.close()
        with open(self.path, encoding="utf-8") as lines:
            *plain, last = map(ast.literal_eval, lines)
        self.plain, self.lost = plain, last["lost"]
        self.sealed = {(source, destination): count for source, destination, count in last["sealed"]}

    def between(self, some, others):
        """The frames in plain from addresses of `some` to those of `others`, or back."""
        some, others = set(some), set(others)
        is_one = lambda frame: (frame["from"] in some and frame["to"] in others) or (frame["from"] in others and frame["to"] in some)
        return [frame for frame in self.plain if is_one(frame)]
