//! A file of network configuration, as a runtime takes it.
//!
//! The rules are those of libcni (containernetworking/cni, libcni/conf.go, 0.8 to 1.3) as containerd (containerd/go-cni, opts.go
//! `loadFromConfDir`) and CRI-O (cri-o/ocicni, pkg/ocicni/ocicni.go `loadNetworks`) apply them. Where versions differ, the one that
//! takes more counts: what one of them takes is not passed over.

use std::{borrow::Cow, collections::BTreeMap, ffi::OsStr, os::unix::ffi::OsStrExt as _};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// A file that a runtime takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Configuration {
    /// A list.
    List {
        /// The network's name; CRI-O gives the name of the file to one whose name is empty.
        network: String,
        /// Plugins stand in the file itself.
        has_plugins: bool,
        /// No other plugins are put behind these.
        is_whole: bool,
    },
    /// A configuration of one plugin, of which a runtime makes a list by itself.
    Single,
}

impl Configuration {
    /// Reads the file of this name.
    ///
    /// # Errors
    /// The reason, in a line, why no runtime takes it.
    pub(crate) fn of(name: &OsStr, bytes: &[u8]) -> Result<Self, String> {
        // Go puts this letter for what is no UTF-8 too.
        let text = String::from_utf8_lossy(bytes);
        if extension(name) == LIST { list(&text) } else { plugin(&text).map(|()| Self::Single) }
    }
}

/// Extension of a list.
const LIST: &[u8] = b".conflist";

/// Tells if a runtime reads files of this name: `ConfFiles` of libcni, which takes hidden files too.
pub(crate) fn is_read(name: &OsStr) -> bool {
    [&b".conf"[..], LIST, b".json"].contains(&extension(name))
}

/// Tells if libcni from 1.3 on reads files of this name in the folder of a network's further plugins
/// (`NetworkPluginConfsFromFiles`).
pub(crate) fn is_further(name: &OsStr) -> bool {
    extension(name) == b".conf"
}

/// The name from its last dot on, as Go's `filepath.Ext` has it: the first letter may be that dot.
fn extension(name: &OsStr) -> &[u8] {
    let name = name.as_bytes();
    name.iter().rposition(|byte| *byte == b'.').map_or(&[], |dot| &name[dot..])
}

/// `NetworkConfFromBytes`, and `ConfListFromBytes` before 1.3.
fn list(text: &str) -> Result<Configuration, String> {
    let keys = object(text)?;
    let network = value::<String>(&keys, "name")?.ok_or("`name` is missing")?;
    value::<String>(&keys, "cniVersion")?;
    let mut plugins = 0;
    if let Some(raw) = keys.get("plugins") {
        let raw: Vec<&RawValue> = read("plugins", raw)?;
        for (at, raw) in raw.iter().enumerate() {
            plugin(raw.get()).map_err(|reason| format!("`plugins`, number {}: {reason}", at + 1))?;
        }
        if raw.is_empty() {
            return Err("`plugins` is empty".to_owned());
        }
        plugins = raw.len();
    }
    let is_whole = keys.get("loadOnlyInlinedPlugins").is_some_and(|raw| is_true(raw));
    if plugins == 0 && is_whole {
        return Err("`plugins` is missing".to_owned());
    }
    Ok(Configuration::List { network, has_plugins: plugins > 0, is_whole })
}

/// `readBool`: a text counts as well.
fn is_true(raw: &RawValue) -> bool {
    let text = raw.get();
    text == "true" || text.trim_matches('"').eq_ignore_ascii_case("true")
}

/// Reads a configuration of one plugin: `NetworkPluginConfFromBytes`, by the types of `types.PluginConf`.
///
/// # Errors
/// The reason, in a line, why it is none.
pub(crate) fn plugin(text: &str) -> Result<(), String> {
    let mut kind = None;
    for (key, raw) in object(text)? {
        // Go takes a key of a struct in capital letters too.
        match &*key.to_ascii_lowercase() {
            "type" => kind = read::<Option<String>>("type", raw)?,
            "name" | "cniversion" => {
                read::<Option<String>>(&key, raw)?;
            }
            "capabilities" => {
                read::<Option<BTreeMap<String, Option<bool>>>>("capabilities", raw)?;
            }
            "prevresult" => {
                read::<Option<BTreeMap<String, serde::de::IgnoredAny>>>("prevResult", raw)?;
            }
            "ipam" if raw.get() != "null" => {
                let ipam = object(raw.get()).map_err(|reason| format!("`ipam`: {reason}"))?;
                value::<Option<String>>(&ipam, "type")?;
            }
            "dns" if raw.get() != "null" => dns(raw.get())?,
            _ => {}
        }
    }
    if kind.is_some_and(|kind| !kind.is_empty()) { Ok(()) } else { Err("`type` is missing".to_owned()) }
}

/// `types.DNS`.
fn dns(text: &str) -> Result<(), String> {
    let keys = object(text).map_err(|reason| format!("`dns`: {reason}"))?;
    for key in ["nameservers", "search", "options"] {
        value::<Option<Vec<Option<String>>>>(&keys, key)?;
    }
    value::<Option<String>>(&keys, "domain").map(drop)
}

/// The keys of an object. Of one that stands there twice the last counts, as it does for Go.
fn object(text: &str) -> Result<BTreeMap<Cow<'_, str>, &RawValue>, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn value<T: DeserializeOwned>(
    keys: &BTreeMap<Cow<'_, str>, &RawValue>,
    key: &str,
) -> Result<Option<T>, String> {
    keys.get(key).map(|raw| read(key, raw)).transpose()
}

