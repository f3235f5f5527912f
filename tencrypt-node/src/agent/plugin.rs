//! The CNI plugin's installation, and its place in the network configuration.

use std::{path::PathBuf, time::SystemTime};

use serde_json::json;
use tencrypt_agent::os::rundir::RunDir;
use tencrypt_cni::plugin::TYPE;

use crate::{
    install::{
        networks::{Checked, Found, Networks},
        program,
    },
    release::Program,
    report::PluginReport,
    settings::{PluginSettings, Settings},
};

/// The plugin, installed.
#[derive(Debug)]
pub(super) struct Plugin {
    networks: Networks,
    report: PluginReport,
}

impl Plugin {
    /// Copies the plugin's program into the folder of plugins, under a name with its version and its sum. It is not in any network
    /// configuration yet.
    ///
    /// # Errors
    /// A line.
    pub(super) fn install(
        plugin: &PluginSettings,
        settings: &Settings,
        run_dir: &RunDir,
    ) -> Result<Self, String> {
        let named = plugin.program.clone().map_or_else(|| Settings::beside(TYPE), Ok);
        let source: PathBuf = named.map_err(|error| format!("the plugin's program: {error}"))?;
        let program = Program::read(&source)
            .map_err(|error| format!("plugin.program: {}: {error}", source.display()))?;
        let version = format!("{}-{}", env!("CARGO_PKG_VERSION"), program.id);
        let file = program::install(&source, &plugin.folder, TYPE, &version)
            .map_err(|error| format!("plugin.folder: {error}"))?;
        let mut entry = json!({
            "type": format!("{TYPE}-{version}"),
            "socket": settings.socket_in(run_dir.path()),
            "list": settings.list,
        });
        if let (Some(agent), Some(object)) = (&settings.agent, entry.as_object_mut()) {
            let pods = json!({ "namespace": agent.namespace, "podPrefix": agent.pod_prefix });
            object.insert("agent".to_owned(), pods);
        }
        let networks =
            Networks::of(&plugin.networks, entry.to_string()).map_err(|error| error.to_string())?;
        let report = PluginReport { file: file.display().to_string(), ..PluginReport::default() };
        Ok(Self { networks, report })
    }

    /// Sees to it that it stands in the network configuration. Returns the fault, if there is one, and true if it was put back.
    pub(super) fn check(&mut self) -> (Option<String>, bool) {
        let (network, problem, was_put_back) = match self.networks.check(SystemTime::now()) {
            Ok(checked) => judged(checked),
            Err(error) => (self.report.network.clone(), Some(error.to_string()), false),
        };
        self.report.network = network;
        self.report.problem.clone_from(&problem);
        (problem, was_put_back)
    }

    /// Its place, as it was seen last.
    pub(super) fn report(&self) -> PluginReport {
        self.report.clone()
    }
}

/// The network that the plugin stands in, the fault, and true if it was put back.
fn judged(checked: Checked) -> (Option<String>, Option<String>, bool) {
    let mut faults: Vec<String> = Vec::new();
    let (network, was_put_back) = match checked.found {
        Found::Stands(name) | Found::PutIn(name) => (Some(name), false),
        Found::PutBack(name) => (Some(name), true),
        Found::Nothing => {
            faults.push("there is no network configuration yet".to_owned());
            (None, false)
        }
        Found::Unchainable(fault) => {
            faults.push(format!("{}: {}: pods are started without tencrypt", fault.name, fault.reason));
            (None, false)
        }
        Found::Busy(name) => {
            faults.push(format!("{name} is being written"));
            (None, false)
        }
    };
    for name in checked.behind {
        faults.push(format!("{name}: its plugins stand behind tencrypt's, and may add what it does not see"));
    }
    (network, (!faults.is_empty()).then(|| faults.join("; ")), was_put_back)
}
