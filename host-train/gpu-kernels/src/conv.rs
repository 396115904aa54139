//! Convolutions as matrix products on the matrix units: forward, of the input and of the weights.
//!
//! The rows of the product are pixels, its columns output channels, its depth the kernel's taps times the input channels.
//! The left operand is gathered from the picture while it is loaded (implicit im2col); the right one, the weights, is
//! packed once a call. A block of four warps computes a tile; while it multiplies one step's operands, which
//! lie in shared memory, the next step's are on their way to registers.
//!
//! The gradient of the input is the same product with the roles of the channels exchanged. The gradient of the weights
//! sums over pixels: each block sums a part of them, and a second kernel adds the parts in order.
//!
//! On a Hopper GPU, the module `hopper` computes what is of stride 1, bfloat16 and multiples of 64 channels.

use cubecl::prelude::*;
use cubecl::server::Handle;
use cubecl::{cmma, tf32};
use half::bf16;

use crate::hopper::{self, Correlate, Multiply, Sizes};
use crate::{Precision, THREADS, array, blocks, vector_size};

/// Threads of a block: four warps.
const UNITS: usize = 128;
/// Blocks of 128 rows, two a multiprocessor of a large GPU; where there are fewer, tiles of 64 rows spread better.
const MANY_BLOCKS: usize = 264;
/// Side of a product of the matrix units.
const SIDE: usize = 16;
/// Values between the rows of a warp's stage for results.
const STAGE: usize = 20;
/// Values added to a row of shared memory, against bank conflicts.
const PAD: usize = 8;
/// Most blocks when the sum over pixels is split: three a multiprocessor.
const SPLIT_BLOCKS: usize = 396;

/// Calls the kernel for the precision's types of activation and of operand.
macro_rules! multiply_in {
    ($precision:expr, $kernel:ident :: <$runtime:ident> $arguments:tt) => {
        // SAFETY: the kernels mask rows, pixels and channels beyond the shapes they are compiled for.
        unsafe {
            match $precision {
                Precision::Half => $kernel::launch_unchecked::<bf16, bf16, $runtime> $arguments,
                Precision::Mixed => $kernel::launch_unchecked::<f32, bf16, $runtime> $arguments,
                Precision::Single => $kernel::launch_unchecked::<f32, tf32, $runtime> $arguments,
            }
        }
    };
}

/// Sizes of a convolution with padding `kernel / 2`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Input channels.
    pub input: usize,
    /// Output channels.
    pub output: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// Rows and columns of the kernel.
    pub kernel: [usize; 2],
    /// Down and right.
    pub stride: [usize; 2],
    /// How the weights lie in memory.
    pub weights: Weights,
}

/// How a convolution's weights lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Weights {
    /// `[output, input, kernel[0], kernel[1]]`, a convolution's.
    OutputFirst,
    /// `[input, output]`, a linear layer's; the kernel is 1x1.
    InputFirst,
}

impl ConvShape {
    /// A linear layer: every row of the batch is a picture of one pixel.
    pub fn linear(input: usize, output: usize) -> Self {
        Self { input, output, height: 1, width: 1, kernel: [1; 2], stride: [1; 2], weights: Weights::InputFirst }
    }

    /// Weights between neighbouring input channels and between neighbouring output channels.
    fn strides(&self) -> [usize; 2] {
        match self.weights {
            Weights::OutputFirst => [self.taps(), self.input * self.taps()],
            Weights::InputFirst => [self.output, 1],
        }
    }

    /// Output rows.
    pub fn out_height(&self) -> usize {
        self.height.div_ceil(self.stride[0])
    }

    /// Output columns.
    pub fn out_width(&self) -> usize {
        self.width.div_ceil(self.stride[1])
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

/// What a product computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    /// Outputs from inputs.
    Forward,
    /// The gradient of the inputs from that of the outputs.
    Backward,
}

/// A product's sizes, all known to the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Product {
    direction: Direction,
    /// What is read: channels and plane.
    channels: usize,
    height: usize,
    width: usize,
    /// What is written: channels and plane.
    out_channels: usize,
    out_height: usize,
    out_width: usize,
    kernel: [usize; 2],
    stride: [usize; 2],
    /// Weights between the channels that are read, and between those that are written.
    weight_strides: [usize; 2],
    /// Pixels of a tile.
    rows: usize,
    /// Channels of one step.
    depth: usize,
    /// Steps a tap.
    chunks: usize,
    /// Output channels of a tile.
    columns: usize,
    /// Depth of a product of the matrix units.
    unit_depth: usize,
    residual: bool,
    bias: bool,
    /// Values of a load of what is read, of a load of packed weights, of a store.
    vectors: [usize; 3],
}

