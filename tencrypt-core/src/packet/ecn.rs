//! Explicit congestion notification through a tunnel.

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const CE: u8 = 0b11;

/// The ECN field a packet leaves the tunnel with, from the two bits of its own header and of the outer one (RFC 6040
/// section 4.2, figure 4). `None`: drop it, since the outer header reports congestion to one that cannot carry it.
#[must_use]
pub const fn combine_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner & 0b11, outer & 0b11) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) | (CE, _) => Some(CE),
        (_, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_that_of_figure_4() {
        // Rows: inner 00, 01, 10, 11. Columns: outer 00, 01, 10, 11.
        let figure = [
            [Some(0b00), Some(0b00), Some(0b00), None],
            [Some(0b01), Some(0b01), Some(0b01), Some(0b11)],
            [Some(0b10), Some(0b01), Some(0b10), Some(0b11)],
            [Some(0b11), Some(0b11), Some(0b11), Some(0b11)],
        ];
        for (inner, row) in figure.into_iter().enumerate() {
            for (outer, expected) in row.into_iter().enumerate() {
                assert_eq!(combine_ecn(inner as u8, outer as u8), expected, "{inner:02b} {outer:02b}");
            }
        }
    }
}
