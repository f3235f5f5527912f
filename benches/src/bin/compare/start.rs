//! Starting a contender at both ends of a network.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::IpAddr,
    path::Path,
    thread,
};

use tencrypt_lab::{Program, run_program};

use crate::{
    contender::{Contender, LIMIT},
    network::{Network, Scene},
    outcome::Outcome,
    program::{Programs, last_words},
    wireguard,
};

/// Keys, configurations and control sockets: in a directory that only this world sees.
const SCRATCH: &str = "/run/compare";

/// Starts a contender at both ends, as far as it has something to start.
///
/// # Errors
///
/// Why it could not be started, in words.
pub(crate) fn start(
    contender: Contender,
    programs: &Programs,
    scene: Scene,
    network: &Network,
) -> Outcome<Running> {
    let program = || programs.of(contender).ok_or("not installed");
    let [_, server] = network.addresses;
    let (tunnels, target) = match contender {
        Contender::Plain => (Vec::new(), server),
        Contender::WireguardGo => (wireguard::start(program()?, &["-f"], network)?, wireguard::ADDRESSES[1]),
        Contender::BoringTun => {
            // Its default, but no more than there are processors.
            let threads =
                thread::available_parallelism().map_or(1, std::num::NonZero::get).min(4).to_string();
            let arguments = ["--foreground", "--disable-drop-privileges", "--threads", &threads];
            (wireguard::start(program()?, &arguments, network)?, wireguard::ADDRESSES[1])
        }
        Contender::GotaTun => {
            let arguments = ["--foreground", "--disable-drop-privileges", "--verbosity", "error"];
            (wireguard::start(program()?, &arguments, network)?, wireguard::ADDRESSES[1])
        }
        _ => (start_tencrypt(contender, program()?, scene, network)?, server),
    };
    Ok(Running { tunnels, target })
}

/// A contender that runs; its processes end when it is dropped.
pub(crate) struct Running {
    tunnels: Vec<Program>,
    /// The server's address, as the client reaches it by this contender.
    pub(crate) target: IpAddr,
}

impl Running {
    /// The processes of the tunnel.
    pub(crate) fn processes(&self) -> impl Iterator<Item = u32> {
        self.tunnels.iter().map(Program::id)
    }

    /// Tells if the tunnel is still there at both ends.
    pub(crate) fn is_whole(&mut self) -> bool {
        self.tunnels.iter_mut().all(Program::is_running)
    }

    /// The last lines that the processes printed, for messages.
    pub(crate) fn last_words(&self) -> String {
        self.tunnels.iter().map(last_words).collect::<Vec<_>>().join("; ")
    }
}

fn start_tencrypt(
    contender: Contender,
    program: &Path,
    scene: Scene,
    network: &Network,
) -> Outcome<Vec<Program>> {
    let scratch = Path::new(SCRATCH);
    // Of the contender before.
    let _ = fs::remove_dir_all(scratch);
    fs::create_dir_all(scratch)?;
    let key_file = scratch.join("tenant.key");
    let made = run_program(program, [OsStr::new("genkey"), key_file.as_os_str()], None, LIMIT)?;
    if !made.status.success() {
        return Err(format!("genkey: {}", made.stderr.trim()).into());
    }
    // To what is external the client's side alone is a tunnel's.
    let ends = if scene == Scene::External { 1 } else { 2 };
    let mut running = Vec::new();
    for (end, netns) in network.ends().into_iter().enumerate().take(ends) {
        let path = scratch.join(format!("{end}.toml"));
        fs::write(&path, configuration(contender, scene, &key_file, network.addresses[1 - end]))?;
        let (netns, run) = (netns.path(), scratch.join(format!("run{end}")));
        let arguments: [OsString; 5] =
            ["up".into(), "--netns".into(), netns.into(), "--config".into(), path.into()];
        let variable = [("TENCRYPT_RUN_DIR", run.as_os_str())];
        running.push(Program::start_with(program, arguments, &variable, None)?);
    }
    for tunnel in &running {
        tunnel.wait_ready(LIMIT).map_err(|error| format!("{error}: {}", last_words(tunnel)))?;
    }
    Ok(running)
}

/// The configuration of one end, whose counterpart is `peer`.
fn configuration(contender: Contender, scene: Scene, key_file: &Path, peer: IpAddr) -> String {
    let (tenant, network) = contender.settings();
    let class = if scene == Scene::External { "external" } else { "internal" };
    format!(
        "[tenant]\nproject = \"bench\"\nkey_file = {:?}\n{tenant}\
         [network]\ninterface = \"eth0\"\nprotected = {:?}\n{network}\
         [dns]\ncapture = false\n\
         [[fact]]\nprefix = \"{peer}\"\nclass = {class:?}\n",
        key_file.display().to_string(),
        scene.ranges(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(contender: Contender, scene: Scene) -> String {
        configuration(contender, scene, Path::new("/run/k.key"), "10.200.0.2".parse().unwrap())
    }

    #[test]
    fn a_variant_differs_from_the_default_by_one_line_of_its_section() {
        let default = text(Contender::Tencrypt, Scene::Cable);
        assert!(
            default.contains("key_file = \"/run/k.key\"\n") && default.contains("class = \"internal\"\n")
        );
        let mut count = 0;
        for variant in Contender::ALL {
            let (tenant, network) = variant.settings();
            if tenant.is_empty() && network.is_empty() {
                continue;
            }
            assert!(variant.is_variant());
            let own = text(variant, Scene::Cable);
            let (of_tenant, rest) = own.split_once("[network]").unwrap();
            let (of_network, _) = rest.split_once("[dns]").unwrap();
            assert!(of_tenant.ends_with(tenant) && of_network.ends_with(network), "{own}");
            assert_eq!(own.replace(&format!("{tenant}{network}"), ""), default);
            count += 1;
        }
        assert_eq!(count, 4);
    }

    #[test]
    fn an_external_destination_is_declared_and_inside_the_protected_range() {
        let external = text(Contender::Tencrypt, Scene::External);
        assert!(external.ends_with("[[fact]]\nprefix = \"10.200.0.2\"\nclass = \"external\"\n"));
        assert!(external.contains("protected = [\"10.200.0.0/24\"]\n"));
    }
}
