//! The verdict on a check, by what was seen at both pods.

use super::report::Verdict;
use crate::probe::Counted;

/// Judges a check: the answer, and the frames at both pods.
pub(super) fn verdict(
    answer: Option<&str>,
    refusal: Option<&str>,
    source: &Counted,
    destination: &Counted,
) -> (Verdict, Option<String>) {
    let ends = [("the sender", source), ("the receiver", destination)];
    let plain: Vec<String> = ends.iter().filter_map(|(name, counted)| in_plain(name, counted)).collect();
    if !plain.is_empty() {
        return (Verdict::Plain, Some(plain.join("; ")));
    }
    if answer.is_none() {
        let refusal = refusal.map(|refusal| format!("the kernel says: {refusal}"));
        return (Verdict::Unanswered, refusal.or_else(|| Some("nothing came back".to_owned())));
    }
    for (name, counted) in ends {
        if counted.lost > 0 {
            let reason = format!("{} frames at {name} could not be looked at", counted.lost);
            return (Verdict::Unproven, Some(reason));
        }
        // Whoever sees nothing proves nothing.
        if counted.records_out == 0 || counted.records_in == 0 {
            let reason = format!(
                "it was answered, and {name} has {} records out and {} in: the look is blind, or another way was taken",
                counted.records_out, counted.records_in
            );
            return (Verdict::Unproven, Some(reason));
        }
    }
    (Verdict::Encrypted, None)
}

fn in_plain(name: &str, counted: &Counted) -> Option<String> {
    if counted.plain == 0 && counted.canary == 0 {
        return None;
    }
    let canary =
        if counted.canary > 0 { format!(", {} with the canary", counted.canary) } else { String::new() };
    let kinds = counted.plain_kinds.join(", ");
    let kinds = if kinds.is_empty() { kinds } else { format!(" ({kinds})") };
    Some(format!("at {name} {} frames in plain{canary}{kinds}", counted.plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(records_out: u64, records_in: u64) -> Counted {
        Counted { records_out, records_in, ..Counted::default() }
    }

    fn found(answer: Option<&str>, source: &Counted, destination: &Counted) -> Verdict {
        verdict(answer, None, source, destination).0
    }

    #[test]
    fn it_is_encrypted_if_it_was_answered_and_records_were_seen_both_ways_at_both_ends() {
        let seen = records(1, 1);
        assert_eq!(verdict(Some("refused"), None, &seen, &seen), (Verdict::Encrypted, None));
        for blind in [records(0, 0), records(0, 1), records(1, 0)] {
            assert_eq!(found(Some("refused"), &blind, &seen), Verdict::Unproven);
            let (verdict, reason) = verdict(Some("refused"), None, &seen, &blind);
            assert_eq!(verdict, Verdict::Unproven);
            assert!(reason.unwrap().contains("the receiver has "));
        }
        let overrun = Counted { lost: 1, ..records(1, 1) };
        assert_eq!(found(Some("refused"), &overrun, &seen), Verdict::Unproven);
        assert_eq!(found(Some("refused"), &seen, &overrun), Verdict::Unproven);
    }

    #[test]
    fn a_frame_in_plain_at_either_end_is_all_that_counts() {
        let seen = records(5, 5);
        let plain = Counted { plain: 2, canary: 1, plain_kinds: vec!["tcp a > b".into()], ..records(5, 5) };
        let canary = Counted { canary: 1, ..records(5, 5) };
        for answer in [None, Some("refused")] {
            for bad in [&plain, &canary] {
                assert_eq!(found(answer, bad, &seen), Verdict::Plain);
                assert_eq!(found(answer, &seen, bad), Verdict::Plain);
            }
        }
        let reason = verdict(None, None, &seen, &plain).1.unwrap();
        assert_eq!(reason, "at the receiver 2 frames in plain, 1 with the canary (tcp a > b)");
    }

    #[test]
    fn without_an_answer_nothing_is_proven() {
        let seen = records(5, 0);
        assert_eq!(found(None, &seen, &records(0, 5)), Verdict::Unanswered);
        let (_, reason) = verdict(None, Some("No route to host"), &seen, &seen);
        assert_eq!(reason.unwrap(), "the kernel says: No route to host");
    }
}
