//! Linear assignment: each row gets a column of its own so that the costs sum to the least (Kuhn, *The Hungarian Method*,
//! 1955, in the form of Jonker, Volgenant, *A Shortest Augmenting Path Algorithm*, 1987).

/// The column of each row, a permutation. `costs` is `[n, n]`, row by row; finite. Takes O(n^3).
///
/// # Panics
/// If `costs` is not a square.
pub fn assign(costs: &[f32]) -> Vec<usize> {
    let n = costs.len().isqrt();
    assert_eq!(n * n, costs.len(), "costs must be a square");
    // Prices that make every cost less its row's and column's at least zero, and zero where assigned.
    let (mut of_row, mut of_column) = (vec![0.0; n], vec![0.0; n]);
    let mut row_of: Vec<Option<usize>> = vec![None; n];
    for begin in 0..n {
        let mut search = Search { distance: vec![f64::INFINITY; n], before: vec![None; n], done: vec![false; n] };
        let (mut row, mut column) = (begin, None);
        let mut total = 0.0;
        // Shortest path from `begin` over assigned columns to a free one, by Dijkstra's method.
        let end = loop {
            for next in (0..n).filter(|&next| !search.done[next]) {
                let reduced = f64::from(costs[row * n + next]) - of_row[row] - of_column[next];
                if total + reduced < search.distance[next] {
                    search.distance[next] = total + reduced;
                    search.before[next] = column;
                }
            }
            let nearest = (0..n)
                .filter(|&next| !search.done[next])
                .min_by(|&a, &b| search.distance[a].total_cmp(&search.distance[b]))
                .expect("fewer rows than columns are assigned");
            total = search.distance[nearest];
            search.done[nearest] = true;
            match row_of[nearest] {
                None => break nearest,
                Some(taken_by) => (row, column) = (taken_by, Some(nearest)),
            }
        };
        of_row[begin] += total;
        for done in (0..n).filter(|&done| search.done[done]) {
            let rest = total - search.distance[done];
            of_column[done] -= rest;
            if let Some(row) = row_of[done] {
                of_row[row] += rest;
            }
        }
        let mut column = end;
        while let Some(before) = search.before[column] {
            row_of[column] = row_of[before];
            column = before;
        }
        row_of[column] = Some(begin);
    }
    let mut columns = vec![0; n];
    for (column, row) in row_of.iter().enumerate() {
        columns[row.expect("as many rows as columns")] = column;
    }
    columns
}

/// One search for a free column.
struct Search {
    /// Least cost of a path to each column.
    distance: Vec<f64>,
    /// The assigned column before it on that path.
    before: Vec<Option<usize>>,
    /// Whether the distance is final.
    done: Vec<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(costs: &[f32], columns: &[usize]) -> f64 {
        columns.iter().enumerate().map(|(row, column)| f64::from(costs[row * columns.len() + column])).sum()
    }

    /// The least total over all permutations.
    fn least(costs: &[f32], n: usize, chosen: &mut Vec<usize>) -> f64 {
        if chosen.len() == n {
            return total(costs, chosen);
        }
        let mut best = f64::INFINITY;
        for column in 0..n {
            if !chosen.contains(&column) {
                chosen.push(column);
                best = best.min(least(costs, n, chosen));
                chosen.pop();
            }
        }
        best
    }

    #[test]
    fn no_permutation_is_cheaper() {
        let mut word = 1u32;
        let mut random = || {
            word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (word >> 8) as f32 / 1e6 - 8.0
        };
        for n in 1..=7 {
            for _ in 0..20 {
                let costs: Vec<f32> = (0..n * n).map(|_| random()).collect();
                let found = assign(&costs);
                let mut sorted = found.clone();
                sorted.sort_unstable();
                assert_eq!(sorted, (0..n).collect::<Vec<_>>());
                assert!((total(&costs, &found) - least(&costs, n, &mut Vec::new())).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn ties_and_nothing_are_fine() {
        assert_eq!(assign(&[]), [0; 0]);
        let mut found = assign(&[1.0; 25]);
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4]);
    }
}
