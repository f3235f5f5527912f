//! Documents for programs.

use serde::Serialize;

/// Version of the documents. It is raised when a field goes or means something else; a new field leaves it.
const VERSION: u32 = 1;

/// Makes a document of one line, with the version before what `value` holds.
pub(super) fn json(value: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Versioned<'a, T> {
        version: u32,
        #[serde(flatten)]
        value: &'a T,
    }
    let mut text =
        serde_json::to_string(&Versioned { version: VERSION, value }).unwrap_or_else(|_| "null".to_owned());
    text.push('\n');
    text
}
