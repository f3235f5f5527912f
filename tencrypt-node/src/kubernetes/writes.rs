//! Writes to the API: said again and again, and sent once.
//!
//! Whoever wants something to be so says it at every turn; it is sent if it was not, or if it has failed a while ago. So nothing is
//! queued, and what nobody says any more is not sent any more.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{task::spawn_local, time::Instant};

use super::client::{Client, ClientError, Verb};
use crate::timestamp::micros;

/// Most that is under way at a time: the rest is said again.
const MOST: usize = 16;

/// The pause before something that has failed is sent again.
const PAUSE: Duration = Duration::from_secs(10);

/// Time for which what was written into an object is believed to stand there.
const BELIEVED: Duration = Duration::from_secs(300);

/// Most bytes of an event's message (`NoteLengthLimit` is 1,024: pkg/apis/core/validation/events.go of Kubernetes).
const MESSAGE: usize = 1_000;

/// Most characters of a pod's name in that of its event: names have 253 at most, and an id has 36.
const EVENT_OF: usize = 160;

/// Something that is to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    verb: Verb,
    path: String,
    body: Value,
}

/// A pod that something is written of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    /// Its namespace.
    pub(crate) namespace: &'a str,
    /// Its name.
    pub(crate) name: &'a str,
    /// Its id.
    pub(crate) uid: &'a str,
}

impl Write {
    /// An annotation of the Lease of `node`, which every node has and no other component writes annotations to
    /// (<https://kubernetes.io/docs/concepts/architecture/leases/#node-heart-beats>).
    pub(crate) fn lease_annotation(node: &str, name: &str, text: &str) -> Self {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
        Self { verb: Verb::Merge, path, body: json!({ "metadata": { "annotations": { name: text } } }) }
    }

    /// A label of a pod; without a text it is taken off. The id makes the server refuse it where the name is another pod's by now.
    pub(crate) fn pod_label(pod: About<'_>, name: &str, text: Option<&str>) -> Self {
        let body = json!({ "metadata": { "uid": pod.uid, "labels": { name: text } } });
        Self { verb: Verb::Merge, path: path_of(pod), body }
    }

    /// The end of a pod, and of no other that has its name by then (`Preconditions` of the API reference).
    pub(crate) fn pod_deletion(pod: About<'_>) -> Self {
        let body =
            json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": pod.uid } });
        Self { verb: Verb::Delete, path: path_of(pod), body }
    }

    /// An event of a pod, by the agent of `node`; a `warning`, or for information. Its name is made of the pod and the `reason`, so
    /// that another agent, or this one behind a restart, does not tell it twice.
    pub(crate) fn event(
        pod: About<'_>,
        node: &str,
        (reason, is_warning, message): (&str, bool, &str),
    ) -> Self {
        let About { namespace, name, uid } = pod;
        let short: String = name.chars().take(EVENT_OF).collect();
        let of = short.trim_end_matches(['.', '-']);
        let body = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": { "namespace": namespace, "name": format!("{of}.{uid}.{}", reason.to_ascii_lowercase()) },
            "involvedObject": { "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid },
            "type": if is_warning { "Warning" } else { "Normal" },
            "reason": reason,
            "message": &message[..message.floor_char_boundary(MESSAGE)],
            "action": "Protecting",
            "reportingComponent": "tencrypt.io/tencrypt-node",
            "reportingInstance": node,
            "source": { "component": "tencrypt-node", "host": node },
        });
        Self { verb: Verb::Create, path: format!("/api/v1/namespaces/{namespace}/events"), body }
    }

    /// The taints of a node, all of them, if they are still those of this version of it.
    pub(crate) fn node_taints(node: &str, version: &str, taints: &[Value]) -> Self {
        let body = json!({ "metadata": { "resourceVersion": version }, "spec": { "taints": taints } });
        Self { verb: Verb::Merge, path: format!("/api/v1/nodes/{node}"), body }
    }

    /// The body, with the time at which it is sent where there is one in it.
    fn body_at(&self, now: SystemTime) -> Value {
        let mut body = self.body.clone();
        if let (Verb::Create, Some(event)) = (self.verb, body.as_object_mut()) {
            event.insert("eventTime".to_owned(), micros(now).into());
        }
        body
    }

    /// Tells if a failure says that it is so, or cannot come to be so any more.
    fn is_settled_by(&self, error: &ClientError) -> bool {
        match self.verb {
            Verb::Create => error.is_conflict(),
            Verb::Delete => error.is_conflict() || error.is_absent(),
            Verb::Merge => false,
        }
    }
}

/// Tells if what was done is this, and is believed to stand. What was written into an object goes with it: kubelet makes a Lease anew
/// that somebody has deleted.
fn stands((done, at): &(Write, Instant), write: &Write) -> bool {
    done == write && (write.verb != Verb::Merge || at.elapsed() < BELIEVED)
}

fn path_of(pod: About<'_>) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", pod.namespace, pod.name)
}

/// All that was said, by the names that it was said under.
#[derive(Debug, Default)]
pub(super) struct Writes(Rc<RefCell<BTreeMap<String, Said>>>);

