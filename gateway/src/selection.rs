//! The trees that a selector means.

use std::collections::HashSet;

use api::{ProcessList, ProcessQuery, ProcessSummary, Selector};
use service::Problem;

use crate::callers::Asker;
use crate::services::{Services, problem, with_query};

/// The roots of the trees of processes that match, looked at anew.
pub(crate) async fn trees(
    services: &Services,
    asker: &Asker,
    select: &Selector,
) -> Result<Vec<i32>, Problem> {
    let mut query = ProcessQuery {
        limit: Some(1000),
        pid: select.pid,
        comm: select.comm.clone(),
        command: select.command.clone(),
        cgroup: select.cgroup.clone(),
        unit: select.unit.clone(),
        uid: select.uid,
        programs: Some(true),
        max_age: Some("0s".to_owned()),
        ..ProcessQuery::default()
    };
    let services = services.on_behalf_of(asker.user);
    let mut found = Vec::new();
    loop {
        let asked = serde_urlencoded::to_string(&query).unwrap_or_default();
        let path = with_query("/v1/processes", Some(asked));
        let list: ProcessList =
            services.dumper().get(&path).await.map_err(|error| problem(error, asker))?;
        found.extend(list.processes);
        let Some(next) = list.next else { return Ok(roots(&found)) };
        query.cursor = Some(next);
        query.max_age = None;
    }
}

/// Refuses a selector that means everything, or two kinds of things.
pub(crate) fn check(select: &Selector) -> Result<(), Problem> {
    let of_processes = select.pid.is_some()
        || select.comm.is_some()
        || select.command.is_some()
        || select.cgroup.is_some()
        || select.unit.is_some()
        || select.uid.is_some();
    match (of_processes, &select.container) {
        (false, None) => {
            return Err(Problem::field("select", "it selects everything that runs")
                .remedy("send pid, comm, command, cgroup, unit, uid or container"));
        }
        (true, Some(_)) => {
            let message = "a container is named by its name alone";
            return Err(Problem::field("select.container", message)
                .remedy("leave the others out, or the container"));
        }
        (true, None) | (false, Some(_)) => {}
    }
    if select.pid.is_some_and(|pid| pid < 1) {
        return Err(Problem::field("select.pid", "a process id is 1 or more")
            .remedy("send the pid of a running process"));
    }
    Ok(())
}

/// The roots of the trees that processes form.
fn roots(processes: &[ProcessSummary]) -> Vec<i32> {
    let all: HashSet<i32> = processes.iter().map(|process| process.pid).collect();
    let is_root = |process: &&ProcessSummary| !all.contains(&process.ppid);
    processes.iter().filter(is_root).map(|process| process.pid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_dumped_from_their_roots() {
        let process = |pid, ppid| -> ProcessSummary {
            serde_json::from_value(serde_json::json!({"pid": pid, "ppid": ppid, "comm": "x",
                "command": "x", "uid": 0, "threads": 1, "memory_bytes": 0, "dumpable": true,
                "refusals": []}))
            .unwrap()
        };
        let found = [process(7, 1), process(8, 7), process(9, 8), process(20, 3), process(30, 20)];
        assert_eq!(roots(&found), [7, 20]);
        assert_eq!(roots(&[]), [] as [i32; 0]);
    }
}
