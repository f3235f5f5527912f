//! The pod's proof of who it is and its rule for others: the authority's key, the certificate, the revocation.
//!
//! Certificate and revocation change while the program runs, wherever they come from. One that cannot be used leaves in force
//! what was so before, and `status` says so.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use tencrypt::{
    KeyRing, Tunnel,
    crypto::PeerId,
    trust::{Certificate, CertificateError, CertificateFile, Revocation, Trust},
};

use crate::{
    config,
    escape::Escaped,
    hex::to_hex,
    keys::certificates::{self, AuthorityFileError},
    report::{CertificateReport, IdentityReport},
};

/// A change for the tunnels.
#[derive(Clone)]
pub(crate) enum Update {
    /// The rule for whom to take for a member.
    Trust(Arc<Trust>),
    /// This pod's certificate.
    Certificate(Box<Certificate>),
}

impl Update {
    /// Applies the change to a tunnel that does not run yet.
    pub(crate) fn apply(self, tunnel: &mut Tunnel) {
        let now = Instant::now();
        match self {
            Self::Trust(trust) => tunnel.set_trust(trust, now),
            // Judged before, by the same rules.
            Self::Certificate(certificate) => drop(tunnel.set_certificate(Some(*certificate), now)),
        }
    }
}

/// Trust and certificate, and the report about them.
#[derive(Debug)]
pub(crate) struct Credentials {
    trust: Trust,
    /// The source of certificates, in messages.
    name: String,
    /// The certificate that came last, in force or not; an error: why there is none.
    offered: Option<Result<CertificateFile, String>>,
    subject: PeerId,
    tenant: [u8; KeyRing::TENANT_LEN],
    in_force: Option<CertificateFile>,
    /// The tunnels have `in_force`, and have judged it under `trust`.
    handed_over: bool,
    report: Arc<Mutex<IdentityReport>>,
}

impl Credentials {
    /// Starts with this trust. Certificates come from what messages call `name`; the first may be there already.
    pub(crate) fn new(trust: Trust, name: String, offered: Option<Result<CertificateFile, String>>) -> Self {
        Self {
            trust,
            name,
            offered,
            subject: PeerId::from_bytes([0; 32]),
            tenant: [0; KeyRing::TENANT_LEN],
            in_force: None,
            handed_over: false,
            report: Arc::default(),
        }
    }

    /// Reads the authority's key, the revocation and the certificate. The last may come later.
    ///
    /// # Errors
    /// [`AuthorityFileError`].
    pub(crate) fn read(files: &config::Files, config: &config::Identity) -> Result<Self, AuthorityFileError> {
        let trust = match &files.ca {
            Some(path) => {
                Trust::certificates(certificates::read_public_key(path)?, config.services.iter().copied())
            }
            None => Trust::key_only(),
        };
        let trust = match &files.revoked {
            Some(path) => trust.with_revocation(certificates::read_revocation(path)?),
            None => trust,
        };
        let path = files.certificate.as_ref();
        let offered =
            path.map(|path| certificates::read_certificate(path).map_err(|error| error.to_string()));
        let name = path.map_or_else(String::new, |path| path.display().to_string());
        Ok(Self::new(trust, name, offered))
    }

    /// Takes over the static key that was made, for the first time or anew: a certificate that was in force is another
    /// key's then. Returns the first updates of its tunnels.
    pub(crate) fn attach(&mut self, subject: PeerId, tenant: [u8; KeyRing::TENANT_LEN]) -> Vec<Update> {
        (self.subject, self.tenant) = (subject, tenant);
        self.in_force = None;
        let mut updates = vec![self.trust_update()];
        {
            let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
            let mode = if self.trust.authority().is_some() { "certificate" } else { "key-only" };
            report.mode = mode.to_owned();
            report.public_key = to_hex(subject.as_bytes());
            report.tenant = to_hex(&tenant);
        }
        updates.extend(self.judge_offered());
        self.update_report();
        updates
    }

    /// The part of `status` that is about identity, kept up to date.
    pub(crate) fn report(&self) -> Arc<Mutex<IdentityReport>> {
        self.report.clone()
    }

    /// Takes the certificate and the revocation that came, or notes why there is none. Returns the updates for the tunnels.
    ///
    /// The certificate is judged under the revocation that came with it.
    pub(crate) fn take(
        &mut self,
        certificate: Option<Result<CertificateFile, String>>,
        revocation: Option<Result<Revocation, String>>,
    ) -> Vec<Update> {
        let is_offered = certificate.is_some();
        self.offered = certificate.or(self.offered.take());
        let mut updates = Vec::new();
        updates.extend(revocation.and_then(|came| self.take_revocation(came)));
        if is_offered || !updates.is_empty() {
            updates.extend(self.judge_offered());
        }
        if !updates.is_empty() {
            self.update_report();
        }
        updates
    }

