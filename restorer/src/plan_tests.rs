use super::*;

const CALLER: Caller = Caller { sid: ImagePid::new(5), pgid: ImagePid::new(6), shell_job: false };
const JOB: Caller = Caller { shell_job: true, ..CALLER };

fn image(number: i32) -> ImagePid {
    ImagePid::new(number).unwrap()
}

fn member(pid: i32, parent: Option<usize>, pgid: i32, sid: i32) -> Member {
    // 0 is nobody.
    let (pgid, sid) = (ImagePid::new(pgid), ImagePid::new(sid));
    Member { pid: image(pid), parent, pgid, sid, dead: false, stopped: false }
}

fn build(members: Vec<Member>, caller: Caller) -> Result<Plan, Error> {
    super::build(members, caller, &Levels::default())
}

fn task(plan: &Plan, pid: i32) -> &Task {
    plan.tasks.iter().find(|task| task.pid == image(pid)).unwrap()
}

#[test]
fn a_daemon_with_children_of_its_session() {
    let plan = build(
        vec![
            member(100, None, 100, 100),
            member(101, Some(0), 100, 100),
            member(102, Some(0), 102, 100),
            member(103, Some(2), 102, 100),
        ],
        CALLER,
    )
    .unwrap();
    assert_eq!(plan.tasks.len(), 4);
    assert_eq!(task(&plan, 100).forks, [ForkStep::Session, ForkStep::Child(1), ForkStep::Child(2)]);
    assert_eq!(task(&plan, 101).group, Group::Join(image(100)));
    assert_eq!(task(&plan, 102).group, Group::Found);
    assert_eq!(task(&plan, 103).group, Group::Join(image(102)));
}

#[test]
fn a_child_left_in_the_session_its_parent_came_from() {
    let plan = build(
        vec![
            member(100, None, 100, 100),
            member(101, Some(0), 101, 101),
            member(102, Some(1), 100, 100),
        ],
        CALLER,
    )
    .unwrap();
    assert_eq!(task(&plan, 101).forks, [ForkStep::Child(2), ForkStep::Session]);
    assert_eq!(task(&plan, 102).group, Group::Join(image(100)));
}

#[test]
fn a_child_in_the_session_of_a_sibling() {
    let plan = build(
        vec![
            member(100, None, 100, 100),
            member(101, Some(0), 101, 101),
            member(102, Some(0), 101, 101),
        ],
        CALLER,
    )
    .unwrap();
    assert_eq!(task(&plan, 101).forks, [ForkStep::Session, ForkStep::Sibling(2)]);
    assert!(!task(&plan, 100).forks.contains(&ForkStep::Child(2)));
}

#[test]
fn dead_leaders_are_stood_in_for() {
    let plan = build(
        vec![
            member(100, None, 100, 100),
            member(102, Some(0), 101, 101),
            member(103, Some(0), 104, 100),
            member(105, Some(0), 104, 100),
        ],
        CALLER,
    )
    .unwrap();
    let session = plan.tasks.iter().position(|task| task.pid == image(101)).unwrap();
    assert_eq!(plan.tasks[session].forks, [ForkStep::Session, ForkStep::Sibling(1)]);
    assert_eq!(plan.tasks[session].process, None);
    assert!(task(&plan, 100).forks.contains(&ForkStep::Child(session)));
    assert_eq!(task(&plan, 100).helpers, [image(101)]);
    assert_eq!(task(&plan, 103).helpers, [image(104)]);
    assert_eq!(task(&plan, 104).group, Group::Found);
    assert_eq!(task(&plan, 105).group, Group::Join(image(104)));
    assert_eq!(task(&plan, 102).group, Group::Join(image(101)));
}

#[test]
fn a_terminal_job_takes_the_callers_session() {
    let job = || vec![member(100, None, 100, 50), member(101, Some(0), 100, 50)];
    assert!(matches!(build(job(), CALLER), Err(Error::Refused(_))));
    let plan = build(job(), JOB).unwrap();
    assert_eq!(task(&plan, 100).forks, [ForkStep::Child(1)]);
    assert_eq!(task(&plan, 100).group, Group::Found);
    // Part of a pipeline, whose leader was not dumped.
    let plan = build(vec![member(100, None, 99, 50)], JOB).unwrap();
    assert_eq!(task(&plan, 100).group, Group::Join(image(6)));
    assert_eq!(plan.tasks.len(), 1);
}

#[test]
fn what_cannot_be_is_refused() {
    let stranger = vec![
        member(100, None, 100, 100),
        member(101, Some(0), 101, 101),
        member(102, Some(0), 102, 102),
        member(103, Some(1), 102, 102),
    ];
    assert!(build(stranger, CALLER).is_err());
    assert!(build(vec![member(100, None, 7, 100)], CALLER).is_err());
    let split = vec![
        member(100, None, 100, 100),
        member(101, Some(0), 101, 101),
        member(102, Some(0), 55, 100),
        member(103, Some(1), 55, 101),
    ];
    assert!(build(split, CALLER).is_err());
}

#[test]
fn the_dead_and_the_stopped_are_noted() {
    let mut members = vec![member(100, None, 100, 100), member(101, Some(0), 100, 100)];
    members[1].dead = true;
    members.push(Member { stopped: true, ..member(102, Some(0), 100, 100) });
    let plan = build(members, CALLER).unwrap();
    assert_eq!(task(&plan, 100).zombies, [image(101)]);
    assert_eq!(task(&plan, 100).stopped, [image(102)]);
}

#[test]
fn a_job_whose_session_is_led_from_outside_of_the_pid_namespace() {
    let job =
        || vec![member(100, None, 0, 0), member(101, Some(0), 0, 0), member(102, Some(0), 102, 0)];
    // Restored from within such a session, and from an ordinary one.
    let plan = build(job(), Caller { sid: None, pgid: None, shell_job: true }).unwrap();
    assert_eq!(plan.tasks.len(), 3);
    assert_eq!(task(&plan, 100).group, Group::Given);
    assert_eq!(task(&plan, 101).group, Group::Given);
    assert_eq!(task(&plan, 102).group, Group::Found);
    let plan = build(job(), JOB).unwrap();
    assert_eq!(task(&plan, 101).group, Group::Join(JOB.pgid.unwrap()));
    build(job(), CALLER).unwrap_err();
    // A group that nobody can join by number.
    let foreign = vec![member(100, None, 100, 0), member(101, Some(0), 0, 0)];
    build(foreign, Caller { sid: None, pgid: None, shell_job: true }).unwrap_err();
    let led = vec![member(100, None, 100, 100), member(101, Some(0), 0, 0)];
    build(led, Caller { sid: None, pgid: None, shell_job: true }).unwrap_err();
}
