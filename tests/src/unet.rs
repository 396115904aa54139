//! A U-Net in the shape that `mote-train` gives its networks, with random constants: for plans and schedules, not pictures.

use mote_core::format::{ConvSpec, NormSpec, OpMemory, OpSpec, Spec, emit, emitted_len};
use mote_core::kernel::{Destination, TABLE_LEN, WeightBits};
use mote_core::model::{Element, NormPart, Row, Tensor};
use mote_core::noise::philox4x32_10;
use mote_core::schedule::{Schedule, fill_alpha_bars};
use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};

/// Sizes of the network.
#[derive(Clone, Copy, Debug)]
pub struct Sizes<'a> {
    /// Height and width of the sample; of height 1 it is convolved with kernels of one row.
    pub sides: [usize; 2],
    /// Channels of each level.
    pub widths: &'a [usize],
    /// Residual blocks at the last level.
    pub middle: usize,
}

/// The 28x28 network of `core/docs/memory.md`.
pub const SMALL: Sizes<'static> = Sizes { sides: [28, 28], widths: &[16, 32, 64], middle: 1 };

/// A network for signals of one dimension, with the kernel of one row.
pub const ROW: Sizes<'static> = Sizes { sides: [1, 24], widths: &[8, 16], middle: 1 };

/// Random constants, long enough for every operation.
pub struct Constants {
    weights: Vec<i8>,
    weight_bits: WeightBits,
    bias: Vec<i32>,
    affine: Vec<[i16; 2]>,
    table: [i8; TABLE_LEN],
    /// Multipliers of convolutions that read normalized values, the state, and the residual stream.
    multipliers: [Vec<i32>; 3],
}

impl Constants {
    /// Of a seed.
    pub fn new(seed: u32) -> Self {
        let mut words = (0..).flat_map(|index| philox4x32_10([index, 0, 0, 0], [seed, 0]));
        let mut draw = |below: u32| words.next().map_or(0, |word| word % below) as i32;
        Constants {
            weights: (0..64 * 9 * 128).map(|_| draw(101) as i8 - 50).collect(),
            weight_bits: WeightBits::Eight,
            bias: (0..128).map(|_| draw(20_001) - 10_000).collect(),
            affine: (0..128).map(|_| [draw(60) as i16 + 40, draw(101) as i16 - 50]).collect(),
            table: std::array::from_fn(|i| (i as i32 / 2 - 128).max(-100) as i8),
            multipliers: [1 << 28, 1 << 25, 1 << 23].map(|multiplier| vec![multiplier; 128]),
        }
    }

    /// The same with weights from -8 to 7, stored in so many bits.
    pub fn small(seed: u32, weight_bits: WeightBits) -> Self {
        let all = Self::new(seed);
        let weights = all.weights.iter().map(|weight| weight.rem_euclid(16) - 8).collect();
        let multipliers = all.multipliers.map(|multipliers| multipliers.iter().map(|by| 4 * by).collect());
        Constants { weights, weight_bits, multipliers, ..all }
    }
}

/// The tensors and operations of a network, not yet placed.
pub struct Network<'a> {
    /// State, output, the rest.
    pub tensors: Vec<Tensor>,
    /// In order.
    pub ops: Vec<OpSpec<'a>>,
    constants: &'a Constants,
}

impl<'a> Network<'a> {
    /// A residual block a level, normalization while rows are loaded, each skip read by one convolution only.
    pub fn new(sizes: &Sizes<'_>, constants: &'a Constants) -> Self {
        let mut net = Network { tensors: Vec::new(), ops: Vec::new(), constants };
        let [state, output] = [0, 1].map(|_| net.tensor(sizes.sides, 1));
        let (mut sides, mut skips) = (sizes.sides, Vec::new());
        let mut stream = net.tensor(sides, sizes.widths[0]);
        net.conv(state, None, stream, [1, 1], Destination::Overwrite);
        for width in &sizes.widths[1..] {
            net.block(stream, None);
            skips.push((stream, sides));
            sides = sides.map(|side| side.div_ceil(2));
            let lower = net.tensor(sides, *width);
            net.conv(stream, None, lower, [2, 1], Destination::Overwrite);
            stream = lower;
        }
        (0..sizes.middle).for_each(|_| net.block(stream, None));
        for (skip, sides) in skips.into_iter().rev() {
            let upper = net.tensor(sides, net.tensors[skip as usize].channels);
            net.conv(stream, None, upper, [1, 2], Destination::Overwrite);
            net.block(upper, Some(skip));
            stream = upper;
        }
        let norm = net.norm(None);
        net.conv(stream, Some(norm), output, [1, 1], Destination::Overwrite);
        net
    }

