//! The pod's DNS: its resolv.conf, the proxy's sockets in its namespace, and the way of facts into the lane.

use std::{
    collections::HashMap,
    fs,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};
use tencrypt::directory::{Class, Fact, FactChange};
use tencrypt_dns::{
    Project, Ranges, ResolvConf,
    interceptor::Config as ProxyConfig,
    proxy::{FactSink, Listeners, Proxy, ProxyError, UpstreamSockets},
};
use tencrypt_tun::{InterfaceName, NetNs, bind_to_interface, mark_socket};

use crate::{
    config::Config,
    failure::{Exit, Failure},
    lane::{
        channel::{Command, Lanes},
        events::Events,
    },
    supervisor::fact_base::FactBase,
};

/// Longest resolv.conf that is read, in bytes. glibc reads lines of any length; real files have a few hundred bytes.
const LIMIT: u64 = 1 << 20;

/// Ports that are tried for one that is free at every address, over UDP and TCP.
const PORT_TRIES: u32 = 32;

/// The pod's DNS, by its resolv.conf and the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    /// The pod's project, if anything says so.
    pub project: Option<Project>,
    /// Nameservers whose port 53 is captured; empty if DNS is not.
    pub nameservers: Vec<IpAddr>,
    /// The servers that queries go to; empty: the nameserver that was asked.
    pub upstreams: Vec<SocketAddr>,
    /// Most queries a second.
    pub rate: u32,
    /// Names of the project's own may have addresses that are neither protected nor exempt.
    pub external_names: bool,
}

impl Names {
    /// Reads what concerns DNS.
    ///
    /// # Errors
    /// DNS is to be captured and it cannot be said whose: no project, no nameserver, or one that cannot be captured.
    pub(crate) fn find(config: &Config, namespace: &NetNs) -> Result<Self, Failure> {
        let path = config.dns.resolv_conf.clone().unwrap_or_else(|| locate(namespace));
        let usage = |reason: String| Failure::new(Exit::Usage, reason);
        let resolv_conf = match read(&path) {
            Ok(bytes) => {
                ResolvConf::parse(&bytes).map_err(|error| usage(format!("{}: {error}", path.display())))?
            }
            Err(_) if !config.dns.capture => {
                ResolvConf::parse(b"").map_err(|error| usage(error.to_string()))?
            }
            Err(error) => return Err(usage(format!("{}: {error}", path.display()))),
        };
        let project = config.tenant.project_among(&resolv_conf.search);
        let (rate, external_names) = (config.dns.rate, config.dns.external_names);
        if !config.dns.capture {
            let (nameservers, upstreams) = (Vec::new(), Vec::new());
            return Ok(Self { project: project.ok(), nameservers, upstreams, rate, external_names });
        }
        let project = project.map_err(|error| {
            let others = "name another file by `resolv_conf` of [dns], or set `capture = false` there";
            usage(format!("{}: {error}; or {others}", path.display()))
        })?;
        let mut nameservers = resolv_conf.capturable();
        let upstreams = config.dns.upstream.clone();
        if nameservers.is_empty() {
            // A resolver inside the pod: its own upstream servers are captured instead.
            nameservers = upstreams.iter().map(|server| server.ip()).collect();
        }
        if nameservers.is_empty() {
            return Err(usage(format!(
                "{}: no nameserver that routing can capture; name the real ones in `upstream` of [dns]",
                path.display()
            )));
        }
        Ok(Self { project: Some(project), nameservers, upstreams, rate, external_names })
    }
}

/// The proxy of a pod.
pub(super) type PodProxy = Proxy<MarkedSockets, LaneSink>;

/// The proxy's listeners and the port they share.
#[derive(Debug)]
pub(crate) struct Sockets {
    listeners: Listeners,
    /// The port.
    pub port: u16,
}

