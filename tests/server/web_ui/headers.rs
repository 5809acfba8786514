//! HTTP headers of the page.

use pg_workflow_tests::*;
use xtask::stack::redis::Redis;

#[test]
fn page_is_cached_and_has_a_strict_policy() {
    let (db, redis) = (Db::new(), Redis::start("page-headers").unwrap());
    let (_server, url) = serve(db.url(), &redis.url());
    let mut answer = ureq::get(&url).call().unwrap();
    let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "text/html; charset=utf-8");
    assert_eq!((header("cache-control"), header("x-content-type-options")), ("no-cache".into(), "nosniff".into()));
    let policy = header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let tag = header("etag");
    let page = answer.body_mut().read_to_string().unwrap();
    assert!(page.contains("<title>pg_workflow</title>"));
    for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}")] {
        assert_eq!(ureq::get(&url).header("If-None-Match", known).call().unwrap().status(), 304);
    }
    assert_eq!(ureq::get(&url).header("If-None-Match", "\"other\"").call().unwrap().status(), 200);
}
