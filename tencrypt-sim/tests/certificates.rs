//! With an authority, a peer is a peer only with a certificate, and speaks for the addresses in it alone.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tencrypt::{
    CipherSuite, DropReason, Event, Identity, Seed, UnansweredPolicy, Verdict,
    internal::{self, Initiator, Local, Message, Rng},
    record::SessionIndex,
    trust::{Certificate, CertificateAuthority, CertificateError, Request, Revocation, Trust},
};
use tencrypt_sim::{PodId, PodOptions, Tenant, Weather, World};

const RESET: u8 = 6;
const VIP: [u8; 4] = [10, 96, 0, 10];

fn v4(pod: u8) -> IpAddr {
    IpAddr::from([10, 1, 0, pod])
}

/// A tenant with an authority.
struct Cluster {
    world: World,
    tenant: Tenant,
    authority: CertificateAuthority,
}

impl Cluster {
    fn new() -> Self {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant();
        let authority = CertificateAuthority::from_seed(&Seed::from_bytes([3; 32]));
        Self { world, tenant, authority }
    }

    fn trust(&self) -> Trust {
        let services: IpNet = "10.96.0.0/12".parse().unwrap();
        Trust::certificates(self.authority.public_key(), [services])
    }

    /// A pod that asks for certificates and has none.
    fn strict(&mut self, number: u8) -> PodId {
        self.strict_with(PodOptions::new(&[v4(number)]))
    }

    fn strict_with(&mut self, options: PodOptions) -> PodId {
        let pod = self.world.pod(&self.tenant, options);
        self.set_trust(pod, self.trust());
        pod
    }

    fn set_trust(&mut self, pod: PodId, trust: Trust) {
        self.world.command(pod, |tunnel, now| tunnel.set_trust(Arc::new(trust), now));
    }

    fn revoke(&mut self, pod: PodId, line: &str) {
        let revocation = Revocation::parse(&format!("tencrypt-revoked-v1\n{line}\n")).unwrap();
        self.set_trust(pod, self.trust().with_revocation(revocation));
    }

    /// A certificate for the key of `pod`.
    fn issue(&self, pod: PodId, generation: u32, prefix: &str) -> Certificate {
        let (name, prefix) =
            (format!("pod-{pod:?}").to_lowercase().replace(['(', ')'], "-0"), prefix.parse().unwrap());
        let request = Request {
            tenant: self.tenant.id(),
            subject: self.world.tunnel_of(pod).peer_id(),
            pod: &name.parse().unwrap(),
            generation,
            prefixes: &[prefix],
        };
        self.authority.issue(&request).unwrap()
    }

    fn give(&mut self, pod: PodId, certificate: Certificate) -> Result<(), CertificateError> {
        self.world.command(pod, |tunnel, now| tunnel.set_certificate(Some(certificate), now))
    }

    /// A pod with a certificate for its own address.
    fn certified(&mut self, number: u8) -> PodId {
        let pod = self.strict(number);
        let certificate = self.issue(pod, 1, &format!("{}/32", v4(number)));
        self.give(pod, certificate).unwrap();
        pod
    }

    fn send(&mut self, from: PodId, to: IpAddr) -> bool {
        let number = self.world.send(from, to, 100);
        self.run(1_500);
        self.world.model().is_delivered(number)
    }

    fn run(&mut self, milliseconds: u64) {
        self.world.run_for(Duration::from_millis(milliseconds));
    }

    fn refused(&self, pod: PodId) -> u64 {
        self.world.tunnel_of(pod).stats().dropped(DropReason::Certificate)
    }

    fn peers(&self, pod: PodId) -> usize {
        self.world.tunnel_of(pod).peers(self.world.now()).count()
    }
}

#[test]
fn two_certified_pods_talk_in_both_directions() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    assert_eq!((cluster.refused(a), cluster.refused(b)), (0, 0));
    assert_eq!(cluster.world.model().violations(), []);
}

