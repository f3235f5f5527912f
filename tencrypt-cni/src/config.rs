//! The network configuration that a runtime gives on standard input: CNI SPEC sections 1 and 3.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    call::{self, Held, Pod},
    failure::Failure,
    list, names,
    version::Version,
};

/// Longest configuration in bytes. A usual one has one or two thousand; that of GC a hundred for each attachment, twice.
pub(crate) const LIMIT: usize = 1 << 20;

/// Longest path of a socket in bytes, its end left out: `sun_path` (include/uapi/linux/un.h).
const LONGEST_SOCKET: usize = 107;

/// The configuration. Keys of other plugins and of newer versions are passed over.
#[derive(Debug)]
pub(crate) struct Config<'i> {
    pub(crate) version: Version,
    /// The network's name.
    pub(crate) network: String,
    document: Document<'i>,
}

/// The keys that count, as they were found.
#[derive(Debug, Deserialize)]
struct Document<'i> {
    #[serde(rename = "cniVersion", default)]
    version: Value,
    #[serde(default)]
    name: Value,
    /// As it is, to the letter: numbers of any size, keys in their order and more than once.
    #[serde(rename = "prevResult", borrow, default)]
    previous: Option<&'i RawValue>,
    #[serde(rename = "cni.dev/valid-attachments", default)]
    valid: Value,
    /// The name of the same in the text of the specification before libcni 1.2.3, which passes both.
    #[serde(rename = "cni.dev/attachments", default)]
    also_valid: Value,
    #[serde(default)]
    socket: Value,
    #[serde(default)]
    list: Value,
    #[serde(default)]
    agent: Value,
}

/// The keys of this plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `socket`: where the node agent listens.
    pub(crate) socket: PathBuf,
    /// `list`: the list on disk.
    pub(crate) list: PathBuf,
    /// `agent`: the pods that the agent itself consists of.
    agent: Option<Agent>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Agent {
    namespace: String,
    pod_prefix: String,
}

impl<'i> Config<'i> {
    /// Reads a configuration: an object with a version that is spoken here and a name.
    pub(crate) fn parse(input: &'i [u8]) -> Result<Self, Failure> {
        let document: Document<'_> = object(input)?;
        let version = match &document.version {
            Value::String(found) => {
                Version::parse(found).ok_or_else(|| Failure::Version { found: found.clone() })?
            }
            // CNI SPEC 0.1.0 had no version.
            Value::Null => return Err(Failure::Version { found: "0.1.0".into() }),
            other => return Err(Failure::Decode { reason: format!("`cniVersion` is {other}") }),
        };
        let network = match &document.name {
            Value::String(name) if names::is_cni_name(name) => name.clone(),
            Value::Null => return Err(Failure::Config { reason: "`name` is missing".into() }),
            other => return Err(Failure::Config { reason: format!("`name` is {other}") }),
        };
        Ok(Self { version, network, document })
    }

    /// The result of the plugin before this one, to the letter.
    pub(crate) fn previous(&self) -> Result<&'i str, Failure> {
        self.document.previous.map(RawValue::get).ok_or_else(|| Failure::Config {
            reason: "there is no `prevResult`: tencrypt-cni comes after the plugin that makes the interface"
                .into(),
        })
    }

    /// The attachments that GC is to leave. `None` if they are not named, or null as Go writes a list that was never made: that
    /// nothing at all is left of a network is not concluded from it.
    pub(crate) fn valid(&self) -> Result<Option<Vec<Held>>, Failure> {
        let (key, value) = match &self.document {
            Document { valid: Value::Null, also_valid, .. } => ("cni.dev/attachments", also_valid),
            Document { valid, .. } => ("cni.dev/valid-attachments", valid),
        };
        let malformed = || Failure::Config { reason: format!("`{key}` is malformed") };
        let held = |value: &Value| {
            let text = |key| value.get(key).and_then(Value::as_str);
            let (container, interface) = (text("containerID")?, text("ifname")?);
            (names::is_cni_name(container) && names::is_interface(interface))
                .then(|| Held { container: container.to_owned(), interface: interface.to_owned() })
        };
        match value {
            Value::Null => Ok(None),
            Value::Array(values) => {
                values.iter().map(held).collect::<Option<_>>().map(Some).ok_or_else(malformed)
            }
            _ => Err(malformed()),
        }
    }

    /// The keys of this plugin.
    pub(crate) fn settings(&self) -> Result<Settings, Failure> {
        let socket = path("socket", &self.document.socket, call::SOCKET)?;
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(Failure::Config {
                reason: format!("`socket` is longer than {LONGEST_SOCKET} bytes"),
            });
        }
        let list = path("list", &self.document.list, list::PATH)?;
        Ok(Settings { socket, list, agent: agent(&self.document.agent)? })
    }
}

impl Settings {
    /// Tells if a pod is one of those that the agent consists of.
    pub(crate) fn is_agent(&self, pod: &Pod) -> bool {
        let (Some(agent), Some(namespace), Some(name)) = (&self.agent, &pod.namespace, &pod.name) else {
            return false;
        };
        *namespace == agent.namespace && name.starts_with(&agent.pod_prefix)
    }
}

