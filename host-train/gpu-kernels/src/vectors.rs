//! All parameters of a network as one vector, and the vector as parameters: a few launches, however many there are.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{THREADS, array};

/// Values between the places where parts may begin: 512 bytes, which every load and every tensor library takes.
const PLACE: usize = 128;
/// Parts that one launch joins.
const AT_ONCE: usize = 32;
/// Blocks a part is copied by.
const BLOCKS: usize = 32;

/// The parts, f32, one behind the other.
pub fn join<R: Runtime>(client: &ComputeClient<R>, parts: &[(Handle, usize)]) -> Handle {
    let len: usize = parts.iter().map(|(_, len)| len).sum();
    let out = client.empty(len * size_of::<f32>());
    let mut start = 0;
    for parts in parts.chunks(AT_ONCE) {
        let mut arrays = SequenceArg::new();
        let mut starts = Vec::new();
        for (part, len) in parts {
            arrays.push(array::<R>(part, *len));
            starts.push(start);
            start += len;
        }
        // SAFETY: the parts' lengths add up to the output's.
        unsafe {
            join_kernel::launch_unchecked::<R>(
                client,
                CubeCount::Static(BLOCKS as u32, parts.len() as u32, 1),
                CubeDim::new_1d(THREADS as u32),
                arrays,
                array(&out, len),
                starts,
            );
        }
    }
    out
}

/// Parts of `lens` values of a vector, f32, that holds them one behind the other.
pub fn split<R: Runtime>(client: &ComputeClient<R>, vector: &Handle, lens: &[usize]) -> Vec<Handle> {
    let (mut table, mut start, mut place) = (Vec::new(), 0, 0);
    for &len in lens {
        table.extend([start as u32, place as u32, len as u32]);
        start += len;
        place += len.next_multiple_of(PLACE);
    }
    let out = client.empty(place * size_of::<f32>());
    let places = client.create_from_slice(u32::as_bytes(&table));
    // SAFETY: the table names places within both vectors.
    unsafe {
        split_kernel::launch_unchecked::<R>(
            client,
            CubeCount::Static(BLOCKS as u32, lens.len() as u32, 1),
            CubeDim::new_1d(THREADS as u32),
            array(vector, start),
            array(&places, table.len()),
            array(&out, place),
        );
    }
    let bytes = |count: usize| (count * size_of::<f32>()) as u64;
    let part = |of: &[u32]| {
        let (begin, end) = (of[1] as usize, of[1] as usize + of[2] as usize);
        out.clone().offset_start(bytes(begin)).offset_end(bytes(place - end))
    };
    table.chunks(3).map(part).collect()
}

// The loop is unrolled while the kernel is made; cubecl has no other over two lists.
#[allow(clippy::needless_range_loop)]
#[cube(launch_unchecked)]
fn join_kernel(parts: &Sequence<Array<f32>>, out: &mut Array<f32>, #[comptime] starts: Vec<usize>) {
    #[unroll]
    for i in 0..starts.len() {
        if CUBE_POS_Y == i as u32 {
            let part = parts.index(i);
            let first = CUBE_POS_X as usize * THREADS + UNIT_POS as usize;
            for index in range_stepped(first, part.len(), comptime!(BLOCKS * THREADS)) {
                out[index + comptime!(starts[i])] = part[index];
            }
        }
    }
}

#[cube(launch_unchecked)]
fn split_kernel(vector: &Array<f32>, places: &Array<u32>, out: &mut Array<f32>) {
    let part = CUBE_POS_Y as usize * 3;
    let start = places[part] as usize;
    let place = places[part + 1] as usize;
    let len = places[part + 2] as usize;
    let first = CUBE_POS_X as usize * THREADS + UNIT_POS as usize;
    for index in range_stepped(first, len, comptime!(BLOCKS * THREADS)) {
        out[place + index] = vector[start + index];
    }
}
