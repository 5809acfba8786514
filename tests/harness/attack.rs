//! A database under attack: roles of every kind, a victim with data, and a watch over everything that must not change.

mod watch;

pub use watch::{Change, Watch};

use crate::{Db, own_cluster};
use postgres::{Client, NoTls};
use uuid::Uuid;
use xtask::stack::postgres::{PRELOADED, Postgres};

/// Roles that log in and attack. `stranger` has CONNECT only; `tenant` and `tenant_admin` are for isolated databases.
pub const ATTACKERS: [&str; 7] = ["stranger", "reader", "writer", "admin", "database_owner", "tenant", "tenant_admin"];

/// A cluster of its own, because a crash would disturb other tests.
pub struct World {
    pub db: Db,
    /// Holds the lease of the consumer `leased`.
    holder: Client,
    pub cluster: Postgres,
    /// Each role is a tenant.
    pub is_isolated: bool,
    pub victim: Victim,
}

/// Entities of the role `victim`.
pub struct Victim {
    pub dag: Uuid,
    pub run: Uuid,
    /// A running task.
    pub task: Uuid,
}

impl Victim {
    /// Whether a text tells of an entity of the victim.
    pub fn is_in(&self, text: &str) -> bool {
        [self.dag, self.run, self.task].iter().any(|id| text.contains(&id.to_string())) || text.contains("secret")
    }
}

impl World {
    /// Starts a cluster with a database that belongs to the role `database_owner`, who is no superuser.
    pub fn start(name: &str) -> World {
        World::start_with(name, false)
    }

    /// The same, with a tenant for each role.
    pub fn start_isolated(name: &str) -> World {
        World::start_with(name, true)
    }

    fn start_with(name: &str, is_isolated: bool) -> World {
        let (cluster, db) = own_cluster(name, &[PRELOADED]);
        let mut owner = db.connect();
        owner.batch_execute(include_str!("attack/roles.sql")).expect("roles");
        let mut holder = log_in(&db, "victim");
        holder.batch_execute(include_str!("attack/victim.sql")).expect("the victim's data");
        // Afterwards: a tenant saves no checkpoint.
        if is_isolated {
            owner.batch_execute("SELECT workflow.enable_row_security()").expect("tenants");
        }
        let sql = "SELECT r.dag_id, r.id, t.id FROM workflow.task_instances AS t
                   JOIN workflow.dag_runs AS r ON r.id = t.dag_run_id WHERE t.task_id = 'running'";
        let row = holder.query_one(sql, &[]).expect("a running task");
        let victim = Victim { dag: row.get(0), run: row.get(1), task: row.get(2) };
        owner.batch_execute("SELECT workflow.fold_state_counts()").expect("stored counts");
        log_in(&db, "database_owner").batch_execute(include_str!("attack/traps.sql")).expect("traps");
        World { db, holder, cluster, is_isolated, victim }
    }

    /// Logs in as a role, as its programs do: no superuser is behind the session.
    pub fn log_in(&self, role: &str) -> Client {
        log_in(&self.db, role)
    }

    /// Logs in as an attacker, with everything that a session can set against the functions that it calls.
    pub fn attack_as(&self, role: &str) -> Client {
        let mut client = self.log_in(role);
        client
            .batch_execute(
                "SET application_name = 'pg_restore';
                 SET search_path = evil, pg_catalog, public;
                 SET statement_timeout = '500ms';
                 DO $$ DECLARE
                     name text;
                 BEGIN
                     FOREACH name IN ARRAY '{old_rows,new_rows,dags,dag_runs,task_instances,state_history,consumers,pg_class,pg_proc,pg_roles,pg_settings,pg_stat_activity}'::text[] LOOP
                         EXECUTE format('CREATE TEMP VIEW %I AS SELECT evil.trap()', name);
                     END LOOP;
                 END $$",
            )
            .expect("settings of any role");
        client
    }

    /// Whether the session that holds a lease is still connected.
    pub fn holder_lives(&mut self) -> bool {
        self.holder.batch_execute("SELECT").is_ok()
    }

    /// Returns the lines of the server's log that tell of a crash, a terminated session or a sprung trap.
    pub fn alarms(&self) -> Vec<String> {
        const ALARMS: [&str; 6] =
            ["terminated by signal", "PANIC", "reinitializing", "administrator command", "sprung trap", "TRAP:"];
        let log = std::fs::read_to_string(self.cluster.log()).expect("a log");
        let is_alarm = |line: &&str| ALARMS.iter().any(|alarm| line.contains(alarm)) && !line.contains("STATEMENT:");
        log.lines().filter(is_alarm).map(str::to_owned).collect()
    }
}

fn log_in(db: &Db, role: &str) -> Client {
    let url = db.url().replacen("postgres@", &format!("{role}@"), 1);
    Client::connect(&url, NoTls).expect("every role can log in")
}
