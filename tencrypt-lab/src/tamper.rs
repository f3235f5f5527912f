//! Changes that somebody else makes in a namespace: what node tools, scripts and operators do to rules, routes, devices and
//! nftables. For the calling thread's network namespace.

use std::collections::BTreeMap;

use crate::error::{During, Result};
use crate::link;
use crate::netlink::{CREATE, Netlink, Request, attributes};

const FAMILIES: [u8; 2] = [libc::AF_INET as u8, libc::AF_INET6 as u8];
const FRA_PRIORITY: u16 = 6;
const FRA_TABLE: u16 = 15;
const RTA_TABLE: u16 = 15;
/// `FR_ACT_TO_TBL` (include/uapi/linux/fib_rules.h).
const TO_TABLE: u8 = 1;

/// Deletes the rules of both families that look into `table`.
pub(crate) fn delete_rules(table: u32) -> Result<()> {
    delete(libc::RTM_GETRULE, libc::RTM_DELRULE, FRA_TABLE, table).during("delete rules")
}

/// Deletes the routes of both families in `table`.
pub(crate) fn flush_routes(table: u32) -> Result<()> {
    delete(libc::RTM_GETROUTE, libc::RTM_DELROUTE, RTA_TABLE, table).during("delete routes")
}

/// Adds a rule of both families that leads everything into the main table.
pub(crate) fn add_rule(preference: u32) -> Result<()> {
    rules(libc::RTM_NEWRULE, CREATE, preference).during("add a rule")
}

/// Deletes what [`add_rule`] added.
pub(crate) fn delete_rule(preference: u32) -> Result<()> {
    rules(libc::RTM_DELRULE, 0, preference).during("delete a rule")
}

/// Deletes all tables of nftables, as `nft flush ruleset`.
pub(crate) fn flush_nftables() -> Result<()> {
    const NFT_MSG_DELTABLE: u16 = 2;
    let kind = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | NFT_MSG_DELTABLE;
    let all = Request::new(kind, 0, &[libc::AF_UNSPEC as u8, 0, 0, 0]);
    let edge = |kind: i32| Request::new(kind as u16, 0, &[0, 0, 0, libc::NFNL_SUBSYS_NFTABLES as u8]);
    let (begin, end) = (edge(libc::NFNL_MSG_BATCH_BEGIN), edge(libc::NFNL_MSG_BATCH_END));
    Netlink::netfilter()
        .and_then(|mut netlink| netlink.transact(&begin, &[all], &end))
        .during("delete the tables of nftables")
}

/// Sets a device up or down.
pub(crate) fn set_up(name: &str, up: bool) -> Result<()> {
    link::set_up(name, up)
}

fn rules(kind: u16, flags: u16, preference: u32) -> std::io::Result<()> {
    let mut netlink = Netlink::route()?;
    for family in FAMILIES {
        let header = [family, 0, 0, 0, libc::RT_TABLE_MAIN, 0, 0, TO_TABLE, 0, 0, 0, 0];
        netlink.ask(&Request::new(kind, flags, &header).attr(FRA_PRIORITY, &preference.to_ne_bytes()))?;
    }
    Ok(())
}

/// Deletes the objects that the kernel lists with this table, as it lists them.
fn delete(list: u16, delete: u16, attribute: u16, table: u32) -> std::io::Result<()> {
    let mut netlink = Netlink::route()?;
    for family in FAMILIES {
        let query = Request::new(list, 0, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        for (_, body) in netlink.dump(&query)? {
            let Some((header, rest)) = body.split_at_checked(12) else { continue };
            let found: BTreeMap<u16, &[u8]> = attributes(rest).collect();
            if header[0] == family && found.get(&attribute) == Some(&&table.to_ne_bytes()[..]) {
                netlink.ask(&Request::new(delete, 0, header).raw(rest))?;
            }
        }
    }
    Ok(())
}
