//! Fit of a suite to the network: an MTU that carries its handshake.
//!
//! Outer packets are never fragmented, and a hybrid INIT is longer than the least MTU of IPv6: where it does not fit, no
//! session would ever come up.

use std::{mem, net::IpAddr};

use tencrypt::CipherSuite;
use tencrypt_tun::Mtu;

use crate::report::SuiteReport;

/// Bytes of the headers of IPv4 and UDP around a message.
const HEADERS_V4: usize = 20 + 8;
/// The same of IPv6.
const HEADERS_V6: usize = 40 + 8;

/// A pod's suite, and the MTU of its interface.
#[derive(Debug, Clone)]
pub(crate) struct SuiteFit {
    suite: CipherSuite,
    interface: String,
    mtu: Mtu,
}

impl SuiteFit {
    /// Pairs `suite` with the MTU of `interface`.
    #[must_use]
    pub(crate) fn new(suite: CipherSuite, interface: &str, mtu: Mtu) -> Self {
        Self { suite, interface: interface.to_owned(), mtu }
    }

    /// Takes the interface's new MTU. Returns true if it had another.
    pub(crate) fn set_mtu(&mut self, mtu: Mtu) -> bool {
        mem::replace(&mut self.mtu, mtu).underlay() != mtu.underlay()
    }

    /// Reports both for a pod with these addresses.
    #[must_use]
    pub(crate) fn report(&self, addresses: &[IpAddr]) -> SuiteReport {
        SuiteReport {
            mtu: self.mtu.device(),
            name: self.suite.name().to_owned(),
            problem: self.problem(addresses),
        }
    }

    /// Returns why a pod with these addresses cannot send its handshakes; `None`: it can.
    #[must_use]
    fn problem(&self, addresses: &[IpAddr]) -> Option<String> {
        let Self { suite, interface, mtu } = self;
        // Where it has none, IPv6 is unreachable altogether.
        let is_v6 = mtu.ipv6().is_some() && addresses.iter().any(IpAddr::is_ipv6);
        let (family, headers) = if is_v6 { ("IPv6", HEADERS_V6) } else { ("IPv4", HEADERS_V4) };
        let (needs, has) = (suite.init_len() + headers, mtu.underlay());
        if usize::try_from(has).is_ok_and(|has| has >= needs) {
            return None;
        }
        let same_cipher = |other: &CipherSuite| other.aead() == suite.aead() && !other.is_hybrid();
        let way_out = match CipherSuite::ALL.iter().copied().find(same_cipher) {
            Some(classical) if suite.is_hybrid() => format!(
                "; give all pods of the tenant `suite = \"{classical}\"`, or {interface} a larger MTU"
            ),
            _ => String::new(),
        };
        Some(format!(
            "handshakes of the suite {suite} need an MTU of {needs} over {family}, {interface} has {has}{way_out}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: CipherSuite = CipherSuite::MlKem768Aes256Gcm;

    fn fits(suite: CipherSuite, underlay: u32, addresses: &[&str]) -> bool {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        SuiteFit::new(suite, "eth0", Mtu::of_underlay(underlay)).problem(&addresses).is_none()
    }

    #[test]
    fn a_hybrid_handshake_needs_1400_bytes_and_over_ipv6_1420() {
        assert!(fits(HYBRID, 1400, &["10.0.0.1"]) && !fits(HYBRID, 1399, &["10.0.0.1"]));
        for addresses in [&["fd00::1"][..], &["10.0.0.1", "fd00::1"]] {
            assert!(fits(HYBRID, 1420, addresses) && !fits(HYBRID, 1419, addresses));
        }
        assert!(!fits(HYBRID, 1280, &["10.0.0.1", "fd00::1"]));
    }

    #[test]
    fn a_classical_one_fits_wherever_ipv6_does() {
        for suite in [CipherSuite::Aes256Gcm, CipherSuite::ChaCha20Poly1305] {
            assert!(fits(suite, 1280, &["10.0.0.1", "fd00::1"]));
            assert!(fits(suite, 312, &["10.0.0.1"]) && !fits(suite, 311, &["10.0.0.1"]));
        }
    }

    #[test]
    fn the_reason_names_the_suite_that_fits() {
        let chacha = CipherSuite::MlKem768ChaCha20Poly1305;
        let mut fit = SuiteFit::new(chacha, "net1", Mtu::of_underlay(1500));
        let addresses = ["10.0.0.1".parse().unwrap()];
        assert!(!fit.set_mtu(Mtu::of_underlay(1500)) && fit.problem(&addresses).is_none());
        assert!(fit.set_mtu(Mtu::of_underlay(1280)));
        let reason = fit.problem(&addresses).unwrap();
        assert_eq!(
            reason,
            "handshakes of the suite x25519-mlkem768-chacha20-poly1305 need an MTU of 1400 over IPv4, net1 has 1280; \
             give all pods of the tenant `suite = \"chacha20-poly1305\"`, or net1 a larger MTU"
        );
        let reason =
            SuiteFit::new(CipherSuite::Aes256Gcm, "eth0", Mtu::of_underlay(200)).problem(&[]).unwrap();
        assert!(reason.ends_with("eth0 has 200"), "{reason}");
    }
}
