//! A session's two halves: counters, header and cipher; cipher and replay window.

use std::net::IpAddr;

use criterion::Criterion;
use tencrypt::{
    CipherSuite, Seed,
    crypto::Aead,
    internal::{self, Initiator, Local, Message, Responder, Rng},
    record::SessionIndex,
    session::{Opener, Sealer},
};
use tencrypt_benches::pair::{HERE, THERE, Tenant};

use crate::{
    floor::{AwsLc, Bare, Ciphering, Copying, RustCrypto},
    measure::{BATCH, Load, Stage},
};

/// The two halves of one direction, with the buffers of a load.
struct Halves {
    sealer: Sealer,
    opener: Opener,
    load: Load,
    packets: Vec<Vec<u8>>,
    records: Vec<Vec<u8>>,
}

impl Halves {
    /// From a handshake.
    fn new(suite: CipherSuite, load: Load) -> Self {
        let mut tenant = Tenant::new(suite);
        let mut rng = Rng::new(Seed::from_bytes([9; 32]));
        let (here, there) = (tenant.identity(HERE), tenant.identity(THERE));
        let keys = tenant.keys();
        let (addresses_here, addresses_there) = ([IpAddr::V4(HERE)], [IpAddr::V4(THERE)]);
        let here = Local::new(keys, suite, &here, &addresses_here, true);
        let there = Local::new(keys, suite, &there, &addresses_there, true);
        let index = |number| SessionIndex::from_u32(number).expect("not zero");
        let (mut initiator, init) = Initiator::start(&here, index(1), THERE.into(), &mut rng);
        let Ok(Message::Init(init)) = internal::parse(&init) else { panic!("an INIT") };
        let (responder, resp) = Responder::accept(&there, &init, index(2), &mut rng).expect("a good INIT");
        let Ok(Message::Resp(resp)) = internal::parse(&resp) else { panic!("a RESP") };
        let confirmed = initiator.handle_resp(&resp).expect("a good RESP");
        let Ok(Message::Conf(conf)) = internal::parse(&confirmed.conf) else { panic!("a CONF") };
        let opener = responder.handle_conf(&conf).expect("a good CONF").opener;
        let count = BATCH.max(load.packets);
        Self {
            sealer: confirmed.established.sealer,
            opener,
            load,
            packets: vec![vec![0x5a; load.len]; count],
            records: vec![vec![0; load.len + Sealer::OVERHEAD]; count],
        }
    }

    #[inline]
    fn seal(&mut self, at: usize) {
        let mut counters = self.sealer.counters(self.load.packets as u16).expect("far from the limit");
        for at in at..at + self.load.packets {
            let counter = counters.take().expect("as many as asked for");
            self.sealer.seal(counter, 0, &self.packets[at], &mut self.records[at]);
        }
    }

    #[inline]
    fn open(&mut self, at: usize) {
        for at in at..at + self.load.packets {
            self.opener.open(&mut self.records[at]).expect("sealed for it, and new");
        }
    }
}

pub(crate) fn seal(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "seal");
    for load in Load::ALL {
        for (name, suite) in
            [("tencrypt", CipherSuite::Aes256Gcm), ("tencrypt ChaCha", CipherSuite::ChaCha20Poly1305)]
        {
            let mut halves = Halves::new(suite, load);
            stage.repeat(name, load, || halves.seal(0));
        }
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
        floor(&mut stage, "floor: aws-lc-rs AES", load, AwsLc::aes());
        floor(&mut stage, "floor: aws-lc-rs ChaCha", load, AwsLc::chacha());
        floor(&mut stage, "floor: RustCrypto AES", load, RustCrypto::new(Aead::Aes256Gcm));
        floor(&mut stage, "floor: RustCrypto ChaCha", load, RustCrypto::new(Aead::ChaCha20Poly1305));
    }

    fn floor(stage: &mut Stage<'_>, name: &str, load: Load, cipher: impl Bare) {
        let mut ciphering = Ciphering::new(cipher, load);
        stage.repeat(name, load, || ciphering.seal(0));
    }
}

pub(crate) fn open(criterion: &mut Criterion) {
    let mut stage = Stage::new(criterion, "open");
    for load in Load::ALL {
        for (name, suite) in
            [("tencrypt", CipherSuite::Aes256Gcm), ("tencrypt ChaCha", CipherSuite::ChaCha20Poly1305)]
        {
            stage.batched(name, load, Halves::new(suite, load), Halves::seal, Halves::open);
        }
        let mut copying = Copying::new(load);
        stage.repeat("floor: memcpy", load, || copying.copy());
        floor(&mut stage, "floor: aws-lc-rs AES", load, AwsLc::aes());
        floor(&mut stage, "floor: aws-lc-rs ChaCha", load, AwsLc::chacha());
        floor(&mut stage, "floor: RustCrypto AES", load, RustCrypto::new(Aead::Aes256Gcm));
        floor(&mut stage, "floor: RustCrypto ChaCha", load, RustCrypto::new(Aead::ChaCha20Poly1305));
    }

    fn floor(stage: &mut Stage<'_>, name: &str, load: Load, cipher: impl Bare) {
        stage.batched(name, load, Ciphering::new(cipher, load), Ciphering::seal, Ciphering::open);
    }
}
