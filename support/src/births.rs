//! Who makes the processes of a tree: a process cannot choose its session, it is born into that of its maker and can
//! only found one of its own. The dump asks whether a tree can be made again, the restore by whom.
//!
//! | a process whose session | is made by |
//! |---|---|
//! | is its parent's, or its own | its parent |
//! | is the one that its parent was born into | its parent, before that founds its own (and so on upwards: of parents that founded sessions each may have been made before its own maker founded one) |
//! | is led by a child of its parent | the leader, as a sibling (`CLONE_PARENT`) |
//! | has lost its leader | who stands in for the leader while the tree is built, a child of its parent: so, too |
//! | is led by a process further down | a process that the leader makes for this and that ends at once: the orphan falls to its parent, which adopts orphans meanwhile (`PR_SET_CHILD_SUBREAPER`) |
//!
//! The last is what becomes of a process that is left behind by a program which was started from a session of a tree
//! whose root adopts orphans: `sleep 100 &` in a shell of a container that is closed.

use std::collections::{BTreeMap, BTreeSet};

use crate::unsupported::Refusal;

/// What a process is born with; `P` is its number.
#[derive(Clone, Copy, Debug)]
pub struct Born<P> {
    /// The process.
    pub pid: P,
    /// The index of its parent; the root has none.
    pub parent: Option<usize>,
    /// Its session; `None` if the number is not known.
    pub sid: Option<P>,
}

impl<P: Copy + Ord> Born<P> {
    /// Whether it leads its session.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.sid == Some(self.pid)
    }
}

/// Who makes a process, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// Nobody of the tree: it is the root.
    Outside,
    /// Its parent, when that is in its own session.
    Parent,
    /// Its parent, before that founds its own session.
    EarlyParent,
    /// The leader of its session, this task, which makes it as its own sibling (`CLONE_PARENT`).
    Leader(usize),
    /// A helper that stands in for the leader of its session, is a child of its parent, and makes it as its own sibling.
    StandIn,
    /// The leader of its session, this task: it is made as an orphan, which its parent adopts.
    Orphaned(usize),
    /// A helper that stands in for the leader of its session and is a child of this task: it is made as an orphan.
    OrphanedByStandIn(usize),
}

/// Says who makes each of `members`, whose root is born into the session `outside`.
///
/// # Errors
/// The index of one that nobody can make.
pub fn makers<P: Copy + Ord>(members: &[Born<P>], outside: Option<P>) -> Result<Vec<Maker>, usize> {
    let tree = Tree { members, births: births(members, outside) };
    let is_in_circle = |index: &usize| {
        tree.upwards(*index)
            .last()
            .is_none_or(|top| members.get(top).is_none_or(|it| it.parent.is_some()))
    };
    if let Some(index) = (0..members.len()).find(is_in_circle) {
        return Err(index);
    }
    let homes = tree.homes()?;
    let makers: Vec<Maker> = (0..members.len()).map(|index| tree.maker(index, &homes)).collect();
    let orphans = || {
        makers.iter().enumerate().filter_map(|(index, maker)| {
            let from = match *maker {
                Maker::Orphaned(by) | Maker::OrphanedByStandIn(by) => by,
                _ => return None,
            };
            Some((index, from, members[index].parent?))
        })
    };
    let adopters: BTreeSet<usize> = orphans().map(|(_, _, parent)| parent).collect();
    for (index, from, parent) in orphans() {
        // The nearest process above that adopts orphans gets it: that has to be its parent.
        let adopter = tree.upwards(from).find(|task| adopters.contains(task));
        if adopter != Some(parent) {
            return Err(index);
        }
    }
    Ok(makers)
}

/// A process in a session that nobody who could make it is in.
#[must_use]
pub fn nobody_makes(sid: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        format!("its session {sid} is neither its parent's nor one of a process below its parent"),
        "start it with setsid, and dump the tree again",
    )
}

/// The session that each process is born into. The leader of a session was born into its parent's session, or into the one that its
/// parent was itself born into; what the leader's children need decides which.
fn births<P: Copy + Ord>(members: &[Born<P>], outside: Option<P>) -> Vec<Option<P>> {
    let sid_of = |parent: Option<usize>| parent.map_or(outside, |parent| members[parent].sid);
    let mut needed: Vec<Option<Option<P>>> = vec![None; members.len()];
    for member in members.iter().filter(|member| !member.leads()) {
        let mut above = Vec::new();
        let mut at = member.parent;
        // Goes up through leaders of sessions to the first whose parent is in the wanted session.
        while let Some(task) = at.filter(|task| members[*task].leads()) {
            above.push(task);
            at = members[task].parent;
            if sid_of(at) == member.sid {
                let is_free = |task: &usize| needed[*task].is_none_or(|it| it == member.sid);
                if above.iter().all(is_free) {
                    above.iter().for_each(|task| needed[*task] = Some(member.sid));
                }
                break;
            }
            if above.len() > members.len() {
                break;
            }
        }
    }
    let born = |(member, needed): (&Born<P>, Option<Option<P>>)| match member.leads() {
        true => needed.unwrap_or_else(|| sid_of(member.parent)),
        false => member.sid,
    };
    members.iter().zip(needed).map(born).collect()
}

struct Tree<'a, P> {
    members: &'a [Born<P>],
    /// The session that each is born into.
    births: Vec<Option<P>>,
}

