//! A capture: everything that sends a namespace's protected traffic through a TUN device and lets nothing past it.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use netlink_sys::protocols::NETLINK_ROUTE;
use tencrypt::IpNet;

use crate::{
    device::{DeviceError, DeviceOffload, TunDevice, TunOptions},
    enforce::{Counters, Enforcement, Saved},
    error::{At as _, CaptureError, Occupied, Step},
    link,
    monitor::Change,
    name::InterfaceName,
    netlink::Netlink,
    netns::NetNs,
    plan::{CapturePlan, Planned},
    routing::{self, Kind, Route, Via},
    ruleset::Policy,
    sysctl,
    table::Set,
    underlay::{Link, Mtu, Underlay},
};

/// External destinations that have a route and a set element of their own. More of them, which only a flood of DNS
/// answers brings, leave through the raw socket.
const MAX_EXTERNAL: usize = 16_384;

/// Meaning of a change for a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Followed {
    /// Nothing.
    Unchanged,
    /// Addresses or MTU changed, or something the kernel dropped was put back: read them again.
    Changed,
    /// The underlay interface is gone. Chains and routes stand.
    InterfaceGone,
    /// The TUN device is gone: somebody ran `down`. The capture is over and nothing was put back.
    DeviceGone,
}

/// Things that [`Capture::clean`] found and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Cleaned {
    /// Routing rules.
    pub rules: usize,
    /// Routes of table 8362.
    pub routes: usize,
    /// True if there was the TUN device.
    pub device: bool,
    /// True if there was the nftables table.
    pub table: bool,
}

impl Cleaned {
    /// Tells if there was nothing.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// An installed capture. Dropping it, and all clones of its [`device`](Self::device), closes the device only: chains
/// and unreachable routes stay, so that nothing leaves in plain; [`remove`](Self::remove) takes them away.
///
/// A capture belongs to the namespace it was installed in; its methods may be called from any thread.
#[derive(Debug)]
pub struct Capture {
    plan: CapturePlan,
    namespace: NetNs,
    netlink: Netlink,
    nft: Enforcement,
    /// Never empty.
    devices: Vec<Arc<TunDevice>>,
    underlay: Underlay,
    deferred: usize,
    external: BTreeSet<IpAddr>,
    took_over: bool,
}

impl Capture {
    /// Installs a capture in the calling thread's namespace: sets and chains, unreachable routes, the device and its
    /// routes, the rule. When this returns, protected traffic is captured; IPv6 follows when its address is no longer
    /// tentative, and is unreachable until then.
    ///
    /// Remains of a process that died are taken over without a gap. The device's super-packets are limited to what fits in
    /// one UDP send after encapsulation, where the kernel lets them.
    ///
    /// # Errors
    /// [`CaptureError`]; all that was installed is undone, except over the remains of a process that died: those stay
    /// closed. [`CaptureError::SteeringRefused`] for more than one queue only; none for lack of an offload.
    pub fn install(plan: CapturePlan) -> Result<Self, CaptureError> {
        let interface = plan.interface;
        let namespace = NetNs::current()?;
        let mut netlink = Netlink::open(NETLINK_ROUTE).at(Step::Connect, interface)?;
        let mut nft = Enforcement::open().at(Step::Connect, interface)?;
        let link = Link::find(&mut netlink, interface).at(Step::Discover, interface)?;
        let link = link.ok_or(CaptureError::InterfaceAbsent { interface })?;
        let underlay = Underlay::discover(&mut netlink, link).at(Step::Discover, interface)?;
        if let Some(occupied) = routing::occupied(&mut netlink).at(Step::Discover, interface)? {
            return Err(CaptureError::Occupied(occupied));
        }
        // The device's name is the lock: of two processes one gets it, and it goes with its holder.
        let options = TunOptions::new(plan.tun).with_offload(plan.offload);
        let devices =
            TunDevice::create_queues(options, plan.queues).map_err(|error| device_error(error, plan.tun))?;
        let remains = nft.saved().at(Step::Chains, interface)?;
        if remains == Some(None) {
            return Err(CaptureError::Occupied(Occupied::NftTable));
        }
        let mut capture = Self {
            plan,
            namespace,
            netlink,
            nft,
            devices: devices.into_iter().map(Arc::new).collect(),
            underlay,
            deferred: 0,
            external: BTreeSet::new(),
            took_over: remains.is_some(),
        };
        match capture.build(remains.flatten()) {
            Ok(()) => Ok(capture),
            Err(error) if capture.took_over => Err(error),
            Err(error) => {
                if let Err(undo) = capture.remove() {
                    tracing::warn!(%undo, "could not undo a failed capture");
                }
                Err(error)
            }
        }
    }

