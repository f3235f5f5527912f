//! INITs that await their RESP, also those whose question was given up: a late answer counts all the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use super::question::{Purpose, Question};
use crate::{
    handshake::{CookieBytes, Initiator},
    record::SessionIndex,
    tunnel::{
        index::OwnedIndex,
        limits::{INIT_LIFE, MAX_GIVEN_UP},
    },
};

/// An INIT that awaits its RESP.
#[derive(Debug)]
pub(super) struct Initiation {
    pub(super) initiator: Initiator,
    pub(super) index: OwnedIndex,
    pub(super) init: Box<[u8]>,
    /// Time at which it left first.
    pub(super) first_sent: Instant,
    /// Time at which it left last.
    pub(super) last_sent: Instant,
    /// The cookie that its mac2 is made with, and when that was taken.
    pub(super) cookie: Option<(CookieBytes, Instant)>,
}

impl Initiation {
    /// Tells if it can be repeated: under the epoch that is sent, without an answer that spoilt it, within its life.
    pub(super) fn is_good(&self, sent_epoch: u8, now: Instant) -> bool {
        self.initiator.epoch() == sent_epoch && !self.initiator.is_over() && self.is_young(now)
    }

    fn is_young(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.first_sent) < INIT_LIFE
    }
}

/// An INIT whose question was given up.
#[derive(Debug)]
pub(super) struct GivenUp {
    pub(super) named: IpAddr,
    pub(super) purpose: Purpose,
    pub(super) initiation: Initiation,
}

/// All of them: one an address, bounded, the oldest out.
#[derive(Debug, Default)]
pub(super) struct GivenUps {
    by_address: BTreeMap<IpAddr, GivenUp>,
    by_age: BTreeSet<(Instant, IpAddr)>,
}

impl GivenUps {
    /// Keeps an INIT to `to` for the rest of its life.
    pub(super) fn keep(&mut self, to: IpAddr, given_up: GivenUp, now: Instant) {
        if given_up.initiation.initiator.is_over() || !given_up.initiation.is_young(now) {
            return;
        }
        self.forget(to);
        if self.by_address.len() >= MAX_GIVEN_UP
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.by_address.remove(&oldest);
        }
        self.by_age.insert((given_up.initiation.first_sent, to));
        self.by_address.insert(to, given_up);
    }

    /// Takes out the INIT that asks this question once more, byte for byte. One that asked another at the same address
    /// is forgotten.
    pub(super) fn take_for(
        &mut self,
        question: &Question,
        sent_epoch: u8,
        now: Instant,
    ) -> Option<Initiation> {
        let known = self.take(question.to)?;
        let is_same = known.named == question.named && known.initiation.is_good(sent_epoch, now);
        is_same.then_some(known.initiation)
    }

    /// The INIT to `to` with this index of ours, if an answer to it still counts.
    pub(super) fn find_mut(
        &mut self,
        to: IpAddr,
        index: SessionIndex,
        now: Instant,
    ) -> Option<&mut Initiation> {
        let known = self.by_address.get_mut(&to).map(|known| &mut known.initiation);
        known.filter(|known| known.index.get() == index && known.is_young(now))
    }

    pub(super) fn take(&mut self, to: IpAddr) -> Option<GivenUp> {
        let known = self.by_address.remove(&to)?;
        self.by_age.remove(&(known.initiation.first_sent, to));
        Some(known)
    }

    pub(super) fn forget(&mut self, to: IpAddr) {
        self.take(to);
    }

    /// Forgets those that are not `kept`.
    pub(super) fn retain(&mut self, kept: impl Fn(&Initiation) -> bool) {
        self.by_address.retain(|_, known| kept(&known.initiation));
        self.by_age.retain(|(_, to)| self.by_address.contains_key(to));
    }

    /// Forgets those past their life.
    pub(super) fn end_expired(&mut self, now: Instant) {
        while let Some((first_sent, to)) = self.by_age.first().copied() {
            if now.saturating_duration_since(first_sent) < INIT_LIFE {
                break;
            }
            self.forget(to);
        }
    }

    /// End of the life of the oldest.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.by_age.first().map(|(first_sent, _)| *first_sent + INIT_LIFE)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.by_address.len(), self.by_age.len());
        self.by_address.len()
    }
}
