//! A copy isolates tenants as the original does, whatever the form of the dump.

use super::{contents, program, run};
use pg_workflow_state_machine::State;
use pg_workflow_tests::*;
use postgres::{Client, NoTls};
use std::cell::RefCell;
use std::process::Stdio;
use tempfile::TempDir;
use xtask::stack::postgres::{PRELOADED, Postgres};

/// A cluster with a database of two tenants and later partitions, and folders for its dumps.
struct Original {
    // Fields are dropped in this order: clients go before their server.
    /// Holds a lease.
    holder: RefCell<Client>,
    db: Db,
    cluster: Postgres,
    folder: TempDir,
}

/// Gives the tenants every right that a careless administrator might give them.
const CARELESS: &str = "GRANT SELECT ON ALL TABLES IN SCHEMA workflow TO tenant_1, tenant_2;
    ALTER DEFAULT PRIVILEGES IN SCHEMA workflow GRANT SELECT ON TABLES TO tenant_1, tenant_2";

impl Original {
    fn start() -> Original {
        let (cluster, db) = own_cluster("isolation", &[PRELOADED]);
        let client = &mut db.connect();
        client
            .batch_execute(
                "CREATE ROLE tenant_1 LOGIN IN ROLE workflow_writer; CREATE ROLE tenant_2 LOGIN IN ROLE workflow_writer;
                 SELECT workflow.enable_row_security()",
            )
            .unwrap();
        for _ in 0..3 {
            for tenant in ["tenant_1", "tenant_2"] {
                let work = &mut db.connect_as(tenant);
                let task = create_task(work);
                start_task(work, task);
                work.execute("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
                // The administrator acts for the tenant.
                client.batch_execute(&format!("SET ROLE {tenant}")).unwrap();
                Transition::of(task).from(State::Running).to(State::Success).run(client).unwrap();
                client.batch_execute("RESET ROLE").unwrap();
            }
            next_partition(client);
        }
        client.batch_execute(CARELESS).unwrap();
        let mut holder = log_in(&db, "tenant_2");
        holder
            .batch_execute(
                "SELECT workflow.create_consumer('tenants', true);
                 SELECT workflow.lease_consumer('tenants', 'me', '1 h')",
            )
            .unwrap();
        Original { holder: holder.into(), db, cluster, folder: tempfile::tempdir().unwrap() }
    }

    /// Dumps with these options; returns the file or folder.
    fn dump(&self, options: &[&str]) -> String {
        let path = self.folder.path().join(format!("dump{}", options.concat())).display().to_string();
        run(program(&self.cluster, "pg_dump").args(["--dbname", self.db.url(), "--file", &path]).args(options));
        path
    }

    fn create_copy(&self) -> Db {
        Db::at(self.cluster.create_database("copy").unwrap())
    }

    /// Compares the copy with the original, and removes it.
    fn compare(&self, form: &str, copy: Db) {
        let (old, new) = (&mut self.db.connect(), &mut copy.connect());
        assert_eq!(contents(new), contents(old), "{form}");
        for tenant in ["tenant_1", "tenant_2"] {
            let seen = visible(&mut self.db.connect_as(tenant));
            assert!(seen.iter().any(|(table, rows)| table.ends_with("task_logs_2") && *rows == 1), "{seen:?}");
            assert_eq!(visible(&mut copy.connect_as(tenant)), seen, "{form}: {tenant}");
        }
        // Partitions that are created in the copy.
        next_partition(new);
        let work = &mut copy.connect_as("tenant_1");
        let task = create_task(work);
        work.execute("SELECT workflow.append_task_log($1, 'a line')", &[&task]).unwrap();
        for (table, rows) in visible(&mut copy.connect_as("tenant_2")) {
            assert!(rows == 0 || !table.ends_with("_4"), "{form}: {rows} rows of {table}");
        }
        // The copy has the consumer's owner and lease. To take it over there ends no session of the original.
        let take_over = "SELECT workflow.lease_consumer('tenants', 'me')";
        assert_eq!(failure(copy.connect_as("tenant_1").batch_execute(take_over)).sqlstate, "42501", "{form}");
        let lease: i64 = log_in(&copy, "tenant_2").query_one(take_over, &[]).unwrap().get(0);
        assert_eq!(lease, 2, "{form}");
        assert!(self.holder.borrow_mut().is_valid(PATIENCE).is_ok(), "{form}");
        drop(copy);
        self.cluster.psql("postgres", "DROP DATABASE copy WITH (FORCE)").unwrap();
    }
}

fn log_in(db: &Db, role: &str) -> Client {
    Client::connect(&db.url().replace("postgres@", &format!("{role}@")), NoTls).unwrap()
}

/// How many rows of each table and partition a tenant can read.
fn visible(client: &mut Client) -> Vec<(String, i64)> {
    let sql = "SELECT c.oid::regclass::text FROM pg_class AS c
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'p')
                 AND c.relname ~ '^(dags|dag_runs|task_instances|task_logs|state_history|consumers)' ORDER BY 1";
    let tables: Vec<String> = client.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect();
    let mut rows = |table: &String| client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).unwrap().get(0);
    tables.iter().map(|table| (table.clone(), rows(table))).collect()
}

