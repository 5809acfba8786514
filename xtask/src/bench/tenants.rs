//! The cost of row security for the transitions of a tenant.

use anyhow::Result;
use serde::Serialize;

use super::{Bench, Options, Pgbench, median, reset};

/// A result of the measurement.
#[derive(Serialize)]
pub struct Figure {
    name: &'static str,
    clients: u32,
    /// Median of the ratios of throughput, with row security / without.
    ratio: f64,
}

pub fn measure(bench: &Bench, options: &Options) -> Result<Vec<Figure>> {
    let name = "a tenant's transition, with row security / without";
    if !name.contains(&options.only) {
        return Ok(Vec::new());
    }
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

fn ratio(bench: &Bench, options: &Options, clients: u32) -> Result<f64> {
    let throughput = |switch: &str| {
        reset(bench)?;
        bench.cluster.psql("bench", &format!("SELECT workflow.{switch}_row_security()"))?;
        let pgbench = Pgbench { user: "tenant", ..Pgbench::of("transition", clients, options.seconds) };
        pgbench.run_as_configured(bench)
    };
    let mut ratios = Vec::new();
    for _ in 0..options.rounds {
        let with = throughput("enable")?;
        ratios.push(with / throughput("disable")?);
    }
    Ok(median(ratios))
}

pub fn print_table(figures: &[Figure]) {
    for Figure { name, clients, ratio } in figures {
        println!("{name:66} {clients:>7} {ratio:>7.2}");
    }
}
