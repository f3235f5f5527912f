//! Plan of a capture, and what follows from it.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU8};

use tencrypt::{
    IpNet, UnansweredPolicy,
    packet::{is_host_address, is_tunnel_address},
};

use crate::{device::DeviceOffload, enforce::Prefixes, name::InterfaceName, routing::Purpose, table::Set};

/// Plan of a capture.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CapturePlan {
    /// The interface the tunnel's own packets use.
    pub interface: InterfaceName,
    /// The name of the TUN device.
    pub tun: InterfaceName,
    /// UDP port of the tunnel: let in by number where the kernel cannot look at a packet's socket.
    pub port: u16,
    /// Ranges whose traffic goes through the tunnel.
    pub protected: Vec<IpNet>,
    /// Addresses that are never captured nor dropped, besides the default gateways.
    pub exempt: Vec<IpNet>,
    /// Static external prefixes: routed around the tunnel from the start. The longest prefix wins against `internal`.
    pub external: Vec<IpNet>,
    /// Static internal prefixes: captured even inside an external one.
    pub internal: Vec<IpNet>,
    /// Nameservers to capture, inside the protected ranges or not; never loopback addresses.
    pub nameservers: Vec<IpAddr>,
    /// Servers that the pod's queries are passed on to, if they are others.
    pub upstreams: Vec<IpAddr>,
    /// Policy for plaintext from protected addresses nobody has classified: with [`UnansweredPolicy::Drop`] only external
    /// and exempt addresses may speak in plain, with [`UnansweredPolicy::Plain`] all but internal ones.
    pub unknown: UnansweredPolicy,
    /// Installs the chains. Without them sockets bound to the interface leave in plain.
    pub enforce: bool,
    /// Offloads of the device, as far as the kernel has them.
    pub offload: DeviceOffload,
    /// Queues of the device, one a lane; see [`TunDevice::create_queues`](crate::TunDevice::create_queues).
    pub queues: NonZeroU8,
    /// Packets the device holds for its reader, in each queue.
    pub queue_len: u32,
}

impl CapturePlan {
    /// Default of [`queue_len`](Self::queue_len): the kernel's 500 overflow with super-packets of 64 KB, ten times as many
    /// only add delay.
    pub const QUEUE_LEN: u32 = 1000;

    /// Plans the capture of `protected` by a device named `tun`, beside a tunnel that uses UDP port `port` on `interface`.
    ///
    /// Nothing is exempt but the default gateways, no prefix is static and no nameserver captured; plaintext from addresses
    /// that nobody has classified is dropped, and the chains are installed. The device has one queue of
    /// [`QUEUE_LEN`](Self::QUEUE_LEN) packets and no offload.
    #[must_use]
    pub const fn new(interface: InterfaceName, tun: InterfaceName, port: u16, protected: Vec<IpNet>) -> Self {
        Self {
            interface,
            tun,
            port,
            protected,
            exempt: Vec::new(),
            external: Vec::new(),
            internal: Vec::new(),
            nameservers: Vec::new(),
            upstreams: Vec::new(),
            unknown: UnansweredPolicy::Drop,
            enforce: true,
            offload: DeviceOffload::NONE,
            queues: NonZeroU8::MIN,
            queue_len: Self::QUEUE_LEN,
        }
    }

    /// Returns what each prefix is routed for; where several say something of one prefix the last wins.
    pub(crate) fn purposes(
        &self,
        gateways: &[IpAddr],
        allowed: impl Iterator<Item = IpAddr>,
    ) -> BTreeMap<IpNet, Purpose> {
        let captured = |prefix: &&IpNet| self.protected.iter().any(|range| range.contains(*prefix));
        let mut purposes = BTreeMap::new();
        let mut set = |prefix: IpNet, purpose| purposes.insert(prefix.trunc(), purpose);
        for prefix in self.protected.iter().chain(self.internal.iter().filter(captured)) {
            set(*prefix, Purpose::Capture);
        }
        for prefix in self.external.iter().copied().chain(allowed.map(IpNet::from)) {
            set(prefix, Purpose::Throw);
        }
        for prefix in self.exempt_with(gateways) {
            // Link-local destinations have their route in no other table than the interface's own.
            let is_link_local = is_host_address(prefix.addr()) && !is_tunnel_address(prefix.addr());
            if !is_link_local {
                set(prefix, Purpose::Throw);
            }
        }
        for nameserver in &self.nameservers {
            set((*nameserver).into(), Purpose::Capture);
        }
        purposes
    }

    /// Returns the set that the plan's longest prefix around an address puts it in; of equal prefixes the last class
    /// wins, as in the sets.
    pub(crate) fn class(&self, address: IpAddr, gateways: &[IpAddr]) -> Option<Set> {
        let exempt = self.exempt_with(gateways);
        let classes =
            [(Set::Internal, &self.internal), (Set::External, &self.external), (Set::Exempt, &exempt)];
        let around =
            classes.into_iter().flat_map(|(set, prefixes)| prefixes.iter().map(move |prefix| (set, prefix)));
        let around = around.filter(|(_, prefix)| prefix.contains(&address));
        around.max_by_key(|(_, prefix)| prefix.prefix_len()).map(|(set, _)| set)
    }

    /// Returns what becomes of the plan's own route for exactly this prefix, if it has one, when the prefix is an
    /// external destination.
    pub(crate) fn planned(&self, prefix: IpNet) -> Option<Planned> {
        if self.nameservers.contains(&prefix.addr()) {
            return Some(Planned::Stays);
        }
        (self.protected.contains(&prefix) || self.internal.contains(&prefix)).then_some(Planned::Gives)
    }

    /// Returns the exempt prefixes, the gateways with them.
    pub(crate) fn exempt_with(&self, gateways: &[IpAddr]) -> Vec<IpNet> {
        self.exempt.iter().copied().chain(gateways.iter().map(|gateway| IpNet::from(*gateway))).collect()
    }

    /// Returns the addresses that answers of DNS come from.
    pub(crate) fn nameserver_prefixes(&self) -> Vec<IpNet> {
        self.nameservers.iter().chain(&self.upstreams).map(|server| IpNet::from(*server)).collect()
    }

    /// Returns the first content of the sets, `exempt` being that of [`exempt_with`](Self::exempt_with) and `nameservers`
    /// that of [`nameserver_prefixes`](Self::nameserver_prefixes).
    pub(crate) fn prefixes<'a>(&'a self, exempt: &'a [IpNet], nameservers: &'a [IpNet]) -> Prefixes<'a> {
        Prefixes {
            protected: &self.protected,
            exempt,
            external: &self.external,
            internal: &self.internal,
            nameservers,
        }
    }
}

/// Fate of the plan's route for a prefix that becomes an external destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planned {
    /// It stays as it is.
    Stays,
    /// It gives way.
    Gives,
}
