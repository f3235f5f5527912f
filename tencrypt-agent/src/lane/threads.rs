//! The lanes' threads: they end together.

use std::{io, mem, thread, time::Duration};

use tokio::sync::mpsc;

use super::{
    channel::{Command, Lanes},
    data_path::DataPath,
    run::Ended,
};
use crate::{failure::Failure, os::hardening};

/// The time that the control plane waits for a lane to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// The running lanes. Dropped before [`Self::finish`], they are told to end and waited for.
pub(crate) struct Threads {
    lanes: Lanes,
    threads: Vec<thread::JoinHandle<()>>,
    ended: mpsc::Receiver<Ended>,
    /// Lanes whose end has been heard of.
    heard: usize,
}

/// Reports the end of a lane, a panic too.
struct Reporter {
    sender: mpsc::Sender<Ended>,
    ended: Option<Ended>,
}

impl Reporter {
    fn run(mut self, path: DataPath) {
        hardening::give_up_all();
        self.ended = Some(path.run());
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        // Nothing is there of a lane that panicked.
        let ended = self.ended.take().unwrap_or_else(|| Ended::Failed(io::ErrorKind::BrokenPipe.into()));
        // The control plane may have gone first; there is room for all.
        let _ = self.sender.try_send(ended);
    }
}

impl Threads {
    /// Starts a thread for each of `paths`, in the calling thread's namespace. Those that were started end again if one
    /// cannot be.
    ///
    /// # Errors
    /// The kernel refuses a thread.
    pub(crate) fn start(paths: Vec<DataPath>, lanes: &Lanes) -> io::Result<Self> {
        let (sender, ended) = mpsc::channel(paths.len().max(1));
        let mut started = Self { lanes: lanes.clone(), threads: Vec::new(), ended, heard: 0 };
        for path in paths {
            let reporter = Reporter { sender: sender.clone(), ended: None };
            let name = format!("tencrypt-lane-{}", path.lane().number());
            // A thread begins in the namespace of the thread that makes it.
            let thread = thread::Builder::new().name(name).spawn(move || reporter.run(path));
            started.threads.push(thread?);
        }
        Ok(started)
    }

    /// Waits for the next lane to end.
    pub(crate) async fn next_end(&mut self) -> Ended {
        let ended = self.ended.recv().await;
        self.heard += 1;
        ended.unwrap_or_else(|| Ended::Failed(io::ErrorKind::BrokenPipe.into()))
    }

    /// Ends all lanes and waits for that; `over` is how the first of them ended, if one has.
    ///
    /// # Errors
    /// A lane does not end, or panicked.
    pub(crate) async fn finish(mut self, over: Option<Ended>) -> Result<Ended, Failure> {
        let _ = self.lanes.send_all(|| Command::Stop).await;
        let mut first = over;
        if matches!(first, Some(Ended::DeviceGone)) {
            // Whoever took the device may have left a lane waiting for it.
            drop(mem::take(&mut self.threads));
            return Ok(Ended::DeviceGone);
        }
        while self.heard < self.threads.len() {
            match tokio::time::timeout(END_TIMEOUT, self.next_end()).await {
                Ok(ended) => first = first.or(Some(ended)),
                Err(_) => {
                    drop(mem::take(&mut self.threads));
                    return Err(Failure::runtime("the data path does not end"));
                }
            }
        }
        for thread in mem::take(&mut self.threads) {
            thread.join().map_err(|_| Failure::runtime("the data path panicked"))?;
        }
        Ok(first.unwrap_or(Ended::Stopped))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.threads.is_empty() {
            return;
        }
        self.lanes.stop_at_once();
        if thread::panicking() {
            // A lane that does not hear of it must not keep the process, which the panic ends.
            return;
        }
        for thread in mem::take(&mut self.threads) {
            // A panic has been reported by its hook.
            let _ = thread.join();
        }
    }
}
