"""Traffic that goes on while something happens: iperf3, round trips, calls, and all of them together with sniffers."""

import contextlib
import json
import re

from cluster import PlainSniffer, Stream, start
from handed import Handed, end

ECHO = 7_001  # port of `echo_container`
SILENCE = 100  # ms that a stream may be silent for
CONNECTIONS = 6
NICE = 19  # of redis-benchmark, which takes every processor that it gets
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
    """iperf3 between two pods, until the end of the `with`."""

    def __init__(self, cluster, client, server, port=5_201):
        self.program = Handed(cluster, "iperf3")
        try:
            words = ["-s", "-1", "-p", str(port), "--idle-timeout", "60"]
            self.server = self.program.start(server, *words)
            self.client = self.program.start(client, "-c", server.addresses[0], "-p", str(port), "-t", "3600", "-b", RATE, "-i", "0.1", "-J", "--connect-timeout", "5000")
        except BaseException:
            self.program.remove()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _, said = end(self.client)
        end(self.server)
        self.program.remove()
        document, _ = json.JSONDecoder().raw_decode(said)
        self.error = document.get("error", "-")
        # The first one has the start of TCP, the last one the end.
        counts = [interval["sum"]["bytes"] for interval in document.get("intervals", [])][1:-1]
        self.bytes, self.silent = sum(counts), sum(count == 0 for count in counts)
        self.is_whole = self.bytes > 0 and ("-" == self.error or "terminated" in self.error)
        self.figure = f"iperf3 {self.bytes >> 20} MiB in {len(counts) / 10:.0f} s, {self.silent} tenths of a second without a byte"


class Redis:
    """redis-benchmark between two pods, over connections that it holds, until the end of the `with`. It ends by itself at the first one
    that is lost."""

    def __init__(self, cluster, client, server, port=6_379):
        self.programs = [Handed(cluster, name, NICE) for name in ("redis-server", "redis-benchmark")]
        try:
            self.server = self.programs[0].start(server, "--port", str(port), "--save", "", "--protected-mode", "no", "--io-threads", "1")
            words = ["-h", server.addresses[0], "-p", str(port), "-c", str(CONNECTIONS), "-n", "1000000000", "-t", "get", "-q"]
            self.client = self.programs[1].start(client, *words)
        except BaseException:
            self._remove()
            raise

    def _remove(self):
        """Takes the programs from the nodes."""
        for program in self.programs:
            program.remove()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        went_on, said = end(self.client)
        end(self.server)
        self._remove()
        rates = re.findall(r"overall: ([\d.]+)\) avg", said)
        self.is_whole = went_on and bool(rates) and "Error" not in said
        faults = "; ".join(line for line in said.splitlines() if "GET:" not in line)
        self.figure = f"redis-benchmark {rates[-1] if rates else 'no'} requests/s over {CONNECTIONS} connections, {'none lost' if self.is_whole else f'LOST: {faults}'}"


class Load:
    """Everything at once between two pods of a tenant, and a stream between two open pods as a control, until the end of the `with`.

    The sniffers have to read the control's, which shows that they would see others.
    """

    def __init__(self, cluster, pair, service=None):
        cluster.open_namespace("open")
        self.control_pair = [cluster.kept_pod("open", name, node) for name, node in (("one", cluster.nodes[0]), ("other", cluster.nodes[-1]))]
        self.sniffer = PlainSniffer(cluster)
        self.stream, self.control = Stream(cluster, *pair), Stream(cluster, *self.control_pair)
        self.iperf, self.redis = Iperf(cluster, *pair), Redis(cluster, *pair)
        self.rounds = Rounds(cluster, pair[0], service) if service else None
        self.parts = contextlib.ExitStack()

    def __enter__(self):
        for part in (self.sniffer, self.stream, self.control, self.iperf, self.redis, self.rounds):
            if part:
                self.parts.enter_context(part)
        return self

    def __exit__(self, *error):
        self.parts.__exit__(*error)

    def judge(self, results, name, addresses, extra=True, figure=""):
        """Adds the rows: nothing lost and nothing in plain, and the silence."""
        count = lambda *places: sum(frame["count"] for frame in self.sniffer.plain(*places))
        plain, read = count(addresses, addresses), count(*(pod.addresses for pod in self.control_pair))
        is_good = extra and self.stream.is_whole and self.iperf.is_whole and self.redis.is_whole and not plain and read and not self.sniffer.lost
        told = f"{plain} frames in plain, {self.sniffer.count()} records, control {read} in plain, {self.sniffer.lost} lost"
        results.add(is_good, name, "; ".join(part for part in (figure, f"{self.stream.took} of {self.stream.sent} bytes in order", self.iperf.figure, self.redis.figure, told) if part))
        silence, noise = int(self.stream.silence), self.control.silence
        rounds = f", longest of {self.rounds.trips} round trips {self.rounds.longest} ms" if self.rounds else ""
        results.add(silence < SILENCE, f"{name}: silence", f"longest {silence} ms{rounds}; of open pods meanwhile {noise} ms")
