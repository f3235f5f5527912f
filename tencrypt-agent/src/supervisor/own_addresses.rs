//! The pod's own addresses, and those among them that nothing protects: told when one comes.

use std::{mem, net::IpAddr, sync::PoisonError};

use crate::{
    config::Config,
    lane::pod_status::Shared,
    report::{BoundServerReport, NetworkReport},
};

/// The pod's own addresses, kept up to date.
pub(super) struct OwnAddresses {
    addresses: Vec<IpAddr>,
    config: Config,
    report: Shared<NetworkReport>,
}

impl OwnAddresses {
    /// Takes the first `addresses`; `report` is kept in line with them.
    pub(super) fn new(addresses: Vec<IpAddr>, config: &Config, report: Shared<NetworkReport>) -> Self {
        let own = Self { addresses, config: config.clone(), report };
        own.tell(&[]);
        own
    }

    /// Returns them.
    pub(super) fn all(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Takes others. Returns false if they are the same as before.
    pub(super) fn replace(&mut self, addresses: Vec<IpAddr>) -> bool {
        if addresses == self.addresses {
            return false;
        }
        let before = self.config.unprotected(&mem::replace(&mut self.addresses, addresses));
        self.tell(&before);
        true
    }

    /// Notes the servers that only the interface reaches, and says so of those that were not there before.
    pub(super) fn note_bound_servers(&self, servers: Vec<BoundServerReport>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        for BoundServerReport { protocol, address } in
            servers.iter().filter(|server| !report.bound_servers.contains(server))
        {
            tracing::warn!(
                "NOT reached through the tunnel: the {protocol} server at {address}, which is bound to the interface"
            );
        }
        report.bound_servers = servers;
    }

    /// Notes which addresses nothing protects, and says so of those that are not among `known`.
    fn tell(&self, known: &[IpAddr]) {
        let unprotected = self.config.unprotected(&self.addresses);
        for address in unprotected.iter().filter(|address| !known.contains(address)) {
            tracing::warn!(
                "NOT protected: no range of network.protected holds the pod's own address {address}; what comes from \
                 there and goes there is plain"
            );
        }
        self.report.lock().unwrap_or_else(PoisonError::into_inner).unprotected = unprotected;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{config::ConfigFile, lane::pod_status::read};

    #[test]
    fn an_address_that_comes_later_is_noted_and_one_that_goes_is_not_any_more() {
        let text = "[tenant]\nkey_file = \"k\"\n[network]\nprotected = [\"10.0.0.0/8\"]\nexempt = [\"192.0.2.1\"]\n\
                    [[fact]]\nprefix = \"198.51.100.0/24\"\nclass = \"external\"\n";
        let config = ConfigFile::parse(text, Path::new("c.toml")).unwrap().config;
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let report = Shared::<NetworkReport>::default();
        let stated = [address("10.1.2.3"), address("192.0.2.1"), address("198.51.100.7")];
        let mut own = OwnAddresses::new(stated.to_vec(), &config, report.clone());
        assert_eq!(read(&report).unprotected, [] as [IpAddr; 0]);
        assert!(!own.replace(stated.to_vec()));
        for later in [address("fd00::7"), address("172.16.0.1")] {
            assert!(own.replace(vec![stated[0], later]));
            assert_eq!(read(&report).unprotected, [later]);
            assert_eq!(own.all(), [stated[0], later]);
        }
        assert!(own.replace(stated.to_vec()) && read(&report).unprotected.is_empty());
    }
}
