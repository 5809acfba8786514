//! `completions`: scripts for shells.

use super::ok;
use pg_workflow_tests::*;
use std::process::Command;

#[test]
fn completions_are_valid_shell_scripts() {
    let db = Db::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(&db, &["completions", shell]).stdout;
        for word in ["list", "migrate", "name-prefix"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
        // Elvish and PowerShell do not complete values.
        if ["bash", "zsh", "fish"].contains(&shell) {
            assert!(script.contains("upstream_failed") && script.contains("execution_date"), "{shell}");
        }
        if shell == "bash" {
            let file = std::env::temp_dir().join(format!("pg-workflow-completions-{}", std::process::id()));
            std::fs::write(&file, script).unwrap();
            let read = Command::new("bash").arg("-n").arg(&file).output().expect("bash");
            std::fs::remove_file(&file).unwrap();
            assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        }
    }
}
