//! The state of a namespace as text, to prove that a program has put everything back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::net::IpAddr;
use std::{fs, io};

use crate::error::{During, Result};
use crate::netlink::{Netlink, Request, attributes};
use crate::netns::{NetNs, read_sysctl};

/// Devices, addresses, routes of all tables, rules, network settings and nftables tables of a namespace.
///
/// Counters, ages and neighbours are left out: they change by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: BTreeSet<String>,
}

impl Snapshot {
    /// Looks at a namespace.
    ///
    /// # Errors
    /// [`Error::Os`](crate::Error::Os) if the kernel refuses to list devices, routes, rules or nftables.
    pub fn take(netns: &NetNs) -> Result<Self> {
        let lines = netns.run(|| -> io::Result<BTreeSet<String>> {
            let mut route = Netlink::route()?;
            let devices = devices(&mut route)?;
            let mut lines: BTreeSet<String> = devices.values().map(|device| device.line.clone()).collect();
            lines.extend(addresses(&mut route, &devices)?);
            for (family, family_name) in [(libc::AF_INET as u8, "v4"), (libc::AF_INET6 as u8, "v6")] {
                lines.extend(routes(&mut route, family, family_name, &devices)?);
                lines.extend(rules(&mut route, family, family_name)?);
            }
            lines.extend(tables(&mut Netlink::netfilter()?)?);
            lines.extend(settings());
            Ok(lines)
        });
        Ok(Self { lines: lines.during("look at a namespace")? })
    }

    /// Lists the lines that `later` lacks (`- line`) and those it has besides (`+ line`); empty if they are equal.
    pub fn difference(&self, later: &Self) -> Vec<String> {
        let gone = self.lines.difference(&later.lines).map(|line| format!("- {line}"));
        gone.chain(later.lines.difference(&self.lines).map(|line| format!("+ {line}"))).collect()
    }

