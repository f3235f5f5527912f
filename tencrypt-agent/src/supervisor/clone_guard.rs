//! Keys made anew while the program runs: when its machine was cloned or restored, or stood still.
//!
//! A copy of a virtual machine has the keys and counters of the original, and would seal other packets under them. So at
//! either sign, the kernel's word or a gap of the boot clock, the pod gets another static key, every lane fresh randomness
//! of the kernel, and no session survives. Lanes look for both signs themselves ([`Freshness`]): from the moment that the
//! control plane has seen one, or that the boot clock shows a gap, they move no packet until they have new keys.

use std::{
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tencrypt::{Identity, Seed, crypto::PeerId};
use tokio::io::unix::AsyncFd;

use crate::{
    failure::Failure,
    lane::{
        channel::{Command, Lanes, NewIdentity},
        freshness::{Freshness, boot_clock},
        pod_status::Shared,
    },
    os::{
        clock::Clock,
        kernel_log::{self, KernelLog},
        notice::Notice,
        sys,
        uevents::{self, Uevents},
    },
    report::{CloneSign, RenewalReason, RenewalReport},
};

/// A sign that keys are to be made anew: their generation, and the reason.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sign {
    generation: u64,
    reason: RenewalReason,
}

impl Sign {
    /// Returns the reason.
    pub(super) fn reason(self) -> RenewalReason {
        self.reason
    }
}

/// Reads in one go of words that wait: all that a log holds between two looks, and no more.
const READS: usize = 64;

/// The kernel's words, as far as they could be opened.
#[derive(Debug, Default)]
pub(crate) struct KernelWords {
    uevents: Option<Uevents>,
    log: Option<KernelLog>,
}

impl KernelWords {
    /// Opens what is to be had. To be called outside of the pod's network namespace, which the kernel tells no events, and
    /// before capabilities are given up, which the log may ask for.
    pub(crate) fn open() -> Self {
        let uevents =
            Uevents::open().inspect_err(|error| tracing::warn!(%error, "events of the kernel")).ok();
        // Where an ordinary user may not read it, `status` says so.
        let log = KernelLog::open().inspect_err(|error| tracing::info!(%error, "log of the kernel")).ok();
        Self { uevents, log }
    }

    /// The same for a program of an agent's, which listens for all pods of the node: only the log, where what was said
    /// before the agent went can still be read.
    pub(crate) fn open_log() -> Self {
        Self { uevents: None, ..Self::open() }
    }
}

/// A source of notices: its descriptor, and how it is read.
struct Source {
    descriptor: Descriptor,
    read: fn(&OwnedFd) -> io::Result<Option<Notice>>,
}

/// A descriptor that wakes the program when it is readable, or one that does not.
enum Descriptor {
    Armed(AsyncFd<OwnedFd>),
    Idle(OwnedFd),
}

impl Source {
    fn new(descriptor: OwnedFd, read: fn(&OwnedFd) -> io::Result<Option<Notice>>) -> Self {
        Self { descriptor: Descriptor::Idle(descriptor), read }
    }

    /// Has the source wake the program, or not; `None`: the kernel refuses.
    fn armed(self, armed: bool) -> Option<Self> {
        let descriptor = match (self.descriptor, armed) {
            (Descriptor::Idle(descriptor), true) => Descriptor::Armed(sys::watch_readable(descriptor).ok()?),
            (Descriptor::Armed(descriptor), false) => Descriptor::Idle(descriptor.into_inner()),
            (as_before, _) => as_before,
        };
        Some(Self { descriptor, ..self })
    }

    /// Reads what waits, if anything does.
    fn read(&self) -> io::Result<Option<Notice>> {
        let descriptor = match &self.descriptor {
            Descriptor::Armed(descriptor) => descriptor.get_ref(),
            Descriptor::Idle(descriptor) => descriptor,
        };
        (self.read)(descriptor)
    }

    /// Reads everything that waits. Returns what was said of clones, if anything was.
    ///
    /// # Errors
    /// It cannot be read any more.
    fn read_all(&self) -> io::Result<Option<Notice>> {
        let mut said = None;
        for _ in 0..READS {
            match self.read()? {
                Some(Notice::Nothing) => {}
                Some(notice) => said = Some(notice),
                None => break,
            }
        }
        Ok(said)
    }
}

/// Watches for signs, and replaces the pod's identity at each.
pub(super) struct CloneGuard {
    freshness: Arc<Freshness>,
    uevents: Option<Source>,
    log: Option<Source>,
    look: Clock,
    report: Shared<RenewalReport>,
}

