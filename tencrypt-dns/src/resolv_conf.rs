//! Reader of `resolv.conf(5)`.
//!
//! It follows the libc readers where they agree: one keyword a line, the last `search` or `domain` line wins, lines
//! that make no sense are passed over ([`ResolvConf::ignored`] tells which). More nameservers than libc's three are
//! kept: capturing one that nobody asks costs a route.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use tencrypt::packet::is_host_address;
use thiserror::Error;

use crate::{Name, Project, ProjectError};

/// Largest file that is read, in bytes. Kubernetes writes a few hundred; its limit on the search list is 2,048
/// characters.
pub const MAX_FILE: usize = 64 * 1024;
/// Longest line that is read, in bytes.
pub const MAX_LINE: usize = 8 * 1024;
/// Nameservers that are kept; libc asks three.
pub const MAX_NAMESERVERS: usize = 16;
/// Search domains that are kept; Kubernetes admits 32 in a pod.
pub const MAX_SEARCH: usize = 64;

/// Content of a `resolv.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolvConf {
    /// Nameservers in their order; none means that libc asks its own host.
    pub nameservers: Vec<Nameserver>,
    /// Search domains in their order.
    pub search: Vec<Name>,
    /// Options.
    pub options: Options,
    /// Numbers, from 1, of lines that were passed over: unknown keyword, bad address, bad domain, beyond a limit.
    pub ignored: Vec<usize>,
}

/// One nameserver.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Nameserver {
    /// An address.
    Address(IpAddr),
    /// A link-local IPv6 address with its interface, as `fe80::1%eth0`.
    Scoped {
        /// The address.
        address: Ipv6Addr,
        /// Name or number of the interface.
        scope: Box<str>,
    },
}

/// Reason for which queries to a nameserver cannot be led through the tunnel device by a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotCapturable {
    /// Its own interface is part of a link-local address.
    #[error("a link-local nameserver cannot be captured by a route")]
    LinkLocal,
    /// The kernel answers for loopback addresses before it looks at any other table; unspecified means loopback.
    #[error("a loopback nameserver cannot be captured by a route")]
    Loopback,
    /// Multicast, broadcast, or of 0.0.0.0/8.
    #[error("not a unicast address")]
    NotUnicast,
}

/// Options of the resolver that matter to somebody who stands between it and its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Names with fewer dots are tried with the search domains first. libc's default is 1, kubelet writes 5.
    pub ndots: u8,
    /// Time that libc waits for one server.
    pub timeout: Duration,
    /// Number of times that libc goes round its servers.
    pub attempts: u8,
    /// True if libc takes the servers in turn.
    pub rotate: bool,
    /// True if libc asks by TCP only.
    pub use_vc: bool,
    /// True if libc adds an OPT record.
    pub edns0: bool,
}

impl Default for Options {
    /// RES_TIMEOUT, RES_DFLRETRY and the default of `ndots` in glibc's resolv.h.
    fn default() -> Self {
        Self {
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            rotate: false,
            use_vc: false,
            edns0: false,
        }
    }
}

/// Reason for which a file is not read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ResolvConfError {
    /// More than [`MAX_FILE`] bytes.
    #[error("longer than {MAX_FILE} bytes")]
    TooLong,
    /// A line of more than [`MAX_LINE`] bytes. What a resolver makes of it is its own affair, so this is not guessed.
    #[error("line {line} is longer than {MAX_LINE} bytes")]
    LineTooLong {
        /// Number of the line, from 1.
        line: usize,
    },
}

impl ResolvConf {
    /// Reads the content of a file.
    ///
    /// # Errors
    /// The file or one of its lines is too long. An empty file is none: it has no nameservers.
    pub fn parse(content: &[u8]) -> Result<Self, ResolvConfError> {
        // A line of a megabyte is reported as such, by its number.
        if let Some(index) = content.split(|byte| *byte == b'\n').position(|line| line.len() > MAX_LINE) {
            return Err(ResolvConfError::LineTooLong { line: index + 1 });
        }
        if content.len() > MAX_FILE {
            return Err(ResolvConfError::TooLong);
        }
        let mut conf = Self::default();
        for (index, line) in content.split(|byte| *byte == b'\n').enumerate() {
            if conf.read_line(line).is_none() {
                conf.ignored.push(index + 1);
            }
        }
        Ok(conf)
    }

