//! What goes to standard output: tables for people, JSON for programs.

use std::env;
use std::io::{self, BufWriter, IsTerminal, Write};

use clap::builder::FalseyValueParser;
use clap::builder::styling::{AnsiColor, Style};
use clap::{Args, ValueEnum};
use pg_workflow_client::State;
use serde::Serialize;

/// When to colour.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    Auto,
    /// Also in pipes and files.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    pub fn applies_to(self, is_terminal: bool) -> bool {
        match self {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
                is_terminal && !is_refused && !is_dumb
            }
        }
    }
}

/// How to print.
#[derive(Args)]
pub struct Format {
    /// Print JSON, one object a line, with the fields of the HTTP API.
    #[arg(long, env = "WORKFLOW_JSON", value_parser = FalseyValueParser::new())]
    pub json: bool,
}

/// Standard output.
pub struct Output {
    stdout: BufWriter<io::Stdout>,
    is_colored: bool,
    /// Of the terminal, in columns; none where there is no terminal, and nothing is cut off.
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

    /// A line as it is.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.stdout, "{}", text.trim_end())
    }

    /// A line above what belongs together.
    pub fn heading(&mut self, text: &str) -> io::Result<()> {
        let text = self.paint(text, Style::new().bold());
        writeln!(self.stdout, "\n{text}")
    }

    /// A value as JSON in one line.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = harmless_json(&serde_json::to_string(value)?);
        writeln!(self.stdout, "{text}")
    }

    /// The text in this style, where there is colour.
    pub fn paint(&self, text: &str, style: Style) -> String {
        if self.is_colored && style != Style::new() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    /// What was printed is seen now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.stdout.flush()
    }
}

/// The states that need somebody are bold, those that need nobody are dim; red and green alone tell nothing.
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

/// One line of text that users made: no control character of theirs reaches the terminal, and none that turns the
/// direction of the text.
pub fn visible(text: &str) -> String {
    let visible = |c: char| match c {
        '\n' | '\t' | '\u{2028}' | '\u{2029}' => ' ',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(visible).collect()
}

/// JSON need not escape DEL and the control characters behind it, which terminals obey too.
pub fn harmless_json(json: &str) -> String {
    let mut harmless = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => harmless += &format!("\\u{:04x}", u32::from(c)),
            c => harmless.push(c),
        }
    }
    harmless
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(visible("a\u{1b}[31mb\nc\u{9b}\u{202e}é"), "a\u{fffd}[31mb c\u{fffd}\u{fffd}é");
        let json = harmless_json(&serde_json::to_string("\u{9b}31m\u{7f}\u{1b}é").unwrap());
        assert_eq!(json, r#""\u009b31m\u007f\u001bé""#);
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "\u{9b}31m\u{7f}\u{1b}é");
    }
}
