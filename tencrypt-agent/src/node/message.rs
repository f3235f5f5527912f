//! The messages of the agent.

use serde::{Deserialize, Serialize};
use tencrypt::{
    KeyRing,
    trust::{AuthorityKey, CertificateFile, Revocation},
};

use super::frame::Kind;
use crate::{config::Config, keys::material::Material, report::RenewalReason};

/// The source of keys, in messages for people.
pub(crate) const KEYS: &str = "key ring of the node's agent";
/// The source of certificates.
pub(crate) const CERTIFICATE: &str = "certificate of the node's agent";
/// The source of the revocation.
const REVOCATION: &str = "revocation of the node's agent";

/// Longest name of a pod, in bytes: a namespace's (63) and a pod's (253) with a slash between them (RFC 1123 section 2.1).
const NAME: usize = 63 + 1 + 253;
/// Longest tag, in bytes.
const TAG: usize = 128;

/// A message of the agent.
#[derive(Debug)]
pub(crate) enum Message {
    /// The versions of the protocol that it speaks.
    Hello(Versions),
    /// The pod. A descriptor of its namespace comes with it.
    Pod(Pod),
    /// The configuration.
    Config(Box<Config>),
    /// The public key of the tenant's authority: peers need a certificate.
    Authority(AuthorityKey),
    /// The content of the pod's resolv.conf.
    ResolvConf(Vec<u8>),
    /// Keys, certificate or revocation. What is wrong with them is in it, and does not end the channel.
    Material(Material),
    /// Facts, as JSON: only who knows the protected ranges can judge them.
    Facts(Vec<u8>),
    /// Everything was given. Facts that were not named since `hello` hold no longer.
    Complete,
    /// Keys are to be made anew.
    Renew(RenewalReason),
    /// The status is wanted now.
    Report,
    /// The program is to end.
    End(End),
}

/// The versions of the protocol that an end speaks, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
}

impl Versions {
    /// The versions of this program.
    pub const OWN: Self = Self { oldest: 1, newest: 1 };

    /// Returns the newest version that both ends speak.
    pub fn common(self) -> Option<u16> {
        let newest = self.newest.min(Self::OWN.newest);
        (newest >= self.oldest.max(Self::OWN.oldest)).then_some(newest)
    }
}

/// The pod, as the agent calls it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pod {
    /// Its name, for people.
    pub name: String,
    /// Words of the agent's own, which every later agent is told: it knows by them what the program was given.
    #[serde(default)]
    pub tag: String,
}

/// The end that a program is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    /// Everything is undone, and the namespace is open. Else it stays closed, for the next program or for good.
    pub open: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Renew {
    reason: RenewalReason,
}

/// A message that makes no sense: the channel ends with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message `{}`: {reason}", kind.as_str())]
pub(crate) struct Malformed {
    kind: Kind,
    reason: String,
}

impl Message {
    /// Reads the payload of a message of this kind.
    ///
    /// # Errors
    /// [`Malformed`]; not for keys, certificates and revocations, whose faults are part of the message.
    pub(crate) fn parse(kind: Kind, payload: &[u8]) -> Result<Self, Malformed> {
        let malformed = |reason: &dyn std::fmt::Display| Malformed { kind, reason: reason.to_string() };
        let text = || std::str::from_utf8(payload).map_err(|_| malformed(&"is not UTF-8"));
        Ok(match kind {
            Kind::Hello => Self::Hello(json(payload).map_err(|error| malformed(&error))?),
            Kind::Pod => {
                let pod: Pod = json(payload).map_err(|error| malformed(&error))?;
                pod.check().map_err(|reason| malformed(&reason))?;
                Self::Pod(pod)
            }
            Kind::Config => {
                let config = Config::parse_given(text()?).map_err(|error| malformed(&error))?;
                Self::Config(Box::new(config))
            }
            Kind::Authority => {
                Self::Authority(AuthorityKey::parse(text()?).map_err(|error| malformed(&error))?)
            }
            Kind::ResolvConf => Self::ResolvConf(payload.to_owned()),
            Kind::Keys => Self::Material(Material::Keys(read(payload, KEYS, KeyRing::parse))),
            Kind::Revocation => {
                Self::Material(Material::revocation(read(payload, REVOCATION, Revocation::parse)))
            }
            Kind::Certificate => {
                let read = CertificateFile::parse(payload);
                let named = read.map_err(|error| format!("{CERTIFICATE}: {error}"));
                Self::Material(Material::certificate(named))
            }
            Kind::Facts => Self::Facts(payload.to_owned()),
            Kind::Complete => Self::Complete,
            Kind::Renew => {
                let Renew { reason } = json(payload).map_err(|error| malformed(&error))?;
                Self::Renew(reason)
            }
            Kind::Report => Self::Report,
            Kind::End => Self::End(json(payload).map_err(|error| malformed(&error))?),
        })
    }
}

