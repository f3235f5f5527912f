//! Choice of the queue that a packet waits in: one hash, computed here and in the kernel.
//!
//! The kernel's own choice (`tun_automq_select_queue`, drivers/net/tun.c) follows whichever queue a flow was last written
//! to and differs from one end of a tunnel to the other. This one follows from the packet alone and is the same for both
//! directions, so that a flow has one lane on both ends.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use crate::sys::{self, Instruction};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Offsets in a packet: RFC 791 section 3.1, RFC 8200 section 3.
const V4_FRAGMENT: i32 = 6;
const V4_PROTOCOL: i32 = 9;
const V4_ADDRESSES: [i32; 2] = [12, 16];
const V6_NEXT_HEADER: i32 = 6;
const V6_ADDRESSES: [i32; 8] = [8, 12, 16, 20, 24, 28, 32, 36];
const V6_HEADER: i32 = 40;
/// More fragments, and the offset.
const FRAGMENT: u16 = 0x3fff;

/// The finalizer of MurmurHash3 (fmix32, A. Appleby, public domain): every bit of its argument changes every bit of its
/// result. Neighbouring ports spread over few queues only so.
const MIX: [Mix; 5] =
    [Mix::Fold(16), Mix::Multiply(0x85eb_ca6b), Mix::Fold(13), Mix::Multiply(0xc2b2_ae35), Mix::Fold(16)];

/// A step of mixing a word `w`.
#[derive(Debug, Clone, Copy)]
enum Mix {
    /// `w ^= w >> n`.
    Fold(u32),
    /// `w *= n`, modulo 2³².
    Multiply(u32),
}

/// The steering hash of an IP packet, below 65,536; of `n` queues the packet takes `steer(packet) % n`.
///
/// It is of both addresses, and of both ports of TCP and UDP, whichever comes first. Fragments have no ports: all of a
/// packet's have one hash, which is not that of the flow's whole packets. So have packets with IPv6 extension headers.
/// Bytes that are no IP packet, or end within these fields, have 0.
#[must_use]
pub fn steer(packet: &[u8]) -> u32 {
    keys(packet).map_or(0, |word| {
        let mixed = MIX.into_iter().fold(word, |word, step| match step {
            Mix::Fold(bits) => word ^ (word >> bits),
            Mix::Multiply(by) => word.wrapping_mul(by),
        });
        // tun_ebpf_select_queue keeps 16 bits.
        mixed & 0xffff
    })
}

fn keys(packet: &[u8]) -> Option<u32> {
    let first = *packet.first()?;
    let byte = |at: i32| packet.get(at as usize).copied();
    let half = |at: i32| Some(u16::from_be_bytes(*packet.get(at as usize..)?.first_chunk()?));
    let word = |at: i32| Some(u32::from_be_bytes(*packet.get(at as usize..)?.first_chunk()?));
    let (addresses, ports) = match first >> 4 {
        4 => {
            let addresses = word(V4_ADDRESSES[0])? ^ word(V4_ADDRESSES[1])?;
            let whole = half(V4_FRAGMENT)? & FRAGMENT == 0;
            let ported = whole && matches!(byte(V4_PROTOCOL)?, TCP | UDP);
            (addresses, ported.then_some(i32::from(first & 0x0f) * 4))
        }
        6 => {
            let mut addresses = 0;
            for at in V6_ADDRESSES {
                addresses ^= word(at)?;
            }
            (addresses, matches!(byte(V6_NEXT_HEADER)?, TCP | UDP).then_some(V6_HEADER))
        }
        _ => return None,
    };
    let Some(ports) = ports else { return Some(addresses) };
    // Into the half that is zero for two pods of one range.
    Some(addresses ^ u32::from(half(ports)? ^ half(ports + 2)?) << 16)
}

/// Makes the kernel choose the queue of the device behind `file` by [`steer`], for as long as the device exists.
///
/// # Errors
/// `EPERM` without `CAP_BPF` or `CAP_SYS_ADMIN` in the first user namespace where `kernel.unprivileged_bpf_disabled` is
/// set; `ENOSYS` without bpf(2); `EINVAL` or `ENOTTY` before Linux 4.16.
pub(crate) fn attach(file: BorrowedFd<'_>) -> io::Result<()> {
    let program = sys::bpf_load_socket_filter(&program())?;
    sys::tun_set_steering(file, program.as_fd())
}

/// Registers: the result of a load, the packet (`LD_ABS` expects it in R6), and three that loads keep.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const PACKET: u8 = 6;
const KEYS: u8 = 7;
const HEADER: u8 = 8;
const SCRATCH: u8 = 9;

