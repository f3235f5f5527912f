"""Traffic that goes on while something happens: iperf3, round trips, calls, and all of them together with sniffers."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import tarfile

from cluster import PlainSniffer, Stream, run, start

ECHO = 7_001  # port of `echo_container`
SILENCE = 100  # ms that a stream may be silent for
CONNECTIONS = 6
RATE = "50M"  # bits a second of iperf3: of two processors, the streams and the sniffers are to have some


def echo_container(cluster):
    """A container that says its pod's name to each connection, and then echoes."""
    serve = "busybox hostname; exec busybox cat"
    return {"name": "echo", "image": cluster.image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/busybox", "nc", "-ll", "-p", str(ECHO), "-e", "/bin/sh", "-c", serve]}


class Rounds:
    """Connections with a request and a response after the other, through a Service, until the end of the `with`."""

    def __init__(self, cluster, client, address, count=CONNECTIONS):
        self.process = start(cluster.in_pod(client, "rounds", address, str(ECHO), str(count)))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate(timeout=60)
        lines = [line.split() for line in out.splitlines()]
        self.held = [words for words in lines if words[0] == "held"]
        self.lost = [words for words in lines if words[0] == "lost" and words[1] != "-"]
        self.unmade = [words for words in lines if words[0] == "lost" and words[1] == "-"]
        self.trips = sum(int(words[2]) for words in lines)
        self.longest = max((int(words[3]) for words in lines), default=0)

    def lost_of_others(self, ended):
        """The connections that were lost though their pods have not ended."""
        return [words for words in self.lost if words[1] not in ended]


class Calls:
    """Calls of a web server one after the other, each over a connection of its own, until the end of the `with`."""

    def __init__(self, cluster, client, address, port, path="/hostname"):
        self.process = start(cluster.in_pod(client, "calls", address, str(port), path))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        out, _ = self.process.communicate(timeout=60)
        lines = [line.split() for line in out.splitlines()]
        self.names = {words[2]: int(words[1]) for words in lines if words[0] == "from"}
        self.answered, self.failed, self.longest = map(int, lines[-1][1:])


class Iperf:
    """iperf3 of this machine with its libraries, between two pods, until the end of the `with`."""

    def __init__(self, cluster, client, server, port=5_201):
        self.cluster, self.folders = cluster, {}
        try:
            words = ["-s", "-1", "-p", str(port), "--idle-timeout", "60"]
            self.server = self._start(server, *words)
            self.client = self._start(client, "-c", server.addresses[0], "-p", str(port), "-t", "3600", "-b", RATE, "-i", "0.1", "-J", "--connect-timeout", "5000")
        except BaseException:
            self._remove()
            raise

    def _archive(self):
        """iperf3, its libraries and the dynamic linker, as a tar."""
        program = shutil.which("iperf3")
        if not program:
            raise RuntimeError("iperf3 is not on this machine")
        libraries = re.findall(r"(/\S+) \(0x", run(["ldd", program]))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", dereference=True) as archive:
            for path in (program, *libraries):
                archive.add(path, arcname="ld.so" if "/ld-" in path else path.rsplit("/", 1)[1])
        return out.getvalue()

    def _start(self, pod, *words):
        """Starts it in a pod's network."""
        if pod.node not in self.folders:
            unpack = 'd=$(mktemp -d) && tar -x -C "$d" && echo "$d"'
            done = subprocess.run(self.cluster.command(pod.node, "sh", "-c", unpack), input=self._archive(), capture_output=True, timeout=60)
            if done.returncode != 0:
                raise RuntimeError(f"{pod.node}: {done.stderr.decode().strip()}")
            self.folders[pod.node] = done.stdout.decode().strip()
        folder = self.folders[pod.node]
        # It ends when the shell's input ends, as the sniffers do.
        end = '"$@" < /dev/null 2> /dev/null & sleep 0.5; echo ready; read -r _; kill $! 2> /dev/null; wait $!'
        program = [f"{folder}/ld.so", "--library-path", folder, f"{folder}/iperf3"]
        return start(self.cluster.command(pod.node, "nsenter", f"--net={self.cluster.namespace_of(pod)}", "sh", "-c", end, "sh", *program, *words))

    def _remove(self):
        """Takes the programs from the nodes."""
        for node, folder in self.folders.items():
            self.cluster.node(node, "rm", "-r", folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        out, _ = self.client.communicate("\n", timeout=30)
        self.server.communicate("\n", timeout=30)
        self._remove()
        document = json.loads(out)
        self.error = document.get("error", "-")
        # The first one has the start of TCP, the last one the end.
        counts = [interval["sum"]["bytes"] for interval in document.get("intervals", [])][1:-1]
        self.bytes, self.silent = sum(counts), sum(count == 0 for count in counts)
        self.is_whole = self.bytes > 0 and ("-" == self.error or "terminated" in self.error)
        self.figure = f"iperf3 {self.bytes >> 20} MiB in {len(counts) / 10:.0f} s, {self.silent} tenths of a second without a byte"


class Load:
    """Everything at once between two pods of a tenant, and a stream between two open pods as a control, until the end of the `with`.

    The sniffers have to read the control's, which shows that they would see others.
    """

    def __init__(self, cluster, pair, service=None):
        cluster.open_namespace("open")
        self.control_pair = [cluster.kept_pod("open", name, node) for name, node in (("one", cluster.nodes[0]), ("other", cluster.nodes[-1]))]
        self.sniffer = PlainSniffer(cluster)
        self.stream, self.control = Stream(cluster, *pair), Stream(cluster, *self.control_pair)
        self.iperf = Iperf(cluster, *pair)
        self.rounds = Rounds(cluster, pair[0], service) if service else None
        self.parts = contextlib.ExitStack()

    def __enter__(self):
        for part in (self.sniffer, self.stream, self.control, self.iperf, self.rounds):
            if part:
                self.parts.enter_context(part)
        return self

    def __exit__(self, *error):
        self.parts.__exit__(*error)

    def judge(self, results, name, addresses, extra=True, figure=""):
        """Adds the rows: nothing lost and nothing in plain, and the silence."""
        count = lambda *places: sum(frame["count"] for frame in self.sniffer.plain(*places))
        plain, read = count(addresses, addresses), count(*(pod.addresses for pod in self.control_pair))
        is_good = extra and self.stream.is_whole and self.iperf.is_whole and not plain and read and not self.sniffer.lost
        told = f"{plain} frames in plain, {self.sniffer.count()} records, control {read} in plain, {self.sniffer.lost} lost"
        results.add(is_good, name, "; ".join(part for part in (figure, f"{self.stream.took} of {self.stream.sent} bytes in order", self.iperf.figure, told) if part))
        silence, noise = int(self.stream.silence), self.control.silence
        rounds = f", longest of {self.rounds.trips} round trips {self.rounds.longest} ms" if self.rounds else ""
        results.add(silence < SILENCE, f"{name}: silence", f"longest {silence} ms{rounds}; of open pods meanwhile {noise} ms")