impl Pod {
    fn check(&self) -> Result<(), &'static str> {
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if self.name.is_empty() || self.name.len() > NAME || !is_visible(&self.name) {
            return Err("a name has 1 to 317 visible ASCII characters");
        }
        if self.tag.len() > TAG || !is_visible(&self.tag) {
            return Err("a tag has at most 128 visible ASCII characters");
        }
        Ok(())
    }
}

/// Reads an object. A list of its values, which serde takes for one, is none.
///
/// # Errors
/// The reason.
pub(super) fn json<'p, T: Deserialize<'p>>(payload: &'p [u8]) -> Result<T, String> {
    if !payload.trim_ascii_start().starts_with(b"{") {
        return Err("is no JSON object".to_owned());
    }
    serde_json::from_slice(payload).map_err(|error| error.to_string())
}

/// Reads a text file that the agent has given the content of.
fn read<T, E: std::fmt::Display>(
    payload: &[u8],
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, String> {
    let text = std::str::from_utf8(payload).map_err(|_| format!("{name}: is not text"))?;
    parse(text).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(kind: Kind, payload: &[u8]) -> Result<Message, String> {
        Message::parse(kind, payload).map_err(|error| error.to_string())
    }

    #[test]
    fn the_newest_version_that_both_speak_is_taken() {
        let common = |oldest, newest| Versions { oldest, newest }.common();
        assert_eq!(common(1, 1), Some(1));
        assert_eq!(common(0, 7), Some(1));
        assert_eq!(common(2, 7), None);
        assert_eq!(common(0, 0), None);
        assert_eq!(common(7, 2), None);
    }

    #[test]
    fn a_later_agent_may_say_more_in_its_hello_and_nowhere_else() {
        let hello = parse(Kind::Hello, br#"{"oldest": 1, "newest": 2, "program": "tencrypt-node 9"}"#);
        assert!(matches!(hello, Ok(Message::Hello(Versions { oldest: 1, newest: 2 }))));
        for (kind, payload) in [
            (Kind::Pod, &br#"{"name": "shop/web-0", "node": "n"}"#[..]),
            (Kind::End, br#"{"open": true, "at": 1}"#),
            (Kind::Renew, br#"{"reason": "clone", "at": 1}"#),
        ] {
            assert!(parse(kind, payload).unwrap_err().contains("unknown field"));
        }
    }

    #[test]
    fn names_and_tags_are_short_and_can_be_printed() {
        let pod = |name: &str, tag: &str| {
            parse(Kind::Pod, serde_json::json!({"name": name, "tag": tag}).to_string().as_bytes())
        };
        assert!(matches!(pod("shop/web-0", "v1"), Ok(Message::Pod(pod)) if pod.name == "shop/web-0"));
        assert!(pod(&"n".repeat(NAME), &"t".repeat(TAG)).is_ok());
        for (name, tag) in [
            ("", "t"),
            ("a\nb", "t"),
            ("a b", "t"),
            (&*"n".repeat(NAME + 1), "t"),
            ("n", &*"t".repeat(TAG + 1)),
        ] {
            assert!(pod(name, tag).unwrap_err().contains("visible ASCII"), "{name} {tag}");
        }
    }

    #[test]
    fn wrong_keys_certificates_and_revocations_are_said_and_others_end_the_channel() {
        for payload in [&b"x"[..], b"\xff\xfe", b""] {
            let Ok(Message::Material(Material::Keys(Err(reason)))) = parse(Kind::Keys, payload) else {
                panic!("{payload:?}")
            };
            assert!(reason.starts_with(KEYS), "{reason}");
            let revocation = parse(Kind::Revocation, payload);
            let is_wrong = |message| match message {
                Ok(Message::Material(Material::Credentials { certificate, revocation })) => [
                    certificate.is_some_and(|came| came.is_err()),
                    revocation.is_some_and(|came| came.is_err()),
                ],
                other => panic!("{other:?}"),
            };
            assert_eq!(is_wrong(revocation), [false, true]);
            let certificate = parse(Kind::Certificate, payload);
            assert_eq!(is_wrong(certificate), [true, false]);
            for kind in [Kind::Hello, Kind::Pod, Kind::Config, Kind::Authority, Kind::Renew, Kind::End] {
                let said = parse(kind, payload).expect_err("no such message");
                assert!(said.starts_with(&format!("message `{}`: ", kind.as_str())), "{said}");
                assert_eq!(said.lines().count(), 1, "{said}");
            }
        }
    }
}
