//! Which messages of which publishers a subscriber has had: a bit each, so that a million of them is 125 KB, and what
//! is lost and what came twice are counts and not guesses.

use std::collections::HashMap;

/// What one subscriber received.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    publishers: HashMap<u32, Vec<u64>>,
    distinct: u64,
    duplicated: u64,
}

impl Seen {
    /// Whether it was new.
    pub(crate) fn mark(&mut self, publisher: u32, message: u64) -> bool {
        let Ok(word) = usize::try_from(message / 64) else { return false };
        let bits = self.publishers.entry(publisher).or_default();
        if bits.len() <= word {
            bits.resize(word + 1, 0);
        }
        let mask = 1 << (message % 64);
        let new = bits[word] & mask == 0;
        bits[word] |= mask;
        if new {
            self.distinct += 1;
        } else {
            self.duplicated += 1;
        }
        new
    }

    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    pub(crate) fn duplicated(&self) -> u64 {
        self.duplicated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_count_as_duplicates_and_gaps_do_not_hide_them() {
        let mut seen = Seen::default();
        let new = [(1, 0), (1, 5), (2, 0), (1, 5), (1, 200), (1, 0), (1, 1)].map(|(p, n)| seen.mark(p, n));
        assert_eq!(new, [true, true, true, false, true, false, true]);
        assert_eq!((seen.distinct(), seen.duplicated()), (5, 2));
    }
}