impl Product {
    fn new(
        shape: &ConvShape,
        direction: Direction,
        precision: Precision,
        batch: usize,
        bias: bool,
        residual: bool,
    ) -> Self {
        let inner = (shape.input, shape.height, shape.width);
        let outer = (shape.output, shape.out_height(), shape.out_width());
        let [input, output] = shape.strides();
        let (read, written, weight_strides) = match direction {
            Direction::Forward => (inner, outer, [input, output]),
            Direction::Backward => (outer, inner, [output, input]),
        };
        let columns = if written.0 > 32 { 64 } else { 32 };
        let pixels = batch * written.1 * written.2;
        let rows = if pixels.div_ceil(128) * written.0.div_ceil(columns) < MANY_BLOCKS { 64 } else { 128 };
        let deepest = 128 / precision.operand_size();
        let depth = [deepest, 32].into_iter().find(|&depth| read.0.is_multiple_of(depth)).unwrap_or(16);
        Self {
            direction,
            channels: read.0,
            height: read.1,
            width: read.2,
            out_channels: written.0,
            out_height: written.1,
            out_width: written.2,
            kernel: shape.kernel,
            stride: shape.stride,
            weight_strides,
            rows,
            depth,
            chunks: read.0.div_ceil(depth),
            columns,
            unit_depth: unit_depth(precision),
            residual,
            bias,
            vectors: [vector_size(read.0, precision), 16 / precision.operand_size(), vector_size(written.0, precision)],
        }
    }

    fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn tiles(&self) -> usize {
        self.out_channels.div_ceil(self.columns)
    }

    /// The sizes, if it is a convolution of stride 1 on bfloat16.
    fn sizes(&self, precision: Precision) -> Option<Sizes> {
        let Self { channels, out_channels, height, width, kernel, stride, .. } = *self;
        let sizes = Sizes { input: channels, output: out_channels, height, width, kernel };
        (precision == Precision::Half && stride == [1; 2]).then_some(sizes)
    }

    /// Rows and columns of the packed weights.
    fn packed(&self) -> [usize; 2] {
        [self.taps() * self.chunks * self.depth, self.tiles() * self.columns]
    }
}

fn unit_depth(precision: Precision) -> usize {
    match precision {
        Precision::Half | Precision::Mixed => 16,
        Precision::Single => 8,
    }
}

/// Convolution, with an addition if there is a `residual`.
///
/// # Shapes
/// - x: `[batch, height, width, input]`; residual and the result: `[batch, out_height, out_width, output]`
/// - weight: in the shape's order, f32; bias: `[output]`, f32
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: &ConvShape,
    batch: usize,
    [x, weight, bias]: [&Handle; 3],
    residual: Option<&Handle>,
) -> Handle {
    let product = Product::new(shape, Direction::Forward, precision, batch, true, residual.is_some());
    launch(client, precision, shape, &product, batch, [x, weight, bias, residual.unwrap_or(x)])
}

/// Gradient of the input, `[batch, height, width, input]`, from that of the output; plus `residual`, of the same shape.
///
/// # Shapes
/// - dy: `[batch, out_height, out_width, output]`
/// - weight: in the shape's order, f32
pub fn backward_input<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: &ConvShape,
    batch: usize,
    [dy, weight]: [&Handle; 2],
    residual: Option<&Handle>,
) -> Handle {
    let product = Product::new(shape, Direction::Backward, precision, batch, false, residual.is_some());
    launch(client, precision, shape, &product, batch, [dy, weight, weight, residual.unwrap_or(dy)])
}

fn launch<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: &ConvShape,
    product: &Product,
    batch: usize,
    [read, weight, bias, residual]: [&Handle; 4],
) -> Handle {
    if let Some(sizes) = product.sizes(precision)
        && let Some(plan) = Multiply::new(client, sizes, batch, [product.bias, product.residual])
    {
        let packed = pack_blocks(client, shape, product, weight);
        return plan.launch(client, batch, [read, &packed, bias, residual]);
    }
    let [depth, columns] = product.packed();
    let packed = client.empty(depth * columns * precision.operand_size());
    let weights = shape.output * shape.input * shape.taps();
    let count = blocks(depth * columns, THREADS);
    let dim = CubeDim::new_1d(THREADS as u32);
    let (weight, into) = (array::<R>(weight, weights), array::<R>(&packed, depth * columns));
    // SAFETY: each unit writes one value within the packed weights and reads one within the weights.
    unsafe {
        match precision {
            Precision::Half | Precision::Mixed => {
                pack_weights::launch_unchecked::<bf16, R>(client, count, dim, weight, into, *product)
            }
            Precision::Single => pack_weights::launch_unchecked::<tf32, R>(client, count, dim, weight, into, *product),
        }
    }

    let rows = batch * product.out_height * product.out_width;
    let [read_size, weight_size, write_size] = product.vectors;
    let len = rows * product.out_channels;
    let out = client.empty(len * precision.size());
    let count = CubeCount::Static(rows.div_ceil(product.rows) as u32, product.tiles() as u32, 1);
    let dim = CubeDim::new_1d(UNITS as u32);
    let read = array::<R>(read, batch * product.height * product.width * product.channels);
    let packed = array::<R>(&packed, depth * columns);
    let bias = array::<R>(bias, product.out_channels);
    let residual = array::<R>(residual, len);
    let written = array::<R>(&out, len);
    multiply_in!(
        precision,
        multiply::<R>(
            client,
            count,
            dim,
            read_size,
            weight_size,
            write_size,
            read,
            packed,
            bias,
            residual,
            written,
            rows,
            *product,
        )
    );
    out
}

