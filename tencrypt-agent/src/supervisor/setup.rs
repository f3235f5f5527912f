//! Setting up: what may fail for a reason of its own first, the capture next, the lanes last. A failure undoes what was
//! done until then.

use std::{
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use tencrypt::{KeyRing, Tunnel};
use tencrypt_tun::{Capture, Monitor, Mtu, RawSockets, RouteLookup, SocketTable, Survey, Surveyed};
use tencrypt_udp::UdpTransport;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    clone_guard::{CloneGuard, KernelWords, NO_RANDOMNESS},
    dns::{LaneSink, Names, Sockets},
    dns_proxy::DnsProxy,
    errors::io_failure,
    fact_base::FactBase,
    firewall::Firewall,
    installed::Installed,
    namespace::{Namespace, monitor_changes},
    own_addresses::OwnAddresses,
    plan::{interface, own_ranges, plan, static_facts, transport},
    pod_end::{Place, PodEnd},
    run::{Facts, Serving, Signals, Supervisor},
    source::{Later, Source},
    suite_fit::SuiteFit,
    told::Told,
    tunnels::{tunnel_config, tunnels},
};
use crate::{
    config::{Config, unprotected_reason},
    control::server::{Asked, ControlSocket},
    failure::{Exit, Failure},
    keys::{
        credentials::Credentials,
        in_force::{KeyFault, KeysInForce},
    },
    lane::{
        channel::{self, Inbox, Lanes},
        data_path::{Common, DataPath, Links, Ports},
        events::Events,
        freshness::Freshness,
        pod_status::{PodStatus, Shared},
        threads::Threads,
    },
    os::{
        hardening::{self, Memory},
        notify::ServiceManager,
    },
    report::{IdentityReport, NetworkReport, RenewalReport, SuiteReport},
};

/// Everything that is known before anything is touched.
pub(crate) struct Protection {
    /// The configuration.
    pub config: Config,
    /// The tenant's keys.
    pub keys: KeyRing,
    /// The authority, revocations, and this pod's certificate.
    pub(crate) credentials: Credentials,
    /// The pod's DNS.
    pub names: Names,
    /// The path of the control socket.
    pub control: PathBuf,
    /// The memory's protection, from before the keys came into it.
    pub memory: Memory,
    /// The kernel's words of clones, where it tells them.
    pub(crate) words: KernelWords,
    /// The namespace's file, and which namespace it is of.
    pub(crate) place: Place,
    /// The namespace, as it is called.
    pub(crate) netns: String,
    /// The service manager, if it waits for a word.
    pub(crate) manager: Option<ServiceManager>,
    /// The source of later changes.
    pub(crate) source: Source,
}

/// Protects the calling thread's namespace. Must be called within a tokio runtime.
///
/// # Errors
/// A [`Failure`]; what was done is undone. A namespace that a program which died had left closed stays closed.
pub(super) fn set_up(protection: Protection) -> Result<Supervisor, Failure> {
    let Protection { config, keys, mut credentials, names, .. } = protection;
    let Protection { control, memory, words, place, netns, manager, source, .. } = protection;
    let tenant = *keys.tenant_id();
    let keys = Arc::new(keys);
    let resources = Resources::open(&config, &control)?;
    let (later, told) = Later::split(source, place.id())?;
    let pod = Pod::capture(&config, &names, netns, told)?;
    let rules = tunnel_config(&config, &names, pod.proxy_port());
    let tunnels = pod.tunnels(&config, &names, &keys)?;
    let tunnels = present(tunnels, &mut credentials, tenant);
    let mut guard = CloneGuard::new(words, later.pace.look);
    let pace = later.pace;
    let end = (PodEnd::new(place).map_err(|error| io_failure("socket", error))?, pace.count);
    let status = pod.status(&config, &names, (credentials.report(), guard.report()), memory);
    let reports = (status.chains.clone(), status.namespace.clone());
    let (asked_names, key_fault) = (status.names.clone(), status.key_fault.clone());
    let common = pod.common(&config, status, guard.freshness());
    let Resources { signals, ports, mut monitor, table, routes, control } = resources;
    monitor.ignore(pod.installed.capture().ports());
    let Started { lanes, threads, events } = pod.start(tunnels, ports, &common)?;
    let changes = monitor_changes(monitor).map_err(|error| io_failure("thread", error))?;
    let sink = LaneSink::new(lanes.clone(), events.clone(), pod.facts.base.clone());
    let ranges = own_ranges(&config, pod.installed.capture().gateways());
    let mut dns = DnsProxy::new((names, ranges), sink, asked_names);
    dns.start(pod.sockets, &pod.addresses);
    let firewall = Firewall::new(&config.network, pod.network.clone());
    let own = OwnAddresses::new(pod.addresses, &config, pod.network);
    let keys = KeysInForce::new(later.keys.clone(), keys, key_fault);
    let (look, looks) = mpsc::channel(1);
    let asked = Asked::new(lanes.clone(), routes, look);
    let (inputs, asked) = later.follow(credentials.report(), asked)?;
    guard.leave_to_agent(inputs.is_attended());
    let serving = Serving::spawn(control, asked.clone());
    let lanes_and_events = (lanes.clone(), events);
    let fit = (pod.fit, pod.suite);
    let namespace =
        Namespace::new(pod.installed.keep(), lanes_and_events, (own, firewall), fit, reports, end);
    Ok(Supervisor {
        signals,
        threads,
        lanes,
        namespace,
        changes,
        looks,
        table,
        guard,
        keys,
        credentials,
        tenant,
        facts: pod.facts,
        rules,
        dns,
        inputs,
        asked,
        look: pace.look,
        serving,
        manager,
    })
}

