//! Passwords that are not in the connection string, as psql finds them: `PGPASSWORD`, or the password file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// Passwords of hosts.
#[derive(Clone, Default)]
pub struct Passwords {
    /// Of each host.
    any: Option<String>,
    lines: Vec<Line>,
}

/// Host, port, database, user and password of a line of the file.
type Line = [String; 5];

impl Passwords {
    /// Reads `PGPASSWORD`, otherwise `PGPASSFILE` or `~/.pgpass`. A file that others can read is ignored, as by psql.
    pub fn of_environment() -> Passwords {
        if let Ok(password) = env::var("PGPASSWORD") {
            return Passwords { any: Some(password), lines: Vec::new() };
        }
        let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass"));
        let file = env::var_os("PGPASSFILE").map(PathBuf::from).or_else(home);
        Passwords { any: None, lines: file.and_then(|file| read(&file)).unwrap_or_default() }
    }

    /// Sets the password of a configuration with one host, if there is one for it.
    pub fn apply(&self, config: &mut Config) {
        if config.get_password().is_some() {
            return;
        }
        if let Some(password) = self.any.as_deref().or_else(|| self.find(config)) {
            config.password(password);
        }
    }

    fn find(&self, config: &Config) -> Option<&str> {
        let host = match (config.get_hosts().first(), config.get_hostaddrs().first()) {
            (Some(Host::Tcp(name)), _) => name.clone(),
            (None, Some(address)) => address.to_string(),
            _ => "localhost".to_owned(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432).to_string();
        let user = config.get_user().map(str::to_owned).or_else(|| env::var("USER").ok()).unwrap_or_default();
        let database = config.get_dbname().unwrap_or(&user);
        let wanted = [host.as_str(), &port, database, &user];
        let matches = |line: &&Line| line.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        self.lines.iter().find(matches).map(|line| line[4].as_str())
    }
}

fn read(file: &Path) -> Option<Vec<Line>> {
    let about = fs::metadata(file).ok()?;
    if !about.is_file() || about.permissions().mode() & 0o077 != 0 {
        return None;
    }
    Some(fs::read_to_string(file).ok()?.lines().filter_map(parse).collect())
}

/// Parses `host:port:database:user:password`, in which a backslash escapes the next character.
fn parse(line: &str) -> Option<Line> {
    if line.starts_with('#') {
        return None;
    }
    let (mut fields, mut letters) = (vec![String::new()], line.chars());
    while let Some(letter) = letters.next() {
        let is_last = fields.len() == 5;
        match letter {
            ':' if !is_last => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(letters.next()),
            letter => fields.last_mut()?.push(letter),
        }
    }
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_matching_line_has_the_password() {
        let text = "# comment\nnonsense\nh:5432:d:u:first:with colon\nh:*:*:u:second\n*:*:*:a\\:b:th\\\\ird\n";
        let passwords = Passwords { any: None, lines: text.lines().filter_map(parse).collect() };
        let password = |words: &str| {
            let mut config: Config = words.parse().unwrap();
            passwords.apply(&mut config);
            config.get_password().map(|password| String::from_utf8_lossy(password).into_owned())
        };
        assert_eq!(password("host=h user=u dbname=d").as_deref(), Some("first:with colon"));
        assert_eq!(password("host=h port=7 user=u dbname=d").as_deref(), Some("second"));
        assert_eq!(password("host=x user='a:b'").as_deref(), Some("th\\ird"));
        assert_eq!(password("host=h user=u dbname=d password=given").as_deref(), Some("given"));
        assert_eq!(password("host=x user=u"), None);
    }
}
