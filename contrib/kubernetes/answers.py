"""Answers of the API server, compared with what the stand-in of the end-to-end tests is compared with."""

import json
import re

from cluster import HERE, wait_for

QUESTIONS = f"{HERE}/../../tencrypt-node/tests/e2e_node/answers.json"
NAMESPACE = "standin"

# HTTP codes by the reasons that kubectl prints (`metav1.StatusReason`).
CODES = {"NotFound": 404, "Conflict": 409, "AlreadyExists": 409, "Invalid": 422}


def answers(cluster, results):
    """Asks the server what the stand-in is asked, and compares its answers with the same file."""
    with open(QUESTIONS, encoding="utf-8") as text:
        questions = text.read()
    node = cluster.nodes[0]
    try:
        pod = prepare(cluster)
        told = questions.replace('"UID"', json.dumps(pod["metadata"]["uid"])).replace("/NODE", f"/{node}")
        asked = [whole(question, pod, node) for question in json.loads(told)["questions"]]
        faults = [fault for question in asked for fault in compare(question, ask(cluster, question))]
        results.add(not faults, "the API server answers as its stand-in does", f"{len(asked)} questions; {'; '.join(faults) or 'no difference'}")
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--timeout=60s", "namespace", NAMESPACE, limit=90)


def prepare(cluster):
    """Makes the objects that the questions are about, and returns the pod."""
    meta = {"namespace": NAMESPACE}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {**meta, "name": "tencrypt-key"}, "data": {"tenant.key": "AA=="}})
    wait_for(lambda: "default" in cluster.kubectl("get", "serviceaccounts", "-n", NAMESPACE, "-o", "name"), 30)
    # Nobody schedules it, so it is gone as soon as it is deleted.
    spec = {"schedulerName": "nobody", "containers": [{"name": "none", "image": cluster.image}]}
    cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {**meta, "name": "web-0", "annotations": {"a": "b"}}, "spec": spec})
    return json.loads(cluster.kubectl("get", "pod", "web-0", "-n", NAMESPACE, "-o", "json"))


def ask(cluster, question):
    """The code and the body of an answer."""
    method, path = question["method"], question["path"]
    body = json.dumps(question.get("body"))
    try:
        if method == "PATCH":
            text = cluster.kubectl("patch", *named(path), "--type=merge", "-p", body, "-o", "json")
        elif method == "GET":
            text = cluster.kubectl("get", "--raw", path)
        else:
            text = cluster.kubectl({"POST": "create", "DELETE": "delete"}[method], "--raw", path, "-f", "-", stdin=body)
        return 201 if method == "POST" else 200, json.loads(text)
    except RuntimeError as error:
        found = re.search(r"Error from server \((\w+)\)(.*)", str(error))
        # kubectl has a sentence of its own for this one.
        reason = found.group(1) if found else "Invalid" if " is invalid: " in str(error) else None
        return CODES.get(reason), {"reason": reason, "message": str(error)}


def named(path):
    """An object's kind, name and namespace, as kubectl has them, of its path."""
    words = path.split("/")
    place = ["-n", words[words.index("namespaces") + 1]] if "namespaces" in words else []
    return [*words[-2:], *place]


def whole(question, pod, node):
    """A question with its body."""
    if "event" not in question:
        return question
    uid = pod["metadata"]["uid"]
    body = {
        "apiVersion": "v1", "kind": "Event", "metadata": {"namespace": NAMESPACE, "name": f"web-0.{uid}.outsidetenant"},
        "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": NAMESPACE, "name": "web-0", "uid": uid},
        "type": "Normal", "reason": "OutsideTenant", "message": "of a check", "action": "Protecting",
        "reportingComponent": "tencrypt.io/tencrypt-node", "reportingInstance": node,
        "source": {"component": "tencrypt-node", "host": node}, "eventTime": "2026-01-01T00:00:00.000001Z",
    }
    return {**question, "body": body}


def compare(question, answer):
    """The differences between an answer and what is expected of it, a line each."""
    code, body = answer
    what = question["what"]
    if code != question["code"]:
        yield f"{what}: {code} in place of {question['code']} ({body.get('reason')}: {body.get('message')})"
        return
    if "reason" in question and body.get("reason") != question["reason"]:
        yield f"{what}: reason {body.get('reason')} in place of {question['reason']}"
    for path, is_wanted in [*((path, True) for path in question.get("has", [])), *((path, False) for path in question.get("lacks", []))]:
        if (find(body, path) is not None) != is_wanted:
            yield f"{what}: {'no' if is_wanted else 'a'} {path}"


def find(value, path):
    """The value at a path as `items.0.metadata`, in whose words `~` stands for a dot; None if there is none."""
    for word in path.replace("~", "\0").split("."):
        word = word.replace("\0", ".")
        if isinstance(value, list):
            value = value[int(word)] if int(word) < len(value) else None
        else:
            value = value.get(word) if isinstance(value, dict) else None
    return value
