//! Network laboratory of tencrypt.

mod dns_client;
mod dns_server;
mod error;
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
mod sniffer;
mod sys;
mod tcp;
mod topology;
mod udp;
mod world;

pub use dns_client::{Asked, DnsReply, dns_over_tcp, dns_over_udp, dns_query};
pub use dns_server::{DNS_PORT, DnsServer, Exchange, Zone};
pub use error::{Error, Result};
pub use frame::{Content, Frame, TUNNEL_PORT};
pub use http::{HttpServer, http_get};
pub use link::Mac;
pub use nat::Ports;
pub use netns::NetNs;
pub use ping::{Ping, PingReport, V4_HEADERS, V6_HEADERS, sweep};
pub use program::{Finished, Program, Signal, run_program};
pub use resolve::resolve;
pub use sniffer::{Keep, Report, Sniffer, Watch, hexdump};
pub use tcp::{Direction, TcpServer, Throughput, Transfer, throughput, transfer};
pub use topology::{Node, PLAIN_MTU, Pod, VXLAN_MTU, join};
pub use udp::{Binding, UdpEcho, send_bound, udp_echo};
pub use world::{Entered, TEST_LIMIT, enter, init, inside, test, test_within};