    /// Everything after the device exists, in the order that never leaves a gap.
    fn build(&mut self, remains: Option<Saved>) -> Result<(), CaptureError> {
        let interface = self.plan.interface;
        let strict = sysctl::strict_rp_filter(interface).at(Step::ReversePathFilter, interface)?;
        let before = remains.filter(|saved| saved.interface == interface).and_then(|saved| saved.rp_filter);
        let saved = Saved { interface, rp_filter: before.or(strict) };
        self.install_table(&saved)?;
        if strict.is_some() {
            sysctl::relax_rp_filter(interface).at(Step::ReversePathFilter, interface)?;
        }
        let closed: BTreeSet<Route> =
            routing::routes(&self.plan.purposes(&self.underlay.gateways, &self.external), None, None);
        for route in closed.iter().filter(|route| route.kind == Kind::Unreachable) {
            self.add_route(*route)?;
        }
        self.configure()?;
        self.sync_routes()?;
        routing::add_rules(&mut self.netlink).at(Step::Rule, interface)
    }

    fn install_table(&mut self, saved: &Saved) -> Result<(), CaptureError> {
        let exempt = self.plan.exempt_with(&self.underlay.gateways);
        let plan = &self.plan;
        let policy = Policy {
            interface: plan.interface,
            port: plan.port,
            lanes: self.devices.len() as u8,
            unknown: plan.unknown,
        };
        let prefixes = plan.prefixes(&exempt);
        let enforced = plan.enforce.then_some((&policy, &prefixes));
        let features = self.nft.install(saved, enforced).at(Step::Chains, plan.interface)?;
        if !(features.socket && features.fib) {
            tracing::warn!(?features, "the kernel lacks parts of nftables; enforcement is coarser");
        }
        Ok(())
    }

    /// Tells if the namespace was closed already, by a capture whose process died. A failure after installing must
    /// not open it then: drop the capture instead of removing it.
    #[must_use]
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// The device, to read packets from and write packets to; of several queues the first.
    #[must_use]
    pub fn device(&self) -> &Arc<TunDevice> {
        &self.devices[0]
    }

    /// The device's queues, as many as were asked for, in the order in which steering counts them.
    #[must_use]
    pub fn queues(&self) -> &[Arc<TunDevice>] {
        &self.devices
    }

    /// The interface that the tunnel's own packets use.
    #[must_use]
    pub fn interface(&self) -> InterfaceName {
        self.plan.interface
    }

    /// The sizes that follow from the underlay's MTU.
    #[must_use]
    pub fn mtu(&self) -> Mtu {
        self.underlay.mtu
    }

    /// The interface's global addresses that can be used now.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        let usable = self.underlay.addresses.iter().filter(|address| address.usable);
        usable.map(|address| address.net.addr()).collect()
    }

