//! An address that was taken for a service's, until its pod heard that it is its own.

use std::{net::IpAddr, time::Duration};

use super::pair::{ADDRESSES, Pair, address};
use crate::{
    crypto::CipherSuite,
    packet::{IpPacket, samples::Sample},
};

const ADOPTED: &str = "10.0.0.7";

/// Sends a packet from this port to that address, and returns the destination with which it comes out.
fn arrives_at(pair: &mut Pair, port: u16, to: &str) -> IpAddr {
    pair.last = None;
    let _ = pair.offer_packet(0, Sample::udp(ADDRESSES[0], to, (port, 80)));
    pair.run(Duration::from_millis(200));
    let packet = pair.last.take().expect("it comes out");
    IpPacket::parse(&packet[..]).expect("well-formed").destination()
}

/// The socket at the other end has the address that its first packet came to; with another one the kernel knows no such
/// connection.
#[test]
fn what_was_begun_under_a_services_address_goes_on_so_when_it_is_the_pods_own() {
    let mut pair = Pair::new(CipherSuite::Aes256Gcm);
    let adopted = ADOPTED.parse().unwrap();
    assert_eq!(arrives_at(&mut pair, 1_001, ADOPTED), address(1), "nobody has it: a service's");
    pair.tunnels[1].set_addresses(&[address(1), adopted], pair.now);
    for _ in 0..3 {
        assert_eq!(arrives_at(&mut pair, 1_001, ADOPTED), address(1), "the flow of before");
        assert_eq!(arrives_at(&mut pair, 1_002, ADOPTED), adopted, "a new one");
        pair.run(Duration::from_secs(3));
    }
    let _ = pair.offer_packet(1, Sample::udp(ADDRESSES[1], ADDRESSES[0], (80, 1_001)));
    let answer = pair.last.take().expect("an answer");
    assert_eq!(IpPacket::parse(&answer[..]).expect("well-formed").source(), adopted);
}
