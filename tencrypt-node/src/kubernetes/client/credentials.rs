//! The files of a service account: its token, and the authorities' certificates.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    sync::Arc,
};

use hyper::{body::Bytes, header::HeaderValue};
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tracing::debug;
use zeroize::Zeroizing;

use super::{error::ClientError, place::Place};

/// Most bytes of a token: those of service accounts have some 1,000.
const TOKEN_LIMIT: u64 = 16 << 10;

/// Most bytes of the authorities' certificates.
const BUNDLE_LIMIT: u64 = 1 << 20;

/// Reads the token and returns the value of the field `Authorization` (RFC 6750 section 2.1). It is read for each request: kubelet
/// puts another one there before it expires (Kubernetes docs, "Bound service account tokens").
///
/// # Errors
/// [`ClientError::Credentials`]: the file cannot be read, or what it holds is no token.
pub(super) fn authorization(place: &Place) -> Result<HeaderValue, ClientError> {
    let refused = |reason| ClientError::Credentials { path: place.token.clone(), reason };
    let file = read(&place.token, TOKEN_LIMIT).map_err(refused)?;
    let token = file.trim_ascii();
    if token.is_empty() {
        return Err(refused(invalid("it is empty")));
    }
    if !token.iter().all(u8::is_ascii_graphic) {
        return Err(refused(invalid("it is no token: it has other bytes than visible ASCII")));
    }
    let value = Zeroizing::new([b"Bearer ", token].concat());
    let value = HeaderValue::from_maybe_shared(Bytes::from_owner(value));
    let mut value = value.map_err(|_| refused(invalid("it is no token")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Reads the authorities' certificates and returns the settings of TLS: 1.3 or 1.2, a server certificate of one of them, HTTP/1.1.
/// A certificate of the file that can be no authority is left out.
///
/// # Errors
/// [`ClientError::Credentials`]: the file cannot be read, is no PEM, or holds no certificate of an authority. [`ClientError::Tls`]:
/// the library refuses its own defaults.
pub(super) fn tls(place: &Place) -> Result<Arc<ClientConfig>, ClientError> {
    let refused = |reason| ClientError::Credentials { path: place.ca.clone(), reason };
    let bundle = read(&place.ca, BUNDLE_LIMIT).map_err(refused)?;
    let certificates = CertificateDer::pem_slice_iter(&bundle).collect::<Result<Vec<_>, _>>();
    let certificates = certificates.map_err(|_| refused(invalid("it is no PEM")))?;
    let mut roots = RootCertStore::empty();
    let (_, left_out) = roots.add_parsable_certificates(certificates);
    if roots.is_empty() {
        return Err(refused(invalid("it has no certificate of an authority")));
    }
    if left_out > 0 {
        debug!("{}: {left_out} certificates are not understood", place.ca.display());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|fault| ClientError::of_tls(&fault, &place.server))?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // The settings are made anew with each connection, so nothing would be resumed.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Reads a regular file of at most `limit` bytes. A pipe could hold up the thread for good.
fn read(path: &Path, limit: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let about = fs::metadata(path)?;
    if !about.is_file() {
        return Err(invalid("it is no regular file"));
    }
    // Large enough from the start: a vector that grows leaves copies behind.
    let capacity = usize::try_from(limit.saturating_add(1)).unwrap_or(usize::MAX);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= limit) {
        Ok(bytes)
    } else {
        Err(invalid("it is too large"))
    }
}

/// Makes the error of a file whose content cannot be used.
fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
