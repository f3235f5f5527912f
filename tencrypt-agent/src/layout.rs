//! Text for people: columns, and figures in units that keep them short.

use std::fmt::Write as _;

use crate::escape::Escaped;

/// Lays out left-aligned columns, two blanks apart, with nothing in them that a terminal would act upon.
#[must_use]
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
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
#[must_use]
pub fn bytes(count: u64) -> String {
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

/// Seconds in the two largest units that say something.
#[must_use]
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {} h", hours % 24),
        (0, 1.., _) => format!("{hours} h {} min", minutes % 60),
        (0, 0, 1..) => format!("{minutes} min {} s", seconds % 60),
        _ => format!("{seconds} s"),
    }
}
