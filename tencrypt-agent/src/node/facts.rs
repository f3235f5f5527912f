//! Facts that the agent tells of a tenant's pods and services: authoritative, and of the source Kubernetes.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use serde::Deserialize;
use tencrypt::{
    directory::{Class, Fact, FactSource},
    nat::ServicePort,
};

use super::message::json;
use crate::config::fact_rules;

/// Facts that are new, and prefixes of which there is none any more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Facts that take the place of those about the same prefixes.
    pub(crate) learn: Vec<Fact>,
    /// Prefixes that nothing is said about any more.
    pub(crate) forget: Vec<IpNet>,
}

/// Facts as JSON has them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    learn: Vec<FactText>,
    #[serde(default)]
    forget: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FactText {
    prefix: String,
    class: ClassText,
    #[serde(default)]
    endpoints: Vec<IpAddr>,
    #[serde(default)]
    ports: BTreeMap<u16, u16>,
}

/// Exempt ranges are part of what is captured, which the configuration says at the start.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClassText {
    Internal,
    External,
}

impl Facts {
    /// Reads facts, which have to keep the rules for those of a configuration file with these `protected` ranges. All of them
    /// count, or none.
    ///
    /// # Errors
    /// The first that is wrong, in a line.
    pub(crate) fn parse(bytes: &[u8], protected: &[IpNet]) -> Result<Self, String> {
        let text: Text = json(bytes)?;
        let learn = text.learn.into_iter().map(|fact| fact.read(protected)).collect::<Result<_, _>>()?;
        let forget = text.forget.iter().map(|prefix| fact_rules::range(prefix)).collect::<Result<_, _>>()?;
        Ok(Self { learn, forget })
    }
}

impl Facts {
    /// Returns what stands after all of these, one after the other: one fact about a prefix.
    pub(crate) fn folded(messages: impl IntoIterator<Item = Self>) -> Vec<Fact> {
        let mut standing = BTreeMap::new();
        for Self { learn, forget } in messages {
            for prefix in &forget {
                standing.remove(prefix);
            }
            standing.extend(learn.into_iter().map(|fact| (fact.prefix, fact)));
        }
        standing.into_values().collect()
    }
}