/// Everything that is opened before the capture touches anything.
struct Resources {
    signals: Signals,
    /// Of each lane.
    ports: Vec<(UdpTransport, RawSockets)>,
    monitor: Monitor,
    table: SocketTable,
    routes: RouteLookup,
    control: ControlSocket,
}

impl Resources {
    fn open(config: &Config, control: &Path) -> Result<Self, Failure> {
        let signal = |kind| signal(kind).map_err(|error| io_failure("signal", error));
        let ports = |lane| {
            let transport = transport(config, lane)?;
            let raw = RawSockets::open().map_err(|error| io_failure("raw socket", error))?;
            Ok((transport, raw))
        };
        Ok(Self {
            signals: Signals {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
            },
            ports: (0..config.network.lanes.get()).map(ports).collect::<Result<_, Failure>>()?,
            monitor: Monitor::open().map_err(|error| io_failure("netlink", error))?,
            table: SocketTable::open().map_err(|error| io_failure("sock_diag", error))?,
            routes: RouteLookup::open(interface(&config.network.tun)?)
                .map_err(|error| io_failure("netlink", error))?,
            control: ControlSocket::bind(control).map_err(|error| io_failure("control socket", error))?,
        })
    }
}

/// A pod whose traffic is captured, and stays so once set-up has come to its end.
struct Pod {
    installed: Installed,
    addresses: Vec<IpAddr>,
    network: Shared<NetworkReport>,
    fit: SuiteFit,
    suite: Shared<SuiteReport>,
    /// Of the DNS proxy, if the pod's queries are captured.
    sockets: Option<Sockets>,
    facts: Facts,
}

impl Pod {
    fn capture(config: &Config, names: &Names, netns: String, told: Told) -> Result<Self, Failure> {
        let plan = plan(config, names)?;
        let tun = plan.tun;
        // Before anything is touched: where a program that died left the namespace closed, the ranges of a configuration
        // that is refused must not take the place of those that are closed. What cannot be looked at, installing names.
        if let Ok(Survey { interface: Some(Surveyed { addresses, mtu, .. }), .. }) =
            Survey::take(plan.interface, tun)
        {
            check_addresses(config, &addresses, mtu)?;
        }
        let installed = Installed::new(plan)?;
        let capture: &Capture = installed.capture();
        let addresses = capture.addresses();
        let network = network_report(config, netns, &addresses);
        let (fit, suite) = check_addresses(config, &addresses, capture.mtu())?;
        let sockets = match names.nameservers.is_empty() {
            true => None,
            false => {
                Some(Sockets::listen(&addresses, tun).map_err(|error| io_failure("DNS listener", error))?)
            }
        };
        let hash_key = getrandom::u64().map_err(|_| Failure::runtime(NO_RANDOMNESS))?;
        let facts = Facts::new(FactBase::new(static_facts(config, capture.gateways()), told), hash_key);
        let (network, suite) = (Arc::new(Mutex::new(network)), Arc::new(Mutex::new(suite)));
        Ok(Self { installed, addresses, network, fit, suite, sockets, facts })
    }

    /// Returns what `status` says that no lane counts, to be kept up to date from here on.
    fn status(
        &self,
        config: &Config,
        names: &Names,
        (identity, renewal): (Shared<IdentityReport>, Shared<RenewalReport>),
        memory: Memory,
    ) -> PodStatus {
        PodStatus {
            since: Instant::now(),
            network: self.network.clone(),
            project: project_name(config, names),
            suite: self.suite.clone(),
            chains: Shared::default(),
            names: Shared::default(),
            identity,
            key_fault: KeyFault::default(),
            renewal,
            unknown: config.policy.unknown.name(),
            enforce: config.policy.enforce,
            namespace: Shared::default(),
            hardening: hardening::keep_network(memory),
        }
    }