/// The version that VERSION is asked with, in whatever state it is; none where nothing was asked.
pub(crate) fn asked_version(input: &[u8]) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Asked {
        #[serde(rename = "cniVersion", default)]
        version: Option<String>,
    }
    if input.trim_ascii().is_empty() {
        return Ok(Version::NEWEST.as_str().to_owned());
    }
    let version = object::<Asked>(input)?.version.unwrap_or_else(|| Version::NEWEST.as_str().to_owned());
    let is_version = version.len() <= 32 && version.split('.').all(|part| part.parse::<u32>().is_ok());
    if is_version {
        Ok(version)
    } else {
        Err(Failure::Decode { reason: format!("`cniVersion` is `{version}`") })
    }
}

fn object<'i, T: Deserialize<'i>>(input: &'i [u8]) -> Result<T, Failure> {
    if input.len() > LIMIT {
        return Err(Failure::Decode { reason: format!("longer than {LIMIT} bytes") });
    }
    let text = std::str::from_utf8(input).map_err(|_| Failure::Decode { reason: "no UTF-8".into() })?;
    // serde would take an array for the keys in their order.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(Failure::Decode { reason: "no JSON object".into() });
    }
    serde_json::from_str(text).map_err(|error| Failure::Decode { reason: error.to_string() })
}

fn path(key: &str, value: &Value, default: &str) -> Result<PathBuf, Failure> {
    match value {
        Value::Null => Ok(default.into()),
        Value::String(text) if Path::new(text).is_absolute() && !text.contains('\0') => Ok(text.into()),
        other => Err(Failure::Config { reason: format!("`{key}` is {other}: no absolute path") }),
    }
}

