//! From facts to a class: which statement counts for an address.

use std::{net::IpAddr, time::Instant};

use ipnet::IpNet;

use super::{Class, Directory, Fact, FactSource, PeerId, delta::Delta};
use crate::config::{ExternalAuthority, TunnelConfig};

/// Result of the facts for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "callers decide on every case")]
pub enum Standing {
    /// Of the tenant.
    Internal,
    /// Not of the tenant, on the word of an authoritative source, or outside the protected ranges.
    External,
    /// Not of the tenant on the word of DNS alone: passes, but is asked in the background.
    Claimed,
    /// Of the node or the cluster.
    Exempt,
    /// Inside the protected ranges, and nobody has said anything that counts.
    Unknown,
}

impl Standing {
    /// Its name in reports.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
            Self::Claimed => "claimed",
            Self::Exempt => "exempt",
            Self::Unknown => "unknown",
        }
    }
}

/// Standing of an address, with what it rests on.
#[derive(Debug, Clone)]
pub(crate) struct Finding<'d> {
    pub(crate) standing: Standing,
    /// The statement that decided, if one did.
    pub(crate) fact: Option<&'d Fact>,
    /// Decided because the address was seen internal before.
    pub(crate) sticky: bool,
    /// End of a statement that was looked at; until then time alone changes nothing.
    pub(crate) until: Option<Instant>,
}

/// The answer of [`Directory::classify`]: an address's standing, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Classification<'d> {
    /// Standing of the address.
    pub standing: Standing,
    /// The fact that decided; for [`Unknown`](Standing::Unknown) and for [`External`](Standing::External) by the ranges the
    /// one that did not count, if there is one.
    pub fact: Option<&'d Fact>,
    /// The earliest moment at which time alone may change the answer; `None`: never.
    pub until: Option<Instant>,
}

impl Directory {
    /// Classifies an address by what is known at `now`. Of `config`, `protected` and `external` count.
    ///
    /// Only facts that have not expired are looked at, and of several about the address the one with the longest prefix;
    /// of several about that prefix the one of the highest [authority](FactSource::authority); where several names of DNS
    /// are left, any of them. The first rule that applies decides:
    ///
    /// 1. An [authoritative](FactSource::is_authoritative) fact, as it says. A hint (any other fact) about a longer
    ///    prefix goes before it if it says [`Internal`](Class::Internal).
    /// 2. A hint that says `Internal`: [`Standing::Internal`], in any range. One that says otherwise counts only inside
    ///    the protected ranges, and only with [`ExternalAuthority::Dns`]: [`Standing::Claimed`].
    /// 3. The ranges: inside of the protected ones [`Standing::Unknown`], outside [`Standing::External`].
    ///
    /// So a hint raises protection, and never lowers it for good. A [`Tunnel`](crate::Tunnel) puts the same question to
    /// its directory and to what it has learnt since, the newer fact of one rank first; and between 1 and 2, as well as
    /// before a fact of 1 about more than the one address, it has a rule of its own: an address at which a member of the
    /// tenant has answered stays internal until 10 minutes after the last session.
    ///
    /// ```
    /// use std::{net::IpAddr, time::Instant};
    /// use tencrypt::{TunnelConfig, directory::{Class, Directory, Fact, FactSource, Standing}};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config = TunnelConfig::new(["10.96.0.0/12".parse()?]);
    /// let (web, other) = (IpAddr::from([10, 96, 0, 80]), IpAddr::from([10, 96, 0, 81]));
    /// let dns = FactSource::Dns("web.shop.svc.cluster.local".into());
    /// let facts = [
    ///     Fact::new(config.protected[0], Class::External, FactSource::Static, None),
    ///     Fact::new(web, Class::Internal, dns, None),
    /// ];
    /// let directory = Directory::new(facts, 0x5eed);
    ///
    /// let found = directory.classify(&config, web, Instant::now());
    /// assert_eq!(found.standing, Standing::Internal);
    /// assert!(found.fact.is_some_and(|fact| fact.prefix.addr() == web), "the longer prefix");
    /// assert_eq!(directory.classify(&config, other, Instant::now()).standing, Standing::External);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn classify(&self, config: &TunnelConfig, address: IpAddr, now: Instant) -> Classification<'_> {
        let facts = Facts { base: self, delta: None };
        let Finding { standing, fact, until, .. } = facts.classify(config, address, now);
        Classification { standing, fact, until }
    }
}

/// The base and the delta, looked at together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'d> {
    pub(crate) base: &'d Directory,
    pub(crate) delta: &'d Delta,
    pub(crate) config: &'d TunnelConfig,
}

