//! Convolution as sums of shifted rows.
//!
//! A chunk of images lies in one long row a channel. For a 3x3 kernel that is `(out_height + 1) * (out_width + 1)` places
//! an image, the last column and the last row zero; across a side of 1 there is no such column or row. Zeros in front make
//! these the padding of both neighbors, so a tap of the kernel is a constant shift of the whole row, and the places that are
//! not pixels are computed and passed over. With stride 2 the even and odd rows and columns are four such rows ("phases"),
//! two if the stride is of one side alone, and a tap is a phase and a shift.

use std::cell::RefCell;

use rayon::prelude::*;

use super::lanes::{BLOCK, Correlation, LEN_MULTIPLE, Product, blocks};

/// Images a chunk: enough to fill long vectors, few enough to stay in the cache.
const CHUNK: usize = 8;

/// Sizes of a convolution with padding `kernel / 2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Input pixels down.
    pub height: usize,
    /// Input pixels across.
    pub width: usize,
    /// Kernel rows and columns, each 1 or 3.
    pub kernel: [usize; 2],
    /// Down and across: 1, or 2 where the kernel's side is 3.
    pub stride: [usize; 2],
}

/// Gradients of a convolution.
pub struct Gradients {
    /// Where [`Wanted::All`] was asked for.
    pub x: Option<Vec<f32>>,
    /// `[output, input, kernel rows, kernel columns]`
    pub weight: Vec<f32>,
    /// `[output]`
    pub bias: Vec<f32>,
}

/// Which gradients are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Of the input, the weight and the bias.
    All,
    /// Of the weight and the bias.
    Parameters,
}

thread_local! {
    /// Packed input; packed output or its gradient.
    static SCRATCH: RefCell<(Vec<f32>, Vec<f32>)> = const { RefCell::new((Vec::new(), Vec::new())) };
}

impl Shape {
    /// Output pixels down.
    pub fn out_height(&self) -> usize {
        self.height.div_ceil(self.stride[0])
    }

    /// Output pixels across.
    pub fn out_width(&self) -> usize {
        self.width.div_ceil(self.stride[1])
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn phases(&self) -> usize {
        self.stride[0] * self.stride[1]
    }

    /// Zero rows after an image and zero columns after a row.
    fn gaps(&self) -> [usize; 2] {
        self.kernel.map(|side| side / 2)
    }

    /// Places from one row of an image to the next.
    fn pitch(&self) -> usize {
        self.out_width() + self.gaps()[1]
    }

    /// Places of `images`.
    fn places(&self, images: usize) -> usize {
        images * (self.out_height() + self.gaps()[0]) * self.pitch()
    }

    /// Places before the first image.
    fn front(&self) -> usize {
        let [rows, columns] = self.gaps();
        rows * self.pitch() + columns
    }

    /// Places of a phase of a channel: what is computed, and what the taps reach before and after.
    fn segment(&self, images: usize) -> usize {
        self.places(images).next_multiple_of(LEN_MULTIPLE) + 2 * self.front()
    }

    /// The phase and the shift that each tap reads at, row by row.
    fn tap_sources(&self) -> Vec<(usize, isize)> {
        let source = |axis: usize, k: usize| match (self.kernel[axis], self.stride[axis]) {
            (1, _) => (0, 0),
            (_, 1) => (0, k as isize - 1),
            _ => [(1, -1), (0, 0), (1, 0)][k],
        };
        (0..self.taps())
            .map(|tap| {
                let (odd_row, row) = source(0, tap / self.kernel[1]);
                let (odd, column) = source(1, tap % self.kernel[1]);
                (self.stride[1] * odd_row + odd, row * self.pitch() as isize + column)
            })
            .collect()
    }

    /// Calls `each(image, place, index, columns)` for every row of `phase`: the place of its first pixel in the packed
    /// row, its index in the plane, and its number of pixels.
    #[inline(always)]
    fn rows(&self, images: usize, phase: usize, mut each: impl FnMut(usize, usize, usize, usize)) {
        let [down, across] = self.stride;
        let (odd_row, odd) = (phase / across, phase % across);
        let columns = (self.width - odd).div_ceil(across);
        for image in 0..images {
            for y in 0..(self.height - odd_row).div_ceil(down) {
                let place = self.places(image) + y * self.pitch();
                each(image, place, (y * down + odd_row) * self.width + odd, columns);
            }
        }
    }

    /// `[images, channels, height, width]` into `[channels][phases][segment]`, pixels from [`Shape::front`] on.
    fn pack(&self, x: &[f32], channels: usize, images: usize, packed: &mut Vec<f32>) {
        let segment = self.segment(images);
        let plane = self.height * self.width;
        packed.clear();
        packed.resize(channels * self.phases() * segment, 0.0);
        for c in 0..channels {
            for phase in 0..self.phases() {
                let to = &mut packed[(c * self.phases() + phase) * segment..][..segment];
                self.rows(images, phase, |image, place, index, columns| {
                    let from = &x[(image * channels + c) * plane..][..plane][index..];
                    let to = &mut to[self.front() + place..][..columns];
                    if self.stride[1] == 1 {
                        to.copy_from_slice(&from[..columns]);
                    } else {
                        to.iter_mut().zip(from.iter().step_by(2)).for_each(|(to, from)| *to = *from);
                    }
                });
            }
        }
    }

    /// Copies the pixels of `phase` out of `[channels][segment]` rows, pixels from 0 on, and adds `bias(channel)`.
    fn unpack(
        &self,
        (packed, segment): (&[f32], usize),
        (channels, images, phase): (usize, usize, usize),
        out: &mut [f32],
        bias: impl Fn(usize) -> f32,
    ) {
        let plane = self.height * self.width;
        for c in 0..channels {
            let from = &packed[c * segment..][..segment];
            let bias = bias(c);
            self.rows(images, phase, |image, place, index, columns| {
                let from = &from[place..][..columns];
                let to = &mut out[(image * channels + c) * plane..][..plane][index..];
                if self.stride[1] == 1 {
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = from + bias);
                } else {
                    to.iter_mut().step_by(2).zip(from).for_each(|(to, from)| *to = from + bias);
                }
            });
        }
    }

