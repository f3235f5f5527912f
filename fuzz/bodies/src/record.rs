//! The wire format, and records under a session's keys.

use std::collections::BTreeSet;

use tencrypt::{
    CipherSuite, DropReason, Identity, KeyRing, Seed,
    internal::{self, Data, Established, Initiator, Local, Message, Responder, Rng},
    record::SessionIndex,
    session::{ReplayWindow, Sealer},
};

use crate::input::Input;

/// Steps that one input may take with a session, at most.
const MAX_STEPS: usize = 64;

/// Parses the bytes as a datagram, or lets them say how a sender, a receiver and somebody between them behave.
pub fn record(data: &[u8]) {
    let mut input = Input::new(data);
    if input.flag() {
        session(&mut input);
    } else {
        let bytes = input.rest();
        read(bytes);
        // The type byte in front, so that each parser is met often.
        for kind in 0..=6 {
            let mut typed = bytes.to_vec();
            if let Some(first) = typed.first_mut() {
                *first = kind;
                read(&typed);
            }
        }
    }
}

/// Compares `parse` with a reading of docs/wire-format.md section 1 of our own.
fn read(datagram: &[u8]) {
    let long =
        |at: usize| u32::from_le_bytes([datagram[at], datagram[at + 1], datagram[at + 2], datagram[at + 3]]);
    let message = match internal::parse(datagram) {
        Ok(message) => message,
        Err(reason) => {
            assert!(matches!(reason, DropReason::Malformed | DropReason::Unsupported));
            return;
        }
    };
    match message {
        Message::Init(init) => {
            assert_eq!((datagram[0], datagram.len()), (1, 284));
            assert_eq!((init.epoch, init.sender.as_u32(), 0), (datagram[3], long(4), long(8)));
            assert_eq!(init.noise[..], datagram[12..252]);
        }
        Message::Resp(resp) => {
            assert_eq!((datagram[0], datagram.len()), (2, 284));
            assert_eq!((resp.epoch, resp.sender.as_u32()), (datagram[3], long(4)));
            assert_eq!(resp.receiver.as_u32(), long(8));
            assert_eq!(resp.noise[..], datagram[12..252]);
        }
        Message::Conf(conf) => {
            assert_eq!((datagram[0], datagram.len()), (3, 252));
            assert_eq!((conf.epoch, conf.sender.as_u32()), (datagram[3], long(4)));
            assert_eq!(conf.receiver.as_u32(), long(8));
            assert_eq!(conf.noise[..], datagram[12..220]);
        }
        Message::Data(data) => {
            assert!(datagram[0] == 4 && datagram.len() >= Sealer::OVERHEAD);
            assert_eq!((data.flags, datagram[2], datagram[3]), (datagram[1], 0, 0));
            assert_eq!(data.flags & !Data::KNOWN_FLAGS, 0);
            assert_eq!(data.index.as_u32(), long(4));
            assert_eq!(data.counter, u64::from(long(8)) | u64::from(long(12)) << 32);
        }
        Message::Cookie(cookie) => {
            assert_eq!((datagram[0], datagram.len()), (5, 64));
            assert_eq!(datagram[1..4], [1, 0, 0]);
            assert_eq!(cookie.receiver.as_u32(), long(4));
            assert_eq!((&cookie.nonce[..], &cookie.sealed[..]), (&datagram[8..32], &datagram[32..]));
        }
        Message::Reset(reset) => {
            assert_eq!((datagram[0], datagram.len()), (6, 32));
            assert_eq!((datagram[1], datagram[2]), (1, 0));
            assert_eq!((reset.epoch, reset.index.as_u32()), (datagram[3], long(4)));
        }
    }
    let mac1 = internal::mac1(datagram);
    match message {
        Message::Data(_) | Message::Cookie(_) | Message::Reset(_) => assert_eq!(mac1, None),
        _ => assert_eq!(
            mac1.as_ref().map(|mac| &mac[..]),
            datagram.get(datagram.len() - 32..datagram.len() - 16)
        ),
    }
}

/// A record under way.
struct Sealed {
    packet: Vec<u8>,
    flags: u8,
    bytes: Vec<u8>,
}

