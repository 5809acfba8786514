//! Expands an update script: a line `-- take …` stands for statements of the install script that it leads to.
//!
//! ```sql
//! -- take function workflow.lock_consumer
//! -- take view workflow.consumer_lag
//! -- take grants
//! -- take comments
//! ```
//!
//! `grants` takes every GRANT and REVOKE: the script first takes all rights from the roles. Functions and views replace an old one of that signature. `comments` takes every COMMENT, changed or not. The tests
//! `versions::` compare the catalogs, and so find changes that a script does not take.

use anyhow::{Context, Result, bail};

use super::split::statements;

/// A directive's start.
const TAKE: &str = "-- take ";
/// The end of the expansion of `-- take comments`.
const PARTITION_COMMENTS: &str = include_str!("partition_comments.sql");
/// The kinds of object that can be taken, as CREATE names them.
const KINDS: &[&str] = &["FUNCTION", "INDEX", "PROCEDURE", "SEQUENCE", "TABLE", "TYPE", "VIEW"];

/// The script with each directive replaced by the statements of `target` that it names.
pub fn expand(script: &str, target: &str) -> Result<String> {
    // The first line is psql's.
    let target = target.strip_prefix("\\echo").and_then(|rest| rest.split_once('\n')).map_or(target, |(_, rest)| rest);
    let target = statements(target).context("cannot split the install script")?;
    let mut expanded = String::new();
    for (number, line) in script.lines().enumerate() {
        let text = match line.strip_prefix(TAKE) {
            Some(named) => take(named.trim(), &target).with_context(|| format!("line {}: {line}", number + 1))?,
            None => line.to_owned(),
        };
        expanded += &text;
        expanded.push('\n');
    }
    Ok(expanded)
}

/// The statements that one directive names.
fn take(named: &str, target: &[&str]) -> Result<String> {
    let taken: Vec<String> = match named.split_once(' ') {
        None if named == "comments" => {
            target.iter().filter(|statement| statement.starts_with("COMMENT ")).map(|&text| text.to_owned()).collect()
        }
        None if named == "grants" => target
            .iter()
            .filter(|statement| statement.starts_with("GRANT ") || statement.starts_with("REVOKE "))
            .map(|&text| text.to_owned())
            .collect(),
        Some((kind, name)) if KINDS.contains(&kind.to_uppercase().as_str()) => target
            .iter()
            .filter(|statement| created(statement) == Some((kind.to_uppercase().as_str(), name.trim())))
            .map(|statement| replacing(statement))
            .collect(),
        _ => bail!("cannot take that: name a {}, grants or comments", KINDS.join(", ").to_lowercase()),
    };
    if taken.is_empty() {
        bail!("the version that it leads to has no such object");
    }
    let end = if named == "comments" { format!("\n\n{}", PARTITION_COMMENTS.trim_end()) } else { String::new() };
    Ok(taken.join("\n\n") + &end)
}

/// `CREATE FUNCTION workflow.history(…` → FUNCTION and workflow.history
fn created(statement: &str) -> Option<(&str, &str)> {
    let (kind, rest) = statement.strip_prefix("CREATE ")?.split_once(' ')?;
    let name = rest.split(|end: char| end == '(' || end.is_whitespace()).next()?;
    Some((kind, name))
}

/// CREATE OR REPLACE where PostgreSQL has it.
fn replacing(statement: &str) -> String {
    let is_replaceable = matches!(created(statement), Some(("FUNCTION" | "PROCEDURE" | "VIEW", _)));
    if is_replaceable { statement.replacen("CREATE ", "CREATE OR REPLACE ", 1) } else { statement.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "\\echo Use \"CREATE EXTENSION pg_workflow\" to load this file. \\quit
-- About a.
CREATE FUNCTION workflow.a(x text)
AS $$ BEGIN; END; $$;
COMMENT ON FUNCTION workflow.a(text) IS 'First; of a.';
CREATE FUNCTION workflow.a()
AS $$ SELECT 1; $$;
CREATE FUNCTION workflow.ab() AS 'MODULE_PATHNAME';
CREATE TYPE workflow.a AS (b text);
CREATE VIEW workflow.v AS SELECT 1;
COMMENT ON VIEW workflow.v IS 'It''s v.';
";

    #[test]
    fn function_is_taken_with_all_its_signatures() {
        let script = "-- Before.\nDROP TYPE workflow.a;\n-- take function workflow.a\n-- After.\n";
        let wanted = "-- Before.\nDROP TYPE workflow.a;\nCREATE OR REPLACE FUNCTION workflow.a(x text)\n\
            AS $$ BEGIN; END; $$;\n\nCREATE OR REPLACE FUNCTION workflow.a()\nAS $$ SELECT 1; $$;\n-- After.\n";
        assert_eq!(expand(script, TARGET).unwrap(), wanted);
    }

    #[test]
    fn types_and_views_are_taken_by_kind() {
        let script = "-- take type workflow.a\n-- take view workflow.v\n";
        let wanted = "CREATE TYPE workflow.a AS (b text);\nCREATE OR REPLACE VIEW workflow.v AS SELECT 1;\n";
        assert_eq!(expand(script, TARGET).unwrap(), wanted);
    }

    #[test]
    fn all_comments_are_taken_at_once() {
        let wanted =
            "COMMENT ON FUNCTION workflow.a(text) IS 'First; of a.';\n\nCOMMENT ON VIEW workflow.v IS 'It''s v.';\n";
        let wanted = format!("{wanted}\n{PARTITION_COMMENTS}");
        assert_eq!(expand("-- take comments\n", TARGET).unwrap(), wanted);
    }

    #[test]
    fn all_grants_are_taken_at_once() {
        let target = format!("{TARGET}REVOKE ALL ON workflow.v FROM PUBLIC;\nGRANT SELECT ON workflow.v TO r;\n");
        let wanted = "REVOKE ALL ON workflow.v FROM PUBLIC;\n\nGRANT SELECT ON workflow.v TO r;\n";
        assert_eq!(expand("-- take grants\n", &target).unwrap(), wanted);
    }

    #[test]
    fn directive_that_names_nothing_is_an_error() {
        for directive in ["function workflow.b", "view workflow.a", "function a", "trigger zz_guard", "comment", ""] {
            let error = expand(&format!("SELECT 1;\n-- take {directive}\n"), TARGET).unwrap_err();
            assert!(format!("{error:#}").contains("line 2"), "{directive}: {error:#}");
        }
    }
}
