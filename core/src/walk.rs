//! In which order the rows are walked: once each, or some of them again (RePaint, Lugmayr et al. 2022, algorithm 1).
//!
//! A position is the row that would be next. As in the authors' code the process turns back from the last row and each `jump`
//! rows before it: after the row before such a position it goes back `jump` rows, `resamples - 1` times.

use crate::request::Resampling;

/// Where the walk is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    first: u16,
    rows: u16,
    resampling: Resampling,
    row: u16,
    /// Number of the next move, down a row or back: which noise it uses. It begins at the first row, so that a walk that never
    /// turns numbers its moves as the rows.
    number: u16,
    /// The latest position that was reached.
    furthest: u16,
    /// Turns still to be made there.
    turns: u16,
    passes: u32,
}

/// A turn to an earlier row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    /// The row that would have been next.
    pub(crate) from: u16,
    /// The row that is next.
    pub(crate) to: u16,
    /// The move's number.
    pub(crate) number: u16,
}

impl Walk {
    /// From row `first` of `rows` on.
    pub(crate) fn new(first: u16, rows: u16, resampling: Resampling) -> Self {
        Walk { first, rows, resampling, row: first, number: first, furthest: first, turns: 0, passes: 0 }
    }

    /// A walk that is over.
    pub(crate) fn done(rows: u16) -> Self {
        Walk::new(rows, rows, Resampling::default())
    }

    /// The next row; all rows' number if there is none.
    pub(crate) fn row(&self) -> u16 {
        self.row
    }

    pub(crate) fn is_done(&self) -> bool {
        self.row >= self.rows
    }

    /// Number of the next move.
    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    /// Rows walked so far.
    pub(crate) fn passes_done(&self) -> u32 {
        self.passes
    }

    /// Rows to be walked in all.
    pub(crate) fn passes(&self) -> u32 {
        let Resampling { jump, resamples } = self.resampling;
        let again = positions(self.first, self.rows, jump) as u32 * (resamples as u32).saturating_sub(1);
        (self.rows.saturating_sub(self.first) as u32).saturating_add(again.saturating_mul(jump as u32))
    }

    /// The number after the last move's, of the whole walk.
    pub(crate) fn moves(&self) -> u16 {
        Walk::moves_of(self.first, self.rows, self.resampling) as u16
    }

    /// The number after the last move's. At most 2^33.
    pub(crate) fn moves_of(first: u16, rows: u16, resampling: Resampling) -> u64 {
        let Resampling { jump, resamples } = resampling;
        let again = positions(first, rows, jump) as u64 * (resamples as u64).saturating_sub(1);
        first.max(rows) as u64 + again * (jump as u64 + 1)
    }

    /// Ends here.
    pub(crate) fn end(&mut self) {
        self.row = self.rows;
        self.passes += 1;
    }

    /// Down a row; then maybe back.
    pub(crate) fn advance(&mut self) -> Option<Turn> {
        self.row = self.row.saturating_add(1);
        self.number = self.number.wrapping_add(1);
        self.passes = self.passes.wrapping_add(1);
        let Resampling { jump, resamples } = self.resampling;
        if self.row > self.furthest {
            self.furthest = self.row;
            let (since, left) = (self.row - self.first, self.rows.saturating_sub(self.row));
            let turns = left > 0 && since >= jump && (left - 1) % jump.max(1) == 0;
            self.turns = if turns { resamples.saturating_sub(1) } else { 0 };
        }
        if self.row != self.furthest || self.turns == 0 {
            return None;
        }
        self.turns -= 1;
        let turn = Turn { from: self.row, to: self.row.saturating_sub(jump), number: self.number };
        self.number = self.number.wrapping_add(1);
        self.row = turn.to;
        Some(turn)
    }
}

/// From how many positions the process turns back.
fn positions(first: u16, rows: u16, jump: u16) -> u16 {
    rows.saturating_sub(first).saturating_sub(1) / jump.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The levels reached, counted from the data, the first one first; how many.
    fn levels<const N: usize>(walk: &mut Walk) -> ([u16; N], usize) {
        let (mut levels, mut count) = ([0; N], 0);
        let mut push = |row: u16, walk: &Walk| {
            levels[count] = walk.rows - row;
            count += 1;
        };
        push(walk.row(), walk);
        while !walk.is_done() {
            let turn = walk.advance();
            push(turn.map_or(walk.row(), |turn| turn.from), walk);
            turn.iter().for_each(|turn| push(turn.to, walk));
        }
        (levels, count)
    }

    /// Six levels of noise, then the data. With two resamples of jumps of two the paper's schedule (appendix B) turns back
    /// once from level 3 and once from level 1.
    #[test]
    fn the_walk_is_algorithm_1s() {
        let mut walk = Walk::new(0, 6, Resampling { jump: 2, resamples: 2 });
        assert_eq!(levels(&mut walk), ([6, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0], 13));
        assert_eq!((walk.passes_done(), walk.passes()), (10, 10));
        assert_eq!((walk.number(), walk.moves()), (12, 12));
    }

    #[test]
    fn a_walk_without_turns_numbers_its_moves_as_the_rows() {
        let mut walk = Walk::new(3, 6, Resampling::default());
        for row in 3..6 {
            assert_eq!((walk.row(), walk.number(), walk.moves()), (row, row, 6));
            assert_eq!(walk.advance(), None);
        }
        assert!(walk.is_done());
        assert_eq!(walk.passes(), 3);
    }

    #[test]
    fn passes_and_moves_are_known_before_the_walk() {
        for (first, rows, jump, resamples) in (0..4)
            .flat_map(|first| (1..5).map(move |more| (first, first + more)))
            .flat_map(|(first, rows)| (1..=rows - first).map(move |jump| (first, rows, jump)))
            .flat_map(|(first, rows, jump)| (1..4).map(move |resamples| (first, rows, jump, resamples)))
        {
            let mut walk = Walk::new(first, rows, Resampling { jump, resamples });
            while !walk.is_done() {
                walk.advance();
            }
            let found = (walk.passes_done(), walk.number());
            assert_eq!(found, (walk.passes(), walk.moves()), "{first} {rows} {jump} {resamples}");
        }
    }
}
