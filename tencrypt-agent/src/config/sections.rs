//! The sections of the file and what they may say.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use tencrypt::{
    CipherSuite, ExternalAuthority, TunnelConfig, UnansweredPolicy,
    directory::{Class, Fact, FactSource},
    nat::ServicePort,
    packet::{is_host_address, is_tunnel_address},
    record::SessionIndex,
};

use tencrypt_dns::{Name, Project, interceptor::Config as ProxyConfig};
use toml::de::DeTable;

use super::{
    Config, ConfigError, ConfigFile, Dns, Files, Identity, Network, Policy, Tenant,
    document::{Document, Section, Value},
    fact_rules,
};
use crate::config::offload::Offload;

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// Longest name of an interface in bytes: IFNAMSIZ less the NUL (include/uapi/linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;

/// The keys that name files, which the node's agent gives in their place.
const FILES: [(&str, &str); 5] = [
    ("tenant", "key_file"),
    ("identity", "ca"),
    ("identity", "certificate"),
    ("identity", "revoked"),
    ("dns", "resolv_conf"),
];

/// Reads a configuration file.
pub(super) fn file(text: &str, path: &Path) -> Result<ConfigFile, ConfigError> {
    let document = Document { text, path };
    let table = document.parse()?;
    let sections = Sections::of(document, table.get_ref())?;
    // In this order, where more than one thing is wrong.
    let network = read_network(&sections.network)?;
    let tenant = read_tenant(&sections.tenant)?;
    let keys = read_key_file(&sections.tenant, path)?;
    let [ca, certificate, revoked] =
        ["ca", "certificate", "revoked"].map(|key| read_file(&sections.identity, key, path));
    let (ca, certificate, revoked) = (ca?, certificate?, revoked?);
    let identity = read_identity(&sections.identity, &network.protected)?;
    if ca.is_some() {
        sections.identity.required("certificate")?;
    } else {
        let needless = sections.identity.value("revoked").or_else(|| sections.identity.value("services"));
        needless.map_or(Ok(()), |value| Err(value.refuse("means something only with `ca`")))?;
    }
    let config = sections.complete(network, tenant, identity)?;
    let resolv_conf = sections.dns.value("resolv_conf").map(|value| value.string()).transpose()?;
    let resolv_conf = resolv_conf.filter(|name| !name.is_empty()).map(|name| beside(path, name));
    Ok(ConfigFile { config, files: Files { keys, ca, certificate, revoked, resolv_conf } })
}

/// Reads settings that the node's agent gives, and no file holds; `path` stands for it in messages.
pub(super) fn given(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let document = Document { text, path };
    let table = document.parse()?;
    let sections = Sections::of(document, table.get_ref())?;
    for (section, key) in FILES {
        let named = match section {
            "tenant" => &sections.tenant,
            "identity" => &sections.identity,
            _ => &sections.dns,
        };
        if let Some(value) = named.value(key) {
            return Err(value.refuse("names a file; the agent gives its content"));
        }
    }
    let network = read_network(&sections.network)?;
    let tenant = read_tenant(&sections.tenant)?;
    let identity = read_identity(&sections.identity, &network.protected)?;
    let config = sections.complete(network, tenant, identity)?;
    if config.policy.unknown == UnansweredPolicy::Plain {
        // The chains would let the answers of what only the agent's facts call internal in.
        let value = sections.policy.required("unknown")?;
        return Err(value.refuse("cannot be \"plain\" here: the agent's facts say who is of the tenant"));
    }
    Ok(config)
}

/// The sections, whose keys are all known.
struct Sections<'d> {
    root: Section<'d>,
    tenant: Section<'d>,
    network: Section<'d>,
    identity: Section<'d>,
    policy: Section<'d>,
    dns: Section<'d>,
}

impl<'d> Sections<'d> {
    fn of(document: Document<'d>, table: &'d DeTable<'d>) -> Result<Self, ConfigError> {
        let root =
            Section::root(document, table, &["tenant", "network", "identity", "policy", "dns", "fact"])?;
        // Keys first, everywhere: a mistyped one explains why another is missing.
        Ok(Self {
            tenant: root.section("tenant", &["project", "cluster_domain", "key_file", "suite"])?,
            network: root.section(
                "network",
                &["interface", "tun", "port", "protected", "exempt", "lanes", "max_peers", "offload"],
            )?,
            identity: root.section("identity", &["ca", "certificate", "revoked", "services"])?,
            policy: root.section("policy", &["unknown", "external", "enforce", "unprotected_addresses"])?,
            dns: root.section("dns", &["capture", "upstream", "resolv_conf", "rate", "external_names"])?,
            root,
        })
    }

