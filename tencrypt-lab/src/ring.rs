//! A packet socket whose frames arrive in a ring shared with the kernel (TPACKET_V3).
//!
//! A ring, since frames of offloading senders are 64 KiB, and the ordinary receive buffer of an unprivileged user
//! (net.core.rmem_max, 208 KiB by default) holds three of them; a ring is not bounded by that setting.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use crate::sys::{self, RingMemory};

/// Bytes of a block; the kernel hands over whole blocks. No frame is larger.
const BLOCK: usize = 1 << 20;
/// 256 MiB in all: what a fast sender sends, at 10 Gbit/s, in the 0.2 s that a listener may wait for a processor.
const BLOCKS: usize = 256;
/// A block that is not full is handed over after this time, milliseconds.
const RETIRE_AFTER: u32 = 10;

/// One frame, from its Ethernet header.
pub(crate) struct RingFrame<'a> {
    pub(crate) bytes: &'a [u8],
    /// Bytes it had on the device.
    pub(crate) length: usize,
    /// The time at which the kernel took it in.
    pub(crate) at: SystemTime,
}

/// Receives every frame that any device of a namespace takes in. Frames that devices send are not seen: whatever a
/// pod sends enters the node by the pod's port.
pub(crate) struct Ring {
    // Dropped before the socket, as fields are dropped in order.
    memory: RingMemory,
    socket: Socket,
    next: usize,
}

impl Ring {
    /// Listens in the calling thread's namespace, from now on; takes in the first `bytes` of each frame, at most
    /// [`u32::MAX`].
    pub(crate) fn open(bytes: usize) -> io::Result<Self> {
        /// BPF_RET | BPF_K, include/uapi/linux/bpf_common.h: the filter's answer is the bytes of the frame to keep.
        const KEEP: u16 = 0x06;
        /// include/uapi/linux/if_packet.h, since Linux 4.20
        const PACKET_IGNORE_OUTGOING: i32 = 23;
        let every_protocol = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(every_protocol))?;
        let fd = socket.as_fd();
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        socket.attach_filter(&[SockFilter::new(KEEP, 0, 0, bytes)])?;
        sys::set_option(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1i32)?;
        sys::set_option(
            fd,
            libc::SOL_PACKET,
            libc::PACKET_VERSION,
            libc::tpacket_versions::TPACKET_V3 as i32,
        )?;
        let layout = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: BLOCK as u32,
            tp_frame_nr: BLOCKS as u32,
            tp_retire_blk_tov: RETIRE_AFTER,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, layout)?;
        let memory = RingMemory::map(fd, BLOCK, BLOCKS)?;
        Ok(Self { memory, socket, next: 0 })
    }

    /// Hands the frames of the next block to `each`; waits up to `milliseconds` for one. False if none came.
    pub(crate) fn read(&mut self, milliseconds: i32, each: impl FnMut(RingFrame<'_>)) -> io::Result<bool> {
        if self.memory.filled(self.next).is_none() {
            sys::wait_readable(self.socket.as_fd(), milliseconds)?;
        }
        let Some(block) = self.memory.filled(self.next) else {
            return Ok(false);
        };
        walk(block, each);
        self.memory.release(self.next);
        self.next = (self.next + 1) % BLOCKS;
        Ok(true)
    }

    /// Frames that found the ring full, since this was last asked.
    pub(crate) fn lost(&self) -> io::Result<u64> {
        Ok(u64::from(sys::packet_drops(self.socket.as_fd())?))
    }
}

/// struct tpacket_block_desc and, for each frame, struct tpacket3_hdr.
fn walk(block: &[u8], mut each: impl FnMut(RingFrame<'_>)) {
    let frames = word(block, 12).unwrap_or(0);
    let mut offset = word(block, 16).unwrap_or(0);
    for _ in 0..frames {
        let Some(frame) = block.get(offset..) else { return };
        let [Some(next), Some(seconds), Some(nanoseconds), Some(kept), Some(length)] =
            [0, 4, 8, 12, 16].map(|field| word(frame, field))
        else {
            return;
        };
        let at = UNIX_EPOCH + Duration::from_secs(seconds as u64) + Duration::from_nanos(nanoseconds as u64);
        let Some(start) = frame.get(24..).and_then(|rest| rest.first_chunk()) else { return };
        let start = usize::from(u16::from_ne_bytes(*start));
        if let Some(bytes) = frame.get(start..start + kept) {
            each(RingFrame { bytes, length, at });
        }
        if next == 0 {
            return;
        }
        offset += next;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?) as usize)
}
