//! The API does what its description says, whatever it is sent: schemathesis makes requests of it that are as described, and such that are not.

use std::process::Command;

use stasis_tests::{Machine, Outcome, Scratch, built_program};

/// What is looked at in each answer.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,\
                      response_schema_conformance,negative_data_rejection,ignored_auth,unsupported_method";

/// It is a pid namespace of its own in which they look at processes: requests name any. Tracks want the machine's, and events do not end.
const SCRIPT: &str = r#"
cd "$DIR"
for name in collector freezer dumper restorer gateway; do "$PROGRAMS/stasis-$name" > $name.log 2>&1 & done
for attempt in $(seq 300); do curl -sf "http://$STASIS_LISTEN/healthz" > health && break; sleep 0.1; done
setsid sleep 1000 &
"$STASIS_SCHEMATHESIS/bin/schemathesis" run "http://$STASIS_LISTEN/openapi.json" --checks "$CHECKS" --max-examples 40 \
    --exclude-path-regex '^/v1/(tracks|events)' \
    -H "Authorization: Bearer $(cat gateway.token)" --no-color > report 2>&1
status=$?
tail -n 300 report
cat ./*.log
exit $status
"#;

#[test]
#[ignore = "schemathesis has to be installed: make test-all"]
fn the_api_is_as_it_is_described() {
    let _machine = Machine::prepare();
    let scratch = Scratch::new();
    let dir = scratch.path("stack");
    std::fs::create_dir(&dir).expect("mkdir");
    let home =
        std::env::var("STASIS_SCHEMATHESIS").expect("STASIS_SCHEMATHESIS: run `make test-all`");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let programs = built_program("stasis-gateway");
    let programs_left = format!("/sys/fs/bpf/stasis-schemas-{}", std::process::id());
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "sh", "-c", SCRIPT])
        .env("DIR", &dir)
        .env("PROGRAMS", programs.parent().expect("a directory"))
        .env("CHECKS", CHECKS)
        .env("STASIS_SCHEMATHESIS", home)
        .env("STASIS_RUN_DIR", &dir)
        .env("STASIS_CHECKPOINTS", dir.join("checkpoints"))
        .env("STASIS_BPF_DIR", &programs_left)
        .env("STASIS_LISTEN", port.expect("a port").to_string())
        .env("STASIS_TOKEN_FILE", dir.join("gateway.token"))
        .env("STASIS_METRICS_TOKEN_FILE", dir.join("metrics.token"))
        .env("STASIS_STATE_DIR", dir.join("gateway"));
    let outcome = Outcome::of(&mut command);
    std::fs::remove_dir_all(programs_left).ok();
    let said = outcome.must_succeed("schemathesis").stdout;
    assert!(!said.contains("panicked"), "{said}");
}
