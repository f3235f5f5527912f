//! Every field of every handshake message and certificate, wrong in turn, at a running pod: the message is dropped and
//! counted once, nothing is answered, no session changes, and a peer of the pod does not notice.

mod lies;
mod member;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ml_kem::kem::KeyExport;
use tencrypt::{
    CipherSuite,
    DropReason::{
        self, Auth, Certificate as Certified, HeldTimeout, Mac1, Malformed, OtherEpoch, Replay, UnknownIndex,
        Unsupported,
    },
    PeerInfo, Seed,
    crypto::PeerId,
    internal::{Conf, write_reset},
    record::SessionIndex,
    trust::{Certificate, CertificateAuthority, Request, Revocation, Trust},
};
use tencrypt_sim::{PodId, PodOptions, Tenant, Weather, World};

use crate::{
    lies::{LOW_ORDER, point, with},
    member::{Member, Weak, index},
};

const PORT: u16 = 8_362;
const INIT: u8 = 1;
const RESP: u8 = 2;
const CONF: u8 = 3;
/// The pod that is lied to, and its peer.
const POD: [u8; 4] = [10, 1, 0, 2];
const PEER: [u8; 4] = [10, 1, 0, 1];
/// One of either key exchange and either cipher.
const SUITES: [CipherSuite; 2] = [CipherSuite::ChaCha20Poly1305, CipherSuite::MlKem768Aes256Gcm];

/// A pod with a session, and a member that lies to it.
struct Wire {
    world: World,
    tenant: Tenant,
    pod: PodId,
    peer: PodId,
    member: Member,
    authority: Option<CertificateAuthority>,
    made: u32,
}

impl Wire {
    fn new(suite: CipherSuite) -> Self {
        Self::with(suite, None)
    }

    /// The same where certificates are asked for.
    fn certified(suite: CipherSuite) -> Self {
        Self::with(suite, Some(CertificateAuthority::from_seed(&Seed::from_bytes([3; 32]))))
    }

    fn with(suite: CipherSuite, authority: Option<CertificateAuthority>) -> Self {
        let mut world = World::new(1, Weather::CLEAR);
        let tenant = world.tenant().with(&[1, 2], 1);
        let [pod, peer] = [POD, PEER].map(|address| {
            let mut options = PodOptions::new(&[address.into()]);
            options.suite = suite;
            world.pod(&tenant, options)
        });
        let member = Member::new(&tenant, suite);
        let mut wire = Self { world, tenant, pod, peer, member, authority, made: 0 };
        if wire.authority.is_some() {
            for (pod, address) in [(pod, POD), (peer, PEER)] {
                wire.trust(pod, "");
                let subject = wire.world.tunnel_of(pod).peer_id();
                let certificate = wire.issue(subject, address, |_| {});
                let given = |tunnel: &mut tencrypt::Tunnel, now| {
                    tunnel.set_certificate(Some(certificate.clone()), now)
                };
                wire.world.command(pod, given).expect("it counts");
            }
        }
        wire.world.capture();
        wire.is_undisturbed("at the beginning");
        wire
    }

    fn trust(&mut self, pod: PodId, revoked: &str) {
        let authority = self.authority.as_ref().expect("there is one");
        let revocation = Revocation::parse(&format!("tencrypt-revoked-v1\n{revoked}\n")).expect("a list");
        let trust = Trust::certificates(authority.public_key(), []).with_revocation(revocation);
        self.world.command(pod, |tunnel, now| tunnel.set_trust(Arc::new(trust), now));
    }