#[test]
fn a_peer_with_the_tenants_key_alone_is_refused_in_both_roles() {
    let mut cluster = Cluster::new();
    let a = cluster.certified(1);
    let tenant = cluster.tenant.clone();
    let b = cluster.world.pod(&tenant, PodOptions::new(&[v4(2)]));
    assert!(!cluster.send(b, v4(1)), "it asked");
    assert!(cluster.refused(a) >= 1);
    let before = cluster.refused(a);
    cluster.world.restart(b);
    cluster.run(5_000);
    assert!(!cluster.send(a, v4(2)), "it answered");
    assert!(cluster.refused(a) > before);
    assert_eq!(cluster.peers(a), 0);
}

/// A member that runs a program of its own, with its own key, and presents `certificate` to `pod` as its initiator.
fn present(cluster: &mut Cluster, pod: PodId, number: u64, certificate: &Certificate, key: &Identity) {
    let mut rng = Rng::new(Seed::from_bytes([number as u8; 32]));
    let (tenant, from) = (cluster.tenant.clone(), SocketAddr::new(v4(1), 8362));
    let local =
        Local::new(tenant.keys(), CipherSuite::Aes256Gcm, key, &[], true).presenting(Some(certificate));
    let index = SessionIndex::random(0, &mut rng);
    let (mut initiator, init) = Initiator::start(&local, index, v4(2), &mut rng);
    // One source may not ask more often than 20 times a second.
    cluster.run(50);
    cluster.world.captured();
    cluster.world.inject(pod, from, init.to_vec());
    let (_, _, resp) = cluster.world.captured().pop().expect("INIT is answered");
    let Ok(Message::Resp(resp)) = internal::parse(&resp) else { panic!("no RESP") };
    let conf = initiator.handle_resp(&resp).unwrap().conf;
    cluster.world.inject(pod, from, conf.to_vec());
}

#[test]
fn a_certificate_with_any_field_wrong_is_dropped_and_counted_on_the_wire() {
    let mut cluster = Cluster::new();
    let b = cluster.certified(2);
    cluster.world.capture();
    let key = Identity::generate(Seed::from_bytes([7; 32]), &[]);
    let name = "web-0".parse().unwrap();
    let prefixes = ["10.1.0.1/32", "fd00::1/128"].map(|prefix| prefix.parse().unwrap());
    let (tenant, subject) = (cluster.tenant.id(), key.peer_id());
    let request = Request { tenant, subject, pod: &name, generation: 1, prefixes: &prefixes };
    let good = cluster.authority.issue(&request).unwrap();
    let mut wrong = 0;
    for at in 0..144 {
        let mut slot = good.encode(false);
        slot[at] ^= 1;
        // What is not spelt right, no program can present; the decoder's own tests are about that.
        let Ok((certificate, _)) = Certificate::decode(&slot) else { continue };
        if certificate == good {
            continue;
        }
        wrong += 1;
        present(&mut cluster, b, at as u64, &certificate, &key);
        assert_eq!((cluster.refused(b), cluster.peers(b)), (wrong, 0), "byte {at}");
    }
    assert!(wrong >= 16 + 16 + 4 + 64, "{wrong}");
    // Signed, and still not good enough: for another key, of another tenant, by another authority.
    let other = CertificateAuthority::from_seed(&Seed::from_bytes([4; 32]));
    for certificate in [
        cluster
            .authority
            .issue(&Request { subject: cluster.world.tunnel_of(b).peer_id(), ..request.clone() }),
        cluster.authority.issue(&Request { tenant: [1; 16], ..request.clone() }),
        other.issue(&request),
    ] {
        wrong += 1;
        present(&mut cluster, b, 200 + wrong % 8, &certificate.unwrap(), &key);
        assert_eq!((cluster.refused(b), cluster.peers(b)), (wrong, 0));
    }
    present(&mut cluster, b, 255, &good, &key);
    assert_eq!((cluster.refused(b), cluster.peers(b)), (wrong, 1), "the certificate was the only obstacle");
}

