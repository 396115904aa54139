//! Students that fit a chip.
//!
//! What a student takes is not estimated: each is lowered and exported as it would be after training, with weights that stand for any,
//! and core's own planner places its memory. Of each shape (levels, growth of the widths, blocks, attention) the widest that fits is
//! found by bisection, none with more weights than the teacher; [`propose`] returns those with the most multiply-accumulates and weights, at most one for each number of
//! levels, blocks and attentions. A short training then tells them apart.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::fmt;

use anyhow::ensure;
use burn::backend::Flex;
use burn::tensor::{Tensor, TensorData};
use mote_core::Model;
use mote_core::plan::Room;
use mote_core::step_table::StepRow;
use rayon::prelude::*;
use serde::Serialize;

use crate::denoiser::{Architecture, DenoiserConfig, MlpConfig, UNetConfig, lower, parameters, set_parameters};
use crate::quantize::{Calibration, Graph, GraphOp, Role, export};

/// Levels of a U-Net that are tried.
const LEVELS: std::ops::RangeInclusive<usize> = 1..=4;
/// Widths of a level over those of the level above, in halves.
const GROWTHS: [usize; 4] = [2, 3, 4, 6];
/// Most groups of a normalization: a width is so many equal parts, and narrow students differ by little.
const MOST_GROUPS: usize = 4;
/// Residual blocks of a level, and of the last.
const BLOCKS: [usize; 2] = [1, 2];
const MIDDLES: [usize; 3] = [1, 2, 3];
/// Blocks of a perceptron.
const MLP_BLOCKS: [usize; 4] = [1, 2, 4, 6];
/// The widest first level, in the least possible steps of a width.
const WIDEST: usize = 64;

/// What a student may take; no limit where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of the file.
    pub flash: Option<usize>,
    /// Bytes of the arena.
    pub arena: Option<usize>,
    /// Multiply-accumulates of a pass.
    pub macs: Option<usize>,
}

/// What a student takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Bytes of the file.
    pub flash: usize,
    /// Bytes of the smallest arena.
    pub arena: usize,
    /// Multiply-accumulates of a pass.
    pub macs: usize,
    /// Weights.
    pub parameters: usize,
}

/// A student that fits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// Its network.
    pub architecture: Architecture,
    /// What it takes.
    pub size: Size,
}

