//! Network laboratory of tencrypt.

mod error;
mod link;
mod nat;
mod netlink;
mod netns;
mod resolve;
mod sys;
mod topology;
mod world;

pub use error::{Error, Result};
pub use link::Mac;
pub use nat::Ports;
pub use netns::NetNs;
pub use topology::{Node, PLAIN_MTU, Pod, VXLAN_MTU, join};
pub use world::{Entered, TEST_LIMIT, enter, init, inside, test, test_within};
