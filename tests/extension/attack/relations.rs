//! Every table, view and sequence of the schema, with every statement that changes or reads one.

use super::allowed::{ADMINISTERS, Allowed, WRITES};
use super::{assert_none, assert_withstood};
use pg_workflow_tests::attack::{ATTACKERS, Watch, World};
use postgres::{Client, SimpleQueryMessage};

/// A table, view or sequence, and its columns.
struct Relation {
    name: String,
    columns: Vec<String>,
}

fn relations(client: &mut Client) -> Vec<Relation> {
    let sql = "SELECT c.oid::regclass::text, ARRAY(SELECT quote_ident(a.attname) FROM pg_attribute AS a
                   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
               FROM pg_class AS c
               WHERE c.relnamespace = 'workflow'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
               ORDER BY 1";
    let relation = |row: &postgres::Row| Relation { name: row.get(0), columns: row.get(1) };
    client.query(sql, &[]).unwrap().iter().map(relation).collect()
}

impl Relation {
    fn attacks(&self) -> Vec<String> {
        let name = &self.name;
        let mut attacks: Vec<String> = [
            "INSERT INTO {} SELECT * FROM {}",
            "INSERT INTO {} DEFAULT VALUES",
            "DELETE FROM {}",
            "TRUNCATE {} CASCADE",
            "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
            "ALTER TABLE {} DISABLE TRIGGER ALL",
            "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
            "ALTER TABLE {} OWNER TO CURRENT_USER",
            "ALTER TABLE {} SET SCHEMA evil",
            "ALTER TABLE {} ADD COLUMN mine text",
            "ALTER TABLE {} RENAME TO mine",
            "DROP TABLE {} CASCADE",
            "DROP VIEW {} CASCADE",
            "GRANT ALL ON {} TO PUBLIC",
            "REVOKE ALL ON {} FROM workflow_reader",
            "CREATE TRIGGER mine BEFORE UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()",
            "CREATE RULE mine AS ON INSERT TO {} DO INSTEAD NOTHING",
            "CREATE POLICY mine ON {} USING (true)",
            "CREATE INDEX mine ON {} (evil.trap())",
            "CREATE STATISTICS evil.mine ON (evil.trap()), (evil.trap()) FROM {}",
            "CREATE TABLE evil.child () INHERITS ({})",
            "CREATE TABLE evil.part PARTITION OF {} DEFAULT",
            "COMMENT ON TABLE {} IS 'mine'",
            "ALTER EXTENSION pg_workflow DROP TABLE {}",
            "SELECT setval('{}', 1)",
            "SELECT nextval('{}')",
            "SECURITY LABEL ON TABLE {} IS 'mine'",
        ]
        .iter()
        .map(|attack| attack.replace("{}", name))
        .collect();
        attacks.extend(self.columns.iter().map(|column| format!("UPDATE {name} SET {column} = {column}")));
        attacks.extend(self.columns.iter().map(|column| format!("UPDATE {name} SET {column} = NULL")));
        attacks.extend(self.columns.iter().map(|column| format!("UPDATE {name} SET {column} = '7'")));
        attacks.extend(self.columns.iter().map(|column| format!("UPDATE {name} SET {column} = 'running'")));
        attacks
    }
}

/// Sends each statement of its own, so that a success stays.
fn attack(world: &mut World, role: &str, allowed: &[Allowed]) {
    let relations = relations(&mut world.db.connect());
    let watch = Watch::start(&world.db);
    let client = &mut world.attack_as(role);
    for attack in relations.iter().flat_map(Relation::attacks) {
        if let Err(error) = client.batch_execute(&attack) {
            let told = error.as_db_error().unwrap_or_else(|| panic!("{role}: {attack}: {error}"));
            assert!(!told.code().code().starts_with("XX"), "{role}: {attack}: {told}");
        }
    }
    assert_withstood(world, &watch, role, allowed);
}

#[test]
fn relations_withstand_every_statement() {
    let mut world = World::start("attack-relations");
    for role in ["stranger", "database_owner", "reader"] {
        attack(&mut world, role, &[]);
    }
    attack(&mut world, "writer", WRITES);
    attack(&mut world, "admin", &[WRITES, ADMINISTERS].concat());
}

#[test]
fn relations_withstand_every_statement_of_a_tenant() {
    let mut world = World::start_isolated("attack-relations-tenant");
    attack(&mut world, "tenant", WRITES);
    attack(&mut world, "tenant_admin", &[WRITES, ADMINISTERS].concat());
}

/// A superuser has granted everything on all tables, and by default: row security still shows a tenant only its own rows.
#[test]
fn granted_relation_shows_no_row_of_another_tenant() {
    let world = World::start_isolated("attack-grants");
    let owner = &mut world.db.connect();
    owner
        .batch_execute(
            "GRANT SELECT ON ALL TABLES IN SCHEMA workflow TO PUBLIC;
             ALTER DEFAULT PRIVILEGES IN SCHEMA workflow GRANT SELECT ON TABLES TO PUBLIC;
             GRANT USAGE ON SCHEMA workflow TO PUBLIC",
        )
        .unwrap();
    pg_workflow_tests::next_partition(owner);
    let mut seen = Vec::new();
    for role in ATTACKERS {
        let client = &mut world.log_in(role);
        for relation in relations(owner) {
            let sql = format!("SELECT x::text FROM {} AS x", relation.name);
            let Ok(rows) = client.simple_query(&sql) else { continue };
            for row in &rows {
                let SimpleQueryMessage::Row(row) = row else { continue };
                let row = row.get(0).unwrap_or_default();
                seen.extend(world.victim.is_in(row).then(|| format!("{role} in {}: {row}", relation.name)));
            }
        }
    }
    assert_none("tenants", &seen);
}
