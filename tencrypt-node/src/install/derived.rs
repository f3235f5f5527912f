//! A list made of a configuration of one plugin, so that another can stand behind that.
//!
//! The file has the name of its source with another end, and so comes directly before it in the order of runtimes: `-` is 0x2d, `.`
//! is 0x2e. The source stays as it is, so that its owner has no reason to write it again. Where a runtime is told the name of its network
//! the list is taken as well: it has the name of its source, and the first of two of one name counts (cri-o/ocicni, pkg/ocicni/ocicni.go
//! `loadNetworks`).

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::{OsStrExt as _, OsStringExt as _},
};

use serde_json::value::RawValue;
use tencrypt_cni::conflist;

/// The end of the name of a list that was made.
const END: &[u8] = b"-tencrypt.conflist";

/// Returns the name of the list that is made of the file with this name.
pub(super) fn name_of(source: &OsStr) -> OsString {
    let name = source.as_bytes();
    let stem = name.iter().rposition(|byte| *byte == b'.').map_or(name, |dot| &name[..dot]);
    OsString::from_vec([stem, END].concat())
}

/// Tells if a list of this name was made of another file.
pub(super) fn is_derived(name: &OsStr) -> bool {
    name.as_bytes().ends_with(END)
}

/// Finds the source of the list with this name.
pub(super) fn source_of<'n>(derived: &OsStr, names: &'n [OsString]) -> Option<&'n OsString> {
    names.iter().find(|name| !is_derived(name) && name_of(name) == derived && !is_list(name))
}

fn is_list(name: &OsStr) -> bool {
    name.as_bytes().ends_with(b".conflist")
}

/// Makes a list of a configuration of one plugin, with the entry behind it, as libcni makes one (`ConfListFromConf`).
///
/// # Errors
/// The reason, in a line, why there can be none.
pub(super) fn list(single: &[u8], entry: &str) -> Result<Vec<u8>, String> {
    let text = std::str::from_utf8(single).map_err(|_| "no UTF-8".to_owned())?.trim();
    let keys: BTreeMap<&str, &RawValue> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let name = keys.get("name").ok_or("`name` is missing, so that no list can be made of it")?;
    let version =
        keys.get("cniVersion").map_or(String::new(), |version| format!("\"cniVersion\": {version}, "));
    let list = format!("{{{version}\"name\": {name}, \"plugins\": [\n{text}\n]}}\n");
    let chained = conflist::with_entry(&list, entry).map_err(|error| error.to_string())?;
    Ok(chained.unwrap_or(list).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_comes_directly_before_its_source() {
        let name = |source: &str| name_of(OsStr::new(source)).into_string().unwrap();
        assert_eq!(name("00-multus.conf"), "00-multus-tencrypt.conflist");
        let mut names =
            ["00-multus.conf", "00-multus.conflist", &name("00-multus.conf"), "00-multu.conf", "01.conf"];
        names.sort_unstable();
        assert_eq!(names[1..3], ["00-multus-tencrypt.conflist", "00-multus.conf"]);
        let names = ["a.conflist", "a.json", "a-tencrypt.conflist"].map(OsString::from);
        assert_eq!(source_of(&names[2], &names), Some(&names[1]));
        assert_eq!(source_of(OsStr::new("b-tencrypt.conflist"), &names), None);
    }

    #[test]
    fn the_plugin_stands_in_the_list_as_it_stands_in_its_file() {
        let entry = r#"{"type": "tencrypt-cni-0.1.0"}"#;
        let single = "{\n \"cniVersion\": \"0.3.1\", \"name\": \"multus-cni-network\", \"type\": \"multus\", \"n\": 1.0e400 }\n";
        let text = String::from_utf8(list(single.as_bytes(), entry).unwrap()).unwrap();
        assert!(
            text.starts_with("{\"cniVersion\": \"0.3.1\", \"name\": \"multus-cni-network\", \"plugins\": [")
        );
        assert!(text.contains(single.trim()) && text.contains(entry), "{text}");
        let read = conflist::without_entry(&text).unwrap().unwrap();
        assert!(!read.contains("tencrypt"), "{read}");
        for (single, reason) in [
            (&b"{\"type\":\"a\"}"[..], "`name` is missing"),
            (b"{\"type\":\"a\",\"name\":\"\"}", "its name is empty"),
            (b"{\"type\":\"a\",\"name\":1}", "expected a"),
            (b"{", "EOF"),
            (b"\xff", "no UTF-8"),
        ] {
            let said = list(single, entry).unwrap_err();
            assert!(said.contains(reason) && said.lines().count() == 1, "{said}");
        }
    }
}