/// The weights as [`Multiply::launch`] takes them.
fn pack_blocks<R: Runtime>(client: &ComputeClient<R>, shape: &ConvShape, product: &Product, weight: &Handle) -> Handle {
    let len = shape.output * shape.input * shape.taps();
    let packed = client.empty(len * size_of::<bf16>());
    let (count, dim) = (blocks(len, THREADS), CubeDim::new_1d(THREADS as u32));
    // SAFETY: each unit reads one of the weights and writes one of as many.
    unsafe {
        pack_blocks_kernel::launch_unchecked::<R>(
            client,
            count,
            dim,
            array(weight, len),
            array(&packed, len),
            *product,
        );
    }
    packed
}

#[cube(launch_unchecked)]
fn pack_blocks_kernel(weight: &Array<f32>, packed: &mut Array<bf16>, #[comptime] p: Product) {
    let side = comptime!(hopper::SIDE);
    let taps = comptime!(p.taps());
    let chunks = comptime!(p.channels / hopper::SIDE);
    if ABSOLUTE_POS < comptime!(taps * p.channels * p.out_channels) {
        let row = (ABSOLUTE_POS / side) % side;
        let place = (ABSOLUTE_POS % side) / 8;
        let block = ABSOLUTE_POS / comptime!(hopper::SIDE * hopper::SIDE);
        let tap = block % taps;
        let channel = (block / taps) % chunks * side + (place ^ (row % 8)) * 8 + ABSOLUTE_POS % 8;
        let column = block / comptime!(p.taps() * (p.channels / hopper::SIDE)) * side + row;
        // The gradient of the input sees the taps in the opposite order.
        let tap = match comptime!(p.direction) {
            Direction::Forward => tap,
            Direction::Backward => taps - 1 - tap,
        };
        let index = channel * comptime!(p.weight_strides[0]) + column * comptime!(p.weight_strides[1]) + tap;
        packed[ABSOLUTE_POS] = bf16::cast_from(weight[index]);
    }
}

/// Weights as the product's right operand: `[taps * channels, out channels]`, both padded with zeros to whole tiles.
#[cube(launch_unchecked)]
fn pack_weights<M: Float>(weight: &Array<f32>, packed: &mut Array<M>, #[comptime] p: Product) {
    let columns = comptime!(p.tiles() * p.columns);
    let depth = comptime!(p.chunks * p.depth);
    let taps = comptime!(p.taps());
    if ABSOLUTE_POS < comptime!(taps * depth * columns) {
        let column = ABSOLUTE_POS % columns;
        let row = ABSOLUTE_POS / columns;
        let channel = row % depth;
        let tap = row / depth;
        let mut value = f32::new(0.0);
        if channel < p.channels && column < p.out_channels {
            value = weight[channel * comptime!(p.weight_strides[0]) + column * comptime!(p.weight_strides[1]) + tap];
        }
        packed[ABSOLUTE_POS] = M::cast_from(value);
    }
}

