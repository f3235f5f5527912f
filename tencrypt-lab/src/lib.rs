//! Network laboratory of tencrypt.

mod error;
mod frame;
mod link;
mod nat;
mod netlink;
mod netns;
mod resolve;
mod ring;
mod sniffer;
mod sys;
mod topology;
mod world;

pub use error::{Error, Result};
pub use frame::{Content, Frame, TUNNEL_PORT};
pub use link::Mac;
pub use nat::Ports;
pub use netns::NetNs;
pub use sniffer::{Keep, Report, Sniffer, Watch, hexdump};
pub use topology::{Node, PLAIN_MTU, Pod, VXLAN_MTU, join};
pub use world::{Entered, TEST_LIMIT, enter, init, inside, test, test_within};
