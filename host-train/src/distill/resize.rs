//! What a student of other sizes than its teacher begins with.
//!
//! Channel `c` of a student's layer is channel `floor(c teacher / student)` of the teacher's: evenly spread, so each group of a
//! normalization and each head of an attention keeps to its own. Weights are multiplied by `teacher / student` inputs, so that their
//! sums keep their size, an attention's scores too. A wider student computes what its teacher does where its widths are multiples (Chen, Goodfellow, Shlens,
//! *Net2Net*, 2016); a narrower one is a pruned teacher (Li et al., *Pruning Filters for Efficient ConvNets*, 2017, with channels taken
//! evenly instead of by norm). Blocks are matched by level and number; what the teacher has not begins as in a new network, where an
//! additional block is the identity.

use burn::backend::Flex;
use safetensors::SafeTensors;

use crate::denoiser::{ConfigError, DenoiserConfig, DenoiserFile, names, parameters};

/// The weight whose inputs are a timestep's features.
const TIME: &str = "embedding.time_in.weight";

/// Of an attention's queries, keys and values, one after the other.
const QKV: &str = ".qkv.";

/// A tensor of the teacher.
struct Source {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The parameters that a student of sizes `student` begins with; those of a new network of seed `seed` where the teacher has none.
///
/// # Errors
/// [`ConfigError`] if there is no such network.
pub fn resized(teacher: &DenoiserFile, student: &DenoiserConfig, seed: u64) -> Result<Vec<f32>, ConfigError> {
    if *student == teacher.network {
        return Ok(teacher.parameters.clone());
    }
    let net = student.init::<Flex>(seed, &Default::default())?;
    let fresh = DenoiserFile {
        network: student.clone(),
        parameters: parameters(&net).into_data().to_vec().expect("f32 backend"),
        ..teacher.clone()
    };
    let (teacher_bytes, fresh_bytes) = (teacher.to_bytes(), fresh.to_bytes());
    let [from, new] =
        [&teacher_bytes, &fresh_bytes].map(|bytes| SafeTensors::deserialize(bytes).expect("just written"));
    let read = |tensors: &SafeTensors<'_>, name: &str| {
        let view = tensors.tensor(name).ok()?;
        let values = view.data().chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().expect("four bytes")));
        Some(Source { shape: view.shape().to_vec(), values: values.collect() })
    };
    let levels = |names: &[(String, usize)]| {
        let up =
            names.iter().filter_map(|(name, _)| name.strip_prefix("up.")?.split_once('.')?.0.parse::<usize>().ok());
        up.max().map_or(0, |last| last + 1)
    };
    let names = names(&net);
    let teacher_names: Vec<(String, usize)> = from.names().into_iter().map(|name| (name.to_owned(), 0)).collect();
    let ups = [levels(&names), levels(&teacher_names)];
    let mut values = Vec::with_capacity(fresh.parameters.len());
    for (name, _) in &names {
        let new = read(&new, name).expect("its own tensor");
        let source = of_teacher(name, ups).and_then(|name| read(&from, &name));
        values.extend(source.and_then(|source| source.resized(name, &new.shape)).unwrap_or(new.values));
    }
    Ok(values)
}

/// The teacher's name of a student's tensor: the way up counts levels from the coarsest, of which there may be more or fewer.
fn of_teacher(name: &str, [student, teacher]: [usize; 2]) -> Option<String> {
    let Some((number, rest)) = name.strip_prefix("up.").and_then(|rest| rest.split_once('.')) else {
        return Some(name.to_owned());
    };
    let number = (number.parse::<usize>().ok()? + teacher).checked_sub(student)?;
    Some(format!("up.{number}.{rest}"))
}