/// The tiles of a product; one a block.
#[cube(launch_unchecked)]
fn multiply<E: Float, M: Float, NR: Size, NW: Size, NO: Size>(
    read: &Array<Vector<E, NR>>,
    weight: &Array<Vector<M, NW>>,
    bias: &Array<f32>,
    residual: &Array<Vector<E, NO>>,
    written: &mut Array<Vector<E, NO>>,
    rows: usize,
    #[comptime] p: Product,
) {
    let unit = UNIT_POS as usize;
    let warp = unit / 32;
    let lane = unit % 32;
    let first_row = CUBE_POS_X as usize * p.rows;
    let first_column = CUBE_POS_Y as usize * p.columns;

    let [nr, nw, no] = comptime!(p.vectors);
    let a_vectors = comptime!(p.depth / nr);
    let a_stride = comptime!((p.depth + PAD) / nr);
    let b_vectors = comptime!(p.columns / nw);
    let b_stride = comptime!((p.columns + PAD) / nw);
    let b_loads = comptime!((p.depth * b_vectors).div_ceil(UNITS));
    let mut a_tile = SharedMemory::<Vector<M, NR>>::new(comptime!(2 * p.rows * a_stride));
    let mut b_tile = SharedMemory::<Vector<M, NW>>::new(comptime!(2 * p.depth * b_stride));

    // Where this thread's rows are in the plane that is read.
    let a_vector = unit % a_vectors;
    let a_loads = comptime!(p.rows * a_vectors / UNITS);
    let mut bases = Array::<usize>::new(a_loads);
    let mut tops = Array::<i32>::new(a_loads);
    let mut lefts = Array::<i32>::new(a_loads);
    #[unroll]
    for i in 0..a_loads {
        let row = first_row + unit / a_vectors + comptime!(i * (UNITS / a_vectors));
        let x = row % p.out_width;
        let y = (row / p.out_width) % p.out_height;
        let n = row / comptime!(p.out_width * p.out_height);
        bases[i] = n * comptime!(p.height * p.width * p.channels / nr) + a_vector;
        let (top, left) = match comptime!(p.direction) {
            Direction::Forward => (
                (y * p.stride[0]) as i32 - comptime!((p.kernel[0] / 2) as i32),
                (x * p.stride[1]) as i32 - comptime!((p.kernel[1] / 2) as i32),
            ),
            Direction::Backward => {
                (y as i32 + comptime!((p.kernel[0] / 2) as i32), x as i32 + comptime!((p.kernel[1] / 2) as i32))
            }
        };
        tops[i] = select(row < rows, top, i32::new(-1_000_000));
        lefts[i] = left;
    }
    let mut a_next = Array::<Vector<M, NR>>::new(a_loads);
    let mut b_next = Array::<Vector<M, NW>>::new(b_loads);

    let row_tiles = comptime!(p.rows / 2 / SIDE);
    let column_tiles = comptime!(p.columns / 2 / SIDE);
    let warp_row = (warp % 2) * comptime!(p.rows / 2);
    let warp_column = (warp / 2) * comptime!(p.columns / 2);
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(row_tiles * column_tiles) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            p.unit_depth,
            cmma::MatrixLayout::Undefined,
            0.0,
        ));
    }

    let steps = comptime!(p.taps() * p.chunks);
    for step in 0..comptime!(steps + 1) {
        // What the last turn fetched goes to shared memory, what the next one needs is fetched, then this turn's product.
        let buffer = step % 2;
        if step < steps {
            let tap = step / p.chunks;
            let chunk = step % p.chunks;
            let channel = chunk * p.depth + a_vector * nr;
            let tap_y = (tap / p.kernel[1]) as i32;
            let tap_x = (tap % p.kernel[1]) as i32;
            #[unroll]
            for i in 0..a_loads {
                let mut value = Vector::<M, NR>::new(M::from_int(0));
                let (y, x, hit) = match comptime!(p.direction) {
                    Direction::Forward => {
                        let y = tops[i] + tap_y;
                        let x = lefts[i] + tap_x;
                        (y, x, y >= 0 && x >= 0)
                    }
                    Direction::Backward => {
                        let y = tops[i] - tap_y;
                        let x = lefts[i] - tap_x;
                        let down = comptime!(p.stride[0] as i32);
                        let right = comptime!(p.stride[1] as i32);
                        (y / down, x / right, y >= 0 && x >= 0 && y % down == 0 && x % right == 0)
                    }
                };
                if hit && y < comptime!(p.height as i32) && x < comptime!(p.width as i32) && channel < p.channels {
                    let pixel = y as usize * p.width + x as usize;
                    let index = bases[i] + pixel * comptime!(p.channels / nr) + chunk * comptime!(p.depth / nr);
                    value = Vector::cast_from(read[index]);
                }
                a_next[i] = value;
            }
            #[unroll]
            for i in 0..b_loads {
                let index = unit + comptime!(i * UNITS);
                if index < comptime!(p.depth * b_vectors) {
                    let row = step * p.depth + index / b_vectors;
                    let column = first_column / nw + index % b_vectors;
                    b_next[i] = weight[row * comptime!(p.tiles() * b_vectors) + column];
                }
            }
        }
        if step > 0 {
            let a_first = (1 - buffer) * comptime!(p.rows * a_stride);
            let b_first = (1 - buffer) * comptime!(p.depth * b_stride);
            #[unroll]
            for k in 0..comptime!(p.depth / p.unit_depth) {
                let mut columns = Sequence::<cmma::Matrix<M>>::new();
                #[unroll]
                for j in 0..column_tiles {
                    // SAFETY: loaded in the next line.
                    let b = unsafe {
                        cmma::Matrix::<M>::uninitialized(
                            cmma::MatrixIdent::B,
                            SIDE,
                            SIDE,
                            p.unit_depth,
                            cmma::MatrixLayout::RowMajor,
                        )
                    };
                    let start = b_first + comptime!(k * p.unit_depth * b_stride + j * SIDE / nw) + warp_column / nw;
                    cmma::load(&b, &b_tile.slice(start, start + b_stride), comptime!((p.columns + PAD) as u32));
                    columns.push(b);
                }
                #[unroll]
                for i in 0..row_tiles {
                    // SAFETY: loaded in the next line.
                    let a = unsafe {
                        cmma::Matrix::<M>::uninitialized(
                            cmma::MatrixIdent::A,
                            SIDE,
                            SIDE,
                            p.unit_depth,
                            cmma::MatrixLayout::RowMajor,
                        )
                    };
                    let start =
                        a_first + (warp_row + comptime!(i * SIDE)) * a_stride + comptime!(k * p.unit_depth / nr);
                    cmma::load(&a, &a_tile.slice(start, start + a_stride), comptime!((p.depth + PAD) as u32));
                    #[unroll]
                    for j in 0..column_tiles {
                        let sum = sums.index(comptime!(i * column_tiles + j));
                        cmma::execute::<M, M, f32, f32>(&a, columns.index(j), sum, sum);
                    }
                }
            }
        }
        if step < steps {
            let a_first = buffer * comptime!(p.rows * a_stride);
            let b_first = buffer * comptime!(p.depth * b_stride);
            #[unroll]
            for i in 0..a_loads {
                let row = unit / a_vectors + comptime!(i * (UNITS / a_vectors));
                a_tile[a_first + row * a_stride + a_vector] = a_next[i];
            }
            #[unroll]
            for i in 0..b_loads {
                let index = unit + comptime!(i * UNITS);
                if index < comptime!(p.depth * b_vectors) {
                    b_tile[b_first + (index / b_vectors) * b_stride + index % b_vectors] = b_next[i];
                }
            }
        }
        sync_cube();
    }

    let mut stage = SharedMemory::<f32>::new(comptime!(4 * SIDE * STAGE));
    let stage_first = warp * comptime!(SIDE * STAGE);
    #[unroll]
    for i in 0..row_tiles {
        #[unroll]
        for j in 0..column_tiles {
            sync_plane();
            cmma::store(
                &mut stage.slice_mut(stage_first, stage_first + comptime!(SIDE * STAGE)),
                sums.index(comptime!(i * column_tiles + j)),
                comptime!(STAGE as u32),
                cmma::MatrixLayout::RowMajor,
            );
            sync_plane();
            #[unroll]
            for turn in 0..comptime!(SIDE * SIDE / 32 / no) {
                let index = lane + comptime!(turn * 32);
                let tile_row = index / comptime!(SIDE / no);
                let tile_column = (index % comptime!(SIDE / no)) * no;
                let row = first_row + warp_row + comptime!(i * SIDE) + tile_row;
                let column = first_column + warp_column + comptime!(j * SIDE) + tile_column;
                if row < rows && column < p.out_channels {
                    let mut value = Vector::<f32, NO>::empty();
                    #[unroll]
                    for e in 0..no {
                        let sum = stage[stage_first + tile_row * STAGE + tile_column + e];
                        if comptime!(p.bias) {
                            value[e] = sum + bias[column + e];
                        } else {
                            value[e] = sum;
                        }
                    }
                    let index = (row * p.out_channels + column) / no;
                    if comptime!(p.residual) {
                        value += Vector::cast_from(residual[index]);
                    }
                    written[index] = Vector::cast_from(value);
                }
            }
        }
    }
}

