use super::*;

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.0
}

/// Bytes from hexadecimal digits, in which everything else is passed over.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn texts_are_written_as_the_specification_shows() {
    // "Marshalling (Wire Format)": foo, + and bar, each after the other's padding.
    let texts = written(|writer| ["foo", "+", "bar"].iter().for_each(|text| writer.text(text)));
    assert_eq!(texts, bytes("03000000 666f6f00 01000000 2b000000 03000000 62617200"));
}

#[test]
fn what_is_missing_before_an_arrays_first_element_is_not_of_its_length() {
    // "Marshalling (Wire Format)": an array of one 64-bit number, 5.
    let array = written(|writer| {
        writer.array(8, |elements| {
            elements.align(8);
            elements.0.extend_from_slice(&5_u64.to_le_bytes());
        });
    });
    assert_eq!(array, bytes("08000000 00000000 0500000000000000"));
    assert_eq!(written(|writer| writer.array(8, |_| {})), bytes("00000000 00000000"));
    assert_eq!(written(|writer| writer.numbers(&[])), bytes("00000000"));
}

#[test]
fn values_have_their_types_before_them_and_their_own_alignment() {
    let variant = |value| written(|writer| writer.variant(value));
    assert_eq!(variant(Value::Bool(true)), bytes("01 62 00 00 01000000"));
    assert_eq!(variant(Value::Number(7)), bytes("01 74 00 00 00000000 0700000000000000"));
    assert_eq!(variant(Value::Text("a")), bytes("01 73 00 00 01000000 61 00"));
    assert_eq!(variant(Value::Numbers(&[1, 2])), bytes("02 61 75 00 08000000 01000000 02000000"));
}

#[test]
fn properties_are_structures_of_a_name_and_a_value() {
    let both = written(|writer| {
        writer.text("x");
        writer.properties(&[("b", Value::Bool(false)), ("t", Value::Number(1))]);
    });
    let expected = "01000000 7800 0000 28000000 00000000 \
                    01000000 6200 016200 000000 00000000 \
                    01000000 7400 017400 00000000000000 0100000000000000";
    assert_eq!(both, bytes(expected));
}

#[test]
fn a_call_is_a_header_that_is_filled_up_and_its_arguments() {
    let mut body = Writer::default();
    body.text("u");
    let call = Call { destination: "d.d", path: "/p", interface: "i.i", member: "M", signature: "s", body };
    let expected = "6c 01 00 01  06000000 09000000 47000000 \
                    01 01 6f 00 02000000 2f70 00 0000000000 \
                    02 01 73 00 03000000 692e69 00 00000000 \
                    03 01 73 00 01000000 4d 00 000000000000 \
                    06 01 73 00 03000000 642e64 00 00000000 \
                    08 01 67 00 01 73 00 00 \
                    01000000 75 00";
    // The length of the fields ends with the last one, before what fills the header up.
    assert_eq!(call.message(9), bytes(expected));
}
