//! The random numbers of a training step.

use burn::tensor::Tensor;
use mote_core::noise::Philox;
use rand::Rng;

use super::fit::Part;
use crate::ops::{DenoiserBackend, normal};

/// Random numbers of one step: a function of the seed, the step and nothing else.
#[derive(Debug, Clone)]
pub(crate) struct StepRandom {
    seed: u64,
    philox: Philox,
    /// The generator's next word, counted from its beginning.
    at: u128,
}

impl StepRandom {
    pub(crate) fn new(seed: u64, step: u64) -> Self {
        let mut random = Self { seed, philox: Philox::new(seed), at: 0 };
        random.skip(u128::from(step) << 66);
        random
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        f64::from(self.word()) / 4_294_967_296.0
    }

    /// Uniform in `0..below`.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        ((u64::from(self.word()) * below as u64) >> 32) as usize
    }

    /// Evenly spread over [0, 1), one a part of the batch, begun at a random place.
    pub(crate) fn stratified(&mut self, batch: usize) -> Vec<f64> {
        let begin = self.unit();
        (0..batch).map(|index| (begin + index as f64 / batch as f64) % 1.0).collect()
    }

    /// 64 random bits.
    pub(crate) fn long(&mut self) -> u64 {
        let [low, high] = [self.word(), self.word()].map(u64::from);
        high << 32 | low
    }

    /// Standard normal numbers, made on the device.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]`
    pub(crate) fn normal<B: DenoiserBackend>(&mut self, shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
        self.normal_part(shape, Part::ALL, device)
    }

    /// A part of the examples' standard normal numbers; the others' are passed over.
    ///
    /// # Shapes
    /// `[batch / part.of, channels, height, width]`, as `shape` is
    pub(crate) fn normal_part<B: DenoiserBackend>(
        &mut self,
        shape: [usize; 4],
        part: Part,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let count: usize = shape.iter().product();
        let begin = self.at + (part.index * count) as u128;
        self.skip((part.of * count) as u128);
        B::normals(self.seed, begin, count, device).reshape(shape)
    }

    /// The same numbers here.
    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| normal(self.word())).collect()
    }

    fn word(&mut self) -> u32 {
        self.at += 1;
        self.philox.next_u32()
    }

    fn skip(&mut self, words: u128) {
        self.at += words;
        self.philox.seek(self.at / 4);
        (0..self.at % 4).for_each(|_| _ = self.philox.next_u32());
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    /// Wherever they begin in a block, and whatever is drawn before and after.
    #[test]
    fn normal_numbers_of_the_device_are_those_of_the_host() {
        for before in 0..5 {
            let mut random = StepRandom::new(3, 9);
            (0..before).for_each(|_| _ = random.unit());
            let mut other = random.clone();
            let found = random.normal::<Flex>([1, 1, 3, 7], &Default::default()).into_data().to_vec::<f32>().unwrap();
            assert_eq!(found, other.normals(21));
            assert_eq!(random.long(), other.long());
        }
    }

    #[test]
    fn the_parts_of_normal_numbers_are_those_of_the_whole() {
        let (device, random) = (Default::default(), StepRandom::new(3, 9));
        let whole = random.clone().normal::<Flex>([6, 1, 1, 5], &device).into_data();
        let part = |index| {
            let mut random = random.clone();
            let part = random.normal_part::<Flex>([2, 1, 1, 5], Part { index, of: 3 }, &device);
            assert_eq!(random.at, (9 << 66) + 30);
            part
        };
        assert_eq!(Tensor::cat(vec![part(0), part(1), part(2)], 0).into_data(), whole);
    }

    /// The two steps' words are far apart; the numbers are those of the runs before now.
    #[test]
    fn a_step_is_a_block_of_the_generator() {
        let mut philox = Philox::new(3);
        philox.seek(9 << 64);
        let expected: Vec<u32> = (0..6).map(|_| philox.next_u32()).collect();
        let mut random = StepRandom::new(3, 9);
        assert_eq!((0..6).map(|_| random.word()).collect::<Vec<u32>>(), expected);
    }
}