    fn take_revocation(&mut self, came: Result<Revocation, String>) -> Option<Update> {
        let came = came.and_then(|revocation| match self.trust.authority() {
            Some(_) => Ok(revocation),
            None => Err("a revocation means something only with an authority".to_owned()),
        });
        let revocation = came.map_err(|reason| self.report_revocation(Some(reason))).ok()?;
        self.report_revocation(None);
        if revocation == *self.trust.revocation() {
            return None;
        }
        self.trust = self.trust.clone().with_revocation(revocation);
        Some(self.trust_update())
    }

    /// The trust, under which the same certificate may be judged otherwise than before.
    fn trust_update(&mut self) -> Update {
        self.handed_over = false;
        Update::Trust(Arc::new(self.trust.clone()))
    }

    /// Puts the certificate that came last in force, if it counts. Returns it if the tunnels do not have it yet.
    fn judge_offered(&mut self) -> Option<Update> {
        let judged = self.offered.clone()?.and_then(|found| match self.judge(&found) {
            Ok(()) => Ok(found),
            Err(source) => Err(format!("{}: {source}", self.name)),
        });
        let problem = judged.as_ref().err().map(|error| {
            let kept = match self.in_force.as_ref().map(|kept| self.judge(kept)) {
                Some(Ok(())) => "; the one before is in use",
                _ if self.trust.authority().is_some() => "; tenant traffic is dropped",
                _ => "",
            };
            format!("{error}{kept}")
        });
        self.report_certificate(problem);
        let found = judged.ok()?;
        // What has changed is read several times.
        if self.handed_over && self.in_force.as_ref() == Some(&found) {
            return None;
        }
        tracing::info!("certificate taken");
        let certificate = Box::new(found.certificate.clone());
        (self.in_force, self.handed_over) = (Some(found), true);
        Some(Update::Certificate(certificate))
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

    /// Notes the fault of the certificate file, or that it has none, in `status`; a new fault on standard error too.
    fn report_certificate(&self, problem: Option<String>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(problem) = problem.as_ref().filter(|problem| report.problem.as_ref() != Some(problem)) {
            tracing::warn!("{}; public key {}", Escaped(problem), to_hex(self.subject.as_bytes()));
        }
        report.problem = problem;
    }

    /// Notes the fault of the revocation file, as [`report_certificate`](Self::report_certificate) does.
    fn report_revocation(&self, problem: Option<String>) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let known = report.revocation_problem.as_ref();
        if let Some(problem) = problem.as_ref().filter(|problem| known != Some(problem)) {
            tracing::warn!("{}; the revocation before stays in force", Escaped(problem));
        }
        report.revocation_problem = problem;
    }

    fn update_report(&self) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = self.in_force.as_ref().filter(|file| self.judge(file).is_ok());
        report.certificate = counts.map(CertificateReport::from);
        report.minimum_generation = self.trust.revocation().minimum_generation();
        report.denied = self.trust.revocation().denied();
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tencrypt::{
        Seed,
        trust::{CertificateAuthority, Request},
    };

    use super::*;
    use crate::{
        config::Files,
        keys::{followed::FollowedFiles, material::Material},
    };

    const TENANT: [u8; KeyRing::TENANT_LEN] = [7; KeyRing::TENANT_LEN];

    /// A directory with an authority's public key, a revocation and a certificate; removed at the end of the test.
    struct Place {
        path: PathBuf,
        authority: CertificateAuthority,
        subject: PeerId,
    }

    impl Place {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("tencrypt-credentials-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir(&path).unwrap();
            let seed = Seed::try_filled(|seed| getrandom::fill(seed)).unwrap();
            let place = Self {
                path,
                authority: CertificateAuthority::from_seed(&seed),
                subject: PeerId::from_bytes([9; 32]),
            };
            fs::write(place.path.join("ca.pub"), &*place.authority.public_key().write()).unwrap();
            place.revoke_below(0);
            place.issue(1);
            place
        }

        /// Writes a certificate in place: always as many bytes.
        fn issue(&self, generation: u32) {
            let pod = "web-0".parse().unwrap();
            let prefixes = ["10.244.1.5/32".parse().unwrap()];
            let request =
                Request { tenant: TENANT, subject: self.subject, pod: &pod, generation, prefixes: &prefixes };
            let certificate = self.authority.issue(&request).unwrap();
            let file = CertificateFile { subject: self.subject, pod, certificate };
            fs::write(self.path.join("cert"), file.to_bytes()).unwrap();
        }

        /// Writes a revocation in place.
        fn revoke_below(&self, generation: u32) {
            let text = format!("tencrypt-revoked-v1\nmin-generation {generation}\n");
            fs::write(self.path.join("revoked"), text).unwrap();
        }

