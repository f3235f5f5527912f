//! The pod's DNS: its resolv.conf, the proxy's sockets in its namespace, and the way of facts into the lane.

use std::{
    collections::{BTreeSet, HashMap},
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tencrypt::directory::{Class, Fact, FactChange, FactSource};
use tencrypt_dns::{
    Project, Ranges, ResolvConf,
    interceptor::Config as ProxyConfig,
    proxy::{FactSink, Listeners, Proxy, ProxyError, UpstreamSockets},
    resolv_conf::Nameserver,
};
use tencrypt_tun::{InterfaceName, NetNs, bind_to_interface, mark_socket};

use crate::{
    config::Config,
    failure::{Exit, Failure},
    lane::{
        channel::{Command, Lanes},
        events::Events,
    },
    os::files::ReadError,
    supervisor::{fact_base::FactBase, resolv_conf::ResolvConfFile},
};

/// Ports that are tried for one that is free at every address, over UDP and TCP.
const PORT_TRIES: u32 = 32;

/// The pod's DNS, by its resolv.conf and the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The pod's project, if anything says so.
    pub project: Option<Project>,
    /// Nameservers whose port 53 is captured; empty if DNS is not.
    pub nameservers: Vec<IpAddr>,
    /// Nameservers of the interface's link, `fe80::1%eth0`: no route leads their packets anywhere but to the link, so
    /// applications ask them themselves, and nobody sees the answers.
    pub unseen: Vec<Ipv6Addr>,
    /// The servers that queries go to; empty: the nameserver that was asked.
    pub upstreams: Vec<SocketAddr>,
    /// Most queries a second.
    pub rate: u32,
    /// Names of the project's own may have addresses that are neither protected nor exempt.
    pub external_names: bool,
}

impl Names {
    /// Reads what concerns DNS, in the file at `resolv_conf` or that of the namespace.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn find(
        config: &Config,
        resolv_conf: Option<&Path>,
        namespace: &NetNs,
    ) -> Result<Self, Failure> {
        let file = ResolvConfFile::of(resolv_conf, namespace);
        Self::of(config, file.read(), &file)
    }

    /// Takes what concerns DNS from the content of a resolv.conf, which messages call `file`.
    ///
    /// # Errors
    /// DNS is to be captured and it cannot be said whose: no project, no nameserver, or one that cannot be captured.
    pub(crate) fn of(
        config: &Config,
        content: Result<Vec<u8>, ReadError>,
        file: &dyn fmt::Display,
    ) -> Result<Self, Failure> {
        let usage = |reason: String| Failure::new(Exit::Usage, reason);
        let resolv_conf = match content {
            Ok(bytes) => ResolvConf::parse(&bytes).map_err(|error| usage(format!("{file}: {error}")))?,
            Err(_) if !config.dns.capture || says_all(config) => {
                ResolvConf::parse(b"").map_err(|error| usage(error.to_string()))?
            }
            Err(error) => return Err(usage(format!("{file}: {error}"))),
        };
        let unseen = unseen(&resolv_conf);
        let project = config.tenant.project_among(&resolv_conf.search);
        let (rate, external_names) = (config.dns.rate, config.dns.external_names);
        if !config.dns.capture {
            let (nameservers, upstreams) = (Vec::new(), Vec::new());
            return Ok(Self { project: project.ok(), nameservers, unseen, upstreams, rate, external_names });
        }
        let project = project.map_err(|error| {
            let others = "name another file by `resolv_conf` of [dns], or set `capture = false` there";
            usage(format!("{file}: {error}; or {others}"))
        })?;
        let mut nameservers = resolv_conf.capturable();
        let upstreams = config.dns.upstream.clone();
        if nameservers.is_empty() {
            // A resolver inside the pod: its own upstream servers are captured instead.
            nameservers = upstreams.iter().map(|server| server.ip()).collect();
        }
        if nameservers.is_empty() {
            return Err(usage(no_nameserver(file, &unseen)));
        }
        Ok(Self { project: Some(project), nameservers, unseen, upstreams, rate, external_names })
    }
}

