//! Facts that the agent tells of a tenant's pods and services: authoritative, and of the source Kubernetes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use serde::Deserialize;
use tencrypt::{
    directory::{Class, Fact, FactSource},
    nat::{PortEndpoints, ServicePort, ServiceProtocol},
};

use super::message::json;
use crate::config::fact_rules;

/// Most ports of a service, and most endpoints of one: as many as an EndpointSlice of Kubernetes has (discovery.k8s.io/v1, the
/// validation's `maxEndpoints`).
const MOST: usize = 1_000;

/// Most seconds of an affinity: a day (core/v1 `ClientIPConfig.timeoutSeconds`).
const MAX_AFFINITY: u32 = 86_400;

/// Facts that are new, and prefixes of which there is none any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Facts that take the place of those about the same prefixes.
    pub(crate) learn: Vec<Fact>,
    /// Prefixes that nothing is said about any more.
    pub(crate) forget: Vec<IpNet>,
}

/// Facts as JSON has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    learn: Vec<FactText>,
    #[serde(default)]
    forget: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactText {
    prefix: String,
    class: ClassText,
    #[serde(default)]
    endpoints: Vec<IpAddr>,
    #[serde(default)]
    ports: BTreeMap<u16, u16>,
    #[serde(default)]
    services: Vec<PortText>,
    affinity: Option<u32>,
}

/// A port of a service with its endpoints.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PortText {
    protocol: ProtocolText,
    port: u16,
    endpoints: Vec<SocketAddr>,
}

/// Protocols as Kubernetes has them, in small letters.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ProtocolText {
    Tcp,
    Udp,
    Sctp,
}

/// Exempt ranges are part of what is captured, which the configuration says at the start.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassText {
    Internal,
    External,
}

impl Facts {
    /// Reads facts, which have to keep the rules for those of a configuration file with these `protected` ranges. All of them
    /// count, or none.
    ///
    /// # Errors
    /// The first that is wrong, in a line.
    pub(crate) fn parse(bytes: &[u8], protected: &[IpNet]) -> Result<Self, String> {
        let text: Text = json(bytes)?;
        let learn = text.learn.into_iter().map(|fact| fact.read(protected)).collect::<Result<_, _>>()?;
        let forget = text.forget.iter().map(|prefix| fact_rules::range(prefix)).collect::<Result<_, _>>()?;
        Ok(Self { learn, forget })
    }
}

/// Checks facts as a program with these `protected` ranges would take them.
///
/// # Errors
/// The first that is wrong, in a line.
pub fn check(bytes: &[u8], protected: &[IpNet]) -> Result<(), String> {
    Facts::parse(bytes, protected).map(|_| ())
}

impl Facts {
    /// Returns what stands after all of these, one after the other: one fact about a prefix.
    pub(crate) fn folded(messages: impl IntoIterator<Item = Self>) -> Vec<Fact> {
        let mut standing = BTreeMap::new();
        for Self { learn, forget } in messages {
            for prefix in &forget {
                standing.remove(prefix);
            }
            standing.extend(learn.into_iter().map(|fact| (fact.prefix, fact)));
        }
        standing.into_values().collect()
    }
}

impl FactText {
    fn read(self, protected: &[IpNet]) -> Result<Fact, String> {
        let prefix = fact_rules::range(&self.prefix)?;
        let about = |reason: &dyn std::fmt::Display| format!("{prefix}: {reason}");
        let class = match self.class {
            ClassText::Internal => Class::Internal,
            ClassText::External => Class::External,
        };
        fact_rules::check_prefix(prefix, class, protected).map_err(|reason| about(&reason))?;
        for endpoint in &self.endpoints {
            fact_rules::check_endpoint(*endpoint, prefix, protected).map_err(|reason| about(&reason))?;
        }
        if !self.endpoints.is_empty() {
            fact_rules::check_service(prefix, class).map_err(|reason| about(&reason))?;
        } else if !self.ports.is_empty() {
            return Err(about(&fact_rules::PORTS_ALONE));
        }
        if self.ports.iter().any(|(port, target)| *port == 0 || *target == 0) {
            return Err(about(&"0 is no port"));
        }
        let fact = Fact::new(prefix, class, FactSource::Kubernetes, None);
        if self.services.is_empty() && self.affinity.is_none() {
            let ports = self.ports.into_iter().map(|(port, target)| ServicePort::new(port, target));
            return Ok(fact.with_endpoints(self.endpoints, ports.collect::<Vec<_>>()));
        }
        if !self.endpoints.is_empty() {
            return Err(about(&"services and affinity stand in place of endpoints and ports"));
        }
        fact_rules::check_service(prefix, class).map_err(|reason| about(&reason))?;
        let affinity = self.read_affinity().map_err(|reason| about(&reason))?;
        let services = by_port(self.services, prefix, protected).map_err(|reason| about(&reason))?;
        Ok(fact.with_services(services, affinity))
    }