impl Budget {
    /// Whether there is any limit.
    pub fn is_any(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a student fits.
    pub fn fits(&self, size: &Size) -> bool {
        let within = |limit: Option<usize>, found: usize| limit.is_none_or(|limit| found <= limit);
        within(self.flash, size.flash) && within(self.arena, size.arena) && within(self.macs, size.macs)
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.architecture {
            Architecture::UNet(UNetConfig { widths, blocks, middle, attention, .. }) => {
                let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
                write!(f, "widths {}, blocks {blocks}, middle {middle}", widths.join(","))?;
                if !attention.is_empty() {
                    write!(f, ", attention {attention:?}")?;
                }
            }
            Architecture::Mlp(MlpConfig { width, blocks, .. }) => write!(f, "width {width}, blocks {blocks}")?,
        }
        let Size { flash, arena, macs, .. } = self.size;
        write!(f, ": {flash} bytes, arena {arena} bytes, {:.2} M multiply-accumulates a pass", macs as f64 / 1e6)
    }
}

/// A student with weights that stand for any, as core's operations, and how many weights.
///
/// # Errors
/// If there is no such network, or core cannot run it.
fn lowered(network: &DenoiserConfig, rows: &[StepRow], timesteps: usize) -> anyhow::Result<(Graph, usize)> {
    let device = Default::default();
    let net = network.init::<Flex>(0, &device)?;
    let count = parameters(&net).dims()[0];
    let any: Vec<f32> = (0..count).map(|index| (index as f32 * 0.731).sin() * 0.1).collect();
    let net = set_parameters(net, Tensor::from_data(TensorData::new(any, [count]), &device));
    Ok((lower(&net, network, "", rows.to_vec(), timesteps, [-1.0, 1.0])?, count))
}

/// What a student that draws `rows` takes.
///
/// # Errors
/// If there is no such network, or it cannot become a `.mote` file.
pub fn size(network: &DenoiserConfig, rows: &[StepRow], timesteps: usize) -> anyhow::Result<Size> {
    let (graph, parameters) = lowered(network, rows, timesteps)?;
    let ranges = |count| vec![[-1.0, 1.0]; count];
    let ops = graph.ops.len();
    let calibration =
        Calibration { tensors: ranges(graph.tensors.len()), normalized: ranges(ops), convolved: ranges(ops) };
    let file = export(&graph, &calibration, Room::Smallest)?.file;
    let arena = Model::parse(&file)?.arena_len();
    Ok(Size { flash: file.len(), arena, macs: graph.macs(), parameters })
}

/// How great a student is.
fn greatness(macs: usize, parameters: usize) -> u128 {
    macs as u128 * parameters as u128
}

/// The most of `0..=most` steps that `fits` says something of, and what; it is taken to say nothing of more than one that it says
/// nothing of.
fn widest<T>(most: usize, mut fits: impl FnMut(usize) -> Option<T>) -> Option<(usize, T)> {
    let (mut best, mut low, mut high) = (None, 0, most + 1);
    // The limit that was found before is often the only one that binds.
    let mut middle = most;
    while high - low > 1 {
        match fits(middle) {
            Some(found) => (best, low) = (Some((middle, found)), middle),
            None => high = middle,
        }
        middle = (low + high) / 2;
    }
    best
}

/// At most `count` students of `teacher`'s samples that draw `rows` and fit, the greatest first; the teacher's own network is the
/// first if it fits.
///
/// Planning memory takes longest, so each shape's widest by what needs no plan is found first. The shapes
/// are planned in the order of how great those are, until no other can be greater than what was found.
///
/// # Errors
/// If none fits.
pub fn propose(
    teacher: &DenoiserConfig,
    budget: &Budget,
    rows: &[StepRow],
    timesteps: usize,
    count: usize,
) -> anyhow::Result<Vec<Candidate>> {
    let most = parameters(&teacher.init::<Flex>(0, &Default::default())?).dims()[0];
    let network =
        |architecture: &Architecture| DenoiserConfig { architecture: architecture.clone(), ..teacher.clone() };
    let bounded = |shape: &Shape, steps: usize| {
        let architecture = shape.architecture(&teacher.architecture, steps);
        let (graph, parameters) = Some(&architecture)
            .filter(|architecture| least_weights(architecture) <= most)
            .and_then(|architecture| lowered(&network(architecture), rows, timesteps).ok())?;
        // Of flash and arena what there is at least: a byte a weight of a convolution, the state and the largest tensor.
        let weights = |op: &GraphOp| if let GraphOp::Conv(conv) = op { conv.weights.len() } else { 0 };
        let bytes = |index: usize| {
            let tensor = &graph.tensors[index];
            tensor.elements() * if tensor.role == Role::Attention { 1 } else { 2 }
        };
        // The first is the state.
        let arena = bytes(0) + (1..graph.tensors.len()).map(bytes).max().unwrap_or(0);
        let least = Size { flash: graph.ops.iter().map(weights).sum(), arena, macs: graph.macs(), parameters };
        (parameters <= most && budget.fits(&least)).then(|| greatness(least.macs, parameters))
    };
    let fitting = |architecture: Architecture| {
        let size = size(&network(&architecture), rows, timesteps).ok().filter(|size| budget.fits(size))?;
        Some(Candidate { architecture, size })
    };
    let bound =
        |shape: Shape| widest(WIDEST, |steps| bounded(&shape, steps)).map(|(steps, great)| (great, steps, shape));
    let mut shapes: Vec<(u128, usize, Shape)> =
        Shape::all(&teacher.architecture).into_par_iter().filter_map(bound).collect();
    shapes.sort_by_key(|&(great, ..)| Reverse(great));
    let great = |candidate: &Candidate| greatness(candidate.size.macs, candidate.size.parameters);
    let mut found: Vec<Candidate> = Vec::new();
    for some in shapes.chunks(rayon::current_num_threads()) {
        if found.len() == count && great(&found[count - 1]) >= some[0].0 {
            break;
        }
        let planned = some.par_iter().filter_map(|(_, most, shape)| {
            let (_, found) = widest(*most, |steps| fitting(shape.architecture(&teacher.architecture, steps)))?;
            Some(found)
        });
        found.extend(planned.collect::<Vec<_>>());
        keep_greatest(&mut found, count);
    }
    found.splice(0..0, fitting(teacher.architecture.clone()));
    let mut kinds = HashSet::new();
    found.retain(|candidate| kinds.insert(kind(&candidate.architecture)));
    found.truncate(count);
    ensure!(!found.is_empty(), "no student fits {budget:?}: the narrowest networks of this shape are larger");
    Ok(found)
}

/// Keeps the greatest of each kind, and of those the greatest `count`, the greatest first.
fn keep_greatest(found: &mut Vec<Candidate>, count: usize) {
    found.sort_by_key(|candidate| Reverse(greatness(candidate.size.macs, candidate.size.parameters)));
    let mut kinds = HashSet::new();
    found.retain(|candidate| kinds.insert(kind(&candidate.architecture)));
    found.truncate(count);
}

/// No more weights than a network has, without building it: those of its residual blocks for signals.
fn least_weights(architecture: &Architecture) -> usize {
    match architecture {
        Architecture::UNet(UNetConfig { widths, blocks, middle, .. }) => {
            let (last, upper) = widths.split_last().expect("a network has a width");
            let of = |width: &usize, blocks: usize| 6 * blocks * width * width;
            of(last, *middle) + upper.iter().map(|width| of(width, 2 * blocks)).sum::<usize>()
        }
        Architecture::Mlp(MlpConfig { width, blocks, .. }) => 2 * blocks * width * width,
    }
}

/// What of a network is not width: levels, blocks, attentions.
fn kind(architecture: &Architecture) -> (usize, usize, usize) {
    match architecture {
        Architecture::UNet(unet) => (unet.widths.len(), unet.blocks, unet.attention.len()),
        Architecture::Mlp(mlp) => (1, mlp.blocks, 0),
    }
}

/// All of a network but its width.
#[derive(Debug, Clone, Copy)]
struct Shape {
    levels: usize,
    growth: usize,
    blocks: usize,
    middle: usize,
    attention: bool,
}

impl Shape {
    fn all(teacher: &Architecture) -> Vec<Self> {
        let mut all = Vec::new();
        if let Architecture::Mlp(_) = teacher {
            let shape = |blocks| Self { levels: 1, growth: 2, blocks, middle: 1, attention: false };
            return MLP_BLOCKS.map(shape).to_vec();
        }
        for levels in LEVELS {
            for growth in GROWTHS.into_iter().take(if levels == 1 { 1 } else { GROWTHS.len() }) {
                for blocks in BLOCKS.into_iter().take(if levels == 1 { 1 } else { BLOCKS.len() }) {
                    for middle in MIDDLES {
                        all.extend([false, true].map(|attention| Self { levels, growth, blocks, middle, attention }));
                    }
                }
            }
        }
        all
    }