/// [`steer`] as a program of the kernel. A load beyond the packet's end ends it with 0.
fn program() -> Vec<Instruction> {
    let mut code = Assembler::default();
    code.alu64_register(MOV, PACKET, CONTEXT);
    code.load(BYTE, 0);
    code.alu_register(MOV, HEADER, RESULT);
    code.alu(RSH, RESULT, 4);
    code.jump_if(JEQ, RESULT, 6, Label::V6);
    code.jump_if(JEQ, RESULT, 4, Label::V4);
    code.alu(MOV, RESULT, 0);
    code.exit();

    v4_keys(&mut code);
    v6_keys(&mut code);
    ports(&mut code);
    mix(&mut code);
    code.finish()
}

/// Leaves the length of the IPv4 header and its addresses folded together, and goes on to the ports where there are any.
fn v4_keys(code: &mut Assembler) {
    code.label(Label::V4);
    code.alu(AND, HEADER, 0x0f);
    code.alu(LSH, HEADER, 2);
    code.alu(MOV, KEYS, 0);
    for at in V4_ADDRESSES {
        code.load(WORD, at);
        code.alu_register(XOR, KEYS, RESULT);
    }
    code.load(HALF, V4_FRAGMENT);
    code.alu(AND, RESULT, i32::from(FRAGMENT));
    code.jump_if(JNE, RESULT, 0, Label::Mix);
    code.load(BYTE, V4_PROTOCOL);
    code.jump_if(JEQ, RESULT, TCP.into(), Label::Ports);
    code.jump_if(JEQ, RESULT, UDP.into(), Label::Ports);
    code.jump(Label::Mix);
}

/// The same of IPv6, without extension headers.
fn v6_keys(code: &mut Assembler) {
    code.label(Label::V6);
    code.alu(MOV, HEADER, V6_HEADER);
    code.alu(MOV, KEYS, 0);
    for at in V6_ADDRESSES {
        code.load(WORD, at);
        code.alu_register(XOR, KEYS, RESULT);
    }
    code.load(BYTE, V6_NEXT_HEADER);
    code.jump_if(JEQ, RESULT, TCP.into(), Label::Ports);
    code.jump_if(JNE, RESULT, UDP.into(), Label::Mix);
}

/// Folds the ports into the keys.
fn ports(code: &mut Assembler) {
    code.label(Label::Ports);
    code.load_after(HALF, HEADER, 0);
    code.alu_register(MOV, SCRATCH, RESULT);
    code.load_after(HALF, HEADER, 2);
    code.alu_register(XOR, SCRATCH, RESULT);
    code.alu(LSH, SCRATCH, 16);
    code.alu_register(XOR, KEYS, SCRATCH);
}

/// Mixes the keys into the hash, which is the program's result.
fn mix(code: &mut Assembler) {
    code.label(Label::Mix);
    for step in MIX {
        match step {
            Mix::Fold(bits) => {
                code.alu_register(MOV, SCRATCH, KEYS);
                code.alu(RSH, SCRATCH, bits.cast_signed());
                code.alu_register(XOR, KEYS, SCRATCH);
            }
            Mix::Multiply(by) => code.alu(MUL, KEYS, by.cast_signed()),
        }
    }
    code.alu(AND, KEYS, 0xffff);
    code.alu_register(MOV, RESULT, KEYS);
    code.exit();
}

/// Parts of an instruction's code: RFC 9669 section 4; the loads of section 5.6, which work on packets.
const LD: u8 = 0x00;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const ALU64: u8 = 0x07;
const ABS: u8 = 0x20;
const IND: u8 = 0x40;
const WORD: u8 = 0x00;
const HALF: u8 = 0x08;
const BYTE: u8 = 0x10;
const REGISTER: u8 = 0x08;
const MUL: u8 = 0x20;
const AND: u8 = 0x50;
const LSH: u8 = 0x60;
const RSH: u8 = 0x70;
const XOR: u8 = 0xa0;
const MOV: u8 = 0xb0;
const JA: u8 = 0x00;
const JEQ: u8 = 0x10;
const JNE: u8 = 0x50;
const EXIT: u8 = 0x90;

/// A place to jump to, always forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    V4,
    V6,
    Ports,
    Mix,
}