impl Source {
    /// The tensor in another shape; none if it has another number of dimensions, or parts that cannot be told apart.
    fn resized(&self, name: &str, shape: &[usize]) -> Option<Vec<f32>> {
        if self.shape.len() != shape.len() {
            return None;
        }
        let axes: Vec<Vec<usize>> = (0..shape.len())
            .map(|axis| spread(parts(name, axis, shape.len()), self.shape[axis], shape[axis]))
            .collect::<Option<_>>()?;
        // Of a timestep's features each is another one; there is no sum of equals to keep.
        let inputs = inputs(name, shape.len()).filter(|_| name != TIME);
        let factor = inputs.map_or(1.0, |axis| self.shape[axis] as f32 / shape[axis] as f32);
        let mut indices = vec![0];
        for (axis, picks) in axes.iter().enumerate() {
            let next =
                |index: &usize| picks.iter().map(move |pick| index * self.shape[axis] + pick).collect::<Vec<_>>();
            indices = indices.iter().flat_map(next).collect();
        }
        let mut values: Vec<f32> = indices.into_iter().map(|index| self.values[index] * factor).collect();
        if name.contains(QKV) {
            // A score is a sum over a head's channels divided by the root of their number: queries and keys share what is left.
            let share = (self.shape[0] as f32 / shape[0] as f32).powf(0.25);
            let queries_and_keys = values.len() / 3 * 2;
            values[..queries_and_keys].iter_mut().for_each(|value| *value *= share);
        }
        Some(values)
    }
}

/// Which of `from` channels each of `to` is; both are `parts` equal parts, one after the other.
fn spread(parts: usize, from: usize, to: usize) -> Option<Vec<usize>> {
    let [of, wanted] = [from, to].map(|channels| channels / parts);
    let whole = from.is_multiple_of(parts) && to.is_multiple_of(parts);
    whole.then(|| (0..to).map(|channel| channel / wanted * of + channel % wanted * of / wanted).collect())
}

/// The axis of a weight that its inputs are on: a convolution is `[out, in, rows, columns]`, a linear layer `[in, out]`.
fn inputs(name: &str, dimensions: usize) -> Option<usize> {
    match dimensions {
        4 => Some(1),
        2 if name != "embedding.class" => Some(0),
        _ => None,
    }
}