impl<'d> View<'d> {
    /// Classifies as [`Directory::classify`] documents.
    pub(crate) fn classify(&self, address: IpAddr, now: Instant) -> Finding<'d> {
        self.facts().classify(self.config, address, now)
    }

    /// The longest live fact that names an owner of `address`: its prefix, the owner, and when it ends.
    pub(crate) fn owner(&self, address: IpAddr, now: Instant) -> Option<(IpNet, PeerId, Option<Instant>)> {
        self.facts()
            .about(address)
            .filter(|fact| fact.is_live(now))
            .filter_map(|fact| fact.owner.map(|owner| (fact.prefix, owner, fact.expires)))
            .max_by_key(|(prefix, _, _)| prefix.prefix_len())
    }

    /// Tells if `address` lies in a protected range.
    pub(crate) fn is_protected(&self, address: IpAddr) -> bool {
        is_protected(self.config, address)
    }

    fn facts(&self) -> Facts<'d> {
        Facts { base: self.base, delta: Some(self.delta) }
    }
}

fn is_protected(config: &TunnelConfig, address: IpAddr) -> bool {
    config.protected.iter().any(|range| range.contains(&address))
}

/// All facts there are: those of the base, and of a delta if there is one.
#[derive(Debug, Clone, Copy)]
struct Facts<'d> {
    base: &'d Directory,
    delta: Option<&'d Delta>,
}

