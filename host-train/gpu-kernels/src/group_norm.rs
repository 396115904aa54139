//! Group normalization, scale and shift, and SiLU, forward and backward, each in one pass over memory.
//!
//! A block works on the whole plane of some channels of one sample: the plane is read from memory once and, for the
//! passes after, from the cache.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{Precision, THREADS, array, dispatch, vector_size};

/// Most pixels that a thread keeps in registers.
const KEPT: usize = 8;

/// Added to the variance.
pub const EPSILON: f32 = 1e-5;

/// Sizes of a normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NormShape {
    /// Channels of the input.
    pub channels: usize,
    /// Pixels.
    pub plane: usize,
    /// Groups of the input's channels.
    pub groups: usize,
    /// Channels of the output, of gain and of offset: more than the input's where the output is a concatenation.
    pub out_channels: usize,
    /// The first of them that is of this input.
    pub first: usize,
    /// Whether scale and shift, `[batch, 2 * out_channels]`, apply: `gain (1 + scale)` and `offset (1 + scale) + shift`.
    pub scaled: bool,
    /// Whether SiLU follows.
    pub silu: bool,
}

/// What a block does, all known to the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Plan {
    shape: NormShape,
    /// Channels of a load.
    vector: usize,
    /// Channels of a block: whole groups.
    slab: usize,
    /// Pixels of a thread.
    each: usize,
    /// Whether something is added to the gradient of x.
    residual: bool,
}

impl Plan {
    fn new(shape: NormShape, precision: Precision, residual: bool) -> Self {
        let group = shape.channels / shape.groups;
        let vector = [group, shape.first, shape.out_channels]
            .into_iter()
            .map(|channels| vector_size(channels, precision))
            .min()
            .unwrap_or(1);
        // At least 32 bytes of a pixel, a sector of the memory's, and two loads a thread.
        let sector = 32 / precision.size();
        let enough = |channels: usize| channels >= sector && shape.plane * channels / vector >= 2 * THREADS;
        let slabs = (1..=shape.groups).filter(|count| shape.groups.is_multiple_of(*count)).map(|count| count * group);
        let slabs: Vec<_> = slabs.filter(|&channels| channels == group || channels / vector <= THREADS).collect();
        let slab = slabs.iter().copied().find(|&channels| enough(channels)).unwrap_or(slabs[slabs.len() - 1]);
        assert!(slab / vector <= THREADS, "groups of {group} channels: {} at most", THREADS * vector);
        let each = shape.plane.div_ceil(THREADS * vector / slab);
        Self { shape, vector, slab, each, residual }
    }

    fn group(&self) -> usize {
        self.shape.channels / self.shape.groups
    }

    /// Loads of a block's pixel.
    fn columns(&self) -> usize {
        self.slab / self.vector
    }

    /// Whether a thread keeps its pixels in registers between the passes.
    fn is_kept(&self) -> bool {
        self.each <= KEPT
    }

    /// Pixels that a block reads at once.
    fn lines(&self) -> usize {
        THREADS / self.columns()
    }
}

/// Normalizes into `out`, `[batch, plane, out_channels]`, at the shape's channels; gives mean and inverse deviation,
/// `[batch, groups, 2]` in f32, for [`backward`].
///
/// # Shapes
/// - x: `[batch, plane, channels]`; gain, offset: `[out_channels]`, f32
/// - affine: `[batch, 2 * out_channels]`, f32, where the shape is scaled; else anything
pub fn forward<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: NormShape,
    batch: usize,
    [x, gain, offset, affine]: [&Handle; 4],
    out: &Handle,
) -> Handle {
    let plan = Plan::new(shape, precision, false);
    let moments = client.empty(batch * shape.groups * 2 * size_of::<f32>());
    let affine_len = if shape.scaled { batch * 2 * shape.out_channels } else { plan.vector };
    let count = CubeCount::Static((shape.channels / plan.slab) as u32, batch as u32, 1);
    let v = plan.vector;
    dispatch!(
        precision,
        normalize::<R>(
            client,
            count,
            CubeDim::new_1d(THREADS as u32),
            v,
            array(x, batch * shape.plane * shape.channels),
            array(gain, shape.out_channels),
            array(offset, shape.out_channels),
            array(affine, affine_len),
            array(out, batch * shape.plane * shape.out_channels),
            array(&moments, batch * shape.groups * 2),
            plan,
        )
    );
    moments
}

