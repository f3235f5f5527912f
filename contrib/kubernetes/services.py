"""Checks of what a tenant's Services are: affinity, headless, by alias, without selector, with endpoints that come and go, from outside."""

import contextlib
import json
import os
import re
import subprocess

from cluster import HERE, Sniffer, run, script, start, wait_for
from load import Calls
from rolling import addresses_of, clean

MADE = ("sticky", "headless", "alias", "away", "manual", "ported", "balanced", "datagrams")
BALANCER = "203.0.113.80"  # of documentation (RFC 5737): a load balancer's address
DATAGRAMS = 7_053
DOMAIN = "cluster.local"


def make(cluster, name, **spec):
    """Makes a Service of port 80 for the pods of the Deployment web, and returns its document."""
    meta = {"name": name, "namespace": "shop"}
    port = {"port": 80, "targetPort": 8080}
    cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"selector": {"app": "web"}, "ports": [port], **spec}})
    return json.loads(cluster.kubectl("get", "service", "-n", "shop", name, "-o", "json"))


def names_of(cluster, client, address, port=80, count=60, mode="balance"):
    """The names that answer at an address, with how often each did."""
    words = [mode, address, str(port), *(["/hostname"] if mode == "balance" else []), str(count)]
    lines = [line.split() for line in run(cluster.in_pod(client, *words), limit=180).splitlines()]
    return {words[2] if words[0] == "from" else None: int(words[1]) for words in lines}


@contextlib.contextmanager
def tenant(cluster, results, title):
    """Four pods of a Deployment and a client; afterwards no frame between them was in plain, and the Services made are gone."""
    pods, service = cluster.shop()
    client = cluster.pod("shop", "client", cluster.nodes[0])
    try:
        with Sniffer(cluster) as sniffer:
            yield pods, service, client
        everybody = addresses_of(pods, [client])
        places = everybody | {item["spec"].get("clusterIP") for item in cluster.get("services", "-n", "shop")}
        plain, records = sniffer.plain(places, places), sum(sniffer.records(everybody))
        results.add(not plain and records and not sniffer.lost, f"{title}: nothing in plain", f"{len(plain)} frames in plain, {records} records, {sniffer.lost} lost")
    finally:
        cluster.kubectl("delete", "service", "-n", "shop", "--ignore-not-found", *MADE)
        clean(cluster, "shop", "client")


def services(cluster, results):
    """Services of several kinds, by their addresses."""
    with tenant(cluster, results, "Services") as (pods, service, client):
        sticky = make(cluster, "sticky", sessionAffinity="ClientIP")["spec"]["clusterIP"]
        manual = make(cluster, "manual", selector=None)["spec"]["clusterIP"]
        subset = {"addresses": [{"ip": pods[-1].addresses[0]}], "ports": [{"port": 8080}]}
        cluster.apply({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "manual", "namespace": "shop"}, "subsets": [subset]})
        wait_for(lambda: False, 3)  # until agents know of them
        spread, held = names_of(cluster, client, service), names_of(cluster, client, sticky)
        results.add(len(held) == 1 and None not in held and len(spread) > 1, "Service with affinity ClientIP", f"{sum(held.values())} connections to {len(held)} pod; control without it: {len(spread)} pods")
        own, error = cluster.ask(client, manual, 80)
        results.add(own is not None and error == pods[-1].name, "Service without selector", f"its endpoint answered in {own} ms: {error}")
        datagrams(cluster, results, pods, client)
    clean(cluster, "shop", "client")


def datagrams(cluster, results, pods, client):
    """A Service of UDP."""
    address = make(cluster, "datagrams", ports=[{"port": 53, "targetPort": DATAGRAMS, "protocol": "UDP"}])["spec"]["clusterIP"]
    servers = [start(cluster.in_pod(pod, "say_name", str(DATAGRAMS), pod.name)) for pod in pods]
    try:
        wait_for(lambda: False, 3)
        found = names_of(cluster, client, address, 53, 100, "datagrams")
    finally:
        for server in servers:
            server.communicate("")
    shares = ", ".join(f"{count}" for count in sorted(count for name, count in found.items() if name))
    results.add(None not in found and set(found) == {pod.name for pod in pods}, "UDP Service", f"{100 - found.get(None, 0)} of 100 datagrams answered, port 53 to {DATAGRAMS}: {shares}")