    /// The project that the search domains tell.
    ///
    /// # Errors
    /// As [`Project::from_search`].
    pub fn project(&self) -> Result<Project, ProjectError> {
        Project::from_search(&self.search)
    }

    /// The nameservers that routes can capture, each once, in their order.
    #[must_use]
    pub fn capturable(&self) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for address in self.nameservers.iter().filter_map(|server| server.capture().ok()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// `None` if the line says nothing that is understood.
    fn read_line(&mut self, line: &[u8]) -> Option<()> {
        let mut words = line
            .split(|byte| byte.is_ascii_whitespace() || *byte == 0)
            .filter(|word| !word.is_empty())
            .take_while(|word| !matches!(word[0], b'#' | b';'));
        let Some(keyword) = words.next() else { return Some(()) };
        match keyword {
            b"nameserver" => {
                let server = Nameserver::parse(std::str::from_utf8(words.next()?).ok()?)?;
                (self.nameservers.len() < MAX_NAMESERVERS).then(|| self.nameservers.push(server))
            }
            b"search" | b"domain" => {
                let limit = if keyword == b"domain" { 1 } else { MAX_SEARCH };
                let mut all_read = true;
                self.search.clear();
                for word in words {
                    let name = std::str::from_utf8(word).ok().and_then(|text| Name::from_text(text).ok());
                    match name {
                        Some(name) if self.search.len() < limit => self.search.push(name),
                        _ => all_read = false,
                    }
                }
                all_read.then_some(())
            }
            b"options" => {
                words.for_each(|word| self.options.read(word));
                Some(())
            }
            b"sortlist" => Some(()),
            _ => None,
        }
    }
}

impl Nameserver {
    /// The address, if a host route can lead its queries into the tunnel device.
    ///
    /// # Errors
    /// It is link-local, loopback, or no unicast address.
    pub fn capture(&self) -> Result<IpAddr, NotCapturable> {
        let Self::Address(address) = self else { return Err(NotCapturable::LinkLocal) };
        let address = address.to_canonical();
        if address.is_loopback() || address.is_unspecified() {
            return Err(NotCapturable::Loopback);
        }
        // 169.254.20.10 (node-local DNS) is an ordinary destination to routing.
        if matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
            return Err(NotCapturable::LinkLocal);
        }
        if is_host_address(address) { Ok(address) } else { Err(NotCapturable::NotUnicast) }
    }

    fn parse(text: &str) -> Option<Self> {
        let Some((address, scope)) = text.split_once('%') else {
            return text.parse().ok().map(Self::Address);
        };
        let address = address.parse().ok()?;
        (!scope.is_empty()).then(|| Self::Scoped { address, scope: scope.into() })
    }
}

