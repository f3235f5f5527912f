//! Columns of text.

use std::fmt::Write as _;

use crate::escape::Escaped;

/// Lays out left-aligned columns, two blanks apart.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let escaped: Vec<[String; N]> =
        rows.iter().map(|row| std::array::from_fn(|column| Escaped(&row[column]).to_string())).collect();
    let widths: [usize; N] = std::array::from_fn(|column| {
        escaped.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let mut text = String::new();
    for row in &escaped {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Writes a number of bytes in a unit that keeps the figure short.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut name = None;
    for unit in UNITS {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        name = Some(unit);
    }
    name.map_or_else(|| format!("{count} B"), |unit| format!("{value:.1} {unit}"))
}
