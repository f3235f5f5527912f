//! Facts of a tenant, and the text in which data paths are told of them.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

/// A statement about one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fact {
    /// A pod of the tenant's.
    Internal,
    /// Of a node, of another tenant, or served by somebody outside.
    External,
    /// A virtual address of a Service of the tenant's: internal, too.
    Vip(Vip),
}

/// A virtual address of a Service, with what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vip {
    /// The Service, as `namespace/name`, for people.
    pub(crate) service: String,
    /// Its ports, each protocol and number once.
    pub(crate) services: Vec<PortSet>,
    /// Seconds for which a client stays with an endpoint, if it is to.
    pub(crate) affinity: Option<u32>,
}

/// A port of a virtual address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortSet {
    /// Its protocol.
    pub(crate) protocol: Protocol,
    /// Its number.
    pub(crate) port: u16,
    /// The endpoints, in order, of the family of the virtual address. None: nobody answers there now.
    pub(crate) targets: Vec<SocketAddr>,
}

/// Protocol of a port, one of those that Kubernetes knows (core/v1 `ServicePort.protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Reads the name that Kubernetes has for it; none is TCP.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "TCP" | "" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// Its name in facts.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl Fact {
    /// Writes the fact about `prefix`, as an element of `learn` of the message `facts`.
    pub(crate) fn text(&self, prefix: IpNet) -> String {
        let class = if *self == Self::External { "external" } else { "internal" };
        let mut fields = Map::new();
        fields.insert("prefix".to_owned(), prefix.to_string().into());
        fields.insert("class".to_owned(), class.into());
        if let Self::Vip(vip) = self {
            vip.put_services(&mut fields);
        }
        Value::Object(fields).to_string()
    }
}

impl Vip {
    /// Adds `services`, and `affinity`, which needs them.
    fn put_services(&self, fields: &mut Map<String, Value>) {
        if self.services.is_empty() {
            return;
        }
        let services = self.services.iter().map(PortSet::value).collect();
        fields.insert("services".to_owned(), Value::Array(services));
        if let Some(seconds) = self.affinity {
            fields.insert("affinity".to_owned(), seconds.into());
        }
    }
}

impl PortSet {
    /// The element of `services`.
    fn value(&self) -> Value {
        let endpoints = self.targets.iter().map(|target| Value::from(target.to_string())).collect();
        let fields = [
            ("protocol", self.protocol.as_str().into()),
            ("port", self.port.into()),
            ("endpoints", Value::Array(endpoints)),
        ];
        Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(protocol: Protocol, port: u16, targets: &[&str]) -> PortSet {
        PortSet { protocol, port, targets: targets.iter().map(|target| target.parse().unwrap()).collect() }
    }

    fn told(services: Vec<PortSet>, affinity: Option<u32>) -> String {
        let vip = Vip { service: "shop/web".to_owned(), services, affinity };
        Fact::Vip(vip).text("10.96.0.7/32".parse().unwrap())
    }

    #[test]
    fn a_fact_without_a_service_has_prefix_and_class() {
        let fact = |fact: Fact| fact.text("10.1.0.5/32".parse().unwrap());
        assert_eq!(fact(Fact::Internal), r#"{"class":"internal","prefix":"10.1.0.5/32"}"#);
        assert_eq!(fact(Fact::External), r#"{"class":"external","prefix":"10.1.0.5/32"}"#);
        assert_eq!(told(vec![], Some(7)), r#"{"class":"internal","prefix":"10.96.0.7/32"}"#);
    }

    #[test]
    fn each_port_is_told_with_its_endpoints() {
        let http = set(Protocol::Tcp, 80, &["10.1.0.5:8080", "10.1.0.6:8081"]);
        let services = vec![http, set(Protocol::Udp, 80, &["10.1.0.5:53"]), set(Protocol::Sctp, 9, &[])];
        assert_eq!(
            told(services, Some(600)),
            concat!(
                r#"{"affinity":600,"class":"internal","prefix":"10.96.0.7/32","services":["#,
                r#"{"endpoints":["10.1.0.5:8080","10.1.0.6:8081"],"port":80,"protocol":"tcp"},"#,
                r#"{"endpoints":["10.1.0.5:53"],"port":80,"protocol":"udp"},"#,
                r#"{"endpoints":[],"port":9,"protocol":"sctp"}]}"#
            )
        );
        let v6 = told(vec![set(Protocol::Tcp, 80, &["[fd00::5]:8080"])], None);
        assert!(v6.contains(r#"["[fd00::5]:8080"]"#), "{v6:?}");
    }
}