def endpoints(cluster, results):
    """Endpoints come and go, 4, 1, 4, 2, under calls: new connections get living ones; a pod calls its own Service."""
    cluster.shop()
    client = cluster.pod("shop", "client", cluster.nodes[0])
    try:
        _, service = cluster.shop()
        for count in (1, 4, 2):
            with Calls(cluster, client, service, 80) as calls:
                cluster.kubectl("scale", "-n", "shop", "deployment/web", f"--replicas={count}")
                pods, took = cluster.ready_pods("shop", count, "app=web", 90)
            living = {pod.name for pod in pods}
            found, more = wait_for(lambda: (seen := names_of(cluster, client, service)) and set(seen) == living and seen, 20)
            figure = f"the API has these alone after {took:.1f} s, 60 connections go to them alone {more:.1f} s later"
            figure += f"; meanwhile {calls.answered} calls answered, {calls.failed} not, longest time without an answer {calls.longest} ms"
            results.add(found, f"endpoints: scaled to {count}", figure if found else f"not these alone within 20 s: {names_of(cluster, client, service)} of {sorted(living)}")
            if count == 1:
                own, name = cluster.ask(pods[0], service, 80)
                results.add(own is not None and name == pods[0].name, "a pod calls its own Service", f"answered in {own} ms by {name}")
    finally:
        cluster.kubectl("scale", "-n", "shop", "deployment/web", "--replicas=4")
        cluster.ready_pods("shop", 4, "app=web", 90)
        clean(cluster, "shop", "client")


def from_outside(cluster, results):
    """NodePort and a load balancer's address reach protected pods from outside, through each node; an open pod by its address does not."""
    words = os.environ.get("OUTSIDE")
    with tenant(cluster, results, "from outside") as (_, service, client):
        ported = make(cluster, "ported", type="NodePort")["spec"]["ports"][0]["nodePort"]
        balanced = make(cluster, "balanced", type="LoadBalancer")
        balanced["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCER}]}}
        cluster.kubectl("replace", "--raw", "/api/v1/namespaces/shop/services/balanced/status", "-f", "-", stdin=json.dumps(balanced))
        addresses = [address["address"] for node in cluster.get("nodes") for address in node["status"]["addresses"] if address["type"] == "InternalIP"]
        # Without OUTSIDE it is the last node that asks.
        outside = words.split() if words else cluster.command(cluster.nodes[-1])
        ask = lambda address, port: run([*outside, "python3", "-c", script(HERE, "traffic.py"), "ask", address, str(port), "/hostname", "5"], limit=40).split()
        answers = [ask(address, ported) for address in addresses]
        where = "from outside" if words else "from a node"
        results.add(all(answer[0] == "answered" for answer in answers), f"NodePort {where}", f"of {len(addresses)} nodes: {'; '.join(' '.join(answer) for answer in answers)}")
        # Nodes take the address for themselves; who is outside needs a route to one of them.
        at_node = run([*cluster.command(cluster.nodes[0]), "python3", "-c", script(HERE, "traffic.py"), "ask", BALANCER, "80", "/hostname", "10"], limit=40).split()
        results.add(at_node[0] == "answered", "a load balancer's address from a node", " ".join(at_node))
        # The address lies outside of the protected ranges: what goes there is traffic to the outside.
        inside, by_service = cluster.ask(client, BALANCER, 80), cluster.ask(client, service, 80)
        results.add(by_service[0] is not None, "a tenant's pod by these addresses", f"the Service's: {by_service}; the load balancer's: {inside}")


@contextlib.contextmanager
def nameserver(cluster, records):
    """A nameserver on the first node behind the Service kube-system/kube-dns, which the agents and their data paths ask, and are to capture."""
    if cluster.kubectl("get", "service", "-n", "kube-system", "kube-dns", "--ignore-not-found", "-o", "name"):
        raise RuntimeError("the cluster has a nameserver; this check needs one of its own")
    address = next(entry["address"] for entry in cluster.get("nodes")[0]["status"]["addresses"] if entry["type"] == "InternalIP")
    command = cluster.command(cluster.nodes[0], "python3", "-c", script(HERE, "names.py"), address)
    server = start(command)
    server.stdin.write("".join(f"{line}\n" for line in records))
    server.stdin.flush()
    meta, ports = {"name": "kube-dns", "namespace": "kube-system"}, [{"name": "dns", "port": 53, "protocol": "UDP"}]
    settings = json.loads(cluster.kubectl("get", "configmap", "-n", "tencrypt", "tencrypt-node", "-o", "json"))["data"]["pod.toml"]
    try:
        cluster.apply(
            {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"ports": ports}},
            {"apiVersion": "v1", "kind": "Endpoints", "metadata": meta, "subsets": [{"addresses": [{"ip": address}], "ports": ports}]},
        )
        service = json.loads(cluster.kubectl("get", "service", "-n", "kube-system", "kube-dns", "-o", "json"))["spec"]["clusterIP"]
        set_settings(cluster, settings.replace("capture = false", "capture = true"))
        yield service
    finally:
        server.communicate("")
        cluster.kubectl("delete", "service", "-n", "kube-system", "kube-dns")
        set_settings(cluster, settings)


