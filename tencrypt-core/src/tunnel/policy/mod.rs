//! Knowledge of addresses, and decisions by it: configuration, facts, this pod's own addresses, and the decisions that
//! still hold.

mod recent;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipnet::IpNet;

use self::recent::Recent;
pub(super) use self::recent::{Direction, Pair};
use super::{
    limits::{MAX_ANNOUNCED, MAX_SERVED, OWN_VIP_BELIEVED},
    peer_key::PeerKey,
};
use crate::{
    config::{TunnelConfig, UnansweredPolicy},
    directory::{Class, Delta, Directory, FactChange, Finding, PeerId, Standing, View},
    packet::is_tunnel_address,
};

/// The owner of everything that a decision about an address rests on, but for peers. Whatever changes it makes the
/// decisions remembered before worth nothing, here and nowhere else.
#[derive(Debug)]
pub(super) struct Policy {
    config: Arc<TunnelConfig>,
    /// This pod's own addresses.
    addresses: Vec<IpAddr>,
    directory: Arc<Directory>,
    delta: Delta,
    /// VIPs that lead back to this pod, and until when that is believed unasked.
    own_vips: BTreeMap<IpAddr, Instant>,
    /// Destinations whose bypass the owner of the Tunnel knows of.
    announced: BTreeSet<IpAddr>,
    recent: Recent,
    /// Grows with each change that a decision may depend on.
    revision: u64,
}

impl Policy {
    pub(super) fn new(
        config: Arc<TunnelConfig>,
        addresses: Vec<IpAddr>,
        directory: Arc<Directory>,
        hash_key: u64,
    ) -> Self {
        Self {
            config,
            addresses,
            directory,
            delta: Delta::new(hash_key),
            own_vips: BTreeMap::new(),
            announced: BTreeSet::new(),
            recent: Recent::default(),
            revision: 0,
        }
    }

    pub(super) fn config(&self) -> &Arc<TunnelConfig> {
        &self.config
    }

    pub(super) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(super) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Tells if packets of this pod may go to `address`: to whoever may be reached through a tunnel or beside it, or to a
    /// nameserver, which may be of this link alone.
    pub(super) fn is_destination(&self, address: IpAddr) -> bool {
        let is_nameserver = || self.config.dns.as_ref().is_some_and(|dns| dns.nameservers.contains(&address));
        is_tunnel_address(address) || is_nameserver()
    }

