//! A program whose function somebody counts the calls of, by a breakpoint that the kernel has put there.

use crate::stage::{Findings, Outcome, Stage};

/// What is counted.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn stasis_counted(number: u64) -> u64 {
    std::hint::black_box(number.wrapping_mul(3).wrapping_add(1))
}

/// Where the function is in the program's file.
fn offset() -> u64 {
    let address = stasis_counted as *const () as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let holds = |line: &str| {
        let mut words = line.split_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        let offset = number(words.nth(1)?)?;
        (start..end).contains(&address).then_some(address - start + offset)
    };
    maps.lines().find_map(holds).expect("the function")
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    stage.publish("offset", &format!("{:#x}", offset()));
    while !stage.path("probed").exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let mut found = Findings::default();
    found.same("before", &31, &stasis_counted(10));
    let maps = || std::fs::read_to_string("/proc/self/maps").expect("maps");
    found.must("the kernel's page is there", maps().contains("[uprobes]"));
    stage.ready_then_wait();
    found.same("after", &61, &stasis_counted(20));
    found.must("the kernel's page is there again", maps().contains("[uprobes]"));
    found.outcome()
}
