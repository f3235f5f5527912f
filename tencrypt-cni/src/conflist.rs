//! The plugin's place in a network configuration list: CNI SPEC section 1 "Network configuration format".
//!
//! The plugin is put last in the chain, and taken out again. Everything else of the file stays as it is, to the letter: it is
//! somebody else's, who compares it with what he wrote.
//!
//! ```
//! use tencrypt_cni::conflist;
//!
//! let bridge = r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge"}]}"#;
//! let chained = conflist::with_entry(bridge, r#"{"type": "tencrypt-cni"}"#)?.expect("it was not there");
//! assert_eq!(chained, bridge.replace("}]", r#"}, {"type": "tencrypt-cni"}]"#));
//! assert_eq!(conflist::with_entry(&chained, r#"{"type": "tencrypt-cni"}"#)?, None);
//! assert_eq!(conflist::without_entry(&chained)?.as_deref(), Some(bridge));
//! # Ok::<(), conflist::ConflistError>(())
//! ```

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::plugin::TYPE;

/// Longest list in bytes. Usual ones have some hundred.
pub const LIMIT: usize = 1 << 20;

/// The reason why the plugin cannot be put into a list, or taken out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConflistError {
    /// The file is too long.
    #[error("longer than {LIMIT} bytes")]
    TooLong,
    /// It is no list of plugins: not JSON, without name or plugins, or a configuration of one plugin.
    #[error("no network configuration list: {reason}")]
    NoList {
        /// The reason, in a line.
        reason: String,
    },
    /// The chain has no plugin but this one.
    #[error("no plugin stands in the chain but {TYPE}")]
    Alone,
    /// The entry that is to be put in is none of this plugin's.
    #[error("no entry of {TYPE}: {reason}")]
    NoEntry {
        /// The reason, in a line.
        reason: String,
    },
}

/// Tells if a plugin's `type` is this plugin's: its name alone, or with a dash and a version behind it, which begins with a digit
/// and goes on with letters, digits and `.+_-`. A node has several of these while it is upgraded, since what was added by one
/// version is deleted by the same.
#[must_use]
pub fn is_own_type(plugin: &str) -> bool {
    let Some(rest) = plugin.strip_prefix(TYPE) else { return false };
    let is_version = |version: &str| {
        version.starts_with(|first: char| first.is_ascii_digit())
            && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".+_-".contains(&byte))
    };
    rest.is_empty() || rest.strip_prefix('-').is_some_and(is_version)
}

/// Puts `entry`, an object with one of [this plugin's types](is_own_type), last in the chain of `list`, in place of any other entry
/// of the plugin's. Returns the new text; `None`: the entry stands there already, as it is and alone.
///
/// # Errors
/// [`ConflistError`].
pub fn with_entry(list: &str, entry: &str) -> Result<Option<String>, ConflistError> {
    let no_entry = |reason: &dyn std::fmt::Display| ConflistError::NoEntry { reason: reason.to_string() };
    let read: Plugin<'_> = object(entry).map_err(|reason| no_entry(&reason))?;
    if !is_own_type(&read.kind) {
        return Err(no_entry(&format_args!("its type is {:?}", read.kind)));
    }
    let entry = entry.trim();
    let chain = Chain::read(list)?;
    let others = chain.others()?;
    let own = chain.plugins.iter().filter(|plugin| plugin.is_own).count();
    if own == 1 && chain.plugins.last().is_some_and(|last| last.text == entry) {
        return Ok(None);
    }
    let written = chain.written(list, &others, Some(entry));
    // It could not be taken out of it again.
    if written.len() > LIMIT { Err(ConflistError::TooLong) } else { Ok(Some(written)) }
}

/// Takes every entry of this plugin's out of the chain of `list`. Returns the new text; `None`: there is none.
///
/// # Errors
/// [`ConflistError`].
pub fn without_entry(list: &str) -> Result<Option<String>, ConflistError> {
    let chain = Chain::read(list)?;
    let others = chain.others()?;
    if others.len() == chain.plugins.len() {
        return Ok(None);
    }
    Ok(Some(chain.written(list, &others, None)))
}

/// Reads an object. A list of its values, which serde takes for one, is none.
fn object<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, String> {
    if !text.trim_start().starts_with('{') {
        return Err("an object is expected".to_owned());
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// A list, as far as it counts. Keys of others are passed over.
#[derive(Deserialize)]
struct List<'l> {
    #[serde(borrow)]
    name: Cow<'l, str>,
    #[serde(borrow)]
    plugins: &'l RawValue,
}

#[derive(Deserialize)]
struct Plugin<'l> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'l, str>,
}

/// The chain of a list.
struct Chain<'l> {
    /// The places in the text at which its first plugin begins and its last one ends.
    start: usize,
    end: usize,
    plugins: Vec<Entry<'l>>,
}