#[test]
fn without_authority_a_certified_peer_is_like_any_other() {
    let mut cluster = Cluster::new();
    let tenant = cluster.tenant.clone();
    let [a, b] = [1, 2].map(|number| cluster.world.pod(&tenant, PodOptions::new(&[v4(number)])));
    let certificate = cluster.issue(a, 1, "10.1.0.1/32");
    cluster.give(a, certificate).unwrap();
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    // The certificate is out: now it can be asked for, and the session stays.
    let trust = cluster.trust();
    let certificate = cluster.issue(b, 1, "10.1.0.2/32");
    cluster.give(b, certificate).unwrap();
    cluster.set_trust(b, trust);
    assert_eq!(cluster.peers(b), 1);
    assert!(cluster.send(b, v4(1)) && cluster.send(a, v4(2)));
}

#[test]
fn a_pod_without_certificate_sends_nothing_until_it_has_one() {
    let mut cluster = Cluster::new();
    let b = cluster.certified(2);
    let mut options = PodOptions::new(&[v4(1)]);
    options.unknown = UnansweredPolicy::Plain;
    let a = cluster.strict_with(options);
    cluster.world.capture();
    assert!(!cluster.send(a, v4(2)));
    assert!(cluster.world.captured().is_empty() && cluster.world.bypassed_of(a).is_empty());
    let now = cluster.world.now();
    assert_eq!(cluster.world.tunnel_of(a).classify(v4(2), now), Verdict::Drop(DropReason::Certificate));
    assert!(!cluster.send(b, v4(1)), "nor does it answer");
    assert!(cluster.refused(a) >= 2);

    let of_other = cluster.issue(b, 1, "10.1.0.1/32");
    assert_eq!(cluster.give(a, of_other), Err(CertificateError::Signature));
    assert!(!cluster.send(a, v4(2)));
    let certificate = cluster.issue(a, 1, "10.1.0.1/32");
    cluster.give(a, certificate).unwrap();
    assert!(cluster.send(a, v4(2)), "at once");
}

#[test]
fn an_inner_source_outside_the_certificate_is_refused() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    assert!(cluster.send(a, v4(2)));
    // Its program takes the address for its own; its certificate does not list it.
    cluster.world.command(a, |tunnel, now| tunnel.set_addresses(&[v4(1), v4(7)], now));
    let number = cluster.world.send_from(a, v4(7), v4(2), 100);
    cluster.run(100);
    assert!(!cluster.world.model().is_delivered(number));
    assert_eq!(cluster.world.tunnel_of(b).stats().dropped(DropReason::InnerSource), 1);
    assert!(cluster.send(a, v4(2)), "the peer itself is not punished");
}

#[test]
fn a_certificate_proves_its_addresses_without_a_question() {
    let mut cluster = Cluster::new();
    let b = cluster.certified(2);
    let a = cluster.strict_with(PodOptions::new(&[v4(1)]));
    let certificate = cluster.issue(a, 1, "10.1.0.0/28");
    cluster.give(a, certificate).unwrap();
    assert!(cluster.send(a, v4(2)));
    cluster.world.command(a, |tunnel, now| tunnel.set_addresses(&[v4(1), v4(7)], now));
    let number = cluster.world.send_from(a, v4(7), v4(2), 100);
    cluster.run(100);
    assert!(cluster.world.model().is_delivered(number));
    // A narrower certificate beats the range.
    let c = cluster.certified(8);
    assert!(cluster.send(c, v4(2)));
    cluster.world.command(a, |tunnel, now| tunnel.set_addresses(&[v4(1), v4(8)], now));
    let number = cluster.world.send_from(a, v4(8), v4(2), 100);
    cluster.run(100);
    assert!(!cluster.world.model().is_delivered(number));
    assert_eq!(cluster.world.tunnel_of(b).stats().dropped(DropReason::InnerSource), 1);
}