def set_settings(cluster, text):
    """Gives the data paths other settings, and starts the agents anew: they would hear of it within a minute or two."""
    cluster.kubectl("patch", "configmap", "-n", "tencrypt", "tencrypt-node", "--type", "merge", "-p", json.dumps({"data": {"pod.toml": text}}))
    cluster.kubectl("rollout", "restart", "-n", "tencrypt", "daemonset/tencrypt-node")
    cluster.rollout()


def look_up(cluster, pod, name):
    """The addresses that a pod's own container finds for a name, and what it says."""
    done = subprocess.run([*cluster.kubectl_words, "exec", "-n", pod.namespace, pod.name, "--", "/bin/nslookup", name], capture_output=True, text=True, timeout=60)
    _, _, found = done.stdout.partition("Name:")
    return re.findall(r"^Address: (\S+)$", found, re.MULTILINE), " ".join((done.stdout + done.stderr).split())


def by_name(cluster, results, client, cases):
    """Names of the tenant's own have these addresses, and a web server answers at each."""
    for name, port, expected in cases:
        found, said = look_up(cluster, client, name)
        answers = [cluster.ask(client, address, port) for address in found]
        is_good = set(found) == expected and all(took is not None for took, _ in answers)
        results.add(is_good, f"by its name: {name.split('.')[0]}", "; ".join(f"{address} answered in {took} ms: {text}" for address, (took, text) in zip(found, answers)) or said)


def names(cluster, results):
    """Headless Services and ExternalName, by their names: in the tenant's own, encrypted; outside of it, as docs/operations.md says."""
    with tenant(cluster, results, "by name") as (pods, service, _):
        make(cluster, "headless", clusterIP="None")
        for name, target in (("alias", f"web.shop.svc.{DOMAIN}"), ("away", "outside.example")):
            spec = {"type": "ExternalName", "externalName": target}
            cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
        own = lambda name: f"{name}.shop.svc.{DOMAIN}"
        records = [f"{own('headless')} A {pod.addresses[0]}" for pod in pods]
        records += [f"{own('web')} A {service}", f"{own('alias')} CNAME {own('web')}", f"{own('away')} CNAME outside.example", "outside.example A 192.0.2.1"]
        with nameserver(cluster, records) as address:
            spec = {**cluster.spec(cluster.nodes[-1]), "dnsPolicy": "None", "dnsConfig": {"nameservers": [address], "searches": [f"shop.svc.{DOMAIN}"], "options": [{"name": "ndots", "value": "5"}]}}
            cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "asking", "namespace": "shop", "labels": {"app": "asking"}}, "spec": spec})
            try:
                (client,), _ = cluster.ready_pods("shop", 1, "app=asking", 150)
                cases = [(own("headless"), 8080, {pod.addresses[0] for pod in pods}), (own("alias"), 80, {service})]
                pods.append(client)  # of those between whom nothing is in plain
                by_name(cluster, results, client, cases)
                for name in ("outside.example", own("away")):
                    found, said = look_up(cluster, client, name)
                    is_own = name == own("away")
                    title = "ExternalName that leads outside" if is_own else "control: a foreign name"
                    results.add(("192.0.2.1" in found) != is_own, title, f"its address is given: {found}" if found else f"withheld: {said[-60:]}")
            finally:
                clean(cluster, "shop", "asking")


ALL = [services, endpoints, from_outside, names]
