//! Blocks in Rust are compiled against the library, and run if they have a `main`.

use crate::markdown::Block;
use crate::page::prepared;
use crate::session::Done;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use xtask::build::{self, Profile};

pub fn run(block: &Block, text: &str, folder: &Path, variables: &[(&str, String)]) -> Done {
    let has_main = text.contains("fn main()");
    let (source, program) = (folder.join("block.rs"), folder.join("block"));
    fs::write(&source, text).expect("a file");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--deny", "warnings", "--allow", "dead_code"]).arg(&source);
    rustc.args(["--crate-type", if has_main { "bin" } else { "lib" }, "-o"]).arg(&program);
    for (name, library) in libraries() {
        let folder = Path::new(library).parent().expect("a folder");
        rustc.arg("--extern").arg(format!("{name}={library}"));
        rustc.arg("-L").arg(format!("dependency={}", folder.display()));
    }
    let compiled = rustc.output().expect("rustc");
    if !compiled.status.success() {
        return Done {
            output: String::from_utf8_lossy(&compiled.stderr).into_owned(),
            status: "compile errors".to_owned(),
        };
    }
    if !has_main || block.language.contains("no_run") {
        return Done { output: String::new(), status: "0".to_owned() };
    }
    let mut sh = Command::new("sh");
    sh.args(["-c", "exec timeout 60 \"$0\" 2>&1"]).arg(&program);
    prepared(&mut sh, folder, variables);
    let done = sh.output().expect("it runs");
    let status = done.status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    Done { output: String::from_utf8_lossy(&done.stdout).into_owned(), status }
}

/// The library and all crates around it, as they were compiled for the tests.
fn libraries() -> &'static BTreeMap<String, String> {
    static LIBRARIES: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    LIBRARIES.get_or_init(|| {
        let postgres = &xtask::setup::toolchain().expect("PostgreSQL").postgres;
        let mut cargo = build::cargo("build", postgres, Profile::Quick).expect("cargo");
        let printed = xtask::command::output(cargo.args(["--quiet", "--message-format=json"])).expect("a build");
        let messages = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut libraries: BTreeMap<String, (usize, String)> = BTreeMap::new();
        for artifact in messages.filter(|message| message["reason"] == "compiler-artifact") {
            let files = artifact["filenames"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let library = files.into_iter().find(|file| file.ends_with(".rlib") || file.ends_with(".so"));
            let (Some(library), Some(name)) = (library, artifact["target"]["name"].as_str()) else { continue };
            // Of two builds of a crate the one with fewer features is for build scripts.
            let features = artifact["features"].as_array().map_or(0, Vec::len);
            let name = name.replace('-', "_");
            if libraries.get(&name).is_none_or(|(known, _)| *known <= features) {
                libraries.insert(name, (features, library.to_owned()));
            }
        }
        libraries.into_iter().map(|(name, (_, library))| (name, library)).collect()
    })
}
