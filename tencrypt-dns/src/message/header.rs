//! The header of a message (RFC 1035 section 4.1.1).

/// Header of every message, in bytes (RFC 1035 section 4.1.1).
pub const HEADER: usize = 12;
/// Response code FORMERR (RFC 1035 section 4.1.1).
pub const FORMERR: u8 = 1;
/// Response code SERVFAIL (RFC 1035 section 4.1.1).
pub const SERVFAIL: u8 = 2;
/// Response code NOTIMP (RFC 1035 section 4.1.1).
pub const NOTIMP: u8 = 4;
/// Response code REFUSED (RFC 1035 section 4.1.1).
pub const REFUSED: u8 = 5;

/// The bits of the opcode, in the third byte.
pub(super) const OPCODE_MASK: u8 = 0x78;
/// QR, in the third byte.
pub(super) const FLAG_RESPONSE: u8 = 0x80;

#[derive(Debug, Clone, Copy)]
pub(super) struct Header(pub(super) [u8; HEADER]);

#[derive(Debug, Clone, Copy)]
pub(super) enum Section {
    Answer = 6,
    Authority = 8,
    Additional = 10,
}

impl Header {
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk().copied().map(Self)
    }

    pub(super) const fn id(&self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }

    pub(super) const fn is_response(&self) -> bool {
        self.0[2] & FLAG_RESPONSE != 0
    }

    pub(super) const fn opcode(&self) -> u8 {
        (self.0[2] & OPCODE_MASK) >> 3
    }

    pub(super) const fn questions(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    pub(super) const fn count(&self, section: Section) -> u16 {
        let at = section as usize;
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Returns the response code, without the upper bits that OPT may add.
    pub(super) const fn response_code(&self) -> u8 {
        self.0[3] & 0x0f
    }

    /// Tells if this is the header of an error that says nothing but that it is one.
    pub(super) const fn is_bare_error(&self) -> bool {
        let is_error = matches!(self.response_code(), FORMERR | SERVFAIL | NOTIMP | REFUSED);
        let records = self.count(Section::Answer) | self.count(Section::Authority);
        is_error && self.questions() | records == 0
    }
}