impl<P: Copy + Ord> Tree<'_, P> {
    /// This task and all above it. (Images may have a circle.)
    fn upwards(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        let up = std::iter::successors(Some(index), |&task| self.members.get(task)?.parent);
        up.take(self.members.len())
    }

    fn leader(&self, sid: P) -> Option<usize> {
        self.members.iter().position(|member| member.pid == sid)
    }

    /// Where those are who stand in for leaders: below the lowest of the parents that need one.
    fn homes(&self) -> Result<BTreeMap<P, usize>, usize> {
        let mut homes = BTreeMap::new();
        for (index, member) in self.members.iter().enumerate() {
            let Some(parent) = member.parent else { continue };
            if self.by_parent(index, parent).is_some() {
                continue;
            }
            let sid = member.sid.ok_or(index)?;
            if self.leader(sid).is_some() {
                continue;
            }
            let home = homes.entry(sid).or_insert(parent);
            if self.upwards(parent).any(|task| task == *home) {
                *home = parent;
            } else if !self.upwards(*home).any(|task| task == parent) {
                return Err(index);
            }
        }
        Ok(homes)
    }

    /// Whether its parent makes it.
    fn by_parent(&self, index: usize, parent: usize) -> Option<Maker> {
        if self.births[index] == self.members[parent].sid {
            Some(Maker::Parent)
        } else {
            (self.births[index] == self.births[parent]).then_some(Maker::EarlyParent)
        }
    }

    fn maker(&self, index: usize, homes: &BTreeMap<P, usize>) -> Maker {
        let member = self.members[index];
        let (Some(parent), Some(sid)) = (member.parent, member.sid) else {
            return member.parent.map_or(Maker::Outside, |_| Maker::Parent);
        };
        if let Some(maker) = self.by_parent(index, parent) {
            return maker;
        }
        match (self.leader(sid), homes.get(&sid)) {
            (Some(leader), _) if self.members[leader].parent == Some(parent) => {
                Maker::Leader(leader)
            }
            (Some(leader), _) => Maker::Orphaned(leader),
            (None, Some(&home)) if home != parent => Maker::OrphanedByStandIn(home),
            (None, _) => Maker::StandIn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of processes given as number, index of the parent, session.
    fn of(members: &[(i32, Option<usize>, i32)]) -> Result<Vec<Maker>, usize> {
        let born = |&(pid, parent, sid): &(i32, Option<usize>, i32)| Born {
            pid,
            parent,
            sid: (sid != 0).then_some(sid),
        };
        makers(&members.iter().map(born).collect::<Vec<_>>(), Some(5))
    }

    #[test]
    fn parents_make_what_is_in_their_sessions() {
        let made = of(&[
            (100, None, 100),
            (101, Some(0), 100),
            (102, Some(0), 102),
            (103, Some(2), 100),
            (104, Some(0), 5),
        ]);
        use Maker::{EarlyParent, Outside, Parent};
        assert_eq!(made, Ok(vec![Outside, Parent, Parent, EarlyParent, EarlyParent]));
    }

    #[test]
    fn who_founds_a_session_may_have_been_born_into_one_above() {
        use Maker::{EarlyParent, Outside, Parent};
        let made = of(&[
            (1, None, 1),
            (100, Some(0), 100),
            (101, Some(1), 101),
            (102, Some(2), 102),
            (103, Some(3), 100),
            // Beside it, one for whom nobody waits.
            (104, Some(2), 104),
        ]);
        assert_eq!(made, Ok(vec![Outside, Parent, Parent, EarlyParent, EarlyParent, Parent]));
        // Children that need different ones.
        let made = of(&[
            (1, None, 1),
            (100, Some(0), 100),
            (101, Some(1), 101),
            (102, Some(2), 102),
            (103, Some(3), 100),
            (104, Some(3), 101),
        ]);
        assert_eq!(made, Err(5));
    }

    #[test]
    fn leaders_and_who_stands_in_for_them_make_siblings() {
        let made =
            of(&[(100, None, 100), (101, Some(0), 101), (102, Some(0), 101), (103, Some(0), 9)]);
        let made = made.unwrap();
        assert_eq!(made[2..], [Maker::Leader(1), Maker::StandIn]);
    }

    #[test]
    fn what_is_left_of_a_session_further_down_falls_to_the_root() {
        let made = of(&[
            (100, None, 100),
            (101, Some(0), 100),
            (102, Some(1), 102),
            (103, Some(0), 102),
            // The same of a session whose leader has ended.
            (104, Some(1), 50),
            (105, Some(0), 50),
        ]);
        let made = made.unwrap();
        assert_eq!(made[3..], [Maker::Orphaned(2), Maker::StandIn, Maker::OrphanedByStandIn(1)]);
    }

    #[test]
    fn what_nobody_can_make() {
        // Below the one, of a session that is below the other.
        let apart =
            [(100, None, 100), (101, Some(0), 101), (102, Some(0), 102), (103, Some(1), 102)];
        assert_eq!(of(&apart), Err(3));
        let apart = [(100, None, 100), (101, Some(0), 101), (102, Some(0), 102)];
        let dead = [(103, Some(1), 50), (104, Some(2), 50)];
        assert_eq!(of(&[&apart[..], &dead].concat()), Err(4));
        // The nearer of two that adopt would get the orphan of the other.
        let two = [
            (100, None, 100),
            (101, Some(0), 101),
            (102, Some(1), 102),
            (103, Some(2), 103),
            (104, Some(1), 103),
            (105, Some(0), 103),
        ];
        assert_eq!(of(&two), Err(5));
        assert_eq!(of(&[(100, None, 100), (101, Some(0), 0)]), Err(1));
        // Damaged images.
        assert!(of(&[(100, Some(1), 9), (101, Some(0), 8)]).is_err());
    }
}