#[test]
fn a_member_that_answers_for_the_address_of_another_is_refused_and_nothing_leaves_in_plain() {
    let mut cluster = Cluster::new();
    let mut options = PodOptions::new(&[v4(1)]);
    options.unknown = UnansweredPolicy::Plain;
    let a = cluster.strict_with(options);
    let certificate = cluster.issue(a, 1, "10.1.0.1/32");
    cluster.give(a, certificate).unwrap();
    let c = cluster.certified(3);
    // The network leads the address of pod 2 to pod 3.
    cluster.world.vip(v4(2), v4(3));
    assert!(!cluster.send(a, v4(2)));
    assert!(cluster.refused(a) >= 1 && cluster.world.bypassed_of(a).is_empty());
    assert_eq!((cluster.peers(a), cluster.world.tunnel_of(c).stats().decrypted), (0, 0));
    cluster.run(20_000);
    assert!(!cluster.send(a, v4(2)));
    assert!(cluster.world.bypassed_of(a).is_empty(), "it was seen internal");
}

#[test]
fn a_service_is_served_by_whoever_is_certified() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    cluster.world.vip(VIP.into(), v4(2));
    assert!(cluster.send(a, VIP.into()) && cluster.send(a, VIP.into()));
    assert_eq!(cluster.world.tunnel_of(b).stats().decrypted, 2);
}

/// Lines of a revocation file, each of which revokes pod 1.
fn revocations(cluster: &Cluster, a: PodId) -> Vec<String> {
    let key = cluster.world.tunnel_of(a).peer_id();
    let key: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    vec!["min-generation 2".to_owned(), format!("deny-key {key}"), "deny-pod pod-podid-00-0".to_owned()]
}

#[test]
fn revocation_ends_a_live_session_in_both_directions_at_once() {
    for which in 0..3 {
        let mut cluster = Cluster::new();
        let (a, b) = (cluster.certified(1), cluster.certified(2));
        assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
        let renewed = cluster.issue(b, 2, "10.1.0.2/32");
        cluster.give(b, renewed).unwrap();
        let line = revocations(&cluster, a).remove(which);

        cluster.revoke(b, &line);
        assert_eq!(cluster.peers(b), 0, "{line}");
        assert!(cluster.world.events_of(b).iter().any(|event| matches!(event, Event::PeerDown { .. })));
        let before = cluster.refused(b);
        assert!(!cluster.send(a, v4(2)), "{line}: what it sends on the old session");
        assert!(cluster.refused(b) > before, "{line}: counted");
        assert!(!cluster.send(b, v4(1)), "{line}: what is sent to it");
        cluster.run(30_000);
        assert!(!cluster.send(a, v4(2)) && !cluster.send(b, v4(1)), "{line}: nor by a new handshake");
        assert_eq!(cluster.peers(b), 0);

        let trust = cluster.trust();
        cluster.set_trust(b, trust);
        cluster.run(70_000);
        assert!(cluster.send(b, v4(1)), "{line}: it was the only obstacle");
    }
}

#[test]
fn a_side_that_is_revoked_itself_has_no_peer_any_more() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    assert!(cluster.send(a, v4(2)));
    cluster.revoke(b, "min-generation 2");
    assert_eq!(cluster.peers(b), 0);
    assert!(!cluster.send(b, v4(1)) && !cluster.send(a, v4(2)));
    assert_eq!(
        cluster.world.tunnel_of(b).own_certificate(),
        Err(CertificateError::Generation { found: 1, minimum: 2 })
    );
}

#[test]
fn a_renewed_certificate_is_told_to_peers_before_the_minimum_is_raised() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    for (pod, prefix) in [(a, "10.1.0.1/32"), (b, "10.1.0.2/32")] {
        let renewed = cluster.issue(pod, 2, prefix);
        cluster.give(pod, renewed).unwrap();
    }
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    cluster.run(1_000);
    for pod in [a, b] {
        cluster.revoke(pod, "min-generation 2");
        assert_eq!(cluster.peers(pod), 1);
    }
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    assert_eq!((cluster.refused(a), cluster.refused(b)), (0, 0));
}