/// Returns why DNS cannot be captured where no nameserver can be but those on the link, which are `unseen`.
fn no_nameserver(file: &dyn fmt::Display, unseen: &[Ipv6Addr]) -> String {
    let linked = match unseen {
        [] => String::new(),
        linked => {
            let named: Vec<String> = linked.iter().map(Ipv6Addr::to_string).collect();
            format!(" ({} can be reached on its link alone)", named.join(", "))
        }
    };
    format!(
        "{file}: no nameserver that routing can capture{linked}; name the real ones in `upstream` of [dns]"
    )
}

/// Returns true if the configuration says everything that resolv.conf is read for.
fn says_all(config: &Config) -> bool {
    let tenant = &config.tenant;
    tenant.project.is_some() && tenant.cluster_domain.is_some() && !config.dns.upstream.is_empty()
}

/// The nameservers that are reached on their own link alone, each once.
fn unseen(resolv_conf: &ResolvConf) -> Vec<Ipv6Addr> {
    let scoped = resolv_conf.nameservers.iter().filter_map(|server| match server {
        Nameserver::Scoped { address, .. } if address.is_unicast_link_local() => Some(*address),
        _ => None,
    });
    scoped.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The proxy of a pod.
pub(super) type PodProxy = Proxy<MarkedSockets, LaneSink>;

/// The proxy's port, kept for it while it listens nowhere.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    device: InterfaceName,
    /// At the loopback address, on the device: nobody reaches them, and nobody else is given the port.
    _held: [Socket; 2],
}

impl Port {
    fn reserve(device: InterfaceName) -> io::Result<Self> {
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let udp = bound(SocketAddr::new(loopback, 0), Type::DGRAM, device)?;
        let number = udp.local_addr()?.as_socket().map_or(0, |address| address.port());
        let tcp = bound(SocketAddr::new(loopback, number), Type::STREAM, device)?;
        Ok(Self { number, device, _held: [udp, tcp] })
    }

    /// Returns the port's number.
    pub(crate) const fn number(&self) -> u16 {
        self.number
    }

    /// Listens at `address` on this port, on the device only: nobody on the network can reach it.
    ///
    /// # Errors
    /// The port is taken there, or the kernel refuses a socket.
    pub(super) fn listen(&self, address: IpAddr) -> io::Result<Listeners> {
        let at = SocketAddr::new(address, self.number);
        let udp = bound(at, Type::DGRAM, self.device)?;
        let tcp = bound(at, Type::STREAM, self.device)?;
        tcp.listen(128)?;
        Ok(Listeners { udp: vec![udp.into()], tcp: vec![tcp.into()] })
    }
}

/// The proxy's listeners and the port they share.
#[derive(Debug)]
pub(crate) struct Sockets {
    pub(super) listeners: Listeners,
    /// The port.
    pub(crate) port: Port,
}

impl Sockets {
    /// Listens at each of `addresses` on one port of the kernel's choice, so that no application's is taken.
    ///
    /// # Errors
    /// No port is free at every address, or the kernel refuses a socket.
    pub(crate) fn listen(addresses: &[IpAddr], device: InterfaceName) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..PORT_TRIES {
            match Port::reserve(device).and_then(|port| Self::listen_on(port, addresses)) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    fn listen_on(port: Port, addresses: &[IpAddr]) -> io::Result<Self> {
        let mut listeners = Listeners::default();
        for address in addresses {
            let Listeners { udp, tcp } = port.listen(*address)?;
            listeners.udp.extend(udp);
            listeners.tcp.extend(tcp);
        }
        Ok(Self { listeners, port })
    }
}

impl Names {
    /// Makes the proxy that serves from `listeners`, with limits that `files` more open files allow. It must be run on a
    /// thread in the namespace, within a tokio runtime.
    ///
    /// # Errors
    /// An upstream server is the proxy itself, or a listener is not bound.
    pub(super) fn proxy(
        &self,
        project: Project,
        (ranges, files): (Ranges, usize),
        listeners: Listeners,
        sink: LaneSink,
    ) -> Result<PodProxy, ProxyError> {
        let mut config = ProxyConfig::new(project, self.nameservers.clone(), ranges);
        config.upstreams = self.upstreams.clone();
        config.rate = self.rate;
        config.external_names = self.external_names;
        config.limit_files(files);
        Proxy::new(config, listeners, MarkedSockets, sink)
    }
}

fn bound(address: SocketAddr, kind: Type, device: InterfaceName) -> io::Result<Socket> {
    let socket = socket(address.ip(), kind, device)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn socket(address: IpAddr, kind: Type, device: InterfaceName) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, None)?;
    socket.set_nonblocking(true)?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    } else {
        socket.set_freebind_v4(true)?;
    }
    bind_to_interface(&socket, device)?;
    Ok(socket)
}

