//! The nameservers of a tenant's pods, as resolv.conf(5) has them.

use std::{borrow::Cow, fmt::Write as _, net::IpAddr};

/// The origin of the pods' resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolver {
    /// Nothing is known of it.
    Unknown,
    /// A file, for all of them.
    File(Vec<u8>),
    /// The names of a cluster: what kubelet writes for a pod whose `dnsPolicy` is `ClusterFirst`
    /// (<https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>), by its namespace.
    Cluster {
        /// The domain of all names.
        domain: String,
        /// The nameservers.
        nameservers: Vec<IpAddr>,
    },
}

impl Resolver {
    /// The resolv.conf of the pod of this name, `NAMESPACE/POD`.
    pub(super) fn of(&self, pod: &str) -> Option<Cow<'_, [u8]>> {
        match self {
            Self::Unknown => None,
            Self::File(content) => Some(content.into()),
            Self::Cluster { domain, nameservers } => {
                let (namespace, _) = pod.split_once('/')?;
                let mut text = format!("search {namespace}.svc.{domain} svc.{domain} {domain}\n");
                for nameserver in nameservers {
                    // Writing into a string does not fail.
                    let _ = writeln!(text, "nameserver {nameserver}");
                }
                text.push_str("options ndots:5\n");
                Some(text.into_bytes().into())
            }
        }
    }

    /// The bytes that tell it from another one.
    pub(super) fn sum(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Cluster { .. } => format!("{self:?}").into_bytes().into(),
            // Of a file its content, as of each other one.
            _ => self.of("").unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_a_cluster_have_the_names_of_their_namespace() {
        let cluster = Resolver::Cluster {
            domain: "cluster.local".to_owned(),
            nameservers: vec!["10.96.0.10".parse().unwrap(), "fd00:96::a".parse().unwrap()],
        };
        assert_eq!(
            String::from_utf8_lossy(&cluster.of("shop/web-0").unwrap()),
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\n\
             nameserver fd00:96::a\noptions ndots:5\n"
        );
        assert_eq!(cluster.of("web-0"), None, "it has no namespace");
        assert_eq!(Resolver::Unknown.of("shop/web-0"), None);
        let file = Resolver::File(b"nameserver 10.0.0.1\n".to_vec());
        assert_eq!(file.of("shop/web-0").unwrap(), file.sum());
        assert_ne!(cluster.sum(), file.sum());
    }
}
