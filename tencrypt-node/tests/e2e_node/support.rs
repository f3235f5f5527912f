//! Fixtures of the end-to-end tests: a node with pods and tenants, and the agent on it.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tencrypt_lab as lab;
use tencrypt_lab::{Finished, Node, Pod, Program, Signal, Sniffer, Watch};

/// The agent.
pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_tencrypt-node");
/// Longest wait for anything that works.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// Plaintext that no frame may show.
pub(crate) const CANARY: &str = "canary-51c0ffee77";
/// The protected ranges.
const PROTECTED: &str = r#"["10.128.0.0/14", "fd00:128::/64"]"#;

/// A node with a bridge, a directory for tenants and pods, and a run directory. Its data paths end with it, however it ends.
pub(crate) struct Site {
    /// The node.
    pub(crate) node: Node,
    /// A directory of this site's own.
    pub(crate) directory: PathBuf,
    _undertaker: Undertaker,
}

impl Site {
    pub(crate) fn new() -> Self {
        let directory = std::env::temp_dir().join(format!("tencrypt-node-e2e-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        let make = |path: &Path| fs::DirBuilder::new().mode(0o700).create(path).unwrap();
        make(&directory);
        for folder in ["tenants", "pods", "run"] {
            make(&directory.join(folder));
        }
        let node = Node::new("10.128.0.1/14".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let undertaker = Undertaker::start(&directory.join("run"));
        Self { node, directory, _undertaker: undertaker }
    }

    /// A pod; `number` is the last part of its addresses.
    pub(crate) fn pod(&self, number: u8) -> Pod {
        let v6 = Ipv6Addr::new(0xfd00, 0x128, 0, 0, 0, 0, 0, number.into());
        self.node.pod(Ipv4Addr::new(10, 128, 0, number), v6, lab::PLAIN_MTU).unwrap()
    }

    /// Makes a tenant with one namespace of the same name.
    pub(crate) fn tenant(&self, name: &str) -> PathBuf {
        let folder = self.directory.join("tenants").join(name);
        // Elsewhere at first, so that it comes whole.
        let made = self.directory.join(format!("new-{name}"));
        fs::create_dir(&made).unwrap();
        self.genkey(&made.join("tenant.key"));
        fs::write(made.join("tenant.toml"), format!("namespaces = [\"{name}\"]\n")).unwrap();
        fs::write(made.join("pod.toml"), settings(name, "")).unwrap();
        fs::rename(&made, &folder).unwrap();
        folder
    }

    pub(crate) fn genkey(&self, path: &Path) {
        let made = self.run(&program("tencrypt"), &["genkey".into(), path.into()]);
        assert!(made.status.success(), "{made:?}");
    }

    /// Names a pod in the directory of pods.
    pub(crate) fn name(&self, name: &str, tenant: &str, pod: &Pod) {
        let path = self.pod_file(name);
        let text = format!("tenant = \"{tenant}\"\nnetns = \"{}\"\n", pod.netns().path().display());
        replace(&path, &text);
    }

    pub(crate) fn pod_file(&self, name: &str) -> PathBuf {
        self.directory.join("pods").join(format!("{name}.toml"))
    }

    /// Writes the agent's settings, these among them.
    pub(crate) fn settings(&self, more: &str) -> PathBuf {
        let path = self.directory.join("node.toml");
        let of = |name: &str| self.directory.join(name).display().to_string();
        let program = if more.contains("program =") {
            String::new()
        } else {
            format!("program = \"{}\"\n", program("tencrypt").display())
        };
        let open = if more.contains("open =") { "" } else { "open = [\"default\"]\n" };
        let text = format!(
            "tenants = \"{}\"\npods = \"{}\"\nlist = \"{}\"\n{open}group = \"\"\nhost_namespaces = false\n{program}{more}",
            of("tenants"),
            of("pods"),
            of("namespaces"),
        );
        replace(&path, &text);
        path
    }

    /// Starts the agent, and returns once it is ready.
    pub(crate) fn start(&self, more: &str) -> Agent<'_> {
        let agent = self.begin(more);
        if let Err(error) = agent.program.wait_ready(LIMIT) {
            panic!("not ready: {error}\n{}", agent.log());
        }
        agent
    }

    /// Starts the agent.
    pub(crate) fn begin(&self, more: &str) -> Agent<'_> {
        let settings = self.settings(more);
        let arguments = [OsString::from("-v"), "run".into(), "--config".into(), settings.into()];
        let run = self.directory.join("run").into_os_string();
        let program =
            Program::start_with(Path::new(AGENT), arguments, &[("TENCRYPT_RUN_DIR", &run)], None).unwrap();
        Agent { site: self, program }
    }

    /// Runs a program to its end with the run directory of this site.
    pub(crate) fn run(&self, program: &Path, arguments: &[OsString]) -> Finished {
        let mut variable = OsString::from("TENCRYPT_RUN_DIR=");
        variable.push(self.directory.join("run"));
        let all = [variable, program.into()].into_iter().chain(arguments.iter().cloned());
        lab::run_program(Path::new("/usr/bin/env"), all, None, LIMIT).unwrap()
    }

    /// Starts to look at the bridge: for frames in plain of these pods.
    pub(crate) fn sniff<'p>(&self, pods: impl IntoIterator<Item = &'p Pod>) -> Sniffer {
        let watch = Watch::new(pods, CANARY.as_bytes()).lanes(1);
        Sniffer::start(self.node.netns(), watch).unwrap()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The agent; killed when dropped. Its data paths go on.
pub(crate) struct Agent<'s> {
    site: &'s Site,
    /// The process.
    pub(crate) program: Program,
}

impl Agent<'_> {
    /// The pods.
    pub(crate) fn pods(&self) -> Vec<Value> {
        let document = self.ask("pods");
        document["pods"].as_array().unwrap_or_else(|| panic!("{document}")).clone()
    }