/// Gradients of x, `[batch, plane, channels]`, and, at the shape's channels, of gain and offset of each sample, with scale
/// and shift folded in, into `dgain` and `doffset`, `[batch, out_channels]` in f32.
///
/// # Shapes
/// As [`forward`]'s; `dy` is `[batch, plane, out_channels]`; `residual`, `[batch, plane, channels]`, is added to x's.
pub fn backward<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: NormShape,
    batch: usize,
    [x, gain, offset, affine, moments, dy]: [&Handle; 6],
    [dgain, doffset]: [&Handle; 2],
    residual: Option<&Handle>,
) -> Handle {
    let plan = Plan::new(shape, precision, residual.is_some());
    let len = batch * shape.plane * shape.channels;
    let dx = client.empty(len * precision.size());
    let affine_len = if shape.scaled { batch * 2 * shape.out_channels } else { plan.vector };
    let count = CubeCount::Static((shape.channels / plan.slab) as u32, batch as u32, 1);
    let v = plan.vector;
    dispatch!(
        precision,
        normalize_backward::<R>(
            client,
            count,
            CubeDim::new_1d(THREADS as u32),
            v,
            array(x, len),
            array(gain, shape.out_channels),
            array(offset, shape.out_channels),
            array(affine, affine_len),
            array(moments, batch * shape.groups * 2),
            array(dy, batch * shape.plane * shape.out_channels),
            array(residual.unwrap_or(x), len),
            array(&dx, len),
            array(dgain, batch * shape.out_channels),
            array(doffset, batch * shape.out_channels),
            plan,
        )
    );
    dx
}

/// Gradients of gain and offset, `[channels]`, and of scale and shift, `[batch, 2 * channels]`, all f32.
///
/// # Shapes
/// - dgain, doffset: `[batch, channels]`, [`backward`]'s
/// - gain, offset: `[channels]`; affine: `[batch, 2 * channels]` where `scaled`, else anything
pub fn backward_affine<R: Runtime>(
    client: &ComputeClient<R>,
    batch: usize,
    channels: usize,
    scaled: bool,
    [dgain, doffset, gain, offset, affine]: [&Handle; 5],
) -> [Handle; 3] {
    let sums = [(); 2].map(|()| client.empty(channels * size_of::<f32>()));
    let affine_len = if scaled { batch * 2 * channels } else { 1 };
    let daffine = client.empty(affine_len * size_of::<f32>());
    // SAFETY: channels beyond the shape are masked in the kernel.
    unsafe {
        unfold::launch_unchecked::<R>(
            client,
            CubeCount::Static(channels.div_ceil(LINE) as u32, 1, 1),
            CubeDim::new_1d(THREADS as u32),
            array(dgain, batch * channels),
            array(doffset, batch * channels),
            array(gain, channels),
            array(offset, channels),
            array(affine, affine_len),
            array(&sums[0], channels),
            array(&sums[1], channels),
            array(&daffine, affine_len),
            batch,
            channels,
            scaled,
        );
    }
    let [gain, offset] = sums;
    [gain, offset, daffine]
}

/// Channels of a block of [`unfold`].
const LINE: usize = 8;

/// Adds the lines of `shared`, `[lines, columns]`, into its first line, in a fixed order.
#[cube]
fn add_lines<N: Size>(
    shared: &mut SharedMemory<Vector<f32, N>>,
    line: usize,
    column: usize,
    #[comptime] lines: usize,
    #[comptime] columns: usize,
) {
    let mut left = lines.runtime();
    sync_cube();
    while left > 1 {
        let half = left.div_ceil(2);
        if line < left - half {
            let other = shared[(line + half) * columns + column];
            shared[line * columns + column] += other;
        }
        sync_cube();
        left = half;
    }
}

