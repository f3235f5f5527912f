//! The look at a pod's interfaces: every frame of them, counted by its part in the traffic between two pods.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType,
    netdevice::name_to_index,
    recv, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
};
use serde::{Deserialize, Serialize};

use super::{
    command::{Canary, Ends},
    frame::{Seen, Sought},
    sys,
};

/// The devices of the calling thread's namespace (proc_pid_net(5)): the process's first thread is in another one.
const DEVICES: &str = "/proc/thread-self/net/dev";

/// Kinds of hardware that are not looked at (include/uapi/linux/if_arp.h): what is on `lo` leaves no pod, and a device without a
/// link layer is a tunnel's inner end, where the tenant's packets are as the applications send them.
const INNER: [u16; 2] = [libc::ARPHRD_LOOPBACK, libc::ARPHRD_NONE];

/// Room for frames that wait, in bytes.
const ROOM: usize = 32 << 20;

/// The first bytes of a frame that are looked at. A probe's own packets are shorter.
const FIRST: usize = 2048;

/// Longest wait for a frame before the word to end is looked for.
const TURN: Duration = Duration::from_millis(50);

/// Time after that word in which the frames of before are read.
const REST: Duration = Duration::from_secs(1);

/// Different things in plain that are named.
const NAMED: usize = 4;

/// Frames between two pods, by what they are. One that leaves by two devices counts twice.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counted {
    /// Records that left the pod; those that the kernel sends in one go are one.
    pub(crate) records_out: u64,
    /// Records that came to it.
    pub(crate) records_in: u64,
    /// Handshakes of the tunnel, either way.
    pub(crate) handshakes: u64,
    /// Frames that are not the tunnel's.
    pub(crate) plain: u64,
    /// The first different ones of these, in words.
    pub(crate) plain_kinds: Vec<String>,
    /// Frames with the canary in them, of whomever.
    pub(crate) canary: u64,
    /// Frames that were not looked at for want of room.
    pub(crate) lost: u64,
}

impl Counted {
    fn add(&mut self, other: Self) {
        self.records_out += other.records_out;
        self.records_in += other.records_in;
        self.handshakes += other.handshakes;
        self.plain += other.plain;
        self.canary += other.canary;
        self.lost += other.lost;
        for kind in other.plain_kinds {
            self.name(kind);
        }
    }

    fn name(&mut self, kind: String) {
        if self.plain_kinds.len() < NAMED && !self.plain_kinds.contains(&kind) {
            self.plain_kinds.push(kind);
        }
    }

    fn look(&mut self, bytes: &[u8], length: usize, sought: &Sought, canary: &Canary) {
        if bytes.windows(canary.len()).any(|window| window == canary) {
            self.canary += 1;
        }
        match sought.judge(bytes, length) {
            Seen::Other => {}
            Seen::Record(true) => self.records_out += 1,
            Seen::Record(false) => self.records_in += 1,
            Seen::Handshake => self.handshakes += 1,
            Seen::Plain(plain) => {
                self.plain += 1;
                self.name(plain.to_string());
            }
        }
    }
}

/// A look that goes on until it is ended.
pub(super) struct Capture {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<io::Result<Counted>>>,
}

impl Capture {
    /// Begins to look at the interfaces of the calling thread's namespace; frames are seen once this returns.
    ///
    /// # Errors
    /// The kernel's answer: packet sockets need CAP_NET_RAW. Or there is no interface.
    pub(super) fn start(ends: &Ends) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for name in devices(&fs::read_to_string(DEVICES)?) {
            sockets.extend(open(name)?);
        }
        if sockets.is_empty() {
            return Err(io::Error::other("the pod has no interface"));
        }
        let ended = Arc::new(AtomicBool::new(false));
        let start = |socket: OwnedFd| {
            let (ended, sought, canary) = (Arc::clone(&ended), Sought::between(ends), ends.canary);
            let watch = move || watch(&socket, &sought, &canary, &ended, REST);
            thread::Builder::new().name("capture".to_owned()).spawn(watch)
        };
        let threads = sockets.into_iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { ended, threads })
    }

    /// Ends it, and returns what was seen until now.
    ///
    /// # Errors
    /// The kernel's answer to reading frames: what was seen is not all.
    pub(super) fn end(self) -> io::Result<Counted> {
        self.ended.store(true, Ordering::Release);
        let mut all = Counted::default();
        for thread in self.threads {
            all.add(thread.join().map_err(|_| io::Error::other("the look at an interface failed"))??);
        }
        Ok(all)
    }
}

