//! Keeping a capture in line with the kernel: after each change that the kernel tells of, and by looking.

use std::{io, time::Instant};

use crate::{
    capture::{Capture, Followed},
    desired::{Desired, DeviceState, Observed, Part, Repair},
    enforce::{Counters, Singles, contents},
    error::{At as _, CaptureError, Step},
    monitor::Change,
    nat::Synced,
    others::Others,
    routing,
    rules::{self, Rules},
    sysctl::{self, Watched},
    underlay::{Link, Underlay},
};

/// A fresh look at interface and device.
enum Refreshed {
    DeviceGone,
    InterfaceGone,
    /// True if something of the interface is another than before.
    Present {
        changed: bool,
    },
}

impl Capture {
    /// Follows a change of the namespace: reads the interface again, sets the device's MTU, and puts back what somebody has
    /// changed or the kernel dropped, of the parts that the change may concern.
    ///
    /// What does not stay, since somebody else changes it as often, is left alone for a while that grows to a minute; what
    /// cannot be put back is tried again after as long. Meanwhile the namespace is [closed](Self::is_closed).
    ///
    /// # Errors
    /// [`CaptureError`], if the interface cannot be read; the next call tries again. What cannot be put back is no error but
    /// a problem of its [part](Self::parts).
    pub fn follow(&mut self, change: Change) -> Result<Followed, CaptureError> {
        let parts: &[Part] = match change {
            Change::Link { index } | Change::Address { index } if !self.is_concerned(index)? => {
                return Ok(Followed::Unchanged);
            }
            Change::Link { .. } | Change::LinkGone { .. } | Change::Address { .. } => {
                &[Part::ReversePathFilter, Part::Device, Part::Routes]
            }
            Change::MainRoute => &[Part::Device, Part::Routes],
            Change::OwnRoute => &[Part::Routes],
            Change::Rule => &[Part::Rules],
            Change::Setting => &[Part::ReversePathFilter, Part::Device],
            Change::Chains => &[Part::Chains],
            Change::Missed => &Part::ALL,
        };
        match change {
            Change::OwnRoute => self.standing.heard(Part::Routes),
            Change::Rule => self.standing.heard(Part::Rules),
            Change::Setting => self.standing.heard(Part::ReversePathFilter),
            Change::Chains => self.standing.heard(Part::Chains),
            Change::Link { .. } => self.standing.heard(Part::Device),
            _ => {}
        }
        self.reconcile(parts)
    }

    /// Looks at those parts whose time has come: each 5 s, each 60 s where the kernel was seen to tell of changes, and where a
    /// pause is over; and each time at the settings of the device, whose changes the kernel does not tell. To be called once
    /// a second; mostly that is all.
    ///
    /// # Errors
    /// As [`follow`](Self::follow).
    pub fn look(&mut self) -> Result<Followed, CaptureError> {
        let mut due = self.standing.due(Instant::now());
        let has_changed = self.watched.has_changed();
        if has_changed && !due.contains(&Part::Device) {
            due.push(Part::Device);
        }
        if due.is_empty() {
            return Ok(Followed::Unchanged);
        }
        let followed = self.reconcile(&due)?;
        if has_changed {
            self.watch_settings()?;
        }
        Ok(followed)
    }

    /// Watches the device's settings from now on.
    pub(crate) fn watch_settings(&mut self) -> Result<(), CaptureError> {
        let tun = self.plan.tun;
        self.watched = self.namespace.within(|| Watched::open(tun))?;
        Ok(())
    }

    /// Tells if a link is the device, the interface, or one that has taken the interface's name.
    fn is_concerned(&mut self, index: u32) -> Result<bool, CaptureError> {
        if index == self.tun || index == self.link.index {
            return Ok(true);
        }
        let interface = self.plan.interface;
        let named = Link::find(&mut self.netlink, interface).at(Step::Discover, interface)?;
        Ok(named.is_some_and(|link| link.index == index))
    }

    fn reconcile(&mut self, parts: &[Part]) -> Result<Followed, CaptureError> {
        let deferred = self.deferred;
        let (mut parts, mut changed, mut is_present) = (parts.to_vec(), false, true);
        match self.refresh()? {
            Refreshed::DeviceGone => return Ok(Followed::DeviceGone),
            Refreshed::InterfaceGone => {
                is_present = false;
                parts.retain(|part| *part != Part::ReversePathFilter);
            }
            Refreshed::Present { changed: true } => {
                changed = true;
                parts = Part::ALL.to_vec();
            }
            Refreshed::Present { changed: false } => {}
        }
        let others = parts.contains(&Part::Chains).then(|| self.look_at_others());
        changed |= self.put_back(&parts);
        if parts.contains(&Part::Device) {
            changed |= self.put_back_addresses();
        }
        if let Some(others) = others {
            changed |= self.put_back_nat(others);
        }
        if self.closed != self.standing.has_problem() {
            self.closed = !self.closed;
            changed = true;
            if let Err(error) = self.sync_routes() {
                self.standing.failed(Part::Routes, said(&error), Instant::now());
            }
        }
        changed |= deferred != self.deferred;
        Ok(match (is_present, changed) {
            (false, _) => Followed::InterfaceGone,
            (true, true) => Followed::Changed,
            (true, false) => Followed::Unchanged,
        })
    }

