//! A schema `workflow` that another role has prepared, before CREATE EXTENSION or before an update.

use pg_workflow_tests::attack::World;
use pg_workflow_tests::{Db, failure};
use postgres::Client;

/// A schema that another role has prepared: set-up by a superuser, set-up by a stranger.
const SQUATTED: [(&str, &str, &str); 4] = [
    ("overload", "GRANT CREATE ON DATABASE {} TO stranger", "
        CREATE SCHEMA workflow;
        CREATE FUNCTION workflow.create_partition(a text, b integer) RETURNS text LANGUAGE plpgsql
            AS $$ BEGIN EXECUTE 'ALTER ROLE stranger SUPERUSER'; RETURN workflow.create_partition(a, b::bigint); END $$"),
    ("owner", "GRANT CREATE ON DATABASE {} TO stranger", "CREATE SCHEMA workflow"),
    ("grant", "CREATE SCHEMA workflow; GRANT CREATE ON SCHEMA workflow TO stranger", ""),
    ("content", "CREATE SCHEMA workflow; GRANT CREATE ON SCHEMA workflow TO stranger",
        "CREATE TABLE workflow.dags (id uuid)"),
];

#[test]
fn extension_rejects_a_schema_prepared_by_others() {
    let world = World::start("attack-squatter");
    for (name, by_superuser, by_stranger) in SQUATTED {
        let db = Db::at(world.cluster.create_database(name).unwrap()).without_verification();
        let owner = &mut db.connect();
        owner.batch_execute(&by_superuser.replace("{}", name)).unwrap();
        Client::connect(&db.url().replace("postgres@", "stranger@"), postgres::NoTls)
            .unwrap()
            .batch_execute(by_stranger)
            .unwrap();
        if name == "content" {
            owner.batch_execute("REVOKE CREATE ON SCHEMA workflow FROM stranger").unwrap();
        }
        let refused = failure(owner.batch_execute("CREATE EXTENSION pg_workflow"));
        assert!(refused.message.contains("schema") && !refused.hint.is_empty(), "{name}: {refused:?}");
        assert!(!is_superuser(&db), "{name}");
    }
    // One that the superuser has prepared is taken.
    let db = Db::at(world.cluster.create_database("prepared").unwrap());
    db.connect().batch_execute("CREATE SCHEMA workflow; CREATE EXTENSION pg_workflow").unwrap();
}

#[test]
fn update_rejects_a_schema_of_others() {
    let world = World::start("attack-update");
    for (name, squat) in [
        ("owner", "ALTER SCHEMA workflow OWNER TO stranger"),
        ("grant", "GRANT CREATE ON SCHEMA workflow TO stranger"),
        ("public", "GRANT CREATE ON SCHEMA workflow TO PUBLIC"),
    ] {
        let db = Db::at(world.cluster.create_database(&format!("update_{name}")).unwrap()).without_verification();
        let owner = &mut db.connect();
        owner.batch_execute("CREATE EXTENSION pg_workflow VERSION '0.2.0'").unwrap();
        owner.batch_execute(squat).unwrap();
        let refused = failure(owner.batch_execute("ALTER EXTENSION pg_workflow UPDATE"));
        assert!(refused.message.contains("schema") && !refused.hint.is_empty(), "{name}: {refused:?}");
    }
}

fn is_superuser(db: &Db) -> bool {
    let sql = "SELECT rolsuper FROM pg_roles WHERE rolname = 'stranger'";
    db.connect().query_one(sql, &[]).unwrap().get(0)
}
