//! The cost of row security for the transitions of a tenant.

use std::fmt::Write;

use anyhow::Result;
use serde::Serialize;

use super::pgbench::Pgbench;
use super::ratio::{Ratio, pairs};
use super::{Bench, Options, Report};

/// A result of the measurement.
#[derive(Serialize)]
struct Figure {
    name: &'static str,
    clients: u32,
    /// Of throughput, with row security to without.
    #[serde(flatten)]
    ratio: Ratio,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Report> {
    let name = "a tenant's transition, with row security / without";
    let figures = if options.selects(name) { compare(bench, options, name)? } else { Vec::new() };
    Report::new("tenants", &figures, table(&figures))
}

fn compare(bench: &Bench, options: &Options, name: &'static str) -> Result<Vec<Figure>> {
    let sql = "CREATE ROLE tenant LOGIN IN ROLE workflow_writer;
               GRANT SELECT ON tasks TO tenant;
               UPDATE workflow.dags SET tenant = 'tenant'";
    bench.cluster.psql("bench", sql)?;
    // ALTER DATABASE, because only a superuser's session may say so.
    bench.cluster.psql("bench", "ALTER DATABASE bench SET pg_workflow.announce = off")?;
    let figures = [1, 8].map(|clients| Ok(Figure { name, clients, ratio: ratio(bench, options, clients)? }));
    bench.cluster.psql("bench", "ALTER DATABASE bench RESET pg_workflow.announce")?;
    figures.into_iter().collect()
}

fn ratio(bench: &Bench, options: &Options, clients: u32) -> Result<Ratio> {
    let throughput = |switch: &str| {
        bench.reset()?;
        bench.cluster.psql("bench", &format!("SELECT workflow.{switch}_row_security()"))?;
        let pgbench = Pgbench { user: "tenant", ..Pgbench::of("transition", clients, options.seconds) };
        pgbench.run_as_configured(bench)
    };
    Ok(Ratio::of(&pairs(options.rounds, || throughput("enable"), || throughput("disable"))?))
}

fn table(figures: &[Figure]) -> String {
    let mut table = String::new();
    for Figure { name, clients, ratio } in figures {
        let _ = writeln!(table, "{name:66} {clients:>7} {ratio:>22}");
    }
    table
}