/// Equal parts of an axis that lie one after the other: cosines and sines, scale and shift, queries, keys and values, and the two
/// halves of what the first block of a way up joins.
fn parts(name: &str, axis: usize, dimensions: usize) -> usize {
    let is_input = inputs(name, dimensions) == Some(axis);
    let is_output = !is_input && (dimensions == 1 || axis == if dimensions == 4 { 0 } else { 1 });
    let joins = name.starts_with("up.") && name.contains(".blocks.0.");
    if name == TIME && is_input || name.contains(".affine.") && is_output {
        2
    } else if name.contains(QKV) && is_output {
        3
    } else if joins && (name.contains(".norm1.") || name.ends_with(".conv1.weight") && is_input) {
        2
    } else {
        1
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData};

    use super::*;
    use crate::dataset::SampleShape;
    use crate::denoiser::{Architecture, Condition, MlpConfig, Output, UNetConfig};
    use crate::diffusion::sample::SamplingConfig;
    use crate::diffusion::{DiffusionConfig, Objective, ScheduleConfig};

    fn network(shape: SampleShape, architecture: Architecture) -> DenoiserConfig {
        let (output, self_conditioning, condition_channels) = (Output::Mean, false, 0);
        DenoiserConfig { shape, classes: 3, architecture, output, self_conditioning, condition_channels }
    }

    fn unet(widths: &[usize], embedding: usize) -> DenoiserConfig {
        let unet = UNetConfig {
            widths: widths.to_vec(),
            blocks: 2,
            middle: 1,
            groups: 2,
            embedding,
            attention: vec![1],
            heads: 2,
            dropout: 0.0,
        };
        network(SampleShape::image(4, 4, 1), Architecture::UNet(unet))
    }

    fn mlp(width: usize, embedding: usize) -> DenoiserConfig {
        let mlp = MlpConfig { width, blocks: 2, groups: 2, embedding, dropout: 0.0 };
        network(SampleShape::vector(5), Architecture::Mlp(mlp))
    }

    /// A network whose parameters are all of ordinary size, none of them zero.
    fn file(network: DenoiserConfig) -> DenoiserFile {
        let count = parameters(&network.init::<Flex>(0, &Default::default()).unwrap()).dims()[0];
        DenoiserFile {
            network,
            diffusion: DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }),
            sampling: SamplingConfig::ddim(4, 1.0),
            channels_scale: Vec::new(),
            parameters: (0..count).map(|i| (i as f32 * 0.731).sin() * 0.4).collect(),
        }
    }

    fn output(file: &DenoiserFile) -> Vec<f32> {
        let device = Default::default();
        let SampleShape { height, width, channels } = file.network.shape;
        let values: Vec<f32> = (0..2 * file.network.shape.len()).map(|i| (i as f32 * 0.37).cos()).collect();
        let x = Tensor::<Flex, 4>::from_data(TensorData::new(values, [2, channels, height, width]), &device);
        let condition = Condition::new(&file.network, &[900, 40], 1000, &[2, 0], &device);
        file.net::<Flex>(&device).unwrap().forward(x, &condition).into_data().to_vec().unwrap()
    }

    /// Every channel doubled, the weights halved: the same function. Every second channel of that, the weights doubled: the same
    /// network.
    #[test]
    fn twice_as_wide_is_the_same_function_and_back_the_same_network() {
        for (small, wide) in [(unet(&[4, 8], 8), unet(&[8, 16], 8)), (mlp(6, 8), mlp(12, 8))] {
            let small = file(small);
            let wide = DenoiserFile { parameters: resized(&small, &wide, 1).unwrap(), network: wide, ..small.clone() };
            let (wanted, found) = (output(&small), output(&wide));
            let peak = wanted.iter().fold(0.0f32, |peak, value| peak.max(value.abs()));
            for (wanted, found) in wanted.iter().zip(&found) {
                assert!((wanted - found).abs() < 1e-4 * peak, "{wanted} {found}");
            }
            let back = resized(&wide, &small.network, 2).unwrap();
            assert!(back.iter().zip(&small.parameters).all(|(a, b)| (a - b).abs() < 1e-6));
        }
    }

    #[test]
    fn the_same_sizes_are_the_same_weights() {
        let teacher = file(unet(&[4, 8], 8));
        assert_eq!(resized(&teacher, &teacher.network, 1).unwrap(), teacher.parameters);
    }

    /// A shorter embedding keeps every second frequency: what it sees of a timestep is what the teacher sees there.
    #[test]
    fn a_shorter_embedding_keeps_the_frequencies_it_has() {
        let picks = spread(parts(TIME, 0, 2), 16, 8).unwrap();
        assert_eq!(picks, [0, 2, 4, 6, 8, 10, 12, 14]);
        let features = |embedding: usize| -> Vec<f32> {
            let network = mlp(6, embedding);
            Condition::<Flex>::new(&network, &[123], 1000, &[0], &Default::default()).time.into_data().to_vec().unwrap()
        };
        let (long, short) = (features(16), features(8));
        for (index, pick) in picks.into_iter().enumerate() {
            assert!((long[pick] - short[index]).abs() < 1e-6);
        }
    }

    /// Levels are matched from the finest on, in both directions; a network of another kind begins anew.
    #[test]
    fn what_the_teacher_has_not_begins_as_in_a_new_network() {
        let teacher = file(unet(&[4, 8], 8));
        let mut deep = unet(&[4, 8, 8], 8);
        if let Architecture::UNet(unet) = &mut deep.architecture {
            (unet.blocks, unet.attention) = (3, vec![]);
        }
        let found = DenoiserFile { parameters: resized(&teacher, &deep, 5).unwrap(), network: deep, ..teacher.clone() };
        let fresh = found.network.init::<Flex>(5, &Default::default()).unwrap();
        let fresh = found.clone().with_net(&fresh);
        let tensor = |file: &DenoiserFile, name: &str| -> Vec<u8> {
            let bytes = file.to_bytes();
            SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().data().to_vec()
        };
        for [name, of_teacher] in
            [["down.0.blocks.1.conv1.weight"; 2], ["up.1.blocks.0.norm1.gain", "up.0.blocks.0.norm1.gain"]]
        {
            assert_eq!(tensor(&found, name), tensor(&teacher, of_teacher), "{name}");
        }
        for name in ["down.1.blocks.0.conv1.weight", "up.0.blocks.0.conv2.weight", "down.0.blocks.2.conv2.bias"] {
            assert_eq!(tensor(&found, name), tensor(&fresh, name), "{name}");
        }
        let image = network(SampleShape::image(4, 4, 1), unet(&[4, 8], 8).architecture);
        assert_eq!(resized(&file(mlp(6, 4)), &image, 5).unwrap().len(), teacher.parameters.len());
    }
}