    /// The network whose first level has `steps` of the narrowest possible widths; what is not searched is the teacher's.
    fn architecture(self, teacher: &Architecture, steps: usize) -> Architecture {
        match teacher {
            Architecture::Mlp(mlp) => {
                Architecture::Mlp(MlpConfig { width: steps * 4 * mlp.groups, blocks: self.blocks, ..mlp.clone() })
            }
            Architecture::UNet(unet) => {
                let groups = if unet.groups.is_multiple_of(MOST_GROUPS) { MOST_GROUPS } else { unet.groups };
                let unit = least_common_multiple(groups, if self.attention { unet.heads } else { 1 });
                let width = |level: u32| {
                    let width = steps * self.growth.pow(level);
                    unit * width.div_ceil(1 << level)
                };
                Architecture::UNet(UNetConfig {
                    widths: (0..self.levels as u32).map(width).collect(),
                    blocks: self.blocks,
                    middle: self.middle,
                    attention: if self.attention { vec![self.levels - 1] } else { Vec::new() },
                    groups,
                    dropout: 0.0,
                    ..unet.clone()
                })
            }
        }
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let gcd = |mut a: usize, mut b: usize| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SampleShape;
    use crate::denoiser::Output;
    use crate::diffusion::{DiffusionConfig, Objective, ScheduleConfig};
    use crate::quantize::{Ends, calibrate};

    fn teacher(shape: SampleShape, architecture: Architecture) -> DenoiserConfig {
        let (output, self_conditioning, condition_channels) = (Output::Mean, false, 0);
        DenoiserConfig { shape, classes: 3, architecture, output, self_conditioning, condition_channels }
    }

    fn unet(widths: &[usize]) -> Architecture {
        Architecture::UNet(UNetConfig {
            widths: widths.to_vec(),
            blocks: 1,
            middle: 1,
            groups: 4,
            embedding: 16,
            attention: vec![],
            heads: 1,
            dropout: 0.0,
        })
    }

    fn rows() -> Vec<StepRow> {
        DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap().ddim(2)
    }

    /// What is counted is what a trained student's file takes.
    #[test]
    fn sizes_are_those_of_a_calibrated_export() {
        let network = teacher(SampleShape::image(8, 8, 1), unet(&[8, 16]));
        let found = size(&network, &rows(), 1000).unwrap();
        let net = network.init::<Flex>(7, &Default::default()).unwrap();
        let graph = lower(&net, &network, "", rows(), 1000, [-1.0, 1.0]).unwrap();
        let file = export(&graph, &calibrate(&graph, 1, 4, Ends::default()), Room::Smallest).unwrap().file;
        let arena = Model::parse(&file).unwrap().arena_len();
        assert_eq!((found.flash, found.arena, found.macs), (file.len(), arena, graph.macs()));
    }

    #[test]
    fn the_widest_is_the_last_that_fits() {
        for most in 1..9 {
            for last in 0..=most {
                let found = widest(most, |steps| (steps <= last).then_some(10 * steps));
                assert_eq!(found, (last > 0).then_some((last, 10 * last)), "{last} of {most}");
            }
        }
    }

    #[test]
    fn proposals_fit_and_wider_ones_do_not() {
        let network = teacher(SampleShape::image(8, 8, 1), unet(&[32, 64]));
        let budget = Budget { flash: Some(40_000), arena: Some(6_000), macs: Some(1_000_000) };
        let found = propose(&network, &budget, &rows(), 1000, 2).unwrap();
        assert_eq!(found.len(), 2);
        for Candidate { architecture, size: claimed } in &found {
            let network = DenoiserConfig { architecture: architecture.clone(), ..network.clone() };
            let real = size(&network, &rows(), 1000).unwrap();
            assert!(real == *claimed && budget.fits(&real), "{claimed:?} {real:?}");
            let Architecture::UNet(unet) = architecture else { panic!("another kind") };
            let mut wider = unet.clone();
            wider.widths.iter_mut().for_each(|width| *width *= 2);
            let wider = DenoiserConfig { architecture: Architecture::UNet(wider), ..network };
            assert!(!budget.fits(&size(&wider, &rows(), 1000).unwrap()), "{wider:?} fits, too");
        }
        // The greatest first, no two of a kind.
        let macs: Vec<usize> = found.iter().map(|candidate| candidate.size.macs * candidate.size.parameters).collect();
        assert!(macs.is_sorted_by(|a, b| a >= b), "{found:?}");
    }

    #[test]
    fn a_teacher_that_fits_is_the_first_and_what_cannot_be_is_said() {
        let network = teacher(SampleShape::image(8, 8, 1), unet(&[4, 8]));
        let budget = Budget { flash: Some(100_000), ..Budget::default() };
        assert_eq!(propose(&network, &budget, &rows(), 1000, 2).unwrap()[0].architecture, network.architecture);
        let none = Budget { flash: Some(500), ..Budget::default() };
        assert!(propose(&network, &none, &rows(), 1000, 2).unwrap_err().to_string().contains("no student fits"));
        assert!(none.is_any() && !Budget::default().is_any());
    }

    #[test]
    fn perceptrons_and_signals_are_searched_too() {
        let mlp = MlpConfig { width: 64, blocks: 2, groups: 1, embedding: 16, dropout: 0.1 };
        let vectors = teacher(SampleShape::vector(5), Architecture::Mlp(mlp));
        let signals = teacher(SampleShape::signal(16, 2), unet(&[8, 16]));
        let budget = Budget { macs: Some(60_000), ..Budget::default() };
        for network in [vectors, signals] {
            let found = propose(&network, &budget, &rows(), 1000, 2).unwrap();
            assert!(found.iter().all(|candidate| candidate.size.macs <= 60_000), "{found:?}");
        }
    }
}