    /// Returns what every lane has alike.
    fn common(&self, config: &Config, status: PodStatus, freshness: Arc<Freshness>) -> Common {
        Common { offload: config.network.offload, status, addresses: self.addresses.clone(), freshness }
    }

    /// Returns the port that the pod's queries are redirected to; 0 if they are not.
    fn proxy_port(&self) -> u16 {
        self.sockets.as_ref().map_or(0, |sockets| sockets.port.number())
    }

    fn tunnels(&self, config: &Config, names: &Names, keys: &Arc<KeyRing>) -> Result<Vec<Tunnel>, Failure> {
        let tunnel = tunnel_config(config, names, self.proxy_port());
        tunnels(tunnel, config.network.lanes, keys.clone(), &self.addresses, self.facts.directory())
    }

    /// Starts a lane for each of `tunnels`.
    fn start(
        &self,
        tunnels: Vec<Tunnel>,
        ports: Vec<(UdpTransport, RawSockets)>,
        common: &Common,
    ) -> Result<Started, Failure> {
        let (lanes, inboxes) = channels(tunnels.len())?;
        let events = Events::default();
        let queues = self.installed.capture().queues();
        let mut paths = Vec::with_capacity(tunnels.len());
        for (((device, (mut transport, raw)), tunnel), inbox) in
            queues.iter().zip(ports).zip(tunnels).zip(inboxes)
        {
            // Errors from before belong to whoever had the port.
            transport.drain_path_errors();
            let ports = Ports { device: device.clone(), transport, raw };
            let links = Links { lanes: lanes.clone(), inbox, events: events.clone() };
            paths.push(DataPath::new(tunnel, ports, links, common.clone()));
        }
        let threads = Threads::start(paths, &lanes).map_err(|error| io_failure("thread", error))?;
        Ok(Started { lanes, threads, events })
    }
}

/// Lanes that run.
struct Started {
    lanes: Lanes,
    threads: Threads,
    events: Events,
}

/// Tells the tunnels whom to trust and which certificate to present.
fn present(
    mut tunnels: Vec<Tunnel>,
    credentials: &mut Credentials,
    tenant: [u8; KeyRing::TENANT_LEN],
) -> Vec<Tunnel> {
    if let Some(own) = tunnels.first().map(Tunnel::peer_id) {
        for update in credentials.attach(own, tenant) {
            tunnels.iter_mut().for_each(|tunnel| update.clone().apply(tunnel));
        }
    }
    tunnels
}

/// Checks that the configuration is one for a pod with these addresses at an interface of this MTU. Returns the suite's fit.
fn check_addresses(
    config: &Config,
    addresses: &[IpAddr],
    mtu: Mtu,
) -> Result<(SuiteFit, SuiteReport), Failure> {
    let unprotected = config.unprotected(addresses);
    if !unprotected.is_empty() && !config.policy.unprotected_addresses {
        return Err(Failure::new(Exit::Usage, unprotected_reason(&unprotected)));
    }
    let fit = SuiteFit::new(config.tenant.suite, &config.network.interface, mtu);
    let suite = fit.report(addresses);
    match suite.problem {
        Some(reason) => Err(Failure::new(Exit::Usage, reason)),
        None => Ok((fit, suite)),
    }
}

/// Returns the project's name, where the configuration or resolv.conf says it.
fn project_name(config: &Config, names: &Names) -> Option<String> {
    let found = || names.project.as_ref().map(|project| project.namespace().to_owned());
    config.tenant.project.clone().or_else(found)
}

/// Reports the interface of a pod with these addresses.
fn network_report(config: &Config, netns: String, addresses: &[IpAddr]) -> NetworkReport {
    let network = &config.network;
    NetworkReport {
        netns,
        interface: network.interface.clone(),
        port: network.port,
        protected: network.protected.iter().map(ToString::to_string).collect(),
        unprotected: config.unprotected(addresses),
        bound_servers: Vec::new(),
        filtered: Vec::new(),
    }
}

/// Makes the channels of `count` lanes.
fn channels(count: usize) -> Result<(Lanes, Vec<Inbox>), Failure> {
    let channels = (0..count).map(|_| channel::channel()).collect::<io::Result<(Vec<_>, Vec<_>)>>();
    let (handles, inboxes) = channels.map_err(|error| io_failure("wake-up", error))?;
    Ok((Lanes::new(handles), inboxes))
}