#[test]
fn copy_isolates_tenants_in_every_form_of_dump() {
    let original = Original::start();
    let cluster = &original.cluster;
    let (custom, directory) = (original.dump(&["--format=custom"]), original.dump(&["--format=directory"]));
    let (schema, data) = (["--schema-only"].as_slice(), ["--data-only"].as_slice());
    let forms: [&[(&str, &[&str])]; 6] = [
        &[(&custom, &[])],
        &[(&custom, &["--jobs=4"])],
        &[(&custom, &["--single-transaction"])],
        &[(&directory, &["--jobs=2"])],
        &[(&custom, schema), (&custom, data)],
        &[(&custom, schema), (&custom, &["--data-only", "--jobs=3"])],
    ];
    for form in forms {
        let copy = original.create_copy();
        for (archive, options) in form {
            let mut restore = program(cluster, "pg_restore");
            run(restore.args(["--exit-on-error", "--dbname", copy.url()]).args(*options).arg(archive));
        }
        original.compare(&format!("{form:?}"), copy);
    }
    let scripts: [&[&[&str]]; 4] = [&[&[]], &[&["--inserts"]], &[schema, data], &[&["--no-owner", "--column-inserts"]]];
    for form in scripts {
        let copy = original.create_copy();
        for options in form {
            run(cluster.psql_command("copy").arg("--file").arg(original.dump(options)).stdout(Stdio::null()));
        }
        original.compare(&format!("{form:?}"), copy);
    }
}

/// The setting arrives between other tables.
#[test]
fn restore_isolates_tenants_before_it_loads_the_setting() {
    let original = Original::start();
    let archive = original.dump(&["--format=custom"]);
    let copy = original.create_copy();
    let list = program(&original.cluster, "pg_restore").args(["--list", &archive]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let restore = |items: &dyn Fn(&&str) -> bool, options: &[&str]| {
        let path = original.folder.path().join("list");
        std::fs::write(&path, list.lines().filter(items).collect::<Vec<_>>().join("\n")).unwrap();
        run(program(&original.cluster, "pg_restore")
            .args(["--exit-on-error", "--dbname", copy.url(), "--use-list"])
            .arg(path)
            .args(options)
            .arg(&archive));
    };
    let is_setting = |line: &&str| line.contains("TABLE DATA workflow row_security");
    assert_eq!(list.lines().filter(is_setting).count(), 1);
    restore(&|line| !is_setting(line), &[]);
    for tenant in ["tenant_1", "tenant_2"] {
        let seen = visible(&mut original.db.connect_as(tenant));
        assert_eq!(visible(&mut copy.connect_as(tenant)), seen, "{tenant}");
    }
    restore(&is_setting, &[]);
    original.compare("the setting last", copy);
}

/// A dump of an older version does not say whether tenants were isolated.
#[test]
fn copy_without_the_setting_isolates_and_says_so() {
    let (cluster, db) = own_cluster("unsaid", &[PRELOADED]);
    db.connect().batch_execute("TRUNCATE workflow.row_security").unwrap();
    create_task(&mut db.connect());
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("dump").display().to_string();
    run(program(&cluster, "pg_dump").args(["--dbname", db.url(), "--format=custom", "--file", &archive]));
    let copy = Db::at(cluster.create_database("copy").unwrap());
    run(program(&cluster, "pg_restore").args(["--exit-on-error", "--dbname", copy.url(), &archive]));
    let readable = |copy: &Db| -> i64 {
        let reader = &mut copy.connect_as("workflow_reader");
        reader.query_one("SELECT count(*) FROM workflow.dags", &[]).unwrap().get(0)
    };
    assert_eq!(readable(&copy), 0);
    let output = cluster.psql_command("copy").args(["--command", "SELECT * FROM workflow.finish_copy()"]).output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("tenants are isolated"), "{said}");
    copy.connect().batch_execute("SELECT workflow.disable_row_security()").unwrap();
    assert_eq!(readable(&copy), 1);
}

/// CREATE EXTENSION creates the first partitions. Those of later months must be there before their data.
#[test]
fn data_can_be_restored_into_a_new_extension() {
    let original = Original::start();
    let data = original.dump(&["--format=custom", "--data-only"]);
    let copy = original.create_copy();
    let partitions =
        "SELECT string_agg(format('SELECT workflow.create_partition(%L, %s);', p.table_name, p.number), ' ')
                      FROM workflow.partitions AS p WHERE p.number > 1";
    let partitions: String = original.db.connect().query_one(partitions, &[]).unwrap().get(0);
    copy.connect().batch_execute(&format!("CREATE EXTENSION pg_workflow; {partitions} {CARELESS}")).unwrap();
    let mut restore = program(&original.cluster, "pg_restore");
    run(restore.args(["--exit-on-error", "--jobs=2", "--dbname", copy.url()]).arg(data));
    original.compare("data only", copy);
}
