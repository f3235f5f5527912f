//! Domain names as sequences of labels.

use std::fmt::{self, Write as _};

use thiserror::Error;

/// A domain name: labels of any bytes, compared without regard to ASCII case (RFC 4343).
///
/// It is kept as on the wire (length byte, label, ..., zero byte) and never joined to a string, so a label that holds
/// a dot stays one label: `a.shop` + `svc` is not `a` + `shop` + `svc`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Uncompressed wire form in lower case. Length bytes are at most 63, below `A`, so lowering leaves them alone.
    wire: Box<[u8]>,
}

/// Reason for which something is not a domain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// A label without bytes that is not the root.
    #[error("empty label")]
    EmptyLabel,
    /// A label of more than 63 bytes (RFC 1035 section 2.3.4).
    #[error("label longer than 63 bytes")]
    LabelTooLong,
    /// More than 255 bytes on the wire (RFC 1035 section 2.3.4).
    #[error("name longer than 255 bytes")]
    TooLong,
    /// A backslash in text: escapes are not read here.
    #[error("escape in a name")]
    Escape,
}

impl Name {
    /// Longest name on the wire, in bytes (RFC 1035 section 2.3.4).
    pub const MAX_WIRE: usize = 255;
    /// Longest label, in bytes (RFC 1035 section 2.3.4).
    pub const MAX_LABEL: usize = 63;

    /// The name of these labels, the leftmost first; none: the root.
    ///
    /// # Errors
    /// A label is empty or too long, or all of them together are.
    pub fn from_labels<L: AsRef<[u8]>>(labels: impl IntoIterator<Item = L>) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(64);
        for label in labels {
            let label = label.as_ref();
            let length = u8::try_from(label.len()).map_err(|_| NameError::LabelTooLong)?;
            match usize::from(length) {
                0 => return Err(NameError::EmptyLabel),
                1..=Self::MAX_LABEL => {}
                _ => return Err(NameError::LabelTooLong),
            }
            wire.push(length);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
            if wire.len() >= Self::MAX_WIRE {
                return Err(NameError::TooLong);
            }
        }
        wire.push(0);
        Ok(Self { wire: wire.into() })
    }

    /// Reads the text form, as in a `search` line: labels between dots, with or without the dot of the root.
    ///
    /// # Errors
    /// As [`from_labels`](Self::from_labels), and for a backslash.
    pub fn from_text(text: &str) -> Result<Self, NameError> {
        if text.contains('\\') {
            return Err(NameError::Escape);
        }
        match text.strip_suffix('.').unwrap_or(text) {
            "" if text.is_empty() => Err(NameError::EmptyLabel),
            "" => Self::from_labels::<&[u8]>([]),
            labels => Self::from_labels(labels.split('.')),
        }
    }

    /// The labels in lower case, the leftmost first, without the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.wire[..];
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first().filter(|(length, _)| **length != 0)?;
            let (label, tail) = tail.split_at_checked(usize::from(length))?;
            rest = tail;
            Some(label)
        })
    }

    /// Tells if this name lies strictly below `ancestor`: it ends in all of its labels and has at least one more.
    #[must_use]
    pub fn is_below(&self, ancestor: &Self) -> bool {
        let mut rest = &self.wire[..];
        while let Some((&length, tail)) = rest.split_first() {
            if rest.len() <= ancestor.wire.len() {
                return rest.len() < self.wire.len() && *rest == *ancestor.wire;
            }
            rest = tail.get(usize::from(length)..).unwrap_or_default();
        }
        false
    }

    /// The name without its first `count` labels; `None` if it has fewer.
    #[must_use]
    pub fn parent(&self, count: usize) -> Option<Self> {
        let skipped: usize = self.labels().take(count).map(|label| label.len() + 1).sum();
        (self.labels().count() >= count).then(|| Self { wire: self.wire[skipped..].into() })
    }

    /// This name below `suffix`.
    ///
    /// # Errors
    /// [`NameError::TooLong`].
    pub fn join(&self, suffix: &Self) -> Result<Self, NameError> {
        Self::from_labels(self.labels().chain(suffix.labels()))
    }

    /// Bytes of the uncompressed wire form.
    #[must_use]
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }
}

