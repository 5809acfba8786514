//! TLS to PostgreSQL: the checks of each sslmode, and the errors if they fail.

use super::*;
use pg_workflow_client::Error;
use std::os::unix::fs::{PermissionsExt, chown};
use xtask::stack::postgres::{FAST, Postgres};

/// Starts a server with TLS. The role `with_certificate` needs a certificate, and `without_tls` may not use TLS.
fn tls_cluster(certificates: &Certificates) -> Postgres {
    tls_cluster_with(certificates, certificates.server())
}

fn tls_cluster_with(certificates: &Certificates, (certificate, key): (&str, &str)) -> Postgres {
    let user = xtask::stack::user::for_postgres().unwrap();
    for file in [certificates.ca(), certificate, key] {
        if let Some(user) = &user {
            chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let ssl =
        [("ssl", "on"), ("ssl_cert_file", certificate), ("ssl_key_file", key), ("ssl_ca_file", certificates.ca())];
    let cluster = Postgres::start("client-tls", &[FAST, &ssl].concat()).unwrap();
    let hba = cluster.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    let ours = "hostssl all with_certificate 127.0.0.1/32 trust clientcert=verify-ca\n\
                hostnossl all without_tls 127.0.0.1/32 trust\n\
                host all with_certificate,without_tls all reject\n";
    std::fs::write(&hba, format!("{ours}{rules}")).unwrap();
    let roles = "CREATE ROLE with_certificate LOGIN; CREATE ROLE without_tls LOGIN; SELECT pg_reload_conf()";
    cluster.psql("postgres", roles).unwrap();
    cluster
}

/// Connects, and returns whether the server reports the connection as encrypted.
async fn encrypted(url: &str) -> Result<bool, Error> {
    let client = server(url).connect().await?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// Returns the message and the hint of a connection that must fail.
async fn refusal(url: &str) -> (String, &'static str) {
    let error = encrypted(url).await.expect_err(url);
    assert!(!error.is_transient(), "{url}: {error}");
    (error.to_string(), error.hint())
}

#[test]
fn sslmode_decides_server_certificate_checks() {
    let (right, wrong) = (Certificates::create(), Certificates::create());
    let cluster = tls_cluster(&right);
    let url = cluster.url("postgres");
    let elsewhere = url.replace("127.0.0.1", "localhost");
    run(async {
        for (mode, expected) in [("disable", false), ("allow", true), ("prefer", true), ("require", true)] {
            assert_eq!(encrypted(&format!("{url}?sslmode={mode}")).await.unwrap(), expected, "{mode}");
        }
        assert!(encrypted(&url).await.unwrap(), "the default sslmode is prefer");
        let by_address = format!("hostaddr=127.0.0.1 port={} user=postgres dbname=postgres", cluster.port());
        assert!(encrypted(&by_address).await.unwrap());

        let (right, wrong) = (right.ca(), wrong.ca());
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(encrypted(&format!("{url}?sslmode={mode}&sslrootcert={right}")).await.unwrap(), "{mode}");
            let words = format!(
                "host=127.0.0.1 port={} user=postgres dbname=postgres sslmode={mode} sslrootcert='{right}'",
                cluster.port()
            );
            assert!(encrypted(&words).await.unwrap(), "{words}");
            let (message, hint) = refusal(&format!("{url}?sslmode={mode}&sslrootcert={wrong}")).await;
            // Both authorities have the same name, so only the signature is wrong.
            assert!(message.contains("invalid peer certificate: BadSignature"), "{message}");
            assert!(hint.contains("sslmode") && hint.contains("sslrootcert"), "{hint}");
        }
        // The certificate is for 127.0.0.1, and the host is localhost.
        for mode in ["require", "verify-ca"] {
            assert!(encrypted(&format!("{elsewhere}?sslmode={mode}&sslrootcert={right}")).await.unwrap(), "{mode}");
        }
        let (message, hint) = refusal(&format!("{elsewhere}?sslmode=verify-full&sslrootcert={right}")).await;
        assert!(message.contains("not valid for name \"localhost\""), "{message}");
        assert!(hint.contains("the host's name, which must be in that certificate"), "{hint}");
        // No authority of the system signed the certificate.
        let (message, _) = refusal(&format!("{url}?sslmode=verify-ca")).await;
        assert!(message.contains("UnknownIssuer"), "{message}");
    });
}

#[test]
fn client_certificate_authenticates_role() {
    let (right, wrong) = (Certificates::create(), Certificates::create());
    let cluster = tls_cluster(&right);
    let url = cluster.url("postgres").replace("postgres@", "with_certificate@");
    let with = |certificates: &Certificates| {
        let (certificate, key) = certificates.client();
        format!("{url}?sslmode=require&sslcert={certificate}&sslkey={key}")
    };
    run(async {
        assert!(encrypted(&with(&right)).await.unwrap());
        let (message, hint) = refusal(&url).await;
        assert!(message.contains("certificate"), "{message}");
        assert!(hint.contains("sslcert") && hint.contains("sslkey"), "{hint}");
        let error = encrypted(&with(&wrong)).await.unwrap_err();
        assert!(error.to_string().contains("received fatal alert") && !error.is_transient(), "{error}");
        assert!(error.hint().contains("sslcert"), "{}", error.hint());
        let half = format!("{url}?sslcert={}", right.client().0);
        let error = PostgresServer::parse(&half).unwrap_err().to_string();
        assert!(error.contains("sslcert and sslkey must be set together"), "{error}");
    });
}

#[test]
fn server_without_tls_is_accepted_if_sslmode_allows_it() {
    let db = Db::new();
    let url = db.url();
    run(async {
        for mode in ["disable", "prefer"] {
            assert!(!encrypted(&format!("{url}?sslmode={mode}")).await.unwrap(), "{mode}");
        }
        for mode in ["require", "verify-full"] {
            let (message, hint) = refusal(&format!("{url}?sslmode={mode}")).await;
            assert!(message.contains("server does not support TLS"), "{message}");
            assert!(hint.contains("sslmode"), "{hint}");
        }
        let certificates = Certificates::create();
        let cluster = tls_cluster(&certificates);
        let url = cluster.url("postgres").replace("postgres@", "without_tls@");
        assert!(!encrypted(&format!("{url}?sslmode=disable")).await.unwrap());
        let (message, hint) = refusal(&format!("{url}?sslmode=require")).await;
        assert!(message.contains("pg_hba.conf"), "{message}");
        assert!(hint.contains("pg_hba.conf"), "{hint}");
        // A socket has no TLS and needs none.
        let socket = cluster.socket_dir().display();
        let words = format!("host={socket} port={} user=postgres dbname=postgres sslmode=require", cluster.port());
        assert!(!encrypted(&words).await.unwrap());
    });
}

/// The documents of PostgreSQL make such a certificate: openssl req -new -x509.
#[test]
fn self_signed_certificate_of_an_authority_is_trusted_if_named() {
    let (right, wrong) = (Certificates::create(), Certificates::create());
    let (own, other) = (right.self_signed(), wrong.self_signed());
    let cluster = tls_cluster_with(&right, (&own.0, &own.1));
    let url = cluster.url("postgres");
    run(async {
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(encrypted(&format!("{url}?sslmode={mode}&sslrootcert={}", own.0)).await.unwrap(), "{mode}");
            refusal(&format!("{url}?sslmode={mode}&sslrootcert={}", other.0)).await;
        }
        let elsewhere = url.replace("127.0.0.1", "localhost");
        assert!(encrypted(&format!("{elsewhere}?sslmode=verify-ca&sslrootcert={}", own.0)).await.unwrap());
        let (message, hint) = refusal(&format!("{elsewhere}?sslmode=verify-full&sslrootcert={}", own.0)).await;
        assert!(message.contains("not valid for name \"localhost\""), "{message}");
        assert!(hint.contains("a CN is not read"), "{hint}");
    });
}
