//! A capture: everything that sends a namespace's protected traffic through a TUN device and lets nothing past it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use netlink_sys::protocols::NETLINK_ROUTE;
use tencrypt::IpNet;

use crate::{
    addresses,
    counting::Counting,
    device::{DeviceError, DeviceOffload, TunDevice, TunOptions},
    enforce::{Enforcement, Saved, Singles},
    error::{At as _, CaptureError, Occupied, Step},
    link,
    name::InterfaceName,
    nat::{Found, Ports, Synced},
    neighbours,
    netlink::Netlink,
    netns::NetNs,
    others::Others,
    plan::CapturePlan,
    routing::{self, Kind, Purpose, Route, Via},
    rules::{self, Rules},
    ruleset::Policy,
    standing::{PartState, Standing},
    sysctl::{self, Watched},
    table_state::TableState,
    underlay::{Link, Mtu, Underlay},
};

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
    pub(crate) plan: CapturePlan,
    pub(crate) namespace: NetNs,
    pub(crate) netlink: Netlink,
    pub(crate) nft: Enforcement,
    /// Never empty.
    devices: Vec<Arc<TunDevice>>,
    /// Index of the device, which may be given another name.
    pub(crate) tun: u32,
    /// The interface, which may be given another name, or give its name to another one.
    pub(crate) link: Link,
    pub(crate) underlay: Underlay,
    pub(crate) deferred: usize,
    /// Single destinations that are external, with the end of their time in the set.
    pub(crate) external: BTreeMap<IpAddr, Instant>,
    /// Single addresses that are internal.
    pub(crate) proven: BTreeSet<IpAddr>,
    pub(crate) saved: Saved,
    /// The table as it was installed; none: it has to be installed anew.
    pub(crate) table: Option<TableState>,
    pub(crate) counting: Counting,
    /// True if somebody else has chains that may drop what comes in.
    pub(crate) is_filtered: bool,
    /// The routes of the table as they were wanted last, and the device's size.
    pub(crate) routed: BTreeSet<Route>,
    pub(crate) sized: u32,
    /// Copies of addresses that the device has; none after it was set up anew.
    pub(crate) copied: Option<Vec<IpAddr>>,
    /// Settings of the device that cannot be written here.
    pub(crate) refused: Vec<&'static str>,
    pub(crate) watched: Watched,
    pub(crate) standing: Standing,
    /// True while something does not stand that cannot be put back: then nothing leads to the device.
    pub(crate) closed: bool,
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
        let tun = Link::find(&mut netlink, plan.tun).at(Step::CreateDevice, plan.tun)?;
        let tun = tun.ok_or(CaptureError::InterfaceAbsent { interface: plan.tun })?.index;
        let mut capture = Self {
            plan,
            namespace,
            netlink,
            nft,
            devices: devices.into_iter().map(Arc::new).collect(),
            tun,
            link,
            underlay,
            deferred: 0,
            external: BTreeMap::new(),
            proven: BTreeSet::new(),
            saved: Saved { interface, rp_filter: None },
            table: None,
            counting: Counting::default(),
            is_filtered: false,
            routed: BTreeSet::new(),
            sized: 0,
            copied: None,
            refused: Vec::new(),
            watched: Watched::default(),
            standing: Standing::default(),
            closed: false,
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
        self.saved.rp_filter = before.or(strict);
        let others = self.look_at_others()?;
        self.install_table()?;
        if strict.is_some() {
            self.relax_rp_filter()?;
        }
        let closed: BTreeSet<Route> = routing::routes(&self.purposes(), None, None);
        for route in closed.iter().filter(|route| route.kind == Kind::Unreachable) {
            self.add_route(*route)?;
        }
        self.configure()?;
        self.sync_routes()?;
        self.sync_addresses()?;
        self.sync_nat(others.nat)?;
        let rules = Rules::read(&mut self.netlink).at(Step::Rule, interface)?;
        for repair in rules.repairs() {
            rules::put(&mut self.netlink, repair).at(Step::Rule, interface)?;
        }
        rules::look_up_anew(&mut self.netlink).at(Step::Rule, interface)?;
        self.drop_waiting()
    }

    /// Installs the table, or installs it anew without a moment in between.
    pub(crate) fn install_table(&mut self) -> Result<(), CaptureError> {
        let is_new = self.table.is_none();
        if !is_new {
            // What cannot be read is lost with the table.
            let _ = self.read_counters();
        }
        let exempt = self.plan.exempt_with(&self.underlay.gateways);
        let plan = &self.plan;
        let policy = Policy {
            interface: self.saved.interface,
            tun: self.tun,
            port: plan.port,
            lanes: self.devices.len() as u8,
            unknown: plan.unknown,
            is_filtered: self.is_filtered,
        };
        let nameservers = plan.nameserver_prefixes();
        let prefixes = plan.prefixes(&exempt, &nameservers);
        let singles = Singles { leased: &self.external, proven: &self.proven };
        let enforced = plan.enforce.then_some((&policy, &prefixes, singles));
        let (features, table) = self.nft.install(&self.saved, enforced).at(Step::Chains, plan.interface)?;
        self.table = Some(table);
        self.counting.begin_anew();
        if is_new && !(features.socket && features.fib) {
            tracing::warn!(?features, "the kernel lacks parts of nftables; enforcement is coarser");
        }
        Ok(())
    }

    /// Makes the interface's reverse path filter loose, by netlink where `/proc/sys` is read-only.
    pub(crate) fn relax_rp_filter(&mut self) -> Result<(), CaptureError> {
        let interface = self.saved.interface;
        let relaxed = match self.namespace.within(|| sysctl::relax_rp_filter(interface))? {
            Err(error) if sysctl::is_read_only(&error) => {
                link::set_rp_filter(&mut self.netlink, self.link.index, sysctl::LOOSE)
            }
            relaxed => relaxed,
        };
        relaxed.at(Step::ReversePathFilter, interface)
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

    /// Returns the addresses of the sockets with which the capture changes routes and rules, and nftables, for
    /// [`Monitor::ignore`](crate::Monitor::ignore).
    #[must_use]
    pub fn ports(&self) -> [u32; 2] {
        [self.netlink.port(), self.nft.port()]
    }

    /// Returns the state of each part, as it was seen last.
    #[must_use]
    pub fn parts(&self) -> Vec<PartState> {
        self.standing.states()
    }

    /// Tells if the namespace is closed since something does not stand and cannot be put back: protected destinations are
    /// unreachable then.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Removes the capture, in reverse order, chains last; afterwards the namespace is as it was.
    ///
    /// # Errors
    /// [`CaptureError`]; [`Capture::clean`] may be tried after.
    pub fn remove(mut self) -> Result<(), CaptureError> {
        let interface = self.saved.interface;
        dismantle(&self.namespace, &mut self.netlink, &mut self.nft, interface, self.plan.tun).map(drop)
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

    /// Sets the device's name and size and brings it up, with the settings it needs before that.
    pub(crate) fn configure(&mut self) -> Result<(), CaptureError> {
        let tun = self.plan.tun;
        let mtu = self.underlay.mtu.device();
        let queue = self.plan.queue_len;
        let link = Link::by_index(&mut self.netlink, self.tun).at(Step::ConfigureDevice, tun)?;
        let link = link.ok_or(CaptureError::InterfaceAbsent { interface: tun })?;
        if link.name != Some(tun) {
            link::rename(&mut self.netlink, link, tun).at(Step::ConfigureDevice, tun)?;
        }
        // Below 1,280 the kernel forgets the device's IPv6 settings and makes new ones on the way back up, which must
        // not happen while the device is up (addrconf_notify, net/ipv6/addrconf.c).
        if link.up && link.mtu < 1280 && mtu >= 1280 {
            link::take_down(&mut self.netlink, link).at(Step::ConfigureDevice, tun)?;
        }
        link::set_mtu(&mut self.netlink, link, mtu).at(Step::ConfigureDevice, tun)?;
        (self.sized, self.copied) = (mtu, None);
        if self.device().offloads() != DeviceOffload::NONE
            && let Err(error) = link::limit_segments(&mut self.netlink, link, mtu)
        {
            tracing::debug!(%error, "super-packets may need two sends");
        }
        let unwritten = self.namespace.within(|| sysctl::prepare_tun(tun))?.at(Step::ConfigureDevice, tun)?;
        self.refused.clear();
        for setting in unwritten {
            match setting.key {
                sysctl::RP_FILTER => link::set_rp_filter(&mut self.netlink, self.tun, setting.value),
                sysctl::ADDR_GEN_MODE => link::set_addr_gen_mode(&mut self.netlink, self.tun, setting.value),
                // Without a link-local address the device hears no router, and nobody hears it.
                key => {
                    tracing::debug!(key, "/proc/sys is read-only");
                    self.refused.push(key);
                    Ok(())
                }
            }
            .at(Step::ConfigureDevice, tun)?;
        }
        link::bring_up(&mut self.netlink, link, mtu, queue).at(Step::ConfigureDevice, tun)?;
        self.watch_settings()
    }

    /// Brings the table in line with plan, underlay and external destinations.
    pub(crate) fn sync_routes(&mut self) -> Result<bool, CaptureError> {
        self.routed = self.wanted_routes();
        let synced = routing::sync(&mut self.netlink, &self.routed).at(Step::Routes, self.plan.interface)?;
        self.deferred = synced.deferred;
        Ok(synced.changed)
    }

    /// Returns the routes of the table that plan, underlay and external destinations ask for. None leads to the device
    /// while the namespace is closed.
    pub(crate) fn wanted_routes(&self) -> BTreeSet<Route> {
        let index = (!self.closed).then_some(self.tun);
        let v4 =
            self.underlay.source(true).zip(index).map(|(source, index)| Via { index, source, mtu: None });
        let v6 = self.underlay.source(false).zip(index).zip(self.underlay.mtu.ipv6());
        let v6 = v6.map(|((source, index), mtu)| Via { index, source, mtu: Some(mtu) });
        routing::routes(&self.purposes(), v4, v6)
    }

    fn purposes(&self) -> BTreeMap<IpNet, Purpose> {
        self.plan.purposes(&self.underlay.gateways, self.external.keys().copied())
    }

    /// Gives the device copies of the interface's addresses.
    pub(crate) fn sync_addresses(&mut self) -> Result<bool, CaptureError> {
        let tun = self.plan.tun;
        let device = Link::by_index(&mut self.netlink, self.tun).at(Step::ConfigureDevice, tun)?;
        let Some(device) = device.filter(|device| device.up) else { return Ok(false) };
        let wanted = addresses::wanted(&self.underlay);
        let synced = addresses::sync(&mut self.netlink, device, &wanted).at(Step::ConfigureDevice, tun);
        self.copied = Some(wanted);
        synced
    }

    /// Keeps the tunnel's own packets out of the address translation of others in the namespace.
    pub(crate) fn sync_nat(&mut self, found: Found) -> Result<Synced, CaptureError> {
        let ports = Ports { first: self.plan.port, count: self.devices.len() as u8 };
        self.nft.sync_nat(found, ports).at(Step::Chains, self.plan.interface)
    }

    /// Looks at the chains of others. Where there are some now that may drop what comes in, or are none any more, the table
    /// has to be installed anew.
    pub(crate) fn look_at_others(&mut self) -> Result<Others, CaptureError> {
        let nft = &mut self.nft;
        let others = self.namespace.within(|| nft.others())?.at(Step::Chains, self.plan.interface)?;
        if others.filter != self.is_filtered {
            if self.plan.enforce && self.table.take().is_some() {
                let _ = self.read_counters();
            }
            self.is_filtered = others.filter;
        }
        Ok(others)
    }

    /// Drops what was sent before the chains stood and waits for a neighbour.
    pub(crate) fn drop_waiting(&mut self) -> Result<(), CaptureError> {
        let interface = self.plan.interface;
        neighbours::drop_waiting(&mut self.netlink, self.tun).at(Step::Discover, interface).map(drop)
    }

    pub(crate) fn add_route(&mut self, route: Route) -> Result<(), CaptureError> {
        self.routed.insert(route);
        match routing::add(&mut self.netlink, route) {
            Err(error) if routing::is_transient(route, &error) => Ok(()),
            result => result.at(Step::Routes, self.plan.interface),
        }
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
        let restored = match namespace.within(|| sysctl::restore_rp_filter(interface, before))? {
            Err(error) if sysctl::is_read_only(&error) => Link::find(netlink, interface).and_then(|link| {
                link.map_or(Ok(()), |link| link::set_rp_filter(netlink, link.index, before))
            }),
            restored => restored,
        };
        restored.at(Step::ReversePathFilter, interface)?;
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
