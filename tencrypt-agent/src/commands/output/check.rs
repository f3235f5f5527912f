//! `tencrypt check` for people and for programs.

use super::json::json;
use crate::{
    layout::table,
    report::checked::{Checked, Verdict},
};

/// `tencrypt check`.
#[must_use]
pub(crate) fn findings(checked: &Checked, as_json: bool) -> String {
    if as_json {
        return json(checked);
    }
    let rows = checked.findings.iter().map(|finding| {
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Refused => "REFUSED",
        };
        [verdict.to_owned(), finding.subject.clone(), finding.text.clone()]
    });
    table(&rows.collect::<Vec<_>>())
}
