//! Settings of interfaces in `/proc/sys/net`, which shows the namespace of the thread that opens a file
//! (`net_ctl_header_lookup`, net/sysctl_net.c). All functions act on the calling thread's namespace.

use std::{
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use crate::name::InterfaceName;

/// Strict reverse path filtering (RFC 3704): drops the tunnel's own packets, whose reverse path is the TUN device.
const STRICT: u8 = 1;
/// Loose filtering: the source must be reachable through any interface.
pub(crate) const LOOSE: u8 = 2;

/// Settings that a TUN device needs before it goes up: no link-local address and no router solicitation into the
/// tunnel, no belief in router advertisements and redirects out of it. The first is IPv4's, the others go with IPv6.
const TUN: [Setting; 6] = [
    Setting { family: Family::V4, key: RP_FILTER, value: 0 },
    // Before accept_ra, which would otherwise be obeyed for a moment. 1: IN6_ADDR_GEN_MODE_NONE.
    Setting { family: Family::V6, key: ADDR_GEN_MODE, value: 1 },
    Setting { family: Family::V6, key: "accept_ra", value: 0 },
    Setting { family: Family::V6, key: "accept_redirects", value: 0 },
    Setting { family: Family::V6, key: "autoconf", value: 0 },
    Setting { family: Family::V6, key: "router_solicitations", value: 0 },
];

/// The two that netlink sets as well.
pub(crate) const RP_FILTER: &str = "rp_filter";
pub(crate) const ADDR_GEN_MODE: &str = "addr_gen_mode";

/// A setting of a device and the value that it has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Setting {
    family: Family,
    pub(crate) key: &'static str,
    pub(crate) value: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// Returns the settings of the TUN device that are not as they have to be, without IPv6's where the kernel or the device
/// has none.
pub(crate) fn altered(tun: InterfaceName) -> io::Result<Vec<Setting>> {
    let mut altered = Vec::new();
    for setting in TUN {
        match read(&path(setting.family, tun.as_str(), setting.key)) {
            Err(error) if setting.family == Family::V6 && error.kind() == io::ErrorKind::NotFound => {}
            // -1, of router_solicitations: without end.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => altered.push(setting),
            value => {
                if value? != setting.value {
                    altered.push(setting);
                }
            }
        }
    }
    Ok(altered)
}

/// Files of the TUN device's settings, kept open: of changes of most of them the kernel tells nothing, so that they are read
/// each second, by a call each.
#[derive(Debug, Default)]
pub(crate) struct Watched(Vec<(fs::File, u8)>);

impl Watched {
    /// Opens those that are as they have to be. What is not there, or cannot be set, is not watched.
    pub(crate) fn open(tun: InterfaceName) -> Self {
        let open = |setting: &Setting| {
            let file = fs::File::open(path(setting.family, tun.as_str(), setting.key)).ok()?;
            shows(&file, setting.value).then_some((file, setting.value))
        };
        Self(TUN.iter().filter_map(open).collect())
    }

    /// Tells if any is another one now, or is gone, as where the device got another name.
    pub(crate) fn has_changed(&self) -> bool {
        !self.0.iter().all(|(file, value)| shows(file, *value))
    }
}

fn shows(file: &fs::File, value: u8) -> bool {
    let mut text = [0; 16];
    let read = file.read_at(&mut text, 0).ok().and_then(|read| text.get(..read));
    let shown = read.and_then(|text| str::from_utf8(text).ok()?.trim().parse::<u8>().ok());
    shown == Some(value)
}

/// Sets what of the TUN device's settings is not as it has to be. Returns those that cannot be written here: in many
/// containers `/proc/sys` is read-only.
pub(crate) fn prepare_tun(tun: InterfaceName) -> io::Result<Vec<Setting>> {
    let mut refused = Vec::new();
    for setting in altered(tun)? {
        match write(&path(setting.family, tun.as_str(), setting.key), setting.value) {
            Err(error) if is_read_only(&error) => refused.push(setting),
            result => result?,
        }
    }
    Ok(refused)
}

/// Tells if a setting cannot be written, as in a container, and not for lack of the setting.
pub(crate) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// The interface's own `rp_filter` where it has to be relaxed: where strict filtering is in effect, which is the
/// larger of the interface's value and that of all (Documentation/networking/ip-sysctl.rst).
pub(crate) fn strict_rp_filter(interface: InterfaceName) -> io::Result<Option<u8>> {
    let own = read(&path(Family::V4, interface.as_str(), "rp_filter"))?;
    let all = read(&path(Family::V4, "all", "rp_filter"))?;
    Ok((own.max(all) == STRICT).then_some(own))
}

/// Makes the interface's reverse path filter loose.
pub(crate) fn relax_rp_filter(interface: InterfaceName) -> io::Result<()> {
    write(&path(Family::V4, interface.as_str(), "rp_filter"), LOOSE)
}

/// Puts back what [`strict_rp_filter`] returned, unless somebody changed the value since or the interface is gone.
pub(crate) fn restore_rp_filter(interface: InterfaceName, before: u8) -> io::Result<()> {
    let path = path(Family::V4, interface.as_str(), "rp_filter");
    match read(&path) {
        Ok(LOOSE) => write(&path, before),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn path(family: Family, interface: &str, key: &str) -> PathBuf {
    let family = match family {
        Family::V4 => "/proc/sys/net/ipv4/conf",
        Family::V6 => "/proc/sys/net/ipv6/conf",
    };
    Path::new(family).join(interface).join(key)
}

fn read(path: &Path) -> io::Result<u8> {
    fs::read_to_string(path)?.trim().parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn write(path: &Path, value: u8) -> io::Result<()> {
    // Not fs::write: these files cannot be created or truncated.
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, value.to_string().as_bytes())
}