impl CloneGuard {
    /// Makes a guard that hears these words of the kernel and looks at the clock each `interval`. Must be called within a
    /// tokio runtime.
    pub(crate) fn new(words: KernelWords, interval: Duration) -> Self {
        let source = |descriptor, read| Source::new(descriptor, read).armed(true);
        let uevents = words.uevents.and_then(|uevents| source(uevents.into_fd(), uevents::read));
        let log = words.log.and_then(|log| source(log.into_fd(), kernel_log::read));
        let mut signs = vec![CloneSign::BootClock];
        if log.is_some() && KernelLog::tells_of_clones() {
            signs.push(CloneSign::KernelLog);
        }
        let report = RenewalReport { signs, ..RenewalReport::default() };
        let look = Clock::each(interval);
        let freshness = Arc::new(Freshness::new(boot_clock()));
        Self { freshness, uevents, log, look, report: Arc::new(Mutex::new(report)) }
    }

    /// Leaves the kernel's words to an agent that hears them for all pods of the node, or hears them again. What is said
    /// meanwhile is found at the next look at the clock.
    pub(super) fn leave_to_agent(&mut self, attended: bool) {
        let Some(log) = self.log.take() else { return };
        match log.armed(!attended) {
            Some(log) => self.log = Some(log),
            None => self.lose_log(&io::Error::other("it cannot be waited for")),
        }
    }

    /// Returns the sign that an agent gives. The kernel's word for the same is taken with it.
    pub(super) fn sign(&mut self, reason: RenewalReason) -> Sign {
        let _ = self.look_at_log();
        Sign { generation: self.freshness.want(), reason }
    }

    /// Returns the generation that the lanes look at.
    pub(crate) fn freshness(&self) -> Arc<Freshness> {
        self.freshness.clone()
    }

    /// Returns the part of `status` about it, kept up to date.
    pub(crate) fn report(&self) -> Shared<RenewalReport> {
        self.report.clone()
    }

    /// Waits for a sign. From its return on no lane seals anything until [`Self::replace_identity`] is called with it. May
    /// be cancelled.
    pub(super) async fn next_sign(&mut self) -> Sign {
        loop {
            // In turns: words without end must not keep the clock from being looked at.
            let notice = tokio::select! {
                notice = next_notice(self.uevents.as_ref()) => {
                    if notice.is_none() {
                        self.uevents = None;
                    }
                    notice
                }
                notice = next_notice(self.log.as_ref()) => {
                    if notice.is_none() {
                        self.lose_log(&io::ErrorKind::UnexpectedEof.into());
                    }
                    notice
                }
                () = self.look.tick() => match self.freshness.look(boot_clock()) {
                    Some(generation) => return Sign { generation, reason: RenewalReason::Pause },
                    // The log may wake its readers before they can read the record, and not again after.
                    None => self.look_at_log(),
                },
            };
            let reason = match notice {
                Some(Notice::Cloned) => RenewalReason::Clone,
                Some(Notice::Lost) => RenewalReason::Unknown,
                Some(Notice::Nothing) | None => continue,
            };
            return Sign { generation: self.freshness.want(), reason };
        }
    }

    /// Reads what the log has said since the last look, though nobody was woken by it.
    fn look_at_log(&mut self) -> Option<Notice> {
        match self.log.as_ref()?.read_all() {
            Ok(notice) => notice,
            Err(error) => {
                self.lose_log(&error);
                None
            }
        }
    }

    /// Goes on without the log, and says so.
    fn lose_log(&mut self, error: &io::Error) {
        tracing::warn!(%error, "log of the kernel; clones of the machine may not be noticed any more");
        self.log = None;
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        report.signs.retain(|sign| *sign != CloneSign::KernelLog);
    }

    /// Gives all lanes one new identity, and each fresh randomness. Returns its public key.
    ///
    /// The kernel's own generator was seeded anew before it said that the machine was cloned (drivers/char/random.c,
    /// `add_vmfork_randomness`), and when it woke up (`random_pm_notification`); so copies are given different seeds.
    ///
    /// # Errors
    /// The kernel gives no randomness. The lanes move no packet then.
    pub(super) async fn replace_identity(
        &self,
        Sign { generation, reason }: Sign,
        addresses: &[IpAddr],
        lanes: &Lanes,
    ) -> Result<PeerId, Failure> {
        let identity = Identity::generate(random_seed()?, addresses);
        for lane in lanes.iter() {
            let (identity, seed) = (identity.for_another_lane(), random_seed()?);
            // One that has ended takes all others with it.
            let _ = lane
                .send(Command::ReplaceIdentity(Box::new(NewIdentity { generation, identity, seed })))
                .await;
        }
        tracing::warn!("{}: all sessions have ended, and this pod has another key", reason.as_str());
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        (report.count, report.reason) = (generation, Some(reason));
        Ok(identity.peer_id())
    }
}

/// Waits for the next notice of a source, for ever without one; `None`: it cannot be heard any more.
async fn next_notice(source: Option<&Source>) -> Option<Notice> {
    let Some(Source { descriptor: Descriptor::Armed(descriptor), read }) = source else {
        return std::future::pending().await;
    };
    loop {
        let mut ready = descriptor.readable().await.ok()?;
        match read(descriptor.get_ref()) {
            Ok(Some(notice)) => return Some(notice),
            Ok(None) => ready.clear_ready(),
            Err(error) => {
                tracing::warn!(%error, "words of the kernel; clones of the machine may not be noticed any more");
                return None;
            }
        }
    }
}