/// Sizes of the gradient of the weights, all known to the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Correlation {
    shape: ConvShape,
    /// Input and output channels of a tile.
    tile: [usize; 2],
    unit_depth: usize,
    /// Values of a load of x and of dy.
    vectors: [usize; 2],
    /// Taps of a block: a row of the kernel.
    across: usize,
}

/// Pixels of a step of the gradient of the weights.
const PIXELS: usize = 32;

impl Correlation {
    fn tiles(&self) -> [usize; 2] {
        [self.shape.input.div_ceil(self.tile[0]), self.shape.output.div_ceil(self.tile[1])]
    }

    /// Rows of a part: one a weight of an output channel, and the bias.
    fn part_rows(&self) -> usize {
        self.shape.taps() * self.shape.input + 1
    }
}

/// Gradients of weight, in the shape's order, and bias, `[output]`, in f32.
///
/// # Shapes
/// - x: `[batch, height, width, input]`; dy: `[batch, out_height, out_width, output]`
pub fn backward_weights<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: &ConvShape,
    batch: usize,
    [x, dy]: [&Handle; 2],
) -> [Handle; 2] {
    let tile = [shape.input, shape.output].map(|channels| if channels > 32 { 64 } else { 32 });
    let vectors = [shape.input, shape.output].map(|channels| vector_size(channels, precision));
    let plan = Correlation { shape: *shape, tile, unit_depth: unit_depth(precision), vectors, across: shape.kernel[1] };
    let part = plan.part_rows() * shape.output;
    let forward = Product::new(shape, Direction::Forward, precision, batch, true, false);
    let (parts, splits) = match forward.sizes(precision).and_then(|sizes| Correlate::new(client, sizes)) {
        Some(correlate) => correlate.launch(client, batch, [x, dy]),
        None => correlate_parts(client, precision, &plan, batch, [x, dy]),
    };

    let weight = client.empty((part - shape.output) * size_of::<f32>());
    let bias = client.empty(shape.output * size_of::<f32>());
    // SAFETY: each unit adds one value of each part and writes one gradient.
    unsafe {
        add_parts::launch_unchecked::<R>(
            client,
            blocks(part, THREADS),
            CubeDim::new_1d(THREADS as u32),
            array::<R>(&parts, splits * part),
            array::<R>(&weight, part - shape.output),
            array::<R>(&bias, shape.output),
            splits,
            plan,
        );
    }
    [weight, bias]
}

