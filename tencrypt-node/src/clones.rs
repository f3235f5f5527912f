//! The kernel's word that this machine was cloned, heard once for all pods of the node.

use std::{io, os::fd::OwnedFd};

use tencrypt_agent::{
    os::{
        kernel_log::{self, KernelLog},
        notice::Notice,
        uevents::{self, Uevents},
        watch_readable,
    },
    report::RenewalReason,
};
use tokio::io::unix::AsyncFd;

/// The words of the kernel, as far as it could be opened.
#[derive(Debug)]
pub(crate) struct CloneSigns {
    log: Option<AsyncFd<OwnedFd>>,
    uevents: Option<AsyncFd<OwnedFd>>,
}

impl CloneSigns {
    /// Listens from here on. To be called within a tokio runtime.
    pub(crate) fn open() -> Self {
        let log = KernelLog::open().and_then(|log| watch_readable(log.into_fd()));
        let log = log.inspect_err(|error| tracing::warn!(%error, "log of the kernel")).ok();
        let uevents = Uevents::open().and_then(|uevents| watch_readable(uevents.into_fd()));
        let uevents = uevents.inspect_err(|error| tracing::warn!(%error, "events of the kernel")).ok();
        Self { log, uevents }
    }

    /// The signs that are looked for, each of which this kernel gives.
    pub(crate) fn names(&self) -> Vec<String> {
        let log = self.log.is_some() && KernelLog::tells_of_clones();
        log.then(|| "kernel_log".to_owned()).into_iter().collect()
    }

    /// Waits for a sign, for ever if there is nothing to listen to. May be cancelled.
    pub(crate) async fn next(&mut self) -> RenewalReason {
        loop {
            let (notice, is_log) = tokio::select! {
                notice = word(self.log.as_ref(), kernel_log::read) => (notice, true),
                notice = word(self.uevents.as_ref(), uevents::read) => (notice, false),
            };
            match notice {
                Ok(Notice::Nothing) => {}
                Ok(Notice::Cloned) => return RenewalReason::Clone,
                Ok(Notice::Lost) => return RenewalReason::Unknown,
                Err(error) => {
                    tracing::error!(%error, "words of the kernel are not heard any more");
                    if is_log { self.log = None } else { self.uevents = None }
                }
            }
        }
    }
}

async fn word(
    source: Option<&AsyncFd<OwnedFd>>,
    read: fn(&OwnedFd) -> io::Result<Option<Notice>>,
) -> io::Result<Notice> {
    let Some(source) = source else { return std::future::pending().await };
    loop {
        let mut ready = source.readable().await?;
        match read(source.get_ref())? {
            Some(notice) => return Ok(notice),
            None => ready.clear_ready(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write as _, time::Duration};

    use super::*;

    fn said(text: &str) -> Vec<u8> {
        format!("5,713,48211034,-;{text}\n").into_bytes()
    }

    /// Signs of a log that the test writes.
    fn signs() -> (CloneSigns, File) {
        let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        (CloneSigns { log: Some(watch_readable(ours).unwrap()), uevents: None }, File::from(theirs))
    }

    #[tokio::test]
    async fn the_kernels_line_is_a_sign_and_others_are_not() {
        let (mut signs, mut log) = signs();
        log.write_all(&said("eth0: renamed from veth0")).unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(50), signs.next()).await;
        assert!(waited.is_err(), "{waited:?}");
        log.write_all(&said("random: crng reseeded due to virtual machine fork")).unwrap();
        assert_eq!(signs.next().await, RenewalReason::Clone);
    }
}