    /// Reads the sections that are left, but for the names of files.
    fn complete(&self, network: Network, tenant: Tenant, identity: Identity) -> Result<Config, ConfigError> {
        let (policy, dns) = (read_policy(&self.policy)?, read_dns(&self.dns)?);
        let facts = read_facts(&self.root, &network.protected)?;
        Ok(Config { tenant, network, identity, policy, dns, facts })
    }
}

fn lanes(value: &Value<'_>, port: u16) -> Result<NonZeroU8, ConfigError> {
    let found = value.integer()?;
    let lanes =
        u8::try_from(found).ok().filter(|lanes| *lanes <= SessionIndex::LANES).and_then(NonZeroU8::new);
    let lanes = lanes
        .ok_or_else(|| value.refuse(format_args!("expected 1 to {}, found {found}", SessionIndex::LANES)))?;
    if port.checked_add(u16::from(lanes.get()) - 1).is_none() {
        return Err(value.refuse(format_args!("{lanes} ports from {port} on are more than there are")));
    }
    Ok(lanes)
}

/// Peers, each lane of one counted: as many as lanes at least, so that any peer can be had.
fn max_peers(value: &Value<'_>) -> Result<u16, ConfigError> {
    let (found, least) = (value.integer()?, 4 * u16::from(SessionIndex::LANES));
    u16::try_from(found)
        .ok()
        .filter(|most| *most >= least)
        .ok_or_else(|| value.refuse(format_args!("expected {least} to {}, found {found}", u16::MAX)))
}

fn read_key_file(section: &Section<'_>, path: &Path) -> Result<PathBuf, ConfigError> {
    let key_file = section.required("key_file")?;
    match key_file.string()? {
        "" => Err(key_file.refuse("is empty")),
        name => Ok(beside(path, name)),
    }
}

fn read_file(section: &Section<'_>, key: &str, path: &Path) -> Result<Option<PathBuf>, ConfigError> {
    match section.value(key) {
        Some(value) if value.string()?.is_empty() => Err(value.refuse("is empty")),
        Some(value) => Ok(Some(beside(path, value.string()?))),
        None => Ok(None),
    }
}

fn read_tenant(section: &Section<'_>) -> Result<Tenant, ConfigError> {
    let project = section.value("project").map(|value| label(&value)).transpose()?;
    let cluster_domain = section.value("cluster_domain").map(|value| domain(&value)).transpose()?;
    let suites: Vec<_> = CipherSuite::ALL.iter().map(|suite| (suite.name(), *suite)).collect();
    let suite = section.value("suite").map_or(Ok(CipherSuite::default()), |value| value.one_of(&suites))?;
    Ok(Tenant { project, cluster_domain, suite })
}

fn read_network(section: &Section<'_>) -> Result<Network, ConfigError> {
    let name = |key, default: &str| match section.value(key) {
        Some(value) => interface_name(&value),
        None => Ok(default.to_owned()),
    };
    let (interface, tun) = (name("interface", "eth0")?, name("tun", "tenc0")?);
    if interface == tun {
        let value = section.value("tun").map_or_else(|| section.required("interface"), Ok)?;
        return Err(
            value.refuse(format_args!("{tun:?} is the name of both the interface and the TUN device"))
        );
    }
    let port = section.value("port").map_or(Ok(TunnelConfig::DEFAULT_PORT), |value| value.port())?;
    let lanes = section.value("lanes").map_or(Ok(NonZeroU8::MIN), |value| lanes(&value, port))?;
    let max_peers =
        section.value("max_peers").map_or(Ok(TunnelConfig::DEFAULT_MAX_PEERS), |value| max_peers(&value))?;
    let exempt = ranges(section, "exempt")?;
    let protected = ranges(section, "protected")?;
    if protected.is_empty() {
        return Err(section.required("protected")?.refuse("is empty: nothing would be protected"));
    }
    for (value, range) in section.elements("protected")?.iter().zip(&protected) {
        if range.prefix_len() == 0 {
            return Err(value.refuse("everything there is cannot be one tenant's cluster"));
        }
        if is_host_address(range.addr()) && !is_tunnel_address(range.addr()) {
            return Err(value.refuse("link-local addresses are never encrypted"));
        }
    }
    let offload = section.value("offload").map_or(Ok(Offload::All), |value| value.one_of(&Offload::NAMES))?;
    Ok(Network { interface, tun, port, lanes, max_peers, protected, exempt, offload })
}