    /// A certificate of generation 5, with what `change` makes of the request.
    fn issue(&self, subject: PeerId, address: [u8; 4], change: impl FnOnce(&mut Request<'_>)) -> Certificate {
        let (name, prefix) = ("web-0".parse().expect("a name"), IpAddr::from(address).into());
        let prefixes = [prefix];
        let (tenant, generation) = (self.tenant.id(), 5);
        let mut request = Request { tenant, subject, pod: &name, generation, prefixes: &prefixes };
        change(&mut request);
        self.authority.as_ref().expect("there is one").issue(&request).expect("it is well-formed")
    }

    /// A number that was not there before, and an address of its own: one source may not ask often.
    fn next(&mut self) -> (u32, SocketAddr) {
        self.made += 1;
        let [.., high, low] = self.made.to_be_bytes();
        (self.made, SocketAddr::new(IpAddr::from([10, 3, high, low]), PORT))
    }

    fn peers(&self) -> Vec<PeerInfo> {
        self.world.tunnel_of(self.pod).peers(self.world.now()).collect()
    }

    /// The pod drops a datagram: it is counted as `reason`, once, and that is all that changes; `also` are packets that
    /// waited for what it was to be.
    fn drops(
        &mut self,
        what: &str,
        from: SocketAddr,
        datagram: Vec<u8>,
        reason: DropReason,
        also: &[DropReason],
    ) {
        let mut expected = *self.world.tunnel_of(self.pod).stats();
        expected.drop_many(reason, 1);
        also.iter().for_each(|also| expected.drop_many(*also, 1));
        let peers = self.peers();
        self.world.captured();
        self.world.inject(self.pod, from, datagram);
        let answers = self.world.captured();
        assert!(answers.is_empty(), "{what}: answered by type {}", answers[0].2[0]);
        let stats = *self.world.tunnel_of(self.pod).stats();
        let counted = |reason: &DropReason| stats.dropped(*reason) > expected.dropped(*reason);
        let instead: Vec<_> = DropReason::ALL.iter().filter(|reason| counted(reason)).collect();
        assert_eq!(stats, expected, "{what}: {reason} expected, {instead:?} found");
        assert_eq!(self.peers(), peers, "{what}");
    }

    /// It does so, and the session with its peer goes on.
    fn refuses(
        &mut self,
        what: &str,
        from: SocketAddr,
        datagram: Vec<u8>,
        reason: DropReason,
        also: &[DropReason],
    ) {
        self.drops(what, from, datagram, reason, also);
        self.is_undisturbed(what);
    }

    /// Its session with its peer works, in both directions.
    fn is_undisturbed(&mut self, what: &str) {
        let there = self.world.send(self.peer, POD.into(), 64);
        let back = self.world.send(self.pod, PEER.into(), 64);
        // Long enough that what this test costs the pod is no load.
        self.world.run_for(Duration::from_millis(20));
        let heard = [there, back].map(|number| self.world.model().is_delivered(number));
        assert_eq!(heard, [true; 2], "{what}");
        assert_eq!(self.world.model().violations(), [], "{what}");
    }

    /// The pod's answer to a datagram.
    fn answer(&mut self, from: SocketAddr, datagram: Vec<u8>) -> Option<Vec<u8>> {
        self.world.captured();
        self.world.inject(self.pod, from, datagram);
        self.world.captured().pop().map(|(.., bytes)| bytes)
    }

    /// A good INIT of the member's, and the pod's RESP.
    fn asked(&mut self) -> (member::Asking, Vec<u8>, SocketAddr) {
        let (number, from) = self.next();
        let asking = self.member.ask(number, &self.member.init_payload(POD));
        let resp = self.answer(from, asking.init.clone()).expect("INIT is answered");
        assert_eq!(resp[0], RESP);
        (asking, resp, from)
    }

    /// An INIT of the pod's, to an address that is asked for the first time, and that address.
    fn asks(&mut self) -> (Vec<u8>, [u8; 4], SocketAddr) {
        self.made += 1;
        let [.., high, low] = self.made.to_be_bytes();
        let asked = [10, 4, high, low];
        self.world.captured();
        self.world.send(self.pod, asked.into(), 64);
        let (_, to, init) = self.world.captured().pop().expect("INIT is sent");
        assert_eq!((to.ip(), init[0]), (asked.into(), INIT));
        (init, asked, SocketAddr::new(asked.into(), PORT))
    }

    fn slot(&self, own: [u8; 4]) -> [u8; Conf::IDENTITY_LEN] {
        match &self.authority {
            Some(_) => self.issue(self.member.peer_id(), own, |_| {}).encode(false),
            None => Member::slot(own),
        }
    }

    /// A good RESP to an INIT of the pod's is taken.
    fn takes(&mut self, what: &str, init: &[u8], own: [u8; 4], from: SocketAddr) {
        let mut answering = self.member.answer(init, self.made, &self.slot(own), None);
        let before = self.world.tunnel_of(self.pod).stats().handshakes;
        self.world.captured();
        self.world.inject(self.pod, from, answering.resp.clone());
        assert_eq!(self.world.tunnel_of(self.pod).stats().handshakes, before + 1, "{what}");
        let captured = self.world.captured();
        let conf = captured.iter().find(|(.., bytes)| bytes[0] == CONF).expect("CONF is sent");
        assert!(answering.reads(&conf.2), "{what}");
    }
}

#[test]
fn the_member_that_lies_is_understood_when_it_does_not() {
    for &suite in CipherSuite::ALL {
        for mut wire in [Wire::new(suite), Wire::certified(suite)] {
            let (asking, resp, from) = wire.asked();
            let slot = wire.slot([from.ip()].map(octets)[0]);
            let conf = wire.member.confirm(asking, &resp, &slot);
            let answer = wire.answer(from, conf).expect("an empty record");
            assert_eq!((answer[0], answer.len()), (4, 32), "{suite}");
            assert_eq!(wire.peers().len(), 2);
            let (init, asked, from) = wire.asks();
            wire.takes("a good RESP", &init, asked, from);
        }
    }
}

fn octets(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => panic!("the tests use IPv4"),
    }
}