/// The names of the devices in a text of `/proc/net/dev`: in front of a colon, below two lines of titles.
fn devices(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()))
}

/// Opens a packet socket at a device; none: it is not to be looked at.
fn open(device: &str) -> io::Result<Option<OwnedFd>> {
    // Without a protocol it takes in nothing before it is bound.
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(TURN))?;
    // It needs CAP_NET_ADMIN of the machine. Without, there is the usual room, and `lost` says if that was too little.
    let _ = set_socket_recv_buffer_size_force(&socket, ROOM);
    let index = name_to_index(&socket, device)?;
    let kind = sys::bind(socket.as_fd(), index)?;
    Ok((!INNER.contains(&kind)).then_some(socket))
}

/// Counts frames until the end is said and all are read that were taken in before. Those that are not read in time are lost.
fn watch(
    socket: &OwnedFd,
    sought: &Sought,
    canary: &Canary,
    ended: &AtomicBool,
    rest: Duration,
) -> io::Result<Counted> {
    let mut counted = Counted::default();
    let mut buffer = [0; FIRST];
    let (mut read, mut due) = (0u64, None);
    loop {
        if due.is_none() && ended.load(Ordering::Acquire) {
            let (taken, lost) = sys::statistics(socket.as_fd())?;
            counted.lost = lost.into();
            due = Some((u64::from(taken), Instant::now() + rest));
        }
        if let Some((taken, end)) = due
            && (read >= taken || Instant::now() >= end)
        {
            counted.lost += taken.saturating_sub(read);
            return Ok(counted);
        }
        match recv(socket, &mut buffer[..], RecvFlags::TRUNC) {
            Ok((bytes, length)) => {
                read += 1;
                counted.look(&buffer[..bytes], length, sought, canary);
            }
            // A device that goes down says so once (packet_notifier, net/packet/af_packet.c).
            Err(rustix::io::Errno::INTR | rustix::io::Errno::NETDOWN) => {}
            Err(rustix::io::Errno::AGAIN) if due.is_some() => return Ok(counted),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_from_the_kernels_table() {
        let text = "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 1 2\n  eth0:3 4\n a.5:0\n";
        assert_eq!(devices(text).collect::<Vec<_>>(), ["lo", "eth0", "a.5"]);
    }

    #[test]
    fn frames_that_are_not_read_in_time_are_lost() {
        tencrypt_lab::test("probe::capture::tests::frames_that_are_not_read_in_time_are_lost", || {
            let socket =
                socket_with(AddressFamily::PACKET, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
            set_socket_timeout(&socket, Timeout::Recv, Some(TURN)).unwrap();
            sys::bind(socket.as_fd(), name_to_index(&socket, "lo").unwrap()).unwrap();
            let own = "127.0.0.1".parse().unwrap();
            let canary = *b"0123456789abcdef";
            let ends = Ends { netns: String::new(), own: vec![own], other: vec![own], port: 8362, canary };
            let look = |rest| {
                let sender = std::net::UdpSocket::bind((own, 0)).unwrap();
                // To itself: nobody answers by ICMP.
                sender.send_to(&canary, sender.local_addr().unwrap()).unwrap();
                watch(&socket, &Sought::between(&ends), &canary, &AtomicBool::new(true), rest).unwrap()
            };
            let late = look(Duration::ZERO);
            assert!(late.lost > 0 && late.canary == 0, "{late:?}");
            let all = look(REST);
            assert!(all.lost == 0 && all.canary > 0 && all.plain > 0, "{all:?}");
        });
    }

    #[test]
    fn what_is_seen_is_counted_and_a_few_kinds_are_named() {
        let ends = Ends {
            netns: String::new(),
            own: vec!["10.0.0.1".parse().unwrap()],
            other: vec!["10.0.0.2".parse().unwrap()],
            port: 8362,
            canary: *b"0123456789abcdef",
        };
        let sought = Sought::between(&ends);
        let mut counted = Counted::default();
        for port in [1, 1, 2, 3, 4, 5u8] {
            let mut packet =
                vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, port, 0, 80];
            packet.extend(&ends.canary);
            counted.look(&packet, packet.len(), &sought, &ends.canary);
        }
        let mut all = Counted { lost: 2, records_in: 3, plain_kinds: vec!["x".into()], ..Counted::default() };
        all.add(counted);
        assert_eq!((all.plain, all.canary, all.lost, all.records_in), (6, 6, 2, 3));
        assert_eq!(all.plain_kinds.len(), NAMED);
        assert_eq!(all.plain_kinds[1], "tcp 10.0.0.1 port 1 > 10.0.0.2 port 80");
    }
}
