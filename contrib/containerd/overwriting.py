"""The network configuration is overwritten without the plugin's entry, again and again, while pods come and go."""

import json
import os
import socket
import statistics
import threading
import time

import cri
from node import CANARY, Sniffer, wait_for
from traffic import PORT

WRITES = 100
BURST = 10  # one right after the other
WORKERS = 4
# The answer of a runtime that has read a list while its owner was writing it where it stands: it was empty.
HALF_READ = "cni plugin not initialized"
AWAY = 10  # pods that are made while the agent is away
LIMIT = 1  # seconds until a pod that was made without the plugin is protected


def seconds(values):
    """Median and worst of some times."""
    return f"{statistics.median(values):.3f} s, worst {max(values):.3f} s" if values else "none"


class Load:
    """Makes and removes pods of shop until it is over; each calls another pod in plain if it can."""

    def __init__(self, node, target):
        self.node, self.target = node, target
        self.over = threading.Event()
        self.half_read = 0
        self.made, self.without, self.times, self.late, self.faults = 0, 0, [], [], []
        self.plain_sources, self.lock = {}, threading.Lock()
        self.threads = [threading.Thread(target=self._work) for _ in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def _work(self):
        while not self.over.is_set():
            try:
                self._one()
            except (cri.CallError, OSError, RuntimeError, ValueError) as error:
                if HALF_READ in str(error):
                    self.half_read += 1
                else:
                    self.faults.append(str(error))

    def _one(self):
        pod = self.node.make("shop")
        over = threading.Event()
        caller = threading.Thread(target=self._call, args=(pod, over))
        caller.start()
        was_asked = self.node.was_asked(pod)
        with self.lock:
            self.made += 1
            self.without += not was_asked
            for address in pod.addresses:
                self.plain_sources[address] = was_asked
        is_protected, _ = wait_for(lambda: self.node.is_protected(pod), 5, 0)
        took = time.monotonic() - pod.made
        with self.lock:
            if not is_protected:
                self.late.append(f"{pod.name}: not within 5 s")
            elif not was_asked:
                self.times.append(took)
        time.sleep(0.05)
        over.set()
        caller.join()
        self._remove(pod)

    def _remove(self, pod):
        """Removes a pod, and tries again as the kubelet does while the runtime has read half a list."""
        for _ in range(50):
            try:
                return self.node.remove(pod)
            except cri.CallError as error:
                if HALF_READ not in str(error):
                    raise
                self.half_read += 1
                time.sleep(0.1)
        raise RuntimeError(f"{pod.name} cannot be removed within 5 s")

    def _call(self, pod, over):
        with pod.socket(socket.SOCK_DGRAM) as client:
            while not over.wait(0.005):
                try:
                    client.sendto(CANARY.encode(), (self.target, PORT))
                except OSError:
                    pass

    def end(self):
        """Ends it."""
        self.over.set()
        for thread in self.threads:
            thread.join()


def write(node, is_in_place):
    """Writes the owner's text, where the file stands or beside it."""
    if is_in_place:
        with open(node.conflist, "w", encoding="utf-8") as out:
            out.write(node.owners)
    else:
        beside = f"{node.work}/cni/new"
        with open(beside, "w", encoding="utf-8") as out:
            out.write(node.owners)
        os.rename(beside, node.conflist)


def stands(node):
    """Tells if the entry stands last in the list."""
    try:
        with open(node.conflist, encoding="utf-8") as text:
            return json.load(text)["plugins"][-1]["type"].startswith("tencrypt-cni-")
    except ValueError:  # it is being written
        return False


def overwritten(node, results):
    """The list is overwritten a hundred times under load."""
    target = node.make("shop")
    before = node.census()
    found_before = node.metric("tencrypt_found_unprotected_pods_total")
    back_before = node.metric("tencrypt_conflist_put_back_total")
    back, never = [], 0
    with Sniffer(node) as sniffer:
        load = Load(node, target.addresses[0])
        for number in range(WRITES):
            if number % BURST == 0:
                time.sleep(0.5 + 0.1 * (number // BURST % 5))
            write(node, number % 2 == 0)
            put_back, took = wait_for(lambda: stands(node), 5, 0.0005)
            never += not put_back
            back.append(took)
        load.end()
    found = node.metric("tencrypt_found_unprotected_pods_total") - found_before
    counted = node.metric("tencrypt_conflist_put_back_total") - back_before
    results.add(not never, f"list overwritten {WRITES} times", f"put back in {seconds(back)}; {counted} counted")
    missed = load.without - len(load.times)
    is_good = not load.late and not missed and load.made and all(took <= LIMIT for took in load.times)
    results.add(is_good, "pods made meanwhile", f"{load.made}, {load.without} of them without the plugin, protected {seconds(load.times)} after RunPodSandbox returned; {'; '.join(load.late) or 'none stayed in plain'}")
    results.add(found == load.without, "pods found without protection", f"{found} counted, {load.without} made")
    frames = [frame for frame in sniffer.plain if frame["canary"]]
    asked = [frame for frame in frames if load.plain_sources.get(frame["from"])]
    results.add(not asked and not sniffer.lost, "frames in plain", f"{len(frames) - len(asked)} of pods made without the plugin, {len(asked)} of others; {sniffer.lost} not seen")
    refused = sorted({fault[-200:] for fault in load.faults})
    results.add(not refused, "sandboxes that failed under it", f"{len(load.faults)}, and {load.half_read} that had to be tried again since containerd had read a list that was being written {refused[:3] or ''}")
    left, took = wait_for(lambda: node.census() == before, 15, 0.1)
    results.add(left, "nothing is left of them", f"{took:.3f} s after the last; {before if left else (before, node.census())}")
    node.remove_all()


def overwritten_while_away(node, results):
    """The list is overwritten while there is no agent: pods start in plain until it is back."""
    node.end_agent()
    # containerd 1.6 does not see a file that is moved into the folder (pkg/cri/server/cni_conf_syncer.go passes over Create).
    write(node, True)
    time.sleep(0.5)
    pods = [node.make("shop") for _ in range(AWAY)]
    without = sum(not node.was_asked(pod) for pod in pods)
    ready = node.start_agent()
    start = time.monotonic()
    waiting, times = set(pods), []
    while waiting and time.monotonic() - start < 10:
        for pod in list(waiting):
            if node.is_protected(pod):
                waiting.remove(pod)
                times.append(time.monotonic() - start)
    found = node.metric("tencrypt_found_unprotected_pods_total")
    put_back, _ = wait_for(lambda: stands(node), 5)
    is_good = without == found == AWAY and not waiting and max(times) <= LIMIT and put_back
    results.add(is_good, "list overwritten while the agent is away", f"{without} pods started in plain, {found} found when it is back, ready after {ready:.3f} s, protected {seconds(times)} after that")
    node.remove_all()
