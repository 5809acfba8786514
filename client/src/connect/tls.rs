//! TLS to PostgreSQL, by rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
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
        return Ok(Arc::new(Verifier { provider: provider.clone(), trusted: None, checks_name: false }));
    };
    let (roots, certificates) = match roots {
        Some(file) => roots_in(&file)?,
        None => (system_roots()?, Vec::new()),
    };
    let strict = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let chain = strict.build().map_err(|error| format!("no certificate to trust: {error}"))?;
    let trusted = Some(Trusted { chain, certificates });
    Ok(Arc::new(Verifier { provider: provider.clone(), trusted, checks_name }))
}

fn roots_in(file: &Path) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
    let (mut roots, certificates) = (RootCertStore::empty(), certificates(file)?);
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| format!("sslrootcert {}: {error}", file.display()))?;
    }
    Ok((roots, certificates))
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

/// Checks what `sslmode` asks for.
#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// `None` trusts every server.
    trusted: Option<Trusted>,
    checks_name: bool,
}

#[derive(Debug)]
struct Trusted {
    chain: Arc<WebPkiServerVerifier>,
    /// The certificates of `sslrootcert`.
    certificates: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(Trusted { chain, certificates }) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain has been checked before the name is.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            // The documents of PostgreSQL make a self-signed certificate so. Its dates have been checked.
            Err(error) if is_authority(&error) && certificates.iter().any(|known| known == end_entity) => {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
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

/// Returns whether a certificate was rejected because it is one of an authority, and so not one of a server.
fn is_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(reason)) = error else { return false };
    reason.to_string() == "CaUsedAsEndEntity"
}