    /// Reads the affinity, if there is one.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read_affinity(&self) -> Result<Option<Duration>, String> {
        match self.affinity {
            Some(_) if self.services.is_empty() => Err("affinity needs services".to_owned()),
            Some(seconds) if !(1..=MAX_AFFINITY).contains(&seconds) => {
                Err(format!("affinity is 1 to {MAX_AFFINITY} seconds, not {seconds}"))
            }
            seconds => Ok(seconds.map(|seconds| Duration::from_secs(seconds.into()))),
        }
    }
}

/// Reads the ports of the service with this prefix.
///
/// # Errors
/// The first that is wrong.
fn by_port(ports: Vec<PortText>, service: IpNet, protected: &[IpNet]) -> Result<Vec<PortEndpoints>, String> {
    if ports.len() > MOST {
        return Err(format!("{} ports are more than {MOST}", ports.len()));
    }
    let mut seen = BTreeSet::new();
    let mut read = Vec::with_capacity(ports.len());
    for port in ports {
        let port = port.read(service, protected)?;
        if !seen.insert((port.protocol(), port.port())) {
            return Err(format!("{} is there twice", named(port.protocol(), port.port())));
        }
        read.push(port);
    }
    Ok(read)
}

impl PortText {
    /// Reads a port of the service with this prefix.
    ///
    /// # Errors
    /// What is wrong with it.
    fn read(self, service: IpNet, protected: &[IpNet]) -> Result<PortEndpoints, String> {
        let Self { protocol, port, endpoints } = self;
        let protocol = match protocol {
            ProtocolText::Tcp => ServiceProtocol::Tcp,
            ProtocolText::Udp => ServiceProtocol::Udp,
            ProtocolText::Sctp => ServiceProtocol::Sctp,
        };
        let about = |reason: String| format!("{}: {reason}", named(protocol, port));
        if endpoints.len() > MOST {
            return Err(about(format!("{} endpoints are more than {MOST}", endpoints.len())));
        }
        if port == 0 {
            return Err(about("0 is no port".to_owned()));
        }
        for endpoint in &endpoints {
            check_target(*endpoint, protocol, port).map_err(about)?;
            fact_rules::check_endpoint(endpoint.ip(), service, protected).map_err(about)?;
        }
        Ok(PortEndpoints::new(protocol, port, endpoints))
    }
}

/// Checks that packets to this port of a service can be directed to the endpoint.
///
/// # Errors
/// The reason.
fn check_target(endpoint: SocketAddr, protocol: ServiceProtocol, port: u16) -> Result<(), String> {
    if endpoint.port() == 0 {
        return Err(format!("{endpoint}: 0 is no port"));
    }
    if SocketAddr::new(endpoint.ip(), endpoint.port()) != endpoint {
        return Err(format!("{endpoint} is an address of one link"));
    }
    if protocol == ServiceProtocol::Sctp && endpoint.port() != port {
        return Err(format!("{endpoint}: ports of SCTP are not translated"));
    }
    Ok(())
}

