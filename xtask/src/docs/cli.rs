//! The commands of workflow-server and their flags, as `--help` prints them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::output;

pub fn generate(server: &Path) -> Result<String> {
    let all = help(server, &[])?;
    let (_, global) = all.split_once("\nOptions:\n").context("the help has no options")?;
    let global = options(global);
    let mut page = format!("## All commands\n\n```text\n{}\n```\n\n", all.trim());
    let mut open: Vec<Vec<String>> = commands(&all).into_iter().map(|name| vec![name]).collect();
    open.reverse();
    while let Some(command) = open.pop() {
        let help = help(server, &command)?;
        let nested = commands(&help).into_iter().map(|name| [&command[..], &[name]].concat());
        open.extend(nested.rev());
        let help = without(&help, &global);
        page += &format!("## workflow-server {}\n\n```text\n{}\n```\n\n", command.join(" "), help.trim());
    }
    Ok(page)
}

/// A variable that is set would be shown as the default: none is.
fn help(server: &Path, command: &[String]) -> Result<String> {
    let printed = output(Command::new(server).env_clear().args(command).arg("--help"))?;
    Ok(printed.lines().map(|line| line.trim_end().to_owned() + "\n").collect())
}

/// The commands that a help lists.
fn commands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else { return Vec::new() };
    let names = list.lines().take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help");
    names.map(str::to_owned).collect()
}

/// The options of a help, each with all its lines.
fn options(help: &str) -> Vec<String> {
    let mut options: Vec<String> = Vec::new();
    for line in help.lines() {
        match options.last_mut() {
            Some(option) if !is_option(line) => *option += &format!("{line}\n"),
            _ => options.push(format!("{line}\n")),
        }
    }
    options
}

fn is_option(line: &str) -> bool {
    line.starts_with("  -") || line.starts_with("      --")
}

/// A help without the options that all commands have.
fn without(help: &str, global: &[String]) -> String {
    let Some((head, list)) = help.split_once("\nOptions:\n") else { return help.to_owned() };
    let names =
        |option: &String| option.trim().lines().next().unwrap_or_default().split("  ").next().map(str::to_owned);
    let known: Vec<_> = global.iter().map(names).collect();
    let own: String = options(list).into_iter().filter(|option| !known.contains(&names(option))).collect();
    if own.trim().is_empty() { head.to_owned() } else { format!("{head}\nOptions:\n{own}") }
}