fn read<'r, T: Deserialize<'r>>(key: &str, raw: &'r RawValue) -> Result<T, String> {
    serde_json::from_str(raw.get()).map_err(|error| format!("`{key}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: impl AsRef<[u8]>) -> Result<Configuration, String> {
        Configuration::of(OsStr::new(name), text.as_ref())
    }

    #[test]
    fn files_are_read_by_their_extension_and_hidden_ones_too() {
        for name in ["a.conf", "a.conflist", "a.json", ".conf", ".a.conflist", "a.b.json"] {
            assert!(is_read(OsStr::new(name)), "{name}");
        }
        for name in
            ["a", "conf", "a.conf~", "a.conflist.tencrypt-new", ".a.conflist.tencrypt-new", "a.CONF", "a."]
        {
            assert!(!is_read(OsStr::new(name)), "{name}");
        }
        assert!(is_further(OsStr::new("a.conf")) && !is_further(OsStr::new("a.conflist")));
    }

    #[test]
    fn lists_are_taken_as_libcni_takes_them() {
        let list =
            |has_plugins, is_whole| Configuration::List { network: "a".to_owned(), has_plugins, is_whole };
        for text in [
            r#"{"name":"a","plugins":[{"type":"b"}]}"#,
            r#" {"cniVersion":"9","name":"a","plugins":[{"type":"b","x":1e999},{"TYPE":"c","name":null,"ipam":null}]}"#,
            r#"{"name":"x","name":"a","plugins":[],"plugins":[{"type":"b"}],"disableCheck":7}"#,
            r#"{"name":"a","plugins":[{"type":"b","capabilities":{"a":true},"dns":{"nameservers":["1"]},"ipam":{"type":"c"}}]}"#,
        ] {
            assert_eq!(of("1.conflist", text), Ok(list(true, false)), "{text}");
        }
        for value in ["true", "\"true\"", "\"True\""] {
            let text =
                format!(r#"{{"name":"a","loadOnlyInlinedPlugins":{value},"plugins":[{{"type":"b"}}]}}"#);
            assert_eq!(of("1.conflist", text), Ok(list(true, true)), "{value}");
        }
        assert_eq!(of("1.conflist", r#"{"name":"a"}"#), Ok(list(false, false)));
        assert!(of("1.conflist", b"{\"name\":\"\xff\",\"plugins\":[{\"type\":\"b\"}]}").is_ok());
    }

    #[test]
    fn what_no_version_of_libcni_takes_is_invalid() {
        for (text, reason) in [
            ("", "EOF"),
            ("[]", "invalid type"),
            (r#"{"name":"a","plugins":[{"type":"b"}]"#, "EOF"),
            ("\u{feff}{}", "expected value"),
            (r#"{"plugins":[{"type":"b"}]}"#, "`name` is missing"),
            (r#"{"name":1,"plugins":[{"type":"b"}]}"#, "`name`: "),
            (r#"{"name":null,"plugins":[{"type":"b"}]}"#, "`name`: "),
            (r#"{"name":"a","cniVersion":1,"plugins":[{"type":"b"}]}"#, "`cniVersion`: "),
            (r#"{"name":"a","plugins":[]}"#, "`plugins` is empty"),
            (r#"{"name":"a","plugins":null}"#, "`plugins`: "),
            (r#"{"name":"a","plugins":{}}"#, "`plugins`: "),
            (r#"{"name":"a","loadOnlyInlinedPlugins":true}"#, "`plugins` is missing"),
            (r#"{"name":"a","plugins":[{"type":"b"},{}]}"#, "`plugins`, number 2: `type` is missing"),
            (r#"{"name":"a","plugins":["b"]}"#, "`plugins`, number 1: "),
            (r#"{"name":"a","plugins":[{"type":""}]}"#, "`type` is missing"),
            (r#"{"name":"a","plugins":[{"type":1}]}"#, "`type`: "),
            (r#"{"name":"a","plugins":[{"type":"b","Name":1}]}"#, "`Name`: "),
            (r#"{"name":"a","plugins":[{"type":"b","capabilities":{"a":"yes"}}]}"#, "`capabilities`: "),
            (r#"{"name":"a","plugins":[{"type":"b","capabilities":[]}]}"#, "`capabilities`: "),
            (r#"{"name":"a","plugins":[{"type":"b","prevResult":[]}]}"#, "`prevResult`: "),
            (r#"{"name":"a","plugins":[{"type":"b","ipam":"c"}]}"#, "`ipam`: "),
            (r#"{"name":"a","plugins":[{"type":"b","ipam":{"type":1}}]}"#, "`type`: "),
            (r#"{"name":"a","plugins":[{"type":"b","dns":{"search":"c"}}]}"#, "`search`: "),
        ] {
            let said = of("1.conflist", text).expect_err(text);
            assert!(said.contains(reason) && said.lines().count() == 1, "{text}: {said}");
        }
    }

    #[test]
    fn a_file_of_one_plugin_has_a_type_and_a_list_under_its_name_has_none() {
        for name in ["1.conf", "1.json"] {
            assert_eq!(of(name, r#"{"name":"a","type":"b"}"#), Ok(Configuration::Single));
            let list = of(name, r#"{"name":"a","plugins":[{"type":"b"}]}"#);
            assert_eq!(list, Err("`type` is missing".to_owned()));
        }
    }
}
