//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use crate::{contender::Contender, network::Scene, pattern::Pattern};

/// Time of one pattern that is not measured: setting up and letting the load get going, with a margin.
const AROUND: Duration = Duration::from_millis(700);
/// Time to build a network and start a contender in it, with a margin.
const START: Duration = Duration::from_secs(2);

/// Measures tencrypt beside the plain network and the userspace tunnels that are installed, all in one run.
///
/// Everything happens in network namespaces that end with the program. Peers are looked for in PATH and in
/// $PEERS/bin (default ~/.peers/bin); what is not installed is left out.
#[derive(Debug, Clone, Parser)]
#[command(name = "compare", max_term_width = 100)]
pub(crate) struct Options {
    /// Seconds that each pattern is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Rounds; in each, every contender has its turn
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=100))]
    pub(crate) rounds: u64,
    /// Contenders to measure, separated by commas; all that are installed if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) only: Vec<Contender>,
    /// Patterns to measure, separated by commas; all if not given
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) patterns: Vec<Pattern>,
    /// Also between pods of two nodes joined by VXLAN (pod MTU 1450): plain and tencrypt
    #[arg(long)]
    pub(crate) vxlan: bool,
    /// Also to a destination that is external to a tencrypt that runs: plain and tencrypt
    #[arg(long)]
    pub(crate) external: bool,
    /// Also tencrypt without encryption, for the price of the ciphers: builds the program once more, for this alone
    #[arg(long)]
    pub(crate) null_cipher: bool,
    /// Also tencrypt from another program, such as that of the state before a change: in turns, with the ratio of each round;
    /// writes nothing, and measures the two alone if there is no --only
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// Directory of performance.md and performance.svg
    #[arg(long, value_name = "DIR", default_value = "docs")]
    pub(crate) out: PathBuf,
    /// Print the tables and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl Options {
    /// The time that a pattern is measured.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The networks to measure in.
    pub(crate) fn scenes(&self) -> Vec<Scene> {
        let wanted = [(Scene::Cable, true), (Scene::Vxlan, self.vxlan), (Scene::External, self.external)];
        wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(scene, _)| scene).collect()
    }

    /// The contenders wanted in a network, installed or not.
    pub(crate) fn contenders(&self, scene: Scene) -> Vec<Contender> {
        let is_compared = self.against.is_some();
        let named = |contender: &Contender| match contender {
            Contender::Against => is_compared,
            Contender::Tencrypt if is_compared => true,
            contender => self.only.contains(contender) || self.only.is_empty() && !is_compared,
        };
        let built = |contender: &Contender| *contender != Contender::NullCipher || self.null_cipher;
        scene.contenders().iter().copied().filter(named).filter(built).collect()
    }

    /// Tells if the report is written to files.
    pub(crate) fn writes(&self) -> bool {
        !self.dry_run && self.against.is_none()
    }

    /// The patterns wanted, in the order of the tables.
    pub(crate) fn patterns(&self) -> Vec<Pattern> {
        let wanted = |pattern: &Pattern| self.patterns.is_empty() || self.patterns.contains(pattern);
        Pattern::ALL.into_iter().filter(wanted).collect()
    }

    /// About how long the run takes with this many contenders, summed over the networks.
    pub(crate) fn estimate(&self, contenders: usize) -> Duration {
        let patterns = self.patterns().len() as u32;
        let turn = START + (self.duration() + AROUND) * patterns;
        turn * self.rounds as u32 * contenders as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(arguments: &[&str]) -> Options {
        Options::try_parse_from([&["compare"], arguments].concat()).unwrap()
    }

    #[test]
    fn only_what_is_asked_for_is_measured_and_in_the_order_of_the_tables() {
        let options = options(&["--only", "gotatun,plain", "--patterns", "udp64,tcp1", "--vxlan"]);
        assert_eq!(options.scenes(), [Scene::Cable, Scene::Vxlan]);
        assert_eq!(options.contenders(Scene::Cable), [Contender::Plain, Contender::GotaTun]);
        assert_eq!(options.contenders(Scene::Vxlan), [Contender::Plain]);
        assert_eq!(options.patterns(), [Pattern::Tcp1, Pattern::Udp64]);
    }

    #[test]
    fn the_null_cipher_is_measured_on_request_alone() {
        assert!(!options(&[]).contenders(Scene::Cable).contains(&Contender::NullCipher));
        assert!(options(&["--null-cipher"]).contenders(Scene::Cable).contains(&Contender::NullCipher));
    }

    #[test]
    fn another_program_is_compared_with_this_one_alone_unless_more_is_asked_for() {
        let both = [Contender::Tencrypt, Contender::Against];
        let against = options(&["--against", "/old/tencrypt", "--vxlan"]);
        assert_eq!(against.contenders(Scene::Cable), both);
        assert_eq!(against.contenders(Scene::Vxlan), both);
        assert!(!against.writes() && options(&[]).writes());
        let more = options(&["--against", "/old/tencrypt", "--only", "plain"]);
        assert_eq!(more.contenders(Scene::Cable), [&[Contender::Plain][..], &both].concat());
        assert!(!options(&[]).contenders(Scene::Cable).contains(&Contender::Against));
    }

    #[test]
    fn names_that_are_unknown_are_refused() {
        for wrong in [["--only", "openvpn"], ["--patterns", "tcp2"], ["--seconds", "0"]] {
            assert!(Options::try_parse_from(["compare"].into_iter().chain(wrong)).is_err(), "{wrong:?}");
        }
    }
}