    /// The pod of this name.
    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.pods().into_iter().find(|pod| pod["name"] == name)
    }

    /// The agent's state.
    pub(crate) fn status(&self) -> Value {
        self.ask("status")["node"].clone()
    }

    /// One of the agent's counts.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let status = self.status();
        status["counts"][name].as_u64().unwrap_or_else(|| panic!("no counts.{name}: {status}"))
    }

    fn ask(&self, command: &str) -> Value {
        let finished = self.site.run(Path::new(AGENT), &[command.into(), "--json".into()]);
        assert!(finished.status.success(), "{command}: {finished:?}\n{}", self.log());
        serde_json::from_str(&finished.stdout).unwrap()
    }

    /// Waits until the pod is protected, and returns the process of its data path.
    pub(crate) fn protected(&self, name: &str) -> u32 {
        let mut process = None;
        self.eventually(&format!("{name} is protected"), || {
            let Some(pod) = self.pod(name) else { return false };
            process = pod["pid"].as_u64();
            pod["state"] == "protected"
        });
        process.and_then(|process| u32::try_from(process).ok()).unwrap()
    }

    /// Waits until something has happened.
    pub(crate) fn eventually(&self, what: &str, mut happened: impl FnMut() -> bool) {
        let end = Instant::now() + LIMIT;
        while !happened() {
            assert!(Instant::now() < end, "not within {LIMIT:?}: {what}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it by a signal, and waits for that.
    pub(crate) fn stop(mut self, signal: Signal) -> String {
        self.program.signal(signal).unwrap();
        self.program.wait(LIMIT).unwrap();
        self.log()
    }

    /// Everything that it and its data paths have printed.
    pub(crate) fn log(&self) -> String {
        format!("--- stdout\n{}--- stderr\n{}", self.program.stdout(), self.program.stderr())
    }
}

/// Settings of the pods of a tenant.
pub(crate) fn settings(tenant: &str, more: &str) -> String {
    let offload = std::env::var("TENCRYPT_TEST_OFFLOAD")
        .map_or(String::new(), |offload| format!("offload = \"{offload}\"\n"));
    format!(
        "[tenant]\nproject = \"{tenant}\"\ncluster_domain = \"cluster.local\"\n[network]\nprotected = {PROTECTED}\n{offload}[dns]\ncapture = false\n{more}"
    )
}

/// Writes a file in one step.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// A program of the workspace's other packages. `cargo test --workspace` has built it; where only this package is tested it is built
/// once.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = Path::new(AGENT).with_file_name(name);
    if !path.exists() {
        let package = if name == "tencrypt" { "tencrypt-agent" } else { name };
        let built = Command::new(env!("CARGO")).args(["build", "--quiet", "-p", package, "--bins"]).status();
        assert!(built.unwrap().success(), "{package} cannot be built");
    }
    path
}

/// Tells if the other end echoes a datagram.
pub(crate) fn is_echoed(from: &Pod, to: IpAddr, port: u16) -> bool {
    let wait = Duration::from_millis(50);
    lab::udp_echo(from.netns(), SocketAddr::new(to, port), [100], wait).is_ok_and(|lost| lost.is_empty())
}

/// Ends what is left of a test: data paths outlive whatever started them. It is told by the end of a pipe that the test is over,
/// however that came.
struct Undertaker(Child);

impl Undertaker {
    fn start(run: &Path) -> Self {
        const SCRIPT: &str = r#"read -r _
            for process in /proc/[0-9]*; do
                tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qxF "TENCRYPT_RUN_DIR=$0" && kill -9 "${process#/proc/}"
            done"#;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(SCRIPT)
            .arg(run)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // The test's own group is killed at its end.
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Undertaker {
    fn drop(&mut self) {
        if let Some(mut pipe) = self.0.stdin.take() {
            let _ = pipe.write_all(b"\n");
        }
        let _ = self.0.wait();
    }
}
