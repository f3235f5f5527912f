//! Protecting the namespace of the calling thread: everything is set up in order, watched, and taken down.

pub(crate) mod clone_guard;
pub(crate) mod dns;
pub(crate) mod externals;
pub(crate) mod fact_base;
pub(crate) mod namespace;
mod rotation;
pub(crate) mod suite_fit;
pub(crate) mod uevents;

use std::{
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use socket2::Socket;
use tencrypt::{
    Identity, KeyRing, LaneId, Tunnel, TunnelConfig,
    directory::{Class, Fact, FactSource},
    nat::DnsHairpin,
};
use tencrypt_tun::{
    Capture, CaptureError, CapturePlan, Cleaned, InterfaceName, Monitor, RawSockets, SocketTable,
    UnknownSources, mark_socket,
};
use tencrypt_udp::{BindError, UdpTransport};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::MissedTickBehavior,
};

use crate::{
    config::{Config, External, Unknown},
    control::server::ControlSocket,
    failure::{Exit, Failure, chain},
    keys::credentials::Credentials,
    keys::source::{KeyFault, KeySource},
    lane::awaiting_bypass::Opening,
    lane::channel::{self as lane, Command, Lanes},
    lane::threads::Threads,
    lane::{About, DATAGRAM, DataPath, Ended},
    os::hardening::{self, Memory},
    report::ChainsReport,
    supervisor::clone_guard::{NO_RANDOMNESS, Renewals, random_seed},
    supervisor::dns::{LaneSink, Names, Sockets},
    supervisor::externals::{Externals, RENEW},
    supervisor::fact_base::Knowledge,
    supervisor::namespace::{Next, Watcher, follow_changes},
    supervisor::suite_fit::SuiteFit,
    supervisor::uevents::Uevents,
};

/// Events of the lanes that wait for the control plane.
pub(crate) const EVENTS: usize = 1_024;
/// How often facts are folded, and destinations whose time is over looked for.
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// Everything that is known before anything is touched.
pub(crate) struct Protection {
    /// The configuration.
    pub config: Config,
    /// The tenant's keys.
    pub keys: KeyRing,
    /// The authority, what is revoked, and this pod's certificate.
    pub(crate) credentials: Credentials,
    /// The pod's DNS.
    pub names: Names,
    /// Where the control socket goes.
    pub control: PathBuf,
    /// What was done for the memory before the keys came into it.
    pub memory: Memory,
    /// The kernel's events, where it tells them.
    pub(crate) uevents: Option<Uevents>,
}

/// Protects the calling thread's namespace until a signal, `down`, or the end of the device.
///
/// A signal ends the program and leaves chains and unreachable routes: the namespace stays closed until `down`, or until
/// the next `up` takes over.
///
/// # Errors
/// A [`Failure`]; what it could not finish it has undone.
pub(crate) fn run(protection: Protection) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::runtime(format_args!("runtime: {error}")))?;
    runtime.block_on(protect(protection))
}

/// Removes what a dead `up` left in the calling thread's namespace.
///
/// # Errors
/// A [`Failure`].
pub(crate) fn clean() -> Result<Cleaned, Failure> {
    // The interface and the device are found by what the capture left; these names are for messages.
    let named = |name: &str| interface(name);
    Ok(Capture::clean(named("eth0")?, named("tenc0")?)?)
}