    /// This pod's first address of the family of `address`.
    pub(super) fn own_address_beside(&self, address: IpAddr) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|own| own.is_ipv4() == address.is_ipv4())
    }

    /// Replaces this pod's own addresses. False: they are those there were.
    pub(super) fn set_addresses(&mut self, addresses: &[IpAddr]) -> bool {
        let is_new = self.addresses != addresses;
        if is_new {
            self.changed();
            self.addresses = addresses.to_vec();
        }
        is_new
    }

    /// Replaces the base, which holds what was applied so far.
    pub(super) fn set_directory(&mut self, directory: Arc<Directory>, hash_key: u64) {
        self.changed();
        self.directory = directory;
        self.delta.folded(hash_key);
    }

    /// Takes facts in. Returns the announced destinations that are internal by them.
    pub(super) fn apply_facts(&mut self, changes: &[FactChange], now: Instant) -> Vec<IpAddr> {
        self.changed();
        let mut internal = Vec::new();
        for change in changes {
            self.delta.apply(change, now);
            if let FactChange::Learn(fact) = change
                && fact.class == Class::Internal
                && is_single(&fact.prefix)
                && self.announced.remove(&fact.prefix.addr())
            {
                internal.push(fact.prefix.addr());
            }
        }
        internal
    }

    /// Forgets what was found by handshakes of another identity: the VIPs that lead back here. Facts stay.
    pub(super) fn forget_findings(&mut self) {
        self.changed();
        self.own_vips.clear();
    }

    /// Notes that an address has proved to be of the tenant: until then it is not spoken to in plain unless an
    /// authoritative fact says so.
    pub(super) fn note_internal(&mut self, address: IpAddr, until: Instant) {
        self.changed();
        self.delta.stick(address, until);
        self.announced.remove(&address);
    }

    fn view(&self) -> View<'_> {
        View { base: &self.directory, delta: &self.delta, config: &self.config }
    }

    pub(super) fn classify(&self, address: IpAddr, now: Instant) -> Finding<'_> {
        self.view().classify(address, now)
    }

    /// The owner that facts name for `address`, whether a fact about just this address does, and until when.
    pub(super) fn fact_owner(
        &self,
        address: IpAddr,
        now: Instant,
    ) -> Option<(PeerId, bool, Option<Instant>)> {
        let (prefix, owner, until) = self.view().owner(address, now)?;
        Some((owner, is_single(&prefix), until))
    }

    pub(super) fn is_protected(&self, address: IpAddr) -> bool {
        self.view().is_protected(address)
    }

    /// Tells if an unanswered destination may be spoken to in plain.
    pub(super) fn may_go_plain(&self, finding: &Finding<'_>) -> bool {
        self.config.unknown == UnansweredPolicy::Plain
            && finding.standing == Standing::Unknown
            && !finding.sticky
    }

    /// Tells if packets to `destination` are for a nameserver, and so may be queries.
    pub(super) fn is_nameserver(&self, destination: IpAddr) -> bool {
        self.config.dns.as_ref().is_some_and(|dns| dns.nameservers.contains(&destination))
    }

    /// Notes that the owner of the Tunnel is told of the bypass of a destination. False: it was told already.
    pub(super) fn announce(&mut self, destination: IpAddr) -> bool {
        if self.announced.contains(&destination) {
            return false;
        }
        if self.announced.len() >= MAX_ANNOUNCED {
            self.announced.pop_first();
        }
        self.announced.insert(destination)
    }

    /// Makes the next bypass of a destination one that its owner is told of.
    pub(super) fn retract(&mut self, destination: IpAddr) {
        self.announced.remove(&destination);
    }

    pub(super) fn is_own_vip(&self, vip: IpAddr) -> bool {
        self.own_vips.contains_key(&vip)
    }

    /// Notes that a VIP leads back to this pod.
    pub(super) fn found_own_vip(&mut self, vip: IpAddr, now: Instant) {
        if self.own_vips.len() < MAX_SERVED || self.own_vips.contains_key(&vip) {
            self.changed();
            self.own_vips.insert(vip, now + OWN_VIP_BELIEVED);
        }
    }

    /// Tells if it is time to ask again whether a VIP leads back here; if so, it is believed for as long once more.
    pub(super) fn is_own_vip_in_doubt(&mut self, vip: IpAddr, now: Instant) -> bool {
        let Some(until) = self.own_vips.get_mut(&vip).filter(|until| **until <= now) else { return false };
        *until = now + OWN_VIP_BELIEVED;
        true
    }

    /// Notes that a VIP does not lead back here, or not any more.
    pub(super) fn lost_own_vip(&mut self, vip: IpAddr) {
        if self.own_vips.remove(&vip).is_some() {
            self.changed();
        }
    }

    /// The peer that packets like this belong to, by a decision that still holds: nothing here has changed since it was
    /// made, nor anything outside whose `revision` it was made under.
    #[inline]
    pub(super) fn remembered(&self, pair: Pair, revision: u64, now: Instant) -> Option<PeerKey> {
        self.recent.peer(pair, self.revision + revision, now)
    }

    /// Remembers a decision, which rests on facts that hold until `until`.
    pub(super) fn remember(&mut self, pair: Pair, peer: PeerKey, revision: u64, until: Option<Instant>) {
        self.recent.note(pair, peer, self.revision + revision, until);
    }

    fn changed(&mut self) {
        self.revision += 1;
    }
}

fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        directory::{Fact, FactSource},
        testing::start,
        tunnel::peer_key::PeerKey,
    };

    const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    fn policy() -> Policy {
        let config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
        Policy::new(Arc::new(config), vec![OWN], Arc::new(Directory::new([], 1)), 1)
    }

    fn pair() -> Pair {
        Pair { direction: Direction::Out, source: OWN, destination: OTHER }
    }

    fn learn(class: Class) -> FactChange {
        FactChange::Learn(Fact::new(OTHER, class, FactSource::Static, None))
    }

    /// Each of the ways in which what a decision rests on can change here.
    #[test]
    fn no_decision_outlives_a_change_of_policy() {
        type Change = fn(&mut Policy);
        let changes: [(&str, Change); 7] = [
            ("facts", |policy| drop(policy.apply_facts(&[learn(Class::External)], start()))),
            ("facts forgotten", |policy| {
                let source = FactSource::Static;
                policy.apply_facts(&[FactChange::Forget { prefix: OTHER.into(), source }], start());
            }),
            ("a base of facts", |policy| policy.set_directory(Arc::new(Directory::new([], 2)), 2)),
            ("addresses", |policy| assert!(policy.set_addresses(&[OTHER]))),
            ("an address seen internal", |policy| {
                policy.note_internal(OTHER, start() + Duration::from_secs(60))
            }),
            ("a VIP that leads back", |policy| policy.found_own_vip(OTHER, start())),
            ("findings forgotten", Policy::forget_findings),
        ];
        for (name, change) in changes {
            let mut policy = policy();
            policy.remember(pair(), PeerKey::ONE, 0, None);
            assert_eq!(policy.remembered(pair(), 0, start()), Some(PeerKey::ONE), "{name}");
            change(&mut policy);
            assert_eq!(policy.remembered(pair(), 0, start()), None, "{name}");
        }
    }

    #[test]
    fn a_decision_holds_under_the_revision_of_others_that_it_was_made_under() {
        let mut policy = policy();
        policy.remember(pair(), PeerKey::ONE, 5, None);
        assert_eq!(policy.remembered(pair(), 6, start()), None);
        assert_eq!(policy.remembered(pair(), 5, start()), Some(PeerKey::ONE));
        // Not by chance either: what changes here and what changes outside only grows.
        policy.note_internal(OTHER, start() + Duration::from_secs(60));
        assert_eq!(policy.remembered(pair(), 5, start()), None);
    }

    #[test]
    fn a_vip_that_led_back_and_does_no_more_ends_decisions_and_one_that_never_did_ends_none() {
        let mut policy = policy();
        policy.found_own_vip(OTHER, start());
        policy.remember(pair(), PeerKey::ONE, 0, None);
        policy.lost_own_vip(OWN);
        assert_eq!(policy.remembered(pair(), 0, start()), Some(PeerKey::ONE));
        policy.lost_own_vip(OTHER);
        assert_eq!(policy.remembered(pair(), 0, start()), None);
    }

    #[test]
    fn a_bypass_is_announced_once_until_it_is_retracted_or_the_destination_internal() {
        let mut policy = policy();
        assert!(policy.announce(OTHER) && !policy.announce(OTHER));
        policy.retract(OTHER);
        assert!(policy.announce(OTHER));
        assert_eq!(policy.apply_facts(&[learn(Class::Internal)], start()), [OTHER]);
        assert!(policy.announce(OTHER));
        policy.note_internal(OTHER, start() + Duration::from_secs(60));
        assert!(policy.announce(OTHER));
        assert!(policy.apply_facts(&[learn(Class::External)], start()).is_empty());
    }

    #[test]
    fn that_a_vip_leads_back_is_doubted_once_a_minute() {
        let (mut policy, now) = (policy(), start());
        policy.found_own_vip(OTHER, now);
        let later = now + OWN_VIP_BELIEVED;
        assert!(!policy.is_own_vip_in_doubt(OTHER, later - Duration::from_millis(1)));
        assert!(policy.is_own_vip_in_doubt(OTHER, later) && !policy.is_own_vip_in_doubt(OTHER, later));
        assert!(policy.is_own_vip(OTHER) && !policy.is_own_vip_in_doubt(OWN, later));
    }
}
