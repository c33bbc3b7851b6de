//! `/proc/PID/task/TID/children`, and the process tree that they make.

use ids::HostPid;
use nix::errno::Errno;

use super::parse::{dec, words};
use super::{Dir, Error, Malformed, ProcFile, Stat, processes};

struct ThreadChildren(Vec<HostPid>);

impl ProcFile for ThreadChildren {
    const NAME: &'static str = "children";
    const SINGLE: bool = false;

    fn parse(text: &[u8]) -> Result<Self, Malformed> {
        words(text).map(dec).collect::<Option<_>>().map(Self).ok_or(Malformed("a child's pid"))
    }
}

/// The children of a process, of all its threads, zombies included.
///
/// While the process runs the answer may be out of date before it is given.
///
/// # Errors
/// If the process has gone, or `/proc` cannot be read.
pub fn children(dir: &Dir) -> Result<Vec<HostPid>, Error> {
    let mut all = Vec::new();
    let mut tids = Vec::new();
    let mut buffer = Vec::new();
    dir.threads_into(&mut tids)?;
    for (index, tid) in tids.iter().enumerate() {
        let name = format!("task/{tid}/children");
        match dir.read(&name, &mut buffer) {
            Ok(()) => {}
            // A kernel without CONFIG_PROC_CHILDREN has the file for nobody.
            Err(Error::Read { source: Errno::ENOENT, .. })
                if index == 0 && dir.exists(&format!("task/{tid}/stat")) =>
            {
                return children_by_scan(dir);
            }
            Err(error) if error.is_gone() => continue,
            Err(error) => return Err(error),
        }
        let found =
            ThreadChildren::parse(&buffer).map_err(|source| dir.malformed(&name, source))?;
        all.extend(found.0);
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// Every process whose parent is the one of `dir`.
fn children_by_scan(dir: &Dir) -> Result<Vec<HostPid>, Error> {
    let parent = Stat::read(dir)?.pid;
    let mut all = Vec::new();
    for pid in processes()? {
        match Dir::open(pid).and_then(|dir| Stat::read(&dir)) {
            Ok(stat) if stat.ppid == Some(parent) => all.push(pid),
            Ok(_) => {}
            Err(error) if error.is_gone() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Every process of the tree below and with `root`, parents before their children, zombies
/// included. Processes that vanish while this looks are absent.
///
/// # Errors
/// If `root` has gone, or `/proc` cannot be read.
pub fn tree(root: HostPid) -> Result<Vec<HostPid>, Error> {
    let mut all = vec![root];
    let mut seen = std::collections::BTreeSet::from([root]);
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        next += 1;
        match Dir::open(pid).and_then(|dir| children(&dir)) {
            Ok(found) => all.extend(found.into_iter().filter(|&child| seen.insert(child))),
            Err(error) if error.is_gone() && pid != root => {}
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_holds_a_child_and_both_ways_agree() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = HostPid::from(&child);
        let own = HostPid::own();
        let all = tree(own).unwrap();
        assert_eq!(all.first(), Some(&own));
        assert!(all.contains(&pid));
        assert!(children_by_scan(&Dir::open(own).unwrap()).unwrap().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(tree(pid).unwrap_err().is_gone());
    }

    #[test]
    fn text_is_checked() {
        let two = ThreadChildren::parse(b"1 2 ").unwrap().0;
        assert_eq!(two.into_iter().map(HostPid::get).collect::<Vec<_>>(), [1, 2]);
        assert!(ThreadChildren::parse(b"1 x").is_err());
    }
}
