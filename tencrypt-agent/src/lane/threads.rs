//! The lanes' threads: they end together.

use std::{io, thread};

use tokio::sync::mpsc;

use crate::{
    failure::Failure,
    lane::channel::{Command, Lanes},
    lane::{DataPath, Ended, FAREWELL},
    os::hardening,
};

/// The running lanes.
pub(crate) struct Threads {
    lanes: Lanes,
    threads: Vec<thread::JoinHandle<()>>,
    ended: mpsc::Receiver<Ended>,
    /// Lanes whose end has been heard of.
    heard: usize,
}

/// Tells how a lane ended, however that was.
struct Farewell {
    sender: mpsc::Sender<Ended>,
    ended: Option<Ended>,
}

impl Farewell {
    fn run(mut self, path: DataPath) {
        hardening::give_up_all();
        self.ended = Some(path.run());
    }
}

impl Drop for Farewell {
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
    /// What the kernel says.
    pub(crate) fn start(paths: Vec<DataPath>, lanes: &Lanes) -> io::Result<Self> {
        let (sender, ended) = mpsc::channel(paths.len().max(1));
        let mut started = Self { lanes: lanes.clone(), threads: Vec::new(), ended, heard: 0 };
        for path in paths {
            let farewell = Farewell { sender: sender.clone(), ended: None };
            let name = format!("tencrypt-lane-{}", path.lane.number());
            // A thread begins in the namespace of the thread that makes it.
            let thread = thread::Builder::new().name(name).spawn(move || farewell.run(path));
            match thread {
                Ok(thread) => started.threads.push(thread),
                Err(error) => {
                    lanes.stop_at_once();
                    return Err(error);
                }
            }
        }
        Ok(started)
    }

    /// How the next lane to end has ended.
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
        let _ = self.lanes.tell_all(|| Command::Stop).await;
        let mut first = over;
        if matches!(first, Some(Ended::DeviceGone)) {
            // Whoever took the device may have left a lane waiting for it.
            return Ok(Ended::DeviceGone);
        }
        while self.heard < self.threads.len() {
            match tokio::time::timeout(FAREWELL, self.next_end()).await {
                Ok(ended) => first = first.or(Some(ended)),
                Err(_) => return Err(Failure::runtime("the data path does not end")),
            }
        }
        for thread in self.threads {
            thread.join().map_err(|_| Failure::runtime("the data path panicked"))?;
        }
        Ok(first.unwrap_or(Ended::Stopped))
    }
}
