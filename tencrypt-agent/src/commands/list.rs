//! `tencrypt list`: the tunnels of this machine, and namespaces that one has left closed.

use std::{collections::BTreeMap, fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use tencrypt_tun::{Captured, NetNs, NetNsId};

use super::absence::captured;
use crate::{
    commands::output,
    control::{
        Reply, Request,
        client::{self, ClientError},
    },
    failure::Failure,
    os::rundir::RunDir,
    report::listed::{Listed, State, Summary, Tunnel},
};

/// Directories of the names that `ip netns` gives (ip-netns(8)).
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Shows all tunnels that can be found.
///
/// # Errors
/// A [`Failure`]: the run directory is not to be believed.
pub(crate) fn list(json: bool) -> Result<(), Failure> {
    let mut namespaces = namespaces();
    let mut listed = Listed::default();
    for (id, socket) in sockets()? {
        let mut name = namespaces.get(&id).cloned();
        let state = match client::ask_at(&socket, &Request::Status) {
            Ok(Reply::Status(status)) => {
                // Where nobody else names it, its own program may, if that name still leads there.
                let own = &status.network.netns;
                name = name.or_else(|| (NetNs::open(own).ok()?.id() == id).then(|| own.clone()));
                (State::Running, Some(Box::new(Summary::new(*status))))
            }
            // Its program has gone: it is looked for among the namespaces.
            Err(ClientError::NotRunning { .. }) => continue,
            Ok(_) | Err(_) => (State::Silent, None),
        };
        namespaces.remove(&id);
        let netns = name.unwrap_or_else(|| id.to_string());
        listed.tunnels.push(Tunnel { netns, state: state.0, status: state.1 });
    }
    for netns in namespaces.into_values() {
        let Ok(namespace) = NetNs::open(&netns) else { continue };
        if namespace.is_host() {
            continue;
        }
        let state = match captured(&namespace) {
            Ok(Captured::Closed) => State::Closed,
            Ok(Captured::Running) => State::Others,
            Ok(_) => continue,
            Err(_) => {
                listed.unseen += 1;
                continue;
            }
        };
        listed.tunnels.push(Tunnel { netns, state, status: None });
    }
    listed.tunnels.sort_by(|one, other| one.netns.cmp(&other.netns));
    output::print(&output::list(&listed, json))
}

/// The control sockets in the run directory, by the namespace of each.
fn sockets() -> Result<Vec<(NetNsId, PathBuf)>, Failure> {
    let Some(directory) = RunDir::existing()? else { return Ok(Vec::new()) };
    Ok(directory.sockets())
}

/// The namespaces that have a name or a process, with the name that is the shortest to type: that of `ip netns`, else the
/// path of the process with the lowest id.
fn namespaces() -> BTreeMap<NetNsId, String> {
    let mut found = BTreeMap::new();
    let names = NAMED.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    for entry in names {
        if let (Ok(metadata), Ok(name)) = (fs::metadata(entry.path()), entry.file_name().into_string()) {
            found.entry(NetNsId::new(metadata.dev(), metadata.ino())).or_insert(name);
        }
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut ids: Vec<u32> = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    for id in ids {
        let path = format!("/proc/{id}/ns/net");
        // Of another user's process it cannot be told.
        if let Ok(metadata) = fs::metadata(&path) {
            found.entry(NetNsId::new(metadata.dev(), metadata.ino())).or_insert(path);
        }
    }
    found
}