#[test]
fn init_with_any_field_wrong_is_dropped_and_counted() {
    for suite in SUITES {
        let mut wire = Wire::new(suite);
        let (number, _) = wire.next();
        let good = wire.member.ask(number, &wire.member.init_payload(POD)).init;
        for lie in lies::outside(suite, INIT, good.len()) {
            let (_, from) = wire.next();
            let what = format!("{suite}, INIT, {}", lie.what);
            wire.refuses(&what, from, lie.of(&wire.member, &good), lie.reason, &[]);
        }
        for (what, payload) in lies::init_payloads(&wire.member) {
            let (number, from) = wire.next();
            let init = wire.member.ask(number, &payload).init;
            wire.refuses(&format!("{suite}, INIT, {what}"), from, init, Malformed, &[]);
        }
        for low in LOW_ORDER {
            let (number, from) = wire.next();
            wire.member.weak = Some((Weak::Ephemeral, point(low)));
            let init = wire.member.ask(number, &wire.member.init_payload(POD)).init;
            wire.refuses(&format!("{suite}, INIT, low order {low}"), from, init, Auth, &[]);
            wire.member.weak = None;
        }
        // mac2 is nothing while there is no load.
        let last = good.len() - 1;
        let (_, from) = wire.next();
        assert_eq!(wire.answer(from, with(&good, last, 7)).map(|answer| answer[0]), Some(RESP));
    }
}

#[test]
fn resp_with_any_field_wrong_is_dropped_and_counted() {
    for suite in SUITES {
        let mut wire = Wire::new(suite);
        for lie in lies::outside(suite, RESP, suite.resp_len()) {
            // A destination is asked for a second at most.
            let (init, asked, from) = wire.asks();
            let good = wire.member.answer(&init, wire.made, &Member::slot(asked), None).resp;
            let what = format!("{suite}, RESP, {}", lie.what);
            wire.refuses(&what, from, lie.of(&wire.member, &good), lie.reason, &[]);
            // Whoever forges an answer does not keep the pod from the genuine one.
            wire.takes(&what, &init, asked, from);
        }
        for low in LOW_ORDER {
            for weak in [Weak::Static, Weak::Ephemeral] {
                let (init, asked, from) = wire.asks();
                wire.member.weak = Some((weak, point(low)));
                let resp = wire.member.answer(&init, wire.made, &Member::slot(asked), None).resp;
                wire.refuses(&format!("{suite}, RESP, {weak:?} {low}"), from, resp, Auth, &[]);
                wire.member.weak = None;
                wire.takes(low, &init, asked, from);
            }
        }
        for (what, slot) in lies::slots([10, 4, 0, 1]) {
            let (init, _, from) = wire.asks();
            let resp = wire.member.answer(&init, wire.made, &slot, None).resp;
            wire.refuses(&format!("{suite}, RESP, {what}"), from, resp, Malformed, &[]);
        }
    }
}

