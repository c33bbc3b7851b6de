//! Lists of which so much is told. They are made no longer than that on the way.

/// What of each is told at most.
const MOST_TOLD: usize = 1000;

/// Adds to a list, or counts what there is no room for, which is not made.
pub(super) fn tell<T>(list: &mut Vec<T>, left_out: &mut u64, one: impl FnOnce() -> T) {
    match list.len() < MOST_TOLD {
        true => list.push(one()),
        false => *left_out += 1,
    }
}

/// Adds to a list of which in the end the first by a key are told: of more than twice as many the others are left out.
pub(super) fn tell_first<T, K: Ord>(
    list: &mut Vec<T>,
    left_out: &mut u64,
    one: T,
    key: impl FnMut(&T) -> K,
) {
    list.push(one);
    if list.len() >= 2 * MOST_TOLD {
        keep_first(list, left_out, key);
    }
}

/// Keeps the first of a list by a key, in that order, and counts the others. Of those with the same one the first that came stay.
pub(super) fn keep_first<T, K: Ord>(
    list: &mut Vec<T>,
    left_out: &mut u64,
    key: impl FnMut(&T) -> K,
) {
    list.sort_by_key(key);
    *left_out += list.len().saturating_sub(MOST_TOLD) as u64;
    list.truncate(MOST_TOLD);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_not_made() {
        let (mut list, mut left_out, mut made) = (Vec::new(), 0, 0);
        for number in 0..10_000 {
            tell(&mut list, &mut left_out, || {
                made += 1;
                number
            });
        }
        assert_eq!((list.len(), left_out, made), (MOST_TOLD, 9000, MOST_TOLD));
        assert_eq!(list.last(), Some(&999));
    }

    #[test]
    fn the_first_are_those_of_the_whole_list() {
        let all: Vec<(u32, u32)> = (0..10_007).map(|n| (n * 7919 % 1009 / 3, n)).collect();
        let key = |it: &(u32, u32)| std::cmp::Reverse(it.0);
        let (mut list, mut left_out, mut longest) = (Vec::new(), 0, 0);
        for one in &all {
            tell_first(&mut list, &mut left_out, *one, key);
            longest = longest.max(list.len());
        }
        keep_first(&mut list, &mut left_out, key);
        let mut whole = all.clone();
        whole.sort_by_key(key);
        assert_eq!(list, whole[..MOST_TOLD]);
        assert_eq!((left_out, longest < 2 * MOST_TOLD), (9007, true));
    }
}
