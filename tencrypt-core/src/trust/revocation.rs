//! Revocation: generations, keys and pods that no longer count.

use std::collections::BTreeSet;

use super::{Certificate, CertificateError, PodId, PodName, text::lines};
use crate::{
    crypto::{
        PeerId,
        hex::{self, HexError},
    },
    text::{TextError, TrustFileProblem},
};

const FIRST_LINE: &str = "tencrypt-revoked-v1";
/// Longest file in bytes: some 13,000 keys. Whoever has more to deny raises the generation.
const MAX_FILE: usize = 1 << 20;

/// List of what was revoked: certificates below a generation, single static keys, single pods. No dates, so that a
/// clock can neither lock anybody out nor bring anybody back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocation {
    minimum_generation: u32,
    keys: BTreeSet<PeerId>,
    pods: BTreeSet<PodId>,
}

impl Revocation {
    /// The revocation in the text of its file:
    ///
    /// ```text
    /// tencrypt-revoked-v1
    /// min-generation <0 to 4294967295>
    /// deny-key <public key, 64 hexadecimal digits>
    /// deny-pod <name of a pod>
    /// ```
    ///
    /// `min-generation` at most once, the others any number of times. Blank lines and lines that begin with `#` mean
    /// nothing. The last line must end: what was cut off is refused, not believed.
    ///
    /// # Errors
    /// [`TextError`].
    pub fn parse(text: &str) -> Result<Self, TextError> {
        if text.len() > MAX_FILE {
            return Err(TrustFileProblem::TooLong.at(1));
        }
        if !text.is_empty() && !text.ends_with('\n') {
            return Err(TrustFileProblem::Unfinished.at(text.lines().count()));
        }
        let mut revocation = Self::default();
        let mut minimum = None;
        for (number, line) in lines(text, FIRST_LINE)? {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("min-generation") => {
                    let generation =
                        words.next().and_then(generation).ok_or(TrustFileProblem::Number.at(number))?;
                    if minimum.replace(generation).is_some() {
                        return Err(TrustFileProblem::Duplicate("min-generation").at(number));
                    }
                }
                Some("deny-key") => {
                    let key = hex::decode(words.next().unwrap_or_default());
                    let key = key.map_err(|error| match error {
                        HexError::Length => TrustFileProblem::Length.at(number),
                        HexError::Digit => TrustFileProblem::Digit.at(number),
                    })?;
                    revocation.keys.insert(PeerId::from_bytes(*key));
                }
                Some("deny-pod") => {
                    let name = words.next().and_then(|name| name.parse::<PodName>().ok());
                    revocation.pods.insert(PodId::of(&name.ok_or(TrustFileProblem::Pod.at(number))?));
                }
                _ => return Err(TrustFileProblem::RevocationField.at(number)),
            }
            if words.next().is_some() {
                return Err(TrustFileProblem::Trailing.at(number));
            }
        }
        revocation.minimum_generation = minimum.unwrap_or_default();
        Ok(revocation)
    }

    /// The least generation that counts.
    #[must_use]
    pub fn minimum_generation(&self) -> u32 {
        self.minimum_generation
    }

    /// Keys and pods that are denied.
    #[must_use]
    pub fn denied(&self) -> usize {
        self.keys.len() + self.pods.len()
    }

    /// Tells if a certificate for `subject` still counts.
    pub(super) fn admits(&self, subject: &PeerId, certificate: &Certificate) -> Result<(), CertificateError> {
        let (found, minimum) = (certificate.generation(), self.minimum_generation);
        if found < minimum {
            Err(CertificateError::Generation { found, minimum })
        } else if self.keys.contains(subject) || self.pods.contains(&certificate.pod()) {
            Err(CertificateError::Denied)
        } else {
            Ok(())
        }
    }
}

/// One way to write each number: digits only, no zeros in front.
fn generation(word: &str) -> Option<u32> {
    let canonical = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| canonical)
}
