"""Programs of this machine that run in pods' networks: they are handed to the nodes with their libraries."""

import io
import re
import shutil
import subprocess
import tarfile

from cluster import run, start

# What it writes is shown when it has ended, faults last: with the shell's input, or by itself before.
UNTIL_INPUT_ENDS = """
out=$(mktemp)
"$@" < /dev/null > "$out" 2> "$out.faults" &
sleep 0.5
echo ready
read -r _
if kill $! 2> /dev/null; then echo stopped; else echo ended; fi
wait $!
cat "$out" "$out.faults"
rm "$out" "$out.faults"
"""


class Handed:
    """A program on the nodes, until it is removed."""

    def __init__(self, cluster, name, niceness=0):
        self.cluster, self.name, self.niceness, self.folders = cluster, name, niceness, {}
        self.path = shutil.which(name)
        if not self.path:
            raise RuntimeError(f"{name} is not on this machine")

    def _archive(self):
        """The program, its libraries and the dynamic linker, as a tar."""
        libraries = re.findall(r"(/\S+) \(0x", run(["ldd", self.path]))
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", dereference=True) as archive:
            for path in (self.path, *libraries):
                archive.add(path, arcname="ld.so" if "/ld-" in path else path.rsplit("/", 1)[1])
        return out.getvalue()

    def start(self, pod, *words):
        """Starts it in a pod's network."""
        if pod.node not in self.folders:
            unpack = 'd=$(mktemp -d) && tar -x -C "$d" && echo "$d"'
            done = subprocess.run(self.cluster.command(pod.node, "sh", "-c", unpack), input=self._archive(), capture_output=True, timeout=60)
            if done.returncode != 0:
                raise RuntimeError(f"{pod.node}: {done.stderr.decode().strip()}")
            self.folders[pod.node] = done.stdout.decode().strip()
        folder = self.folders[pod.node]
        program = ["nice", "-n", str(self.niceness), f"{folder}/ld.so", "--library-path", folder, f"{folder}/{self.name}"]
        inside = ["nsenter", f"--net={self.cluster.namespace_of(pod)}", "sh", "-c", UNTIL_INPUT_ENDS, "sh"]
        return start(self.cluster.command(pod.node, *inside, *program, *words))

    def remove(self):
        """Takes it from the nodes."""
        for node, folder in self.folders.items():
            self.cluster.node(node, "rm", "-r", folder)
        self.folders = {}


def end(process):
    """Ends what `Handed.start` has started. Returns true if it ran until then, and what it has written."""
    out, _ = process.communicate("\n", timeout=30)
    how, _, text = out.partition("\n")
    return how == "stopped", text
