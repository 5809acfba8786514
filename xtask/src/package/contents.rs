//! The files of the packages, and their places on Debian.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use super::tree::Tree;
use crate::build::Artifacts;
use crate::scripts::extension_files;
use crate::{command, workspace};

pub const EXTENSION_DESCRIPTION: &str = "state store of a workflow orchestrator, inside PostgreSQL
 An extension that stores DAGs, runs and tasks, rejects transitions that are
 not allowed, records every transition in the same transaction, and has an
 event feed in which no consumer misses an event.
 .
 Preload it: shared_preload_libraries = 'pg_workflow'.";

pub const SERVER_DESCRIPTION: &str = "relay, HTTP server and command line of pg_workflow
 workflow-server relays the events of a PostgreSQL database with the
 extension pg_workflow to Redis, serves an HTTP API and a web UI, and shows,
 checks and replays workflows.
 .
 Its service is not enabled. Set the addresses of the servers in
 /etc/default/workflow-server first: systemctl enable --now workflow-server";

/// The administrator starts the service, after setting the addresses of PostgreSQL and Redis.
pub const SERVER_SCRIPTS: [(&str, &str); 3] = [
    ("postinst", include_str!("postinst.sh")),
    ("prerm", include_str!("prerm.sh")),
    ("postrm", include_str!("postrm.sh")),
];

pub const SERVICE: &str = include_str!("workflow-server.service");
pub const SETTINGS: &str = include_str!("workflow-server.default");

/// Where a shell looks for its completions.
pub const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/workflow-server"),
    ("zsh", "usr/share/zsh/vendor-completions/_workflow-server"),
    ("fish", "usr/share/fish/vendor_completions.d/workflow-server.fish"),
];

/// The folders of Debian's PostgreSQL, whichever installation we have built against.
pub fn library_folder(major: u32) -> String {
    format!("usr/lib/postgresql/{major}/lib")
}

pub fn script_folder(major: u32) -> String {
    format!("usr/share/postgresql/{major}/extension")
}

/// Adds the documents to this folder. They keep their places relative to README.md, so that its links work there.
pub fn add_documents(tree: &Tree, folder: &str) -> Result<()> {
    let root = workspace::root();
    for pattern in ["*.md", "docs/**/*"] {
        let pattern = root.join(pattern);
        for file in glob::glob(pattern.to_str().context("the path of the repository is not UTF-8")?)? {
            let file = file?;
            if file.is_file() {
                let place = file.strip_prefix(root)?.display();
                tree.add(&format!("{folder}/{place}"), fs::read(&file)?)?;
            }
        }
    }
    Ok(())
}

/// The extension: library, control file and scripts.
pub fn extension(mut tree: Tree, major: u32, artifacts: &Artifacts) -> Result<Tree> {
    tree.add_binary(&format!("{}/pg_workflow.so", library_folder(major)), &artifacts.library, 0o644)?;
    for (name, content) in extension_files()? {
        tree.add(&format!("{}/{name}", script_folder(major)), content)?;
    }
    Ok(tree)
}

/// The server: binary, completions, service.
pub fn server(mut tree: Tree, artifacts: &Artifacts) -> Result<Tree> {
    tree.add_binary("usr/bin/workflow-server", &artifacts.server, 0o755)?;
    for (shell, place) in COMPLETIONS {
        let script = command::output(Command::new(&artifacts.server).args(["completions", shell]))?;
        tree.add(place, script + "\n")?;
    }
    tree.add("usr/lib/systemd/system/workflow-server.service", SERVICE)?;
    // It will hold passwords.
    tree.add_with_mode("etc/default/workflow-server", SETTINGS, 0o600)?;
    Ok(tree)
}
