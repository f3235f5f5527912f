//! Versions of the CNI specification.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;

/// A version that the plugin speaks, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    V0_3_1,
    /// Brought CHECK, and `prevResult` for DEL.
    V0_4_0,
    V1_0_0,
    /// Brought GC and STATUS.
    V1_1_0,
}

impl Version {
    /// All of them, as VERSION lists them.
    pub(crate) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The version that is spoken to a runtime of which none is known.
    pub(crate) const NEWEST: Self = Self::V1_1_0;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// The version of a network configuration, as far as it is one.
    pub(crate) fn of(input: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Versioned {
            #[serde(rename = "cniVersion")]
            version: Value,
        }
        let versioned: Versioned = serde_json::from_slice(input).ok()?;
        Self::parse(versioned.version.as_str()?)
    }

    /// The names of all, in words.
    pub(crate) fn names() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_configuration_is_found_as_far_as_it_is_one() {
        for version in Version::ALL {
            assert_eq!(
                Version::of(format!("{{\"cniVersion\":\"{version}\",\"name\":1}}").as_bytes()),
                Some(version)
            );
        }
        for input in
            ["", "{}", "[]", "{\"cniVersion\":\"0.3.0\"}", "{\"cniVersion\":1}", "{\"cniVersion\":\"1.1.0\""]
        {
            assert_eq!(Version::of(input.as_bytes()), None, "{input}");
        }
        assert_eq!(Version::names(), "0.3.1, 0.4.0, 1.0.0, 1.1.0");
        assert_eq!(Some(Version::NEWEST), Version::ALL.into_iter().max());
    }
}