fn read_identity(section: &Section<'_>, protected: &[IpNet]) -> Result<Identity, ConfigError> {
    let identity = Identity { services: ranges(section, "services")? };
    for (value, range) in section.elements("services")?.iter().zip(&identity.services) {
        if !protected.iter().any(|net| net.contains(range)) {
            return Err(value.refuse("lies outside of network.protected"));
        }
    }
    Ok(identity)
}

fn read_policy(section: &Section<'_>) -> Result<Policy, ConfigError> {
    let unknown = UnansweredPolicy::ALL.map(|policy| (policy.name(), policy));
    let external = ExternalAuthority::ALL.map(|authority| (authority.name(), authority));
    Ok(Policy {
        unknown: section
            .value("unknown")
            .map_or(Ok(UnansweredPolicy::Drop), |value| value.one_of(&unknown))?,
        external: section
            .value("external")
            .map_or(Ok(ExternalAuthority::Dns), |value| value.one_of(&external))?,
        enforce: section.value("enforce").map_or(Ok(true), |value| value.boolean())?,
        unprotected_addresses: section
            .value("unprotected_addresses")
            .map_or(Ok(false), |value| value.boolean())?,
    })
}

fn read_dns(section: &Section<'_>) -> Result<Dns, ConfigError> {
    let mut upstream = Vec::new();
    for value in section.list("upstream")? {
        let server = nameserver(&value)?;
        if upstream.contains(&server) {
            return Err(value.refuse(format_args!("{server} is there already")));
        }
        upstream.push(server);
    }
    Ok(Dns {
        capture: section.value("capture").map_or(Ok(true), |value| value.boolean())?,
        upstream,
        rate: section.value("rate").map_or(Ok(ProxyConfig::DEFAULT_RATE), |value| value.rate())?,
        external_names: section.value("external_names").map_or(Ok(false), |value| value.boolean())?,
    })
}

fn read_facts(root: &Section<'_>, protected: &[IpNet]) -> Result<Vec<Fact>, ConfigError> {
    let mut facts: Vec<Fact> = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for value in root.elements("fact")? {
        let section = value.section(&["prefix", "class", "endpoints", "ports"])?;
        let fact = read_fact(&section, protected)?;
        if !seen.insert(fact.prefix) {
            let prefix = section.required("prefix")?;
            return Err(prefix.refuse(format_args!("{} has a fact already", fact.prefix)));
        }
        facts.push(fact);
    }
    Ok(facts)
}

fn read_fact(section: &Section<'_>, protected: &[IpNet]) -> Result<Fact, ConfigError> {
    let prefix_value = section.required("prefix")?;
    let prefix = range(&prefix_value)?;
    let class = section.required("class")?.one_of(&[
        ("internal", Class::Internal),
        ("external", Class::External),
        ("exempt", Class::Exempt),
    ])?;
    fact_rules::check_prefix(prefix, class, protected).map_err(|reason| prefix_value.refuse(reason))?;
    let mut fact = Fact::new(prefix, class, FactSource::Static, None);
    let mut endpoints = Vec::new();
    for value in section.list("endpoints")? {
        let endpoint = endpoint(&value, prefix, protected)?;
        if endpoints.contains(&endpoint) {
            return Err(value.refuse(format_args!("{endpoint} is there already")));
        }
        endpoints.push(endpoint);
    }
    if let Some(value) = section.value("endpoints")
        && !endpoints.is_empty()
    {
        fact_rules::check_service(prefix, class).map_err(|reason| value.refuse(reason))?;
    }
    fact.ports = ports(section, endpoints.is_empty())?;
    fact.endpoints = endpoints.into();
    Ok(fact)
}

