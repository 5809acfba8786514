//! Passwords that psql would find.

use super::Done;
use pg_workflow_tests::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use xtask::stack::scratch::Scratch;

fn write_file(file: &Path, text: &str, mode: u32) {
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn password_is_found_where_psql_finds_it() {
    let (cluster, db) = own_cluster("cli-passwords", &[("password_encryption", "scram-sha-256")]);
    let hba = cluster.data().join("pg_hba.conf");
    let rules = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all secretive 127.0.0.1/32 scram-sha-256\n{rules}")).unwrap();
    let roles = "CREATE ROLE secretive LOGIN PASSWORD 'open:sesame' IN ROLE workflow_reader; SELECT pg_reload_conf()";
    cluster.psql("workflow", roles).unwrap();
    let url = db.url_as("secretive");
    let home = Scratch::new("home").unwrap();
    let (file, other) = (home.path().join(".pgpass"), home.path().join("other"));
    write_file(&file, "*:*:workflow:secretive:open\\:sesame\n", 0o600);
    write_file(&other, "*:*:*:*:wrong\n", 0o600);
    let list = |variables: &[(&str, &Path)]| {
        let mut command = Command::new(server_binary());
        command.env_clear().args(["list", "dags", "--database-url", &url]).envs(variables.iter().copied());
        Done::of(command.output().unwrap())
    };
    let home = home.path();
    wait_until("the rule", || list(&[]).stderr.contains("password"));
    assert_eq!(list(&[("HOME", home)]).code, Some(0));
    assert_eq!(list(&[("PGPASSFILE", &file)]).code, Some(0));
    assert_eq!(list(&[("PGPASSWORD", Path::new("open:sesame")), ("PGPASSFILE", &other)]).code, Some(0));
    for variables in [&[("PGPASSFILE", other.as_path())][..], &[("PGPASSWORD", Path::new("wrong")), ("HOME", home)]] {
        let done = list(variables);
        assert_eq!(done.code, Some(1), "{}", done.stderr);
        assert!(done.stderr.contains("~/.pgpass"), "{}", done.stderr);
    }
    // Others can read it.
    write_file(&file, "*:*:*:*:open\\:sesame\n", 0o644);
    assert_eq!(list(&[("HOME", home)]).code, Some(1));
    let mut command = Command::new(server_binary());
    let done = Done::of(command.env_clear().args(["list", "dags", "--database-url", "service=x"]).output().unwrap());
    assert!(done.code == Some(2) && done.stderr.contains("service files are not supported"), "{}", done.stderr);
    drop(db.without_verification());
}
