//! The key of a flow.

use std::net::IpAddr;

/// Fields that the packets of one flow in one direction have in common. Ordered by addresses first, so that all flows
/// between two addresses are neighbours in a sorted map.
///
/// ICMP echo has one identifier instead of two ports: a request has it as source port and 0 as destination port, a
/// reply the other way round, so that [`reverse`](Self::reverse) of a request's flow is the flow of its reply.
/// Everything without ports, other ICMP messages included, has 0 and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(clippy::exhaustive_structs, reason = "a key that others build")]
pub struct Flow {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Protocol number behind all extension headers.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
}

impl Flow {
    /// The flow of the answers.
    #[must_use]
    pub const fn reverse(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }

    /// A hash under a secret `seed`: the same on every machine, different for the two directions. For choosing among
    /// a few; no protection against someone who sees many outcomes.
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        let words = |address| match address {
            IpAddr::V4(v4) => (4, u64::from(u32::from(v4))),
            IpAddr::V6(v6) => {
                let bits = u128::from(v6);
                ((bits >> 64) as u64, bits as u64)
            }
        };
        let (source, destination) = (words(self.source), words(self.destination));
        let rest = u64::from(self.protocol) << 32
            | u64::from(self.source_port) << 16
            | u64::from(self.destination_port);
        [source.0, source.1, destination.0, destination.1, rest]
            .into_iter()
            .fold(seed, |hash, word| mix(hash ^ word))
    }
}

/// One step of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014, figure 12).
fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u16) -> Flow {
        Flow {
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            protocol: 6,
            source_port: port,
            destination_port: 80,
        }
    }

    #[test]
    fn the_reverse_of_the_reverse_is_the_flow() {
        assert_ne!(flow(4000).reverse(), flow(4000));
        assert_eq!(flow(4000).reverse().reverse(), flow(4000));
    }

    #[test]
    fn the_mixer_gives_the_published_sequence() {
        // The first outputs of SplitMix64 from state 1234567, whose states are multiples of its increment apart.
        assert_eq!(mix(1_234_567), 6_457_827_717_110_365_317);
        assert_eq!(mix(1_234_567u64.wrapping_add(0x9E37_79B9_7F4A_7C15)), 3_203_168_211_198_807_973);
    }

    #[test]
    fn hashes_spread_over_ports_and_depend_on_the_seed() {
        let mut counts = [0u32; 4];
        for port in 0..8000 {
            counts[(flow(port).hash(7) % 4) as usize] += 1;
        }
        // 2,000 each; four standard deviations of a fair choice are 155.
        assert!(counts.iter().all(|count| count.abs_diff(2000) < 155), "{counts:?}");
        assert_ne!(flow(1).hash(1), flow(1).hash(2));
        assert_ne!(flow(1).hash(1), flow(1).reverse().hash(1));
    }
}