#[test]
fn conf_with_any_field_wrong_is_dropped_and_counted() {
    for suite in SUITES {
        let mut wire = Wire::new(suite);
        for lie in lies::outside(suite, CONF, 252) {
            let (asking, resp, from) = wire.asked();
            let good = wire.member.confirm(asking, &resp, &Member::slot(octets(from.ip())));
            let what = format!("{suite}, CONF, {}", lie.what);
            wire.refuses(&what, from, lie.of(&wire.member, &good), lie.reason, &[]);
        }
        for low in LOW_ORDER {
            wire.member.weak = Some((Weak::Static, point(low)));
            let (asking, resp, from) = wire.asked();
            let conf = wire.member.confirm(asking, &resp, &Member::slot(octets(from.ip())));
            wire.refuses(&format!("{suite}, CONF, low order {low}"), from, conf, Auth, &[]);
            wire.member.weak = None;
        }
        for (what, slot) in lies::slots([10, 3, 0, 1]) {
            let (asking, resp, from) = wire.asked();
            let conf = wire.member.confirm(asking, &resp, &slot);
            wire.refuses(&format!("{suite}, CONF, {what}"), from, conf, Malformed, &[]);
        }
    }
}

/// FIPS 203 section 6.3: who decapsulates another ciphertext has another secret, and no error. So the two that do not
/// share it are told by CONF.
#[test]
fn a_secret_for_another_kem_key_makes_no_session_that_works() {
    for suite in CipherSuite::ALL.iter().copied().filter(|suite| suite.is_hybrid()) {
        let mut wire = Wire::new(suite);
        // INIT with a key that is not its sender's: of somebody else, or of another INIT.
        let (number, from) = wire.next();
        let mut payload = wire.member.init_payload(POD);
        payload[20..1_204].copy_from_slice(&wire.member.kem(2).encapsulation_key().to_bytes());
        let asking = wire.member.ask(number, &payload);
        let resp = wire.answer(from, asking.init.clone()).expect("it is a key like any other");
        let conf = wire.member.confirm(asking, &resp, &Member::slot(octets(from.ip())));
        wire.refuses(&format!("{suite}, CONF"), from, conf, Auth, &[]);
        // RESP with a ciphertext for another key.
        let (init, asked, from) = wire.asks();
        let other = wire.member.kem(2);
        let mut answering = wire.member.answer(&init, wire.made, &Member::slot(asked), Some(&other));
        let conf = wire.answer(from, answering.resp.clone()).expect("the pod cannot tell yet");
        assert!(!answering.reads(&conf), "{suite}");
        wire.is_undisturbed("behind such a RESP");
    }
}

/// A certificate that is spelt right and not good enough: why, its slot, and what is revoked.
fn refused_certificates(
    wire: &Wire,
    own: [u8; 4],
    revoked: &mut Vec<String>,
) -> Vec<(String, [u8; Conf::IDENTITY_LEN])> {
    let subject = wire.member.peer_id();
    let good = wire.issue(subject, own, |_| {}).encode(false);
    let mut slots = vec![("none".to_owned(), Member::slot(own))];
    for (what, fields) in [
        ("tenant", 4..20),
        ("pod", 20..36),
        ("generation", 36..40),
        ("address", 44..48),
        ("signature", 80..144),
    ] {
        for at in [fields.start, fields.end - 1] {
            let slot = with(&good, at, good[at] ^ 1).try_into().expect("its length is kept");
            slots.push((format!("{what}, byte {at}"), slot));
        }
    }
    let stranger = CertificateAuthority::from_seed(&Seed::from_bytes([4; 32]));
    let other = Wire { authority: Some(stranger), ..Wire::new(wire.member.suite) };
    let tenant = wire.tenant.id();
    let by_a_stranger = other.issue(subject, own, |request| request.tenant = tenant);
    let of_the_peer = wire.issue(wire.world.tunnel_of(wire.peer).peer_id(), own, |_| {});
    let of_another_tenant = wire.issue(subject, own, |request| request.tenant = [1; 16]);
    let old = wire.issue(subject, own, |request| request.generation = 4);
    let denied = "denied-0".parse().expect("a name");
    let of_a_denied_pod = CertificateAuthority::from_seed(&Seed::from_bytes([3; 32])).issue(&Request {
        tenant,
        subject,
        pod: &denied,
        generation: 5,
        prefixes: &[IpAddr::from(own).into()],
    });
    revoked.extend(["min-generation 5".to_owned(), "deny-pod denied-0".to_owned()]);
    for (what, certificate) in [
        ("by another authority", by_a_stranger),
        ("for another key", of_the_peer),
        ("for another tenant", of_another_tenant),
        ("an old generation", old),
        ("a denied pod", of_a_denied_pod.expect("it is well-formed")),
    ] {
        slots.push((what.to_owned(), certificate.encode(false)));
    }
    slots
}