struct Entry<'l> {
    /// The text between the plugin before and this one; none before the first.
    before: &'l str,
    text: &'l str,
    is_own: bool,
}

impl<'l> Chain<'l> {
    fn read(list: &'l str) -> Result<Self, ConflistError> {
        if list.len() > LIMIT {
            return Err(ConflistError::TooLong);
        }
        let no_list = |reason: &dyn std::fmt::Display| ConflistError::NoList { reason: reason.to_string() };
        let read: List<'l> = object(list).map_err(|reason| no_list(&reason))?;
        if read.name.is_empty() {
            return Err(no_list(&"its name is empty"));
        }
        let raw: Vec<&'l RawValue> =
            serde_json::from_str(read.plugins.get()).map_err(|error| no_list(&error))?;
        let mut plugins: Vec<Entry<'l>> = Vec::new();
        for raw in raw {
            let plugin: Plugin<'_> = object(raw.get()).map_err(|reason| no_list(&reason))?;
            let start = place(list, raw.get());
            let before = plugins.last().map_or(start, |last| place(list, last.text) + last.text.len());
            let (before, is_own) = (&list[before..start], is_own_type(&plugin.kind));
            plugins.push(Entry { before, text: raw.get(), is_own });
        }
        let (Some(first), Some(last)) = (plugins.first(), plugins.last()) else {
            return Err(no_list(&"it has no plugins"));
        };
        let start = place(list, first.text);
        let end = place(list, last.text) + last.text.len();
        Ok(Self { start, end, plugins })
    }

    /// The plugins of others, of which there is one at least.
    fn others(&self) -> Result<Vec<&Entry<'l>>, ConflistError> {
        let others: Vec<_> = self.plugins.iter().filter(|plugin| !plugin.is_own).collect();
        if others.is_empty() { Err(ConflistError::Alone) } else { Ok(others) }
    }

    /// The list with these of its plugins, each behind what stood before it, and a new entry behind them.
    fn written(&self, list: &'l str, plugins: &[&Entry<'l>], entry: Option<&str>) -> String {
        let mut text = list[..self.start].to_owned();
        for (at, plugin) in plugins.iter().enumerate() {
            if at > 0 {
                text.push_str(plugin.before);
            }
            text.push_str(plugin.text);
        }
        if let Some(entry) = entry {
            let last =
                self.plugins.iter().rev().map(|plugin| plugin.before).find(|before| !before.is_empty());
            text.push_str(&last.map_or_else(|| separator(&list[..self.start]), str::to_owned));
            text.push_str(entry);
        }
        text.push_str(&list[self.end..]);
        text
    }
}

/// The text between two plugins where that before the first is this: each on a line of its own if the first is.
fn separator(before: &str) -> String {
    let blank = before.len() - before.trim_end().len();
    let blank = &before[before.len() - blank..];
    match blank.rfind('\n') {
        Some(line) => format!(",{}", &blank[line..]),
        None => ", ".to_owned(),
    }
}

