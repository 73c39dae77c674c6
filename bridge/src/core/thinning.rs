//! How memory of a long past stays bounded: beyond a limit every second entry is forgotten.
//!
//! What the core keeps this way it may keep coarsely: a coarser memory only clears later.

use std::collections::VecDeque;

/// Where there are more than `max` entries, forgets every second one. The first and the last stay: the last tells what
/// is newest, the first what lies behind everything forgotten so far.
pub fn thin<T>(entries: &mut VecDeque<T>, max: usize) {
    if entries.len() <= max {
        return;
    }
    let last = entries.len() - 1;
    let mut at = 0..;
    entries.retain(|_| at.next().is_none_or(|i| i % 2 == 0 || i == last));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_to_the_limit_nothing_is_forgotten() {
        let mut entries = VecDeque::from_iter(0..8);
        thin(&mut entries, 8);
        assert_eq!(entries.len(), 8);
    }

    #[test]
    fn beyond_it_every_second_entry_goes_and_the_first_and_the_last_stay() {
        for (n, left) in [(9, vec![0, 2, 4, 6, 8]), (10, vec![0, 2, 4, 6, 8, 9])] {
            let mut entries = VecDeque::from_iter(0..n);
            thin(&mut entries, 8);
            assert_eq!(entries, left);
        }
    }
}
