//! Gaps that a network is trained to fill by regression.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::dataset::SampleShape;
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::ops::DenoiserBackend;

/// A network that fills gaps of signals in one pass, in place of a process: what diffusion's filling is compared with. It sees
/// the signal with zeros in the gap and, as a further channel, 1 where it is known and 0 in the gap; what it says is the signal,
/// and its loss is the squared error in the gap. A gap is of all channels. The network's time is 0; the process does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gaps {
    /// The least and the greatest number of rows of a gap; any between is as likely, at any place.
    pub rows: [usize; 2],
}

impl Gaps {
    /// A gap in `width` rows; `unit` draws uniformly from [0, 1).
    pub fn draw(self, width: usize, mut unit: impl FnMut() -> f64) -> Range<usize> {
        let [least, most] = self.rows;
        let mut below = |end: usize| (unit() * end as f64) as usize;
        let rows = least + below(most - least + 1);
        let begin = below(width - rows + 1);
        begin..begin + rows
    }

    /// # Errors
    /// Why samples of this shape have no such gaps.
    pub fn check(self, shape: SampleShape) -> Result<(), String> {
        let [least, most] = self.rows;
        if shape.is_image() || !(1 <= least && least <= most && most < shape.width) {
            return Err(format!(
                "diffusion.gaps.rows is [{least}, {most}], samples are {shape}; give the least and the greatest length, 1 or \
                 more, less than a signal's length"
            ));
        }
        Ok(())
    }
}

/// 1 where a row is known, 0 in each sample's gap, `[gaps, 1, 1, width]`.
pub fn known_rows<B: Backend>(gaps: &[Range<usize>], width: usize, device: &B::Device) -> Tensor<B, 4> {
    let row = |gap: &Range<usize>, at: usize| f32::from(u8::from(!gap.contains(&at)));
    let values: Vec<f32> = gaps.iter().flat_map(|gap| (0..width).map(move |at| row(gap, at))).collect();
    Tensor::from_data(TensorData::new(values, [gaps.len(), 1, 1, width]), device)
}

/// The signals `data`, `[batch, channels, 1, width]`, with what `net`, trained for [`Gaps`], says where `known`, `[batch, 1, 1,
/// width]`, is 0. What is known stays to the bit.
pub fn fill<B: DenoiserBackend>(
    net: &Denoiser<B>,
    config: &DenoiserConfig,
    data: &Tensor<B, 4>,
    known: &Tensor<B, 4>,
) -> Tensor<B, 4> {
    let (batch, gap) = (data.dims()[0], known.clone().equal_elem(0.0).expand(data.dims()));
    let x = data.clone().mask_fill(gap.clone(), 0.0);
    let mut condition =
        Condition::new(config, &vec![0; batch], 1, &vec![config.unknown_class(); batch], &data.device());
    condition.extra = config.extra(&x, None, Some(known.clone()));
    let (said, _) = config.mean_and_variance(net.forward(x, &condition));
    data.clone().mask_where(gap, said)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn gaps_are_of_every_length_and_place_and_never_beyond() {
        let gaps = Gaps { rows: [2, 4] };
        gaps.check(SampleShape::signal(6, 2)).unwrap();
        let grid = |i: u32| (f64::from(i) + 0.5) / 60.0;
        let mut found: Vec<Range<usize>> = Vec::new();
        for (length, place) in (0..60).flat_map(|length| (0..60).map(move |place| (length, place))) {
            let mut numbers = [grid(length), grid(place)].into_iter();
            found.push(gaps.draw(6, || numbers.next().unwrap()));
        }
        let share = |wanted: &Range<usize>| found.iter().filter(|gap| *gap == wanted).count();
        for rows in 2..=4 {
            for begin in 0..=6 - rows {
                assert_eq!(share(&(begin..begin + rows)), 3600 / 3 / (7 - rows), "{rows} rows at {begin}");
            }
        }
        let known = known_rows::<Flex>(&[1..3, 4..6], 6, &Default::default());
        let known: Vec<f32> = known.into_data().to_vec().unwrap();
        assert_eq!(known, [1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
    }

    #[test]
    fn gaps_that_cannot_be_are_refused() {
        for (rows, shape) in [
            ([0, 4], SampleShape::signal(6, 2)),
            ([4, 2], SampleShape::signal(6, 2)),
            ([2, 6], SampleShape::signal(6, 2)),
            ([1, 2], SampleShape::image(6, 6, 1)),
            ([1, 1], SampleShape::vector(6)),
        ] {
            assert!(Gaps { rows }.check(shape).unwrap_err().contains("diffusion.gaps.rows is"), "{rows:?} {shape}");
        }
    }
}
