//! Calls of D-Bus as bytes, in little endian (D-Bus Specification, "Type System" and "Message Format"). Pure functions.

/// The version of the protocol.
pub(super) const VERSION: u8 = 1;

/// The endianness of what is written.
pub(super) const LITTLE: u8 = b'l';

/// The type of a call.
pub(super) const CALL: u8 = 1;

/// The numbers of a header's fields.
pub(super) mod field {
    pub(in crate::launch::scope) const PATH: u8 = 1;
    pub(in crate::launch::scope) const INTERFACE: u8 = 2;
    pub(in crate::launch::scope) const MEMBER: u8 = 3;
    pub(in crate::launch::scope) const ERROR_NAME: u8 = 4;
    pub(in crate::launch::scope) const REPLY_SERIAL: u8 = 5;
    pub(in crate::launch::scope) const DESTINATION: u8 = 6;
    pub(in crate::launch::scope) const SENDER: u8 = 7;
    pub(in crate::launch::scope) const SIGNATURE: u8 = 8;
}

/// The call of a method.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// The name of its receiver on the bus.
    pub(super) destination: &'a str,
    /// The object.
    pub(super) path: &'a str,
    /// The interface of the method.
    pub(super) interface: &'a str,
    /// The method.
    pub(super) member: &'a str,
    /// The types of the arguments.
    pub(super) signature: &'a str,
    /// The arguments.
    pub(super) body: Writer,
}

impl Call<'_> {
    /// The message with this serial number, which is not 0.
    pub(super) fn message(&self, serial: u32) -> Vec<u8> {
        let mut message = Writer::default();
        for byte in [LITTLE, CALL, 0, VERSION] {
            message.byte(byte);
        }
        message.number(length(&self.body.0));
        message.number(serial);
        message.array(8, |fields| {
            let texts = [
                (field::PATH, "o", self.path),
                (field::INTERFACE, "s", self.interface),
                (field::MEMBER, "s", self.member),
                (field::DESTINATION, "s", self.destination),
            ];
            for (code, signature, text) in texts {
                fields.structure();
                fields.byte(code);
                fields.signature(signature);
                fields.text(text);
            }
            if !self.signature.is_empty() {
                fields.structure();
                fields.byte(field::SIGNATURE);
                fields.signature("g");
                fields.signature(self.signature);
            }
        });
        message.align(8);
        message.0.extend_from_slice(&self.body.0);
        message.0
    }
}

/// Bytes that grow, in little endian. The first one has to come to lie at a multiple of eight, as a message and its body do.
#[derive(Debug, Default)]
pub(super) struct Writer(Vec<u8>);

/// A value with its type.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value<'a> {
    /// `b`
    Bool(bool),
    /// `t`
    Number(u64),
    /// `s`
    Text(&'a str),
    /// `au`
    Numbers(&'a [u32]),
}

impl Writer {
    /// Adds what is missing for a value that is aligned to `to` bytes.
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    /// Writes `y`.
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    /// Writes `u`.
    pub(super) fn number(&mut self, number: u32) {
        self.align(4);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Writes `b`.
    pub(super) fn boolean(&mut self, is_so: bool) {
        self.number(is_so.into());
    }

    /// Writes `s` or `o`.
    pub(super) fn text(&mut self, text: &str) {
        self.number(length(text.as_bytes()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// Writes `g`, which has at most 255 bytes: those of this program have fewer.
    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    /// Begins a structure.
    pub(super) fn structure(&mut self) {
        self.align(8);
    }

    /// Writes an array, whose elements are aligned to `alignment` bytes. What is missing before the first one does not count in its
    /// length.
    pub(super) fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.0.len() - 4;
        self.align(alignment);
        let begin = self.0.len();
        elements(self);
        let length = length(self.0.get(begin..).unwrap_or_default());
        if let Some(bytes) = self.0.get_mut(place..place + 4) {
            bytes.copy_from_slice(&length.to_le_bytes());
        }
    }

    /// Writes `au`.
    pub(super) fn numbers(&mut self, numbers: &[u32]) {
        self.array(4, |elements| numbers.iter().for_each(|&number| elements.number(number)));
    }

    /// Writes `v`.
    pub(super) fn variant(&mut self, value: Value<'_>) {
        match value {
            Value::Bool(is_so) => {
                self.signature("b");
                self.boolean(is_so);
            }
            Value::Number(number) => {
                self.signature("t");
                self.align(8);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.numbers(numbers);
            }
        }
    }

    /// Writes `a(sv)`: names with their values.
    pub(super) fn properties(&mut self, properties: &[(&str, Value<'_>)]) {
        self.array(8, |elements| {
            for (name, value) in properties {
                elements.structure();
                elements.text(name);
                elements.variant(*value);
            }
        });
    }
}

/// The length of something of this program, which is far from 4 GiB.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
