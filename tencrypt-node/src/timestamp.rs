//! Times, as the Kubernetes API has them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of a day.
const DAY: u64 = 86_400;

/// Writes a time as a `MicroTime` of the API reference: RFC 3339, in UTC, with six digits behind the second. What is before 1970
/// counts as that.
pub(crate) fn micros(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / DAY, since.as_secs() % DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:06}Z", since.subsec_micros())
}

/// The date of a day since 1970-01-01, in the Gregorian calendar. Years are counted from March, so that the day of a leap year is
/// the last one: 146,097 days are 400 years.
fn date(days: u64) -> (u64, u64, u64) {
    // 719,468 days are from 0000-03-01 to 1970-01-01.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March is 0; 153 days are five months of 31, 30, 31, 30 and 31 days.
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        // By date(1): `date -u -d @SECONDS`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_796_000_000, "2026-11-30T00:53:20.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(micros(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
        assert_eq!(micros(UNIX_EPOCH + Duration::from_micros(1_000_042)), "1970-01-01T00:00:01.000042Z");
    }

    #[test]
    fn every_day_is_the_one_behind_the_day_before() {
        let mut before = date(0);
        assert_eq!(before, (1970, 1, 1));
        for days in 1..60_000 {
            let (year, month, day) = date(days);
            let is_next = match before {
                (y, m, d) if (year, month, day) == (y, m, d + 1) => d < 31,
                (y, m, d) if (year, month, day) == (y, m + 1, 1) => d >= 28,
                (y, 12, 31) => (year, month, day) == (y + 1, 1, 1),
                _ => false,
            };
            assert!(is_next, "{before:?} {:?}", (year, month, day));
            before = (year, month, day);
        }
    }
}
