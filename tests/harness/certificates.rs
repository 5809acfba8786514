//! Certificates for one test: its own authority, a server on 127.0.0.1, and a client.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use xtask::stack::scratch::Scratch;

/// PEM files, which are removed with the value.
pub struct Certificates {
    ca: String,
    server: (String, String),
    client: (String, String),
    folder: Scratch,
}

impl Certificates {
    /// Creates an authority, and certificates for a server and a client.
    pub fn create() -> Certificates {
        let folder = Scratch::new("certificates").expect("a folder");
        let write = |name: &str, pem: String| write(&folder, name, pem);
        let authority = authority();
        let pair = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
            let certificate = certificate.signed_by(&key, &authority).expect("a certificate");
            (write(&format!("{name}.crt"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem()))
        };
        let (ca, server, client) = (write("ca.crt", authority.pem()), pair("server"), pair("client"));
        Certificates { ca, server, client, folder }
    }

    /// Creates a certificate for a server that is signed by itself, as an authority's is. Certificate and key.
    pub fn self_signed(&self) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate");
        (write(&self.folder, "own.crt", certificate.pem()), write(&self.folder, "own.key", key.serialize_pem()))
    }

    pub fn ca(&self) -> &str {
        &self.ca
    }

    /// Certificate and key.
    pub fn server(&self) -> (&str, &str) {
        (&self.server.0, &self.server.1)
    }

    /// Certificate and key.
    pub fn client(&self) -> (&str, &str) {
        (&self.client.0, &self.client.1)
    }
}

fn write(folder: &Scratch, name: &str, pem: String) -> String {
    let file = folder.path().join(name);
    std::fs::write(&file, pem).expect("a file");
    file.display().to_string()
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    // With the same name, the signed certificates would count as self-signed.
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}