    fn tensor(&mut self, [height, width]: [usize; 2], channels: usize) -> u16 {
        let element = Element::I16;
        self.tensors.push(Tensor { offset: 0, height, width, channels, element, zero: 0, scale: 1.0 });
        self.tensors.len() as u16 - 1
    }

    fn block(&mut self, stream: u16, skip: Option<u16>) {
        let Tensor { height, width, channels, .. } = self.tensors[stream as usize];
        let hidden = self.tensor([height, width], channels);
        let second = skip.map(|tensor| NormPart { tensor, groups: 4, epsilon_q8: 300 });
        self.conv(stream, Some(self.norm(second)), hidden, [1, 1], Destination::Overwrite);
        self.conv(hidden, Some(self.norm(None)), stream, [1, 1], Destination::Accumulate);
    }

    fn norm(&self, second: Option<NormPart>) -> NormSpec<'a> {
        NormSpec {
            groups: 4,
            epsilon_q8: 300,
            second,
            zero: -100,
            gain_bits: 0,
            bias_bits: 0,
            conditioned: false,
            affine: &self.constants.affine,
            table: &self.constants.table,
        }
    }

    fn conv(
        &mut self,
        input: u16,
        norm: Option<NormSpec<'a>>,
        output: u16,
        [stride, upsample]: [u8; 2],
        destination: Destination,
    ) {
        let read = if norm.is_some() {
            0
        } else if input == 0 {
            1
        } else {
            2
        };
        let channels = |tensor: u16| self.tensors[tensor as usize].channels;
        let second = norm.and_then(|norm| norm.second).map_or(0, |part| channels(part.tensor));
        let (channels_in, channels_out) = (channels(input) + second, channels(output));
        let constants = self.constants;
        let (kernel, taps) = if self.tensors[input as usize].height == 1 { ([1, 3], 3) } else { ([3, 3], 9) };
        self.ops.push(OpSpec::Conv(ConvSpec {
            input,
            norm: norm.map(|norm| NormSpec { affine: &constants.affine[..channels_in], ..norm }),
            output,
            kernel,
            stride,
            upsample,
            destination,
            weights: &constants.weights[..taps * channels_in * channels_out],
            weight_bits: constants.weight_bits,
            bias: &constants.bias[..channels_out],
            multipliers: &constants.multipliers[read][..channels_out],
            memory: OpMemory::default(),
        }));
    }

    /// The file of this network as it is placed, with two steps.
    pub fn file(&self) -> Vec<u8> {
        let one = 1 << 20;
        let row =
            Row { p: one / 2, q: -one, a: one / 2, b: one / 4, b_prev: 0, c: 0, signal: one, noise: 0, timestep: 0 };
        self.file_of(&[row, row], &[])
    }

    /// The file with six steps of ancestral sampling and a unit, as a model of signals has them.
    pub fn signal_file(&self) -> Vec<u8> {
        let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
        Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).expect("a schedule of 1000 timesteps");
        fill_alpha_bars(&betas, &mut alpha_bars);
        let (mut levels, mut table) = ([Level::default(); 6], [StepRow::default(); 6]);
        Spacing::Trailing.fill(&alpha_bars, &mut levels);
        Method::Direct(Variance::Posterior).fill(Objective::V, &levels, &mut table);
        let rows = table.map(|row| row.quantize().expect("coefficients of v are small"));
        self.file_of(&rows, &[[21.7, 0.37]])
    }

    fn file_of(&self, rows: &[Row], units: &[[f32; 2]]) -> Vec<u8> {
        let spec = Spec {
            name: "random U-Net",
            sample: [self.tensors[0].height as u16, self.tensors[0].width as u16, 1],
            classes: 1,
            clamp: [-4096, 4096],
            units,
            history: None,
            rows,
            tensors: &self.tensors,
            ops: &self.ops,
        };
        let mut file = vec![0; emitted_len(&spec)];
        emit(&spec, &mut file).expect("the network is valid");
        file
    }
}
