//! What a classifier says of samples of known classes.

use std::fmt;

/// Counts of samples by the class they were drawn for and the class they were judged to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    /// `[wanted, judged]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// Counts `(wanted, judged)` pairs.
    ///
    /// # Panics
    /// If a class is not below `classes`.
    pub fn count(classes: usize, pairs: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let mut counts = vec![0; classes * classes];
        for (wanted, judged) in pairs {
            let [wanted, judged] = [wanted, judged].map(usize::from);
            assert!(wanted < classes && judged < classes, "class {wanted} or {judged} of {classes}");
            counts[wanted * classes + judged] += 1;
        }
        Self { classes, counts }
    }

    /// Samples drawn for class `wanted` and judged to be of class `judged`.
    pub fn at(&self, wanted: usize, judged: usize) -> u64 {
        self.counts[wanted * self.classes + judged]
    }

    /// Samples drawn for class `wanted`.
    pub fn drawn(&self, wanted: usize) -> u64 {
        (0..self.classes).map(|judged| self.at(wanted, judged)).sum()
    }

    /// The fraction judged to be what they were drawn for, 0 to 1; NaN without samples.
    pub fn accuracy(&self) -> f64 {
        let right: u64 = (0..self.classes).map(|class| self.at(class, class)).sum();
        right as f64 / self.counts.iter().sum::<u64>() as f64
    }

    /// The same of one class.
    pub fn class_accuracy(&self, wanted: usize) -> f64 {
        self.at(wanted, wanted) as f64 / self.drawn(wanted) as f64
    }

    /// The class other than its own that samples of `wanted` are most often judged to be, and how many; `None` where all
    /// are judged right.
    pub fn worst(&self, wanted: usize) -> Option<(usize, u64)> {
        let others =
            (0..self.classes).filter(|&judged| judged != wanted).map(|judged| (judged, self.at(wanted, judged)));
        others.filter(|&(_, count)| count > 0).reduce(|worst, other| if other.1 > worst.1 { other } else { worst })
    }

    /// `[wanted, judged]` rows, for a file.
    pub fn rows(&self) -> Vec<&[u64]> {
        self.counts.chunks_exact(self.classes).collect()
    }
}

/// The matrix as text: wanted classes down, judged ones across, by number.
impl fmt::Display for Confusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widest = self.counts.iter().max().copied().unwrap_or(0).max(self.classes as u64);
        let width = widest.to_string().len() + 1;
        let line =
            |cells: &mut dyn Iterator<Item = u64>| cells.map(|cell| format!("{cell:>width$}")).collect::<String>();
        writeln!(f, "{:>width$} |{}", "", line(&mut (0..self.classes as u64)))?;
        for (wanted, row) in self.rows().into_iter().enumerate() {
            writeln!(f, "{wanted:>width$} |{}", line(&mut row.iter().copied()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_accuracies_and_the_commonest_mistake() {
        let confusion = Confusion::count(3, [(0, 0), (0, 0), (0, 2), (1, 1), (2, 0), (2, 1), (2, 1), (2, 2)]);
        assert_eq!(confusion.accuracy(), 0.5);
        assert_eq!([0, 1, 2].map(|class| confusion.class_accuracy(class)), [2.0 / 3.0, 1.0, 0.25]);
        assert_eq!([0, 1, 2].map(|class| confusion.worst(class)), [Some((2, 1)), None, Some((1, 2))]);
        assert_eq!(confusion.rows(), [&[2, 0, 1][..], &[0, 1, 0], &[1, 2, 1]]);
        let text = confusion.to_string();
        assert_eq!(text, "   | 0 1 2\n 0 | 2 0 1\n 1 | 0 1 0\n 2 | 1 2 1\n");
    }
}
