use super::*;
use crate::launch::scope::marshal::{Call, Writer};

/// The reply of a bus to its first call, as dbus-daemon 1.14 sends it, in its own words: `:1.7` to the call with the number 1.
fn hello() -> Vec<u8> {
    let mut bytes = b"l\x02\x01\x01\x09\0\0\0\x01\0\0\0\x3d\0\0\0".to_vec();
    bytes.extend(b"\x06\x01s\0\x04\0\0\0:1.7\0\0\0\0");
    bytes.extend(b"\x05\x01u\0\x01\0\0\0");
    bytes.extend(b"\x08\x01g\0\x01s\0\0");
    bytes.extend(b"\x07\x01s\0\x14\0\0\0org.freedesktop.DBus\0\0\0\0");
    bytes.extend(b"\x04\0\0\0:1.7\0");
    bytes
}

/// A message in big endian: a signal with these fields behind its header, and this body.
fn big(fields: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = b"B\x04\x01\x01".to_vec();
    bytes.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    bytes.extend(3_u32.to_be_bytes());
    bytes.extend(u32::try_from(fields.len()).unwrap().to_be_bytes());
    bytes.extend(fields);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body);
    bytes
}

#[test]
fn a_reply_says_to_what_and_from_whom_it_is() {
    let message = Message::read(&hello()).unwrap();
    assert_eq!((message.kind, message.reply_to), (Kind::Return, Some(1)));
    assert_eq!(message.sender.as_deref(), Some("org.freedesktop.DBus"));
    assert_eq!(message.arguments("s").unwrap().text().unwrap(), ":1.7");
    assert_eq!(message.arguments("o").unwrap_err(), Malformed("types of the arguments"));
}

#[test]
fn what_is_written_here_is_read_as_the_same() {
    let mut body = Writer::default();
    body.text("unit");
    body.numbers(&[0]);
    let (destination, path, interface, member) = ("d.d", "/p", "i.i", "M");
    let bytes = Call { destination, path, interface, member, signature: "sau", body }.message(7);
    assert_eq!(whole(bytes.first_chunk().unwrap()), Ok(bytes.len()));
    let message = Message::read(&bytes).unwrap();
    assert_eq!((message.kind, message.reply_to, &message.sender), (Kind::Call, None, &None));
    assert_eq!((message.interface.as_deref(), message.member.as_deref()), (Some("i.i"), Some("M")));
    let mut arguments = message.arguments("sau").unwrap();
    assert_eq!(arguments.text().unwrap(), "unit");
    assert_eq!((arguments.number(), arguments.number()), (Ok(4), Ok(0)));
    assert_eq!(arguments.number(), Err(Malformed("its end is missing")));
}

#[test]
fn the_other_endianness_is_read_too() {
    let fields = b"\x03\x01s\0\0\0\0\x01M\0\0\0\0\0\0\0\x08\x01g\0\x01u\0";
    let message = Message::read(&big(fields, &[0, 0, 1, 0])).unwrap();
    assert_eq!((message.kind, message.member.as_deref()), (Kind::Signal, Some("M")));
    assert_eq!(message.arguments("u").unwrap().number(), Ok(256));
}

#[test]
fn fields_that_are_not_known_are_passed_over_whatever_their_type() {
    for field in [
        &b"\x20\x01u\0\0\0\0\x01"[..],
        b"\x20\x01y\0\x01",
        b"\x20\x01t\0\0\0\0\0\0\0\0\0\0\0\0\x01",
        b"\x20\x02au\0\0\0\0\0\0\0\x04\0\0\0\x01",
        // An array of pairs that has none, a structure, and a value within a value.
        b"\x20\x05a{sv}\0\0\0\0\0\0\0\0\0",
        b"\x20\x04(yy)\0\0\x01\x02",
        b"\x20\x01v\0\x01y\0\x01",
        b"\x20\x01g\0\x01s\0",
    ] {
        let message = Message::read(&big(field, &[]));
        assert_eq!(message.map(|message| message.kind), Ok(Kind::Signal), "{field:?}");
    }
}

#[test]
fn types_within_types_have_an_end() {
    let nested = |count: usize| {
        let mut field = b"\x20".to_vec();
        field.extend(b"\x01v\0".repeat(count));
        field.extend(b"\x01y\0\x01");
        Message::read(&big(&field, &[])).map(drop)
    };
    assert_eq!(nested(60), Ok(()));
    assert_eq!(nested(64), Err(Malformed("a signature")));
    assert_eq!(nested(15_000), Err(Malformed("a signature")));
    let arrays = |signature: &str| {
        let mut field = vec![0x20, u8::try_from(signature.len()).unwrap()];
        field.extend(signature.as_bytes());
        field.extend([0; 64]);
        Message::read(&big(&field, &[])).map(drop)
    };
    for signature in
        [&"a".repeat(255), &"(".repeat(255), &format!("{}y", "a".repeat(200)), "", "yy", "(y", "a", "z", ")"]
    {
        assert!(arrays(signature).is_err(), "{signature}");
    }
}

#[test]
fn a_length_is_bounded_before_anything_is_read() {
    let mut head = *hello().first_chunk::<HEAD>().unwrap();
    let mut with = |at: usize, length: u32| {
        head[at..at + 4].copy_from_slice(&length.to_le_bytes());
        whole(&head)
    };
    assert_eq!(with(4, 65_456), Ok(65_536));
    for (at, length) in [(4, 65_457), (4, u32::MAX), (12, 128 << 20), (12, u32::MAX)] {
        assert_eq!(with(at, length), Err(Malformed("its length")), "{length}");
    }
    for (at, byte, reason) in [(0, b'x', "endianness"), (3, 2, "version")] {
        let mut head = *hello().first_chunk::<HEAD>().unwrap();
        head[at] = byte;
        assert_eq!(whole(&head), Err(Malformed(reason)));
    }
}

#[test]
fn no_part_of_a_message_is_a_message_and_no_change_of_it_does_harm() {
    let good = hello();
    for length in 0..good.len() {
        assert!(Message::read(&good[..length]).is_err(), "{length}");
    }
    let mut refused = 0;
    for at in 0..good.len() {
        for byte in 0..=u8::MAX {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let read = Message::read(&bytes);
            refused += usize::from(read.is_err());
            // What is taken is read to its end without harm.
            let mut arguments = read.as_ref().ok().and_then(|message| message.arguments("s").ok());
            drop(arguments.as_mut().map(Reader::text));
        }
    }
    assert!(refused > good.len() * 100, "{refused}");
}

#[test]
fn texts_have_their_end_and_are_utf_8() {
    let text = |text: &[u8]| {
        let mut field = b"\x03\x01s\0\0\0\0".to_vec();
        field.push(u8::try_from(text.len() - 1).unwrap());
        field.extend(text);
        Message::read(&big(&field, &[])).map(|message| message.member)
    };
    assert_eq!(text(b"ok\0"), Ok(Some("ok".to_owned())));
    assert_eq!(text(b"okx"), Err(Malformed("a text's end")));
    assert_eq!(text(b"o\0k\0"), Err(Malformed("a text's end")));
    assert_eq!(text(b"\xff\0"), Err(Malformed("a text that is not UTF-8")));
}
