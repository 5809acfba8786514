//! Rejects the words of `docs/banned-words.txt` in text that people read: documents, comments and literals.

mod prose;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// The files to check, if their language is known. A pattern for all would also walk through `target`.
const FILES: [&str; 10] = [
    "*.md",
    "*.toml",
    ".ci/run",
    "client/**/*",
    "docker/**/*",
    "docs/**/*",
    "extension/**/*",
    "sql/**/*",
    "tests/**/*",
    "xtask/**/*",
];
/// Released scripts never change; the list and the glossary name the words on purpose.
const EXEMPT: [&str; 3] = ["sql/releases/", "docs/glossary.md", "xtask/src/lint/words"];

/// A word or phrase, and the words to use instead.
struct Banned {
    phrase: String,
    instead: String,
}

/// Prints every banned word with its file and line.
pub fn check() -> Result<()> {
    let list = workspace::root().join("docs/banned-words.txt");
    let list = parse(&fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?)?;
    let mut found = Vec::new();
    for pattern in FILES {
        for path in glob::glob(&workspace::root().join(pattern).to_string_lossy())?.flatten() {
            let name = path.strip_prefix(workspace::root())?.to_string_lossy().into_owned();
            if prose::is_known(&path) && !EXEMPT.iter().any(|exempt| name.starts_with(exempt)) {
                let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
                found.extend(violations(&list, &path, &text).into_iter().map(|found| format!("{name}:{found}")));
            }
        }
    }
    for found in &found {
        eprintln!("  {found}");
    }
    if !found.is_empty() {
        bail!("{} banned words: see docs/banned-words.txt", found.len());
    }
    Ok(())
}

/// Each line is `phrase = words to use instead`; `#` begins a comment.
fn parse(list: &str) -> Result<Vec<Banned>> {
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let (phrase, instead) = line.split_once(" = ").with_context(|| format!("no replacement in {line:?}"))?;
        Ok(Banned { phrase: phrase.to_lowercase(), instead: instead.to_owned() })
    };
    lines.map(entry).collect()
}

/// `line: "word", use …` for each banned word of a file.
fn violations(list: &[Banned], path: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (line, prose) in prose::of(path, text) {
        let prose = prose.to_lowercase();
        for Banned { phrase, instead } in list.iter().filter(|banned| contains(&prose, &banned.phrase)) {
            found.push(format!("{line}: {phrase:?}, use: {instead}"));
        }
    }
    found
}

/// Whether the phrase stands in the text as words: not as a part of a name such as `fold_state_counts` or
/// `pg_workflow.announce`, and not as a quoted value.
fn contains(text: &str, phrase: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || "_/{}".contains(c);
    text.match_indices(phrase).any(|(start, _)| {
        let (before, after) = (&text[..start], &text[start + phrase.len()..]);
        let starts = !before.ends_with(|c| is_name(c) || c == '.' || c == '-');
        let mut next = after.chars();
        let ends = match (next.next(), next.next()) {
            (Some('.'), Some(second)) => !second.is_alphanumeric(),
            (Some(first), _) => !is_name(first) && first != '(',
            (None, _) => true,
        };
        let is_value = ['\'', '"', '`'].iter().any(|quote| before.ends_with(*quote) && after.starts_with(*quote));
        starts && ends && (!is_value || phrase.contains(' '))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<String> {
        let list = parse(
            "# comment\n\nmoment = time\na move = a transition\nfold = refresh\nannounce = notify\nan illegal = a … that is not allowed\n",
        );
        violations(&list.expect("a list"), Path::new(path), text)
    }

    #[test]
    fn banned_words_are_found_where_people_read_them() {
        assert_eq!(lines("a.md", "At this\nMoment.\n"), ["2: \"moment\", use: time"]);
        assert_eq!(lines("a.rs", "let moment = 1;\n// A moment.\n").len(), 1);
        assert_eq!(lines("a.rs", "/// A\n/// move, a move.\nfn f() { panic!(\"a \\\"move\\\": a move\") }\n").len(), 2);
        assert_eq!(lines("a.rs", "let s = r#\"a \"moment\" of a moment\"#;\n").len(), 1);
        assert_eq!(lines("a.sql", "-- A moment.\nCOMMENT ON x IS 'The moment of\na move.';\n").len(), 3);
        assert_eq!(lines("a.html", "<p>At a moment</p>\n").len(), 1);
        assert_eq!(lines("a.js", "let s = 'a move'; // a moment\n").len(), 2);
        assert_eq!(lines("a.css", "/* A\n moment */ b::after { content: 'a move' }\n").len(), 2);
        assert_eq!(lines("a.sh", "# A moment.\necho \"a move\" # a move\n").len(), 2);
        assert_eq!(lines("Dockerfile", "# A moment.\n").len(), 1);
        assert_eq!(lines("a.toml", "description = \"a move\" # A moment.\n").len(), 2);
        assert_eq!(lines("a.service", "Description=at a moment\n# A moment.\n").len(), 2);
    }

    #[test]
    fn names_and_code_are_not_words() {
        for (path, text) in [
            ("a.md", "`moment`, fold_state_counts(), `a move\nof` [x](moment.md)\n```sql\nSELECT moment;\n```\n"),
            ("a.rs", "let moment = items.fold(0, |a, b| a); // `fold`, pg_workflow.announce, announce.rs\n"),
            (
                "a.rs",
                "let c = 'x'; let s: &'static str = \"illegal\"; // 'illegal'\nlet q = \"outcome = 'illegal'\";\n",
            ),
            ("a.sql", "SELECT moment FROM announce WHERE outcome = 'illegal';\n"),
            ("a.html", "<b class=\"moment\">x</b>\n"),
            ("a.js", "const moment = 1;\n"),
            ("a.css", "moment > b { color: #fff } // moment\n"),
            ("a.sh", "moment /*; echo ${moment#/*} $# moment\n"),
            ("a.yaml", "moment: a#moment\n"),
            ("a.png", "moment"),
        ] {
            assert_eq!(lines(path, text), [""; 0], "{text}");
        }
    }
}
