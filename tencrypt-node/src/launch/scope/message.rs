//! Messages of D-Bus that were received (D-Bus Specification, "Type System" and "Message Format"), in either endianness. Pure
//! functions: whatever comes is a message or an error.

use super::marshal::{CALL, LITTLE, VERSION, field};

/// The most bytes of a message that is taken. The specification allows 128 MiB; what systemd has to say to a launcher has hundreds.
const MOST: usize = 64 << 10;

/// Bytes at the beginning of a message from which its length is known: endianness, type, flags, version, the body's length, the serial
/// number, and the length of the header's fields.
pub(super) const HEAD: usize = 16;

/// The endianness that is not written here.
const BIG: u8 = b'B';

/// Containers within containers that are passed over in a header's field that is not known ("Valid Signatures": 32 arrays and 32
/// structures; each variant counts here too).
const DEPTH: u32 = 64;

/// The reason why bytes are no message: the part that makes no sense.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a message that makes no sense: {0}")]
pub(in crate::launch) struct Malformed(pub(super) &'static str);

/// Types of messages.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// A call of a method.
    Call,
    /// The reply to one.
    Return,
    /// The reply to one that has failed.
    Error,
    /// A signal.
    Signal,
    /// A type of a later version, which is to be passed over.
    Other,
}

/// A message that was received.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Message {
    /// Its type.
    pub(super) kind: Kind,
    /// The serial number of the call that it replies to.
    pub(super) reply_to: Option<u32>,
    /// Its sender, which the bus has written there.
    pub(super) sender: Option<String>,
    /// The interface of a signal.
    pub(super) interface: Option<String>,
    /// The name of a signal.
    pub(super) member: Option<String>,
    /// The name of an error.
    pub(super) error: Option<String>,
    signature: String,
    body: Vec<u8>,
    is_big: bool,
}

/// The length of the whole message that begins with these bytes.
///
/// # Errors
/// They begin none, or one that is longer than [`MOST`].
pub(super) fn whole(head: &[u8; HEAD]) -> Result<usize, Malformed> {
    let [endian, _, _, version, ..] = *head;
    let is_big = match endian {
        LITTLE => false,
        BIG => true,
        _ => return Err(Malformed("endianness")),
    };
    if version != VERSION {
        return Err(Malformed("version"));
    }
    let mut numbers = Reader { bytes: head, at: 4, is_big };
    let (body, _serial, fields) = (numbers.number()?, numbers.number()?, numbers.number()?);
    let sum = HEAD as u64 + u64::from(fields).next_multiple_of(8) + u64::from(body);
    usize::try_from(sum).ok().filter(|&sum| sum <= MOST).ok_or(Malformed("its length"))
}

impl Message {
    /// Reads a message, which is as long as [`whole`] says.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let head = bytes.first_chunk().ok_or(Malformed("its length"))?;
        if whole(head)? != bytes.len() {
            return Err(Malformed("its length"));
        }
        let is_big = head.first() == Some(&BIG);
        let kind = match head.get(1) {
            Some(&CALL) => Kind::Call,
            Some(2) => Kind::Return,
            Some(3) => Kind::Error,
            Some(4) => Kind::Signal,
            Some(0) | None => return Err(Malformed("type")),
            Some(_) => Kind::Other,
        };
        let mut message = Self {
            kind,
            reply_to: None,
            sender: None,
            interface: None,
            member: None,
            error: None,
            signature: String::new(),
            body: Vec::new(),
            is_big,
        };
        let mut reader = Reader { bytes, at: 4, is_big };
        let body = reader.number()?;
        reader.number()?;
        let fields = reader.number()?;
        let end = HEAD.saturating_add(usize::try_from(fields).map_err(|_| Malformed("header"))?);
        while reader.at < end {
            reader.align(8)?;
            message.field(&mut reader)?;
        }
        if reader.at != end {
            return Err(Malformed("header"));
        }
        reader.align(8)?;
        let rest = bytes.get(reader.at..).unwrap_or_default();
        if rest.len() as u64 != u64::from(body) {
            return Err(Malformed("its length"));
        }
        rest.clone_into(&mut message.body);
        Ok(message)
    }

    /// Reads a field of the header.
    fn field(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        let code = reader.byte()?;
        let signature = reader.signature()?;
        let mut text = |expected: &str| {
            if signature == expected { reader.text() } else { Err(Malformed("type of a field")) }
        };
        match code {
            0 => return Err(Malformed("header")),
            field::PATH => drop(text("o")?),
            field::INTERFACE => self.interface = Some(text("s")?),
            field::MEMBER => self.member = Some(text("s")?),
            field::ERROR_NAME => self.error = Some(text("s")?),
            field::SENDER => self.sender = Some(text("s")?),
            field::REPLY_SERIAL if signature == "u" => self.reply_to = Some(reader.number()?),
            field::SIGNATURE if signature == "g" => self.signature = reader.signature()?,
            field::REPLY_SERIAL | field::SIGNATURE => return Err(Malformed("type of a field")),
            _ => reader.pass_over_one(&signature)?,
        }
        Ok(())
    }

    /// The arguments, if their types begin with these.
    ///
    /// # Errors
    /// They do not.
    pub(super) fn arguments(&self, signature: &str) -> Result<Reader<'_>, Malformed> {
        if self.signature.starts_with(signature) {
            Ok(Reader { bytes: &self.body, at: 0, is_big: self.is_big })
        } else {
            Err(Malformed("types of the arguments"))
        }
    }
}