/// The reason why a program without randomness goes no further.
pub(crate) const NO_RANDOMNESS: &str = "the kernel gives no randomness";

/// Draws a seed from the kernel, written where it stays: whoever finds a seed has every ephemeral that is drawn from it.
///
/// # Errors
/// The kernel gives no randomness.
pub(crate) fn random_seed() -> Result<Seed, Failure> {
    Seed::try_filled(|seed| getrandom::fill(seed)).map_err(|_| Failure::runtime(NO_RANDOMNESS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lane::channel::channel, os::clock::SECOND};

    #[test]
    fn all_lanes_are_given_one_identity_and_seeds_of_their_own() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (handles, inboxes): (Vec<_>, Vec<_>) = (0..3).map(|_| channel().unwrap()).unzip();
            let guard = CloneGuard::new(KernelWords::default(), SECOND);
            let address = IpAddr::from([10, 0, 0, 1]);
            let generation = guard.freshness().want();
            let lanes = Lanes::new(handles);
            let own = guard
                .replace_identity(Sign { generation, reason: RenewalReason::Clone }, &[address], &lanes)
                .await
                .unwrap();
            let mut seeds = Vec::new();
            for inbox in &inboxes {
                let mut given = Vec::new();
                inbox.drain(|command| given.push(command));
                let [Command::ReplaceIdentity(new)] = &given[..] else { panic!("{given:?}") };
                assert_eq!((new.generation, new.identity.peer_id()), (1, own));
                assert_eq!(new.identity.addresses(), [address]);
                let Some(Command::ReplaceIdentity(new)) = given.pop() else { unreachable!("it was matched") };
                seeds.push(tencrypt::internal::Rng::new(new.seed).u64());
            }
            assert!(seeds[0] != seeds[1] && seeds[1] != seeds[2] && seeds[0] != seeds[2], "{seeds:?}");
            let report = guard.report().lock().unwrap().clone();
            assert_eq!((report.count, report.reason), (1, Some(RenewalReason::Clone)));
            assert_eq!(report.signs, [CloneSign::BootClock], "nothing else could be opened");
            let again = Sign { generation: guard.freshness().want(), reason: RenewalReason::Pause };
            assert_ne!(guard.replace_identity(again, &[address], &lanes).await.unwrap(), own);
        });
    }

    /// A log in which each byte is a record.
    fn log() -> (std::io::PipeWriter, Source) {
        let (reader, writer) = std::io::pipe().unwrap();
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).unwrap();
        let read = |descriptor: &OwnedFd| {
            let mut record = [0];
            match rustix::io::read(descriptor, &mut record) {
                Ok(1) if record == *b"c" => Ok(Some(Notice::Cloned)),
                Ok(_) => Ok(Some(Notice::Nothing)),
                Err(rustix::io::Errno::AGAIN) => Ok(None),
                Err(error) => Err(error.into()),
            }
        };
        (writer, Source::new(reader.into(), read))
    }

    #[tokio::test]
    async fn words_are_read_while_they_are_left_to_the_agent() {
        use std::io::Write as _;
        const NEVER: Duration = Duration::from_secs(3_600);
        const SOON: Duration = Duration::from_millis(20);
        for (interval, attended) in [(SOON, true), (NEVER, false)] {
            let (mut kernel, log) = log();
            let mut guard = CloneGuard::new(KernelWords::default(), interval);
            guard.log = log.armed(true);
            guard.leave_to_agent(true);
            // Its first tick is at once.
            let waiting = tokio::time::timeout(SOON / 4, guard.next_sign()).await;
            assert!(waiting.is_err());
            kernel.write_all(b"..c").unwrap();
            guard.leave_to_agent(attended);
            let sign = tokio::time::timeout(Duration::from_secs(10), guard.next_sign()).await;
            let sign = sign.expect("a sign");
            assert_eq!((sign.reason, sign.generation), (RenewalReason::Clone, 1));
        }
    }

    #[tokio::test]
    async fn a_clone_that_the_agent_tells_of_is_one_though_the_kernel_says_so_too() {
        use std::io::Write as _;
        let (mut kernel, log) = log();
        let mut guard = CloneGuard::new(KernelWords::default(), Duration::from_millis(20));
        guard.log = log.armed(false);
        kernel.write_all(b"..c..").unwrap();
        assert_eq!(guard.sign(RenewalReason::Clone).generation, 1);
        let again = tokio::time::timeout(Duration::from_millis(200), guard.next_sign()).await;
        assert!(again.is_err(), "the same clone counted twice");
        kernel.write_all(b"c").unwrap();
        let other = tokio::time::timeout(Duration::from_secs(10), guard.next_sign()).await;
        assert_eq!(other.expect("another clone").generation, 2);
    }
}
