//! The text of a file that people read, by line.
//!
//! No crate does it for all of these languages: tree-sitter needs a grammar in C for each, and comments and literals
//! need only this scanner.

use std::path::Path;

/// Lines of prose with their numbers; none if the language is unknown.
pub fn of(path: &Path, text: &str) -> Vec<(usize, String)> {
    let prose = reader(path).map_or_else(String::new, |read| read(text));
    prose.lines().enumerate().map(|(number, line)| (number + 1, line.to_owned())).collect()
}

/// Whether the prose of this file can be found.
pub fn is_known(path: &Path) -> bool {
    reader(path).is_some()
}

/// The function that finds the prose in a file of this name.
fn reader(path: &Path) -> Option<fn(&str) -> String> {
    let name = path.file_name()?.to_str()?;
    Some(match name.rsplit('.').next()? {
        "md" => markdown,
        "rs" => |text| code(text, &RUST),
        "sql" => |text| code(text, &SQL),
        "html" => html,
        "js" => |text| code(text, &SCRIPT),
        "css" => |text| code(text, &STYLE),
        // The last one has no extension: .ci/run.
        "sh" | "default" | "toml" | "yaml" | "control" | "Dockerfile" | "run" => |text| code(text, &HASH),
        // Its values are not quoted.
        "service" => str::to_owned,
        _ => return None,
    })
}

/// The text with blanks instead of the characters that a predicate rejects, so that lines stay lines.
fn keep(text: &str, mut is_prose: impl FnMut(usize) -> bool) -> String {
    text.char_indices().map(|(place, c)| if c == '\n' || is_prose(place) { c } else { ' ' }).collect()
}

/// Without code: fenced blocks, spans in backticks, targets of links, HTML comments.
fn markdown(text: &str) -> String {
    let mut fenced = false;
    let lines = text.lines().map(|line| {
        let is_fence = line.trim_start().starts_with("```");
        fenced ^= is_fence;
        if fenced || is_fence { "\n".to_owned() } else { format!("{line}\n") }
    });
    let text: String = lines.collect();
    // Code first: a backtick stands for each part that is blanked.
    let text = blank(&text, "`", "`");
    blank(&blank(&text, "<!--", "-->"), "](", ")")
}

/// Blanks each part from `open` to `close`, and both.
fn blank(text: &str, open: &str, close: &str) -> String {
    let (mut kept, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once(open) {
        let length = after.find(close).map_or(after.len(), |place| place + close.len());
        kept += before;
        // A quote in place of it: `a` and `b` do not become one phrase.
        kept.push('`');
        kept.extend(after[..length].chars().filter(|c| *c == '\n'));
        rest = &after[length..];
    }
    kept + rest
}

/// How a language writes comments and literals.
struct Syntax {
    /// Empty if there is none.
    line_comment: &'static str,
    /// Whether `/*` begins a comment.
    has_blocks: bool,
    quotes: &'static [char],
    /// Whether a backslash escapes a quote.
    escapes: bool,
    /// Whether `'a'` is a character and `'a` a lifetime, and `r#"…"#` a literal.
    is_rust: bool,
}

const RUST: Syntax = Syntax { line_comment: "//", has_blocks: true, quotes: &['"'], escapes: true, is_rust: true };
const SQL: Syntax = Syntax { line_comment: "--", has_blocks: true, quotes: &['\''], escapes: false, is_rust: false };
const SCRIPT: Syntax =
    Syntax { line_comment: "//", has_blocks: true, quotes: &['"', '\'', '`'], escapes: true, is_rust: false };
const STYLE: Syntax =
    Syntax { line_comment: "", has_blocks: true, quotes: &['"', '\''], escapes: true, is_rust: false };
/// Shell and configuration.
const HASH: Syntax =
    Syntax { line_comment: "#", has_blocks: false, quotes: &['"', '\''], escapes: true, is_rust: false };

/// The comments, without code in backticks, and the literals that have more than one word.
fn code(text: &str, syntax: &Syntax) -> String {
    let mut prose = vec![false; text.len()];
    let mut place = 0;
    while let Some(first) = text[place..].chars().next() {
        let rest = &text[place..];
        let (end, is_prose) = if begins_comment(text, place, syntax) {
            (rest.find('\n').unwrap_or(rest.len()), true)
        } else if syntax.has_blocks && rest.starts_with("/*") {
            (rest.find("*/").map_or(rest.len(), |end| end + 2), true)
        } else if let Some(length) = raw_literal(rest).filter(|_| syntax.is_rust) {
            (length, rest[..length].contains(' '))
        } else if syntax.is_rust && first == '\'' {
            (character(rest), false)
        } else if syntax.quotes.contains(&first) {
            let length = literal(rest, first, syntax.escapes);
            (length, rest[..length].contains(' '))
        } else {
            (first.len_utf8(), false)
        };
        prose[place..place + end].fill(is_prose);
        place += end;
    }
    let kept = keep(text, |place| prose[place]);
    kept.lines().map(|line| blank(line, "`", "`") + "\n").collect()
}

/// Whether a comment up to the end of the line begins here. `#` begins one only after white space: `${name#prefix}`.
fn begins_comment(text: &str, place: usize, syntax: &Syntax) -> bool {
    let comment = syntax.line_comment;
    !comment.is_empty()
        && text[place..].starts_with(comment)
        && (comment != "#" || text[..place].chars().next_back().is_none_or(char::is_whitespace))
}

/// The length of a literal that begins here.
fn literal(text: &str, quote: char, escapes: bool) -> usize {
    let mut escaped = false;
    for (place, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' if escapes => escaped = true,
            c if c == quote => return place + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"` or `r#"…"#`, if one begins here.
fn raw_literal(text: &str) -> Option<usize> {
    let rest = text.strip_prefix('r')?;
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    rest[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let start = 1 + hashes + 1;
    Some(text[start..].find(&close).map_or(text.len(), |end| start + end + close.len()))
}

/// The length of `'a'`, or of the quote of a lifetime.
fn character(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), Some(escaped)) => {
            let start = 2 + escaped.len_utf8();
            text[start..].find('\'').map_or(1, |end| start + end + 1)
        }
        (Some(c), Some('\'')) => 1 + c.len_utf8() + 1,
        _ => 1,
    }
}

/// The text of a page, without tags and style.
fn html(text: &str) -> String {
    blank(&blank(text, "<style", "</style>"), "<", ">")
}
