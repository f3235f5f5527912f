//! The word to whoever rotates keys: which epochs every data path of this node takes.

use std::collections::{BTreeMap, BTreeSet};

use tencrypt_agent::report::StatusReport;

use super::Agent;
use crate::kubernetes::names::{KeysByTenant, KeysEntry};

impl Agent {
    /// Tells the cluster which epochs the data paths of this node take, if that is not what was told last.
    pub(super) fn acknowledge_keys(&mut self) {
        let Some(cluster) = &self.cluster else { return };
        let mut tenants: BTreeMap<&str, Vec<Option<Epochs>>> = BTreeMap::new();
        for entry in self.pods.values() {
            let epochs = entry.handle.view.borrow().status.as_deref().map(Epochs::of);
            tenants.entry(&entry.record.tenant).or_default().push(epochs);
        }
        let all: KeysByTenant =
            tenants.into_iter().map(|(name, pods)| (name.to_owned(), acknowledged(&pods))).collect();
        // Maps with names as keys become JSON.
        let Ok(text) = serde_json::to_string(&all) else { return };
        cluster.tell_keys(&text);
        let faults = cluster.write_faults();
        self.note("written", (!faults.is_empty()).then(|| faults.join("; ")));
    }
}

/// The epochs of one data path.
struct Epochs {
    send: u8,
    accept: BTreeSet<u8>,
}

impl Epochs {
    fn of(status: &StatusReport) -> Self {
        Self { send: status.keys.send, accept: status.keys.accept.iter().copied().collect() }
    }
}

fn acknowledged(pods: &[Option<Epochs>]) -> KeysEntry {
    let said = || pods.iter().flatten();
    let all_have =
        |epoch: &u8| pods.iter().all(|pod| pod.as_ref().is_some_and(|pod| pod.accept.contains(epoch)));
    KeysEntry {
        pods: pods.len() as u64,
        send: said().map(|pod| pod.send).collect(),
        accept: said().flat_map(|pod| pod.accept.iter().copied()).filter(all_have).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(send: u8, accept: &[u8]) -> Option<Epochs> {
        Some(Epochs { send, accept: accept.iter().copied().collect() })
    }

    #[test]
    fn an_epoch_is_accepted_on_a_node_once_every_data_path_there_accepts_it() {
        let told = |pods: &[Option<Epochs>]| serde_json::to_string(&acknowledged(pods)).unwrap();
        assert_eq!(told(&[epochs(1, &[1]), epochs(1, &[1, 2])]), r#"{"pods":2,"send":[1],"accept":[1]}"#);
        assert_eq!(
            told(&[epochs(2, &[1, 2]), epochs(1, &[1, 2])]),
            r#"{"pods":2,"send":[1,2],"accept":[1,2]}"#
        );
        assert_eq!(told(&[epochs(1, &[1]), None]), r#"{"pods":2,"send":[1],"accept":[]}"#);
    }
}
