//! The lines of the protocol.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{names, text};

/// The version of the protocol that this crate speaks. Another one is refused by whoever reads it.
pub const VERSION: u64 = 1;

/// Longest line of a request in bytes. With the longest names it holds 3,400 attachments, with usual ones 10,000; a node has a few
/// hundred.
pub const REQUEST_LIMIT: usize = 1 << 20;

/// Longest line of a reply in bytes.
pub const REPLY_LIMIT: usize = 64 << 10;

/// A question of the plugin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::exhaustive_enums, reason = "the agent acts on every one; another one is another version")]
pub enum Request {
    /// A pod is about to start. It is to be protected before the reply, if its namespace is enrolled. Comes with a descriptor.
    Add {
        /// The interface that it was given.
        attachment: Attachment,
        /// The pod.
        pod: Pod,
        /// Its addresses, before the API server knows them.
        addresses: Vec<IpAddr>,
    },
    /// Asks if what ADD has done still stands. Comes with a descriptor.
    Check {
        /// The interface that it was given.
        attachment: Attachment,
        /// The pod.
        pod: Pod,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// A pod ends. Comes again, comes for what was never added, and comes with a descriptor only if there still is a namespace.
    Del {
        /// The interface that is taken from it.
        attachment: Attachment,
        /// The pod, as far as it is known.
        pod: Pod,
    },
    /// Names what is still attached to a network: everything else of it may go.
    Gc {
        /// The network.
        network: String,
        /// The attachments.
        valid: Vec<Held>,
    },
    /// Asks if pods can be added.
    Status,
}

/// The key of the agent's state, with the inode of the namespace: the same pod may come again with another of both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a key that both ends build")]
pub struct Attachment {
    /// The network's name in the network configuration.
    pub network: String,
    /// The container's id, `CNI_CONTAINERID`: of Kubernetes, the sandbox.
    pub container: String,
    /// The interface's name in the pod, `CNI_IFNAME`.
    pub interface: String,
}

/// An attachment of a network that is named elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "a key that both ends build")]
pub struct Held {
    /// The container's id.
    pub container: String,
    /// The interface's name in the pod.
    pub interface: String,
}

/// The pod as the runtime calls it in `CNI_ARGS`. Runtimes that are not Kubernetes' leave out what they do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::exhaustive_structs, reason = "both ends build it")]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::exhaustive_enums, reason = "the plugin acts on every one; another one is another version")]
pub enum Reply {
    /// To ADD and CHECK: the pod is protected.
    Protected,
    /// To ADD and CHECK: the pod's namespace is not enrolled.
    Open,
    /// To DEL and GC: it is done, or nothing was to be done.
    Done,
    /// To STATUS: pods can be added.
    Ready,
    /// To every request: it cannot be done now, and why.
    Refused(String),
}

/// The reason why a line is no request, or no reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It does not end, or nothing came.
    #[error("cut off")]
    CutOff,
    /// Something follows it.
    #[error("more than one line")]
    Trailing,
    /// It is longer than it may be.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// Most bytes.
        limit: usize,
    },
    /// It is of another version of this protocol.
    #[error("version {found} of the protocol, not {VERSION}")]
    Version {
        /// Its version.
        found: u64,
    },
    /// It is no JSON, or has another shape.
    #[error("malformed")]
    Malformed,
    /// A name is none.
    #[error("`{field}` is malformed")]
    Name {
        /// The field of the request.
        field: &'static str,
    },
}

