//! Floats and core's integers side by side, operation by operation, on the states of core's own trajectories.

use super::graph::{Graph, GraphOp};
use super::run::{Observer, Sampler};
use mote_core::model::{Element, Model, Op, Tensor};
use mote_core::quant::STATE_ONE;
use mote_core::{Generator, Request, aligned};
use rayon::prelude::*;

/// Bins of a [`Histogram`].
pub const BINS: usize = 64;

/// How often a stored number was seen: [`BINS`] equal parts of what its type holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Counts, the smallest numbers first.
    pub bins: [u64; BINS],
    /// Numbers at one of the two ends of the type, or beyond them before they were stored.
    pub saturated: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { bins: [0; BINS], saturated: 0 }
    }
}

impl Histogram {
    /// All numbers.
    pub fn count(&self) -> u64 {
        self.bins.iter().sum()
    }

    /// The share of them at an end, 0 to 1.
    pub fn saturation(&self) -> f64 {
        self.saturated as f64 / self.count().max(1) as f64
    }

    /// Counts `value`, which `low..=high` holds or which is cut off to it.
    pub(super) fn add(&mut self, value: f64, [low, high]: [f64; 2]) {
        let at = (value - low) / (high - low + 1.0) * BINS as f64;
        self.bins[at.clamp(0.0, (BINS - 1) as f64) as usize] += 1;
        self.saturated += u64::from(value <= low || value >= high);
    }

    fn union(&mut self, other: &Self) {
        self.bins.iter_mut().zip(other.bins).for_each(|(all, more)| *all += more);
        self.saturated += other.saturated;
    }
}

/// The smallest and the largest number of a type.
pub fn limits(element: Element) -> [f64; 2] {
    match element {
        Element::I8 => [i8::MIN.into(), i8::MAX.into()],
        Element::I16 => [i16::MIN.into(), i16::MAX.into()],
    }
}

/// How close an operation's integers come to its floats, everything before it being integers too.
#[derive(Clone, Debug, Default)]
pub struct Agreement {
    /// Sum of the squares of the floats.
    pub signal: f64,
    /// Sum of the squares of the differences.
    pub noise: f64,
    /// The largest difference.
    pub worst: f64,
    /// The output's integers.
    pub stored: Histogram,
}

impl Agreement {
    /// Signal to noise, in decibels: 20 are an error of a tenth, 40 of a hundredth. Infinite if there is no difference.
    pub fn decibels(&self) -> f64 {
        10.0 * (self.signal / self.noise).log10()
    }

    /// Root mean square of the floats.
    pub fn size(&self) -> f64 {
        (self.signal / self.stored.count().max(1) as f64).sqrt()
    }

    /// Root mean square of the differences.
    pub fn error(&self) -> f64 {
        (self.noise / self.stored.count().max(1) as f64).sqrt()
    }

    fn add(&mut self, floats: &[f32], bytes: &[u8], tensor: &Tensor) {
        let stored: Vec<i32> = match tensor.element {
            Element::I8 => bytes.iter().map(|&byte| i32::from(byte as i8)).collect(),
            Element::I16 => bytes.as_chunks().0.iter().map(|&pair| i32::from(i16::from_le_bytes(pair))).collect(),
        };
        for (&float, stored) in floats.iter().zip(stored) {
            let difference = f64::from(float) - f64::from((stored - tensor.zero) as f32 * tensor.scale);
            self.signal += f64::from(float).powi(2);
            self.noise += difference.powi(2);
            self.worst = self.worst.max(difference.abs());
            self.stored.add(stored.into(), limits(tensor.element));
        }
    }

    fn union(mut self, other: Self) -> Self {
        self.signal += other.signal;
        self.noise += other.noise;
        self.worst = self.worst.max(other.worst);
        self.stored.union(&other.stored);
        self
    }
}

/// The first operation whose integers are further from its floats than `decibels`.
pub fn first_divergence(agreements: &[Agreement], decibels: f64) -> Option<usize> {
    agreements.iter().position(|agreement| agreement.decibels() < decibels)
}

/// Why a model cannot be compared with a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// They are not the same operations on tensors of the same shapes.
    #[error(
        "the model and the network differ at operation {op}: the model was made of another network; quantize this one"
    )]
    OtherNetwork {
        /// The first operation that is another or has other shapes.
        op: usize,
    },
    /// They do not have the same step table or classes.
    #[error(
        "the model draws {} rows for {} classes, the network {} for {}: quantize this network",
        model[0], model[1], network[0], network[1]
    )]
    OtherRows {
        /// Rows and classes.
        model: [usize; 2],
        /// Rows and classes.
        network: [usize; 2],
    },
    /// Never: the arena is made for the model.
    #[error(transparent)]
    Arena(#[from] mote_core::ArenaError),
}

/// Draws `samples` samples of `seed` with `model`, classes in turn, and gives the float network `graph` every state that core
/// reaches. An [`Agreement`] for each operation.
///
/// # Errors
/// [`CompareError`] if the model is not made of this network.
pub fn compare(graph: &Graph, model: &Model<'_>, seed: u64, samples: usize) -> Result<Vec<Agreement>, CompareError> {
    check(graph, model)?;
    let parts: Vec<Vec<Agreement>> = (0..samples)
        .into_par_iter()
        .map(|index| {
            let class = (index % graph.classes) as u16;
            sample(graph, model, Request { class, seed, sample: index as u64, ..Request::default() })
        })
        .collect::<Result<_, _>>()?;
    let nothing = vec![Agreement::default(); graph.ops.len()];
    Ok(parts.into_iter().fold(nothing, |all, one| all.into_iter().zip(one).map(|(a, b)| a.union(b)).collect()))
}

