//! The loop of a lane: it waits in one poll for the device, the sockets, the control plane and the tunnel's next
//! deadline. There is no channel, lock or task between reading a packet and sending it.

use std::{
    io, mem,
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use tencrypt::offload::VnetHdr;
use tencrypt_udp::{Buffer, Family, PathErrorKind};

use super::{data_path::DataPath, freshness::LOOK_INTERVAL, patience::Patience};
use crate::os::sys;

/// Turns before the control plane and the timers get theirs: some milliseconds of work.
const TURNS: usize = 4;

/// Looks at device and sockets before the lane goes to sleep: some 3 microseconds.
const LOOKS: u32 = 3;

/// Bytes that a wake-up must have moved for the lane to look again: most of a train. Whoever sends less is served as soon
/// from sleep.
const BULK: usize = 32 << 10;

/// The time that a lane stays awake before the control plane and the error queues get their turn.
const STRETCH: Duration = Duration::from_millis(2);

/// Room for the largest packet with its virtio-net header, and for the largest datagram.
const BUFFER: usize = VnetHdr::LEN + 65_535;

/// The sources that may have something to read.
#[derive(Clone, Copy, Default)]
struct Readable {
    v4: bool,
    v6: bool,
    device: bool,
}

impl Readable {
    fn of(&mut self, family: Family) -> &mut bool {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// The end of a lane, and its reason.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to.
    Stopped,
    /// The device is gone: somebody removed it.
    DeviceGone,
    /// The pod is gone.
    PodGone,
    /// Waiting or reading failed for good.
    Failed(io::Error),
}

impl DataPath {
    /// Runs until it is told to stop, or cannot go on.
    pub(crate) fn run(mut self) -> Ended {
        let mut buffer = Buffer::new(BUFFER);
        let mut is_huge = false;
        let mut before = Readable::default();
        let mut patience = Patience::default();
        loop {
            let worked = self.wait(&mut buffer).and_then(|(now, moved)| {
                // One end of the lane wakes it up, the other mostly has the answer.
                let lately = Readable { v4: now.v4 || before.v4, v6: now.v6 || before.v6, ..now };
                before = now;
                if moved < BULK {
                    return Ok(());
                }
                if !mem::replace(&mut is_huge, true) {
                    buffer.make_huge();
                    self.transport.make_huge();
                }
                self.spin(lately, &mut patience, &mut buffer)
            });
            if let Err(ended) = worked {
                return ended;
            }
        }
    }

    /// Sleeps until there is something to do, and does it. Returns where there was something, and the bytes moved.
    fn wait(&mut self, buffer: &mut [u8]) -> Result<(Readable, usize), Ended> {
        let waited = if self.fresh {
            let due = [self.tunnel.next_timeout(), self.transport.poll_timeout()].into_iter().flatten().min();
            let timeout = due.map(|due| due.saturating_duration_since(Instant::now()));
            let descriptors = [
                Some(self.inbox.as_fd()),
                Some(self.device.as_fd()),
                self.transport.socket(Family::V4),
                self.transport.socket(Family::V6),
            ];
            sys::poll(descriptors, timeout)
        } else {
            // For new keys, or the word that the old ones are good after all.
            sys::poll([Some(self.inbox.as_fd()), None, None, None], Some(LOOK_INTERVAL))
        };
        let [inbox, device, v4, v6] = waited.map_err(Ended::Failed)?;
        let resumes = !self.fresh;
        self.check_fresh();
        if inbox.readable && self.handle_commands() {
            return Err(Ended::Stopped);
        }
        if !self.fresh {
            return Ok((Readable::default(), 0));
        }
        if resumes {
            self.drain(Instant::now());
        }
        if inbox.readable || resumes {
            self.handle_handed_over();
        }
        self.handle_lane_updates();
        self.handle_timeouts();
        if v4.error || v6.error {
            self.transport.drain_path_errors();
        }
        self.handle_path_errors();
        let lately = Readable { v4: v4.readable, v6: v6.readable, device: device.readable || device.error };
        Ok((lately, self.turn(lately, buffer)?))
    }

    /// Looks again a few times, after whoever else is waiting for the processor, before it goes to sleep: under load the
    /// next train has come by then, and neither this thread is put to sleep nor the sender made to wake it.
    ///
    /// Measured with one TCP stream between two pods on two cores, medians of three: 8.6 Gbit/s when it sleeps at once,
    /// 9.3 to 9.6 with 3 to 40 looks. Spinning without yielding, 20 to 100 microseconds, gains nothing on one stream and
    /// doubles round trips, for it takes the applications' time. Where somebody keeps the processor busy, a yield costs
    /// that one's time slice, while a thread that sleeps is woken at once: with two busy loops beside it, mean round
    /// trips rose from 0.15 to 8 ms. Therefore [`Patience`].
    fn spin(&mut self, lately: Readable, patience: &mut Patience, buffer: &mut [u8]) -> Result<(), Ended> {
        let begun = Instant::now();
        let mut misses = 0;
        while misses < LOOKS && begun.elapsed() < STRETCH && patience.yield_now() {
            if !self.check_fresh() {
                break;
            }
            self.handle_timeouts();
            // An answer may come from the device whatever came last.
            let found = self.turn(Readable { device: true, ..lately }, buffer)? > 0;
            misses = if found { 0 } else { misses + 1 };
        }
        Ok(())
    }

    /// Takes turns between network and device while there is something: what one of them is given mostly has the other
    /// answer at once, an acknowledgement or the next train, and asking for it costs less than waiting again.
    /// Returns the bytes moved.
    fn turn(&mut self, mut ready: Readable, buffer: &mut [u8]) -> Result<usize, Ended> {
        let mut moved = 0;
        for turn in 0..TURNS {
            if turn > 0 && !self.check_fresh() {
                break;
            }
            let before = moved;
            for family in [Family::V4, Family::V6] {
                if *ready.of(family) {
                    let received = self.receive(family, buffer);
                    *ready.of(family) = received > 0;
                    ready.device |= received > 0;
                    moved += received;
                }
            }
            if ready.device {
                let read = match self.read(buffer) {
                    Ok(Some(read)) => read,
                    Ok(None) => return Err(Ended::DeviceGone),
                    Err(error) => return Err(Ended::Failed(error)),
                };
                ready.device = read > 0;
                moved += read;
            }
            if moved == before {
                break;
            }
        }
        Ok(moved)
    }

    /// Handles the deadlines that have passed.
    fn handle_timeouts(&mut self) {
        let now = Instant::now();
        if self.tunnel.next_timeout().is_some_and(|due| due <= now) {
            self.tunnel.handle_timeout(now);
            self.drain(now);
        }
        if self.transport.poll_timeout().is_some_and(|due| due <= now) {
            self.transport.handle_timeout(now);
        }
    }

    /// Tells the tunnel of addresses that the network says cannot be reached.
    fn handle_path_errors(&mut self) {
        while let Some(error) = self.transport.poll_path_error() {
            if error.kind == PathErrorKind::Unreachable {
                let now = Instant::now();
                self.tunnel.handle_unreachable(error.to, now);
                self.drain(now);
            }
        }
    }
}