/// The sum over the group of `column` of the first line of `shared`.
#[cube]
fn add_group<N: Size>(
    shared: &SharedMemory<Vector<f32, N>>,
    column: usize,
    #[comptime] group: usize,
    #[comptime] vector: usize,
) -> f32 {
    let loads = comptime!(group / vector);
    let first = (column / loads) * loads;
    let mut sum = f32::new(0.0);
    #[unroll]
    for i in 0..loads {
        let value = shared[first + i];
        #[unroll]
        for e in 0..vector {
            sum += value[e];
        }
    }
    sum
}

/// Gain and offset of a block's column, scale and shift folded in.
#[cube]
fn folded<N: Size>(
    gain: &Array<Vector<f32, N>>,
    offset: &Array<Vector<f32, N>>,
    affine: &Array<Vector<f32, N>>,
    batch: usize,
    column: usize,
    #[comptime] p: Plan,
) -> (Vector<f32, N>, Vector<f32, N>) {
    let columns = comptime!(p.shape.out_channels / p.vector);
    let mut scaled_gain = gain[column];
    let mut scaled_offset = offset[column];
    if comptime!(p.shape.scaled) {
        let scale = affine[batch * 2 * columns + column] + Vector::new(1.0);
        let shift = affine[(batch * 2 + 1) * columns + column];
        scaled_gain *= scale;
        scaled_offset = scaled_offset * scale + shift;
    }
    (scaled_gain, scaled_offset)
}

// cubecl has no `is_multiple_of`.
#[allow(clippy::manual_is_multiple_of)]
#[cube(launch_unchecked)]
fn normalize<E: Float, N: Size>(
    x: &Array<Vector<E, N>>,
    gain: &Array<Vector<f32, N>>,
    offset: &Array<Vector<f32, N>>,
    affine: &Array<Vector<f32, N>>,
    out: &mut Array<Vector<E, N>>,
    moments: &mut Array<f32>,
    #[comptime] p: Plan,
) {
    let unit = UNIT_POS as usize;
    let batch = CUBE_POS_Y as usize;
    let columns = comptime!(p.columns());
    let lines = comptime!(p.lines());
    let in_columns = comptime!(p.shape.channels / p.vector);
    let out_columns = comptime!(p.shape.out_channels / p.vector);
    let line = unit / columns;
    let column = unit % columns;
    let in_column = CUBE_POS_X as usize * columns + column;
    let out_column = in_column + comptime!(p.shape.first / p.vector);
    let in_first = batch * comptime!(p.shape.plane * in_columns) + in_column;
    let out_first = batch * comptime!(p.shape.plane * out_columns) + out_column;
    let inverse = comptime!(1.0 / (p.shape.plane * p.group()) as f32);
    let mut shared = SharedMemory::<Vector<f32, N>>::new(comptime!(lines * columns));

    // A thread's pixels lie `lines` apart. They are read once if they fit into registers.
    let keep = comptime!(p.is_kept());
    let mut kept = Array::<Vector<E, N>>::new(comptime!(if keep { p.each } else { 1 }));
    let mut sum = Vector::<f32, N>::new(0.0);
    if line < lines {
        #[unroll(keep)]
        for i in 0..p.each {
            let pixel = line + i * lines;
            if pixel < p.shape.plane {
                let value = x[in_first + pixel * in_columns];
                if comptime!(keep) {
                    kept[i] = value;
                }
                sum += Vector::cast_from(value);
            }
        }
        shared[unit] = sum;
    }
    add_lines(&mut shared, line, column, lines, columns);
    let mean = add_group(&shared, column, p.group(), p.vector) * inverse;
    sync_cube();

    let mut squares = Vector::<f32, N>::new(0.0);
    if line < lines {
        #[unroll(keep)]
        for i in 0..p.each {
            let pixel = line + i * lines;
            if pixel < p.shape.plane {
                let value = if comptime!(keep) { kept[i] } else { x[in_first + pixel * in_columns] };
                let centered = Vector::<f32, N>::cast_from(value) - Vector::new(mean);
                squares += centered * centered;
            }
        }
        shared[unit] = squares;
    }
    add_lines(&mut shared, line, column, lines, columns);
    let variance = add_group(&shared, column, p.group(), p.vector) * inverse;
    let deviation = 1.0 / f32::sqrt(variance + EPSILON);

    let loads = comptime!(p.group() / p.vector);
    if line == 0 && column % loads == 0 {
        let group = batch * p.shape.groups + in_column / loads;
        moments[2 * group] = mean;
        moments[2 * group + 1] = deviation;
    }
    if line < lines {
        let (gain, offset) = folded(gain, offset, affine, batch, out_column, p);
        let gain = gain * Vector::new(deviation);
        let offset = offset - gain * Vector::new(mean);
        #[unroll(keep)]
        for i in 0..p.each {
            let pixel = line + i * lines;
            if pixel < p.shape.plane {
                let value = if comptime!(keep) { kept[i] } else { x[in_first + pixel * in_columns] };
                let mut value = Vector::<f32, N>::cast_from(value) * gain + offset;
                if comptime!(p.shape.silu) {
                    value = value / (Vector::new(1.0) + Vector::exp(Vector::new(0.0) - value));
                }
                out[out_first + pixel * out_columns] = Vector::cast_from(value);
            }
        }
    }
}