#[test]
fn a_pod_that_starts_over_is_closed_until_its_new_key_has_a_certificate() {
    let mut cluster = Cluster::new();
    let (a, b) = (cluster.certified(1), cluster.certified(2));
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    let old = cluster.issue(a, 1, "10.1.0.1/32");
    cluster.world.renew(a, 1);
    assert_eq!(cluster.peers(a), 0);
    assert!(!cluster.send(a, v4(2)) && !cluster.send(b, v4(1)));
    assert_eq!(cluster.give(a, old), Err(CertificateError::Signature), "it is for the key that is gone");
    assert!(!cluster.send(a, v4(2)));
    let new = cluster.issue(a, 1, "10.1.0.1/32");
    cluster.give(a, new).unwrap();
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    assert_eq!(cluster.world.bypassed_of(a).len() + cluster.world.bypassed_of(b).len(), 0);
}

/// The tenant's key and a certificate of pod 3 got out. What their holder is left with, step by step, and in the end.
#[test]
fn who_holds_a_leaked_key_and_certificate_gets_silence_once_they_are_rotated_out() {
    let mut cluster = Cluster::new();
    let (a, b, thief) = (cluster.certified(1), cluster.certified(2), cluster.certified(3));
    assert!(cluster.send(a, v4(2)) && cluster.send(thief, v4(1)), "until then it is a member");
    let leaked = cluster.tenant.clone();
    for (accept, send) in [(&[1, 2][..], 1), (&[1, 2], 2)] {
        for pod in [a, b] {
            cluster.world.change_keys(pod, &leaked.with(accept, send)).unwrap();
            assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
        }
    }
    cluster.run(5_000);
    // Members renew, then the generation is raised: the certificate is worth nothing while the key still is.
    for (pod, prefix) in [(a, "10.1.0.1/32"), (b, "10.1.0.2/32")] {
        let renewed = cluster.issue(pod, 2, prefix);
        cluster.give(pod, renewed).unwrap();
        assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)));
    }
    [a, b].into_iter().for_each(|pod| cluster.revoke(pod, "min-generation 2"));
    assert!(!cluster.send(thief, v4(1)) && !cluster.send(thief, v4(2)), "by its session or a new one");
    assert!(cluster.refused(a) >= 1 && cluster.refused(b) >= 1);
    // Then the key goes.
    for pod in [a, b] {
        cluster.world.change_keys(pod, &leaked.with(&[2], 2)).unwrap();
        assert!(cluster.send(a, v4(2)) || pod == a, "the one that is behind by a moment");
    }
    cluster.run(1_000);
    cluster.world.capture();
    let before = [a, b].map(|pod| cluster.world.tunnel_of(pod).stats().dropped(DropReason::OtherEpoch));
    for round in 0..60 {
        if round == 30 {
            // With a new static key, as after a restart of its program.
            cluster.world.restart(thief);
            let trust = cluster.trust();
            cluster.set_trust(thief, trust);
            let certificate = cluster.issue(thief, 1, "10.1.0.3/32");
            cluster.give(thief, certificate).unwrap();
        }
        assert!(!cluster.send(thief, v4(1)) && !cluster.send(thief, v4(2)));
    }
    let said = cluster.world.captured();
    assert!(said.iter().any(|(from, ..)| from.ip() == v4(3)), "it tried");
    // A record of a session that is long gone is answered by RESET, whoever sent it, under the key that its sender has not.
    let answers = said.iter().filter(|(_, to, _)| to.ip() == v4(3));
    assert!(answers.clone().all(|(.., bytes)| bytes[0] == RESET), "a handshake was answered");
    assert!(answers.count() <= 60);
    for (pod, before) in [a, b].into_iter().zip(before) {
        assert!(cluster.world.tunnel_of(pod).stats().dropped(DropReason::OtherEpoch) > before);
    }
    assert!(cluster.send(a, v4(2)) && cluster.send(b, v4(1)), "the members do not notice");
    assert_eq!(cluster.world.model().violations(), []);
}
