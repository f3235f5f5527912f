//! D-Bus as bytes once more, by the specification alone and with nothing of the program: strict, and it panics about anything else.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
};

/// A value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    U32(u32),
    U64(u64),
    Text(String),
    Array(Vec<Self>),
    Struct(Vec<Self>),
    Variant(String, Box<Self>),
}

impl Value {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(crate) fn as_text(&self) -> &str {
        let Self::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }

    pub(crate) fn elements(&self) -> &[Self] {
        let (Self::Array(elements) | Self::Struct(elements)) = self else { panic!("{self:?} has none") };
        elements
    }
}

/// A message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Message {
    /// 1: a call, 2: a reply, 3: an error, 4: a signal.
    pub(crate) kind: u8,
    pub(crate) serial: u32,
    /// The header's fields by their numbers.
    pub(crate) fields: BTreeMap<u8, Value>,
    pub(crate) arguments: Vec<Value>,
}

/// The types of the header's fields, by their numbers.
const FIELDS: [&str; 10] = ["", "o", "s", "s", "s", "u", "s", "s", "g", "u"];

impl Message {
    /// Reads one, or returns `None` at the end of the stream.
    pub(crate) fn receive(from: &mut impl Read) -> Option<Self> {
        let mut bytes = vec![0; 16];
        from.read_exact(&mut bytes).ok()?;
        let is_big = match bytes[0] {
            b'l' => false,
            b'B' => true,
            other => panic!("endianness {other}"),
        };
        assert_eq!((bytes[2] & !7, bytes[3]), (0, 1), "flags and version");
        let number = |at: usize| {
            let four = bytes[at..at + 4].try_into().unwrap();
            if is_big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        let (kind, body, serial, fields) = (bytes[1], number(4) as usize, number(8), number(12) as usize);
        assert!((1..=4).contains(&kind) && serial != 0);
        let begin = 16 + fields.next_multiple_of(8);
        bytes.resize(begin + body, 0);
        from.read_exact(&mut bytes[16..]).unwrap();
        let mut reader = Reading { bytes: &bytes[..begin], at: 12, is_big };
        let mut read = BTreeMap::new();
        for field in reader.value(&mut "a(yv)").elements() {
            let [Value::Byte(code), Value::Variant(signature, value)] = field.elements() else { panic!() };
            assert_eq!(FIELDS[usize::from(*code)], signature, "type of field {code}");
            assert!(read.insert(*code, (**value).clone()).is_none(), "field {code} twice");
        }
        reader.align(8);
        assert_eq!(reader.at, begin);
        let signature = read.get(&8).map_or("", |value| value.as_text()).to_owned();
        let mut body = Reading { bytes: &bytes[begin..], at: 0, is_big };
        let mut rest = signature.as_str();
        let mut arguments = Vec::new();
        while !rest.is_empty() {
            arguments.push(body.value(&mut rest));
        }
        assert_eq!(body.at, body.bytes.len(), "arguments that no signature names");
        Some(Self { kind, serial, fields: read, arguments })
    }

    /// The bytes, in big endian: the program writes the other one.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| write(&mut body, argument));
        let mut bytes = vec![b'B', self.kind, 1, 1];
        write(&mut bytes, &Value::U32(u32::try_from(body.len()).unwrap()));
        write(&mut bytes, &Value::U32(self.serial));
        let fields = self.fields.iter().map(|(&code, value)| {
            let signature = FIELDS.get(usize::from(code)).map_or("s", |signature| signature);
            Value::Struct(vec![Value::Byte(code), Value::Variant(signature.to_owned(), value.clone().into())])
        });
        write(&mut bytes, &Value::Array(fields.collect()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        bytes
    }

    pub(crate) fn send(&self, to: &mut impl Write) {
        // Whoever has gone does not hear it.
        let _ = to.write_all(&self.bytes());
    }

    /// A field of text.
    pub(crate) fn field(&self, code: u8) -> &str {
        self.fields.get(&code).map_or("", Value::as_text)
    }
}

/// Writes a value in big endian. Texts of the header's field 8 are signatures, and so are those that say the type of a variant.
fn write(to: &mut Vec<u8>, value: &Value) {
    let mut aligned = |alignment: usize, bytes: &[u8]| {
        to.resize(to.len().next_multiple_of(alignment), 0);
        to.extend(bytes);
    };
    match value {
        Value::Byte(byte) => aligned(1, &[*byte]),
        Value::Bool(is_so) => aligned(4, &u32::from(*is_so).to_be_bytes()),
        Value::U32(number) => aligned(4, &number.to_be_bytes()),
        Value::U64(number) => aligned(8, &number.to_be_bytes()),
        Value::Text(text) => {
            aligned(4, &u32::try_from(text.len()).unwrap().to_be_bytes());
            to.extend(text.bytes().chain([0]));
        }
        Value::Array(elements) => {
            aligned(4, &[0; 4]);
            let place = to.len() - 4;
            // All arrays that are written here are of structures.
            to.resize(to.len().next_multiple_of(8), 0);
            let begin = to.len();
            elements.iter().for_each(|element| write(to, element));
            let length = u32::try_from(to.len() - begin).unwrap();
            to[place..place + 4].copy_from_slice(&length.to_be_bytes());
        }
        Value::Struct(elements) => {
            aligned(8, &[]);
            elements.iter().for_each(|element| write(to, element));
        }
        Value::Variant(signature, value) => {
            let short = |to: &mut Vec<u8>, text: &str| {
                to.push(u8::try_from(text.len()).unwrap());
                to.extend(text.bytes().chain([0]));
            };
            short(to, signature);
            match (signature.as_str(), &**value) {
                ("g", Value::Text(text)) => short(to, text),
                (_, value) => write(to, value),
            }
        }
    }
}

/// Bytes that are read.
struct Reading<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big: bool,
}

impl Reading<'_> {
    fn align(&mut self, to: usize) {
        while !self.at.is_multiple_of(to) {
            assert_eq!(self.byte(), 0, "padding");
        }
    }