/// Upstream sockets: marked, so that they pass the tunnel, in the namespace of the thread that asks for them.
#[derive(Debug, Clone, Copy)]
pub(super) struct MarkedSockets;

impl UpstreamSockets for MarkedSockets {
    fn udp(&self, to: SocketAddr) -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        mark_socket(&socket)?;
        socket.connect(&to.into())?;
        Ok(socket.into())
    }

    fn tcp(&self, to: SocketAddr) -> io::Result<OwnedFd> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        mark_socket(&socket)?;
        Ok(socket.into())
    }
}

/// The time that a fact outlives its answer's TTL in the lanes, so that the same answer need not be told again within
/// that time. TTLs are whole seconds: less would be lost in their rounding.
const TTL_SLACK: Duration = Duration::from_secs(1);

/// Addresses that are remembered as told. Far below the 4,096 prefixes of a lane's delta.
const MAX_RECENT: usize = 1_024;

/// Brings facts into the lanes, and remembers them for the next base.
#[derive(Debug, Clone)]
pub(crate) struct LaneSink {
    lanes: Lanes,
    events: Events,
    facts: Arc<Mutex<FactBase>>,
    recent: Arc<Mutex<RecentFacts>>,
}

/// Facts that the lanes were told within the last [`TTL_SLACK`], by address: class, end and when it stood.
///
/// The name is left out: an address has the class that any name gives it, as long as the longest-lived one says. One
/// that the lane has dropped for lack of room meanwhile is unknown to it: asked, never bypassed.
#[derive(Debug, Default)]
struct RecentFacts(HashMap<IpNet, (Class, Instant, Instant)>);

impl RecentFacts {
    fn note(&mut self, fact: &Fact, now: Instant) {
        let Some(expires) = fact.expires else { return };
        if self.0.len() >= MAX_RECENT {
            self.0.clear();
        }
        self.0.insert(fact.prefix, (fact.class, expires, now));
    }

    fn covers(&self, fact: &Fact, now: Instant) -> bool {
        self.0.get(&fact.prefix).is_some_and(|(class, expires, at)| {
            *class == fact.class
                && fact.expires.is_some_and(|wanted| wanted <= *expires)
                && now.saturating_duration_since(*at) < TTL_SLACK
        })
    }
}

impl LaneSink {
    /// A sink that has told the lanes nothing yet.
    #[must_use]
    pub(crate) fn new(lanes: Lanes, events: Events, facts: Arc<Mutex<FactBase>>) -> Self {
        Self { lanes, events, facts, recent: Arc::default() }
    }
}

