//! Destinations that a capture treats as facts say, for as long as they say so.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tencrypt::IpNet;

use crate::{
    capture::Capture,
    error::{At as _, CaptureError, Step},
    plan::Planned,
    routing::{self, Kind, Route},
    rules,
    table::Set,
};

/// External destinations that have a route and a set element of their own. More of them, which only a flood of DNS
/// answers brings, leave through the raw socket.
const MAX_EXTERNAL: usize = 16_384;

impl Capture {
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
        if self.external.len() >= MAX_EXTERNAL && !self.external.contains_key(&destination) {
            return Err(CaptureError::ExternalLimit);
        }
        let interface = self.plan.interface;
        if self.plan.enforce {
            self.nft.add(Set::External, destination.into(), Some(ttl)).at(Step::SetElement, interface)?;
        }
        let prefix = IpNet::from(destination);
        if self.external.insert(destination, Instant::now() + ttl).is_some() {
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
        if self.external.remove(&destination).is_some() {
            match self.plan.planned(prefix) {
                Some(Planned::Stays) => {}
                Some(Planned::Gives) => drop(self.sync_routes()?),
                None => {
                    let route = Route { kind: Kind::Throw, prefix };
                    self.routed.remove(&route);
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
        let was_external = self.external.contains_key(&address);
        self.deny_external(address)?;
        if was_external && address.is_ipv6() {
            rules::look_up_anew(&mut self.netlink).at(Step::Rule, self.plan.interface)?;
        }
        self.proven.insert(address);
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
        self.proven.remove(&address);
        if self.plan.enforce && self.plan.class(address, &self.underlay.gateways) != Some(Set::Internal) {
            self.nft.delete(Set::Internal, address.into()).at(Step::SetElement, self.plan.interface)?;
        }
        Ok(())
    }
}
