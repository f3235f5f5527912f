//! A pod while its data path runs: what that says, what it is told, its replacement and its end.

use std::{fs, rc::Rc, time::Duration};

use tencrypt_agent::{
    escape::Escaped,
    node::said::{PodEvent, Said},
};
use tencrypt_tun::NetNs;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

use super::{Command, Latest, NotReplaced, Notice, Pod, Step};
use crate::{
    backoff::random,
    data_path::{DataPath, StartError},
    release::Release,
    report::PodState,
    tenant::Tenant,
};

/// Time for a process to be gone whose channel is closed: the kernel closes it while the process ends.
const GONE: Duration = Duration::from_millis(200);

impl<L: Latest, N: Fn(Notice)> Pod<L, N> {
    /// Keeps a data path for as long as it runs.
    pub(super) async fn keep(&mut self, mut running: DataPath) -> Step {
        self.show(&running);
        let since = Instant::now();
        let mut ending = None;
        loop {
            tokio::select! {
                said = running.channel.next() => match said {
                    Ok(Some(Said::Ending { open })) => ending = Some(open),
                    Ok(Some(said)) => {
                        if let Err(error) = self.hear(&mut running, said).await {
                            return self.disobeyed(&running, since, &error).await;
                        }
                    }
                    Ok(None) => return self.ended(running, since, ending).await,
                    Err(error) => return self.disobeyed(&running, since, &error.into()).await,
                },
                command = self.next_command() => match command {
                    Some(Command::End { open, done }) => {
                        self.end(running, open).await;
                        self.leaving = Some((open, done));
                        return Step::Over;
                    }
                    Some(Command::Replace(release, done)) => {
                        return self.replace(running, release, done).await;
                    }
                    Some(Command::Tell(order)) => {
                        if let Err(error) = running.channel.send(&order).await {
                            return self.disobeyed(&running, since, &error.into()).await;
                        }
                    }
                    Some(Command::Changed(tenant)) => {
                        if let Err(error) = self.tell(&mut running, tenant).await {
                            return self.disobeyed(&running, since, &error).await;
                        }
                    }
                    // The agent has gone, and the data path goes on without it.
                    None => return Step::Over,
                },
            }
        }
    }

    fn show(&self, running: &DataPath) {
        self.view.send_modify(|view| {
            view.state = PodState::Protected;
            view.was_protected = true;
            view.pid = Some(running.pid);
            view.version = Some(running.version.clone());
            view.tag = Some(running.tag.clone());
            view.public_key = Some(running.public_key.clone());
            view.failures = 0;
        });
    }

    async fn hear(&self, running: &mut DataPath, said: Said) -> Result<(), StartError> {
        match said {
            Said::Status { report, peers, .. } => self.view.send_modify(|view| {
                view.peers = peers as u64;
                view.status = Some(report);
                view.said += 1;
            }),
            Said::Event(PodEvent::Renewed { public_key, .. }) => {
                running.public_key.clone_from(&public_key);
                self.view.send_modify(|view| view.public_key = Some(public_key));
                if let Some(own) = &self.own {
                    running.certify(&own.tenant).await?;
                }
            }
            Said::Event(
                PodEvent::Keys { .. } | PodEvent::Certificate { .. } | PodEvent::Revocation { .. },
            ) => {
                self.view.send_modify(|view| view.problem = None);
            }
            Said::Refused { message, reason } => {
                tracing::warn!(pod = %self.identity.namespace.id(), message, "refused: {}", Escaped(&reason));
                self.view.send_modify(|view| view.problem = Some(format!("{message}: {reason}")));
            }
            Said::Failed { exit, reason } => {
                self.view.send_modify(|view| view.problem = Some(format!("{reason} (exit code {exit})")));
            }
            Said::Hello(_) | Said::Ready { .. } | Said::Event(_) | Said::Ending { .. } => {}
        }
        Ok(())
    }

    /// The data path has closed the channel. One that still runs is taken over again: it has found a message that makes no sense.
    async fn ended(&mut self, running: DataPath, since: Instant, ending: Option<bool>) -> Step {
        if timeout(GONE, running.process.ended()).await.is_err() {
            tracing::error!(pod = %self.identity.namespace.id(), "a data path has closed its channel");
            return self.take_over().await;
        }
        match ending {
            Some(true) => Step::Opened,
            Some(false) if is_over(&self.identity.namespace) => Step::Over,
            _ => self.died(since),
        }
    }