    /// The lines that begin with `start`, such as `route v4 table 8362`, `rule`, `device tenc0`, `nftables inet`.
    pub fn lines<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a str> {
        self.lines.iter().map(String::as_str).filter(move |line| line.starts_with(start))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

struct Device {
    name: String,
    line: String,
}

type Devices = BTreeMap<u32, Device>;

fn devices(netlink: &mut Netlink) -> io::Result<Devices> {
    let mut devices = Devices::new();
    // struct ifinfomsg
    for (_, body) in netlink.dump(&Request::new(libc::RTM_GETLINK, 0, &[0; 16]))? {
        let Some((header, rest)) = body.split_at_checked(16) else { continue };
        let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
        let name = text(found.get(&libc::IFLA_IFNAME));
        let info = found.get(&libc::IFLA_LINKINFO).copied().unwrap_or_default();
        let kind = attributes(info).find(|(kind, _)| *kind == libc::IFLA_INFO_KIND).map(|(_, value)| value);
        let line = format!(
            "device {name} kind {} mtu {} flags {:#x} address {} master {}",
            text(kind.as_ref()),
            number(found.get(&libc::IFLA_MTU)),
            word(header, 8),
            hex(found.get(&libc::IFLA_ADDRESS).copied().unwrap_or_default()),
            number(found.get(&libc::IFLA_MASTER)),
        );
        devices.insert(word(header, 4), Device { name, line });
    }
    Ok(devices)
}

fn addresses(netlink: &mut Netlink, devices: &Devices) -> io::Result<Vec<String>> {
    const IFA_FLAGS: u16 = 8;
    let mut lines = Vec::new();
    // struct ifaddrmsg
    for (_, body) in netlink.dump(&Request::new(libc::RTM_GETADDR, 0, &[0; 8]))? {
        let Some((header, rest)) = body.split_at_checked(8) else { continue };
        let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
        let address =
            found.get(&libc::IFA_LOCAL).or(found.get(&libc::IFA_ADDRESS)).copied().unwrap_or_default();
        let (device, flags) = (device_name(devices, word(header, 4)), number(found.get(&IFA_FLAGS)));
        lines.push(format!(
            "address {}/{} device {device} flags {flags} scope {}",
            ip(address),
            header[1],
            header[3]
        ));
    }
    Ok(lines)
}

fn routes(
    netlink: &mut Netlink,
    family: u8,
    family_name: &str,
    devices: &Devices,
) -> io::Result<Vec<String>> {
    const RTA_TABLE: u16 = 15;
    let mut lines = Vec::new();
    // struct rtmsg: family, destination length, source length, TOS, table, protocol, scope, type, flags
    let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (_, body) in netlink.dump(&Request::new(libc::RTM_GETROUTE, 0, &header))? {
        let Some((header, rest)) = body.split_at_checked(12) else { continue };
        let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
        let table = number(found.get(&RTA_TABLE));
        let to = found.get(&libc::RTA_DST).map_or("default".to_owned(), |to| ip(to));
        let mut line =
            format!("route {family_name} table {table} {to}/{} {}", header[1], route_type(header[7]));
        for (kind, value) in &found {
            // Writing to a String cannot fail.
            let _ = match *kind {
                libc::RTA_OIF => write!(line, " device {}", device_name(devices, word(value, 0))),
                libc::RTA_GATEWAY => write!(line, " via {}", ip(value)),
                libc::RTA_PREFSRC => write!(line, " source {}", ip(value)),
                libc::RTA_PRIORITY => write!(line, " metric {}", word(value, 0)),
                libc::RTA_DST | RTA_TABLE | libc::RTA_CACHEINFO => Ok(()),
                other => write!(line, " attribute{other} {}", hex(value)),
            };
        }
        lines.push(format!("{line} protocol {} scope {} flags {:#x}", header[5], header[6], word(header, 8)));
    }
    Ok(lines)
}

/// include/uapi/linux/fib_rules.h
fn rules(netlink: &mut Netlink, family: u8, family_name: &str) -> io::Result<Vec<String>> {
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_TABLE: u16 = 15;
    const FIB_RULE_INVERT: u32 = 2;
    let mut lines = Vec::new();
    // struct fib_rule_hdr
    let header = [family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (_, body) in netlink.dump(&Request::new(libc::RTM_GETRULE, 0, &header))? {
        let Some((header, rest)) = body.split_at_checked(12) else { continue };
        let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
        let not = if word(header, 8) & FIB_RULE_INVERT != 0 { "not " } else { "" };
        let mut line = format!("rule {family_name} preference {} {not}", number(found.get(&FRA_PRIORITY)));
        for (kind, value) in &found {
            // Writing to a String cannot fail.
            let _ = match *kind {
                FRA_FWMARK => write!(line, "mark {:#x} ", word(value, 0)),
                FRA_TABLE => write!(line, "table {} ", word(value, 0)),
                FRA_PRIORITY => Ok(()),
                other => write!(line, "attribute{other} {} ", hex(value)),
            };
        }
        lines.push(format!("{line}action {}", header[7]));
    }
    Ok(lines)
}

fn tables(netlink: &mut Netlink) -> io::Result<Vec<String>> {
    const NFT_MSG_GETTABLE: u16 = 1;
    const NFTA_TABLE_NAME: u16 = 1;
    const NFTA_TABLE_USE: u16 = 3;
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | NFT_MSG_GETTABLE;
    let mut lines = Vec::new();
    // struct nfgenmsg: family, version, resource
    for (_, body) in netlink.dump(&Request::new(kind, 0, &[0; 4]))? {
        let Some((header, rest)) = body.split_at_checked(4) else { continue };
        let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
        let family = match i32::from(header[0]) {
            libc::NFPROTO_INET => "inet".to_owned(),
            libc::NFPROTO_IPV4 => "ip".to_owned(),
            libc::NFPROTO_IPV6 => "ip6".to_owned(),
            other => format!("family{other}"),
        };
        let chains = found.get(&NFTA_TABLE_USE).map_or_else(String::new, |value| hex(value));
        lines.push(format!("nftables {family} {} objects {chains}", text(found.get(&NFTA_TABLE_NAME))));
    }
    Ok(lines)
}

/// The settings of both families and of the devices a pod has at its start.
fn settings() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["ipv4", "ipv6"] {
        let places =
            ["conf/all", "conf/default", "conf/lo", "conf/eth0"].map(|place| format!("{family}/{place}"));
        for place in std::iter::once(family).chain(places.iter().map(String::as_str)) {
            let Ok(entries) = fs::read_dir(format!("/proc/sys/net/{place}")) else { continue };
            for entry in entries.flatten() {
                let setting = format!("{place}/{}", entry.file_name().to_string_lossy());
                if let Some(value) = read_sysctl(&setting) {
                    lines.push(format!("setting {setting} {value}"));
                }
            }
        }
    }
    lines
}

fn route_type(number: u8) -> String {
    let known = [
        (libc::RTN_UNICAST, "unicast"),
        (libc::RTN_LOCAL, "local"),
        (libc::RTN_BROADCAST, "broadcast"),
        (libc::RTN_ANYCAST, "anycast"),
        (libc::RTN_MULTICAST, "multicast"),
        (libc::RTN_BLACKHOLE, "blackhole"),
        (libc::RTN_UNREACHABLE, "unreachable"),
        (libc::RTN_PROHIBIT, "prohibit"),
        (libc::RTN_THROW, "throw"),
    ];
    let name = known.iter().find(|(value, _)| *value == number);
    name.map_or_else(|| format!("type{number}"), |(_, name)| (*name).to_owned())
}

fn device_name(devices: &Devices, index: u32) -> &str {
    devices.get(&index).map_or("none", |device| &device.name)
}

fn ip(bytes: &[u8]) -> String {
    let address = match bytes.len() {
        4 => bytes.first_chunk().map(|octets: &[u8; 4]| IpAddr::from(*octets)),
        _ => bytes.first_chunk().map(|octets: &[u8; 16]| IpAddr::from(*octets)),
    };
    address.map_or_else(|| hex(bytes), |address| address.to_string())
}

fn text(bytes: Option<&&[u8]>) -> String {
    let bytes = bytes.copied().unwrap_or(b"none");
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

fn number(bytes: Option<&&[u8]>) -> u32 {
    bytes.map_or(0, |bytes| word(bytes, 0))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
