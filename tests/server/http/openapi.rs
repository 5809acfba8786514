//! `/openapi.json` agrees with the responses: every path, every parameter, valid and invalid values.

use jsonschema::Validator;
use pg_workflow_tests::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::Api;

/// Its response does not end.
const STREAM: &str = "/api/v1/events";

/// A database with one entity of each kind, a server on it, and the server's own description.
struct Described {
    api: Api,
    description: Value,
    dag: Uuid,
    run: Uuid,
    task: Uuid,
    waiting: Uuid,
    _db: Db,
}

impl Described {
    fn start() -> Described {
        let db = Db::new();
        let client = &mut db.connect();
        let (dag, run) = create_run(client);
        let sql = "SELECT id FROM workflow.create_task_instances($1, '{a,b,deleted}')";
        let task: Uuid = client.query(sql, &[&run]).unwrap()[0].get(0);
        let sql = "SELECT id FROM workflow.create_task_instances($1, '{c}', depends_on => '{\"c\": [\"a\"]}')";
        let waiting: Uuid = client.query_one(sql, &[&run]).unwrap().get(0);
        client.batch_execute("DELETE FROM workflow.task_instances WHERE task_id = 'deleted'").unwrap();
        client.execute("UPDATE workflow.task_instances SET state = 'running' WHERE id = $1", &[&task]).unwrap();
        client
            .execute("UPDATE workflow.dags SET tags = '[\"t\"]', schedule = '@daily', start_date = now()", &[])
            .unwrap();
        client.execute("SELECT workflow.append_task_log($1, 'hello')", &[&task]).unwrap();
        client
            .batch_execute(
                "SELECT workflow.enqueue_task_instances(ARRAY(SELECT id FROM workflow.task_instances WHERE task_id = 'b'));
                 SELECT workflow.set_queue('default', slots => 2, paused_until => 'infinity');
                 SELECT workflow.set_queue('default', paused_until => '-infinity');
                 SELECT workflow.claim_tasks('w-7')",
            )
            .unwrap();
        let api = Api::without_relay(&db, &[]);
        let (status, description) = api.get("/openapi.json");
        assert_eq!(status, 200);
        Described { api, description, dag, run, task, waiting, _db: db }
    }

    /// Each path, with an existing id, and its operation.
    fn operations(&self) -> Vec<(String, &Value)> {
        let paths = self.description["paths"].as_object().expect("paths");
        let fill_in = |path: &str| {
            let id = if path.contains("/dags/") {
                self.dag
            } else if path.contains("/dag-runs/") {
                self.run
            } else if path.ends_with("/waits-for") {
                self.waiting
            } else {
                self.task
            };
            path.replace("{id}", &id.to_string())
        };
        let ending = paths.iter().filter(|(path, _)| *path != STREAM);
        ending.map(|(path, item)| (fill_in(path), &item["get"])).collect()
    }