#[cube(launch_unchecked)]
fn normalize_backward<E: Float, N: Size>(
    x: &Array<Vector<E, N>>,
    gain: &Array<Vector<f32, N>>,
    offset: &Array<Vector<f32, N>>,
    affine: &Array<Vector<f32, N>>,
    moments: &Array<f32>,
    dy: &Array<Vector<E, N>>,
    residual: &Array<Vector<E, N>>,
    dx: &mut Array<Vector<E, N>>,
    dgain: &mut Array<Vector<f32, N>>,
    doffset: &mut Array<Vector<f32, N>>,
    #[comptime] p: Plan,
) {
    let unit = UNIT_POS as usize;
    let batch = CUBE_POS_Y as usize;
    let columns = comptime!(p.columns());
    let lines = comptime!(p.lines());
    let in_columns = comptime!(p.shape.channels / p.vector);
    let out_columns = comptime!(p.shape.out_channels / p.vector);
    let line = unit / columns;
    let column = unit % columns;
    let in_column = CUBE_POS_X as usize * columns + column;
    let out_column = in_column + comptime!(p.shape.first / p.vector);
    let in_first = batch * comptime!(p.shape.plane * in_columns) + in_column;
    let out_first = batch * comptime!(p.shape.plane * out_columns) + out_column;
    let loads = comptime!(p.group() / p.vector);
    let group = batch * p.shape.groups + in_column / loads;
    let mean = Vector::<f32, N>::new(moments[2 * group]);
    let deviation = Vector::<f32, N>::new(moments[2 * group + 1]);
    let (gain, offset) = folded(gain, offset, affine, batch, out_column, p);
    let mut shared = SharedMemory::<Vector<f32, N>>::new(comptime!(lines * columns));

    // Sums of the gradient and of its product with the normal value, by channel.
    let mut plain = Vector::<f32, N>::new(0.0);
    let mut product = Vector::<f32, N>::new(0.0);
    if line < lines {
        for pixel in range_stepped(line, p.shape.plane, lines) {
            let x = x[in_first + pixel * in_columns];
            let dy = dy[out_first + pixel * out_columns];
            let normal = (Vector::<f32, N>::cast_from(x) - mean) * deviation;
            let grad = before_silu(Vector::cast_from(dy), normal * gain + offset, p.shape.silu);
            plain += grad;
            product += grad * normal;
        }
        shared[unit] = plain;
    }
    add_lines(&mut shared, line, column, lines, columns);
    let plain = shared[column];
    sync_cube();
    if line == 0 {
        doffset[batch * out_columns + out_column] = plain;
        shared[column] = plain * gain;
    }
    sync_cube();
    let plain = add_group(&shared, column, p.group(), p.vector);
    sync_cube();
    if line < lines {
        shared[unit] = product;
    }
    add_lines(&mut shared, line, column, lines, columns);
    let product = shared[column];
    sync_cube();
    if line == 0 {
        dgain[batch * out_columns + out_column] = product;
        shared[column] = product * gain;
    }
    sync_cube();
    let product = add_group(&shared, column, p.group(), p.vector);

    let inverse = comptime!(1.0 / (p.shape.plane * p.group()) as f32);
    let plain = Vector::<f32, N>::new(plain * inverse);
    let product = Vector::<f32, N>::new(product * inverse);
    if line < lines {
        for pixel in range_stepped(line, p.shape.plane, lines) {
            let index = in_first + pixel * in_columns;
            let dy = dy[out_first + pixel * out_columns];
            let normal = (Vector::<f32, N>::cast_from(x[index]) - mean) * deviation;
            let grad = before_silu(Vector::cast_from(dy), normal * gain + offset, p.shape.silu);
            let mut value = (grad * gain - plain - normal * product) * deviation;
            if comptime!(p.residual) {
                value += Vector::cast_from(residual[index]);
            }
            dx[index] = Vector::cast_from(value);
        }
    }
}

