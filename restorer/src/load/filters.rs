//! Filters of system calls, by the numbers that threads have of them. Threads of a program have the same as a rule: so there
//! is one copy of each filter, and of each chain of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use images::messages::{
    SECCOMP_MODE_DISABLED, SECCOMP_MODE_FILTER, SECCOMP_MODE_STRICT, SeccompEntry, SeccompFilter,
    ThreadCoreEntry,
};
use kernel::seccomp::{INSTRUCTION_BYTES, LONGEST};

/// The filters of a thread, the one first that was installed first.
pub(crate) type Chain = Arc<[Arc<SeccompFilter>]>;

/// The filters of a checkpoint.
#[derive(Debug, Default)]
pub(super) struct Filters {
    all: Vec<Arc<SeccompFilter>>,
    /// Those that threads have had so far, by the number of the last filter.
    chains: BTreeMap<Option<u32>, Chain>,
}

impl Filters {
    pub(super) fn of(entry: SeccompEntry) -> Self {
        let all = entry.seccomp_filters.into_iter().map(Arc::new).collect();
        Self { all, chains: BTreeMap::new() }
    }

    /// Those of a thread.
    pub(super) fn of_thread(&mut self, core: &ThreadCoreEntry) -> Result<Chain, &'static str> {
        let last = match core.seccomp_mode.unwrap_or(SECCOMP_MODE_DISABLED) {
            SECCOMP_MODE_FILTER => {
                Some(core.seccomp_filter.ok_or("its seccomp filter is not named")?)
            }
            SECCOMP_MODE_DISABLED | SECCOMP_MODE_STRICT => None,
            _ => return Err("its mode of seccomp is unknown"),
        };
        if let Some(known) = self.chains.get(&last) {
            return Ok(Arc::clone(known));
        }
        let chain: Chain = self.chain(last)?.into();
        self.chains.insert(last, Arc::clone(&chain));
        Ok(chain)
    }

    /// The kernel lets no thread have more than a number of instructions.
    fn chain(&self, mut next: Option<u32>) -> Result<Vec<Arc<SeccompFilter>>, &'static str> {
        const MOST_INSTRUCTIONS: usize = 1 << 15;
        let (mut chain, mut instructions) = (Vec::new(), 0);
        while let Some(number) = next {
            let filter = self.all.get(number as usize).ok_or("a seccomp filter is not there")?;
            let count = filter.filter.len() / INSTRUCTION_BYTES;
            if !(1..=LONGEST).contains(&count) || filter.filter.len() % INSTRUCTION_BYTES != 0 {
                return Err("a seccomp filter has a wrong length");
            }
            instructions += count;
            if instructions > MOST_INSTRUCTIONS {
                return Err(
                    "its seccomp filters are longer than the kernel allows, or go round in a circle",
                );
            }
            chain.push(Arc::clone(filter));
            next = filter.prev;
        }
        chain.reverse();
        Ok(chain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_with_the_same_filters_share_them() {
        let filter = |prev| SeccompFilter { filter: vec![0; INSTRUCTION_BYTES], prev, flags: None };
        let seccomp_filters = vec![filter(None), filter(Some(0)), filter(Some(2))];
        let mut filters = Filters::of(SeccompEntry { seccomp_filters });
        let mut of = |number| {
            filters.of_thread(&ThreadCoreEntry {
                seccomp_mode: Some(SECCOMP_MODE_FILTER),
                seccomp_filter: number,
                ..ThreadCoreEntry::default()
            })
        };
        let (one, other) = (of(Some(1)).unwrap(), of(Some(1)).unwrap());
        assert!(Arc::ptr_eq(&one, &other) && one.len() == 2);
        assert!(of(Some(2)).is_err_and(|what| what.contains("circle")));
        assert!(of(Some(3)).is_err() && of(None).is_err());
    }
}