    /// The interface's subnets, of both families.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        let mut subnets: Vec<IpNet> =
            self.underlay.addresses.iter().map(|address| address.net.trunc()).collect();
        subnets.sort_unstable();
        subnets.dedup();
        subnets
    }

    /// The default gateways on the interface, which are exempt.
    #[must_use]
    pub fn gateways(&self) -> &[IpAddr] {
        &self.underlay.gateways
    }

    /// Tells if IPv6 is captured: the underlay is large enough for it, the interface has a usable address and the
    /// kernel took all routes. While it is not, protected IPv6 destinations are unreachable.
    #[must_use]
    pub fn ipv6(&self) -> bool {
        self.underlay.mtu.ipv6().is_some() && self.underlay.source(false).is_some() && self.deferred == 0
    }

    /// Packets the chains have dropped; zero without enforcement.
    ///
    /// # Errors
    /// [`CaptureError`] at [`Step::Counters`].
    pub fn counters(&mut self) -> Result<Counters, CaptureError> {
        if !self.plan.enforce {
            return Ok(Counters::default());
        }
        self.nft.counters().at(Step::Counters, self.plan.interface)
    }

    /// Lets a destination that the plan says nothing else of leave in plain for `ttl`, or for `ttl` from now where it
    /// does already: the kernel ends it in the set by itself, while the route stays until
    /// [`deny_external`](Self::deny_external).
    ///
    /// # Errors
    /// [`CaptureError::ExternalLimit`]; [`CaptureError::Failed`] or [`CaptureError::Permission`], where a set or a route
    /// cannot be changed.
    pub fn allow_external(&mut self, destination: IpAddr, ttl: Duration) -> Result<(), CaptureError> {
        if matches!(self.plan.class(destination, &self.underlay.gateways), Some(Set::External | Set::Exempt))
        {
            return Ok(());
        }
        if self.external.len() >= MAX_EXTERNAL && !self.external.contains(&destination) {
            return Err(CaptureError::ExternalLimit);
        }
        let interface = self.plan.interface;
        if self.plan.enforce {
            self.nft.add(Set::External, destination.into(), Some(ttl)).at(Step::SetElement, interface)?;
        }
        let prefix = IpNet::from(destination);
        if !self.external.insert(destination) {
            return Ok(());
        }
        match self.plan.planned(prefix) {
            Some(Planned::Stays) => Ok(()),
            Some(Planned::Gives) => self.sync_routes().map(drop),
            None => self.add_route(Route { kind: Kind::Throw, prefix }),
        }
    }

    /// Ends what [`allow_external`](Self::allow_external) began; what was not allowed is fine.
    ///
    /// # Errors
    /// [`CaptureError::Failed`] or [`CaptureError::Permission`], where a set or a route cannot be changed.
    pub fn deny_external(&mut self, destination: IpAddr) -> Result<(), CaptureError> {
        if matches!(self.plan.class(destination, &self.underlay.gateways), Some(Set::External | Set::Exempt))
        {
            return Ok(());
        }
        let interface = self.plan.interface;
        let prefix = IpNet::from(destination);
        if self.external.remove(&destination) {
            match self.plan.planned(prefix) {
                Some(Planned::Stays) => {}
                Some(Planned::Gives) => drop(self.sync_routes()?),
                None => {
                    let route = Route { kind: Kind::Throw, prefix };
                    routing::remove(&mut self.netlink, route).at(Step::Routes, interface)?;
                }
            }
        }
        if self.plan.enforce {
            self.nft.delete(Set::External, prefix).at(Step::SetElement, interface)?;
        }
        Ok(())
    }

    /// Refuses plaintext from and to an address from now on: it is proven to belong to the tenant.
    ///
    /// # Errors
    /// [`CaptureError::Failed`] or [`CaptureError::Permission`], where a set or a route cannot be changed.
    pub fn add_internal(&mut self, address: IpAddr) -> Result<(), CaptureError> {
        self.deny_external(address)?;
        if self.plan.enforce && self.plan.class(address, &self.underlay.gateways) != Some(Set::Internal) {
            self.nft.add(Set::Internal, address.into(), None).at(Step::SetElement, self.plan.interface)?;
        }
        Ok(())
    }

    /// Ends what [`add_internal`](Self::add_internal) began; what was not added is fine.
    ///
    /// # Errors
    /// [`CaptureError::Failed`] or [`CaptureError::Permission`], where a set or a route cannot be changed.
    pub fn remove_internal(&mut self, address: IpAddr) -> Result<(), CaptureError> {
        if self.plan.enforce && self.plan.class(address, &self.underlay.gateways) != Some(Set::Internal) {
            self.nft.delete(Set::Internal, address.into()).at(Step::SetElement, self.plan.interface)?;
        }
        Ok(())
    }

    /// Follows a change of the namespace: reads the interface again, sets the device's MTU, puts back what the kernel
    /// dropped (IPv6 routes when a link went down or was small, any route when its source address went).
    ///
    /// # Errors
    /// [`CaptureError`]; what fails stays closed, and the next call tries again.
    pub fn follow(&mut self, change: Change) -> Result<Followed, CaptureError> {
        let (interface, tun) = (self.plan.interface, self.plan.tun);
        let Some(device) = Link::find(&mut self.netlink, tun).at(Step::Discover, tun)? else {
            return Ok(Followed::DeviceGone);
        };
        let Some(link) = Link::find(&mut self.netlink, interface).at(Step::Discover, interface)? else {
            return Ok(Followed::InterfaceGone);
        };
        let concerned = match change {
            Change::Link { index } | Change::Address { index } => {
                index == link.index || index == device.index
            }
            Change::LinkGone { .. } | Change::MainRoute | Change::Missed => true,
        };
        if !concerned {
            return Ok(Followed::Unchanged);
        }
        let now = Underlay::discover(&mut self.netlink, link).at(Step::Discover, interface)?;
        let before = std::mem::replace(&mut self.underlay, now);
        self.follow_gateways(&before)?;
        let resized = device.mtu != self.underlay.mtu.device();
        if resized {
            self.configure()?;
        }
        let (deferred, routes) = (self.deferred, self.sync_routes()?);
        let changed = resized || routes || deferred != self.deferred || before != self.underlay;
        Ok(if changed { Followed::Changed } else { Followed::Unchanged })
    }

    /// Removes the capture, in reverse order, chains last; afterwards the namespace is as it was.
    ///
    /// # Errors
    /// [`CaptureError`]; [`Capture::clean`] may be tried after.
    pub fn remove(mut self) -> Result<(), CaptureError> {
        dismantle(&self.namespace, &mut self.netlink, &mut self.nft, self.plan.interface, self.plan.tun)
            .map(drop)
    }

    /// Removes a capture from the calling thread's namespace without the process that installed it, which may be
    /// dead. What is not there is fine.
    ///
    /// # Errors
    /// [`CaptureError`]; may be tried again.
    pub fn clean(interface: InterfaceName, tun: InterfaceName) -> Result<Cleaned, CaptureError> {
        let namespace = NetNs::current()?;
        let mut netlink = Netlink::open(NETLINK_ROUTE).at(Step::Connect, interface)?;
        let mut nft = Enforcement::open().at(Step::Connect, interface)?;
        dismantle(&namespace, &mut netlink, &mut nft, interface, tun)
    }

    /// Sets the device's size and brings it up, with the settings it needs before that.
    fn configure(&mut self) -> Result<(), CaptureError> {
        let tun = self.plan.tun;
        let mtu = self.underlay.mtu.device();
        let queue = self.plan.queue_len;
        let link = Link::find(&mut self.netlink, tun).at(Step::ConfigureDevice, tun)?;
        let link = link.ok_or(CaptureError::InterfaceAbsent { interface: tun })?;
        // Below 1,280 the kernel forgets the device's IPv6 settings and makes new ones on the way back up, which must
        // not happen while the device is up (addrconf_notify, net/ipv6/addrconf.c).
        if link.up && link.mtu < 1280 && mtu >= 1280 {
            link::take_down(&mut self.netlink, link).at(Step::ConfigureDevice, tun)?;
        }
        link::set_mtu(&mut self.netlink, link, mtu).at(Step::ConfigureDevice, tun)?;
        if self.device().offloads() != DeviceOffload::NONE
            && let Err(error) = link::limit_segments(&mut self.netlink, link, mtu)
        {
            tracing::debug!(%error, "super-packets may need two sends");
        }
        self.namespace.within(|| sysctl::prepare_tun(tun))?.at(Step::ConfigureDevice, tun)?;
        link::bring_up(&mut self.netlink, link, mtu, queue).at(Step::ConfigureDevice, tun)
    }

    /// Brings the table in line with plan, underlay and external destinations.
    fn sync_routes(&mut self) -> Result<bool, CaptureError> {
        let interface = self.plan.interface;
        let device = Link::find(&mut self.netlink, self.plan.tun).at(Step::Routes, interface)?;
        let index = device.filter(|device| device.up).map(|device| device.index);
        let v4 =
            self.underlay.source(true).zip(index).map(|(source, index)| Via { index, source, mtu: None });
        let v6 = self.underlay.source(false).zip(index).zip(self.underlay.mtu.ipv6());
        let v6 = v6.map(|((source, index), mtu)| Via { index, source, mtu: Some(mtu) });
        let wanted = routing::routes(&self.plan.purposes(&self.underlay.gateways, &self.external), v4, v6);
        let synced = routing::sync(&mut self.netlink, &wanted).at(Step::Routes, interface)?;
        self.deferred = synced.deferred;
        Ok(synced.changed)
    }

    fn add_route(&mut self, route: Route) -> Result<(), CaptureError> {
        match routing::add(&mut self.netlink, route) {
            Err(error) if routing::is_transient(route, &error) => Ok(()),
            result => result.at(Step::Routes, self.plan.interface),
        }
    }

    /// Keeps the exempt sets in line with the gateways.
    fn follow_gateways(&mut self, before: &Underlay) -> Result<(), CaptureError> {
        if !self.plan.enforce || before.gateways == self.underlay.gateways {
            return Ok(());
        }
        let exempt = self.plan.exempt_with(&self.underlay.gateways);
        let prefixes = self.plan.prefixes(&exempt);
        self.nft.replace_exempt(&prefixes).at(Step::SetElement, self.plan.interface)
    }
}