    fn byte(&mut self) -> u8 {
        self.at += 1;
        self.bytes[self.at - 1]
    }

    fn fixed<const N: usize>(&mut self) -> u64 {
        self.align(N);
        let bytes: Vec<u8> = (0..N).map(|_| self.byte()).collect();
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        if self.is_big { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    fn text(&mut self, length: usize) -> String {
        let text = (0..length).map(|_| self.byte()).collect();
        assert_eq!(self.byte(), 0, "the end of a text");
        String::from_utf8(text).unwrap()
    }

    /// Reads a value of the first type of `signature`, which is taken from it.
    fn value(&mut self, signature: &mut &str) -> Value {
        let first = signature.as_bytes()[0];
        *signature = &signature[1..];
        match first {
            b'y' => Value::Byte(self.byte()),
            b'b' => Value::Bool(match self.fixed::<4>() {
                0 => false,
                1 => true,
                other => panic!("{other} is no truth"),
            }),
            b'u' => Value::U32(self.fixed::<4>() as u32),
            b't' => Value::U64(self.fixed::<8>()),
            b's' | b'o' => {
                let length = self.fixed::<4>() as usize;
                Value::Text(self.text(length))
            }
            b'g' => {
                let length = self.byte().into();
                Value::Text(self.text(length))
            }
            b'v' => {
                let length = self.byte().into();
                let inner = self.text(length);
                let mut rest = inner.as_str();
                let value = self.value(&mut rest);
                assert_eq!(rest, "", "a variant is one value");
                Value::Variant(inner, value.into())
            }
            b'a' => self.array(signature),
            b'(' => {
                self.align(8);
                let mut elements = Vec::new();
                while !signature.starts_with(')') {
                    elements.push(self.value(signature));
                }
                *signature = &signature[1..];
                Value::Struct(elements)
            }
            other => panic!("type {}", char::from(other)),
        }
    }

    fn array(&mut self, signature: &mut &str) -> Value {
        let length = self.fixed::<4>() as usize;
        if matches!(signature.as_bytes()[0], b'(' | b't') {
            self.align(8);
        }
        let end = self.at + length;
        let (type_, mut elements) = (*signature, Vec::new());
        while self.at < end {
            let mut own = type_;
            elements.push(self.value(&mut own));
            *signature = own;
        }
        assert_eq!(self.at, end, "the end of an array");
        if elements.is_empty() {
            *signature = behind(type_);
        }
        Value::Array(elements)
    }
}

/// The types behind the first one.
fn behind(signature: &str) -> &str {
    match signature.as_bytes()[0] {
        b'a' => behind(&signature[1..]),
        b'(' => {
            let mut rest = &signature[1..];
            while !rest.starts_with(')') {
                rest = behind(rest);
            }
            &rest[1..]
        }
        _ => &signature[1..],
    }
}