fn check(graph: &Graph, model: &Model<'_>) -> Result<(), CompareError> {
    let rows = [usize::from(model.rows()), usize::from(model.classes())];
    let network = [graph.rows.len(), graph.classes];
    if rows != network {
        return Err(CompareError::OtherRows { model: rows, network });
    }
    let shape = |tensor: u16| {
        let Tensor { height, width, channels, .. } = model.tensor(tensor);
        [height, width, channels]
    };
    let same_shape = |tensor: usize, stored: u16| graph.tensors[tensor].shape == shape(stored);
    for (op, float) in graph.ops.iter().enumerate() {
        let known = op < usize::from(model.ops())
            && match (float, model.op(op as u16)) {
                (GraphOp::Conv(conv), Op::Conv(stored)) => {
                    conv.kernel == stored.shape.kernel
                        && graph.channels_in(conv) == stored.shape.channels_in
                        && same_shape(conv.input, stored.input)
                        && same_shape(conv.output, stored.output)
                }
                (GraphOp::Attention(attention), Op::Attention(stored)) => {
                    attention.heads == stored.shape.heads && same_shape(attention.output, stored.output)
                }
                _ => false,
            };
        if !known {
            return Err(CompareError::OtherNetwork { op });
        }
    }
    if usize::from(model.ops()) != graph.ops.len() {
        return Err(CompareError::OtherNetwork { op: graph.ops.len() });
    }
    Ok(())
}

fn sample(graph: &Graph, model: &Model<'_>, request: Request) -> Result<Vec<Agreement>, CompareError> {
    let mut arena = vec![0u8; model.arena_len() + 3];
    let mut generator = Generator::new(model, aligned(&mut arena))?;
    generator.start(request).expect("a class and a first row of the model");
    let mut float = Sampler::new(graph);
    let mut agreements = vec![Agreement::default(); graph.ops.len()];
    for row in 0..graph.rows.len() {
        let state: Vec<f32> = generator.state().iter().map(|&x| f32::from(x) / f32::from(STATE_ONE)).collect();
        let mut written = Written::default();
        float.forward(&state, row * graph.classes + usize::from(request.class), &mut written);
        for (op, (floats, agreement)) in written.0.iter().zip(&mut agreements).enumerate() {
            generator.step_layer();
            let output = model.op(op as u16).output();
            agreement.add(floats, generator.tensor_bytes(output), &model.tensor(output));
        }
    }
    Ok(agreements)
}

/// What the operations wrote, in order.
#[derive(Default)]
struct Written(Vec<Vec<f32>>);

impl Observer for Written {
    fn tensor(&mut self, _: usize, values: &mut [f32]) {
        self.0.push(values.to_vec());
    }
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::{Ends, calibrate, export};
    use super::*;
    use mote_core::plan::Room;

    #[test]
    fn integers_agree_with_floats_until_an_operation_is_spoiled() {
        let graph = network(3, Some(2));
        let mut exported = export(&graph, &calibrate(&graph, 1, 12, Ends::default()), Room::Smallest).unwrap();
        let sound = compare(&graph, &Model::parse(&exported.file).unwrap(), 2, 6).unwrap();
        assert_eq!(first_divergence(&sound, 15.0), None, "{:?}", sound.iter().map(Agreement::decibels));
        assert!(sound.iter().all(|agreement| agreement.stored.saturation() < 0.02));
        // The first operation reads the state exactly, so only its weights and its output are rounded.
        assert!(sound[0].decibels() > sound.last().unwrap().decibels());
        assert!(sound[0].decibels() > 35.0, "{}", sound[0].decibels());

        // A weight of operation 3 becomes another, and the first operation that differs is found.
        let spoiled = 3;
        let mut other = graph.clone();
        let GraphOp::Conv(conv) = &mut other.ops[spoiled] else { panic!("a convolution") };
        conv.weights.iter_mut().for_each(|weight| *weight = -*weight);
        exported = export(&other, &calibrate(&graph, 1, 12, Ends::default()), Room::Smallest).unwrap();
        let differ = compare(&graph, &Model::parse(&exported.file).unwrap(), 2, 6).unwrap();
        assert_eq!(first_divergence(&differ, 15.0), Some(spoiled));
    }

    #[test]
    fn a_model_of_another_network_is_refused() {
        let graph = network(3, None);
        let exported = export(&graph, &calibrate(&graph, 1, 2, Ends::default()), Room::Smallest).unwrap();
        let model = Model::parse(&exported.file).unwrap();
        let error = compare(&network(3, Some(2)), &model, 1, 1).unwrap_err();
        assert_eq!(error, CompareError::OtherNetwork { op: 4 });
        let mut longer = graph;
        longer.rows.push(longer.rows[0]);
        let error = compare(&longer, &model, 1, 1).unwrap_err().to_string();
        assert!(error.contains("2 rows for 3 classes, the network 3 for 3"), "{error}");
    }

    #[test]
    fn a_histogram_counts_the_ends() {
        let mut histogram = Histogram::default();
        for value in [-128.0, -127.0, 0.0, 3.0, 127.0] {
            histogram.add(value, limits(Element::I8));
        }
        assert_eq!((histogram.count(), histogram.saturated), (5, 2));
        assert_eq!((histogram.bins[0], histogram.bins[32], histogram.bins[63]), (2, 2, 1));
        assert!((histogram.saturation() - 0.4).abs() < 1e-12);
    }
}