impl fmt::Display for Name {
    /// RFC 1035 section 5.1: `\.`, `\\`, and `\DDD` for what is not printable. No dot at the end, except for the root.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut labels = self.labels().peekable();
        if labels.peek().is_none() {
            return f.write_char('.');
        }
        while let Some(label) = labels.next() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{}", char::from(byte))?,
                    b'!'..=b'~' => f.write_char(byte.into())?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            if labels.peek().is_some() {
                f.write_char('.')?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    #[test]
    fn names_are_equal_whatever_their_case_and_last_dot() {
        assert_eq!(name("Web.SHOP.svc.Cluster.Local."), name("web.shop.svc.cluster.local"));
        assert_ne!(name("web"), name("webs"));
    }

    #[test]
    fn below_means_by_whole_labels_and_at_least_one_more() {
        let zone = name("shop.svc.cluster.local");
        assert!(name("web.shop.svc.cluster.local").is_below(&zone));
        assert!(name("0.WEB.shop.SVC.cluster.local.").is_below(&zone));
        assert!(!zone.is_below(&zone));
        assert!(!name("evilshop.svc.cluster.local").is_below(&zone));
        assert!(!name("web.evilshop.svc.cluster.local").is_below(&zone));
        assert!(!name("web.shop.svc.cluster.local.evil.com").is_below(&zone));
        assert!(!name("svc.cluster.local").is_below(&zone));
        assert!(name("com").is_below(&name(".")));
        assert!(!name(".").is_below(&name(".")));
    }

    #[test]
    fn a_label_may_hold_any_byte_and_stays_one_label() {
        let zone = name("shop.svc.cluster.local");
        let dotted = Name::from_labels(["a.shop", "svc", "cluster", "local"]).unwrap();
        assert!(!dotted.is_below(&zone));
        assert_eq!(dotted.to_string(), "a\\.shop.svc.cluster.local");
        // A label whose bytes look like the wire form of the zone's first labels.
        let disguised = Name::from_labels([&b"x\x04shop\x03svc"[..], b"cluster", b"local"]).unwrap();
        assert!(!disguised.is_below(&zone));
        assert_eq!(Name::from_labels([&b"\0\\\xff"[..]]).unwrap().to_string(), "\\000\\\\\\255");
    }

    #[test]
    fn lengths_are_bounded_as_on_the_wire() {
        assert!(Name::from_labels([[b'a'; 63]]).is_ok());
        assert_eq!(Name::from_labels([[b'a'; 64]]), Err(NameError::LabelTooLong));
        assert_eq!(Name::from_labels([[b'a'; 300]]), Err(NameError::LabelTooLong));
        let longest = [&[b'a'; 63][..], &[b'a'; 63], &[b'a'; 63], &[b'a'; 61]];
        assert_eq!(Name::from_labels(longest).unwrap().wire().len(), 255);
        let longer = [&[b'a'; 63][..], &[b'a'; 63], &[b'a'; 63], &[b'a'; 62]];
        assert_eq!(Name::from_labels(longer), Err(NameError::TooLong));
        assert_eq!(Name::from_text("a..b"), Err(NameError::EmptyLabel));
        assert_eq!(Name::from_text(""), Err(NameError::EmptyLabel));
        assert_eq!(Name::from_text("a\\.b"), Err(NameError::Escape));
    }

    #[test]
    fn parent_and_join_are_opposites() {
        let whole = name("web.shop.svc.cluster.local");
        assert_eq!(whole.parent(3), Some(name("cluster.local")));
        assert_eq!(whole.parent(5), Some(name(".")));
        assert_eq!(whole.parent(6), None);
        assert_eq!(name("web.shop.svc").join(&name("cluster.local")), Ok(whole));
    }
}