        fn credentials(&self) -> Followed {
            let files = Files {
                keys: self.path.join("no-keys"),
                ca: Some(self.path.join("ca.pub")),
                certificate: Some(self.path.join("cert")),
                revoked: Some(self.path.join("revoked")),
                resolv_conf: None,
            };
            let mut credentials = Credentials::read(&files, &config::Identity::default()).unwrap();
            let updates = credentials.attach(self.subject, TENANT);
            assert!(matches!(updates[..], [Update::Trust(_), Update::Certificate(_)]));
            Followed { files: FollowedFiles::new(&files), credentials }
        }
    }

    /// Credentials, and the files that they come from.
    struct Followed {
        files: FollowedFiles,
        credentials: Credentials,
    }

    impl Followed {
        /// Reads the files that may have changed.
        fn read_changes(&mut self) -> Vec<Update> {
            let mut updates = Vec::new();
            for material in self.files.due() {
                if let Material::Credentials { certificate, revocation } = material {
                    updates.extend(self.credentials.take(certificate, revocation));
                }
            }
            updates
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.path);
        }
    }

    fn report(followed: &Followed) -> IdentityReport {
        followed.credentials.report.lock().unwrap().clone()
    }

    #[test]
    fn a_certificate_that_is_rewritten_in_place_within_a_tick_is_taken_up_once() {
        let place = Place::new("certificate");
        let mut credentials = place.credentials();
        // Again and again without a pause: most of these writes leave the file's times as they were.
        for generation in 2..50 {
            place.issue(generation);
            let updates = credentials.read_changes();
            let [Update::Certificate(certificate)] = &updates[..] else { panic!("one update") };
            assert_eq!(certificate.generation(), generation);
            assert!(credentials.read_changes().is_empty(), "it is the same");
        }
        assert_eq!(report(&credentials).certificate.map(|certificate| certificate.generation), Some(49));
    }

    #[test]
    fn a_revocation_that_is_rewritten_in_place_within_a_tick_is_taken_up_once() {
        let place = Place::new("revocation");
        let mut credentials = place.credentials();
        for generation in [1, 2].into_iter().cycle().take(50) {
            place.revoke_below(generation);
            let updates = credentials.read_changes();
            let [Update::Trust(trust), rest @ ..] = &updates[..] else { panic!("an update of trust") };
            assert_eq!(trust.revocation().minimum_generation(), generation);
            // The pod's own certificate, of generation 1, counts under the one and not under the other.
            assert_eq!(rest.len(), usize::from(generation == 1));
            assert_eq!(report(&credentials).certificate.is_some(), generation == 1);
            assert!(credentials.read_changes().is_empty(), "it is the same");
        }
    }

    #[test]
    fn a_file_that_is_wrong_leaves_in_force_what_was_before_and_is_reported() {
        let place = Place::new("wrong");
        let mut credentials = place.credentials();
        fs::write(place.path.join("cert"), "no certificate").unwrap();
        fs::write(place.path.join("revoked"), "tencrypt-revoked-v1\nmin-gen").unwrap();
        assert!(credentials.read_changes().is_empty());
        let wrong = report(&credentials);
        assert!(wrong.problem.is_some_and(|problem| problem.ends_with("; the one before is in use")));
        assert!(wrong.revocation_problem.is_some_and(|problem| problem.contains("line 2")));
        assert!(wrong.certificate.is_some());
        place.issue(1);
        place.revoke_below(0);
        assert!(credentials.read_changes().is_empty(), "as before");
        let right = report(&credentials);
        assert_eq!((right.problem, right.revocation_problem), (None, None));
    }

    #[test]
    fn what_is_exchanged_together_is_judged_together() {
        let place = Place::new("together");
        let mut credentials = place.credentials();
        place.issue(2);
        place.revoke_below(2);
        let updates = credentials.read_changes();
        assert!(matches!(updates[..], [Update::Trust(_), Update::Certificate(_)]));
        assert_eq!(report(&credentials).problem, None);
        // Each of them, taken before the other, is one that does not go with what was there.
        place.revoke_below(3);
        credentials.read_changes();
        assert!(
            report(&credentials).problem.is_some_and(|problem| problem.contains("below the minimum of 3"))
        );
    }

    #[test]
    fn a_revocation_without_an_authority_is_refused() {
        let mut credentials = Credentials::new(Trust::key_only(), String::new(), None);
        assert!(
            credentials
                .take(None, Some(Revocation::parse("tencrypt-revoked-v1\n").map_err(|_| String::new())))
                .is_empty()
        );
        let problem = credentials.report.lock().unwrap().revocation_problem.clone();
        assert!(problem.is_some_and(|problem| problem.contains("only with an authority")));
    }
}
