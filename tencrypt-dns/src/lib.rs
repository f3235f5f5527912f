#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! The pod's queries pass through here on their way to the nameserver, byte for byte, and so do the replies. A reply
//! that belongs to a query is read on the side, and what it says of addresses becomes [`Fact`]s for the directory; the
//! application gets its answer only after those facts stand.
//!
//! - [`resolv_conf`]: what the pod's `/etc/resolv.conf` says: nameservers, search domains, and from these the
//!   [`Project`] the pod belongs to.
//! - [`Name`]: domain names, compared label by label.
//! - [`message`]: views of a query and of a reply that was checked against it.
//! - [`facts`]: from a checked reply to facts.
//! - [`Ranges`]: the addresses that names of the project's own may have.
//! - [`interceptor`]: the state machine between clients and upstream servers; no sockets, no clock.
//! - [`reverse`]: the reverse lookup of one address, as an optional source of facts.
//! - [`framing`]: DNS messages in a TCP stream.
//! - `proxy` (feature `proxy`): UDP and TCP on tokio around the interceptor.
//!
//! An answer that gives a name of the project's own an address that is neither protected nor exempt is withheld: the
//! application gets SERVFAIL, since nothing but DNS says that its data may leave in plain.
//!
//! Whatever libc would take passes: names that are repeated in another case, errors without a question, zone transfers in
//! as many messages as they have. A forged reply is kept out as far as plain DNS allows: it must come from the address
//! and port that was asked to a port that was opened for few queries, carry its id, and repeat its question. What one
//! that passes all this can do is the directory's concern, which never lets DNS make an internal address external.
//!
//! [`Fact`]: tencrypt::directory::Fact
#![forbid(unsafe_code)]

pub mod facts;
pub mod framing;
pub mod interceptor;
pub mod message;
mod name;
mod own_names;
mod project;
#[cfg(feature = "proxy")]
pub mod proxy;
pub mod resolv_conf;
pub mod reverse;

#[cfg(test)]
#[path = "../tests/common/wire.rs"]
mod wire;

pub use tencrypt::IpNet;

pub use facts::classify_reply;
pub use interceptor::Interceptor;
pub use name::{Name, NameError};
pub use own_names::{ForeignAddress, Ranges};
pub use project::{Project, ProjectError};
pub use resolv_conf::ResolvConf;
