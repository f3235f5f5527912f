//! The network between pods: delays, loses, duplicates and reorders by a seed, and translates VIPs.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use crate::{random::Random, translation::Translation};

/// The network's treatment of datagrams.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::exhaustive_structs, reason = "tests build it")]
pub struct Weather {
    /// Percent of datagrams lost.
    pub loss: u8,
    /// Percent of datagrams delivered twice.
    pub duplicate: u8,
    /// Shortest time under way.
    pub delay: Duration,
    /// Time added at random, which also reorders.
    pub jitter: Duration,
}

impl Weather {
    /// Nothing is lost and nothing overtakes.
    pub const CLEAR: Self =
        Self { loss: 0, duplicate: 0, delay: Duration::from_micros(100), jitter: Duration::ZERO };
}

/// Ports that a connection tracker gives.
const FIRST_OUTSIDE: u16 = 50_000;

/// Tells if a datagram from here to there is lost.
pub(crate) type Lost = Box<dyn Fn(SocketAddr, SocketAddr, &[u8]) -> bool>;

/// A datagram under way.
#[derive(Debug, Clone)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    pub(crate) vips: BTreeMap<IpAddr, IpAddr>,
    pub(crate) translation: Translation,
    /// A connection tracker's memory of flows to VIPs: by the client's address and the source port it was given,
    /// the client's own port, and the backend that alone may answer there.
    translated: BTreeMap<SocketAddr, (u16, SocketAddr)>,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    numbered: u64,
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Self {
        Self {
            weather,
            vips: BTreeMap::new(),
            translation: Translation::default(),
            translated: BTreeMap::new(),
            under_way: BTreeMap::new(),
            numbered: 0,
        }
    }

    pub(crate) fn send(&mut self, mut datagram: Datagram, now: Instant, random: &mut Random) {
        if let Some((from, to)) = self.translation.apply(datagram.from, datagram.to, now, random) {
            (datagram.from, datagram.to) = (from, to);
        } else if let Some(backend) = self.vips.get(&datagram.to.ip()) {
            // The worst case: the tracker has a flow of these ends already, and gives this one another source port.
            let own = datagram.from.port();
            datagram.to.set_ip(*backend);
            let known = self.translated.iter().find(|(outside, (port, to))| {
                outside.ip() == datagram.from.ip() && *port == own && *to == datagram.to
            });
            let outside = known.map(|(outside, _)| *outside).unwrap_or_else(|| {
                SocketAddr::new(datagram.from.ip(), FIRST_OUTSIDE + self.translated.len() as u16)
            });
            self.translated.insert(outside, (own, datagram.to));
            datagram.from = outside;
        } else if datagram.to.port() >= FIRST_OUTSIDE {
            match self.translated.get(&datagram.to) {
                Some((own, backend)) if *backend == datagram.from => datagram.to.set_port(*own),
                _ => return,
            }
        }
        self.pass(datagram, now, random);
    }

    /// A datagram whose source is made up. It is led to where it goes, and changes nothing of what the network knows of flows:
    /// a network that takes such sources for its pods' can be made to lose everybody's datagrams, whatever they hold.
    pub(crate) fn stray(&mut self, mut datagram: Datagram, now: Instant, random: &mut Random) {
        let backends = self.backends(datagram.to.ip());
        if !backends.is_empty() {
            datagram.to.set_ip(backends[random.below(backends.len() as u64) as usize]);
        }
        self.pass(datagram, now, random);
    }

    fn pass(&mut self, datagram: Datagram, now: Instant, random: &mut Random) {
        if random.chance(self.weather.loss) {
            return;
        }
        let copies = 1 + u32::from(random.chance(self.weather.duplicate));
        for _ in 0..copies {
            let at = now + self.weather.delay + random.duration(self.weather.jitter);
            self.numbered += 1;
            self.under_way.insert((at, self.numbered), datagram.clone());
        }
    }

    /// The pods that an address leads to, if it is no pod's own.
    pub(crate) fn backends(&self, address: IpAddr) -> &[IpAddr] {
        match self.vips.get(&address) {
            Some(backend) => std::slice::from_ref(backend),
            None => self.translation.backends(address),
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.under_way.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Datagram> {
        let entry = self.under_way.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }
}
