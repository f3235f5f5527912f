//! The beginning of a program that an agent has started: everything is given over the channel before anything is touched.

use std::{
    io::{self, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SocketType, recvmsg,
    sockopt,
};
use tencrypt::{
    KeyRing,
    directory::Fact,
    trust::{AuthorityKey, CertificateFile, Revocation, Trust},
};
use tencrypt_tun::NetNs;

use super::{
    facts::Facts,
    frame::{HEADER_LEN, Header, Kind, Payload},
    message::{self, Malformed, Message, Pod, Versions},
    said::{Hello, Said},
};
use crate::{
    config::Config,
    failure::{Exit, Failure},
    keys::{credentials::Credentials, material::Material},
    os::sys,
};

/// The time that the program waits for the agent to go on. One that prepares an upgrade lets it wait before `complete`.
const PATIENCE: Duration = Duration::from_secs(60);

/// Descriptors that are taken with one read: one more than may come, so that more are noticed.
const DESCRIPTORS: usize = 2;

/// Messages before `complete`: each kind once, and facts of the largest cluster in pieces.
const MESSAGES: usize = 1_024;

/// Most bytes of facts before `complete`: 65,536 of the longest that are usual.
const FACTS: usize = 16 << 20;

/// Everything that the agent gives at the beginning.
#[derive(Debug)]
pub(crate) struct Given {
    /// The pod, as the agent calls it.
    pub(crate) pod: Pod,
    /// Its namespace.
    pub(crate) namespace: NetNs,
    /// The settings.
    pub(crate) config: Config,
    /// The tenant's keys.
    pub(crate) keys: KeyRing,
    /// Whom to trust, and the certificate if there is one already.
    pub(crate) credentials: Credentials,
    /// The content of the pod's resolv.conf.
    pub(crate) resolv_conf: Option<Vec<u8>>,
    /// Facts about the tenant.
    pub(crate) facts: Vec<Fact>,
}

/// The channel at the descriptor that the agent has left open for the program.
#[derive(Debug)]
pub(crate) struct Channel {
    stream: UnixStream,
    descriptors: Vec<OwnedFd>,
}

impl Channel {
    /// Takes the channel. To be called once, before the program opens anything.
    ///
    /// # Errors
    /// A [`Failure`] with [`Exit::Usage`]: the descriptor is not open, or is no stream socket of this machine's whose other end
    /// is root's or this user's.
    pub(crate) fn take(number: RawFd) -> Result<Self, Failure> {
        let refuse = |reason: &str| Failure::new(Exit::Usage, format_args!("descriptor {number} {reason}"));
        let descriptor =
            sys::inherited(number).map_err(|error| refuse(&format!("cannot be used: {error}")))?;
        let is_stream = sockopt::socket_domain(&descriptor) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&descriptor) == Ok(SocketType::STREAM)
            && sockopt::socket_acceptconn(&descriptor) == Ok(false);
        if !is_stream {
            return Err(refuse("is no connected Unix stream socket"));
        }
        let stream = UnixStream::from(descriptor);
        if stream.peer_addr().is_err() {
            return Err(refuse("is no connected Unix stream socket"));
        }
        if !sys::is_peer_allowed(stream.as_fd()).unwrap_or(false) {
            return Err(refuse("leads to another user"));
        }
        stream.set_nonblocking(false).map_err(|error| refuse(&error.to_string()))?;
        Ok(Self { stream, descriptors: Vec::new() })
    }

    /// Receives everything up to `complete`.
    ///
    /// # Errors
    /// A [`Failure`]: something is missing or wrong, or the agent goes away or falls silent.
    pub(crate) fn receive(&mut self) -> Result<Given, Failure> {
        self.collect()?.complete()
    }

    /// Tells the agent why the program ends.
    pub(crate) fn tell_failure(&self, failure: &Failure) {
        tell_failure(&self.stream, failure);
    }

    /// Returns the channel, over which everything was given.
    pub(crate) fn into_stream(self) -> UnixStream {
        self.stream
    }

    fn collect(&mut self) -> Result<Parts, Failure> {
        let mut parts = Parts::default();
        let Message::Hello(versions) = self.next()? else {
            return Err(Failure::new(Exit::Usage, "the agent's first message is no `hello`"));
        };
        let protocol = versions.common().ok_or_else(|| no_common_version(versions))?;
        let hello = Said::Hello(Hello {
            protocol,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            pod: None,
        });
        self.stream.write_all(&hello.frame()).map_err(|error| gone(&error))?;
        for _ in 0..MESSAGES {
            let message = self.next()?;
            if matches!(message, Message::Complete) {
                return Ok(parts);
            }
            let descriptor = self.descriptors.pop();
            parts.take(message, descriptor)?;
        }
        Err(Failure::new(
            Exit::Usage,
            format_args!("the agent gives more than {MESSAGES} messages at the start"),
        ))
    }

    /// Reads the next message.
    fn next(&mut self) -> Result<Message, Failure> {
        let limit = Instant::now() + PATIENCE;
        let mut header = [0; HEADER_LEN];
        self.read(&mut header, limit)?;
        let header = Header::parse(header).map_err(|error| Failure::new(Exit::Usage, error))?;
        let mut payload = Payload::of(header);
        self.read(&mut payload, limit)?;
        let is_expected = self.descriptors.len() == usize::from(header.kind == Kind::Pod);
        if !is_expected {
            let name = header.kind.as_str();
            let count = self.descriptors.len();
            return Err(Failure::new(
                Exit::Usage,
                format_args!("message `{name}` came with {count} descriptors"),
            ));
        }
        Ok(Message::parse(header.kind, &payload)?)
    }

    /// Fills `bytes`, and keeps the descriptors that come with them.
    fn read(&mut self, mut bytes: &mut [u8], limit: Instant) -> Result<(), Failure> {
        while !bytes.is_empty() {
            let left = limit.saturating_duration_since(Instant::now());
            // Zero would mean to wait for ever.
            let left = Some(left.max(Duration::from_millis(1)));
            self.stream.set_read_timeout(left).map_err(|error| gone(&error))?;
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, flags) {
                Ok(received) => received,
                Err(rustix::io::Errno::INTR) => continue,
                Err(rustix::io::Errno::AGAIN) => {
                    let reason = format_args!("the agent gives nothing more for {} s", PATIENCE.as_secs());
                    return Err(Failure::runtime(reason));
                }
                Err(error) => return Err(gone(&error.into())),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                    self.descriptors.extend(descriptors);
                }
            }
            if received.flags.contains(ReturnFlags::CTRUNC) || self.descriptors.len() > DESCRIPTORS {
                return Err(Failure::new(Exit::Usage, "the agent gives more descriptors than one"));
            }
            if received.bytes == 0 {
                return Err(gone(&io::ErrorKind::UnexpectedEof.into()));
            }
            bytes = &mut bytes[received.bytes..];
        }
        Ok(())
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::new(Exit::Usage, error)
    }
}