/// One direction of a session: every record opens once, as it was sealed, unless it is too old; nothing else opens.
fn session(input: &mut Input<'_>) {
    let suite = CipherSuite::ALL[input.index(CipherSuite::ALL.len())];
    let (mut sender, mut receiver) = pair(suite);
    let mut sealed: Vec<Sealed> = Vec::new();
    let (mut opened, mut newest) = (BTreeSet::new(), 0);
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() % 6 {
            0 | 1 => {
                let flags = input.byte();
                let len = usize::from(input.word()) % 2_000;
                let packet = [input.take(16), &vec![0x5a; len][..]].concat();
                let mut counters = sender.sealer.counters(1).expect("far from the limit");
                let counter = counters.take().expect("one was asked for");
                let mut bytes = vec![0; packet.len() + Sealer::OVERHEAD];
                sender.sealer.seal(counter, flags, &packet, &mut bytes);
                read(&bytes);
                sealed.push(Sealed { packet, flags: flags & Data::KNOWN_FLAGS, bytes });
            }
            2 | 3 => {
                let Some(record) = sealed.get(input.index(sealed.len())) else { continue };
                let counter = counter_of(&record.bytes);
                let mut bytes = record.bytes.clone();
                let outcome = receiver.opener.open(&mut bytes);
                if opened.contains(&counter) {
                    let reason = outcome.expect_err("a record opens once");
                    assert!(matches!(reason, DropReason::Replay | DropReason::TooOld));
                } else if counter + ReplayWindow::SIZE <= newest {
                    assert_eq!(outcome.err(), Some(DropReason::TooOld));
                } else {
                    let plain = outcome.expect("a genuine record opens");
                    assert_eq!((&*plain.bytes, plain.flags), (&record.packet[..], record.flags));
                    opened.insert(counter);
                    newest = newest.max(counter);
                }
            }
            4 => {
                let Some(record) = sealed.get(input.index(sealed.len())) else { continue };
                let mut bytes = record.bytes.clone();
                let (at, change, cut) = (input.index(bytes.len()), input.byte(), input.word());
                match change {
                    0 => bytes.truncate(bytes.len().saturating_sub(1 + usize::from(cut) % 64)),
                    change if cut % 4 == 0 => bytes.push(change),
                    change => bytes[at] ^= change,
                }
                refused(&mut receiver, bytes, &record.packet);
            }
            _ => {
                // Counters far ahead are skipped: they cost nothing, and nothing is forgotten.
                let many = input.word() % 10_000;
                let _ = sender.sealer.counters(many).expect("far from the limit");
                refused(&mut receiver, input.chunk().to_vec(), &[]);
            }
        }
    }
}

/// A record that nobody sealed does not open, and leaves nothing of a packet.
fn refused(receiver: &mut Established, mut bytes: Vec<u8>, packet: &[u8]) {
    assert!(receiver.opener.open(&mut bytes).is_err(), "a forged record opened");
    assert!(packet.len() < 24 || !bytes.windows(packet.len()).any(|window| window == packet));
}

/// A session between two pods, always the same.
fn pair(suite: CipherSuite) -> (Established, Established) {
    let keys = KeyRing::parse(&KeyRing::write_file([7; 16], 1, &std::array::from_fn(|at| at as u8)));
    let keys = keys.expect("the core reads what it writes");
    let addresses = [[10, 0, 0, 1], [10, 0, 0, 2]].map(std::net::IpAddr::from);
    let identities = [1, 2].map(|seed| Identity::generate(Seed::from_bytes([seed; 32]), &addresses));
    let mut rng = Rng::new(Seed::from_bytes([3; 32]));
    let index = |number| SessionIndex::from_u32(number).expect("not zero");
    let [here, there] = [0, 1].map(|at| Local::new(&keys, suite, &identities[at], &addresses[at..=at], true));
    let (mut initiator, init) = Initiator::start(&here, index(11), addresses[1], &mut rng);
    let Ok(Message::Init(init)) = internal::parse(&init) else { panic!("INIT is one") };
    let (responder, resp) = Responder::accept(&there, &init, index(12), &mut rng).expect("a genuine INIT");
    let Ok(Message::Resp(resp)) = internal::parse(&resp) else { panic!("RESP is one") };
    let confirmed = initiator.handle_resp(&resp).expect("a genuine RESP");
    let Ok(Message::Conf(conf)) = internal::parse(&confirmed.conf) else { panic!("CONF is one") };
    (confirmed.established, responder.handle_conf(&conf).expect("a genuine CONF"))
}

fn counter_of(record: &[u8]) -> u64 {
    let Ok(Message::Data(data)) = internal::parse(record) else { panic!("a sealed record is one") };
    data.counter
}