    /// The data path does not take what it is told, or says what makes no sense.
    async fn disobeyed(&mut self, running: &DataPath, since: Instant, error: &StartError) -> Step {
        tracing::error!(pod = %self.identity.namespace.id(), "{}", Escaped(&error.to_string()));
        running.kill().await;
        self.view.send_modify(|view| view.problem = Some(error.to_string()));
        self.died(since)
    }

    fn died(&mut self, since: Instant) -> Step {
        self.lose(PodState::Starting);
        (self.notify)(Notice::Died);
        self.view.send_modify(|view| view.restarts += 1);
        Step::Start(self.backoff.after(since.elapsed(), random()))
    }

    /// Has another data path take this one's place.
    async fn replace(
        &mut self,
        mut running: DataPath,
        release: Release,
        done: oneshot::Sender<Result<(), NotReplaced>>,
    ) -> Step {
        let release = self.newest(release);
        let prepared = match self.place.prepare(&self.identity, &release).await {
            Ok(prepared) => prepared,
            Err(error) => {
                self.view.send_modify(|view| view.problem = Some(error.to_string()));
                self.not_replaced(done, &error, true);
                return Step::Keep(running);
            }
        };
        if let Err(error) = running.let_go(false).await {
            tracing::warn!("{error}");
            running.kill().await;
        }
        self.lose(PodState::Starting);
        // The new one waits for the namespace until the old one is gone.
        let (completed, ()) = tokio::join!(prepared.complete(), running.gone());
        match completed {
            Ok(started) => {
                (self.notify)(Notice::Replaced);
                self.view.send_modify(|view| view.problem = None);
                self.told = Some(Rc::clone(&release.tenant));
                self.own = Some(release);
                let _ = done.send(Ok(()));
                Step::Keep(started)
            }
            Err(error) => {
                (self.notify)(Notice::RolledBack);
                self.view.send_modify(|view| view.problem = Some(error.to_string()));
                self.not_replaced(done, &error, false);
                Step::Start(Duration::ZERO)
            }
        }
    }

    /// Says why the data path was not replaced; nothing, if that is because its pod has ended.
    fn not_replaced(
        &self,
        done: oneshot::Sender<Result<(), NotReplaced>>,
        error: &StartError,
        is_harmless: bool,
    ) {
        if !is_over(&self.identity.namespace) {
            let _ = done.send(Err(NotReplaced { reason: error.to_string(), is_harmless }));
        }
    }

    /// Tells the data path what it was not told yet of its tenant.
    async fn tell(&mut self, running: &mut DataPath, now: Rc<Tenant>) -> Result<(), StartError> {
        self.update(&now);
        let orders = match &self.told {
            Some(before) => now.changed_from(before),
            None => {
                running.resume(Some(&now)).await?;
                Ok(Vec::new())
            }
        };
        let orders = match orders {
            Ok(orders) => orders,
            Err(error) => {
                // The agent says it again at its next look.
                self.view.send_modify(|view| {
                    view.problem = Some(error.to_string());
                    view.is_stale = true;
                });
                return Ok(());
            }
        };
        running.tell(&now, &orders).await?;
        self.told = Some(now);
        self.view.send_modify(|view| view.is_stale = false);
        Ok(())
    }

    async fn end(&self, mut running: DataPath, open: bool) {
        self.lose(PodState::Ending);
        match running.let_go(open).await {
            Ok(()) => running.gone().await,
            Err(_) => running.kill().await,
        }
    }
}

/// Tells if the namespace is no pod's any more: no interface is left in it but the loopback and a tunnel's. A descriptor of the
/// agent's, which keeps it alive, is then the last one of it.
fn is_over(namespace: &NetNs) -> bool {
    let Ok(Ok(devices)) = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev")) else {
        return false;
    };
    has_no_interface(&devices)
}

/// Reads `/proc/net/dev`: two lines of headings, then `NAME: counters` (net/core/net-procfs.c).
fn has_no_interface(devices: &str) -> bool {
    let mut names =
        devices.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    !names.any(|name| name != "lo" && !name.starts_with("tenc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_with_nothing_but_a_tunnel_is_no_pods() {
        let head = "Inter-|   Receive\n face |bytes\n";
        let line = |name: &str| format!("{name:>6}: 0 0\n");
        for (names, is_over) in [
            (&[][..], true),
            (&["lo"], true),
            (&["lo", "tenc0"], true),
            (&["lo", "eth0"], false),
            (&["eth0"], false),
        ] {
            let text: String = names.iter().map(|name| line(name)).collect();
            assert_eq!(has_no_interface(&format!("{head}{text}")), is_over, "{names:?}");
        }
    }
}
