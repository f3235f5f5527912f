//! Renewals of the pod's own keys, as `status` has them.

use serde::{Deserialize, Serialize};

/// Renewals of the pod's own keys, in `status`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalReport {
    /// The number of renewals since the start.
    pub count: u64,
    /// The reason of the last one.
    pub reason: Option<RenewalReason>,
    /// The signs that are looked for, each of which was seen to come.
    pub signs: Vec<CloneSign>,
}

/// A sign that the machine was cloned, restored or stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloneSign {
    /// The boot clock went on while nobody looked.
    BootClock,
    /// The kernel logs that its virtual machine has another generation id.
    KernelLog,
}

/// A reason to make keys anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RenewalReason {
    /// The kernel says that the virtual machine was cloned, or restored from a snapshot.
    Clone,
    /// Machine or program stood still for more than a minute.
    Pause,
    /// Words of the kernel were lost, among which the first may have been.
    Unknown,
}

impl RenewalReason {
    /// Returns it in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Clone => "the machine was cloned or restored",
            Self::Pause => "the machine or the program stood still for more than 60 s",
            Self::Unknown => "words of the kernel were lost, perhaps that the machine was cloned",
        }
    }
}