/// Bytes that are read one value after the other. The first one has to lie at a multiple of eight.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big: bool,
}

impl<'a> Reader<'a> {
    /// The next bytes, as many as this.
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed("its end is missing"))?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed("its end is missing"))?;
        self.at = end;
        Ok(taken)
    }

    /// Passes over what is missing for a value that is aligned to `to` bytes, which has to be zero.
    fn align(&mut self, to: usize) -> Result<(), Malformed> {
        let missing = self.at.next_multiple_of(to) - self.at;
        if self.take(missing)?.iter().any(|&byte| byte != 0) {
            return Err(Malformed("something between two values"));
        }
        Ok(())
    }

    /// Reads `y`.
    fn byte(&mut self) -> Result<u8, Malformed> {
        self.take(1)?.first().copied().ok_or(Malformed("its end is missing"))
    }

    /// Reads `u`, or the length of an array.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn number(&mut self) -> Result<u32, Malformed> {
        self.align(4)?;
        let bytes = *self.take(4)?.first_chunk().ok_or(Malformed("its end is missing"))?;
        Ok(if self.is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// Reads `s` or `o`.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        let length = self.number()?;
        self.ended(usize::try_from(length).map_err(|_| Malformed("a text's length"))?)
    }

    /// Reads `g`.
    fn signature(&mut self) -> Result<String, Malformed> {
        let length = self.byte()?;
        self.ended(length.into())
    }

    /// Reads a text of this length, and the zero behind it.
    fn ended(&mut self, length: usize) -> Result<String, Malformed> {
        let text = self.take(length)?;
        if self.byte()? != 0 || text.contains(&0) {
            return Err(Malformed("a text's end"));
        }
        str::from_utf8(text).map(str::to_owned).map_err(|_| Malformed("a text that is not UTF-8"))
    }

    /// Passes over a value, whose whole type is `signature`.
    fn pass_over_one(&mut self, signature: &str) -> Result<(), Malformed> {
        match self.pass_over(signature.as_bytes(), DEPTH)? {
            [] => Ok(()),
            _ => Err(Malformed("a signature")),
        }
    }

    /// Passes over a value, whose type is the first of `signature`, and returns the others.
    fn pass_over<'s>(&mut self, signature: &'s [u8], depth: u32) -> Result<&'s [u8], Malformed> {
        const WRONG: Malformed = Malformed("a signature");
        let depth = depth.checked_sub(1).ok_or(WRONG)?;
        let (&first, rest) = signature.split_first().ok_or(WRONG)?;
        match first {
            b'y' => drop(self.byte()?),
            b'n' | b'q' => self.fixed(2)?,
            b'b' | b'i' | b'u' | b'h' => self.fixed(4)?,
            b'x' | b't' | b'd' => self.fixed(8)?,
            b's' | b'o' => drop(self.text()?),
            b'g' => drop(self.signature()?),
            b'v' => {
                let inner = self.signature()?;
                if !self.pass_over(inner.as_bytes(), depth)?.is_empty() {
                    return Err(WRONG);
                }
            }
            b'a' => {
                let length = self.number()?;
                let behind = Self::behind(rest, depth)?;
                self.align(if matches!(rest.first(), Some(b'(' | b'{' | b'x' | b't' | b'd')) {
                    8
                } else {
                    1
                })?;
                self.take(usize::try_from(length).map_err(|_| WRONG)?)?;
                return Ok(behind);
            }
            b'(' | b'{' => {
                self.align(8)?;
                let mut rest = rest;
                while !matches!(rest.first(), Some(b')' | b'}')) {
                    rest = self.pass_over(rest, depth)?;
                }
                return rest.get(1..).ok_or(WRONG);
            }
            _ => return Err(WRONG),
        }
        Ok(rest)
    }

    /// Passes over a value of this length, which is its alignment too.
    fn fixed(&mut self, length: usize) -> Result<(), Malformed> {
        self.align(length)?;
        self.take(length).map(drop)
    }

    /// The types behind the first one of `signature`.
    fn behind(signature: &[u8], depth: u32) -> Result<&[u8], Malformed> {
        const WRONG: Malformed = Malformed("a signature");
        let depth = depth.checked_sub(1).ok_or(WRONG)?;
        let (&first, mut rest) = signature.split_first().ok_or(WRONG)?;
        match first {
            b'a' => Self::behind(rest, depth),
            b'(' | b'{' => {
                while !matches!(rest.first(), Some(b')' | b'}')) {
                    rest = Self::behind(rest, depth)?;
                }
                rest.get(1..).ok_or(WRONG)
            }
            b'y' | b'n' | b'q' | b'b' | b'i' | b'u' | b'h' | b'x' | b't' | b'd' | b's' | b'o' | b'g'
            | b'v' => Ok(rest),
            _ => Err(WRONG),
        }
    }
}

#[cfg(test)]
mod tests;