#[derive(Debug, Default)]
struct Said {
    /// The write that was done, and when.
    done: Option<(Write, Instant)>,
    /// The write that is under way, or has failed at this time for this reason.
    sent: Option<(Write, Option<(Instant, String)>)>,
}

impl Writes {
    /// Sends `write` if it is not so yet, and was neither sent nor has failed a moment ago. Under one name one is under way at a time.
    pub(super) fn say(&self, api: &Rc<Client>, name: &str, write: Write) {
        {
            let mut all = self.0.borrow_mut();
            let under_way = all.values().filter(|said| matches!(said.sent, Some((_, None)))).count();
            let said = all.entry(name.to_owned()).or_default();
            let is_so = said.sent.is_none() && said.done.as_ref().is_some_and(|done| stands(done, &write));
            let waits = match &said.sent {
                Some((_, None)) => true,
                Some((failed, Some((at, _)))) => *failed == write && at.elapsed() < PAUSE,
                None => false,
            };
            if is_so || waits || under_way >= MOST {
                return;
            }
            said.sent = Some((write.clone(), None));
        }
        let (all, api, name) = (Rc::clone(&self.0), Rc::clone(api), name.to_owned());
        spawn_local(async move {
            let body = write.body_at(SystemTime::now()).to_string();
            let answer = api.change(write.verb, &write.path, body.as_bytes()).await;
            // Nobody says it any more if it is not there.
            if let Some(said) = all.borrow_mut().get_mut(&name) {
                match answer {
                    Err(error) if !write.is_settled_by(&error) => {
                        said.sent = Some((write, Some((Instant::now(), error.to_string()))));
                    }
                    _ => (said.done, said.sent) = (Some((write, Instant::now())), None),
                }
            }
        });
    }

    /// Forgets what was said under other names than these.
    pub(super) fn retain(&self, is_said: impl Fn(&str) -> bool) {
        self.0.borrow_mut().retain(|name, _| is_said(name));
    }

    /// The reasons why something could not be written, each once, with the first name that it is of.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for (name, said) in self.0.borrow().iter() {
            if let Some((_, Some((_, reason)))) = &said.sent {
                faults.entry(reason.clone()).or_insert_with(|| (name.clone(), 0)).1 += 1;
            }
        }
        faults
            .into_iter()
            .map(|(reason, (name, count))| match count {
                1 => format!("{name}: {reason}"),
                _ => format!("{name} and {} more: {reason}", count - 1),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: About<'_> = About { namespace: "shop", name: "web-0", uid: "0a1b-2c" };

    #[test]
    fn an_event_has_one_name_for_a_pod_and_a_reason_and_the_time_at_which_it_is_sent() {
        let event = |pod, message| Write::event(pod, "node1", ("Unprotected", true, message));
        let told = event(POD, "keys");
        assert_eq!(told.path, "/api/v1/namespaces/shop/events");
        let body = told.body_at(SystemTime::UNIX_EPOCH);
        assert_eq!(body["metadata"]["name"], "web-0.0a1b-2c.unprotected");
        assert_eq!(
            (&body["type"], &body["eventTime"]),
            (&json!("Warning"), &json!("1970-01-01T00:00:00.000000Z"))
        );
        // What says the same later is the same.
        assert_eq!(told, event(POD, "keys"));
        // Names of objects have 253 characters at most, and none ends in a dot before a dot.
        let long = format!("{}.{}", "a".repeat(EVENT_OF - 1), "b".repeat(93));
        let body = event(About { name: &long, ..POD }, &"é".repeat(2_000)).body_at(SystemTime::UNIX_EPOCH);
        let name = body["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        assert_eq!(body["message"].as_str().unwrap().len(), MESSAGE);
    }

    #[test]
    fn what_was_written_into_an_object_is_written_again_after_a_while() {
        let label = Write::pod_label(POD, "a", Some("b"));
        let event = Write::event(POD, "n", ("A", false, "m"));
        let Some(long_ago) = Instant::now().checked_sub(BELIEVED) else { return };
        assert!(stands(&(label.clone(), Instant::now()), &label));
        assert!(!stands(&(label.clone(), long_ago), &label));
        assert!(stands(&(event.clone(), long_ago), &event));
        assert!(!stands(&(event, Instant::now()), &label));
    }

    #[test]
    fn what_was_there_already_is_done_and_what_was_refused_is_not() {
        let refusal = |code| ClientError::Status {
            server: "s".to_owned(),
            code,
            reason: String::new(),
            message: String::new(),
        };
        let event = Write::event(POD, "n", ("A", false, "m"));
        let settled = |write: &Write| [403, 404, 409, 500].map(|code| write.is_settled_by(&refusal(code)));
        assert_eq!(settled(&event), [false, false, true, false]);
        assert_eq!(settled(&Write::pod_deletion(POD)), [false, true, true, false]);
        assert_eq!(settled(&Write::node_taints("n", "1", &[])), [false; 4]);
    }
}