impl FactSink for LaneSink {
    async fn apply(&self, mut facts: Vec<Fact>) {
        if facts.is_empty() {
            return;
        }
        for expires in facts.iter_mut().filter_map(|fact| fact.expires.as_mut()) {
            *expires += TTL_SLACK;
        }
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).learn(&facts);
        let changes: Vec<FactChange> = facts.iter().cloned().map(FactChange::Learn).collect();
        // The answer waits for all: its flow may take any of them.
        if let Err(error) = self.lanes.ask_all(|done| Command::Facts { changes: changes.clone(), done }).await
        {
            // Without its facts the answer leads to an unknown destination: asked, never bypassed.
            tracing::warn!(%error, "facts of a DNS answer did not reach the data path");
            return;
        }
        // A lane may have forgotten that it opened one of these.
        let internal = facts.iter().filter(|fact| fact.class == Class::Internal);
        internal.for_each(|fact| self.events.close(fact.prefix.addr()));
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for fact in &facts {
            recent.note(fact, now);
            if let FactSource::Dns(name) = &fact.source {
                tracing::debug!(%name, address = %fact.prefix, class = ?fact.class, "DNS answered");
            }
        }
    }

    fn stands(&self, facts: &[Fact]) -> bool {
        let now = Instant::now();
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        facts.iter().all(|fact| recent.covers(fact, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigFile;

    fn fact(address: &str, class: Class, expires: Instant) -> Fact {
        let address: IpAddr = address.parse().unwrap();
        Fact::new(address, class, FactSource::Dns("a.test".into()), Some(expires))
    }

    #[test]
    fn only_what_was_told_lately_of_the_same_class_and_for_as_long_need_not_be_told_again() {
        let (now, ttl) = (Instant::now(), Duration::from_secs(30));
        let mut recent = RecentFacts::default();
        recent.note(&fact("10.0.0.1", Class::External, now + ttl), now);
        let covers = |address, class, expires, at| recent.covers(&fact(address, class, expires), at);
        assert!(covers("10.0.0.1", Class::External, now + ttl, now));
        assert!(!covers("10.0.0.2", Class::External, now + ttl, now), "another address");
        assert!(!covers("10.0.0.1", Class::Internal, now + ttl, now), "another class");
        assert!(!covers("10.0.0.1", Class::External, now + ttl + Duration::from_millis(1), now), "longer");
        assert!(!covers("10.0.0.1", Class::External, now + ttl, now + TTL_SLACK), "told too long ago");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Instant::now();
        let mut recent = RecentFacts::default();
        for number in 0..3 * MAX_RECENT as u32 {
            let address = std::net::Ipv4Addr::from(0x0a00_0000 | number).to_string();
            recent.note(&fact(&address, Class::External, now + TTL_SLACK), now);
            assert!(recent.0.len() <= MAX_RECENT);
        }
    }

    /// Reads what there is of DNS by this file; the error is the line that refuses it.
    fn found(resolv_conf: &Path, more: &str) -> Result<Names, String> {
        let text = format!(
            "[tenant]\nkey_file = \"k\"\nproject = \"shop\"\ncluster_domain = \"cluster.local\"\n[network]\n\
             protected = [\"10.0.0.0/8\"]\n[dns]\nresolv_conf = \"{}\"\n{more}",
            resolv_conf.display()
        );
        let ConfigFile { config, files } = ConfigFile::parse(&text, Path::new("c.toml")).unwrap();
        Names::find(&config, files.resolv_conf.as_deref(), &NetNs::current().unwrap())
            .map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_file_that_is_not_there_is_not_asked_for_what_the_configuration_says() {
        let absent = std::env::temp_dir().join(format!("tencrypt-absent-{}", std::process::id()));
        let refused = found(&absent, "").map(drop).expect_err("nobody names a server");
        assert!(refused.contains("tencrypt-absent"), "{refused}");
        let names = found(&absent, "upstream = [\"10.9.9.9\"]\n").expect("all is said");
        assert_eq!(names.nameservers, [IpAddr::from([10, 9, 9, 9])]);
    }

    #[test]
    fn where_the_only_nameserver_is_on_the_link_the_line_names_it() {
        let path = std::env::temp_dir().join(format!("tencrypt-linked-{}", std::process::id()));
        std::fs::write(&path, "nameserver fe80::1%eth0\n").unwrap();
        let refused = found(&path, "").map(drop).expect_err("it cannot be captured");
        let names = found(&path, "upstream = [\"10.9.9.9\"]\n").map(|names| names.unseen);
        std::fs::remove_file(&path).unwrap();
        assert!(refused.contains("fe80::1 can be reached on its link alone"), "{refused}");
        assert_eq!(names, Ok(vec!["fe80::1".parse().unwrap()]));
    }
}