impl<'d> Facts<'d> {
    fn classify(&self, config: &TunnelConfig, address: IpAddr, now: Instant) -> Finding<'d> {
        let proved = self.delta.and_then(|delta| delta.sticky_until(address, now));
        let sticky = proved.is_some();
        let authority = self.longest(address, now, FactSource::is_authoritative);
        let hint = self.longest(address, now, |source| !source.is_authoritative());
        let until = authority.iter().chain(&hint).filter_map(|fact| fact.expires).chain(proved).min();
        if let Some(fact) = authority {
            let raised = hint.filter(|hint| {
                hint.class == Class::Internal && hint.prefix.prefix_len() > fact.prefix.prefix_len()
            });
            let fact = raised.unwrap_or(fact);
            let narrower_sticky = sticky
                && fact.class != Class::Internal
                && fact.prefix.prefix_len() < fact.prefix.max_prefix_len();
            if narrower_sticky {
                return Finding { standing: Standing::Internal, fact: None, sticky: true, until };
            }
            let standing = match fact.class {
                Class::Internal => Standing::Internal,
                Class::External => Standing::External,
                Class::Exempt => Standing::Exempt,
            };
            return Finding { standing, fact: Some(fact), sticky: false, until };
        }
        if sticky {
            return Finding { standing: Standing::Internal, fact: hint, sticky: true, until };
        }
        let protected = is_protected(config, address);
        let standing = match hint.map(|fact| fact.class) {
            Some(Class::Internal) => Standing::Internal,
            Some(Class::External | Class::Exempt)
                if protected && config.external == ExternalAuthority::Dns =>
            {
                Standing::Claimed
            }
            _ if protected => Standing::Unknown,
            _ => Standing::External,
        };
        Finding { standing, fact: hint, sticky: false, until }
    }

    /// The longest live fact of a wanted source.
    fn longest(
        &self,
        address: IpAddr,
        now: Instant,
        wanted: impl Fn(&FactSource) -> bool,
    ) -> Option<&'d Fact> {
        let counts = |fact: &&'d Fact| fact.is_live(now) && wanted(&fact.source);
        let base = self.base.table().matches(address).flat_map(|(_, facts)| facts.iter()).find(counts);
        let delta = self.delta.and_then(|delta| {
            delta.table().matches(address).flat_map(|(_, facts)| facts.iter()).find(counts)
        });
        match (base, delta) {
            (Some(base), Some(delta)) => {
                let rank = |fact: &Fact| (fact.prefix.prefix_len(), fact.source.authority());
                // The delta is newer: it wins a tie.
                Some(if rank(base) > rank(delta) { base } else { delta })
            }
            (base, delta) => base.or(delta),
        }
    }

    /// All facts about `address`, expired ones too.
    fn about(&self, address: IpAddr) -> impl Iterator<Item = &'d Fact> {
        let base = self.base.table().matches(address).flat_map(|(_, facts)| facts.iter());
        let delta = self.delta.into_iter().flat_map(move |delta| delta.table().matches(address));
        base.chain(delta.flat_map(|(_, facts)| facts.iter()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{directory::FactChange, testing::start};

    const PROTECTED: &str = "10.0.0.0/8";

    fn fact() -> impl Strategy<Value = (Fact, Option<u64>)> {
        let class = prop_oneof![Just(Class::Internal), Just(Class::External), Just(Class::Exempt)];
        let source = prop_oneof![
            Just(FactSource::Static),
            Just(FactSource::Kubernetes),
            Just(FactSource::Handshake),
            Just(FactSource::Dns("a.test".into())),
            Just(FactSource::Dns("b.test".into())),
            Just(FactSource::ReverseDns("c.test".into())),
        ];
        (
            0u32..4,
            0u32..4,
            prop_oneof![Just(8u8), Just(16), Just(24), Just(30), Just(32)],
            class,
            source,
            prop::option::of(1u64..100),
        )
            .prop_map(|(net, host, length, class, source, life)| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 | net << 16 | host);
                let prefix = ipnet::Ipv4Net::new(address, length).unwrap().trunc();
                (Fact::new(prefix, class, source, None), life)
            })
    }

    /// The rules of [`View::classify`], over a plain list.
    fn scan(
        facts: &[Fact],
        sticky: &[IpAddr],
        address: IpAddr,
        now: Instant,
        config: &TunnelConfig,
    ) -> Standing {
        let longest = |authoritative: bool| {
            facts
                .iter()
                .enumerate()
                .filter(|(_, fact)| fact.prefix.contains(&address) && fact.is_live(now))
                .filter(|(_, fact)| fact.source.is_authoritative() == authoritative)
                .max_by_key(|(at, fact)| {
                    (fact.prefix.prefix_len(), fact.source.authority(), std::cmp::Reverse(*at))
                })
                .map(|(_, fact)| fact)
        };
        let sticky = sticky.contains(&address);
        if let Some(authority) = longest(true) {
            let raised = longest(false).is_some_and(|hint| {
                hint.class == Class::Internal && hint.prefix.prefix_len() > authority.prefix.prefix_len()
            });
            let host = authority.prefix.prefix_len() == 32;
            return match authority.class {
                Class::Internal => Standing::Internal,
                _ if raised || sticky && !host => Standing::Internal,
                Class::External => Standing::External,
                Class::Exempt => Standing::Exempt,
            };
        }
        let protected = config.protected.iter().any(|range| range.contains(&address));
        match longest(false).map(|fact| fact.class) {
            _ if sticky => Standing::Internal,
            Some(Class::Internal) => Standing::Internal,
            Some(_) if protected && config.external == ExternalAuthority::Dns => Standing::Claimed,
            _ if protected => Standing::Unknown,
            _ => Standing::External,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn classify_agrees_with_a_linear_scan(
            base in prop::collection::vec(fact(), 0..12),
            later in prop::collection::vec(fact(), 0..12),
            proved in prop::collection::vec((0u32..16, 1u64..100), 0..6),
            dns: bool,
            elapsed in 0u64..120,
            key: u64,
        ) {
            let begun = start();
            let mut config = TunnelConfig::new([PROTECTED.parse().unwrap()]);
            config.external = if dns { ExternalAuthority::Dns } else { ExternalAuthority::Directory };
            let alive = |(fact, life): (Fact, Option<u64>)| {
                Fact { expires: life.map(|life| begun + Duration::from_secs(life)), ..fact }
            };
            // One statement a prefix and rank: where names of one rank disagree, either is right in its way.
            let mut list: Vec<Fact> = Vec::new();
            let mut fresh = |facts: Vec<(Fact, Option<u64>)>| -> Vec<Fact> {
                let mut kept = Vec::new();
                for fact in facts.into_iter().map(alive) {
                    let rank = |fact: &Fact| (fact.prefix, fact.source.authority());
                    if !list.iter().any(|known| rank(known) == rank(&fact)) {
                        list.push(fact.clone());
                        kept.push(fact);
                    }
                }
                kept
            };
            let (base, later) = (fresh(base), fresh(later));
            let directory = Directory::new(base.clone(), key);
            let mut delta = Delta::new(key);
            for fact in &later {
                delta.apply(&FactChange::Learn(fact.clone()), begun);
            }
            let address = |bits: u32| IpAddr::V4((0x0a00_0000 | (bits >> 2) << 16 | bits & 3).into());
            let mut sticky = Vec::new();
            for (bits, life) in proved {
                delta.stick(address(bits), begun + Duration::from_secs(life));
                sticky.extend((life > elapsed).then(|| address(bits)));
            }
            let view = View { base: &directory, delta: &delta, config: &config };
            let now = begun + Duration::from_secs(elapsed);
            for bits in 0..16u32 {
                let address = address(bits);
                let found = view.classify(address, now).standing;
                prop_assert_eq!(found, scan(&list, &sticky, address, now, &config), "{}", address);

                let alone = directory.classify(&config, address, now);
                prop_assert_eq!(alone.standing, scan(&base, &[], address, now, &config), "{}", address);
                let nothing = Delta::new(key);
                let seen = View { delta: &nothing, ..view }.classify(address, now);
                prop_assert_eq!((alone.standing, alone.fact, alone.until), (seen.standing, seen.fact, seen.until));
                if let Some(until) = alone.until {
                    let last = directory.classify(&config, address, until - Duration::from_nanos(1));
                    prop_assert!(until > now && last == alone, "{}", address);
                }
            }
        }
    }

    /// One row for each rule that [`Directory::classify`] documents: facts, address, answer, prefix of the fact in it.
    #[test]
    fn a_directory_alone_answers_by_the_documented_rules() {
        use Class::{Exempt, External, Internal};
        let fact = |prefix: &str, class, source: FactSource| {
            Fact::new(prefix.parse::<IpNet>().unwrap(), class, source, None)
        };
        let dns = || FactSource::Dns("a.test".into());
        let reverse = || FactSource::ReverseDns("b.test".into());
        let (pod, outside) = ("10.0.0.1", "192.0.2.1");
        let rows = [
            // 1. Authoritative facts, the longest; of one prefix that of the configuration.
            (vec![fact("10.0.0.0/8", Internal, FactSource::Static)], pod, Standing::Internal, 8),
            (vec![fact("10.0.0.0/8", Exempt, FactSource::Static)], pod, Standing::Exempt, 8),
            (
                vec![
                    fact("10.0.0.0/8", Internal, FactSource::Static),
                    fact("10.0.0.0/24", External, FactSource::Kubernetes),
                ],
                pod,
                Standing::External,
                24,
            ),
            (
                vec![
                    fact("10.0.0.0/24", Internal, FactSource::Kubernetes),
                    fact("10.0.0.0/24", External, FactSource::Static),
                ],
                pod,
                Standing::External,
                24,
            ),
            // A hint goes before it only if it is longer and says internal.
            (
                vec![
                    fact("10.0.0.0/24", External, FactSource::Static),
                    fact("10.0.0.1/32", Internal, reverse()),
                ],
                pod,
                Standing::Internal,
                32,
            ),
            (
                vec![fact("10.0.0.1/32", External, FactSource::Static), fact("10.0.0.1/32", Internal, dns())],
                pod,
                Standing::External,
                32,
            ),
            (
                vec![fact("10.0.0.0/24", Internal, FactSource::Static), fact("10.0.0.1/32", External, dns())],
                pod,
                Standing::Internal,
                24,
            ),
            // 2. Hints: internal anywhere, anything else inside the ranges; of one prefix the better source.
            (vec![fact("192.0.2.1/32", Internal, dns())], outside, Standing::Internal, 32),
            (vec![fact("10.0.0.1/32", External, dns())], pod, Standing::Claimed, 32),
            (vec![fact("10.0.0.1/32", Exempt, dns())], pod, Standing::Claimed, 32),
            (
                vec![
                    fact("10.0.0.1/32", External, dns()),
                    fact("10.0.0.1/32", Internal, FactSource::Handshake),
                ],
                pod,
                Standing::Internal,
                32,
            ),
            (vec![fact("192.0.2.1/32", Exempt, dns())], outside, Standing::External, 32),
        ];
        let mut config = TunnelConfig::new([PROTECTED.parse().unwrap()]);
        for (facts, address, standing, prefix) in rows {
            let directory = Directory::new(facts.clone(), 1);
            let found = directory.classify(&config, address.parse().unwrap(), start());
            let len = found.fact.map(|fact| fact.prefix.prefix_len());
            assert_eq!((found.standing, len, found.until), (standing, Some(prefix), None), "{facts:?}");
        }
        // 3. The ranges, and hints that the configuration does not hear.
        let nothing = Directory::new([], 1);
        assert_eq!(nothing.classify(&config, pod.parse().unwrap(), start()).standing, Standing::Unknown);
        assert_eq!(nothing.classify(&config, outside.parse().unwrap(), start()).standing, Standing::External);
        config.external = ExternalAuthority::Directory;
        let claimed = Directory::new([fact("10.0.0.1/32", External, dns())], 1);
        assert_eq!(claimed.classify(&config, pod.parse().unwrap(), start()).standing, Standing::Unknown);
    }

    #[test]
    fn an_address_outside_the_protected_ranges_is_external_without_a_word() {
        let config = TunnelConfig::new([PROTECTED.parse().unwrap()]);
        let (base, delta) = (Directory::new([], 1), Delta::new(1));
        let view = View { base: &base, delta: &delta, config: &config };
        assert_eq!(view.classify([192, 0, 2, 1].into(), start()).standing, Standing::External);
        assert_eq!(view.classify([10, 0, 0, 1].into(), start()).standing, Standing::Unknown);
    }
}
