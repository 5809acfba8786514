//! Blocks of commands that no test can execute: their files, commands and flags exist.

use crate::markdown::{Block, root};
use clap::Parser;
use pg_workflow_tests::server_binary;
use std::process::Command;

/// The first thing that does not exist.
pub fn fault(block: &Block) -> Option<String> {
    let text = block.text.replace("\\\n", " ");
    let commands = text.lines().filter_map(|line| line.strip_prefix(['$', '#'])).map(str::trim);
    commands.into_iter().find_map(|command| {
        let command = command.split(" #").next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        missing_file(&words).or_else(|| wrong_xtask(&words)).or_else(|| wrong_flag(&words))
    })
}

/// Words that look like paths below a folder of the repository.
fn missing_file(words: &[&str]) -> Option<String> {
    let is_ours = |folder: &str| !["", ".", "..", "target"].contains(&folder) && root().join(folder).is_dir();
    let mut paths = words.iter().filter(|word| word.split_once('/').is_some_and(|(folder, _)| is_ours(folder)));
    paths.find(|path| !root().join(path).exists()).map(|path| format!("there is no {path}"))
}

fn wrong_xtask(words: &[&str]) -> Option<String> {
    let arguments = words.windows(2).position(|pair| pair == ["cargo", "xtask"])?;
    let arguments = words[arguments..].iter().skip(1).map(|word| word.trim_end_matches([')', '"']));
    xtask::cli::Command::try_parse_from(arguments).err().map(|error| error.to_string())
}

fn wrong_flag(words: &[&str]) -> Option<String> {
    let place = words.iter().position(|word| word.ends_with("workflow-server"))?;
    let commands =
        words[place + 1..].iter().take_while(|word| word.chars().all(|c| c.is_ascii_lowercase() || c == '-'));
    let commands = commands.take_while(|word| !word.starts_with('-'));
    let help = Command::new(server_binary()).env_clear().args(commands).arg("--help").output().expect("it runs");
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    let flags = words[place..].iter().filter(|word| word.starts_with("--"));
    let flags = flags.map(|word| word.split('=').next().unwrap_or_default());
    flags.into_iter().find(|flag| !help.contains(*flag)).map(|flag| format!("there is no {flag}"))
}
