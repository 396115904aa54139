//! Inpainting as RePaint does it (Lugmayr et al., *RePaint: Inpainting using Denoising Diffusion Probabilistic Models*, 2022,
//! algorithm 1).
//!
//! Every row's result gets the known values, noised to the level it is at. That alone draws an unknown part that hardly
//! looks at the known one; so now and then the process turns back `jump` levels, by the forward process, and comes down
//! again: `resamples` times over each stretch. The level goes back together with the state.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_core::noise::NoiseUse;
use mote_core::step_table::StepRow;

use super::Reverse;

/// What is given of the data.
#[derive(Debug, Clone)]
pub struct Known<B: Backend> {
    /// The data, `[batch, channels, height, width]`; any finite value where it is unknown.
    pub data: Tensor<B, 4>,
    /// 1 where it is known, 0 where it is to be drawn; of the data's shape, or with sides of 1 that are repeated.
    pub mask: Tensor<B, 4>,
}

/// How often the process turns back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resampling {
    /// Rows that each turn goes back; 10 of 250 in the paper.
    pub jump: usize,
    /// Times that each stretch is walked; 10 in the paper, 1 only replaces the known values.
    pub resamples: usize,
}

/// One part of the walk. A position is the row that would be next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    /// Through this row.
    Down(usize),
    /// Noised back from a position to an earlier one.
    Up { from: usize, to: usize },
}

impl Resampling {
    /// Whether a table of `rows` rows can be walked so.
    ///
    /// # Errors
    /// What is wrong, and what to do.
    pub fn check(self, rows: usize) -> anyhow::Result<()> {
        let Self { jump, resamples } = self;
        anyhow::ensure!(
            jump >= 1 && resamples >= 1,
            "a jump of {jump} rows, {resamples} times: give at least 1 of each"
        );
        anyhow::ensure!(
            resamples == 1 || jump < rows,
            "a jump of {jump} rows does not fit into {rows} sampling steps: take more steps or a shorter jump"
        );
        let moves = self.moves(rows).len();
        // Each move has two uses of noise, numbered in 16 bits.
        anyhow::ensure!(moves <= 1 << 15, "{moves} moves are more than 32768: take fewer resamples or steps");
        Ok(())
    }

    /// From the first row to the data. As in the authors' code, the process turns back from the last level and each `jump`
    /// levels before it.
    fn moves(self, rows: usize) -> Vec<Move> {
        let Self { jump, resamples } = self;
        let turns = |position: usize| position >= jump && (rows - 1 - position).is_multiple_of(jump);
        let mut left: Vec<usize> = (0..rows).map(|position| if turns(position) { resamples - 1 } else { 0 }).collect();
        let (mut position, mut moves) = (0, Vec::new());
        while position < rows {
            moves.push(Move::Down(position));
            position += 1;
            if position < rows && left[position] > 0 {
                left[position] -= 1;
                moves.push(Move::Up { from: position, to: position - jump });
                position -= jump;
            }
        }
        moves
    }
}

impl<B: Backend> Reverse<'_, B> {
    /// Draws what is unknown. The table has one row a level and no memory
    /// ([`SamplerConfig::one_row_a_level`](super::SamplerConfig::one_row_a_level)); move `k` of `n` uses noise
    /// `Row(k)`, and `Row(n + k)` for the known values, so that with one resample the unknown part's noise is that of
    /// [`Reverse::run`].
    ///
    /// # Panics
    /// If [`Resampling::check`] refuses.
    pub fn inpaint(&self, known: &Known<B>, resampling: Resampling) -> Tensor<B, 4> {
        let rows = self.table.len();
        resampling.check(rows).expect("checked by the caller");
        let moves = resampling.moves(rows);
        let (mut x, mut previous) = (self.start(), None);
        for (number, step) in moves.iter().enumerate() {
            let fresh = || self.noise.normal(NoiseUse::Row(number as u16));
            match *step {
                Move::Down(row) => {
                    let drawn = self.row(row, x, &mut previous, fresh);
                    let given = match self.table.get(row + 1) {
                        Some(next) => {
                            let noise = self.noise.normal(NoiseUse::Row((moves.len() + number) as u16));
                            known.data.clone() * next.signal + noise * next.noise
                        }
                        None => known.data.clone(),
                    };
                    x = drawn.clone() + (given - drawn) * known.mask.clone();
                }
                Move::Up { from, to } => {
                    let alpha_bar = |row: &StepRow| row.signal * row.signal;
                    let kept = alpha_bar(&self.table[to]) / alpha_bar(&self.table[from]);
                    x = x * kept.sqrt() + fresh() * (1.0 - kept).sqrt();
                }
            }
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Six levels of noise, 6 to 1, then the data, 0. With two resamples of jumps of two the paper's schedule (appendix B)
    /// turns back once from level 3 and once from level 1.
    #[test]
    fn the_walk_is_algorithm_1s() {
        let mut level = vec![6];
        for step in (Resampling { jump: 2, resamples: 2 }).moves(6) {
            level.push(match step {
                Move::Down(row) => 6 - (row + 1),
                Move::Up { to, .. } => 6 - to,
            });
        }
        assert_eq!(level, [6, 5, 4, 3, 5, 4, 3, 2, 1, 3, 2, 1, 0]);
        assert_eq!(Resampling { jump: 2, resamples: 1 }.moves(6), (0..6).map(Move::Down).collect::<Vec<_>>());
    }

    #[test]
    fn a_walk_that_cannot_be_is_refused() {
        Resampling { jump: 10, resamples: 10 }.check(250).unwrap();
        for (jump, resamples, rows) in [(0, 1, 10), (1, 0, 10), (10, 2, 10), (10, 200, 250)] {
            assert!(Resampling { jump, resamples }.check(rows).is_err(), "{jump} {resamples} {rows}");
        }
    }
}