    /// Reads interface and device again. Where the interface has another name, or its name another interface, or it has other
    /// gateways, the table has to be installed anew.
    fn refresh(&mut self) -> Result<Refreshed, CaptureError> {
        let (interface, tun) = (self.plan.interface, self.plan.tun);
        if Link::by_index(&mut self.netlink, self.tun).at(Step::Discover, tun)?.is_none() {
            return Ok(Refreshed::DeviceGone);
        }
        let named = Link::find(&mut self.netlink, interface).at(Step::Discover, interface)?;
        let link = match named {
            None => Link::by_index(&mut self.netlink, self.link.index).at(Step::Discover, interface)?,
            named => named,
        };
        let Some(link) = link else {
            self.underlay.addresses.clear();
            return Ok(Refreshed::InterfaceGone);
        };
        let now = Underlay::discover(&mut self.netlink, link).at(Step::Discover, interface)?;
        let name = link.name.unwrap_or(interface);
        if link.index != self.link.index {
            self.saved.rp_filter = None;
        }
        if link.index != self.link.index || name != self.saved.interface {
            tracing::warn!(interface = %name, index = link.index, "the interface is another one, or has another name");
            self.saved.interface = name;
            self.table = None;
        }
        if now.gateways != self.underlay.gateways && self.plan.enforce {
            self.table = None;
        }
        self.link = link;
        let changed = now != self.underlay || self.table.is_none();
        self.underlay = now;
        Ok(Refreshed::Present { changed })
    }

    /// Compares these parts with what they have to be, and puts back what differs, in order. Returns true if anything did.
    fn put_back(&mut self, parts: &[Part]) -> bool {
        let now = Instant::now();
        let mut seen = Observed::default();
        let mut failed = Vec::new();
        for part in parts {
            if let Err(error) = self.observe(*part, &mut seen) {
                self.standing.failed(*part, said(&error), now);
                failed.push(*part);
            }
        }
        let repairs = self.desired(now).repairs(&seen);
        let is_standing =
            |part: &&Part| !failed.contains(part) && !repairs.iter().any(|repair| repair.part() == **part);
        parts.iter().filter(is_standing).for_each(|part| self.standing.stood(*part, now));
        let mut changed = false;
        // The kernel takes routes away with their device: that is one change.
        let is_device = repairs.iter().any(|repair| repair.part() == Part::Device);
        for repair in repairs {
            let part = repair.part();
            if self.standing.is_pausing(part, now) {
                continue;
            }
            match self.repair(&repair) {
                Ok(Repaired::OfSomebody) if part != Part::Routes || !is_device => {
                    self.standing.restored(part, repair.to_string(), now);
                    changed = true;
                }
                Ok(Repaired::OfSomebody | Repaired::Followed) => {
                    self.standing.stood(part, now);
                    changed = true;
                }
                Ok(Repaired::Nothing) => self.standing.stood(part, now),
                Err(error) => self.standing.failed(part, said(&error), now),
            }
        }
        changed
    }

    /// Gives the device copies of the interface's addresses again, where they are others. Returns true if they were.
    fn put_back_addresses(&mut self) -> bool {
        let now = Instant::now();
        if self.standing.is_pausing(Part::Device, now) {
            return false;
        }
        let before = self.copied.take();
        match self.sync_addresses() {
            Ok(false) => false,
            Ok(true) => {
                if before == self.copied {
                    let found = "the TUN device: it has other addresses".to_owned();
                    self.standing.restored(Part::Device, found, now);
                }
                true
            }
            Err(error) => {
                self.standing.failed(Part::Device, said(&error), now);
                true
            }
        }
    }

    /// Brings the chains for address translation in line with those of others. Returns true if somebody had changed them.
    fn put_back_nat(&mut self, others: Result<Others, CaptureError>) -> bool {
        let now = Instant::now();
        if self.standing.is_pausing(Part::Chains, now) {
            return false;
        }
        match others.and_then(|others| self.sync_nat(others.nat)) {
            Ok(Synced::Nothing | Synced::Followed) => false,
            Ok(Synced::Restored(fault)) => {
                self.standing.restored(Part::Chains, fault.to_string(), now);
                true
            }
            Err(error) => {
                self.standing.failed(Part::Chains, said(&error), now);
                true
            }
        }
    }