/// Tells the agent why the program ends before it has begun.
pub(crate) fn tell_failure(channel: &UnixStream, failure: &Failure) {
    let failed = Said::Failed { exit: failure.exit as u8, reason: failure.reason.clone() };
    // An agent that does not read is its own loss.
    let _ = channel.set_write_timeout(Some(Duration::from_secs(1)));
    let mut channel = channel;
    let _ = channel.write_all(&failed.frame());
}

/// Returns the failure of an agent that speaks no version of this program's.
fn no_common_version(Versions { oldest, newest }: Versions) -> Failure {
    let own = Versions::OWN;
    Failure::new(
        Exit::Usage,
        format_args!(
            "the agent speaks versions {oldest} to {newest} of the protocol, this program {} to {}",
            own.oldest, own.newest
        ),
    )
}

fn gone(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::runtime("the agent has gone before it gave everything"),
        _ => Failure::runtime(format_args!("the agent's channel: {error}")),
    }
}

/// The parts, as they come.
#[derive(Debug, Default)]
struct Parts {
    pod: Option<(Pod, NetNs)>,
    config: Option<Box<Config>>,
    keys: Option<KeyRing>,
    authority: Option<AuthorityKey>,
    revocation: Option<Revocation>,
    certificate: Option<CertificateFile>,
    resolv_conf: Option<Vec<u8>>,
    facts: Vec<Vec<u8>>,
    /// Of the facts.
    bytes: usize,
}

