//! The contenders: the plain network, tencrypt and its variants, and other tunnels.

use std::time::Duration;

use clap::ValueEnum;

/// Longest wait for a program to be ready.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A way from one end to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Contender {
    /// The network without a tunnel
    Plain,
    /// tencrypt as it is configured by default
    Tencrypt,
    /// The same, from the program that `--against` names
    #[value(skip)]
    Against,
    /// tencrypt, one packet a system call
    OffloadNone,
    /// tencrypt, with offload on the side of UDP only
    OffloadUdp,
    /// tencrypt, with offload at both sides, every checksum finished
    OffloadTun,
    /// tencrypt with ChaCha20-Poly1305
    Chacha20,
    /// tencrypt without encryption
    NullCipher,
    /// WireGuard's own userspace implementation, in Go
    WireguardGo,
    /// Cloudflare's, in Rust
    #[value(name = "boringtun")]
    BoringTun,
    /// Mullvad's, in Rust
    #[value(name = "gotatun")]
    GotaTun,
}

impl Contender {
    /// All of them, in the order of the tables.
    pub(crate) const ALL: [Self; 11] = [
        Self::Plain,
        Self::Tencrypt,
        Self::Against,
        Self::OffloadNone,
        Self::OffloadUdp,
        Self::OffloadTun,
        Self::Chacha20,
        Self::NullCipher,
        Self::WireguardGo,
        Self::BoringTun,
        Self::GotaTun,
    ];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tencrypt => "tencrypt",
            Self::Against => "tencrypt, the other program",
            Self::OffloadNone => "tencrypt, offload none",
            Self::OffloadUdp => "tencrypt, offload udp",
            Self::OffloadTun => "tencrypt, offload tun",
            Self::Chacha20 => "tencrypt, chacha20-poly1305",
            Self::NullCipher => "tencrypt, null cipher",
            Self::WireguardGo => "wireguard-go",
            Self::BoringTun => "boringtun",
            Self::GotaTun => "gotatun",
        }
    }

    /// Tells if it is tencrypt in another configuration than the default one.
    pub(crate) fn is_variant(self) -> bool {
        self.is_tencrypt() && !matches!(self, Self::Tencrypt | Self::Against)
    }

    /// Tells if it is tencrypt.
    pub(crate) fn is_tencrypt(self) -> bool {
        !matches!(self, Self::Plain | Self::WireguardGo | Self::BoringTun | Self::GotaTun)
    }

    /// The lines of `[tenant]` and of `[network]` that make a variant.
    pub(crate) fn settings(self) -> (&'static str, &'static str) {
        match self {
            Self::OffloadNone => ("", "offload = \"none\"\n"),
            Self::OffloadUdp => ("", "offload = \"udp\"\n"),
            Self::OffloadTun => ("", "offload = \"tun\"\n"),
            Self::Chacha20 => ("suite = \"chacha20-poly1305\"\n", ""),
            _ => ("", ""),
        }
    }
}
