//! The Secret with a tenant's keys.

use std::{fmt, rc::Rc};

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, de::Visitor};
use tencrypt_agent::{keys::file::MAX_FILE_LEN, os::secret_memory::SecretBytes};

use super::objects::{Meta, Object};
use crate::tenant::HeldKeys;

/// The Secret's name, in each namespace of the tenant.
pub(crate) const NAME: &str = "tencrypt-key";

/// The key of its data, of which the value is the key file.
pub(crate) const DATA_KEY: &str = "tenant.key";

/// A Secret of that name, as far as it is read: a copy of the keys may be in its annotations too (`kubectl apply` leaves one).
#[derive(Debug)]
pub(crate) struct KeySecret {
    meta: Meta,
    /// The keys, or the reason why there are none, in a line.
    pub(crate) keys: Result<Rc<HeldKeys>, String>,
}

impl Object for KeySecret {
    fn meta(&self) -> &Meta {
        &self.meta
    }
}

#[derive(Deserialize)]
struct Whole {
    metadata: Name,
    #[serde(default)]
    data: Option<Data>,
}

/// Metadata without annotations.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Name {
    name: String,
    namespace: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Data {
    #[serde(rename = "tenant.key")]
    keys: Option<Text>,
}

/// Text behind Base64 (RFC 4648 section 4), in hidden memory; or the reason why there is none.
struct Text(Result<(SecretBytes, usize), &'static str>);

impl<'de> Deserialize<'de> for KeySecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Whole { metadata: Name { name, namespace, resource_version }, data } =
            Whole::deserialize(deserializer)?;
        let text = data.and_then(|data| data.keys).unwrap_or(Text(Err("is not there")));
        let keys = text
            .0
            .map_err(str::to_owned)
            .and_then(|(text, len)| HeldKeys::new(text, len).map(Rc::new).map_err(|error| error.to_string()));
        let keys = keys.map_err(|reason| format!("{DATA_KEY}: {reason}"));
        Ok(Self { meta: Meta { name, namespace, resource_version, ..Meta::default() }, keys })
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Decoded)
    }
}

struct Decoded;

impl Visitor<'_> for Decoded {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Base64")
    }

    // What is wrong is the Secret's fault, and none of the list or the watch that it comes in.
    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text(decoded(text)))
    }
}

fn decoded(text: &str) -> Result<(SecretBytes, usize), &'static str> {
    const NOT_BASE64: &str = "is no Base64";
    let room = BASE64.decode_len(text.len()).map_err(|_| NOT_BASE64)?;
    // Up to two bytes of it are padding.
    if room as u64 > MAX_FILE_LEN + 2 {
        return Err("is longer than a key file may be");
    }
    let mut bytes = SecretBytes::new(room);
    let len = BASE64.decode_mut(text.as_bytes(), &mut bytes).map_err(|_| NOT_BASE64)?;
    Ok((bytes, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "tencrypt-key-v1\ntenant 000102030405060708090a0b0c0d0e0f\n\
        epoch 1 a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf\n";

    fn read(data: &str) -> KeySecret {
        let text = format!(
            r#"{{"kind":"Secret","apiVersion":"v1","metadata":{{"name":"tencrypt-key","namespace":"shop","uid":"1",
            "resourceVersion":"77","annotations":{{"a":"b"}}}},"type":"Opaque"{data}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn with(value: &str) -> KeySecret {
        read(&format!(r#","data":{{"tenant.key":"{value}","other":"AA=="}}"#))
    }

    #[test]
    fn the_key_file_is_read_and_nothing_but_name_and_place_besides() {
        let secret = with(&BASE64.encode(FILE.as_bytes()));
        let keys = secret.keys.as_ref().unwrap();
        assert_eq!((keys.send, &*keys.marks.tenant), (1, "000102030405060708090a0b0c0d0e0f"));
        let meta = secret.meta();
        assert_eq!((&*meta.namespace, &*meta.resource_version, meta.annotations.len()), ("shop", "77", 0));
        assert!(!format!("{secret:?}").contains("a0a1"));
    }

    #[test]
    fn what_holds_no_key_file_says_why_and_is_read_all_the_same() {
        let long = BASE64.encode(&vec![b'#'; MAX_FILE_LEN as usize + 9]);
        for (secret, reason) in [
            (read(""), "tenant.key: is not there"),
            (read(r#","data":null"#), "tenant.key: is not there"),
            (read(r#","data":{"key":"AA=="}"#), "tenant.key: is not there"),
            (with("not base64!"), "tenant.key: is no Base64"),
            (with(&BASE64.encode(b"\xff\xfe")), "tenant.key: is no text"),
            (with(&BASE64.encode(&FILE.as_bytes()[..60])), "tenant.key: is no key file: "),
            (with(&long), "tenant.key: is longer than"),
        ] {
            let said = secret.keys.unwrap_err();
            assert!(said.starts_with(reason), "{reason}: {said}");
        }
    }
}
