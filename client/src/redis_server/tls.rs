//! TLS to Redis: certificates and cryptography.

use redis::{Client, ConnectionAddr, ConnectionInfo, RedisResult, TlsCertificates};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::RedisServer;
use super::address::invalid;
use crate::Error;

/// Rejects a file without certificates, which would otherwise show only as a server that is not trusted.
pub fn check_certificates(pem: &[u8], what: &str) -> Result<(), Error> {
    match CertificateDer::pem_slice_iter(pem).next() {
        Some(Ok(_)) => Ok(()),
        _ => Err(invalid(&format!("{what} is not a certificate in PEM (-----BEGIN CERTIFICATE-----)"))),
    }
}

/// Creates a client for one address.
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

/// The driver panics if no provider is installed and the build's features leave a choice. A program's own choice
/// stays.
fn choose_cryptography() {
    if CryptoProvider::get_default().is_none() {
        // An error means that another thread installed one first.
        let _ = ring::default_provider().install_default();
    }
}

impl RedisServer {
    /// Rejects unusable certificates before connecting.
    pub(super) fn checked(self) -> Result<RedisServer, Error> {
        if !self.addresses.iter().any(is_tls) {
            return Err(invalid("certificates are for TLS, which a URL asks for with rediss://"));
        }
        for address in self.addresses.iter().filter(|address| is_tls(address)) {
            client(address.clone(), &self.certificates).map_err(|error| invalid(&error.to_string()))?;
        }
        Ok(self)
    }
}