impl Options {
    /// Takes in one option; unknown ones and bad numbers change nothing, numbers are capped as in glibc.
    fn read(&mut self, word: &[u8]) {
        let Ok(word) = std::str::from_utf8(word) else { return };
        let (option, number) = match word.split_once(':') {
            Some((option, number)) => (option, number.parse::<u32>().ok()),
            None => (word, None),
        };
        let capped = |most: u8| number.map(|number| u8::try_from(number).unwrap_or(most).min(most));
        match option {
            "ndots" => self.ndots = capped(15).unwrap_or(self.ndots),
            "timeout" => {
                self.timeout = capped(30).map_or(self.timeout, |seconds| Duration::from_secs(seconds.into()));
            }
            "attempts" => self.attempts = capped(5).unwrap_or(self.attempts),
            "rotate" => self.rotate = true,
            "use-vc" => self.use_vc = true,
            "edns0" => self.edns0 = true,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(content: &str) -> ResolvConf {
        ResolvConf::parse(content.as_bytes()).unwrap()
    }

    fn addresses(conf: &ResolvConf) -> Vec<String> {
        conf.capturable().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn d18_a_pods_file_is_read_whole() {
        let conf = parse(
            "search shop.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n",
        );
        assert_eq!(addresses(&conf), ["10.96.0.10"]);
        assert_eq!(conf.project().unwrap().namespace(), "shop");
        assert_eq!(conf.options, Options { ndots: 5, ..Options::default() });
        assert_eq!(conf.ignored, [0_usize; 0]);
    }

    #[test]
    fn d18_an_empty_file_has_no_nameservers_and_no_project() {
        let conf = parse("");
        assert_eq!(conf, ResolvConf::default());
        assert_eq!(conf.project(), Err(ProjectError::Absent));
        assert_eq!(parse("\n\n# nothing\n;nothing\n   \t\n"), ResolvConf::default());
    }

    #[test]
    fn d18_four_and_more_nameservers_are_kept_up_to_a_bound() {
        let conf =
            parse("nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver fd00::a\nnameserver 10.0.0.4\n");
        assert_eq!(addresses(&conf), ["10.0.0.1", "10.0.0.2", "fd00::a", "10.0.0.4"]);
        let conf = parse(&"nameserver 10.0.0.1\n".repeat(40));
        assert_eq!((conf.nameservers.len(), conf.ignored.len()), (MAX_NAMESERVERS, 40 - MAX_NAMESERVERS));
        assert_eq!(addresses(&conf), ["10.0.0.1"]);
    }

    #[test]
    fn d18_scoped_link_local_and_loopback_nameservers_are_reported_as_not_capturable() {
        let conf = parse(
            "nameserver fe80::1%eth0\nnameserver fe80::2\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 0.0.0.0\n\
             nameserver ::ffff:127.0.0.1\nnameserver 224.0.0.251\nnameserver 169.254.20.10\nnameserver fe80::1%\n",
        );
        let scoped = Nameserver::Scoped { address: "fe80::1".parse().unwrap(), scope: "eth0".into() };
        assert_eq!(conf.nameservers[0], scoped);
        let captures: Vec<_> = conf.nameservers.iter().map(Nameserver::capture).collect();
        let (link, lo) = (Err(NotCapturable::LinkLocal), Err(NotCapturable::Loopback));
        let node_local = Ok("169.254.20.10".parse().unwrap());
        assert_eq!(captures, [link, link, lo, lo, lo, lo, Err(NotCapturable::NotUnicast), node_local]);
        assert_eq!(conf.ignored, [9]);
    }

    #[test]
    fn d18_comments_carriage_returns_and_odd_blanks_do_not_matter() {
        let conf = parse(
            "# first\r\n; second\r\n\tnameserver\t10.0.0.1 # why\r\nsearch  a.example\tb.example\r\n\
             options ndots:3 timeout:2 attempts:99 rotate use-vc edns0 ndots:x no-such:7 \r\n",
        );
        assert_eq!(addresses(&conf), ["10.0.0.1"]);
        assert_eq!(
            conf.search,
            [Name::from_text("a.example").unwrap(), Name::from_text("b.example").unwrap()]
        );
        let timeout = Duration::from_secs(2);
        let options = Options { ndots: 3, timeout, attempts: 5, rotate: true, use_vc: true, edns0: true };
        assert_eq!(conf.options, options);
        assert_eq!(conf.ignored, [0_usize; 0]);
    }

    #[test]
    fn the_last_search_or_domain_line_wins() {
        let conf = parse("search a.example b.example\ndomain c.example d.example\n");
        assert_eq!(conf.search, [Name::from_text("c.example").unwrap()]);
        assert_eq!(conf.ignored, [2]);
        let conf = parse("domain c.example\nsearch a.example b..example\n");
        assert_eq!(conf.search, [Name::from_text("a.example").unwrap()]);
        assert_eq!(conf.ignored, [2]);
    }

    #[test]
    fn d18_a_line_of_a_megabyte_is_an_error_with_its_number() {
        let content = format!("nameserver 10.0.0.1\nsearch {}\n", "a".repeat(1 << 20));
        assert_eq!(ResolvConf::parse(content.as_bytes()), Err(ResolvConfError::LineTooLong { line: 2 }));
        let content = "# short\n".repeat(MAX_FILE / 8 + 1);
        assert_eq!(ResolvConf::parse(content.as_bytes()), Err(ResolvConfError::TooLong));
    }

    #[test]
    fn lines_that_make_no_sense_are_passed_over_and_told() {
        let conf = ResolvConf::parse(
            b"nameserver\nnameserver 10.0.0\nNAMESERVER 10.0.0.2\n\xff\xfe\nnameserver 10.0.0.3",
        )
        .unwrap();
        assert_eq!(addresses(&conf), ["10.0.0.3"]);
        assert_eq!(conf.ignored, [1, 2, 3, 4]);
    }
}
