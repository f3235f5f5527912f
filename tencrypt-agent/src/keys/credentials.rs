//! What proves who this pod is and decides who others are: the authority's key, the certificate, what is revoked.
//!
//! Certificate and revocation are files that change while the program runs. They are looked at four times a second; one
//! that cannot be read leaves what was in force before, and `status` says so.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tencrypt::{
    Trust, Tunnel,
    crypto::{PeerId, TENANT_LEN, to_hex},
    trust::{Certificate, CertificateError, CertificateFile},
};

use crate::{
    commands::ca::{self as authority, AuthorityError},
    config,
    lane::channel::Command,
    os::escape::Escaped,
    os::files::Stamp,
    report::{CertificateReport, IdentityReport},
};

/// How often the files are looked at: a revocation takes effect within a second, work of the lane included.
pub(crate) const LOOK: Duration = Duration::from_millis(250);

/// What the tunnels are to be told.
#[derive(Clone)]
pub(crate) enum Update {
    Trust(Arc<Trust>),
    Certificate(Box<Certificate>),
}

impl Update {
    /// Tells a tunnel that does not run yet.
    pub(crate) fn apply(self, tunnel: &mut Tunnel) {
        let now = Instant::now();
        match self {
            Self::Trust(trust) => tunnel.set_trust(trust, now),
            // Judged before, by the same rules.
            Self::Certificate(certificate) => drop(tunnel.set_certificate(Some(*certificate), now)),
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

/// A file that is followed.
#[derive(Debug)]
struct Followed {
    path: PathBuf,
    /// As it was when it was last read, if it was there; `None`: it is to be read.
    seen: Option<Option<Stamp>>,
}

impl Followed {
    fn new(path: PathBuf) -> Self {
        Self { path, seen: None }
    }

    /// Whether it has changed since the last call.
    fn has_changed(&mut self) -> bool {
        let now = Some(Stamp::of(&self.path));
        let changed = self.seen != now;
        // Taken before it is read: what changes meanwhile is read once more.
        self.seen = now;
        changed
    }
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Credentials {
    trust: Trust,
    revoked: Option<Followed>,
    file: Option<Followed>,
    subject: PeerId,
    tenant: [u8; TENANT_LEN],
    in_force: Option<CertificateFile>,
    report: Arc<Mutex<IdentityReport>>,
}

impl Credentials {
    /// Reads the authority's key and what is revoked. The certificate may come later.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub(crate) fn read(config: &config::Identity) -> Result<Self, AuthorityError> {
        let trust = match &config.ca {
            Some(path) => {
                Trust::certificates(authority::read_public_key(path)?, config.services.iter().copied())
            }
            None => Trust::key_only(),
        };
        let mut revoked = config.revoked.clone().map(Followed::new);
        let trust = match &mut revoked {
            Some(file) => {
                file.has_changed();
                trust.with_revocation(authority::read_revocation(&file.path)?)
            }
            None => trust,
        };
        Ok(Self {
            trust,
            revoked,
            file: config.certificate.clone().map(Followed::new),
            subject: PeerId::from_bytes([0; 32]),
            tenant: [0; TENANT_LEN],
            in_force: None,
            report: Arc::default(),
        })
    }

    /// The static key is made, for the first time or anew: then a certificate that was in force is another key's. Returns
    /// what its tunnel is to be told first.
    pub(crate) fn attach(&mut self, subject: PeerId, tenant: [u8; TENANT_LEN]) -> Vec<Update> {
        (self.subject, self.tenant) = (subject, tenant);
        self.in_force = None;
        if let Some(file) = &mut self.file {
            file.seen = None;
        }
        let mut updates = vec![Update::Trust(Arc::new(self.trust.clone()))];
        {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            let mode = if self.trust.authority().is_some() { "certificate" } else { "key-only" };
            report.mode = mode.to_owned();
            report.public_key = to_hex(subject.as_bytes());
            report.tenant = to_hex(&tenant);
        }
        updates.extend(self.look_at_certificate());
        self.tell(None);
        updates
    }

    /// What `status` says, kept up to date.
    pub(crate) fn report(&self) -> Arc<Mutex<IdentityReport>> {
        self.report.clone()
    }

    /// Looks at the files again. Returns what the tunnel is to be told.
    pub(crate) fn look(&mut self) -> Vec<Update> {
        let mut updates = Vec::new();
        let mut revocation_problem = None;
        if let Some(file) = &mut self.revoked
            && file.has_changed()
        {
            let read = authority::read_revocation(&file.path);
            if let Ok(revocation) = &read
                && revocation != self.trust.revocation()
            {
                self.trust = self.trust.clone().with_revocation(revocation.clone());
                updates.push(Update::Trust(Arc::new(self.trust.clone())));
                // The same certificate may be judged otherwise now.
                if let Some(file) = &mut self.file {
                    file.seen = None;
                }
            }
            revocation_problem = Some(read.err().map(|error| error.to_string()));
        }
        updates.extend(self.look_at_certificate());
        if !updates.is_empty() || revocation_problem.is_some() {
            self.tell(revocation_problem);
        }
        updates
    }

    fn look_at_certificate(&mut self) -> Option<Update> {
        let file = self.file.as_mut().filter(|file| file.seen != Some(Stamp::of(&file.path)))?;
        file.has_changed();
        let read = authority::read_certificate(&file.path).and_then(|found| match self.judge(&found) {
            Ok(()) => Ok(found),
            Err(source) => Err(AuthorityError::Certificate { path: self.certificate_path(), source }),
        });
        let problem = read.as_ref().err().map(|error| {
            let kept = match self.in_force.as_ref().map(|kept| self.judge(kept)) {
                Some(Ok(())) => "; the one before is in use",
                _ if self.trust.authority().is_some() => "; tenant traffic is dropped",
                _ => "",
            };
            format!("{error}{kept}")
        });
        self.say(problem);
        let found = read.ok()?;
        let certificate = Box::new(found.certificate.clone());
        self.in_force = Some(found);
        Some(Update::Certificate(certificate))
    }

    fn certificate_path(&self) -> PathBuf {
        self.file.as_ref().map(|file| file.path.clone()).unwrap_or_default()
    }

    fn judge(&self, file: &CertificateFile) -> Result<(), CertificateError> {
        if file.subject != self.subject {
            return Err(CertificateError::OtherKey);
        }
        if file.certificate.tenant() != &self.tenant {
            return Err(CertificateError::OtherTenant);
        }
        self.trust.admit(&self.tenant, &self.subject, Some(&file.certificate))
    }

    /// A new state of the certificate file, on standard error and in `status`.
    fn say(&self, problem: Option<String>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match &problem {
            Some(problem) if report.problem.as_ref() != Some(problem) => {
                tracing::warn!("{}; public key {}", Escaped(problem), to_hex(self.subject.as_bytes()));
            }
            Some(_) => {}
            None => tracing::info!("certificate taken"),
        }
        report.problem = problem;
    }

    fn tell(&self, revocation_problem: Option<Option<String>>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.in_force.as_ref().filter(|file| self.judge(file).is_ok());
        report.certificate = counts.map(CertificateReport::from);
        report.minimum_generation = self.trust.revocation().minimum_generation();
        report.denied = self.trust.revocation().denied();
        if let Some(problem) = revocation_problem {
            if let Some(problem) = &problem {
                tracing::warn!("{}; the revocation before stays in force", Escaped(problem));
            }
            report.revocation_problem = problem;
        }
    }
}
