//! The token that HTTP clients send.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;

#[derive(Args)]
pub struct Token {
    /// Token that clients must send, except for /, /health, /livez and /readyz: "Authorization: Bearer TOKEN"
    ///
    /// Set it in the environment or in a file: other users of the machine can see the command line.
    #[arg(long, env = "WORKFLOW_TOKEN", hide_env_values = true, value_name = "TOKEN", value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,

    /// File with this token
    #[arg(long = "token-file", env = "WORKFLOW_TOKEN_FILE", value_name = "FILE", value_parser = read, conflicts_with = "token")]
    from_file: Option<String>,
}

impl Token {
    pub fn get(&self) -> Option<&str> {
        self.token.as_deref().or(self.from_file.as_deref())
    }
}

/// Reads a token from a file, without the line break at its end.
fn read(path: &str) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    match text.trim() {
        "" => Err("it is empty".to_owned()),
        token => Ok(token.to_owned()),
    }
}