/// A port of a service, for people.
fn named(protocol: ServiceProtocol, port: u16) -> String {
    let protocol = match protocol {
        ServiceProtocol::Tcp => "tcp",
        ServiceProtocol::Udp => "udp",
        ServiceProtocol::Sctp => "sctp",
    };
    format!("{protocol} {port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Facts, String> {
        Facts::parse(text.as_bytes(), &["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()])
    }

    #[test]
    fn pods_services_and_what_is_gone_are_read() {
        let facts = parse(
            r#"{"learn": [{"prefix": "10.1.0.0/16", "class": "internal"},
                {"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5", "10.1.0.6"],
                 "ports": {"80": 8080, "443": 8443}},
                {"prefix": "10.2.0.9", "class": "external"}],
                "forget": ["10.3.0.0/24", "fd00::7"]}"#,
        )
        .unwrap();
        let fact = |prefix: &str, class| {
            let prefix = fact_rules::range(prefix).unwrap();
            Fact::new(prefix, class, FactSource::Kubernetes, None)
        };
        let [one, other] = ["10.1.0.5", "10.1.0.6"].map(|address| address.parse().unwrap());
        let service = fact("10.96.0.7", Class::Internal)
            .with_endpoints([one, other], [ServicePort::new(80, 8080), ServicePort::new(443, 8443)]);
        let learn = [fact("10.1.0.0/16", Class::Internal), service, fact("10.2.0.9", Class::External)];
        assert_eq!(facts.learn, learn);
        assert_eq!(facts.forget, ["10.3.0.0/24".parse().unwrap(), "fd00::7/128".parse().unwrap()]);
        assert_eq!(parse("{}"), Ok(Facts::default()));
    }

    #[test]
    fn a_service_has_endpoints_and_targets_of_each_port_and_an_affinity() {
        let facts = parse(
            r#"{"learn": [{"prefix": "10.96.0.7", "class": "internal", "affinity": 10800, "services": [
                {"protocol": "tcp", "port": 80, "endpoints": ["10.1.0.6:8081", "10.1.0.5:8080", "10.1.0.6:8081"]},
                {"protocol": "udp", "port": 80, "endpoints": []},
                {"protocol": "sctp", "port": 90, "endpoints": ["10.1.0.5:90"]}]},
                {"prefix": "fd00::7", "class": "internal", "services": [
                {"protocol": "tcp", "port": 443, "endpoints": ["[fd00::1]:8443"]}]}]}"#,
        )
        .unwrap();
        let port = |protocol, port, endpoints: &[&str]| {
            let endpoints: Vec<SocketAddr> =
                endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
            PortEndpoints::new(protocol, port, endpoints)
        };
        let [one, other] = [&facts.learn[0], &facts.learn[1]];
        let expected = [
            port(ServiceProtocol::Tcp, 80, &["10.1.0.5:8080", "10.1.0.6:8081"]),
            port(ServiceProtocol::Udp, 80, &[]),
            port(ServiceProtocol::Sctp, 90, &["10.1.0.5:90"]),
        ];
        assert_eq!((&*one.services, one.affinity), (&expected[..], Some(Duration::from_secs(10_800))));
        let expected = [port(ServiceProtocol::Tcp, 443, &["[fd00::1]:8443"])];
        assert_eq!((&*other.services, other.affinity), (&expected[..], None));
        assert!(facts.learn.iter().all(|fact| fact.is_service() && fact.endpoints.is_empty()));
    }

    /// A service with this beside prefix and class.
    fn service(rest: &str) -> String {
        format!(r#"{{"learn": [{{"prefix": "10.96.0.7", "class": "internal", {rest}}}]}}"#)
    }

    /// A service with a port of TCP, 80, and these endpoints.
    fn at(endpoints: &str) -> String {
        service(&format!(r#""services": [{{"protocol": "tcp", "port": 80, "endpoints": [{endpoints}]}}]"#))
    }

    #[test]
    fn a_service_that_is_wrong_is_refused_with_the_port_and_the_reason() {
        let one = r#"{"protocol": "tcp", "port": 80, "endpoints": ["10.1.0.5:8080"]}"#;
        let many = |number: usize| vec![r#""10.1.0.5:8080""#; number].join(",");
        let ports = |number: usize| {
            let port = |port| format!(r#"{{"protocol": "udp", "port": {port}, "endpoints": []}}"#);
            service(&format!(r#""services": [{}]"#, (1..=number).map(port).collect::<Vec<_>>().join(",")))
        };
        let beside = |rest: &str| service(&format!(r#""services": [{one}], {rest}"#));
        for good in
            [at(""), at(&many(MOST)), ports(MOST), beside(r#""affinity": 1"#), beside(r#""affinity": 86400"#)]
        {
            assert!(parse(&good).is_ok(), "{good}");
        }
        for (text, reason) in [
            (at(r#""192.0.2.1:80""#), "10.96.0.7/32: tcp 80: lies outside"),
            (at(r#""[fd00::1]:80""#), "tcp 80: fd00::1 and 10.96.0.7 differ in family"),
            (at(r#""224.0.0.1:80""#), "no address of a pod"),
            (at(r#""10.1.0.5:0""#), "tcp 80: 10.1.0.5:0: 0 is no port"),
            (at(r#""[fd00::1%1]:80""#), "an address of one link"),
            (at(r#""10.1.0.5""#), "socket address"),
            (at("80"), "invalid type"),
            (at(&many(MOST + 1)), "tcp 80: 1001 endpoints are more than 1000"),
            (ports(MOST + 1), "1001 ports are more than 1000"),
            (service(&format!(r#""services": [{one}, {one}]"#)), "tcp 80 is there twice"),
            (service(r#""services": [{"protocol": "tcp", "port": 0, "endpoints": []}]"#), "0 is no port"),
            (service(r#""services": [{"protocol": "tcp", "port": 65536, "endpoints": []}]"#), "65536"),
            (service(r#""services": [{"protocol": "icmp", "port": 80, "endpoints": []}]"#), "icmp"),
            (service(r#""services": [{"protocol": "tcp", "port": 80}]"#), "endpoints"),
            (service(r#""services": [{"port": 80, "endpoints": []}]"#), "protocol"),
            (service(r#""services": [{"protocol": "tcp", "endpoints": []}]"#), "port"),
            (
                service(r#""services": [{"protocol": "tcp", "port": 80, "endpoints": [], "name": "web"}]"#),
                "unknown field",
            ),
            (
                service(r#""services": [{"protocol": "sctp", "port": 80, "endpoints": ["10.1.0.5:81"]}]"#),
                "sctp 80: 10.1.0.5:81: ports of SCTP are not translated",
            ),
            (beside(r#""endpoints": ["10.1.0.5"]"#), "in place of endpoints and ports"),
            (beside(r#""ports": {"80": 8080}"#), "ports need endpoints"),
            (beside(r#""affinity": 0"#), "affinity is 1 to 86400 seconds, not 0"),
            (beside(r#""affinity": 86401"#), "affinity is 1 to 86400 seconds, not 86401"),
            (beside(r#""affinity": -1"#), "-1"),
            (service(r#""affinity": 5"#), "affinity needs services"),
            (service(r#""endpoints": ["10.1.0.5"], "affinity": 5"#), "in place of endpoints and ports"),
            (beside("").replace(", }", "}").replace("internal", "external"), "only an internal"),
            (beside("").replace(", }", "}").replace("10.96.0.7", "10.96.0.0/24"), "one address, not a range"),
        ] {
            let said = parse(&text).expect_err(&text);
            assert!(said.contains(reason), "{text}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }

    #[test]
    fn of_several_messages_the_last_word_about_a_prefix_stands() {
        let messages = [
            r#"{"learn": [{"prefix": "10.1.0.5", "class": "external"}, {"prefix": "10.1.0.6", "class": "external"}]}"#,
            r#"{"learn": [{"prefix": "10.1.0.7", "class": "internal"}], "forget": ["10.1.0.5", "10.9.9.9"]}"#,
            r#"{"learn": [{"prefix": "10.1.0.6", "class": "internal"}], "forget": ["10.1.0.6"]}"#,
        ];
        let folded = Facts::folded(messages.map(|text| parse(text).unwrap()));
        let standing: Vec<_> = folded.iter().map(|fact| (fact.prefix.to_string(), fact.class)).collect();
        let internal = |prefix: &str| (prefix.to_owned(), Class::Internal);
        assert_eq!(standing, [internal("10.1.0.6/32"), internal("10.1.0.7/32")]);
    }

    #[test]
    fn one_that_is_wrong_is_named_and_none_counts() {
        let one =
            |fact: &str| format!(r#"{{"learn": [{{"prefix": "10.1.0.5", "class": "internal"}}, {fact}]}}"#);
        for (text, reason) in [
            (String::new(), "is no JSON object"),
            ("[]".to_owned(), "is no JSON object"),
            ("{".to_owned(), "EOF"),
            (r#"{"learnt": []}"#.to_owned(), "unknown field"),
            (r#"{"forget": ["10.0.0.1/8"]}"#.to_owned(), "host bits"),
            (r#"{"forget": ["everything"]}"#.to_owned(), "expected an address or a range"),
            (one(r#"{"prefix": "10.2.0.9"}"#), "class"),
            (one(r#"{"prefix": "10.2.0.9", "class": "exempt"}"#), "exempt"),
            (one(r#"{"prefix": "10.2.0.9", "class": "internal", "owner": "x"}"#), "owner"),
            (one(r#"{"prefix": "192.0.2.1", "class": "internal"}"#), "192.0.2.1/32: lies outside"),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["192.0.2.1"]}"#),
                "lies outside",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["fd00::1"]}"#),
                "differ in family",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.0.0.300"]}"#),
                "IP address",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "external", "endpoints": ["10.1.0.5"]}"#),
                "only an internal",
            ),
            (
                one(r#"{"prefix": "10.96.0.0/24", "class": "internal", "endpoints": ["10.1.0.5"]}"#),
                "one address",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "ports": {"80": 8080}}"#),
                "ports need endpoints",
            ),
            (
                one(
                    r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5"], "ports": {"0": 1}}"#,
                ),
                "0 is no port",
            ),
            (
                one(
                    r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5"], "ports": {"80": 65536}}"#,
                ),
                "65536",
            ),
        ] {
            let said = parse(&text).expect_err(&text);
            assert!(said.contains(reason), "{text}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
