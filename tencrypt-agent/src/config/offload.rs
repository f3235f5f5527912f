//! The share of segmentation and checksums that is left to the kernel.

use tencrypt::offload::GsoType;
use tencrypt_tun::{DeviceOffload, TunDevice};

/// `[network] offload`: each step holds all before it. Everything but `All` is for measuring what a step brings, and for
/// a kernel that gets one of them wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// One packet and one record a system call.
    None,
    /// Trains of records in one message (`UDP_SEGMENT`, `UDP_GRO`).
    Udp,
    /// And super-packets at the TUN device.
    Tun,
    /// And checksums that stay unfinished from one pod's application to the other's.
    All,
}

impl Offload {
    /// The names in the configuration file.
    pub const NAMES: [(&str, Self); 4] =
        [("none", Self::None), ("udp", Self::Udp), ("tun", Self::Tun), ("all", Self::All)];

    /// Tells if the transport joins records.
    #[must_use]
    pub fn transport(self) -> bool {
        self >= Self::Udp
    }

    /// Returns what the device is asked for.
    #[must_use]
    pub fn device(self) -> DeviceOffload {
        if self >= Self::Tun { DeviceOffload::ALL } else { DeviceOffload::NONE }
    }

    /// Returns the super-packets that `device`, made with these, takes in one write.
    #[must_use]
    pub fn joins(self, device: &TunDevice) -> &'static [GsoType] {
        const TCP: [GsoType; 2] = [GsoType::TcpV4, GsoType::TcpV6];
        match (device.gso_writes(), device.gso_udp_writes()) {
            _ if self < Self::Tun => &[],
            (true, true) => &GsoType::ALL,
            (true, false) => &TCP,
            (false, true) => &[GsoType::UdpL4],
            (false, false) => &[],
        }
    }

    /// Tells if peers may leave checksums unfinished.
    #[must_use]
    pub fn checksums(self) -> bool {
        self >= Self::All
    }
}