/// Parts whose sum is the gradients, and how many.
fn correlate_parts<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    plan: &Correlation,
    batch: usize,
    [x, dy]: [&Handle; 2],
) -> (Handle, usize) {
    let shape = &plan.shape;
    let [inputs, outputs] = plan.tiles();
    let rows = batch * shape.out_height() * shape.out_width();
    let steps = rows.div_ceil(PIXELS);
    let wanted = (SPLIT_BLOCKS / (shape.kernel[0] * inputs * outputs)).clamp(1, steps);
    let steps_each = steps.div_ceil(wanted);
    let splits = steps.div_ceil(steps_each);
    let part = plan.part_rows() * shape.output;
    let parts = client.empty(splits * part * size_of::<f32>());

    let [read_size, grad_size] = plan.vectors;
    let count = CubeCount::Static((shape.kernel[0] * inputs) as u32, outputs as u32, splits as u32);
    let dim = CubeDim::new_1d(UNITS as u32);
    let x = array::<R>(x, batch * shape.height * shape.width * shape.input);
    let dy = array::<R>(dy, rows * shape.output);
    let sums = array::<R>(&parts, splits * part);
    multiply_in!(
        precision,
        correlate::<R>(client, count, dim, read_size, grad_size, x, dy, sums, rows, steps_each, *plan)
    );
    (parts, splits)
}

