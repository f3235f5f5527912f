//! Instructions of classic BPF, as socket filters have them (Documentation/networking/filter.rst in the kernel).

/// One instruction: `struct sock_filter` of include/uapi/linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

impl Instruction {
    /// Lets all of the datagram in.
    pub(crate) const PASS: Self = Self::plain(libc::BPF_RET | libc::BPF_K, u32::MAX);
    /// Keeps it out.
    pub(crate) const DROP: Self = Self::plain(libc::BPF_RET | libc::BPF_K, 0);
    /// Puts a random number into the accumulator (SKF_AD_RANDOM).
    pub(crate) const RANDOM: Self = Self::plain(
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32,
    );
    /// Keeps the accumulator in memory.
    pub(crate) const KEEP: Self = Self::plain(libc::BPF_ST, 0);
    /// Adds what was kept to the accumulator.
    pub(crate) const ADD_KEPT: [Self; 2] = [
        Self::plain(libc::BPF_LDX | libc::BPF_MEM, 0),
        Self::plain(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
    ];

    const fn plain(code: u32, value: u32) -> Self {
        Self { code: code as u16, if_true: 0, if_false: 0, value }
    }

    /// Loads a byte, counted from the UDP header.
    pub(crate) const fn load_byte(offset: u32) -> Self {
        Self::plain(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset)
    }

    /// Loads four bytes, counted from the UDP header, big endian. Where there are fewer, the datagram is kept out.
    pub(crate) const fn load(offset: u32) -> Self {
        Self::plain(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
    }

    /// Loads four bytes of the IP header.
    pub(crate) const fn load_network(offset: u32) -> Self {
        Self::load((libc::SKF_NET_OFF as u32).wrapping_add(offset))
    }

    pub(crate) const fn multiply(factor: u32) -> Self {
        Self::plain(libc::BPF_ALU | libc::BPF_MUL | libc::BPF_K, factor)
    }

    pub(crate) const fn shift_right(bits: u32) -> Self {
        Self::plain(libc::BPF_ALU | libc::BPF_RSH | libc::BPF_K, bits)
    }

    /// Goes on so many instructions further.
    pub(crate) const fn skip(instructions: u32) -> Self {
        Self::plain(libc::BPF_JMP | libc::BPF_JA, instructions)
    }

    /// Goes on so many instructions further, if the accumulator is `value`.
    pub(crate) const fn if_equal(value: u32, further: u8) -> Self {
        let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
        Self { code, if_true: further, if_false: 0, value }
    }

    /// Goes on one instruction further, unless a bit of `mask` is set in the accumulator.
    pub(crate) const fn unless_any(mask: u32) -> Self {
        let code = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
        Self { code, if_true: 0, if_false: 1, value: mask }
    }
}
