//! The files of a running program: read when they may have changed.

use std::{collections::VecDeque, path::Path};

use super::{certificates, file as keyfile, material::Material};
use crate::{
    config::Files,
    os::followed::{Changes, FollowedFile},
};

/// The key file, and those of certificate and revocation where there are any.
#[derive(Debug)]
pub(crate) struct FollowedFiles {
    keys: FollowedFile,
    certificate: Option<FollowedFile>,
    revoked: Option<FollowedFile>,
    changes: Option<Changes>,
    /// Read, and not yet returned.
    read: VecDeque<Material>,
}

impl FollowedFiles {
    /// Follows the files, which are taken for unread.
    pub(crate) fn new(files: &Files) -> Self {
        let followed = |path: &Option<_>| path.clone().map(FollowedFile::new);
        Self {
            keys: FollowedFile::new(files.keys.clone()),
            certificate: followed(&files.certificate),
            revoked: followed(&files.revoked),
            changes: None,
            read: VecDeque::new(),
        }
    }

    /// Waits until one of the files may have another content, and reads it. May be cancelled. Must be called within a tokio
    /// runtime.
    pub(crate) async fn next(&mut self) -> Material {
        loop {
            if let Some(material) = self.read.pop_front() {
                return material;
            }
            let paths = [Some(&self.keys), self.certificate.as_ref(), self.revoked.as_ref()];
            let paths = paths.into_iter().flatten().map(FollowedFile::path);
            self.changes.get_or_insert_with(|| Changes::of(paths)).next().await;
            self.read_due();
        }
    }

    /// Reads the files that are due.
    fn read_due(&mut self) {
        let path =
            |file: Option<&mut FollowedFile>| file.and_then(FollowedFile::path_if_due).map(Path::to_owned);
        let revocation = path(self.revoked.as_mut())
            .map(|path| certificates::read_revocation(&path).map_err(|error| error.to_string()));
        let certificate = path(self.certificate.as_mut())
            .map(|path| certificates::read_certificate(&path).map_err(|error| error.to_string()));
        if revocation.is_some() || certificate.is_some() {
            self.read.push_back(Material::Credentials { certificate, revocation });
        }
        if let Some(path) = path(Some(&mut self.keys)) {
            let read = keyfile::read(&path).map_err(|error| error.to_string());
            self.read.push_back(Material::Keys(read));
        }
    }

    /// Returns all that has become due, without waiting.
    #[cfg(test)]
    pub(super) fn due(&mut self) -> Vec<Material> {
        self.read_due();
        self.read.drain(..).collect()
    }
}