impl Request {
    /// Reads a line, its end included.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Read {
            #[serde(rename = "version")]
            _version: u64,
            request: Request,
        }
        let request = parse::<Read>(line, REQUEST_LIMIT)?.request;
        request.check()?;
        Ok(request)
    }

    /// Writes it as a line, its end included.
    ///
    /// # Errors
    /// [`LineError::TooLong`], or a name that the other end would refuse.
    pub fn line(&self) -> Result<Vec<u8>, LineError> {
        #[derive(Serialize)]
        struct Written<'r> {
            version: u64,
            request: &'r Request,
        }
        self.check()?;
        line(&Written { version: VERSION, request: self }, REQUEST_LIMIT)
    }

    /// The name that an operator knows it by.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "ADD",
            Self::Check { .. } => "CHECK",
            Self::Del { .. } => "DEL",
            Self::Gc { .. } => "GC",
            Self::Status => "STATUS",
        }
    }

    /// Tells if a reply is one to this request.
    #[must_use]
    pub fn takes(&self, reply: &Reply) -> bool {
        match reply {
            Reply::Protected | Reply::Open => matches!(self, Self::Add { .. } | Self::Check { .. }),
            Reply::Done => matches!(self, Self::Del { .. } | Self::Gc { .. }),
            Reply::Ready => matches!(self, Self::Status),
            Reply::Refused(_) => true,
        }
    }

    /// Checks the names: who reads a request makes keys, file names and log lines of them.
    fn check(&self) -> Result<(), LineError> {
        match self {
            Self::Add { attachment, pod, .. }
            | Self::Check { attachment, pod, .. }
            | Self::Del { attachment, pod } => {
                valid("network", names::is_cni_name(&attachment.network))?;
                valid("container", names::is_cni_name(&attachment.container))?;
                valid("interface", names::is_interface(&attachment.interface))?;
                valid("pod.namespace", pod.namespace.as_deref().is_none_or(names::is_namespace))?;
                valid("pod.name", pod.name.as_deref().is_none_or(names::is_pod))?;
                valid("pod.uid", pod.uid.as_deref().is_none_or(names::is_pod))
            }
            Self::Gc { network, valid: held } => {
                valid("network", names::is_cni_name(network))?;
                valid("valid.container", held.iter().all(|held| names::is_cni_name(&held.container)))?;
                valid("valid.interface", held.iter().all(|held| names::is_interface(&held.interface)))
            }
            Self::Status => Ok(()),
        }
    }
}

fn valid(field: &'static str, is_valid: bool) -> Result<(), LineError> {
    if is_valid { Ok(()) } else { Err(LineError::Name { field }) }
}

impl Reply {
    /// A refusal with its reason, as one line of at most 400 characters.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused(text::one_line(&reason.to_string(), text::REASON))
    }

    /// Reads a line, its end included.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Read {
            #[serde(rename = "version")]
            _version: u64,
            reply: Reply,
        }
        Ok(parse::<Read>(line, REPLY_LIMIT)?.reply)
    }

    /// Writes it as a line, its end included.
    ///
    /// # Errors
    /// [`LineError::TooLong`].
    pub fn line(&self) -> Result<Vec<u8>, LineError> {
        #[derive(Serialize)]
        struct Written<'r> {
            version: u64,
            reply: &'r Reply,
        }
        line(&Written { version: VERSION, reply: self }, REPLY_LIMIT)
    }
}

/// The one object in a line. Its version is looked at before its shape: another version may have any.
fn parse<'l, T: Deserialize<'l>>(line: &'l [u8], limit: usize) -> Result<T, LineError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    if line.len() > limit {
        return Err(LineError::TooLong { limit });
    }
    let (object, rest) =
        line.iter().position(|byte| *byte == b'\n').map(|end| line.split_at(end)).ok_or(LineError::CutOff)?;
    if rest.len() > 1 {
        return Err(LineError::Trailing);
    }
    let Versioned { version } = serde_json::from_slice(object).map_err(|_| LineError::Malformed)?;
    if version != VERSION {
        return Err(LineError::Version { found: version });
    }
    serde_json::from_slice(object).map_err(|_| LineError::Malformed)
}

