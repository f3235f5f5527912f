"""The administrator's commands: `kube status` and `kube verify`, compared with what the checks know."""

import json
import os
import shlex
import subprocess

from cluster import wait_for


def asked(cluster, *words):
    """Runs `tencrypt-node kube`, by the checks' own kubectl: the exit code, and what it says."""
    kubectl = f"{cluster.work}/kubectl"
    with open(kubectl, "w", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, 0o755)) as out:
        out.write(f'#!/bin/sh\nexec {shlex.join(cluster.kubectl_words)} "$@"\n')
    command = [f"{cluster.binaries}/tencrypt-node", "kube", *words, "--json", "--kubectl", kubectl]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    return done.returncode, json.loads(done.stdout) if done.stdout else {"problem": done.stderr.strip()}


def verdicts(said):
    """The verdicts of a verification, in words."""
    checks = said.get("verification", {}).get("checks", [])
    return [f"{check['family']} {check['protocol']} {check['verdict']}" for check in checks]


def verified(cluster, results):
    """A tenant's pods are proved to be encrypted, and found in plain when they are open."""
    pods, _ = cluster.shop()
    code, said = asked(cluster, "verify", "shop")
    found = verdicts(said)
    is_good = code == 0 and len(found) == 3 * len(pods[0].addresses) and all(line.endswith(" encrypted") for line in found)
    results.add(is_good, "kube verify: encrypted", f"exit code {code}; {', '.join(found) or said}")
    listed = lambda: asked(cluster, "status")[1]["cluster"]["pods"]
    protected = lambda: [pod["state"] for pod in listed() if pod["namespace"] == "shop" and pod["name"].startswith("web-")]
    done, _ = wait_for(lambda: protected() == ["protected"] * len(pods), 30)
    results.add(bool(done), "kube status: protected", f"{protected()}")
    cluster.open_namespace("open")
    one, two = (cluster.kept_pod("open", f"plain-{number}", cluster.nodes[number]) for number in (0, -1))
    code, said = asked(cluster, "verify", "open", f"--from={one.name}", f"--to={two.name}")
    found = verdicts(said)
    results.add(code not in (0, None), "control: open pods are not called encrypted", f"exit code {code}; {', '.join(found) or said}")