    fn observe(&mut self, part: Part, seen: &mut Observed) -> Result<(), CaptureError> {
        let (interface, tun) = (self.saved.interface, self.plan.tun);
        match part {
            Part::Chains => seen.table = Some(self.nft.state().at(Step::Chains, interface)?),
            Part::ReversePathFilter => {
                let strict = self.namespace.within(|| sysctl::strict_rp_filter(interface))?;
                seen.strict = Some(strict.at(Step::ReversePathFilter, interface)?);
            }
            Part::Device => {
                let link = Link::by_index(&mut self.netlink, self.tun).at(Step::ConfigureDevice, tun)?;
                let link = link.ok_or(CaptureError::InterfaceAbsent { interface: tun })?;
                let name = link.name.unwrap_or(tun);
                let altered = self.namespace.within(|| sysctl::altered(name))?;
                let altered = altered.at(Step::ConfigureDevice, tun)?.into_iter().map(|setting| setting.key);
                seen.device = Some(DeviceState {
                    name: link.name,
                    up: link.up,
                    mtu: link.mtu,
                    queue: link.queue,
                    altered: altered.filter(|key| !self.refused.contains(key)).collect(),
                });
            }
            Part::Routes => {
                seen.routes = Some(routing::present(&mut self.netlink).at(Step::Routes, interface)?);
            }
            Part::Rules => seen.rules = Some(Rules::read(&mut self.netlink).at(Step::Rule, interface)?),
        }
        Ok(())
    }

    fn desired(&self, now: Instant) -> Desired<'_> {
        let exempt = self.plan.exempt_with(&self.underlay.gateways);
        let nameservers = self.plan.nameserver_prefixes();
        let singles = Singles { leased: &self.external, proven: &self.proven };
        let contents = match self.plan.enforce {
            true => contents(&self.plan.prefixes(&exempt, &nameservers), singles, now),
            false => Default::default(),
        };
        Desired {
            table: self.table.as_ref(),
            contents,
            device: DeviceState {
                name: Some(self.plan.tun),
                up: true,
                mtu: self.underlay.mtu.device(),
                queue: self.plan.queue_len,
                altered: Vec::new(),
            },
            routes: self.wanted_routes(),
        }
    }

    fn repair(&mut self, repair: &Repair) -> Result<Repaired, CaptureError> {
        let followed = |is_followed| if is_followed { Repaired::Followed } else { Repaired::OfSomebody };
        match repair {
            Repair::Table(_) => {
                let is_out_of_date = self.table.is_none();
                self.install_table()?;
                if !is_out_of_date {
                    self.drop_waiting()?;
                }
                Ok(followed(is_out_of_date))
            }
            Repair::ReversePathFilter(own) => {
                let is_new = self.saved.rp_filter.is_none();
                if is_new {
                    // For `down`, which may come without this process.
                    self.saved.rp_filter = Some(*own);
                    self.install_table()?;
                }
                self.relax_rp_filter()?;
                Ok(Repaired::OfSomebody)
            }
            Repair::Device(_) => {
                let is_resized = self.sized != self.underlay.mtu.device();
                self.configure()?;
                Ok(followed(is_resized))
            }
            Repair::Routes { .. } => {
                let is_same = self.routed == self.wanted_routes();
                if !self.sync_routes()? {
                    return Ok(Repaired::Nothing);
                }
                rules::look_up_anew(&mut self.netlink).at(Step::Rule, self.plan.interface)?;
                Ok(followed(!is_same))
            }
            Repair::Rule(repair) => {
                rules::put(&mut self.netlink, *repair).at(Step::Rule, self.plan.interface)?;
                match repair.preference {
                    Some(_) => Ok(Repaired::OfSomebody),
                    None => Err(CaptureError::RulePreceded),
                }
            }
        }
    }
}

impl Capture {
    /// Packets that the chains have dropped, and those that others have; zero without enforcement. What others drop is among
    /// them from the second call on, for which it must be missing twice.
    ///
    /// # Errors
    /// [`CaptureError`] at [`Step::Counters`].
    pub fn counters(&mut self) -> Result<Counters, CaptureError> {
        if !self.plan.enforce {
            return Ok(Counters::default());
        }
        match self.read_counters() {
            // Somebody has removed the table; it is put back, and then counts on.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            read => read.at(Step::Counters, self.plan.interface)?,
        }
        Ok(self.counting.total())
    }

    /// Returns true if somebody else has chains that may drop what comes in for the tunnel or by it: then
    /// [`counters`](Self::counters) says what they drop, and is to be called each second.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.is_filtered
    }

    pub(crate) fn read_counters(&mut self) -> io::Result<()> {
        self.counting.read(&mut self.nft, self.is_filtered)
    }
}

/// Work that a repair did.
enum Repaired {
    /// Put back what somebody had changed.
    OfSomebody,
    /// Followed a change of the interface.
    Followed,
    /// Nothing could be done yet.
    Nothing,
}

/// An error with its cause.
fn said(error: &CaptureError) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
}
