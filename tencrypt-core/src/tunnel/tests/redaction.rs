//! Types that hold a secret print none of it and are not `Clone`.

use super::erasure::{Pair, keys};
use crate::{
    CipherSuite, KeyRing, Seed,
    crypto::{EpochKeys, Identity, KemSecret, OpeningKey, Rng, SealingKey, Secret, to_hex, witness},
    handshake::{Confirmed, CookieSecret, Established, Initiator, Responder},
    offload::VnetHdr,
    packet::samples::Sample,
    session::{Counter, Counters, DirectionKeys, Opener, Sealer, TrafficSecret},
    sink::bytes::DatagramQueue,
    trust::CertificateAuthority,
    tunnel::{TunPacket, Tunnel, packet::HeldPacket, peers::Session},
};

/// Has two answers for a type that is `Clone`, so that to ask does not compile.
trait Single<Answer> {
    fn is_single() {}
}
struct Cloned;
impl<T> Single<()> for T {}
impl<T: Clone> Single<Cloned> for T {}

macro_rules! assert_not_clone {
    ($($secret:ty),* $(,)?) => {
        $(const _: fn() = <$secret as Single<_>>::is_single;)*
    };
}

assert_not_clone!(
    CertificateAuthority,
    Confirmed,
    CookieSecret,
    Counter,
    Counters,
    DirectionKeys,
    EpochKeys,
    Established,
    Identity,
    Initiator,
    KemSecret,
    KeyRing,
    Opener,
    OpeningKey,
    Responder,
    Rng,
    Sealer,
    SealingKey,
    Secret<32>,
    Seed,
    Session,
    TrafficSecret,
    Tunnel,
);

#[test]
fn no_secret_is_printed() {
    for &suite in CipherSuite::ALL {
        witness::begin();
        // In the middle of a handshake, and with a session.
        let mut pair = Pair::new(suite);
        pair.ask(0);
        let mut printed = everything(&pair);
        assert!(printed.contains("Initiator {") && printed.contains("Responder {"), "{printed}");
        pair.settle(DatagramQueue::new(64));
        printed += &everything(&pair);
        assert!(printed.contains("Sealer {") && printed.contains("Opener {"), "{printed}");
        printed += &format!("{:?}{:?}", keys(&[1, 2]), keys(&[1, 2]).sent());
        printed += &format!("{:?}", Seed::from_bytes(std::array::from_fn(|at| at as u8)));

        let printed = printed.to_ascii_lowercase();
        let noted = witness::noted();
        assert!(noted.len() > 100);
        for noted in noted.iter().filter(|noted| noted.bytes[..6] != [noted.bytes[0]; 6]) {
            let part = &noted.bytes[..6];
            let list = format!("{part:?}");
            let forms = [list.trim_matches(['[', ']']).to_owned(), to_hex(part)];
            assert!(
                forms.iter().all(|form| !printed.contains(form)),
                "{suite:?}: the one made at {}",
                noted.at
            );
        }
    }
}

/// All that a Tunnel's parts print of themselves.
fn everything(pair: &Pair) -> String {
    let print = |tunnel: &Tunnel| {
        let Tunnel {
            membership,
            policy,
            exchanges,
            peers,
            routes,
            waiting,
            lanes,
            nat: _,
            resets,
            outbox,
            rng,
            stats,
            now,
        } = tunnel;
        format!(
            "{tunnel:?}{membership:?}{policy:?}{exchanges:?}{peers:?}{routes:?}{waiting:?}{lanes:?}{resets:?}{outbox:?}{rng:?}{stats:?}{now:?}"
        )
    };
    pair.tunnels.iter().map(print).collect()
}

#[test]
fn no_packet_is_printed() {
    let mut bytes = Sample::udp("10.0.0.1", "10.0.0.2", (5_000, 80));
    let payload = format!("{:?}", b"payload");
    let packet = TunPacket::new(VnetHdr::default(), &mut bytes);
    for printed in [format!("{packet:?}"), format!("{:?}", HeldPacket::new(&packet))] {
        assert!(
            printed.contains("len: 40") && !printed.contains(payload.trim_matches(['[', ']'])),
            "{printed}"
        );
    }
}

/// The counter's owner is part of the IV.
#[test]
fn the_panic_over_a_counter_of_another_sealer_says_neither_iv() {
    let [mut one, mut other] = [1, 2].map(|split| {
        let keys = DirectionKeys::derive(CipherSuite::Aes256Gcm.aead(), &[split; 32], &[3; 32]);
        Sealer::new(&keys, crate::record::SessionIndex::from_u32(1).unwrap())
    });
    let counter = one.counters(1).unwrap().take().unwrap();
    let panic =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| other.seal(counter, 0, &[], &mut [0; 32])));
    assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"a counter of another Sealer"));
}