    /// Sends a request, and checks the response against the description.
    fn ask(&self, operation: &Value, path: &str) -> (u16, Value) {
        let mut response = self.api.agent.get(format!("{}{path}", self.api.url)).call().expect("an answer");
        let status = response.status().as_u16();
        let described = &operation["responses"][status.to_string()];
        assert!(described.is_object(), "{path}: {status} is not described");
        let content = response.headers()["content-type"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let schema = &described["content"][&content]["schema"];
        assert!(schema.is_object(), "{path}: {status} with {content} is not described");
        let text = response.body_mut().read_to_string().unwrap();
        if !content.ends_with("json") {
            return (status, Value::Null);
        }
        let body: Value = serde_json::from_str(&text).unwrap();
        let problems: Vec<String> = self.validator(schema).iter_errors(&body).map(|error| error.to_string()).collect();
        assert!(problems.is_empty(), "{path}: {problems:?}\n{body}");
        (status, body)
    }

    fn validator(&self, schema: &Value) -> Validator {
        let schema = json!({ "allOf": [schema], "components": self.description["components"] });
        jsonschema::options().should_validate_formats(true).build(&schema).expect("a schema")
    }
}

fn parameters(operation: &Value) -> Vec<(&str, &Value)> {
    let all = operation["parameters"].as_array().map_or(&[][..], Vec::as_slice);
    all.iter()
        .filter(|parameter| parameter["in"] == "query")
        .map(|parameter| (parameter["name"].as_str().unwrap(), &parameter["schema"]))
        .collect()
}

/// Values that a schema allows, encoded for a query.
fn good_values(name: &str, schema: &Value, of: &Described) -> Vec<String> {
    let enumeration = |schema: &Value| -> Option<Vec<String>> {
        Some(schema["enum"].as_array()?.iter().map(|value| value.as_str().unwrap().to_owned()).collect())
    };
    if let Some(values) = enumeration(schema).or_else(|| {
        enumeration(&of.description["components"]["schemas"]["EntityType"]).filter(|_| name == "entity_type")
    }) {
        return values;
    }
    match (schema["type"].as_str().unwrap_or_default(), schema["format"].as_str()) {
        ("array", _) => {
            let items = match schema["items"]["$ref"].as_str() {
                Some(name) => of.description.pointer(name.trim_start_matches('#')).expect("a schema"),
                None => &schema["items"],
            };
            let values = enumeration(items).expect("an array of names");
            vec![values[0].clone(), values.join(",")]
        }
        ("integer", _) => vec!["1".to_owned(), schema["maximum"].as_i64().unwrap_or(i64::from(i32::MAX)).to_string()],
        ("boolean", _) => vec!["true".to_owned(), "false".to_owned()],
        (_, Some("uuid")) => vec![of.run.to_string(), Uuid::nil().to_string()],
        (_, Some("date-time")) => {
            vec!["0001-01-01T00:00:00Z".to_owned(), "9999-12-31T23:59:59.999999%2B23:59".to_owned()]
        }
        _ if name == "cursor" => {
            let nil = Uuid::nil();
            let all = [
                format!("{nil}."),
                format!("{nil}.a.b'%3B--"),
                format!("-1.{nil}"),
                format!("999999999999999999.{nil}"),
                format!("{nil}.{nil}.x"),
                nil.to_string(),
                "7.x".to_owned(),
                "7".to_owned(),
            ];
            let fits = of.validator(schema);
            all.into_iter().filter(|cursor| fits.is_valid(&json!(cursor.replace("%3B", ";")))).collect()
        }
        ("string", _) => {
            vec!["x".to_owned(), "%27%20OR%201%3D1%3B--".to_owned(), "%25_%5C".to_owned(), "%C3%A9".repeat(500)]
        }
        other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn responses_match_the_description() {
    let described = Described::start();
    let operations = described.operations();
    assert!(operations.len() >= 12, "{}", operations.len());
    for (path, operation) in operations {
        let (status, body) = described.ask(operation, &path);
        assert_eq!(status, 200, "{path}: {body}");
        assert!(body["items"].as_array().is_none_or(|items| !items.is_empty()), "{path} is requested with rows");
        for (name, schema) in parameters(operation) {
            let values = good_values(name, schema, &described);
            assert!(!values.is_empty(), "{path}: {name}");
            for value in values {
                let (status, body) = described.ask(operation, &format!("{path}?{name}={value}"));
                assert_eq!(status, 200, "{path}?{name}={value}: {body}");
            }
        }
        if operation["parameters"].as_array().is_some_and(|all| all.iter().any(|parameter| parameter["in"] == "path")) {
            let missing = path.replace(&described.dag.to_string(), &Uuid::nil().to_string());
            let missing = missing.replace(&described.run.to_string(), &Uuid::nil().to_string());
            let missing = missing.replace(&described.task.to_string(), &Uuid::nil().to_string());
            let missing = missing.replace(&described.waiting.to_string(), &Uuid::nil().to_string());
            assert_eq!(described.ask(operation, &missing).0, 404, "{missing}");
        }
    }
}

#[test]
fn invalid_value_error_names_parameter() {
    let described = Described::start();
    for (path, operation) in described.operations() {
        assert_eq!(described.ask(operation, &format!("{path}?unheard_of=1")).1["error"]["parameter"], "unheard_of");
        for (name, schema) in parameters(operation) {
            let is_text = schema["type"] == "string"
                && schema["format"].is_null()
                && schema["enum"].is_null()
                && name != "entity_type";
            let good = good_values(name, schema, &described)[0].clone();
            let mut bad = vec![format!("{name}=%00")];
            if schema["type"] != "array" {
                bad.push(format!("{name}={good}&{name}={good}"));
            }
            if name != "cursor" {
                bad.push(format!("{name}="));
                bad.push(format!("{name}=%FF%FE"));
            }
            if !is_text || name == "cursor" {
                for value in [
                    "x",
                    "%27%20OR%201%3D1--",
                    "-1",
                    "1e3",
                    "0x10",
                    "null",
                    "[]",
                    "%F0%9F%92%A5",
                    "99999999999999999999999",
                ] {
                    bad.push(format!("{name}={value}"));
                }
            }
            if name != "cursor" {
                bad.push(format!("{name}={}", "9".repeat(5000)));
            }
            for query in bad {
                if name == "cursor" && query == "cursor=-1" {
                    continue; // A number is a valid cursor of lists with numeric ids.
                }
                let (status, body) = described.ask(operation, &format!("{path}?{query}"));
                assert_eq!((status, &body["error"]["parameter"]), (400, &json!(name)), "{path}?{query}: {body}");
            }
        }
    }
}

#[test]
fn event_stream_is_described() {
    let described = Described::start();
    let events = &described.description["paths"][STREAM]["get"];
    let names: Vec<&str> = parameters(events).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["dag_id", "dag_run_id", "last_event_id"]);
    assert!(events["responses"]["200"]["content"]["text/event-stream"].is_object());
}