impl Sockets {
    /// Listens at each of `addresses` on one port, on the device only: nobody on the network can reach it. `preferred`
    /// is taken if it is free; 0 leaves the choice to the kernel, so that no application's port is taken.
    ///
    /// # Errors
    /// No port is free at every address, or the kernel refuses a socket.
    pub(crate) fn listen(addresses: &[IpAddr], device: InterfaceName, preferred: u16) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for attempt in 0..PORT_TRIES {
            let wanted = if attempt == 0 { preferred } else { 0 };
            match Self::listen_at(addresses, device, wanted) {
                Ok(sockets) => return Ok(sockets),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn listen_at(addresses: &[IpAddr], device: InterfaceName, mut port: u16) -> io::Result<Self> {
        let mut listeners = Listeners::default();
        for address in addresses {
            let udp = socket(*address, Type::DGRAM, Protocol::UDP, device)?;
            udp.bind(&SocketAddr::new(*address, port).into())?;
            let udp = UdpSocket::from(udp);
            port = udp.local_addr()?.port();
            let tcp = socket(*address, Type::STREAM, Protocol::TCP, device)?;
            tcp.bind(&SocketAddr::new(*address, port).into())?;
            tcp.listen(128)?;
            listeners.udp.push(udp);
            listeners.tcp.push(TcpListener::from(tcp));
        }
        Ok(Self { listeners, port })
    }

    /// Makes the proxy that serves from them. It must be run on a thread in the namespace, within a tokio runtime.
    ///
    /// # Errors
    /// An upstream server is the proxy itself, or a listener is not bound.
    pub(super) fn proxy(
        self,
        names: &Names,
        project: Project,
        ranges: Ranges,
        sink: LaneSink,
    ) -> Result<PodProxy, ProxyError> {
        let mut config = ProxyConfig::new(project, names.nameservers.clone(), ranges);
        config.upstreams = names.upstreams.clone();
        config.rate = names.rate;
        config.external_names = names.external_names;
        Proxy::new(config, self.listeners, MarkedSockets, sink)
    }
}

fn socket(address: IpAddr, kind: Type, protocol: Protocol, device: InterfaceName) -> io::Result<Socket> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, kind, Some(protocol))?;
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
        facts.iter().for_each(|fact| recent.note(fact, now));
    }

    fn stands(&self, facts: &[Fact]) -> bool {
        let now = Instant::now();
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        facts.iter().all(|fact| recent.covers(fact, now))
    }
}

/// Finds the pod's resolv.conf: by the process in whose directory below /proc the namespace was opened, by the name that
/// `ip netns` gave it (ip-netns(8)), or else this host's.
fn locate(namespace: &NetNs) -> PathBuf {
    let found = namespace.path().and_then(own_resolv_conf).filter(|path| path.exists());
    found.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf"))
}

/// Path of the resolv.conf that belongs to the namespace whose file is at `path`, if it is of a kind that has one.
fn own_resolv_conf(path: &Path) -> Option<PathBuf> {
    if let Ok(below) = path.strip_prefix("/proc") {
        let (process, _) = below.to_str()?.split_once("/ns/")?;
        return Some(Path::new("/proc").join(process).join("root/etc/resolv.conf"));
    }
    let name = path.strip_prefix("/run/netns").or_else(|_| path.strip_prefix("/var/run/netns")).ok()?;
    Some(Path::new("/etc/netns").join(name).join("resolv.conf"))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tencrypt::directory::FactSource;

    use super::*;

    fn fact(address: &str, class: Class, expires: Instant) -> Fact {
        let address: IpAddr = address.parse().unwrap();
        Fact::new(address, class, FactSource::Dns("a.test".into()), Some(expires))
    }

    #[test]
    fn the_resolv_conf_of_a_namespace_is_known_by_its_process_or_its_name() {
        let of = |path: &str| own_resolv_conf(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(of("/proc/4711/ns/net").as_deref(), Some("/proc/4711/root/etc/resolv.conf"));
        assert_eq!(of("/proc/self/task/9/ns/net").as_deref(), Some("/proc/self/task/9/root/etc/resolv.conf"));
        assert_eq!(of("/run/netns/shop-1").as_deref(), Some("/etc/netns/shop-1/resolv.conf"));
        assert_eq!(of("/var/run/netns/shop-1").as_deref(), Some("/etc/netns/shop-1/resolv.conf"));
        assert_eq!(of("/tmp/namespace"), None);
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
}
