//! TLS parameters of a connection string: those of libpq that the driver does not read.
//!
//! The url crate cannot part a connection string: it rejects several hosts with ports, and does not know `host=… dbname=…`.

use std::path::PathBuf;

use super::tls::Trust;

/// How to encrypt, with libpq's meaning of `sslmode`, `sslrootcert`, `sslcert` and `sslkey`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsParameters {
    pub mode: Option<String>,
    pub root_certificates: Option<String>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

impl TlsParameters {
    /// The servers to trust. libpq checks nothing below `verify-ca`, unless `sslrootcert` is set.
    pub fn trust(&self) -> Result<Trust, String> {
        let names = |trust: Trust| match self.root_certificates.as_deref() {
            None | Some("system") => Ok(trust),
            Some(file) => Ok(trust.with_roots(PathBuf::from(file))),
        };
        if let (Some("system"), Some(mode @ ("disable" | "allow" | "prefer" | "require" | "verify-ca"))) =
            (self.root_certificates.as_deref(), self.mode.as_deref())
        {
            return Err(format!(
                "sslmode={mode} is too weak for sslrootcert=system: anyone can get such a certificate"
            ));
        }
        match self.checked_mode() {
            Some("verify-full") => names(Trust::name()),
            Some("verify-ca") => names(Trust::authority()),
            Some("require") if self.root_certificates.is_some() => names(Trust::authority()),
            None | Some("disable" | "allow" | "prefer" | "require") => Ok(Trust::Any),
            Some(other) => Err(format!(
                "sslmode is {other:?}; expected disable, allow, prefer, require, verify-ca and verify-full"
            )),
        }
    }

    /// The authorities of the system sign for anyone, so `sslrootcert=system` implies checking the name.
    fn checked_mode(&self) -> Option<&str> {
        match self.root_certificates.as_deref() {
            Some("system") => self.mode.as_deref().or(Some("verify-full")),
            _ => self.mode.as_deref(),
        }
    }

    /// `sslmode` as the driver knows it: whether to encrypt.
    fn driver_mode(&self) -> Option<&'static str> {
        match self.checked_mode()? {
            "disable" => Some("disable"),
            "allow" | "prefer" => Some("prefer"),
            _ => Some("require"),
        }
    }

    /// Takes a parameter if it is about TLS; returns whether it is.
    fn take(&mut self, name: &str, value: &str) -> bool {
        match name {
            "sslmode" => self.mode = Some(value.to_owned()),
            "sslrootcert" => self.root_certificates = Some(value.to_owned()),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            _ => return false,
        }
        true
    }
}

const NO_EQUALS: &str = "a word has no \"=\"; quote values that contain blanks";

/// Splits a connection string into the part that the driver reads and the TLS parameters.
pub fn part(text: &str) -> Result<(String, TlsParameters), String> {
    let mut tls = TlsParameters::default();
    let rest = if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        part_url(text, &mut tls)
    } else {
        part_words(text, &mut tls)?
    };
    Ok((rest, tls))
}

fn part_url(text: &str, tls: &mut TlsParameters) -> String {
    let Some((head, query)) = text.split_once('?') else { return text.to_owned() };
    let mut kept: Vec<String> = Vec::new();
    for pair in query.split('&') {
        // In a form a plus stands for a blank, in a connection string for itself.
        match form_urlencoded::parse(pair.replace('+', "%2B").as_bytes()).next() {
            Some((name, value)) if tls.take(&name, &value) => (),
            _ => kept.push(pair.to_owned()),
        }
    }
    if let Some(mode) = tls.driver_mode() {
        kept.push(format!("sslmode={mode}"));
    }
    if kept.is_empty() { head.to_owned() } else { format!("{head}?{}", kept.join("&")) }
}

/// `host=… dbname='…'`: a value ends at a blank, unless it stands in quotes; a backslash escapes the next character.
fn part_words(text: &str, tls: &mut TlsParameters) -> Result<String, String> {
    let (mut kept, mut rest) = (Vec::new(), text.trim_start());
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(NO_EQUALS)?;
        if name.trim().contains(char::is_whitespace) {
            return Err(NO_EQUALS.to_owned());
        }
        let after = after.trim_start();
        let (value, length) = value(after).ok_or("a quote is not closed")?;
        if !tls.take(name.trim(), &value) {
            kept.push(format!("{}={}", name.trim(), &after[..length]));
        }
        rest = after[length..].trim_start();
    }
    if let Some(mode) = tls.driver_mode() {
        kept.push(format!("sslmode={mode}"));
    }
    Ok(kept.join(" "))
}

/// A value, and how many bytes of the text it takes.
fn value(text: &str) -> Option<(String, usize)> {
    let is_quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut letters = text.char_indices().skip(usize::from(is_quoted));
    while let Some((place, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next()?.1),
            '\'' if is_quoted => return Some((value, place + 1)),
            blank if !is_quoted && blank.is_whitespace() => return Some((value, place)),
            letter => value.push(letter),
        }
    }
    (!is_quoted).then_some((value, text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(text: &str) -> (String, TlsParameters) {
        part(text).unwrap()
    }

    #[test]
    fn url_keeps_parameters_of_the_driver() {
        let (rest, tls) = parted("postgres://u@h/d?sslmode=verify-full&connect_timeout=7&sslrootcert=%2Fa%20b+.pem");
        assert_eq!(rest, "postgres://u@h/d?connect_timeout=7&sslmode=require");
        assert_eq!((tls.mode.as_deref(), tls.root_certificates.as_deref()), (Some("verify-full"), Some("/a b+.pem")));
        assert_eq!(parted("postgres://u@h/d"), ("postgres://u@h/d".to_owned(), TlsParameters::default()));
        assert_eq!(parted("postgres://h/d?sslmode=disable").0, "postgres://h/d?sslmode=disable");
    }

    #[test]
    fn words_keep_parameters_of_the_driver() {
        let (rest, tls) = parted(r"host=h password='a b\'c' sslrootcert = '/a b.pem'  sslmode=verify-ca dbname=d");
        assert_eq!(rest, r"host=h password='a b\'c' dbname=d sslmode=require");
        assert_eq!((tls.mode.as_deref(), tls.root_certificates.as_deref()), (Some("verify-ca"), Some("/a b.pem")));
        assert!(part("host='h").is_err());
        assert!(part("localhost").is_err());
    }

    #[test]
    fn trust_follows_libpq() {
        let trust = |mode: &str, roots: Option<&str>| {
            let tls = TlsParameters { mode: Some(mode.to_owned()), ..TlsParameters::default() };
            TlsParameters { root_certificates: roots.map(str::to_owned), ..tls }.trust()
        };
        for mode in ["disable", "allow", "prefer", "require"] {
            assert_eq!(trust(mode, None), Ok(Trust::Any), "{mode}");
        }
        assert_eq!(trust("require", Some("/ca.pem")), Ok(Trust::authority().with_roots("/ca.pem".into())));
        assert_eq!(trust("verify-full", Some("system")), Ok(Trust::name()));
        assert!(trust("verify", None).is_err());
        assert!(trust("require", Some("system")).is_err());
        let system = TlsParameters { root_certificates: Some("system".to_owned()), ..TlsParameters::default() };
        assert_eq!((system.trust(), system.driver_mode()), (Ok(Trust::name()), Some("require")));
    }
}
