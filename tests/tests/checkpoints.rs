//! What is done with checkpoints that are there, over REST.

use std::fs;
use std::os::unix::fs::FileExt;

use serde_json::{Value, json};
use stasis_tests::{Machine, Scratch, Services, Workload};

fn names(services: &Services, query: &str) -> Vec<String> {
    let list = services.call("GET", &format!("/v1/checkpoints{query}"), None);
    assert_eq!(list.status, 200, "{}", list.text);
    let found = list.body["checkpoints"].as_array().expect("a list").iter();
    found.map(|it| it["directory"].as_str().expect("a name").to_owned()).collect()
}

#[test]
fn they_are_labelled_found_verified_and_removed() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    for (name, tier) in [("a/one", "web"), ("a/two", "db"), ("b", "web")] {
        let body = json!({"pid": workload.pid(), "directory": name, "leave_running": true,
            "labels": {"tier": tier, "of": "tests"}});
        services.job("/v1/checkpoints", &body).expect("checkpoint");
    }
    assert_eq!(names(&services, ""), ["a/one", "a/two", "b"]);
    assert_eq!(names(&services, "?below=a"), ["a/one", "a/two"]);
    assert_eq!(names(&services, "?labels=tier=web,of=tests"), ["a/one", "b"]);
    assert_eq!(names(&services, "?limit=1&cursor=a/one"), ["a/two"]);
    assert_eq!(names(&services, &format!("?pid={}", workload.pid())).len(), 3);
    for wrong in ["?limit=0", "?cursor=../x", "?labels=x", "?sort=up"] {
        let answer = services.call("GET", &format!("/v1/checkpoints{wrong}"), None);
        assert!(answer.status == 422 && answer.body["remedy"].is_string(), "{wrong}");
    }

    let labels = json!({"tier": "gone"}).to_string();
    let labelled = services.call("PUT", "/v1/labels/a/two", Some(&labels));
    assert_eq!(labelled.body["labels"], json!({"tier": "gone"}), "{}", labelled.text);
    assert_eq!(names(&services, "?labels=tier=gone"), ["a/two"]);
    let wrong = services.call("PUT", "/v1/labels/a/two", Some(r#"{"a b": "c"}"#));
    assert_eq!(wrong.status, 422, "{}", wrong.text);
    assert_eq!(services.call("PUT", "/v1/labels/none", Some("{}")).status, 404);

    let verify = |name: &str| services.job("/v1/verifications", &json!({"directory": name}));
    let sound = verify("b").expect("a verification");
    assert_eq!(sound["verified"]["sound"], true, "{sound}");
    let pages = services.checkpoints().join("b/pre-copy/pages-1.img");
    let file = fs::File::options().write(true).open(&pages).expect("open");
    file.write_all_at(&[1, 2, 3, 4, 5, 6, 7, 8], 5 << 20).expect("write");
    let damaged = verify("b").expect("a verification");
    let damage = &damaged["verified"]["damages"][0];
    assert_eq!(
        (&damaged["verified"]["sound"], &damage["path"]),
        (&json!(false), &json!("b/pre-copy/pages-1.img"))
    );
    // A restore looks before it makes anybody.
    let refused = services.restore("b").expect_err("it is damaged");
    let message = refused["detail"].as_str().expect("a message");
    assert!(message.contains("pages-1.img"), "{message}");

    for name in ["b", "a/two"] {
        let removed = services.call("DELETE", &format!("/v1/checkpoints/{name}"), None);
        assert_eq!(removed.status, 204, "{}", removed.text);
    }
    assert_eq!(services.call("DELETE", "/v1/checkpoints/b", None).status, 404);
    assert_eq!(services.call("DELETE", "/v1/checkpoints/.hidden", None).status, 422);
    assert_eq!(names(&services, ""), ["a/one"]);
    assert!(!services.checkpoints().join("b").exists());
    fs::rename(services.checkpoints().join("a"), services.checkpoints().join("c")).expect("mv");
    assert_eq!(names(&services, ""), ["c/one"], "the directories are the truth");
}

#[test]
fn one_that_others_need_stays() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let services = Services::start(&scratch.path("services"));
    let workload = Workload::start("memory", scratch.path("work"));
    let root = services.checkpoints();
    for (name, parent) in [("first", None), ("second", Some("first"))] {
        let mut dump = std::process::Command::new(stasis_tests::stasis_program());
        dump.args(["dump", &workload.pid().to_string(), "--leave-running", "--track"]);
        dump.args(parent.iter().flat_map(|it| ["--parent".into(), root.join(it)]));
        dump.arg("-D").arg(root.join(name));
        stasis_tests::Outcome::of(&mut dump).must_succeed("a dump");
    }
    let listed = services.call("GET", "/v1/checkpoints/second", None).body;
    assert_eq!(listed["parent"], "first", "{listed}");
    let kept = services.call("DELETE", "/v1/checkpoints/first", None);
    assert_eq!(kept.status, 409, "{}", kept.text);
    assert!(kept.text.contains("second"), "{}", kept.text);
    for name in ["second", "first"] {
        let removed = services.call("DELETE", &format!("/v1/checkpoints/{name}"), None);
        assert_eq!(removed.status, 204, "{}", removed.text);
    }
    let left = services.call("GET", "/v1/checkpoints", None).body;
    assert_eq!(left["checkpoints"], Value::Array(Vec::new()), "{left}");
}