#[derive(Debug, Default)]
struct Assembler {
    code: Vec<Instruction>,
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u8, destination: u8, source: u8, immediate: i32) {
        // Two bit fields of one byte, whose order is the machine's.
        let (low, high) =
            if cfg!(target_endian = "little") { (destination, source) } else { (source, destination) };
        self.code.push(Instruction { code, registers: low | high << 4, offset: 0, immediate });
    }

    /// Loads from a place of the packet, in host byte order.
    fn load(&mut self, size: u8, at: i32) {
        self.push(LD | ABS | size, 0, 0, at);
    }

    /// Loads from a place of the packet counted from what a register holds.
    fn load_after(&mut self, size: u8, register: u8, at: i32) {
        self.push(LD | IND | size, 0, register, at);
    }

    fn alu(&mut self, operation: u8, destination: u8, immediate: i32) {
        self.push(ALU | operation, destination, 0, immediate);
    }

    fn alu_register(&mut self, operation: u8, destination: u8, source: u8) {
        self.push(ALU | REGISTER | operation, destination, source, 0);
    }

    /// For the pointer to the packet, which 32 bits do not hold.
    fn alu64_register(&mut self, operation: u8, destination: u8, source: u8) {
        self.push(ALU64 | REGISTER | operation, destination, source, 0);
    }

    fn jump_if(&mut self, condition: u8, register: u8, immediate: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(JMP | condition, register, 0, immediate);
    }

    fn jump(&mut self, to: Label) {
        self.jump_if(JA, 0, 0, to);
    }

    fn exit(&mut self) {
        self.push(JMP | EXIT, 0, 0, 0);
    }

    /// Everything that jumps here does so before.
    fn label(&mut self, label: Label) {
        let here = self.code.len();
        for (at, _) in self.jumps.extract_if(.., |(_, to)| *to == label) {
            // Counted from the instruction after the jump.
            self.code[at].offset = (here - at - 1) as i16;
        }
    }

    fn finish(self) -> Vec<Instruction> {
        debug_assert!(self.jumps.is_empty(), "{:?}", self.jumps);
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, from: ([u8; 4], u16), to: ([u8; 4], u16)) -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[9] = protocol;
        packet[12..16].copy_from_slice(&from.0);
        packet[16..20].copy_from_slice(&to.0);
        packet[20..22].copy_from_slice(&from.1.to_be_bytes());
        packet[22..24].copy_from_slice(&to.1.to_be_bytes());
        packet
    }

    const A: [u8; 4] = [10, 128, 1, 5];
    const B: [u8; 4] = [10, 128, 7, 7];

    #[test]
    fn both_directions_have_one_hash_and_other_flows_another() {
        for protocol in [TCP, UDP, 1] {
            let there = steer(&v4(protocol, (A, 40_000), (B, 443)));
            assert_eq!(there, steer(&v4(protocol, (B, 443), (A, 40_000))));
            let ported = protocol != 1;
            assert_eq!(there != steer(&v4(protocol, (A, 40_001), (B, 443))), ported);
            assert_ne!(there, steer(&v4(protocol, (A, 40_000), ([10, 128, 7, 8], 443))));
        }
    }

    #[test]
    fn all_fragments_have_one_hash() {
        let mut first = v4(UDP, (A, 40_000), (B, 443));
        first[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
        let mut last = v4(UDP, (A, 1234), (B, 5678));
        last[6..8].copy_from_slice(&185_u16.to_be_bytes());
        assert_eq!(steer(&first), steer(&last));
        // Don't fragment makes no fragment.
        let mut whole = v4(UDP, (A, 40_000), (B, 443));
        whole[6] = 0x40;
        assert_eq!(steer(&whole), steer(&v4(UDP, (A, 40_000), (B, 443))));
    }

    #[test]
    fn neighbouring_ports_spread_over_the_queues() {
        for queues in [2, 3, 4, 8, 16] {
            let mut flows = vec![0_u32; queues as usize];
            for port in 0..1024 {
                flows[(steer(&v4(TCP, (A, 32_768 + port), (B, 443))) % queues) as usize] += 1;
            }
            let (fair, most) = (1024 / queues, *flows.iter().max().unwrap());
            assert!(most < fair + fair / 2, "{queues} queues: {flows:?}");
        }
    }

    #[test]
    fn what_is_cut_short_has_none() {
        let whole = v4(TCP, (A, 40_000), (B, 443));
        assert_ne!(steer(&whole[..24]), 0);
        for length in 0..24 {
            assert_eq!(steer(&whole[..length]), 0, "{length}");
        }
        assert_eq!(steer(&[0x50; 60]), 0);
        // Ports come after the options.
        let mut long = vec![0; 64];
        long[..20].copy_from_slice(&whole[..20]);
        long[0] = 0x4f;
        long[60..].copy_from_slice(&whole[20..24]);
        assert_eq!((steer(&long), steer(&long[..63])), (steer(&whole), 0));
    }
}