/// Tiles of input times output channels, one a tap of a row of the kernel, summed over a part of the pixels.
#[cube(launch_unchecked)]
fn correlate<E: Float, M: Float, NX: Size, NG: Size>(
    x: &Array<Vector<E, NX>>,
    dy: &Array<Vector<E, NG>>,
    parts: &mut Array<f32>,
    rows: usize,
    steps: usize,
    #[comptime] p: Correlation,
) {
    let s = comptime!(p.shape);
    let unit = UNIT_POS as usize;
    let warp = unit / 32;
    let lane = unit % 32;
    let tap_row = CUBE_POS_X as usize / comptime!(p.tiles()[0]);
    let first_input = (CUBE_POS_X as usize % comptime!(p.tiles()[0])) * p.tile[0];
    let first_output = CUBE_POS_Y as usize * p.tile[1];
    let tap_y = tap_row as i32 - comptime!((s.kernel[0] / 2) as i32);
    let first_pixel = CUBE_POS_Z as usize * steps * PIXELS;

    let [nx, ng] = comptime!(p.vectors);
    let a_vectors = comptime!(p.tile[0] / nx);
    let a_stride = comptime!((p.tile[0] + PAD) / nx);
    let a_loads = comptime!(PIXELS * a_vectors / UNITS);
    let b_vectors = comptime!(p.tile[1] / ng);
    let b_stride = comptime!((p.tile[1] + PAD) / ng);
    let b_loads = comptime!(PIXELS * b_vectors / UNITS);
    let mut a_tile = SharedMemory::<Vector<M, NX>>::new(comptime!(2 * p.across * PIXELS * a_stride));
    let mut b_tile = SharedMemory::<Vector<M, NG>>::new(comptime!(2 * PIXELS * b_stride));
    let mut a_next = Array::<Vector<M, NX>>::new(comptime!(p.across * a_loads));
    let mut b_next = Array::<Vector<M, NG>>::new(b_loads);
    let a_vector = unit % a_vectors;
    let b_vector = unit % b_vectors;
    let a_inside = first_input + a_vector * nx < s.input;
    let b_inside = first_output + b_vector * ng < s.output;
    let mut bias = Vector::<f32, NG>::new(0.0);

    let row_tiles = comptime!(p.tile[0] / 2 / SIDE);
    let column_tiles = comptime!(p.tile[1] / 2 / SIDE);
    let warp_row = (warp % 2) * comptime!(p.tile[0] / 2);
    let warp_column = (warp / 2) * comptime!(p.tile[1] / 2);
    let mut sums = Sequence::<cmma::Matrix<f32>>::new();
    #[unroll]
    for _ in 0..comptime!(p.across * row_tiles * column_tiles) {
        sums.push(cmma::Matrix::<f32>::from_value(
            cmma::MatrixIdent::Accumulator,
            SIDE,
            SIDE,
            p.unit_depth,
            cmma::MatrixLayout::Undefined,
            0.0,
        ));
    }

    for step in 0..steps + 1 {
        let buffer = step % 2;
        if step < steps {
            #[unroll]
            for i in 0..a_loads {
                let row = first_pixel + step * PIXELS + unit / a_vectors + comptime!(i * (UNITS / a_vectors));
                let out_x = row % comptime!(s.out_width());
                let out_y = (row / comptime!(s.out_width())) % comptime!(s.out_height());
                let n = row / comptime!(s.out_width() * s.out_height());
                let at_y = (out_y * s.stride[0]) as i32 + tap_y;
                let inside = a_inside && row < rows && at_y >= 0 && at_y < comptime!(s.height as i32);
                let line = (n * s.height + at_y as usize) * s.width;
                #[unroll]
                for tap in 0..p.across {
                    let at_x = (out_x * s.stride[1]) as i32 + comptime!(tap as i32 - (s.kernel[1] / 2) as i32);
                    let mut value = Vector::<M, NX>::new(M::from_int(0));
                    if inside && at_x >= 0 && at_x < comptime!(s.width as i32) {
                        let pixel = line + at_x as usize;
                        value = Vector::cast_from(x[(pixel * s.input + first_input) / nx + a_vector]);
                    }
                    a_next[comptime!(tap * a_loads + i)] = value;
                }
            }
            #[unroll]
            for i in 0..b_loads {
                let row = first_pixel + step * PIXELS + unit / b_vectors + comptime!(i * (UNITS / b_vectors));
                let mut value = Vector::<M, NG>::new(M::from_int(0));
                if b_inside && row < rows {
                    let read = dy[(row * s.output + first_output) / ng + b_vector];
                    value = Vector::cast_from(read);
                    bias += Vector::cast_from(read);
                }
                b_next[i] = value;
            }
        }
        if step > 0 {
            let a_first = (1 - buffer) * comptime!(p.across * PIXELS * a_stride);
            let b_first = (1 - buffer) * comptime!(PIXELS * b_stride);
            #[unroll]
            for k in 0..comptime!(PIXELS / p.unit_depth) {
                let mut columns = Sequence::<cmma::Matrix<M>>::new();
                #[unroll]
                for j in 0..column_tiles {
                    // SAFETY: loaded in the next line.
                    let b = unsafe {
                        cmma::Matrix::<M>::uninitialized(
                            cmma::MatrixIdent::B,
                            SIDE,
                            SIDE,
                            p.unit_depth,
                            cmma::MatrixLayout::RowMajor,
                        )
                    };
                    let start = b_first + comptime!(k * p.unit_depth * b_stride + j * SIDE / ng) + warp_column / ng;
                    cmma::load(&b, &b_tile.slice(start, start + b_stride), comptime!((p.tile[1] + PAD) as u32));
                    columns.push(b);
                }
                #[unroll]
                for tap in 0..p.across {
                    #[unroll]
                    for i in 0..row_tiles {
                        // SAFETY: loaded in the next line.
                        let a = unsafe {
                            cmma::Matrix::<M>::uninitialized(
                                cmma::MatrixIdent::A,
                                SIDE,
                                SIDE,
                                p.unit_depth,
                                cmma::MatrixLayout::ColMajor,
                            )
                        };
                        let within = comptime!((tap * PIXELS + k * p.unit_depth) * a_stride + i * SIDE / nx);
                        let start = a_first + within + warp_row / nx;
                        cmma::load(&a, &a_tile.slice(start, start + a_stride), comptime!((p.tile[0] + PAD) as u32));
                        #[unroll]
                        for j in 0..column_tiles {
                            let sum = sums.index(comptime!((tap * row_tiles + i) * column_tiles + j));
                            cmma::execute::<M, M, f32, f32>(&a, columns.index(j), sum, sum);
                        }
                    }
                }
            }
        }
        if step < steps {
            let a_first = buffer * comptime!(p.across * PIXELS * a_stride);
            let b_first = buffer * comptime!(PIXELS * b_stride);
            #[unroll]
            for tap in 0..p.across {
                #[unroll]
                for i in 0..a_loads {
                    let row = unit / a_vectors + comptime!(tap * PIXELS + i * (UNITS / a_vectors));
                    a_tile[a_first + row * a_stride + a_vector] = a_next[comptime!(tap * a_loads + i)];
                }
            }
            #[unroll]
            for i in 0..b_loads {
                let row = unit / b_vectors + comptime!(i * (UNITS / b_vectors));
                b_tile[b_first + row * b_stride + b_vector] = b_next[i];
            }
        }
        sync_cube();
    }

    let part = CUBE_POS_Z as usize * comptime!(p.part_rows() * s.output);
    let mut stage = SharedMemory::<f32>::new(comptime!(4 * SIDE * STAGE));
    let stage_first = warp * comptime!(SIDE * STAGE);
    #[unroll]
    for tap in 0..p.across {
        #[unroll]
        for i in 0..row_tiles {
            #[unroll]
            for j in 0..column_tiles {
                sync_plane();
                cmma::store(
                    &mut stage.slice_mut(stage_first, stage_first + comptime!(SIDE * STAGE)),
                    sums.index(comptime!((tap * row_tiles + i) * column_tiles + j)),
                    comptime!(STAGE as u32),
                    cmma::MatrixLayout::RowMajor,
                );
                sync_plane();
                #[unroll]
                for turn in 0..comptime!(SIDE * SIDE / 32) {
                    let index = lane + comptime!(turn * 32);
                    let tile_row = index / SIDE;
                    let tile_column = index % SIDE;
                    let input = first_input + warp_row + comptime!(i * SIDE) + tile_row;
                    let output = first_output + warp_column + comptime!(j * SIDE) + tile_column;
                    if input < s.input && output < s.output {
                        let sum = stage[stage_first + tile_row * STAGE + tile_column];
                        let row = (tap_row * p.across + tap) * s.input + input;
                        parts[part + row * s.output + output] = sum;
                    }
                }
            }
        }
    }

    // The bias: the columns of dy, which every block has read; the first one of each sums them.
    if CUBE_POS_X == 0 {
        let lines = comptime!(UNITS / b_vectors);
        let mut columns = SharedMemory::<f32>::new(comptime!(lines * p.tile[1]));
        #[unroll]
        for e in 0..ng {
            columns[(unit / b_vectors) * comptime!(p.tile[1]) + b_vector * ng + e] = bias[e];
        }
        sync_cube();
        if unit < p.tile[1] && first_output + unit < s.output {
            let mut sum = f32::new(0.0);
            #[unroll]
            for line in 0..lines {
                sum += columns[comptime!(line * p.tile[1]) + unit];
            }
            parts[part + comptime!((p.part_rows() - 1) * s.output) + first_output + unit] = sum;
        }
    }
}

/// Sums the parts, and puts the weights in their order.
#[cube(launch_unchecked)]
fn add_parts(
    parts: &Array<f32>,
    weight: &mut Array<f32>,
    bias: &mut Array<f32>,
    splits: usize,
    #[comptime] p: Correlation,
) {
    let s = comptime!(p.shape);
    let part = comptime!(p.part_rows() * s.output);
    if ABSOLUTE_POS < part {
        let mut sum = f32::new(0.0);
        for split in 0..splits {
            sum += parts[split * part + ABSOLUTE_POS];
        }
        let output = ABSOLUTE_POS % s.output;
        let row = ABSOLUTE_POS / s.output;
        if row == comptime!(p.part_rows() - 1) {
            bias[output] = sum;
        } else {
            let tap = row / s.input;
            let input = row % s.input;
            weight[input * comptime!(s.strides()[0]) + output * comptime!(s.strides()[1]) + tap] = sum;
        }
    }
}