    /// The output as an image of a convolution with stride 1: how it and its gradient are packed.
    fn of_output(&self) -> Shape {
        Shape { height: self.out_height(), width: self.out_width(), stride: [1; 2], ..*self }
    }
}

/// Weights for [`Product`]: `weight(out channel, channel, tap)` for the taps listed.
fn pack_weights(
    out_channels: usize,
    channels: usize,
    taps: &[usize],
    weight: impl Fn(usize, usize, usize) -> f32,
) -> Vec<f32> {
    let mut packed = vec![0.0; blocks(out_channels) * BLOCK * channels * taps.len()];
    for o in 0..out_channels {
        for c in 0..channels {
            for (t, &tap) in taps.iter().enumerate() {
                packed[((o / BLOCK * channels + c) * taps.len() + t) * BLOCK + o % BLOCK] = weight(o, c, tap);
            }
        }
    }
    packed
}

/// The convolution of `x`, `[batch, in, height, width]`.
pub fn forward(x: &[f32], weight: &[f32], bias: &[f32], shape: Shape) -> Vec<f32> {
    let output = shape.of_output();
    let (image_in, image_out) = (shape.input * shape.height * shape.width, shape.output * output.height * output.width);
    let mut out = vec![0.0; x.len() / image_in * image_out];
    let all: Vec<usize> = (0..shape.taps()).collect();
    let weights =
        pack_weights(shape.output, shape.input, &all, |o, c, t| weight[(o * shape.input + c) * shape.taps() + t]);
    let run = |(out, x): (&mut [f32], &[f32])| {
        SCRATCH.with_borrow_mut(|(packed, packed_out)| {
            let images = x.len() / image_in;
            let segment = shape.segment(images);
            shape.pack(x, shape.input, images, packed);
            let sources = shape.tap_sources();
            let taps: Vec<isize> = sources.iter().map(|&(phase, shift)| (phase * segment) as isize + shift).collect();
            packed_out.resize((blocks(shape.output) * BLOCK * segment).max(packed_out.len()), 0.0);
            Product {
                x: packed,
                origin: shape.front(),
                x_stride: shape.phases() * segment,
                channels: shape.input,
                taps: &taps,
                weights: &weights,
                out: packed_out,
                out_stride: segment,
                out_channels: shape.output,
                len: shape.places(images),
            }
            .run();
            output.unpack((packed_out, segment), (shape.output, images, 0), out, |o| bias[o]);
        });
    };
    out.par_chunks_mut(CHUNK * image_out).zip(x.par_chunks(CHUNK * image_in)).for_each(run);
    out
}