fn agent(value: &Value) -> Result<Option<Agent>, Failure> {
    let keys: &Map<String, Value> = match value {
        Value::Null => return Ok(None),
        Value::Object(keys) => keys,
        other => return Err(Failure::Config { reason: format!("`agent` is {other}: no object") }),
    };
    if let Some((key, value)) = keys.iter().find(|(key, _)| *key != "namespace" && *key != "podPrefix") {
        return Err(Failure::Field { key: format!("agent.{key}"), value: value.to_string() });
    }
    let text = |key: &str, is_valid: fn(&str) -> bool| match keys.get(key) {
        Some(Value::String(text)) if is_valid(text) => Ok(text.clone()),
        Some(other) => Err(Failure::Config { reason: format!("`agent.{key}` is {other}") }),
        None => Err(Failure::Config { reason: format!("`agent.{key}` is missing") }),
    };
    let (namespace, pod_prefix) =
        (text("namespace", names::is_namespace)?, text("podPrefix", names::is_pod)?);
    Ok(Some(Agent { namespace, pod_prefix }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#""cniVersion":"1.1.0","name":"pods","type":"tencrypt-cni""#;

    fn with(more: &str) -> String {
        format!("{{{HEAD}{more}}}")
    }

    fn code<T: std::fmt::Debug>(result: Result<T, Failure>) -> u32 {
        result.unwrap_err().code()
    }

    #[test]
    fn a_configuration_has_a_version_and_a_name() {
        let text = with(r#","capabilities":{"a":true},"kubernetes":{"x":[1e999]},"runtimeConfig":{}"#);
        let config = Config::parse(text.as_bytes()).unwrap();
        assert_eq!((config.version, &*config.network), (Version::V1_1_0, "pods"));
        assert_eq!(
            config.settings().unwrap(),
            Settings { socket: call::SOCKET.into(), list: list::PATH.into(), agent: None }
        );
        assert_eq!(config.valid().unwrap(), None);
        assert_eq!(code(config.previous()), 7);
    }

    #[test]
    fn what_is_no_configuration_is_refused_with_the_code_of_its_fault() {
        let deep = format!("{{\"agent\":{}", "[".repeat(10_000));
        let huge = with(&format!(",\"x\":\"{}\"", "a".repeat(LIMIT)));
        for (input, expected) in [
            ("", 6),
            ("\u{feff}{}", 6),
            ("garbage", 6),
            ("[]", 6),
            ("\"{}\"", 6),
            (r#"["1.1.0","pods"]"#, 6),
            (&with("")[..30], 6),
            (&*format!("{}{}", with(""), with("")), 6),
            (&*deep, 6),
            (&*huge, 6),
            (r#"{"cniVersion":1.1,"name":"pods"}"#, 6),
            (r#"{"cniVersion":"1.1.0","cniVersion":"1.0.0","name":"pods"}"#, 6),
            (&*with(r#","prevResult":{},"prevResult":{}"#), 6),
            (r#"{"name":"pods"}"#, 1),
            (r#"{"cniVersion":"","name":"pods"}"#, 1),
            (r#"{"cniVersion":"0.3.0","name":"pods"}"#, 1),
            (r#"{"cniVersion":"2.0.0","name":"pods"}"#, 1),
            (r#"{"cniVersion":"1.1","name":"pods"}"#, 1),
            (r#"{"cniVersion":"1.1.0"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":""}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":"../a"}"#, 7),
            (r#"{"cniVersion":"1.1.0","name":7}"#, 7),
        ] {
            let short: String = input.chars().take(80).collect();
            assert_eq!(code(Config::parse(input.as_bytes())), expected, "{short}");
        }
        assert_eq!(code(Config::parse(b"{\"name\":\"\xff\"}")), 6);
    }

    #[test]
    fn the_result_before_is_kept_to_the_letter() {
        for result in [
            "{}",
            "{ \"a\" : 123456789012345678901234567890.1e-7 , \"a\":\"\\u0061\\ud83d\\ude00\"\n}",
            "[]",
            "\"text\"",
        ] {
            let text = with(&format!(",\"prevResult\":{result}"));
            assert_eq!(Config::parse(text.as_bytes()).unwrap().previous().unwrap(), result);
        }
        let text = with(",\"prevResult\":null");
        assert_eq!(code(Config::parse(text.as_bytes()).unwrap().previous()), 7);
    }

    #[test]
    fn attachments_are_those_that_are_named() {
        let valid = |more: &str| Config::parse(with(more).as_bytes()).unwrap().valid();
        let held = vec![Held { container: "0a".into(), interface: "eth0".into() }];
        let one = r#"[{"containerID":"0a","ifname":"eth0"}]"#;
        assert_eq!(valid(&format!(",\"cni.dev/valid-attachments\":{one}")).unwrap(), Some(held.clone()));
        assert_eq!(valid(&format!(",\"cni.dev/attachments\":{one}")).unwrap(), Some(held));
        assert_eq!(valid(",\"cni.dev/valid-attachments\":[]").unwrap(), Some(vec![]));
        assert_eq!(valid(",\"cni.dev/valid-attachments\":null").unwrap(), None);
        for wrong in [
            "{}",
            "[1]",
            "[{}]",
            r#"[{"containerID":"","ifname":"eth0"}]"#,
            r#"[{"containerID":"a","ifname":".."}]"#,
        ] {
            assert_eq!(code(valid(&format!(",\"cni.dev/valid-attachments\":{wrong}"))), 7, "{wrong}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let settings = |more: &str| Config::parse(with(more).as_bytes()).unwrap().settings();
        let found = settings(
            r#","socket":"/a","list":"/b","agent":{"namespace":"tencrypt","podPrefix":"tencrypt-node-"}"#,
        )
        .unwrap();
        assert_eq!((found.socket.to_str(), found.list.to_str()), (Some("/a"), Some("/b")));
        let pod = |namespace: &str, name: &str| Pod {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: None,
        };
        assert!(found.is_agent(&pod("tencrypt", "tencrypt-node-x2")));
        assert!(
            !found.is_agent(&pod("shop", "tencrypt-node-x2")) && !found.is_agent(&pod("tencrypt", "web"))
        );
        assert!(
            !found.is_agent(&Pod { namespace: None, ..pod("", "tencrypt-node-x2") })
                && !found.is_agent(&Pod::default())
        );
        assert!(!settings("").unwrap().is_agent(&pod("tencrypt", "tencrypt-node-x2")));
        let long = format!(",\"socket\":\"/{}\"", "a".repeat(LONGEST_SOCKET));
        for wrong in [
            r#","socket":"node.sock""#,
            r#","socket":"""#,
            r#","socket":7"#,
            r#","list":"/a\u0000b""#,
            r#","list":["/a"]"#,
            &long,
            r#","agent":"tencrypt""#,
            r#","agent":{}"#,
            r#","agent":{"namespace":"tencrypt"}"#,
            r#","agent":{"namespace":"tencrypt","podPrefix":""}"#,
            r#","agent":{"namespace":"","podPrefix":"a"}"#,
            r#","agent":{"namespace":"tencrypt","podPrefix":null}"#,
        ] {
            assert_eq!(code(settings(wrong)), 7, "{wrong}");
        }
        let unknown = settings(r#","agent":{"namespace":"a","podPrefix":"a","pod_prefix":"b"}"#).unwrap_err();
        assert_eq!(unknown.code(), 2);
        assert!(unknown.to_string().contains("`agent.pod_prefix` = \"b\""), "{unknown}");
    }

    #[test]
    fn the_version_that_is_asked_with_is_the_one_that_is_answered() {
        for (input, version) in [
            ("", "1.1.0"),
            (" \n", "1.1.0"),
            ("{}", "1.1.0"),
            (r#"{"cniVersion":"9.9.9"}"#, "9.9.9"),
            (r#"{"cniVersion":"0.2.0"}"#, "0.2.0"),
        ] {
            assert_eq!(asked_version(input.as_bytes()).unwrap(), version);
        }
        for input in [
            "x",
            "[]",
            r#"["1.0.0"]"#,
            r#"{"cniVersion":1}"#,
            r#"{"cniVersion":"new"}"#,
            r#"{"cniVersion":""}"#,
        ] {
            assert_eq!(code(asked_version(input.as_bytes())), 6, "{input}");
        }
    }
}