impl FactText {
    fn read(self, protected: &[IpNet]) -> Result<Fact, String> {
        let prefix = fact_rules::range(&self.prefix)?;
        let about = |reason: &dyn std::fmt::Display| format!("{prefix}: {reason}");
        let class = match self.class {
            ClassText::Internal => Class::Internal,
            ClassText::External => Class::External,
        };
        fact_rules::check_prefix(prefix, class, protected).map_err(|reason| about(&reason))?;
        for endpoint in &self.endpoints {
            fact_rules::check_endpoint(*endpoint, prefix, protected).map_err(|reason| about(&reason))?;
        }
        if !self.endpoints.is_empty() {
            fact_rules::check_service(prefix, class).map_err(|reason| about(&reason))?;
        } else if !self.ports.is_empty() {
            return Err(about(&fact_rules::PORTS_ALONE));
        }
        if self.ports.iter().any(|(port, target)| *port == 0 || *target == 0) {
            return Err(about(&"0 is no port"));
        }
        let ports: Vec<_> =
            self.ports.into_iter().map(|(port, target)| ServicePort::new(port, target)).collect();
        Ok(Fact::new(prefix, class, FactSource::Kubernetes, None).with_endpoints(self.endpoints, ports))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Facts, String> {
        Facts::parse(text.as_bytes(), &["10.0.0.0/8".parse().unwrap(), "fd00::/16".parse().unwrap()])
    }

    #[test]
    fn pods_services_and_what_is_gone_are_read() {
        let facts = parse(
            r#"{"learn": [{"prefix": "10.1.0.0/16", "class": "internal"},
                {"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5", "10.1.0.6"],
                 "ports": {"80": 8080, "443": 8443}},
                {"prefix": "10.2.0.9", "class": "external"}],
                "forget": ["10.3.0.0/24", "fd00::7"]}"#,
        )
        .unwrap();
        let fact = |prefix: &str, class| {
            let prefix = fact_rules::range(prefix).unwrap();
            Fact::new(prefix, class, FactSource::Kubernetes, None)
        };
        let [one, other] = ["10.1.0.5", "10.1.0.6"].map(|address| address.parse().unwrap());
        let service = fact("10.96.0.7", Class::Internal)
            .with_endpoints([one, other], [ServicePort::new(80, 8080), ServicePort::new(443, 8443)]);
        let learn = [fact("10.1.0.0/16", Class::Internal), service, fact("10.2.0.9", Class::External)];
        assert_eq!(facts.learn, learn);
        assert_eq!(facts.forget, ["10.3.0.0/24".parse().unwrap(), "fd00::7/128".parse().unwrap()]);
        assert_eq!(parse("{}"), Ok(Facts::default()));
    }

    #[test]
    fn of_several_messages_the_last_word_about_a_prefix_stands() {
        let messages = [
            r#"{"learn": [{"prefix": "10.1.0.5", "class": "external"}, {"prefix": "10.1.0.6", "class": "external"}]}"#,
            r#"{"learn": [{"prefix": "10.1.0.7", "class": "internal"}], "forget": ["10.1.0.5", "10.9.9.9"]}"#,
            r#"{"learn": [{"prefix": "10.1.0.6", "class": "internal"}], "forget": ["10.1.0.6"]}"#,
        ];
        let folded = Facts::folded(messages.map(|text| parse(text).unwrap()));
        let standing: Vec<_> = folded.iter().map(|fact| (fact.prefix.to_string(), fact.class)).collect();
        let internal = |prefix: &str| (prefix.to_owned(), Class::Internal);
        assert_eq!(standing, [internal("10.1.0.6/32"), internal("10.1.0.7/32")]);
    }

    #[test]
    fn one_that_is_wrong_is_named_and_none_counts() {
        let one =
            |fact: &str| format!(r#"{{"learn": [{{"prefix": "10.1.0.5", "class": "internal"}}, {fact}]}}"#);
        for (text, reason) in [
            (String::new(), "is no JSON object"),
            ("[]".to_owned(), "is no JSON object"),
            ("{".to_owned(), "EOF"),
            (r#"{"learnt": []}"#.to_owned(), "unknown field"),
            (r#"{"forget": ["10.0.0.1/8"]}"#.to_owned(), "host bits"),
            (r#"{"forget": ["everything"]}"#.to_owned(), "expected an address or a range"),
            (one(r#"{"prefix": "10.2.0.9"}"#), "class"),
            (one(r#"{"prefix": "10.2.0.9", "class": "exempt"}"#), "exempt"),
            (one(r#"{"prefix": "10.2.0.9", "class": "internal", "owner": "x"}"#), "owner"),
            (one(r#"{"prefix": "192.0.2.1", "class": "internal"}"#), "192.0.2.1/32: lies outside"),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["192.0.2.1"]}"#),
                "lies outside",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["fd00::1"]}"#),
                "differ in family",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.0.0.300"]}"#),
                "IP address",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "external", "endpoints": ["10.1.0.5"]}"#),
                "only an internal",
            ),
            (
                one(r#"{"prefix": "10.96.0.0/24", "class": "internal", "endpoints": ["10.1.0.5"]}"#),
                "one address",
            ),
            (
                one(r#"{"prefix": "10.96.0.7", "class": "internal", "ports": {"80": 8080}}"#),
                "ports need endpoints",
            ),
            (
                one(
                    r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5"], "ports": {"0": 1}}"#,
                ),
                "0 is no port",
            ),
            (
                one(
                    r#"{"prefix": "10.96.0.7", "class": "internal", "endpoints": ["10.1.0.5"], "ports": {"80": 65536}}"#,
                ),
                "65536",
            ),
        ] {
            let said = parse(&text).expect_err(&text);
            assert!(said.contains(reason), "{text}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
}