/// The gradient of `value` from that of `silu(value)`, or the same where there is no SiLU.
#[cube]
fn before_silu<N: Size>(grad: Vector<f32, N>, value: Vector<f32, N>, #[comptime] silu: bool) -> Vector<f32, N> {
    if comptime!(silu) {
        let one = Vector::<f32, N>::new(1.0);
        let gate = one / (one + Vector::exp(Vector::new(0.0) - value));
        grad * gate * (one + value * (one - gate))
    } else {
        grad
    }
}

#[cube(launch_unchecked)]
fn unfold(
    dgain: &Array<f32>,
    doffset: &Array<f32>,
    gain: &Array<f32>,
    offset: &Array<f32>,
    affine: &Array<f32>,
    gain_sum: &mut Array<f32>,
    offset_sum: &mut Array<f32>,
    daffine: &mut Array<f32>,
    batch: usize,
    #[comptime] channels: usize,
    #[comptime] scaled: bool,
) {
    let unit = UNIT_POS as usize;
    let line = unit / LINE;
    let channel = CUBE_POS_X as usize * LINE + unit % LINE;
    let lines = comptime!(THREADS / LINE);
    let mut shared = SharedMemory::<f32>::new(comptime!(2 * THREADS));
    let mut gains = f32::new(0.0);
    let mut offsets = f32::new(0.0);
    if channel < channels {
        for sample in range_stepped(line, batch, lines) {
            let dgain = dgain[sample * channels + channel];
            let doffset = doffset[sample * channels + channel];
            if comptime!(scaled) {
                let scale = affine[sample * comptime!(2 * channels) + channel] + 1.0;
                gains += dgain * scale;
                offsets += doffset * scale;
                daffine[sample * comptime!(2 * channels) + channel] = dgain * gain[channel] + doffset * offset[channel];
                daffine[(2 * sample + 1) * channels + channel] = doffset;
            } else {
                gains += dgain;
                offsets += doffset;
            }
        }
    }
    shared[unit] = gains;
    shared[THREADS + unit] = offsets;
    sync_cube();
    if line == 0 && channel < channels {
        #[unroll]
        for i in 1..lines {
            gains += shared[comptime!(i * LINE) + unit];
            offsets += shared[comptime!(THREADS + i * LINE) + unit];
        }
        gain_sum[channel] = gains;
        offset_sum[channel] = offsets;
    }
}
