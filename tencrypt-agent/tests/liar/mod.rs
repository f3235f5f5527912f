//! A member that lies, in a pod of its own without the program: it has the tenant's key, a UDP port and a raw socket.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::Arc,
    time::{Duration, Instant},
};

use tencrypt::{CipherSuite, KeyRing, record::SessionIndex};
use tencrypt_lab::{Pod, RawUdp, TUNNEL_PORT};
use tencrypt_sim::{Heard, Liar};

use crate::support::{Cluster, LIMIT};

/// Between two INITs that ask the same.
const AGAIN: Duration = Duration::from_millis(200);

/// The member and its way to the network. It answers whoever asks for it while it hears.
pub(crate) struct Member {
    /// Its messages.
    pub(crate) liar: Liar,
    /// Packets that were sealed to it, oldest first. Keepalives are none.
    pub(crate) packets: Vec<Vec<u8>>,
    port: RawUdp,
    own: Ipv4Addr,
}

impl Member {
    /// A member in a pod, which claims these addresses.
    pub(crate) fn new(cluster: &Cluster, pod: &Pod, claims: &[IpAddr]) -> Self {
        let keys = KeyRing::parse(&fs::read_to_string(&cluster.key_file).unwrap()).unwrap();
        let liar = Liar::new(Arc::new(keys), CipherSuite::default(), claims, 0x11a5);
        let port = RawUdp::open(pod.netns(), TUNNEL_PORT).unwrap();
        Self { liar, packets: Vec::new(), port, own: v4(pod.v4()) }
    }

    /// Makes a session with a pod, from its own address throughout.
    pub(crate) fn session(&mut self, with: IpAddr) -> SessionIndex {
        self.session_by(with, with, [self.own.into(); 2])
    }

    /// Makes a session with the pod at `to`, asking for `asked`: INIT bears the first source, at which RESP has to
    /// arrive, and CONF the second.
    pub(crate) fn session_by(&mut self, to: IpAddr, asked: IpAddr, sources: [IpAddr; 2]) -> SessionIndex {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let init = self.liar.ask(asked);
            self.send_as(sources[0], to, &init);
            let again = Instant::now() + AGAIN;
            while let Some((from, heard)) = self.next(again) {
                if let Heard::Answer { session, conf, .. } = heard {
                    self.send_as(sources[1], to, &conf);
                    return session;
                }
                self.take(from, heard);
            }
        }
        panic!("{to} does not answer a member");
    }

    /// An INIT for this address that wins over the receiver's own where both cross, all but once in 65 times: of those the
    /// one with the greater mac1 counts.
    pub(crate) fn winning_init(&mut self, to: IpAddr) -> Vec<u8> {
        let inits = (0..64).map(|_| self.liar.ask(to));
        inits.max_by_key(|init| init[init.len() - 32..].to_vec()).unwrap_or_default()
    }

    /// Sends any bytes from any address.
    pub(crate) fn send_as(&self, source: IpAddr, to: IpAddr, bytes: &[u8]) {
        let [source, to] = [source, to].map(|address| SocketAddrV4::new(v4(address), TUNNEL_PORT));
        self.port.send(source, to, bytes).unwrap();
    }

    /// Sends a record with any packet, from any address.
    pub(crate) fn send(&mut self, session: SessionIndex, source: IpAddr, to: IpAddr, packet: &[u8]) {
        let record = self.liar.seal(session, packet);
        self.send_as(source, to, &record);
    }

    /// Hears, and answers, for a time.
    pub(crate) fn hear(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some((from, heard)) = self.next(end) {
            self.take(from, heard);
        }
    }

    fn next(&mut self, end: Instant) -> Option<(SocketAddr, Heard)> {
        let left = end.checked_duration_since(Instant::now())?;
        let (from, bytes) = self.port.receive(left).unwrap()?;
        Some((from, self.liar.hear(&bytes)))
    }

    fn take(&mut self, from: SocketAddr, heard: Heard) {
        match heard {
            Heard::Question { resp } => {
                let (SocketAddr::V4(to), own) = (from, SocketAddrV4::new(self.own, TUNNEL_PORT)) else {
                    return;
                };
                self.port.send(own, to, &resp).unwrap();
            }
            Heard::Packet { packet, .. } if !packet.is_empty() => self.packets.push(packet),
            Heard::Answer { .. } | Heard::Confirmed { .. } | Heard::Packet { .. } | Heard::Other => {}
        }
    }
}

/// An address of the laboratory's pods, IPv4.
pub(crate) fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address}: a member that lies does so over IPv4"),
    }
}