async fn protect(protection: Protection) -> Result<(), Failure> {
    let Protection { config, keys, mut credentials, names, control, memory, uevents } = protection;
    let tenant = *keys.tenant_id();
    let (keys, key_fault) = (Arc::new(keys), KeyFault::default());
    let mut terminate = signals(SignalKind::terminate())?;
    let mut interrupt = signals(SignalKind::interrupt())?;
    // Whatever may fail for a reason of its own comes before the capture touches anything.
    let offload = config.network.offload;
    let count = config.network.lanes;
    let transports = (0..count.get()).map(|lane| transport(&config, lane)).collect::<Result<Vec<_>, _>>()?;
    let raws = (0..count.get()).map(|_| RawSockets::open()).collect::<io::Result<Vec<_>>>();
    let raws = raws.map_err(|error| io_failure("raw socket", error))?;
    let monitor = Monitor::open().map_err(|error| io_failure("netlink", error))?;
    let mut table = SocketTable::open().map_err(|error| io_failure("sock_diag", error))?;
    let control = ControlSocket::bind(&control).map_err(|error| io_failure("control socket", error))?;
    let plan = plan(&config, &names)?;
    let tun = plan.tun;
    let capture = Capture::install_queues(plan, offload.device(), count)?;

    let addresses = capture.addresses();
    let fit = SuiteFit::new(config.tenant.suite, &config.network.interface, capture.mtu());
    if let Some(reason) = fit.problem(&addresses) {
        return Err(undo(capture, Failure::new(Exit::Usage, reason)));
    }
    let sockets = match names.nameservers.is_empty() {
        true => None,
        false => match Sockets::listen(&addresses, tun, 0) {
            Ok(sockets) => Some(sockets),
            Err(error) => return Err(undo(capture, io_failure("DNS listener", error))),
        },
    };
    let port = sockets.as_ref().map_or(0, |sockets| sockets.port);
    let Ok(hash_key) = getrandom::u64() else {
        return Err(undo(capture, Failure::runtime(NO_RANDOMNESS)));
    };
    let knowledge = Knowledge::new(static_facts(&config, capture.gateways()));
    let mut tunnels = match tunnels(&config, &names, port, keys.clone(), &addresses, &knowledge, hash_key) {
        Ok(tunnels) => tunnels,
        Err(failure) => return Err(undo(capture, failure)),
    };
    if let Some(own) = tunnels.first().map(Tunnel::peer_id) {
        for update in credentials.attach(own, tenant) {
            tunnels.iter_mut().for_each(|tunnel| update.clone().apply(tunnel));
        }
    }
    let chains = Arc::new(Mutex::new(ChainsReport::default()));
    let channels = (0..count.get()).map(|_| lane::channel()).collect::<io::Result<(Vec<_>, Vec<_>)>>();
    let (lanes, inboxes) = match channels {
        Ok((handles, inboxes)) => (Lanes::new(handles), inboxes),
        Err(error) => return Err(undo(capture, io_failure("wake-up", error))),
    };
    let (events, mut heard) = mpsc::channel(EVENTS);
    let mut renewals = Renewals::new(uevents);
    let hardening = hardening::keep_network(memory);
    let about = About {
        project: config
            .tenant
            .project
            .clone()
            .or_else(|| names.project.as_ref().map(|project| project.namespace().to_owned())),
        fit: fit.clone(),
        chains: chains.clone(),
        identity: credentials.report(),
        key_fault: key_fault.clone(),
        renewal: renewals.report(),
        unknown: match config.policy.unknown {
            Unknown::Drop => "drop",
            Unknown::Plain => "plain",
        },
        enforce: config.policy.enforce,
        hardening,
    };
    let mut paths = Vec::with_capacity(tunnels.len());
    let parts = capture.queues().iter().zip(transports).zip(raws).zip(tunnels).zip(inboxes);
    for ((((device, mut transport), raw), tunnel), inbox) in parts {
        transport.drain_path_errors();
        paths.push(DataPath {
            lane: tunnel.lane(),
            lanes: lanes.clone(),
            device: device.clone(),
            offload,
            transport,
            tunnel,
            raw,
            opening: Opening::default(),
            inbox,
            events: events.clone(),
            about: about.clone(),
            addresses: addresses.clone(),
            freshness: renewals.freshness(),
            renewal: 0,
            fresh: true,
            control: vec![0; DATAGRAM].into(),
        });
    }
    drop(events);
    let mut threads = match Threads::start(paths, &lanes) {
        Ok(threads) => threads,
        Err(error) => return Err(undo(capture, io_failure("thread", error))),
    };

    let knowledge = Arc::new(Mutex::new(knowledge));
    let sink = LaneSink::new(lanes.clone(), knowledge.clone());
    let mut dns = Dns { names, sink, port, tun, task: None };
    dns.start(sockets);
    let serving = tokio::spawn({
        let lanes = lanes.clone();
        async move { control.serve(lanes).await }
    });
    let key_source = KeySource::new(config.tenant.key_file.clone(), keys, key_fault);
    let rotating = tokio::spawn(rotation::follow_keys(key_source, lanes.clone()));
    let mut watch =
        Watcher { capture, lanes: lanes.clone(), externals: Externals::default(), addresses, fit, chains };
    let mut changes = match follow_changes(monitor) {
        Ok(changes) => changes,
        Err(error) => return Err(undo(watch.capture, io_failure("thread", error))),
    };
    ready();

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut credential_changes = credentials.changes();
    let mut renewed = Instant::now();
    let over = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            ended = threads.next_end() => break Some(ended),
            event = heard.recv() => match event {
                Some(event) => watch.hear(event),
                None => tokio::task::yield_now().await,
            },
            Some(change) = changes.recv() => match watch.follow(change) {
                Next::Nothing => {}
                Next::Addresses => dns.restart(&watch.addresses),
                Next::Over => break Some(Ended::DeviceGone),
            },
            sign = renewals.sign() => match renewals.renew(sign, &watch.addresses, &lanes).await {
                Ok(own) => {
                    for update in credentials.attach(own, tenant) {
                        let _ = lanes.tell_all(|| update.clone().into()).await;
                    }
                }
                Err(failure) => {
                    tracing::error!("{failure}");
                    break Some(Ended::Failed(io::ErrorKind::Other.into()));
                }
            },
            () = credential_changes.next() => {
                for update in credentials.read_changes() {
                    let _ = lanes.tell_all(|| update.clone().into()).await;
                }
            }
            _ = tick.tick() => {
                let now = Instant::now();
                let base = knowledge.lock().unwrap_or_else(PoisonError::into_inner).fold(now, hash_key);
                if let Some(base) = base {
                    let base = Arc::new(base);
                    let _ = lanes.tell_all(|| Command::Directory(base.clone())).await;
                }
                let renew = now.saturating_duration_since(renewed) >= RENEW;
                if renew {
                    renewed = now;
                }
                watch.tend(now, renew, &mut table).await;
            }
        }
    };
    serving.abort();
    rotating.abort();
    dns.stop();
    let told = over.is_none();
    match threads.finish(over).await? {
        // By signal: closed, until `down`.
        Ended::Stopped if told => {
            tracing::info!("ended; the namespace stays closed until `tencrypt down`");
            Ok(())
        }
        Ended::Stopped => Ok(watch.capture.remove()?),
        Ended::DeviceGone => {
            Err(Failure::runtime("the TUN device was removed; the namespace stays as it is now"))
        }
        Ended::Failed(error) => Err(Failure::runtime(format_args!("data path: {error}"))),
    }
}

