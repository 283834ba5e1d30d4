//! Whose certificates are believed when the connection string names no `tlsCAFile`: the system's authorities, as with the
//! original. The driver by itself would take Mozilla's, and no company's own.

use mongodb::options::{ClientOptions, Tls};
use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Where distributions keep them in one file.
const BUNDLES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Adds the system's authorities where TLS has none. `SSL_CERT_FILE` comes first; where there is no such file at all the
/// driver's are left.
pub(super) fn the_system(options: &mut ClientOptions) {
    if let Some(Tls::Enabled(tls)) = &mut options.tls
        && tls.ca_file_path.is_none()
    {
        tls.ca_file_path = bundle(std::env::var_os("SSL_CERT_FILE"), Path::exists);
    }
}

/// A file that somebody named is not replaced silently by something else: if it is missing the driver says so.
fn bundle(named: Option<OsString>, exists: impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let named = named.filter(|it| !it.is_empty()).map(PathBuf::from);
    named.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| exists(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_file_comes_first_and_then_the_systems() {
        let debian = |path: &Path| path == Path::new(BUNDLES[0]) || path == Path::new(BUNDLES[5]);
        assert_eq!(bundle(Some("/own.pem".into()), debian), Some("/own.pem".into()));
        assert_eq!(bundle(Some("".into()), debian), Some(BUNDLES[0].into()));
        assert_eq!(bundle(None, |path| path == Path::new(BUNDLES[1])), Some(BUNDLES[1].into()));
        assert_eq!(bundle(None, |_| false), None);
    }
}