/// Takes away what a capture installs, in reverse order.
fn dismantle(
    namespace: &NetNs,
    netlink: &mut Netlink,
    nft: &mut Enforcement,
    interface: InterfaceName,
    tun: InterfaceName,
) -> Result<Cleaned, CaptureError> {
    let saved = nft.saved().at(Step::Chains, interface)?;
    let rules = routing::remove_rules(netlink).at(Step::Rule, interface)?;
    let to_device = |kind: Option<Kind>| !matches!(kind, Some(Kind::Unreachable));
    let mut routes = routing::clear(netlink, to_device).at(Step::Routes, interface)?;
    let device = link::remove(netlink, tun).at(Step::RemoveDevice, tun)?;
    routes += routing::clear(netlink, |_| true).at(Step::Routes, interface)?;
    if let Some(Some(Saved { interface, rp_filter: Some(before) })) = saved {
        namespace
            .within(|| sysctl::restore_rp_filter(interface, before))?
            .at(Step::ReversePathFilter, interface)?;
    }
    let table = nft.remove().at(Step::Chains, interface)?;
    Ok(Cleaned { rules, routes, device, table })
}

fn device_error(error: DeviceError, tun: InterfaceName) -> CaptureError {
    match error {
        DeviceError::NameTaken => CaptureError::TunNameTaken { tun },
        DeviceError::NoDriver(source) => CaptureError::NoTunDriver { source },
        DeviceError::SteeringRefused(source) => CaptureError::SteeringRefused { source },
        DeviceError::Io(source) => CaptureError::at(Step::CreateDevice, tun, source),
    }
}
