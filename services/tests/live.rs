//! What the collector's service is made of. Needs root, and a kernel that lets it load BPF programs.
#![allow(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use collector::{Home, ROOM, Source};
use ids::HostPid;
use service::metrics::Metrics;
use stasis_services::collector::Live;

#[test]
fn inventories_are_counted_and_serialised() {
    let metrics = Metrics::new("collector").unwrap();
    let own = HostPid::own();
    let cache = tempfile::tempdir().unwrap();
    let pins = format!("/sys/fs/bpf/stasis-test-live-{own}").into();
    let home = Home { pins, cache: cache.path().join("cache") };
    let live = Live::start_at(&metrics, &home, ROOM).unwrap();
    assert_eq!((live.source(), live.reason()), (Source::Bpf, None));
    let inventory = serde_json::to_value(live.inventory(own).unwrap()).unwrap();
    let process = &inventory["processes"][own.to_string()];
    assert_eq!(process["pid"], own.get());
    assert!(process["mappings"][0]["flags"].as_str().unwrap().starts_with("rd"));
    assert!(live.inventory(HostPid::new(i32::MAX).unwrap()).is_err());
    let text = metrics.text().unwrap();
    assert!(text.contains("stasis_inventories_total{source=\"bpf\"} 1"), "{text}");
    let failed = r#"stasis_inventory_failures_total{fault="user",reason="not_found"} 1"#;
    assert!(text.contains(failed), "{text}");
    assert!(text.contains("stasis_collector_bpf 1"), "{text}");
    drop(live);
    home.clear().unwrap();
}
