//! Splits a script into its statements, as PostgreSQL's lexer does.
//!
//! By hand: the crates that do it (pg_query, sqlparser) parse all of SQL, and would compile before everything else.

use anyhow::{Context, Result};

/// The statements of a script with their semicolons, without the comments before them.
pub fn statements(script: &str) -> Result<Vec<&str>> {
    let mut statements = Vec::new();
    // Where the current statement begins: after white space and comments.
    let mut start = None;
    let mut at = 0;
    while let Some(next) = script[at..].chars().next() {
        let rest = &script[at..];
        let length = token(rest, &script[..at]).with_context(|| {
            format!("line {}: the quote or comment that begins here has no end", script[..at].matches('\n').count() + 1)
        })?;
        let is_blank = next.is_whitespace() || rest.starts_with("--") || rest.starts_with("/*");
        if start.is_none() && !is_blank {
            start = Some(at);
        }
        at += length;
        if next == ';'
            && let Some(from) = start.take()
        {
            statements.push(&script[from..at]);
        }
    }
    if let Some(from) = start {
        anyhow::bail!("no semicolon ends: {}", script[from..].lines().next().unwrap_or_default());
    }
    Ok(statements)
}

/// The lines with a backslash in a plain literal: standard_conforming_strings decides what it means.
pub fn lines_with_plain_backslash(script: &str) -> Result<Vec<usize>> {
    let mut lines = Vec::new();
    let mut at = 0;
    while at < script.len() {
        let line = script[..at].matches('\n').count();
        let (before, rest) = script.split_at(at);
        let length = token(rest, before).with_context(|| format!("line {}: no end", line + 1))?;
        let text = &rest[..length];
        let is_plain = rest.starts_with('\'') && !has_escape_prefix(before);
        if is_plain && text.contains('\\') {
            lines.push(line + 1);
        } else if let Some(tag) = dollar_tag(rest).filter(|tag| length > tag.len()) {
            let body = &text[tag.len()..length - tag.len()];
            lines.extend(lines_with_plain_backslash(body)?.into_iter().map(|inner| line + inner));
        }
        at += length;
    }
    Ok(lines)
}

/// Whether the literal that follows is E'…'.
fn has_escape_prefix(before: &str) -> bool {
    before.ends_with(['e', 'E'])
        && !before[..before.len() - 1].ends_with(|last: char| last.is_alphanumeric() || last == '_')
}

/// The length of the token at the start of `rest`: a comment, a string, a quoted name or one character. None: no end.
fn token(rest: &str, before: &str) -> Option<usize> {
    let follows_name = before.ends_with(|last: char| last.is_alphanumeric() || last == '_' || last == '$');
    if rest.starts_with("--") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    if rest.starts_with('\'') {
        return quoted(rest, has_escape_prefix(before));
    }
    if rest.starts_with('"') {
        return quoted(rest, false);
    }
    match dollar_tag(rest) {
        Some(tag) if !follows_name => Some(tag.len() + rest[tag.len()..].find(tag)? + tag.len()),
        _ => rest.chars().next().map(char::len_utf8),
    }
}

/// To the quote that ends it. A doubled quote reads as two strings side by side, which end in the same place.
fn quoted(rest: &str, has_escapes: bool) -> Option<usize> {
    let quote = rest.chars().next()?;
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if character == quote {
            return Some(at + 1);
        } else {
            is_escaped = has_escapes && character == '\\';
        }
    }
    None
}

/// Block comments nest.
fn block_comment(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += rest[at..].chars().next()?.len_utf8();
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// `$$` or `$name$` at the start; not a parameter (`$1`).
fn dollar_tag(rest: &str) -> Option<&str> {
    let name = rest.strip_prefix('$')?;
    let end = name.find('$')?;
    let is_name = name[..end].chars().all(|character| character.is_alphanumeric() || character == '_');
    (is_name && !name.starts_with(|first: char| first.is_ascii_digit())).then(|| &rest[..end + 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(script: &str) -> Vec<&str> {
        statements(script).unwrap()
    }

    #[test]
    fn comments_before_a_statement_are_left_out() {
        assert_eq!(
            split("-- a; b\n/* c; /* d; */ ' */\nSELECT 1; SELECT -- e;\n 2;\n"),
            ["SELECT 1;", "SELECT -- e;\n 2;"]
        );
    }

    #[test]
    fn semicolons_in_quotes_end_no_statement() {
        for statement in [
            "SELECT 'it''s; one';",
            "SELECT E'it\\'s; one';",
            "SELECT 'a\\';",
            "SELECT \"a;\"\"b\";",
            "AS $$ SELECT ';'; $a$; $$;",
            "AS $a$ $$;$$ $1; $a$;",
            "SELECT name$1, $1, $2;",
            "SELECT 'é;', $ü$;$ü$;",
        ] {
            assert_eq!(split(&format!("{statement}\nEND;")), [statement, "END;"]);
        }
    }

    #[test]
    fn backslashes_in_plain_literals_are_found() {
        let script = "SELECT 'a', E'\\\\', -- '\\\n 'b\\';\nAS $$\n SELECT 'c', '\\S';\n$$; SELECT \"\\\";\n";
        assert_eq!(lines_with_plain_backslash(script).unwrap(), [2, 4]);
    }

    #[test]
    fn unfinished_script_is_an_error() {
        for script in ["SELECT 'a;", "SELECT 1", "AS $a$ ; $$;", "/* /* */", "SELECT 1;\n SELECT \"a;"] {
            assert!(statements(script).is_err(), "{script}");
        }
        for script in ["SELECT 1;\nSELECT 'a;", "SELECT 1;\n'a;"] {
            let error = format!("{:#}", statements(script).unwrap_err());
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