#[test]
fn a_certificate_with_any_field_wrong_is_dropped_and_counted_in_both_roles() {
    for suite in SUITES {
        let mut wire = Wire::certified(suite);
        let (pod, own) = (wire.pod, [10, 5, 0, 1]);
        let mut revoked = Vec::new();
        let refused = refused_certificates(&wire, own, &mut revoked);
        wire.trust(pod, &revoked.join("\n"));
        let good = wire.issue(wire.member.peer_id(), own, |_| {}).encode(false);
        let misspelt = lies::misspelt_certificates(&good);
        let misspelt = misspelt.into_iter().map(|(what, slot)| (what, slot, Malformed));
        let refused = refused.into_iter().map(|(what, slot)| (what, slot.to_vec(), Certified));
        for (what, slot, reason) in misspelt.chain(refused) {
            let what = format!("{suite}, certificate: {what}");
            let (asking, resp, from) = wire.asked();
            let conf = wire.member.confirm(asking, &resp, &slot);
            wire.refuses(&format!("{what}, in CONF"), from, conf, reason, &[]);
            let (init, _, from) = wire.asks();
            let resp = wire.member.answer(&init, wire.made, &slot, None).resp;
            // Who answers so is of the tenant, and is not waited for: the packet that waited goes.
            let also = if reason == Certified { &[HeldTimeout][..] } else { &[] };
            wire.refuses(&format!("{what}, in RESP"), from, resp, reason, also);
        }
        // A good one, by a member that answers for an address which is not in it.
        let (init, _, from) = wire.asks();
        let resp = wire.member.answer(&init, wire.made, &good, None).resp;
        wire.refuses("an address of another", from, resp, Certified, &[HeldTimeout]);
        let deny =
            wire.member.peer_id().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        wire.trust(pod, &format!("deny-key {deny}"));
        let (asking, resp, from) = wire.asked();
        let conf = wire.member.confirm(asking, &resp, &good);
        wire.refuses("a denied key", from, conf, Certified, &[]);
    }
}

#[test]
fn reset_with_any_field_wrong_is_dropped_and_counted() {
    let mut wire = Wire::new(CipherSuite::Aes256Gcm);
    let (keys, from) = (wire.tenant.clone(), SocketAddr::new(PEER.into(), PORT));
    wire.world.captured();
    wire.world.send(wire.pod, PEER.into(), 64);
    let record = wire.world.captured().pop().expect("a record").2;
    let live = SessionIndex::from_u32(index(&record, 4)).expect("not 0");
    let unknown = SessionIndex::from_u32(live.as_u32() ^ 1).expect("not 0");
    let good = write_reset(keys.keys(), live, 1).to_vec();
    let mut lies = vec![
        (
            "an index that nothing is sent on".to_owned(),
            write_reset(keys.keys(), unknown, 1).to_vec(),
            UnknownIndex,
        ),
        ("no index".to_owned(), [&good[..4], &[0; 4], &good[8..]].concat(), Malformed),
        ("a byte more".to_owned(), [&good[..], &[0]].concat(), Malformed),
        ("a byte less".to_owned(), good[..31].to_vec(), Malformed),
    ];
    // The type alone is no field: 32 bytes are a record of some index, a COOKIE too short.
    for (what, at, value, reason) in [
        ("type", 0, 7, Unsupported),
        ("version", 1, 0, Unsupported),
        ("version", 1, 2, Unsupported),
        ("reserved", 2, 1, Malformed),
        ("an epoch that is not held", 3, 9, OtherEpoch),
        ("another epoch", 3, 2, Mac1),
    ] {
        lies.push((format!("{what} {value}"), with(&good, at, value), reason));
    }
    lies.extend((4..32).map(|at| (format!("byte {at}"), with(&good, at, good[at] ^ 2), Mac1)));
    for (what, datagram, reason) in lies {
        wire.refuses(&format!("RESET, {what}"), from, datagram, reason, &[]);
    }
    assert_eq!(wire.answer(from, good).map(|answer| answer[0]), Some(INIT), "the genuine one does something");
}

