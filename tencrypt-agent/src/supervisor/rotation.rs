//! Changes of keys and certificates, on their way from their files to the lanes.

use crate::{
    keys::{credentials::Update, source::KeySource},
    lane::channel::{Command, Lanes},
};

/// Hands the lanes new keys as they come, until it is cancelled or the lanes have ended.
pub(crate) async fn follow_keys(mut source: KeySource, lanes: Lanes) {
    loop {
        let keys = source.next().await;
        if lanes.send_all(|| Command::Keys(keys.clone())).await.is_err() {
            return;
        }
    }
}

impl From<Update> for Command {
    fn from(update: Update) -> Self {
        match update {
            Update::Trust(trust) => Self::Trust(trust),
            Update::Certificate(certificate) => Self::Certificate(certificate),
        }
    }
}