impl Parts {
    fn take(&mut self, message: Message, descriptor: Option<OwnedFd>) -> Result<(), Failure> {
        let usage = |reason: String| Failure::new(Exit::Usage, reason);
        match message {
            Message::Pod(pod) => {
                let Some(descriptor) = descriptor else {
                    return Err(usage("message `pod` came without a descriptor".to_owned()));
                };
                let namespace = NetNs::from_fd(descriptor, &pod.name)
                    .map_err(|error| Failure::new(Exit::Usage, error))?;
                once(&mut self.pod, (pod, namespace), Kind::Pod)
            }
            Message::Config(config) => once(&mut self.config, config, Kind::Config),
            Message::Authority(authority) => once(&mut self.authority, authority, Kind::Authority),
            Message::ResolvConf(content) => once(&mut self.resolv_conf, content, Kind::ResolvConf),
            Message::Material(Material::Keys(read)) => once(&mut self.keys, read.map_err(usage)?, Kind::Keys),
            Message::Material(Material::Credentials { certificate, revocation }) => {
                if let Some(read) = certificate {
                    once(&mut self.certificate, read.map_err(usage)?, Kind::Certificate)?;
                }
                match revocation {
                    Some(read) => once(&mut self.revocation, read.map_err(usage)?, Kind::Revocation),
                    None => Ok(()),
                }
            }
            Message::Facts(facts) => {
                self.bytes += facts.len();
                if self.bytes > FACTS {
                    return Err(usage(format!(
                        "the agent gives more than {} MiB of facts at the start",
                        FACTS >> 20
                    )));
                }
                self.facts.push(facts);
                Ok(())
            }
            Message::End(_) => Err(Failure::runtime("the agent has called it off")),
            Message::Hello(_) | Message::Complete | Message::Renew(_) | Message::Report => {
                Err(usage("the agent sends a message that has no place before `complete`".to_owned()))
            }
        }
    }

    fn complete(self) -> Result<Given, Failure> {
        let missing = |kind: Kind| {
            Failure::new(
                Exit::Usage,
                format_args!("the agent gives no `{}` before `complete`", kind.as_str()),
            )
        };
        let (pod, namespace) = self.pod.ok_or_else(|| missing(Kind::Pod))?;
        let config = *self.config.ok_or_else(|| missing(Kind::Config))?;
        let keys = self.keys.ok_or_else(|| missing(Kind::Keys))?;
        let trust = match self.authority {
            Some(authority) => Trust::certificates(authority, config.identity.services.iter().copied()),
            None if self.revocation.is_some() || !config.identity.services.is_empty() => {
                return Err(missing(Kind::Authority));
            }
            None => Trust::key_only(),
        };
        let trust = match self.revocation {
            Some(revocation) => trust.with_revocation(revocation),
            None => trust,
        };
        let credentials = Credentials::new(trust, message::CERTIFICATE.to_owned(), self.certificate.map(Ok));
        let protected = &config.network.protected;
        let facts =
            self.facts.iter().map(|text| Facts::parse(text, protected)).collect::<Result<Vec<_>, _>>();
        let facts =
            facts.map_err(|reason| Failure::new(Exit::Usage, format_args!("message `facts`: {reason}")))?;
        let facts = Facts::folded(facts);
        Ok(Given { pod, namespace, config, keys, credentials, resolv_conf: self.resolv_conf, facts })
    }
}

/// Puts a part in its place, which is empty.
fn once<T>(place: &mut Option<T>, part: T, kind: Kind) -> Result<(), Failure> {
    match place.replace(part) {
        None => Ok(()),
        Some(_) => {
            let name = kind.as_str();
            Err(Failure::new(Exit::Usage, format_args!("the agent gives `{name}` twice before `complete`")))
        }
    }
}
