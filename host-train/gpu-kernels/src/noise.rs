//! Normal numbers from Philox4x32-10 (Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011) by a table of
//! quantiles: the bits of `mote_core::noise`.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{THREADS, array, blocks};

const MULTIPLIER0: u32 = 0xD251_1F53;
const MULTIPLIER1: u32 = 0xCD9E_8D57;
const WEYL0: u32 = 0x9E37_79B9;
const WEYL1: u32 = 0xBB67_AE85;

/// `count` numbers, f32, of the words from `begin` on under `seed`; `nodes` is `mote_core::noise`'s table of quantiles in
/// Q13.
pub fn normals<R: Runtime>(client: &ComputeClient<R>, nodes: &[u16], seed: u64, begin: u128, count: usize) -> Handle {
    let nodes: Vec<i32> = nodes.iter().map(|&node| i32::from(node)).collect();
    let table = client.create_from_slice(i32::as_bytes(&nodes));
    let out = client.empty(count * size_of::<f32>());
    let (block, skipped) = (begin / 4, (begin % 4) as u32);
    let word = |index: u32| (block >> (32 * index)) as u32;
    // SAFETY: the table has a node after each that the kernel can name, and words beyond `count` are left out.
    unsafe {
        draw::launch_unchecked::<R>(
            client,
            blocks((count + skipped as usize).div_ceil(4), THREADS),
            CubeDim::new_1d(THREADS as u32),
            array(&table, nodes.len()),
            array(&out, count),
            seed as u32,
            (seed >> 32) as u32,
            word(0),
            word(1),
            word(2),
            word(3),
            skipped,
        );
    }
    out
}

/// One block of four words a unit.
#[cube(launch_unchecked)]
fn draw(
    nodes: &Array<i32>,
    out: &mut Array<f32>,
    key0: u32,
    key1: u32,
    block0: u32,
    block1: u32,
    block2: u32,
    block3: u32,
    skipped: u32,
) {
    let index = ABSOLUTE_POS as u32;
    let mut c0 = block0 + index;
    let carry = u32::cast_from(c0 < index);
    let mut c1 = block1 + carry;
    let carry = u32::cast_from(c1 < carry);
    let mut c2 = block2 + carry;
    let carry = u32::cast_from(c2 < carry);
    let mut c3 = block3 + carry;
    let mut k0 = key0;
    let mut k1 = key1;
    for _ in 0..10 {
        let left = c0 * MULTIPLIER0;
        let left_high = u32::mul_hi(c0, u32::new(MULTIPLIER0 as i64));
        let right = c2 * MULTIPLIER1;
        let right_high = u32::mul_hi(c2, u32::new(MULTIPLIER1 as i64));
        c0 = right_high ^ c1 ^ k0;
        c1 = right;
        c2 = left_high ^ c3 ^ k1;
        c3 = left;
        k0 += WEYL0;
        k1 += WEYL1;
    }
    let first = index * 4;
    put(nodes, out, c0, first, skipped);
    put(nodes, out, c1, first + 1, skipped);
    put(nodes, out, c2, first + 2, skipped);
    put(nodes, out, c3, first + 3, skipped);
}

/// `mote_core::noise::normal_q12` of `word` over 4096, at `place - skipped`.
#[cube]
fn put(nodes: &Array<i32>, out: &mut Array<f32>, word: u32, place: u32, skipped: u32) {
    if place >= skipped && ((place - skipped) as usize) < out.len() {
        let tail = u32::max(word & 0x7FFF_FFFF, u32::new(1));
        let octave = tail.leading_zeros() - 1;
        let mantissa = tail << octave;
        let node = (16 * (30 - octave) + ((mantissa >> 26) & 15)) as usize;
        let fraction = ((mantissa >> 14) & 0xFFF) as i32;
        let outer = nodes[node];
        let inner = nodes[node + 1];
        let magnitude = ((outer << 12) + (inner - outer) * fraction + 4096) >> 13;
        let value = select(word >> 31 == 1, -magnitude, magnitude);
        out[(place - skipped) as usize] = f32::cast_from(value) / 4096.0;
    }
}