/// The place of a part in the text that it is a part of.
fn place(text: &str, part: &str) -> usize {
    part.as_ptr().addr() - text.as_ptr().addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"type": "tencrypt-cni-0.1.0", "socket": "/run/tencrypt/node.sock"}"#;

    /// As kube-flannel writes it, with what no parser would give back: numbers, escapes, keys twice, an odd indentation.
    const FLANNEL: &str = "{\n  \"name\": \"cbr0\",\n  \"cniVersion\": \"0.3.1\",\n  \"x\": 1.0e400, \"y\": \"\\u00e9\",\n   \"plugins\": [\n    {\n      \"type\": \"flannel\",\n      \"delegate\": {\n        \"hairpinMode\": true,  \"n\": 10000000000000000000001\n      }\n    },\n    {\n      \"type\": \"portmap\", \"type2\": 1, \"capabilities\": {\"portMappings\": true}\n    }\n  ]\n}\n";

    #[test]
    fn the_entry_is_put_last_and_nothing_else_is_changed() {
        let chained = with_entry(FLANNEL, ENTRY).unwrap().expect("it was not there");
        let expected = FLANNEL.replace("    }\n  ]\n", &format!("    }},\n    {ENTRY}\n  ]\n"));
        assert_eq!(chained, expected);
        assert!(with_entry(&chained, ENTRY).unwrap().is_none(), "it stands there");
        assert_eq!(without_entry(&chained).unwrap().as_deref(), Some(FLANNEL));
        assert!(without_entry(FLANNEL).unwrap().is_none(), "there is none");
    }

    #[test]
    fn one_plugin_gets_a_second_line_if_it_has_one_of_its_own() {
        let lines = "{\"name\": \"a\", \"plugins\": [\n\t{\"type\": \"bridge\"}\n]}";
        let chained = with_entry(lines, ENTRY).unwrap().unwrap();
        assert_eq!(
            chained,
            format!("{{\"name\": \"a\", \"plugins\": [\n\t{{\"type\": \"bridge\"}},\n\t{ENTRY}\n]}}")
        );
        assert_eq!(without_entry(&chained).unwrap().as_deref(), Some(lines));
        let line = r#"{"plugins":[{"type":"ptp"}],"name":"b"}"#;
        let chained = with_entry(line, ENTRY).unwrap().unwrap();
        assert_eq!(chained, format!(r#"{{"plugins":[{{"type":"ptp"}}, {ENTRY}],"name":"b"}}"#));
        assert_eq!(without_entry(&chained).unwrap().as_deref(), Some(line));
    }

    #[test]
    fn an_entry_elsewhere_of_another_version_or_twice_gives_way_to_one_at_the_end() {
        let list = |plugins: &[&str]| format!(r#"{{"name":"a","plugins":[{}]}}"#, plugins.join(","));
        let (bridge, portmap) = (r#"{"type":"bridge"}"#, r#"{"type":"portmap"}"#);
        let old = r#"{"type":"tencrypt-cni"}"#;
        let wanted = list(&[bridge, portmap, ENTRY]);
        for plugins in [
            &[bridge, ENTRY, portmap][..],
            &[ENTRY, bridge, portmap],
            &[bridge, old, portmap],
            &[old, bridge, old, portmap, ENTRY],
            &[bridge, portmap, ENTRY, ENTRY],
            &[bridge, portmap, old],
            &[bridge, portmap],
        ] {
            assert_eq!(with_entry(&list(plugins), ENTRY).unwrap().as_deref(), Some(&*wanted), "{plugins:?}");
            let without = without_entry(&list(plugins)).unwrap();
            assert_eq!(without.unwrap_or_else(|| list(plugins)), list(&[bridge, portmap]), "{plugins:?}");
        }
    }

    #[test]
    fn only_names_of_the_plugins_files_are_its_own() {
        for (plugin, own) in [
            ("tencrypt-cni", true),
            ("tencrypt-cni-0.1.0", true),
            ("tencrypt-cni-2.0.0-rc.1+build_7", true),
            ("tencrypt-cni-", false),
            ("tencrypt-cni-metrics", false),
            ("tencrypt-cni-1/x", false),
            ("tencrypt-cni-/1", false),
            ("tencrypt-cnix", false),
            ("tencrypt", false),
            ("x-tencrypt-cni", false),
            ("", false),
        ] {
            assert_eq!(is_own_type(plugin), own, "{plugin}");
        }
    }

    #[test]
    fn what_is_no_list_is_left_alone() {
        let long = format!("{}{}", " ".repeat(LIMIT), FLANNEL);
        for (list, reason) in [
            ("", "an object is expected"),
            ("[]", "no network configuration list"),
            (r#"["a",[{"type":"bridge"}]]"#, "an object is expected"),
            (r#"{"name":"a","plugins":[["bridge"]]}"#, "an object is expected"),
            (r#"{"name":"a"}"#, "plugins"),
            (r#"{"plugins":[{"type":"bridge"}]}"#, "name"),
            (r#"{"name":"","plugins":[{"type":"bridge"}]}"#, "empty"),
            (r#"{"name":"a","plugins":[]}"#, "no plugins"),
            (r#"{"name":"a","plugins":{"type":"bridge"}}"#, "invalid type"),
            (r#"{"name":"a","plugins":[{"type":7}]}"#, "invalid type"),
            (r#"{"name":"a","plugins":["bridge"]}"#, "an object is expected"),
            (r#"{"name":"a","type":"bridge"}"#, "plugins"),
            (r#"{"name":"a","plugins":[{"type":"bridge"}],"plugins":[]}"#, "duplicate"),
            (r#"{"name":"a","plugins":[{"type":"bridge"}]"#, "EOF"),
            (r#"{"name":"a","plugins":[{"type":"bridge"}]} x"#, "trailing"),
            (r#"{"name":"a","plugins":[{"type":"tencrypt-cni"}]}"#, "no plugin stands in the chain"),
            (&long, "longer than"),
        ] {
            for error in [with_entry(list, ENTRY).expect_err(list), without_entry(list).expect_err(list)] {
                let said = error.to_string();
                assert!(said.contains(reason), "{list}: {said}");
                assert_eq!(said.lines().count(), 1, "{said}");
            }
        }
        let almost = format!("{}{}", " ".repeat(LIMIT - FLANNEL.len()), FLANNEL);
        assert!(
            matches!(with_entry(&almost, ENTRY), Err(ConflistError::TooLong)),
            "it could not be taken out"
        );
        for entry in
            ["", "7", "{}", r#"["tencrypt-cni"]"#, r#"{"type":"bridge"}"#, r#"{"type":"tencrypt-cni"} x"#]
        {
            assert!(matches!(with_entry(FLANNEL, entry), Err(ConflistError::NoEntry { .. })), "{entry}");
        }
    }
}
