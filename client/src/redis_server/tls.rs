//! TLS: the certificates, and the cryptography.

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::RedisServer;
use super::address::refused;
use crate::Error;

/// Refuses what holds no certificate: it would only be noticed when nothing is trusted.
pub fn check_certificates(pem: &[u8], what: &str) -> Result<(), Error> {
    match CertificateDer::pem_slice_iter(pem).next() {
        Some(Ok(_)) => Ok(()),
        _ => Err(refused(&format!("{what} is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"))),
    }
}

/// A client for one address.
pub fn client(address: ConnectionInfo, certificates: &TlsCertificates) -> RedisResult<Client> {
    if !is_tls(&address) {
        return Client::open(address);
    }
    choose_cryptography();
    Client::build_with_tls(address, certificates.clone())
}

pub fn is_tls(address: &ConnectionInfo) -> bool {
    matches!(address.addr(), ConnectionAddr::TcpTls { .. })
}

/// The driver panics where none is chosen and the features of the build leave a choice. A program's own choice stays.
fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread has chosen meanwhile.
        let _ = ring::default_provider().install_default();
    }
}

impl RedisServer {
    /// Refuses certificates that cannot be used, before anything is connected.
    pub(super) fn checked(self) -> Result<RedisServer, Error> {
        if !self.addresses.iter().any(is_tls) {
            return Err(refused("certificates are for TLS, which a URL asks for with rediss://"));
        }
        for address in self.addresses.iter().filter(|address| is_tls(address)) {
            client(address.clone(), &self.certificates).map_err(|error| refused(&error.to_string()))?;
        }
        Ok(self)
    }
}
