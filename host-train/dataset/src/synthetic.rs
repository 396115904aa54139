//! Small sets that are computed, for tests and first steps: a signal and a table.
//!
//! Nothing in them is random: what varies from sample to sample runs through multiples of irrational numbers, which fill
//! an interval evenly (Weyl 1916). Values are rounded to thousandths, so that they are the same on every machine.

use std::f64::consts::{PI, TAU};

use super::{ChannelScale, Dataset, Provenance, SampleShape, Values};

/// Samples of each class.
const EACH: usize = 200;
/// Samples in time of a wave.
const LENGTH: usize = 32;
/// The fractional parts of the golden ratio and of the root of two.
const GOLDEN: f64 = 0.618_033_988_749_894_9;
const ROOT: f64 = 0.414_213_562_373_095_1;

/// Waves of 32 samples in two channels, the second a quarter of a period behind; classes sine, triangle and square. Phase,
/// one to two periods and an amplitude of 0.5 to 1 vary.
pub fn waves() -> Dataset {
    let shape = |class: usize, turns: f64| match class {
        0 => (TAU * turns).sin(),
        1 => 1.0 - 4.0 * ((turns + 0.25).rem_euclid(1.0) - 0.5).abs(),
        _ => {
            if turns.rem_euclid(1.0) < 0.5 {
                1.0
            } else {
                -1.0
            }
        }
    };
    let value = |class: usize, number: usize, at: usize| {
        let (time, channel) = (at / 2, at % 2);
        let (phase, vary) = (turn(number, GOLDEN), turn(number, ROOT));
        let periods = 1.0 + vary;
        let turns = phase + periods * time as f64 / LENGTH as f64 - 0.25 * channel as f64;
        (0.5 + 0.5 * turn(number, GOLDEN * ROOT)) * shape(class, turns)
    };
    set("waves", SampleShape::signal(LENGTH, 2), ["sine", "triangle", "square"], value)
}

/// Points of a plane on two half circles of radius 1 and width 0.2 that reach into each other, a class each.
pub fn moons() -> Dataset {
    let value = |class: usize, number: usize, at: usize| {
        let angle = PI * turn(number, GOLDEN);
        let radius = 0.9 + 0.2 * turn(number, ROOT);
        let (x, y) = (radius * angle.cos(), radius * angle.sin());
        match (class, at) {
            (0, 0) => x - 0.5,
            (0, _) => y - 0.25,
            (_, 0) => 0.5 - x,
            (_, _) => 0.25 - y,
        }
    };
    let set = set("moons", SampleShape::vector(2), ["upper", "lower"], value);
    set.with_scale(vec![ChannelScale { offset: 0.0, scale: 1.6 }, ChannelScale { offset: 0.0, scale: 0.9 }])
}

/// The fractional part of a multiple.
fn turn(number: usize, of: f64) -> f64 {
    (number as f64 * of).fract()
}

/// Sample i has class `i % N`.
fn set<const N: usize>(
    name: &str,
    shape: SampleShape,
    classes: [&str; N],
    value: impl Fn(usize, usize, usize) -> f64,
) -> Dataset {
    let samples = (0..EACH).flat_map(|number| (0..N).map(move |class| (class, number)));
    let rounded = |value: f64| ((value * 1000.0).round() / 1000.0) as f32;
    let values = samples.flat_map(|(class, number)| (0..shape.len()).map(move |at| (class, number, at)));
    let values = values.map(|(class, number, at)| rounded(value(class, number, at))).collect();
    let labels = (0..EACH * N).map(|index| (index % N) as u16).collect();
    let names = classes.map(str::to_owned).to_vec();
    let [licence, attribution, url] = ["MIT OR Apache-2.0", "computed by mote-dataset", ""].map(str::to_owned);
    Dataset::new(shape, Values::Floats(values), labels, names).with_provenance(Provenance {
        name: name.to_owned(),
        licence,
        attribution,
        url,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_see_all_of_the_interval_and_no_more() {
        for (set, len) in [(waves(), 600), (moons(), 400)] {
            assert_eq!((set.len(), set.held_out().len()), (len, len / 5));
            let units: Vec<f32> = (0..set.len()).flat_map(|index| set.units(index)).collect();
            let (least, most) = units.iter().fold((f32::MAX, f32::MIN), |(a, b), &unit| (a.min(unit), b.max(unit)));
            assert!((-1.01..-0.9).contains(&least) && (0.9..1.01).contains(&most), "{least} {most}");
            let mut samples: Vec<Vec<u32>> =
                (0..set.len()).map(|index| set.units(index).map(f32::to_bits).collect()).collect();
            samples.sort();
            samples.dedup();
            assert!(samples.len() > len * 19 / 20, "{} of {len} differ", samples.len());
        }
    }

    #[test]
    fn the_classes_are_what_they_are_called() {
        let set = waves();
        let steepest = |index: usize| {
            let first: Vec<f32> = set.units(index).step_by(2).collect();
            first.windows(2).map(|pair| (pair[1] - pair[0]).abs()).fold(0.0, f32::max)
        };
        // A square jumps by twice its amplitude of at least a half; the others move by less a sample.
        assert!((0..set.len()).all(|index| (steepest(index) >= 0.999) == (set.labels[index] == 2)));
        let moons = moons();
        assert_eq!(moons.natural(0).map(|point| point[0] > 0.0), Some(true));
        let top = |label: u16| {
            (0..moons.len())
                .filter(|&index| moons.labels[index] == label)
                .map(|index| moons.natural(index).unwrap()[1])
                .fold(f32::MIN, f32::max)
        };
        assert!(top(0) > 0.8 && top(1) < 0.3);
    }
}