/// The pairs of `ports`, in the order of the service ports.
fn ports(section: &Section<'_>, without_endpoints: bool) -> Result<Box<[ServicePort]>, ConfigError> {
    let Some(value) = section.value("ports") else { return Ok(Box::default()) };
    let mut ports = Vec::new();
    for (key, target) in value.entries()? {
        // A key is written as its number is printed, so that no port is named twice.
        match key.parse::<u16>() {
            Ok(port @ 1..) if port.to_string() == key => ports.push(ServicePort::new(port, target.port()?)),
            _ => return Err(target.refuse(format_args!("{key:?} is no port from 1 to 65535"))),
        }
    }
    if without_endpoints && !ports.is_empty() {
        return Err(value.refuse(fact_rules::PORTS_ALONE));
    }
    ports.sort_unstable();
    Ok(ports.into())
}

fn endpoint(value: &Value<'_>, service: IpNet, protected: &[IpNet]) -> Result<IpAddr, ConfigError> {
    let text = value.string()?;
    let address: IpAddr =
        text.parse().map_err(|_| value.refuse(format_args!("expected an address, found {text:?}")))?;
    fact_rules::check_endpoint(address, service, protected).map_err(|reason| value.refuse(reason))?;
    Ok(address)
}

/// The ranges at `key`, none of which overlaps another.
fn ranges(section: &Section<'_>, key: &str) -> Result<Vec<IpNet>, ConfigError> {
    if key == "protected" {
        section.required(key)?;
    }
    let mut ranges: Vec<IpNet> = Vec::new();
    for value in section.list(key)? {
        let range = range(&value)?;
        if let Some(other) = ranges.iter().find(|other| other.contains(&range) || range.contains(*other)) {
            return Err(value.refuse(format_args!("{range} overlaps {other}")));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

/// An address, or a range whose host bits are zero.
fn range(value: &Value<'_>) -> Result<IpNet, ConfigError> {
    fact_rules::range(value.string()?).map_err(|reason| value.refuse(reason))
}

fn nameserver(value: &Value<'_>) -> Result<SocketAddr, ConfigError> {
    let text = value.string()?;
    let server = match text.parse::<IpAddr>() {
        Ok(address) => Some(SocketAddr::new(address, DNS_PORT)),
        Err(_) => text.parse::<SocketAddr>().ok(),
    };
    server
        // A resolver inside the pod is as good as one elsewhere.
        .filter(|server| server.ip().is_loopback() || is_host_address(server.ip()))
        .filter(|server| server.port() != 0)
        .ok_or_else(|| value.refuse(format_args!("expected a nameserver's address, found {text:?}")))
}

/// A name that the kernel takes for an interface (`dev_valid_name` in net/core/dev.c), is no pattern (`%d`) and no
/// directory of its own below /proc/sys/net.
fn interface_name(value: &Value<'_>) -> Result<String, ConfigError> {
    let name = value.string()?;
    let reason = if name.is_empty() {
        "is empty"
    } else if name.len() > MAX_INTERFACE_NAME {
        "is longer than 15 bytes"
    } else if [".", "..", "all", "default", "lo"].contains(&name)
        || !name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:%".contains(&byte))
    {
        "is no name for an interface"
    } else {
        return Ok(name.to_owned());
    };
    Err(value.refuse(format_args!("{name:?} {reason}")))
}

/// A name of a Kubernetes namespace: a DNS label (RFC 1123 section 2.1), lower case.
fn label(value: &Value<'_>) -> Result<String, ConfigError> {
    let name = value.string()?;
    if is_label(name) {
        Ok(name.to_owned())
    } else {
        Err(value.refuse(format_args!("{name:?} is no name of a project (lower case, digits, hyphens)")))
    }
}

/// A DNS name of labels as [`label`] takes them, short enough for the services of every project below it.
fn domain(value: &Value<'_>) -> Result<Name, ConfigError> {
    let text = value.string()?;
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let name = Name::from_labels(labels.clone()).ok().filter(|_| labels.clone().all(is_label));
    let longest = "a".repeat(Name::MAX_LABEL);
    match name.map(|name| (Project::new(&longest, name.clone()), name)) {
        Some((Ok(_), name)) => Ok(name),
        Some((Err(error), _)) => Err(value.refuse(error)),
        None => Err(value.refuse(format_args!(
            "{text:?} is no domain name (labels of lower case, digits, hyphens, as in \"cluster.local\")"
        ))),
    }
}

fn is_label(text: &str) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    plain && (1..=Name::MAX_LABEL).contains(&text.len()) && !text.starts_with('-') && !text.ends_with('-')
}

/// `name`, from the directory of the configuration file at `path`.
fn beside(path: &Path, name: &str) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}