/// The proxy's task, which starts anew when the pod's addresses change.
struct Dns {
    names: Names,
    sink: LaneSink,
    port: u16,
    tun: InterfaceName,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Dns {
    fn start(&mut self, sockets: Option<Sockets>) {
        let (Some(sockets), Some(project)) = (sockets, self.names.project.clone()) else { return };
        let (names, sink) = (self.names.clone(), self.sink.clone());
        self.task = Some(tokio::spawn(async move { sockets.serve(&names, project, sink).await }));
    }

    /// Listens at the addresses the pod has now, on the port that the data path redirects to.
    fn restart(&mut self, addresses: &[IpAddr]) {
        if self.task.is_none() {
            return;
        }
        self.stop();
        match Sockets::listen(addresses, self.tun, self.port) {
            Ok(sockets) if sockets.port == self.port => self.start(Some(sockets)),
            Ok(_) => tracing::error!("the DNS proxy's port is taken; names are not answered"),
            Err(error) => tracing::error!(%error, "DNS listener; names are not answered"),
        }
    }

    fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn signals(kind: SignalKind) -> Result<tokio::signal::unix::Signal, Failure> {
    signal(kind).map_err(|error| io_failure("signal", error))
}

/// The transport of a lane: its port is the tenant's plus its number.
fn transport(config: &Config, lane: u8) -> Result<UdpTransport, Failure> {
    let port = config.network.port.saturating_add(lane.into());
    let bound = UdpTransport::bind(port, |socket: &Socket| mark_socket(socket));
    let mut transport = bound.map_err(|error| {
        let exit = match &error {
            BindError::SetUp { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Exit::NotPermitted
            }
            _ => Exit::Runtime,
        };
        Failure::new(exit, chain(&error))
    })?;
    transport.set_offload(config.network.offload.transport());
    Ok(transport)
}

fn plan(config: &Config, names: &Names) -> Result<CapturePlan, Failure> {
    let of_class = |class: Class| -> Vec<IpNet> {
        config.facts.iter().filter(|fact| fact.class == class).map(|fact| fact.prefix).collect()
    };
    let mut exempt = config.network.exempt.clone();
    exempt.extend(of_class(Class::Exempt));
    Ok(CapturePlan {
        interface: interface(&config.network.interface)?,
        tun: interface(&config.network.tun)?,
        port: config.network.port,
        protected: config.network.protected.clone(),
        exempt,
        external: of_class(Class::External),
        internal: of_class(Class::Internal),
        nameservers: names.nameservers.clone(),
        unknown: match config.policy.unknown {
            Unknown::Drop => UnknownSources::Drop,
            Unknown::Plain => UnknownSources::Accept,
        },
        enforce: config.policy.enforce,
        queue: CapturePlan::QUEUE,
    })
}

fn interface(name: &str) -> Result<InterfaceName, Failure> {
    name.parse().map_err(|error| Failure::new(Exit::Usage, error))
}

fn static_facts(config: &Config, gateways: &[IpAddr]) -> Vec<Fact> {
    let exempt =
        config.network.exempt.iter().copied().chain(gateways.iter().map(|gateway| IpNet::from(*gateway)));
    let exempt = exempt.map(|prefix| Fact::new(prefix, Class::Exempt, FactSource::Static, None));
    config.facts.iter().cloned().chain(exempt).collect()
}

/// The tunnel of each lane, all of one identity.
fn tunnels(
    config: &Config,
    names: &Names,
    proxy_port: u16,
    keys: Arc<KeyRing>,
    addresses: &[IpAddr],
    knowledge: &Knowledge,
    hash_key: u64,
) -> Result<Vec<Tunnel>, Failure> {
    let mut told = TunnelConfig::new(config.network.protected.iter().copied());
    told.suite = config.tenant.suite;
    told.vnet = config.network.offload.checksums();
    told.port = config.network.port;
    told.unknown = match config.policy.unknown {
        Unknown::Drop => tencrypt::Unknown::Drop,
        Unknown::Plain => tencrypt::Unknown::Plain,
    };
    told.external = match config.policy.external {
        External::Dns => tencrypt::External::Dns,
        External::Directory => tencrypt::External::Directory,
    };
    let nameservers = names.nameservers.clone();
    told.dns = (!nameservers.is_empty()).then_some(DnsHairpin { nameservers, proxy_port });
    let identity = Identity::generate(random_seed()?, addresses);
    let now = Instant::now();
    let first = Tunnel::new(
        Arc::new(told),
        LaneId::ZERO,
        keys,
        identity,
        Arc::new(knowledge.directory(hash_key)),
        random_seed()?,
        now,
    );
    let mut tunnels = vec![first];
    for lane in (1..config.network.lanes.get()).filter_map(LaneId::new) {
        let sibling = tunnels[0].sibling(lane, random_seed()?, now);
        tunnels.push(sibling);
    }
    Ok(tunnels)
}

/// Takes back what was installed, but never opens a namespace that a program which died had left closed.
fn undo(capture: Capture, failure: Failure) -> Failure {
    if capture.took_over() {
        return failure;
    }
    if let Err(error) = capture.remove() {
        tracing::warn!(%error, "could not undo the capture");
    }
    failure
}

fn io_failure(what: &str, error: io::Error) -> Failure {
    let exit =
        if error.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Runtime };
    Failure::new(exit, format_args!("{what}: {error}"))
}

/// Tells whoever started this that traffic is protected from now on.
fn ready() {
    let mut out = io::stdout().lock();
    // Nobody may be reading.
    let _ = writeln!(out, "ready").and_then(|()| out.flush());
}

impl From<CaptureError> for Failure {
    fn from(error: CaptureError) -> Self {
        let exit = match &error {
            CaptureError::Permission { .. } => Exit::NotPermitted,
            CaptureError::SteeringRefused { .. } => {
                let reason = chain(&error);
                return Self::new(
                    Exit::NotPermitted,
                    format_args!("more than one lane: {reason}; it takes CAP_BPF, or `lanes = 1`"),
                );
            }
            _ => Exit::Runtime,
        };
        Self::new(exit, chain(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_the_kernel_refuses_to_steer_are_not_permitted_and_the_way_out_is_named() {
        let source = io::Error::from_raw_os_error(1);
        let failure = Failure::from(CaptureError::SteeringRefused { source });
        assert_eq!(failure.exit, Exit::NotPermitted);
        let line = failure.to_string();
        assert!(line.contains("more than one lane") && line.contains("`lanes = 1`"), "{line}");
        assert!(line.contains("Operation not permitted") && !line.contains('\n'), "{line}");
    }
}