#[test]
fn cookie_with_any_field_wrong_is_dropped_and_counted() {
    for suite in SUITES {
        let mut wire = Wire::new(suite);
        // Another pod, under load, is asked.
        let mut options = PodOptions::new(&[IpAddr::from([10, 1, 0, 9])]);
        options.suite = suite;
        let loaded = wire.world.pod(&wire.tenant, options);
        for _ in 0..300 {
            let (number, from) = wire.next();
            let init = wire.member.ask(number, &wire.member.init_payload([10, 1, 0, 9])).init;
            wire.world.inject(loaded, from, init);
        }
        wire.world.captured();
        wire.world.send(wire.pod, IpAddr::from([10, 1, 0, 8]), 64);
        let init = wire.world.captured().pop().expect("INIT").2;
        wire.world.inject(loaded, SocketAddr::new(POD.into(), PORT), init);
        let good = wire.world.captured().pop().expect("COOKIE").2;
        assert_eq!((good[0], good.len()), (5, 64));
        let from = SocketAddr::new(IpAddr::from([10, 1, 0, 8]), PORT);
        let mut lies = vec![
            ("no index".to_owned(), [&good[..4], &[0; 4], &good[8..]].concat(), Malformed),
            ("a byte more".to_owned(), [&good[..], &[0]].concat(), Malformed),
            ("a byte less".to_owned(), good[..63].to_vec(), Malformed),
            ("7 bytes".to_owned(), good[..7].to_vec(), Malformed),
        ];
        for (what, at, value, reason) in [
            ("type", 0, 7, Unsupported),
            ("version", 1, 0, Unsupported),
            ("version", 1, 2, Unsupported),
            ("reserved", 2, 1, Malformed),
            ("reserved", 3, 1, Malformed),
        ] {
            lies.push((format!("{what} {value}"), with(&good, at, value), reason));
        }
        lies.extend((4..8).map(|at| (format!("byte {at}"), with(&good, at, good[at] ^ 2), UnknownIndex)));
        lies.extend((8..64).map(|at| (format!("byte {at}"), with(&good, at, good[at] ^ 2), Auth)));
        for (what, datagram, reason) in lies {
            // It is asked for a second, so time must not pass.
            wire.drops(&format!("{suite}, COOKIE, {what}"), from, datagram, reason, &[]);
        }
        let again = wire.answer(from, good).expect("the genuine one is taken");
        assert_eq!((again[0], again.len()), (INIT, suite.init_len()));
        wire.is_undisturbed("at the end");
    }
}

/// Only a member can make such a RESP, but the member need not be the one that was asked.
#[test]
fn a_misspelt_resp_delays_the_genuine_one_by_a_repetition() {
    for suite in SUITES {
        let mut wire = Wire::new(suite);
        let (init, asked, from) = wire.asks();
        let (_, slot) = lies::slots(asked).pop().expect("there are some");
        let resp = wire.member.answer(&init, wire.made, &slot, None).resp;
        wire.drops("RESP", from, resp, Malformed, &[]);
        let genuine = wire.member.answer(&init, wire.made, &Member::slot(asked), None).resp;
        wire.drops("this handshake is over", from, genuine, Replay, &[]);
        wire.world.run_for(Duration::from_millis(300));
        let captured = wire.world.captured();
        let again = captured.iter().find(|(_, to, bytes)| *to == from && bytes[0] == INIT).expect("INIT");
        assert_ne!(again.2, init);
        wire.takes("another INIT", &again.2, asked, from);
    }
}
