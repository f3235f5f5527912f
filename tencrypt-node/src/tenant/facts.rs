//! The facts of a tenant: a file of JSON as the messages to the programs have it, and what changes in it.

use std::{collections::BTreeMap, net::IpAddr, path::Path, rc::Rc};

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tencrypt_agent::node::{Kind, Order, OrderError, check_facts};

use super::{error::TenantError, files};

/// Bytes of a message at most, so that one more fact never makes it too long: of a limit of 1 MiB.
const PIECE: usize = 512 << 10;

/// Most bytes of all facts: what a program takes at its start.
const MOST: usize = 16 << 20;

/// The facts, each as the text that it has in the file, by prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FactTexts(Rc<BTreeMap<IpNet, String>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File<'f> {
    #[serde(borrow, default)]
    learn: Vec<&'f RawValue>,
}

impl FactTexts {
    /// Reads the facts in the file at `path`, which hold for these `protected` ranges; none if there is no file.
    pub(super) fn read(path: &Path, protected: &[IpNet]) -> Result<Self, TenantError> {
        let Some(content) = files::optional(path, MOST as u64)? else {
            return Ok(Self::default());
        };
        Self::parse(&content, protected)
            .map_err(|reason| TenantError::Content { path: path.to_owned(), reason })
    }

    /// Takes facts, each with its text in JSON, which hold for these `protected` ranges.
    ///
    /// # Errors
    /// The first that no program would take, in a line.
    pub(crate) fn of(facts: BTreeMap<IpNet, String>, protected: &[IpNet]) -> Result<Self, String> {
        let texts: Vec<&str> = facts.values().map(String::as_str).collect();
        check_facts(format!("{{\"learn\":[{}]}}", texts.join(",")).as_bytes(), protected)?;
        Ok(Self(Rc::new(facts)))
    }

    fn parse(content: &[u8], protected: &[IpNet]) -> Result<Self, String> {
        check_facts(content, protected)?;
        let file: File<'_> = serde_json::from_slice(content).map_err(|error| error.to_string())?;
        let mut facts = BTreeMap::new();
        for fact in file.learn {
            let text = fact.get();
            if text.len() > PIECE / 2 {
                return Err(format!("a fact of more than {} bytes", PIECE / 2));
            }
            let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
            let prefix = value.get("prefix").and_then(Value::as_str).unwrap_or_default();
            facts.insert(range(prefix)?, text.to_owned());
        }
        Ok(Self(Rc::new(facts)))
    }

    /// Returns the messages that tell all of them.
    ///
    /// # Errors
    /// None: each piece is shorter than a message may be.
    pub(crate) fn learn(&self) -> Result<Vec<Order>, OrderError> {
        pieces("learn", self.0.values())
    }

    /// Returns the messages that make of the facts `before` these: what is gone is forgotten behind what is new, so that nothing that
    /// both have is unknown for a moment.
    ///
    /// # Errors
    /// None: each piece is shorter than a message may be.
    pub(crate) fn changed_from(&self, before: &Self) -> Result<Vec<Order>, OrderError> {
        let new = self.0.iter().filter(|(prefix, text)| before.0.get(prefix) != Some(text));
        let mut orders = pieces("learn", new.map(|(_, text)| text))?;
        let gone: Vec<String> =
            before.0.keys().filter(|prefix| !self.0.contains_key(prefix)).map(quoted).collect();
        orders.extend(pieces("forget", gone.iter())?);
        Ok(orders)
    }
}

fn quoted(prefix: &IpNet) -> String {
    Value::from(prefix.to_string()).to_string()
}

/// Reads an address or a range, however it is spelt.
fn range(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is no address and no range"))
}

/// Makes messages with a list of these texts under `name`.
fn pieces<'t>(name: &str, texts: impl Iterator<Item = &'t String>) -> Result<Vec<Order>, OrderError> {
    let mut orders = Vec::new();
    let mut list = String::new();
    let message = |list: &str| Order::new(Kind::Facts, format!("{{\"{name}\":[{list}]}}").as_bytes());
    for text in texts {
        if list.len() + text.len() > PIECE {
            orders.push(message(&list)?);
            list.clear();
        }
        if !list.is_empty() {
            list.push(',');
        }
        list.push_str(text);
    }
    if !list.is_empty() {
        orders.push(message(&list)?);
    }
    Ok(orders)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(text: &str) -> Result<FactTexts, String> {
        FactTexts::parse(text.as_bytes(), &["10.0.0.0/8".parse().unwrap()])
    }

    fn texts(orders: &[Order]) -> Vec<String> {
        orders.iter().map(|order| String::from_utf8(order.parts()[1].to_vec()).unwrap()).collect()
    }

    #[test]
    fn only_what_has_changed_is_said() {
        let one = r#"{"prefix":"10.1.0.1","class":"internal"}"#;
        let other = r#"{"prefix":"10.1.0.2","class":"external"}"#;
        let before = facts(&format!(r#"{{"learn":[{one},{other}]}}"#)).unwrap();
        assert_eq!(texts(&before.learn().unwrap()), [format!(r#"{{"learn":[{one},{other}]}}"#)]);
        assert!(before.changed_from(&before).unwrap().is_empty());
        let third = r#"{"prefix":"10.1.0.2","class":"internal"}"#;
        let after = facts(&format!(r#"{{"learn":[ {third} ]}}"#)).unwrap();
        assert_eq!(
            texts(&after.changed_from(&before).unwrap()),
            [format!(r#"{{"learn":[{third}]}}"#), r#"{"forget":["10.1.0.1/32"]}"#.to_owned()]
        );
        assert_eq!(
            texts(&FactTexts::default().changed_from(&after).unwrap()),
            [r#"{"forget":["10.1.0.2/32"]}"#]
        );
    }

    #[test]
    fn many_facts_are_said_in_pieces_that_a_program_takes() {
        let list: Vec<String> = (0..40_000)
            .map(|number| {
                format!(r#"{{"prefix":"10.1.{}.{}","class":"internal"}}"#, number / 250, number % 250)
            })
            .collect();
        let many = facts(&format!(r#"{{"learn":[{}]}}"#, list.join(","))).unwrap();
        let said = texts(&many.learn().unwrap());
        assert!(said.len() > 2);
        let again = said.iter().map(|text| facts(text).unwrap().0.len()).sum::<usize>();
        assert_eq!(again, 40_000);
    }

    #[test]
    fn a_file_that_no_program_would_take_is_refused() {
        for (text, reason) in [
            ("", "is no JSON object"),
            (r#"{"learn":[{"prefix":"192.0.2.1","class":"internal"}]}"#, "lies outside"),
            (r#"{"forget":["10.1.0.1"]}"#, "unknown field `forget`"),
        ] {
            let said = facts(text).expect_err(text);
            assert!(said.contains(reason), "{text}: {said}");
        }
    }
}
