//! The sections of the file and what they may say.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU8,
    path::Path,
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

use super::{
    Config, ConfigError, Dns, Identity, Network, Policy, Tenant,
    document::{Document, Section, Value},
};
use crate::config::offload::Offload;

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// Longest name of an interface in bytes: IFNAMSIZ less the NUL (include/uapi/linux/if.h).
const MAX_INTERFACE_NAME: usize = 15;

pub(super) fn config(text: &str, path: &Path) -> Result<Config, ConfigError> {
    let document = Document { text, path };
    let table = document.parse()?;
    let root = Section::root(
        document,
        table.get_ref(),
        &["tenant", "network", "identity", "policy", "dns", "fact"],
    )?;
    // Keys first, everywhere: a mistyped one explains why another is missing.
    let sections = [
        root.section("tenant", &["project", "cluster_domain", "key_file", "suite"])?,
        root.section(
            "network",
            &["interface", "tun", "port", "protected", "exempt", "lanes", "max_peers", "offload"],
        )?,
        root.section("identity", &["ca", "certificate", "revoked", "services"])?,
        root.section("policy", &["unknown", "external", "enforce", "unprotected_addresses"])?,
        root.section("dns", &["capture", "upstream", "resolv_conf", "rate", "external_names"])?,
    ];
    let [tenant, network, identity, policy, dns] = &sections;
    let (network, tenant) = (read_network(network)?, read_tenant(tenant, path)?);
    let identity = read_identity(identity, path, &network.protected)?;
    let (policy, dns) = (read_policy(policy)?, read_dns(dns, path)?);
    let facts = read_facts(&root, &network.protected)?;
    Ok(Config { tenant, network, identity, policy, dns, facts })
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

fn read_tenant(section: &Section<'_>, path: &Path) -> Result<Tenant, ConfigError> {
    let project = section.value("project").map(|value| label(&value)).transpose()?;
    let cluster_domain = section.value("cluster_domain").map(|value| domain(&value)).transpose()?;
    let key_file = section.required("key_file")?;
    if key_file.string()?.is_empty() {
        return Err(key_file.refuse("is empty"));
    }
    let suites: Vec<_> = CipherSuite::ALL.iter().map(|suite| (suite.name(), *suite)).collect();
    let suite = section.value("suite").map_or(Ok(CipherSuite::default()), |value| value.one_of(&suites))?;
    Ok(Tenant { project, cluster_domain, key_file: beside(path, key_file.string()?), suite })
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

fn read_identity(section: &Section<'_>, path: &Path, protected: &[IpNet]) -> Result<Identity, ConfigError> {
    let file = |key| match section.value(key) {
        Some(value) if value.string()?.is_empty() => Err(value.refuse("is empty")),
        Some(value) => Ok(Some(beside(path, value.string()?))),
        None => Ok(None),
    };
    let identity = Identity {
        ca: file("ca")?,
        certificate: file("certificate")?,
        revoked: file("revoked")?,
        services: ranges(section, "services")?,
    };
    for (value, range) in section.elements("services")?.iter().zip(&identity.services) {
        if !protected.iter().any(|net| net.contains(range)) {
            return Err(value.refuse("lies outside of network.protected"));
        }
    }
    if identity.ca.is_some() {
        section.required("certificate")?;
    } else if let Some(value) = section.value("revoked").or_else(|| section.value("services")) {
        return Err(value.refuse("means something only with `ca`"));
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

fn read_dns(section: &Section<'_>, path: &Path) -> Result<Dns, ConfigError> {
    let mut upstream = Vec::new();
    for value in section.list("upstream")? {
        let server = nameserver(&value)?;
        if upstream.contains(&server) {
            return Err(value.refuse(format_args!("{server} is there already")));
        }
        upstream.push(server);
    }
    let resolv_conf = section.value("resolv_conf").map(|value| value.string()).transpose()?;
    Ok(Dns {
        capture: section.value("capture").map_or(Ok(true), |value| value.boolean())?,
        upstream,
        resolv_conf: resolv_conf.filter(|name| !name.is_empty()).map(|name| beside(path, name)),
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
    let is_protected = |net: &IpNet| protected.iter().any(|range| range.contains(net));
    if class == Class::Internal && !is_protected(&prefix) {
        return Err(
            prefix_value.refuse("lies outside of network.protected: its traffic would leave in plain")
        );
    }
    let mut fact = Fact::new(prefix, class, FactSource::Static, None);
    let mut endpoints = Vec::new();
    for value in section.list("endpoints")? {
        let endpoint = endpoint(&value, prefix)?;
        if !is_protected(&endpoint.into()) {
            return Err(value.refuse("lies outside of network.protected: its traffic would leave in plain"));
        }
        if endpoints.contains(&endpoint) {
            return Err(value.refuse(format_args!("{endpoint} is there already")));
        }
        endpoints.push(endpoint);
    }
    if let Some(value) = section.value("endpoints")
        && !endpoints.is_empty()
    {
        if class != Class::Internal {
            return Err(value.refuse("only an internal service has endpoints"));
        }
        if prefix.prefix_len() != prefix.max_prefix_len() {
            return Err(value.refuse("a service is one address, not a range"));
        }
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
        return Err(value.refuse("ports need endpoints"));
    }
    ports.sort_unstable();
    Ok(ports.into())
}

fn endpoint(value: &Value<'_>, service: IpNet) -> Result<IpAddr, ConfigError> {
    let text = value.string()?;
    let address: IpAddr =
        text.parse().map_err(|_| value.refuse(format_args!("expected an address, found {text:?}")))?;
    if address.is_ipv4() != service.addr().is_ipv4() {
        return Err(value.refuse(format_args!("{address} and {} differ in family", service.addr())));
    }
    if !is_tunnel_address(address) {
        return Err(value.refuse(format_args!("{address} is no address of a pod")));
    }
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
    let text = value.string()?;
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| {
            value.refuse(format_args!("expected an address or a range like 10.244.0.0/16, found {text:?}"))
        })?,
    };
    if net.trunc() != net {
        return Err(value.refuse(format_args!("{net} has host bits set; did you mean {}?", net.trunc())));
    }
    if net.prefix_len() != 0 && !is_host_address(net.addr()) {
        return Err(value.refuse(format_args!("{net} holds no addresses of pods or services")));
    }
    Ok(net)
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
fn beside(path: &Path, name: &str) -> std::path::PathBuf {
    path.parent().unwrap_or(Path::new("")).join(name)
}
