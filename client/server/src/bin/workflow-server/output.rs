//! Standard output: tables for people, JSON for programs.

use std::env;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::builder::FalseyValueParser;
use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use pg_workflow_client::State;
use serde::Serialize;

/// When to color.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    Auto,
    /// In pipes and files, too
    Always,
    /// Never
    Never,
}

impl Color {
    pub fn applies_to(self, is_terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let is_disabled = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
                is_terminal && !is_disabled && !is_dumb
            }
        }
    }
}

/// The format of the output.
#[derive(Args)]
pub struct Format {
    /// Print JSON, one object per line, with the fields of the HTTP API
    #[arg(long, env = "WORKFLOW_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

/// Standard output.
pub struct Output {
    stdout: BufWriter<io::Stdout>,
    is_colored: bool,
    /// Width of the terminal in columns; without a terminal `None`, and nothing is truncated.
    pub width: Option<usize>,
}

impl Output {
    pub fn new(color: Color) -> Output {
        let stdout = io::stdout();
        let width = stdout.is_terminal().then(|| terminal_size::terminal_size_of(&stdout)).flatten();
        Output {
            is_colored: color.applies_to(stdout.is_terminal()),
            width: width.map(|(width, _)| usize::from(width.0)).filter(|width| *width > 0),
            stdout: BufWriter::new(stdout),
        }
    }

    /// Prints a line.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stdout, "{}", text.trim_end())
    }

    /// Prints a heading after an empty line.
    pub fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(text, Style::new().bold());
        writeln!(self.stdout, "\n{text}")
    }

    /// Prints a value as one line of JSON.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = escape_json(&serde_json::to_string(value)?);
        writeln!(self.stdout, "{text}")
    }

    /// Styles a text, if color is on.
    pub fn paint(&self, text: &str, style: Style) -> String {
        if self.is_colored && style != Style::new() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// Writes buffered output.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// Returns the style of a state. Failures are bold and skipped tasks dim, so that colors alone do not matter.
pub fn style_of(state: State) -> Style {
    match state {
        State::Queued => Style::new(),
        State::Running => AnsiColor::Cyan.on_default(),
        State::Success => AnsiColor::Green.on_default(),
        State::Failed => AnsiColor::Red.on_default().bold(),
        State::Retrying => AnsiColor::Yellow.on_default(),
        State::UpstreamFailed => AnsiColor::Magenta.on_default().bold(),
        State::Skipped => Style::new().dimmed(),
    }
}

/// Makes a text from users safe for the terminal: one line, without control characters and changes of direction.
pub fn visible(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// Escapes DEL and the control characters after it, which terminals obey, but which JSON need not escape.
pub fn escape_json(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => escaped += &format!("\\u{:04x}", u32::from(c)),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_replaced_or_escaped() {
        assert_eq!(visible("a\u{1b}[31mb\nc\u{9b}\u{202e}é"), "a\u{fffd}[31mb c\u{fffd}\u{fffd}é");
        let json = escape_json(&serde_json::to_string("\u{9b}31m\u{7f}\u{1b}é").unwrap());
        assert_eq!(json, r#""\u009b31m\u007f\u001bé""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "\u{9b}31m\u{7f}\u{1b}é");
    }
}
