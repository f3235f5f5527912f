//! The place of the API server, and of what a client needs to talk to it.

use std::{net::IpAddr, path::PathBuf};

use hyper::Uri;
use rustls::pki_types::ServerName;

use super::error::ClientError;

/// The port of https (RFC 9110 section 4.2.2), where an address has none.
const HTTPS_PORT: u16 = 443;

/// The place of an API server and of the credentials for it. In a pod these are the address of `KUBERNETES_SERVICE_HOST` and
/// `KUBERNETES_SERVICE_PORT`, and the files `token` and `ca.crt` in `/var/run/secrets/kubernetes.io/serviceaccount` (Kubernetes
/// docs, "Accessing the Kubernetes API from a Pod").
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The server, `https://host:port`, an IPv6 address in brackets.
    pub(crate) server: String,
    /// The file with the token of the service account.
    pub(crate) token: PathBuf,
    /// The file with the certificates of the authorities that the server's certificate may be of, in PEM.
    pub(crate) ca: PathBuf,
}

/// An address of a server, taken to its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// The name or IP address to connect to, without brackets.
    pub(super) host: String,
    /// The TCP port.
    pub(super) port: u16,
    /// The name or IP address that the server's certificate has to have.
    pub(super) name: ServerName<'static>,
    /// The value of the field `Host`: as in the address (RFC 9110 section 7.2).
    pub(super) authority: String,
}

impl Place {
    /// Takes the server's address to its parts.
    ///
    /// # Errors
    /// [`ClientError::Server`]: it is none of https, or has something beside host and port.
    pub(super) fn address(&self) -> Result<Address, ClientError> {
        let refused = |reason| ClientError::Server { server: self.server.clone(), reason };
        let uri: Uri = self.server.parse().map_err(|_| refused("it is no URL"))?;
        if uri.scheme_str() != Some("https") {
            return Err(refused("it does not begin with https://"));
        }
        let authority = uri.authority().ok_or(refused("it has no host"))?;
        if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refused("it has more than a host and a port"));
        }
        let in_brackets = authority.host().strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = in_brackets.unwrap_or(authority.host());
        if in_brackets.is_some() && !matches!(host.parse(), Ok(IpAddr::V6(_))) {
            return Err(refused("what is in brackets is no IPv6 address"));
        }
        let port = match authority.port_u16() {
            Some(0) => return Err(refused("its port is 0")),
            Some(port) => port,
            None if authority.as_str() == authority.host() => HTTPS_PORT,
            None => return Err(refused("its port is no number up to 65535")),
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused("its host is neither a DNS name nor an IP address"))?;
        Ok(Address { host: host.to_owned(), port, name, authority: authority.as_str().to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(server: &str) -> Result<Address, String> {
        let place = Place { server: server.into(), token: PathBuf::new(), ca: PathBuf::new() };
        place.address().map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_addresses_of_both_families_are_taken() {
        let v4 = address("https://192.168.77.1:6443").unwrap();
        assert_eq!((v4.host.as_str(), v4.port), ("192.168.77.1", 6443));
        assert!(matches!(v4.name, ServerName::IpAddress(_)), "{v4:?}");
        let v6 = address("https://[fd00::1]:6443/").unwrap();
        assert_eq!((v6.host.as_str(), v6.authority.as_str()), ("fd00::1", "[fd00::1]:6443"));
        assert!(matches!(v6.name, ServerName::IpAddress(_)), "{v6:?}");
        let name = address("https://kubernetes.default.svc").unwrap();
        assert_eq!((name.host.as_str(), name.port), ("kubernetes.default.svc", 443));
        assert!(matches!(name.name, ServerName::DnsName(_)), "{name:?}");
    }

    #[test]
    fn what_is_no_address_of_https_is_refused_with_its_reason() {
        for (server, reason) in [
            ("", "it is no URL"),
            ("http://10.96.0.1:443", "it does not begin with https://"),
            ("10.96.0.1:443", "it does not begin with https://"),
            ("https://fd00::1:443", "it is no URL"),
            ("https://[10.0.0.1]:443", "what is in brackets is no IPv6 address"),
            ("https://[fd00::1%25eth0]:443", "what is in brackets is no IPv6 address"),
            ("https://root@10.96.0.1", "it has more than a host and a port"),
            ("https://10.96.0.1/api", "it has more than a host and a port"),
            ("https://10.96.0.1?a", "it has more than a host and a port"),
            ("https://10.96.0.1:0", "its port is 0"),
            ("https://10.96.0.1:65536", "its port is no number up to 65535"),
            ("https://a..b:443", "its host is neither a DNS name nor an IP address"),
        ] {
            assert_eq!(address(server), Err(format!("{server}: no address of an API server: {reason}")));
        }
    }
}
