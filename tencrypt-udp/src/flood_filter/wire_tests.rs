//! The filter beside messages that the core makes: a layout that moved in one of them fails here.

use std::{net::UdpSocket, sync::Arc};

use tencrypt::{
    DatagramSink, Identity, KeyRing, Outbound, Output, PacketSink, RecvMeta, Seed, SinkFull, Train,
    TrainSlot, TunPacket, Tunnel, TunnelConfig,
    offload::{Opened, VnetHdr},
};

use super::{
    tests::{outcome, passed},
    *,
};

const ADDRESSES: [[u8; 4]; 3] = [[10, 0, 0, 1], [10, 0, 0, 2], [10, 0, 0, 3]];

/// Messages by type: one of each that a handshake, a record and its repetition to somebody else bring about.
fn messages() -> [Vec<u8>; 5] {
    let start = Instant::now();
    let root: [u8; 32] = std::array::from_fn(|at| (at * 37 + 11) as u8);
    let keys = Arc::new(KeyRing::parse(&KeyRing::write_file([7; 16], 1, &root)).unwrap());
    let config = TunnelConfig::new(["10.0.0.0/8".parse().unwrap()]);
    let mut pods = ADDRESSES.map(|address| {
        let seed = |salt| Seed::from_bytes([address[3] + salt; 32]);
        let identity = Identity::generate(seed(0), &[address.into()]);
        Tunnel::builder(config.clone(), keys.clone(), identity).build(seed(100), start).unwrap()
    });
    let mut packet = [0; 28];
    packet[..12].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
    packet[12..16].copy_from_slice(&ADDRESSES[0]);
    packet[16..20].copy_from_slice(&ADDRESSES[1]);
    packet[20..26].copy_from_slice(&[1, 0, 1, 0, 0, 8]);
    let mut packet = TunPacket::new(VnetHdr::default(), &mut packet);
    assert_eq!(pods[0].handle_packet(&mut packet, start, &mut Nowhere), Outbound::Held);
    let mut found =
        [Head::INIT, Head::RESP, Head::CONF, Head::DATA, Head::RESET].map(|kind| (kind, Vec::new()));
    let mut buffer = vec![0; 65_535];
    for _ in 0..8 {
        for at in 0..pods.len() {
            pods[at].handle_timeout(start);
            loop {
                let transmit = match pods[at].poll_output(&mut buffer, start) {
                    Output::Transmit(transmit) => transmit,
                    Output::Timeout(_) => break,
                    _ => continue,
                };
                let datagram = buffer[..transmit.len].to_vec();
                let of_kind = found.iter_mut().find(|(kind, _)| datagram.first() == Some(kind));
                of_kind.expect("a known type").1.clone_from(&datagram);
                let from = SocketAddr::from((ADDRESSES[at], 8_362));
                // The third knows nothing of the records that it is sent.
                let stray = datagram[0] == Head::DATA;
                for other in 0..pods.len() {
                    if transmit.to.ip() == IpAddr::from(ADDRESSES[other]) || stray && other == 2 {
                        let meta = RecvMeta::new(from, datagram.len() as u16);
                        pods[other].handle_datagrams(&meta, &mut datagram.clone(), start, &mut Nowhere);
                    }
                }
            }
        }
    }
    found.map(|(kind, message)| {
        assert!(!message.is_empty(), "no message of type {kind}");
        message
    })
}

/// Takes packets and datagrams that nobody looks at.
#[derive(Debug)]
struct Nowhere;

impl DatagramSink for Nowhere {
    type Slot<'s> = Self;

    fn reserve(&mut self, _want: Train) -> Option<Self> {
        None
    }
}

impl TrainSlot for Nowhere {
    fn records(&self) -> u16 {
        0
    }

    fn buffer(&mut self) -> &mut [u8] {
        &mut []
    }

    fn commit(self, _records: u16, _len: usize) {}
}

impl<'b> PacketSink<'b> for Nowhere {
    fn packet(&mut self, _packet: Opened<'b>) -> Result<(), SinkFull> {
        Ok(())
    }
}

#[test]
fn messages_of_the_core_are_told_apart_by_the_filter() {
    let messages = messages();
    let datagrams = messages.each_ref().map(Vec::as_slice);
    let [init, _, conf, record, _] = datagrams;
    let home = "127.0.0.1";
    let mut filter = FloodFilter::new();
    let bucket = filter.bucket(home.parse().unwrap());
    let [handshakes, records] = [false, true].map(|is_data| kind(is_data, Family::V4));

    // A chance of 1 in 65,536 that one passes all the same, each.
    filter.shift[handshakes][bucket] = MAX_SHIFT;
    assert_eq!(
        passed(&filter, home, &datagrams),
        [false, false, false, true, false],
        "only DATA is no handshake"
    );
    filter.note_sent(init);
    filter.note_sent(conf);
    filter.admitted[1] = filter.handshakes.0.iter().copied().collect();
    assert_eq!(passed(&filter, home, &datagrams), [false, true, false, true, false], "RESP answers INIT");

    filter.shift[handshakes][bucket] = 0;
    filter.shift[records][bucket] = MAX_SHIFT;
    assert_eq!(passed(&filter, home, &datagrams), [true, true, true, false, true]);
    filter.since = Some(Instant::now());
    let from = UdpSocket::bind((home, 0)).unwrap().local_addr().unwrap();
    filter.note_received(from, &outcome(record, 1, 1), Instant::now());
    filter.admitted[0] = filter.sessions.0.iter().copied().collect();
    assert_eq!(passed(&filter, home, &datagrams), [true; 5], "records of a session that opened something");
}
