//! Packets that leave around the tunnel, as they are.

use std::net::IpAddr;

use tencrypt_tun::RawSockets;

use super::awaiting_bypass::AwaitingBypass;

/// The raw sockets, and the packets whose destination's answers are not let in yet.
pub(crate) struct Bypass {
    sockets: RawSockets,
    awaiting: AwaitingBypass,
}

impl Bypass {
    /// Makes a way through `sockets`, for which nothing waits.
    pub(crate) fn new(sockets: RawSockets) -> Self {
        Self { sockets, awaiting: AwaitingBypass::default() }
    }

    /// Sends `packet`, or keeps it while its destination is being opened.
    pub(crate) fn send(&mut self, packet: &[u8]) {
        if !self.awaiting.keep(packet) {
            self.send_now(packet);
        }
    }

    /// Has packets to `destination` wait: the control plane has been asked to let its answers in.
    pub(crate) fn begin(&mut self, destination: IpAddr) {
        self.awaiting.begin(destination);
    }

    /// Sends what waited for `destination`: its answers are let in, or never will be.
    pub(crate) fn release(&mut self, destination: IpAddr) {
        for packet in self.awaiting.end(destination) {
            self.send_now(&packet);
        }
    }

    /// Drops what waited for `destination`: it must not leave in plain any more.
    pub(crate) fn discard(&mut self, destination: IpAddr) {
        drop(self.awaiting.end(destination));
    }

    fn send_now(&self, packet: &[u8]) {
        if let Err(error) = self.sockets.send(packet) {
            tracing::debug!(%error, "raw socket");
        }
    }
}
