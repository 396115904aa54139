//! Operations without sums over a plane.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{Precision, THREADS, array, blocks, dispatch, vector_size};

/// Sizes of an upsampling: each pixel becomes `down` x 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpsampleShape {
    /// Channels.
    pub channels: usize,
    /// Rows of the small picture.
    pub height: usize,
    /// Columns of the small picture.
    pub width: usize,
    /// 1 or 2.
    pub down: usize,
}

impl UpsampleShape {
    fn small(&self) -> usize {
        self.height * self.width * self.channels
    }

    fn large(&self) -> usize {
        2 * self.down * self.small()
    }
}

/// `[batch, height, width, channels]` to `[batch, down * height, 2 * width, channels]`.
pub fn upsample<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: UpsampleShape,
    batch: usize,
    x: &Handle,
) -> Handle {
    let size = vector_size(shape.channels, precision);
    let len = batch * shape.large();
    let out = client.empty(len * precision.size());
    dispatch!(
        precision,
        upsample_kernel::<R>(
            client,
            blocks(len / size, THREADS),
            CubeDim::new_1d(THREADS as u32),
            size,
            array(x, batch * shape.small()),
            array(&out, len),
            shape.channels / size,
            shape,
        )
    );
    out
}

/// The gradient of [`upsample`]'s input from that of its output.
pub fn upsample_backward<R: Runtime>(
    client: &ComputeClient<R>,
    precision: Precision,
    shape: UpsampleShape,
    batch: usize,
    dy: &Handle,
) -> Handle {
    let size = vector_size(shape.channels, precision);
    let len = batch * shape.small();
    let dx = client.empty(len * precision.size());
    dispatch!(
        precision,
        upsample_backward_kernel::<R>(
            client,
            blocks(len / size, THREADS),
            CubeDim::new_1d(THREADS as u32),
            size,
            array(dy, batch * shape.large()),
            array(&dx, len),
            shape.channels / size,
            shape,
        )
    );
    dx
}

#[cube(launch_unchecked)]
fn upsample_kernel<E: Float, N: Size>(
    x: &Array<Vector<E, N>>,
    out: &mut Array<Vector<E, N>>,
    #[comptime] columns: usize,
    #[comptime] s: UpsampleShape,
) {
    if ABSOLUTE_POS < out.len() {
        let channel = ABSOLUTE_POS % columns;
        let right = (ABSOLUTE_POS / columns) % comptime!(2 * s.width);
        let line = ABSOLUTE_POS / comptime!(columns * 2 * s.width);
        // Lines of all samples follow each other, so halving the line halves the row within its sample.
        out[ABSOLUTE_POS] = x[((line / s.down) * s.width + right / 2) * columns + channel];
    }
}

#[cube(launch_unchecked)]
fn upsample_backward_kernel<E: Float, N: Size>(
    dy: &Array<Vector<E, N>>,
    dx: &mut Array<Vector<E, N>>,
    #[comptime] columns: usize,
    #[comptime] s: UpsampleShape,
) {
    if ABSOLUTE_POS < dx.len() {
        let channel = ABSOLUTE_POS % columns;
        let right = (ABSOLUTE_POS / columns) % s.width;
        let line = ABSOLUTE_POS / comptime!(columns * s.width);
        let mut sum = Vector::<f32, N>::new(0.0);
        #[unroll]
        for i in 0..s.down {
            #[unroll]
            for j in 0..2 {
                let pixel = (line * s.down + i) * comptime!(2 * s.width) + 2 * right + j;
                sum += Vector::cast_from(dy[pixel * columns + channel]);
            }
        }
        dx[ABSOLUTE_POS] = Vector::cast_from(sum);
    }
}
