//! TLS to PostgreSQL, by rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::TlsParameters;

/// Which servers to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Any server: the connection is encrypted, and nothing is checked.
    Any,
    /// A server whose certificate a trusted authority signed.
    Authority {
        /// The certificates to trust; `None` for those of the system.
        roots: Option<PathBuf>,
        /// Whether the certificate must also be for the host's name.
        checks_name: bool,
    },
}

impl Trust {
    pub fn authority() -> Trust {
        Trust::Authority { roots: None, checks_name: false }
    }

    pub fn name() -> Trust {
        Trust::Authority { roots: None, checks_name: true }
    }

    pub fn with_roots(self, file: PathBuf) -> Trust {
        match self {
            Trust::Any => Trust::Any,
            Trust::Authority { checks_name, .. } => Trust::Authority { roots: Some(file), checks_name },
        }
    }
}

/// Creates a connector from these parameters. The error says why they are invalid.
pub fn connector(parameters: &TlsParameters) -> Result<MakeRustlsConnect, String> {
    // Named rather than taken from the process: a program may have chosen none.
    let provider = Arc::new(ring::default_provider());
    let verifier = verifier(parameters.trust()?, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config =
        match (&parameters.certificate, &parameters.key) {
            (None, None) => config.with_no_client_auth(),
            (Some(certificate), Some(key)) => config
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| format!("sslcert {} and sslkey: {error}", certificate.display()))?,
            _ => return Err("sslcert and sslkey must be set together".to_owned()),
        };
    Ok(MakeRustlsConnect::new(config))
}

fn verifier(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, String> {
    let Trust::Authority { roots, checks_name } = trust else {
        return Ok(Arc::new(Lenient { provider: provider.clone(), chain: None }));
    };
    let roots = match roots {
        Some(file) => roots_in(&file)?,
        None => system_roots()?,
    };
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let strict = strict.build().map_err(|error| format!("no certificate to trust: {error}"))?;
    if checks_name {
        return Ok(strict);
    }
    Ok(Arc::new(Lenient { provider: provider.clone(), chain: Some(strict) }))
}

fn roots_in(file: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| format!("sslrootcert {}: {error}", file.display()))?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("the system has no certificates to trust: name a file with sslrootcert".to_owned());
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let said = |error: &dyn std::fmt::Display| format!("cannot read certificates from {}: {error}", file.display());
    let all = CertificateDer::pem_file_iter(file).map_err(|error| said(&error))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| said(&error))?;
    if all.is_empty() { Err(said(&"it holds none in PEM")) } else { Ok(all) }
}

fn private_key(file: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| format!("cannot read a key from {}: {error}", file.display()))
}

/// Checks less than TLS usually does: at most the chain of certificates, not the name.
#[derive(Debug)]
struct Lenient {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain has been checked before the name is.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