fn line(message: &impl Serialize, limit: usize) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message).map_err(|_| LineError::Malformed)?;
    line.push(b'\n');
    if line.len() > limit { Err(LineError::TooLong { limit }) } else { Ok(line) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment { network: "pods".into(), container: "0a1b".into(), interface: "eth0".into() }
    }

    fn pod() -> Pod {
        Pod { namespace: Some("shop".into()), name: Some("web-0".into()), uid: Some("0-1".into()) }
    }

    fn requests() -> Vec<Request> {
        let addresses = vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        vec![
            Request::Add { attachment: attachment(), pod: pod(), addresses: addresses.clone() },
            Request::Check { attachment: attachment(), pod: Pod::default(), addresses },
            Request::Del {
                attachment: attachment(),
                pod: Pod { name: Some("Web_0".into()), ..Pod::default() },
            },
            Request::Gc {
                network: "pods".into(),
                valid: vec![Held { container: "0a1b".into(), interface: "eth0".into() }],
            },
            Request::Status,
        ]
    }

    #[test]
    fn requests_and_replies_are_read_as_they_were_written() {
        for request in requests() {
            assert_eq!(Request::parse(&request.line().unwrap()).unwrap(), request);
        }
        let replies =
            [Reply::Protected, Reply::Open, Reply::Done, Reply::Ready, Reply::refused("no \"key\"\nyet")];
        for reply in replies {
            assert_eq!(Reply::parse(&reply.line().unwrap()).unwrap(), reply);
        }
    }

    #[test]
    fn the_lines_are_these() {
        let written = |request: &Request| String::from_utf8(request.line().unwrap()).unwrap();
        let [add, _, del, gc, status] = &requests()[..] else { panic!("five") };
        assert_eq!(
            written(add),
            "{\"version\":1,\"request\":{\"add\":{\"attachment\":{\"network\":\"pods\",\"container\":\"0a1b\",\
             \"interface\":\"eth0\"},\"pod\":{\"namespace\":\"shop\",\"name\":\"web-0\",\"uid\":\"0-1\"},\
             \"addresses\":[\"10.244.1.7\",\"fd00::7\"]}}}\n"
        );
        assert_eq!(
            written(del),
            "{\"version\":1,\"request\":{\"del\":{\"attachment\":{\"network\":\"pods\",\"container\":\"0a1b\",\
             \"interface\":\"eth0\"},\"pod\":{\"name\":\"Web_0\"}}}}\n"
        );
        assert_eq!(
            written(gc),
            "{\"version\":1,\"request\":{\"gc\":{\"network\":\"pods\",\"valid\":[{\"container\":\"0a1b\",\
             \"interface\":\"eth0\"}]}}}\n"
        );
        assert_eq!(written(status), "{\"version\":1,\"request\":\"status\"}\n");
        assert_eq!(Reply::refused("no").line().unwrap(), b"{\"version\":1,\"reply\":{\"refused\":\"no\"}}\n");
        assert_eq!(Reply::Open.line().unwrap(), b"{\"version\":1,\"reply\":\"open\"}\n");
    }

    #[test]
    fn what_is_no_request_is_refused_by_its_fault() {
        let said = |line: &[u8]| Request::parse(line).unwrap_err().to_string();
        for line in [&b""[..], b"{\"version\":1,\"request\":\"status\"}", b"{\"version\":1,"] {
            assert_eq!(said(line), "cut off", "{line:?}");
        }
        let status = b"{\"version\":1,\"request\":\"status\"}\n";
        assert_eq!(said(&status.repeat(2)), "more than one line");
        assert_eq!(said(&[&status[..], b" "].concat()), "more than one line");
        assert_eq!(said(b"{\"version\":2,\"demand\":[]}\n"), "version 2 of the protocol, not 1");
        let malformed = [
            &b"\n"[..],
            b"garbage\n",
            b"\xff\n",
            b"[1,\"status\"]\n",
            b"{}\n",
            b"{\"request\":\"status\"}\n",
            b"{\"version\":\"1\",\"request\":\"status\"}\n",
            b"{\"version\":-1,\"request\":\"status\"}\n",
            b"{\"version\":1}\n",
            b"{\"version\":1,\"request\":\"format\"}\n",
            b"{\"version\":1,\"request\":\"add\"}\n",
            b"{\"version\":1,\"request\":\"status\",\"more\":0}\n",
            b"{\"version\":1,\"version\":1,\"request\":\"status\"}\n",
            b"{\"version\":1,\"reply\":\"open\"}\n",
            b"{\"version\":1,\"request\":{\"gc\":{\"network\":\"a\"}}}\n",
            b"{\"version\":1,\"request\":{\"gc\":{\"network\":\"a\",\"valid\":[],\"more\":0}}}\n",
            b"{\"version\":1,\"request\":\"status\"} {}\n",
        ];
        for line in malformed {
            assert_eq!(said(line), "malformed", "{}", String::from_utf8_lossy(line));
        }
        let deep = [&b"{\"version\":1,\"request\":"[..], &b"[".repeat(100_000), b"\n"].concat();
        assert_eq!(said(&deep), "malformed");
        assert_eq!(said(&vec![b' '; REQUEST_LIMIT + 1]), "longer than 1048576 bytes");
    }

    #[test]
    fn names_are_checked_by_both_ends() {
        type Spoil = fn(&mut Attachment, &mut Pod);
        let spoilt: [(Spoil, &str); 6] = [
            (|attachment, _| attachment.network = "../pods".into(), "network"),
            (|attachment, _| attachment.container = String::new(), "container"),
            (|attachment, _| attachment.interface = "a/b".into(), "interface"),
            (|_, pod| pod.namespace = Some("Shop".into()), "pod.namespace"),
            (|_, pod| pod.name = Some("a\nb".into()), "pod.name"),
            (|_, pod| pod.uid = Some("..".into()), "pod.uid"),
        ];
        for (spoil, named) in spoilt {
            let (mut attachment, mut pod) = (attachment(), pod());
            spoil(&mut attachment, &mut pod);
            let line =
                serde_json::json!({"version": 1, "request": {"del": {"attachment": attachment, "pod": pod}}});
            for error in [
                Request::parse(format!("{line}\n").as_bytes()).unwrap_err(),
                Request::Del { attachment, pod }.line().unwrap_err(),
            ] {
                assert!(matches!(error, LineError::Name { field } if field == named), "{named}: {error}");
            }
        }
        let gc = |container: &str, interface: &str| {
            let valid = vec![Held { container: container.into(), interface: interface.into() }];
            Request::Gc { network: "pods".into(), valid }.line()
        };
        assert!(gc("a", "eth0").is_ok() && gc("", "eth0").is_err() && gc("a", "..").is_err());
    }

    #[test]
    fn a_line_that_is_too_long_is_not_written() {
        let held = |at: usize| Held { container: format!("{at:064}"), interface: "eth0".into() };
        let gc = |count| Request::Gc { network: "pods".into(), valid: (0..count).map(held).collect() };
        assert!(gc(9_000).line().is_ok());
        assert!(matches!(gc(12_000).line(), Err(LineError::TooLong { limit: REQUEST_LIMIT })));
        assert!(Reply::Refused("a".repeat(REPLY_LIMIT)).line().is_err());
        assert!(Reply::refused("a".repeat(REPLY_LIMIT)).line().is_ok());
    }

    #[test]
    fn each_request_takes_its_own_replies() {
        let replies = [Reply::Protected, Reply::Open, Reply::Done, Reply::Ready, Reply::refused("")];
        let taken = requests()
            .iter()
            .map(|request| replies.each_ref().map(|reply| request.takes(reply)))
            .collect::<Vec<_>>();
        let joined = [true, true, false, false, true];
        let left = [false, false, true, false, true];
        assert_eq!(taken, [joined, joined, left, left, [false, false, false, true, true]]);
    }
}
