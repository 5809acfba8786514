//! Options of the connection to PostgreSQL.

use std::ffi::OsStr;

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Args, Command, Error};
use pg_workflow_client::connect::PostgresServer;

#[derive(Args)]
pub struct Database {
    /// Database: postgres://user:password@host:port/name or host=… dbname=…
    ///
    /// With several hosts, separated by commas, the client finds the primary. sslmode, sslrootcert, sslcert and sslkey work
    /// as in psql.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_name = "URL", value_parser = ServerParser)]
    pub database_url: PostgresServer,
}

/// Parses a connection string. Its errors name the option and the reason; those of clap would show the password.
#[derive(Clone)]
pub struct ServerParser;

impl TypedValueParser for ServerParser {
    type Value = PostgresServer;

    fn parse_ref(&self, command: &Command, option: Option<&Arg>, value: &OsStr) -> Result<PostgresServer, Error> {
        let parsed = match value.to_str() {
            Some(url) => PostgresServer::parse(url).map_err(|error| error.to_string()),
            None => Err("invalid connection string: it is not UTF-8".to_owned()),
        };
        match parsed {
            Ok(server) => Ok(server.with_application_name("workflow-server")),
            Err(reason) => {
                let flag = option.and_then(Arg::get_long).unwrap_or_default();
                let variable = option.and_then(Arg::get_env).unwrap_or_default().to_string_lossy();
                let message = format!("--{flag} ({variable}): {reason}\n\nFor more information, try '--help'.\n");
                Err(Error::raw(ErrorKind::ValueValidation, message).with_cmd(command))
            }
        }
    }
}
