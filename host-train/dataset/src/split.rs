//! Which samples are held out: none of what is measured against may have been trained on, nor a near copy of it.

use std::collections::HashMap;
use std::hash::Hash;

/// Where nothing else divides a set, the samples of a class are numbered in order and number k is held out where
/// `k % HELD_OUT_EVERY == HELD_OUT_EVERY - 1`. Groups are numbered in the order in which they first appear and held out
/// whole by the same rule; of fewer than [`HELD_OUT_EVERY`], the last one.
pub const HELD_OUT_EVERY: usize = 5;

/// Holds out every fifth sample of each class.
pub(crate) fn every_fifth(labels: &[u16]) -> Vec<bool> {
    let mut seen = HashMap::new();
    let number = |label| {
        let seen = seen.entry(label).or_insert(0);
        *seen += 1;
        *seen - 1
    };
    labels.iter().map(number).map(is_held_out).collect()
}

/// Holds out every fifth group whole; `groups` has the group of each sample. `None` where there is one group only.
pub(crate) fn by_group<G: Hash + Eq>(groups: &[G]) -> Option<Vec<bool>> {
    let mut numbers = HashMap::new();
    for group in groups {
        let next = numbers.len();
        numbers.entry(group).or_insert(next);
    }
    let last = numbers.len().checked_sub(1).filter(|&last| last > 0)?;
    let few = numbers.len() < HELD_OUT_EVERY;
    let held_out = |number: usize| is_held_out(number) || few && number == last;
    Some(groups.iter().map(|group| held_out(numbers[group])).collect())
}

fn is_held_out(number: usize) -> bool {
    number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fifth_of_each_class_is_held_out() {
        let held_out = every_fifth(&[0, 0, 1, 0, 0, 0, 1, 1, 1, 1]);
        let expected = [5, 9];
        assert_eq!((0..10).filter(|&index| held_out[index]).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_group_is_never_on_both_sides() {
        let groups: Vec<usize> = (0..1000).map(|index| index * index % 37).collect();
        let held_out = by_group(&groups).unwrap();
        for (group, side) in groups.iter().zip(&held_out) {
            assert!(groups.iter().zip(&held_out).all(|(other, other_side)| other != group || other_side == side));
        }
        let share = held_out.iter().filter(|&&held_out| held_out).count();
        assert!((100..300).contains(&share), "{share}");
    }

    #[test]
    fn of_few_groups_the_last_is_held_out_and_one_cannot_be_divided() {
        assert_eq!(by_group(&["a", "b", "a"]), Some(vec![false, true, false]));
        assert_eq!(by_group(&["a", "a"]), None);
        assert_eq!(by_group::<u8>(&[]), None);
    }
}