/// Gradients from `dy`, the gradient of the output, `[batch, out, out_height, out_width]`.
pub fn backward(x: &[f32], weight: &[f32], dy: &[f32], shape: Shape, wanted: Wanted) -> Gradients {
    let output = shape.of_output();
    let plane_out = output.height * output.width;
    let image_in = shape.input * shape.height * shape.width;
    let transposed = Transposed::new(weight, shape);
    let run = |(dx, (x, dy)): (&mut [f32], (&[f32], &[f32]))| {
        SCRATCH.with_borrow_mut(|(packed, packed_dy)| {
            let images = x.len() / image_in;
            output.pack(dy, shape.output, images, packed_dy);
            shape.pack(x, shape.input, images, packed);
            let sums = correlate(packed, packed_dy, shape, images);
            if !dx.is_empty() {
                transposed.run(packed_dy, packed, images, dx);
            }
            (sums, channel_sums(dy, shape.output, plane_out))
        })
    };
    let mut dx = vec![0.0; if wanted == Wanted::All { x.len() } else { 0 }];
    let mut dx_chunks: Vec<&mut [f32]> = dx.chunks_mut(CHUNK * image_in).collect();
    dx_chunks.resize_with(x.len().div_ceil(CHUNK * image_in), Default::default);
    let chunks = x.par_chunks(CHUNK * image_in).zip(dy.par_chunks(CHUNK * shape.output * plane_out));
    let parts: Vec<(Vec<f32>, Vec<f32>)> = dx_chunks.into_par_iter().zip(chunks).map(run).collect();
    let mut sums = (vec![0.0; weight.len()], vec![0.0; shape.output]);
    for (weight, bias) in &parts {
        sums.0.iter_mut().zip(weight).for_each(|(sum, part)| *sum += part);
        sums.1.iter_mut().zip(bias).for_each(|(sum, part)| *sum += part);
    }
    Gradients { x: (wanted == Wanted::All).then_some(dx), weight: sums.0, bias: sums.1 }
}

/// The weight's gradient for a chunk.
fn correlate(packed: &[f32], packed_dy: &[f32], shape: Shape, images: usize) -> Vec<f32> {
    let segment = shape.segment(images);
    let taps: Vec<isize> =
        shape.tap_sources().iter().map(|&(phase, shift)| (phase * segment) as isize + shift).collect();
    let mut sums = vec![0.0; shape.output * shape.input * taps.len()];
    Correlation {
        x: packed,
        origin: shape.front(),
        x_stride: shape.phases() * segment,
        channels: shape.input,
        taps: &taps,
        y: &packed_dy[shape.front()..],
        y_stride: segment,
        out_channels: shape.output,
        len: shape.places(images),
        sums: &mut sums,
    }
    .run();
    sums
}

/// Sums of each channel of `[images, channels, plane]`.
fn channel_sums(dy: &[f32], channels: usize, plane: usize) -> Vec<f32> {
    let mut sums = vec![0.0; channels];
    for (index, plane) in dy.chunks_exact(plane).enumerate() {
        sums[index % channels] += plane.iter().sum::<f32>();
    }
    sums
}

/// The transposed convolution: the gradient of the input, one phase at a time.
struct Transposed {
    shape: Shape,
    /// For each phase the shifts of its taps and their packed weights.
    phases: Vec<(Vec<isize>, Vec<f32>)>,
}

impl Transposed {
    fn new(weight: &[f32], shape: Shape) -> Self {
        let sources = shape.tap_sources();
        let phase = |phase: usize| {
            let taps: Vec<usize> = (0..shape.taps()).filter(|&tap| sources[tap].0 == phase).collect();
            let weights = pack_weights(shape.input, shape.output, &taps, |c, o, t| {
                weight[(o * shape.input + c) * shape.taps() + t]
            });
            (taps.iter().map(|&tap| -sources[tap].1).collect(), weights)
        };
        Self { shape, phases: (0..shape.phases()).map(phase).collect() }
    }

    fn run(&self, packed_dy: &[f32], scratch: &mut Vec<f32>, images: usize, dx: &mut [f32]) {
        let shape = self.shape;
        let segment = shape.segment(images);
        scratch.resize((blocks(shape.input) * BLOCK * segment).max(scratch.len()), 0.0);
        for (phase, (taps, weights)) in self.phases.iter().enumerate() {
            Product {
                x: packed_dy,
                origin: shape.front(),
                x_stride: segment,
                channels: shape.output,
                taps,
                weights,
                out: scratch,
                out_stride: segment,
                out_channels: shape.input,
                len: shape.places(images),
            }
            .run();
            shape.unpack((scratch, segment), (shape.input, images, phase), dx, |_| 0.0);
        }
    }
}
