#![doc = include_str!("../README.md")]
//!
//! # Parts
//!
//! - [`test()`] and [`enter`] start this executable again in a world: namespaces of its own. [`cover`] hides a
//!   directory there.
//! - [`Node`], [`Pod`], [`join`], [`Node::service`], [`cable`]: the network.
//! - [`Sniffer`]: the leak probe. [`Snapshot`]: is a namespace as it was?
//! - [`Ping`], [`sweep`], [`transfer`], [`throughput`], [`http_get`], [`udp_echo`], [`send_bound`], [`send_train`],
//!   [`send_spoofed`], [`send_unreachable`], [`RawUdp`], [`Flood`]: traffic. Everything is bounded in time, and servers end when dropped.
//! - [`DnsServer`], [`resolve()`], [`dns_over_udp`], [`dns_over_tcp`]: names.
//! - [`Program`]: the program under test.
//!
//! Processes die with the *thread* that started them (PR_SET_PDEATHSIG): start them on a thread that lasts, such as
//! the test's own.

#[cfg(not(target_os = "linux"))]
compile_error!("tencrypt-lab needs Linux: its pods are network namespaces");

mod dns_client;
mod dns_server;
mod error;
mod flood;
mod frame;
mod http;
mod link;
mod listener;
mod nat;
mod netlink;
mod netns;
mod ping;
mod program;
mod resolve;
mod ring;
mod role;
mod snapshot;
mod sniffer;
mod spoof;
mod sys;
mod tamper;
mod tcp;
mod topology;
mod udp;
mod world;

pub use dns_client::{Asked, DnsReply, dns_over_tcp, dns_over_udp, dns_query};
pub use dns_server::{DNS_PORT, DnsServer, Exchange, Zone};
pub use error::{Error, Result};
pub use flood::{Flood, Flooded, Flooding, Source};
pub use frame::{Content, Frame, TUNNEL_PORT};
pub use http::{HttpServer, http_get};
pub use ipnet::{IpNet, Ipv4Net, Ipv6Net};
pub use link::Mac;
pub use nat::{Ports, SIDECAR_MARK, Side};
pub use netns::NetNs;
pub use ping::{Ping, PingReport, V4_HEADERS, V6_HEADERS, sweep};
pub use program::{Finished, Program, Signal, run_program};
pub use resolve::resolve;
pub use snapshot::Snapshot;
pub use sniffer::{Keep, Report, Sniffer, Watch, hexdump};
pub use spoof::{RawUdp, send_spoofed, send_unreachable};
pub use tcp::{Direction, TcpServer, Throughput, Transfer, throughput, transfer};
pub use topology::{Node, PLAIN_MTU, Pod, VXLAN_MTU, cable, join};
pub use udp::{Binding, UdpEcho, send_bound, send_train, udp_echo};
pub use world::{Entered, TEST_LIMIT, cover, enter, init, inside, test, test_within};
