//! A denoiser's output, loss, gradients and one training step equal those of PyTorch with the same weights
//! (`tests/golden/denoisers.txt`, made by `tests/golden/denoisers.py`, where the numbers that go in are explained).

use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData};
use mote_core::schedule::{noise, signal};
use mote_train::denoiser::{Condition, Convention, DenoiserConfig, DenoiserFile, gradients};
use mote_train::diffusion::sample::SamplingConfig;
use mote_train::diffusion::{Weighting, per_image};
use mote_train::trainer::{AdamW, OptimizerConfig};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

type Host = Autodiff<Flex>;

const GOLDEN: &str = include_str!("../../tests/golden/denoisers.txt");
const TIMESTEPS: [u32; 3] = [0, 500, 985];
const LABELS: [usize; 3] = [2, 0, 3];
/// Greatest difference, relative to the largest value it stands beside.
const BOUND: f64 = 1e-4;

/// One network of the golden file.
struct Case<'a> {
    name: &'a str,
    config: DenoiserConfig,
    output: Vec<f64>,
    /// Loss, norm of all gradients, learning rate, both betas, weight decay, greatest norm.
    step: [f64; 7],
    parameters: Vec<Parameter<'a>>,
}

/// What the golden file says of one parameter.
struct Parameter<'a> {
    name: &'a str,
    /// Of its clipped gradient.
    norm: f64,
    /// The sum of that gradient times `cos(i)`.
    projection: f64,
    /// An element, its clipped gradient, and what one step adds to it as a multiple of the learning rate.
    element: Option<(usize, f64, f64)>,
}

fn numbers(line: &str) -> Vec<f64> {
    line.split(' ').map(|word| word.parse().unwrap()).collect()
}

fn cases() -> impl Iterator<Item = Case<'static>> {
    GOLDEN.split("\ncase ").skip(1).map(|text| {
        let mut lines = text.lines();
        let name = lines.next().unwrap();
        let mut line = |key: &str| lines.next().and_then(|line| line.strip_prefix(key)).unwrap().trim();
        let config = serde_json::from_str(line("network")).unwrap();
        let output = numbers(line("output"));
        let step = numbers(line("step")).try_into().unwrap();
        let parameters = lines.filter(|line| line.starts_with("parameter ")).map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |index: usize| words[index].parse::<f64>().unwrap();
            let element = (words.len() == 7).then(|| (words[4].parse().unwrap(), number(5), number(6)));
            Parameter { name: words[1], norm: number(2), projection: number(3), element }
        });
        Case { name, config, output, step, parameters: parameters.collect() }
    })
}

/// The tensors of a safetensors file.
fn tensors(file: &[u8]) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let tensors = SafeTensors::deserialize(file).unwrap();
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let each = tensors.iter().map(|(name, tensor)| {
        (name.to_owned(), tensor.shape().to_vec(), tensor.data().chunks_exact(4).map(value).collect())
    });
    each.collect()
}

/// The same file with other values.
fn with_values(file: &[u8], value: impl Fn(&str, usize) -> f64) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(file).unwrap();
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(file)
        .into_iter()
        .map(|(name, shape, old)| {
            let new = (0..old.len()).flat_map(|i| (value(&name, i) as f32).to_le_bytes()).collect();
            (name, shape, new)
        })
        .collect();
    let views =
        bytes.iter().map(|(name, shape, data)| (name, TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
    safetensors::serialize(views, header.metadata().clone()).unwrap()
}

/// A tensor of a formula's values.
fn formula<const D: usize>(shape: [usize; D], of: impl Fn(f64) -> f64) -> Tensor<Host, D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| of(i as f64) as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn floats<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn assert_near(what: &str, found: f64, expected: f64, largest: f64) {
    assert!((found - expected).abs() <= BOUND * largest, "{what}: {found}, not {expected} (beside {largest})");
}

/// The golden file's process.
const PROCESS: &str = r#"
objective = "v"
timesteps = 1000
schedule = { kind = "cosine", offset = 0.008 }
"#;

/// The golden file's optimizer, from what follows a `step`'s loss and norm.
fn optimizer([learning_rate, beta1, beta2, weight_decay, clip]: [f64; 5]) -> OptimizerConfig {
    let text = format!(
        "learning_rate = {learning_rate}\nbetas = [{beta1}, {beta2}]\nweight_decay = {weight_decay}\nclip = {clip:?}\n\
         warm_up = 1\ndecay = \"constant\"\nema = 0.5"
    );
    toml::from_str(&text).unwrap()
}

/// A vector of parameters or gradients.
fn vector(values: &[f32]) -> Tensor<Flex, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Default::default())
}

fn assert_all_near(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0f64, |most, value| most.max(value.abs()));
    for (found, expected) in found.iter().zip(expected) {
        assert_near(what, *found, *expected, largest);
    }
}

/// The golden file's noised samples, what the network should say of them, and the condition.
fn batch(file: &DenoiserFile) -> (Tensor<Host, 4>, Tensor<Host, 4>, Condition<Host>) {
    let (config, diffusion, device) = (&file.network, file.diffusion.build().unwrap(), Default::default());
    let shape = [3, config.shape.channels, config.shape.height, config.shape.width];
    let (data, eps) = (formula(shape, |i| 0.8 * (0.53 * i + 1.0).sin()), formula(shape, |i| 1.3 * (0.91 * i).cos()));
    let each = |of: fn(f64) -> f64| {
        let values: Vec<f32> = TIMESTEPS.iter().map(|&t| of(diffusion.alpha_bars[t as usize]) as f32).collect();
        per_image::<Host>(&values, &device)
    };
    let (signal, noise) = (each(signal), each(noise));
    let x = data.clone() * signal.clone() + eps.clone() * noise.clone();
    let mut condition = Condition::new(config, &TIMESTEPS, 1000, &LABELS, &device);
    let extra = config.extra_channels();
    condition.extra = (extra > 0).then(|| formula([3, extra, shape[2], shape[3]], |i| (0.29 * i).sin()));
    (x, eps * signal - data * noise, condition)
}

fn check(case: &Case) {
    let Case { name, config, output: expected, step, parameters } = case;
    let &[loss, norm, learning_rate, beta1, beta2, weight_decay, clip] = step;
    let device = Default::default();
    // A file with the golden weights, read as any other.
    let empty = DenoiserFile {
        network: config.clone(),
        diffusion: toml::from_str(PROCESS).unwrap(),
        sampling: SamplingConfig::ddim(1, 1.0),
        channels_scale: Vec::new(),
        parameters: Vec::new(),
    };
    let empty = empty.with_net(&config.init::<Flex>(0, &device).unwrap());
    let file = with_values(&empty.write(Convention::PyTorch), |name, i| {
        let phase: u32 = name.bytes().map(u32::from).sum();
        0.3 * (0.37 * i as f64 + f64::from(phase)).sin()
            + if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 }
    });
    let file = DenoiserFile::read(&file, Convention::PyTorch).unwrap();
    let net = file.net::<Host>(&device).unwrap();

    let (x, target, condition) = batch(&file);
    let output = net.forward(x, &condition);
    assert_all_near(&format!("{name}, output"), &floats(output.clone().inner()), expected);

    let every: Vec<usize> = (0..1000).collect();
    let weights = file.diffusion.build().unwrap().weights(Weighting::MinSnr { gamma: 5.0 }, &every);
    let weights: Vec<f32> = TIMESTEPS.iter().map(|&t| weights[t as usize]).collect();
    let error = output.narrow(1, 0, config.shape.channels) - target;
    let found = (error.clone() * error * per_image(&weights, &device)).mean();
    let gradient = gradients(&net, &found.backward());
    assert_near(&format!("{name}, loss"), floats(found.inner())[0], loss, loss);
    let length = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let unclipped = floats(gradient.clone());
    assert_near(&format!("{name}, norm of all gradients"), length(&unclipped), norm, norm);

    // The step, from the same weights.
    let settings = optimizer([learning_rate, beta1, beta2, weight_decay, clip]);
    let (stepped, _) = AdamW::new(vector(&file.parameters), &settings).update(gradient, &settings, 1000);
    let stepped = stepped.vectors.parameters;
    let factor = (clip / norm).min(1.0);
    let by_name = |values: Vec<f64>| {
        let parameters = values.into_iter().map(|value| value as f32).collect();
        tensors(&DenoiserFile { parameters, ..file.clone() }.write(Convention::PyTorch))
    };
    let before = tensors(&file.write(Convention::PyTorch));
    let (clipped, stepped) =
        (by_name(unclipped.iter().map(|value| value * factor).collect()), by_name(floats(stepped)));
    assert_eq!(parameters.len(), clipped.len(), "{name}");
    let of = |all: &[(String, Vec<usize>, Vec<f32>)], name: &str| -> Vec<f64> {
        let (_, _, values) = all.iter().find(|(known, ..)| known == name).unwrap_or_else(|| panic!("no {name}"));
        values.iter().map(|&value| f64::from(value)).collect()
    };
    for parameter in parameters {
        let what = format!("{name}, {}", parameter.name);
        let [gradient, before, stepped] = [&clipped, &before, &stepped].map(|all| of(all, parameter.name));
        // Beside the whole gradient, whose norm is 1 when clipped.
        let whole = norm * factor;
        assert_near(&format!("{what}, norm"), length(&gradient), parameter.norm, whole);
        let projection: f64 = gradient.iter().enumerate().map(|(i, value)| value * (i as f64).cos()).sum();
        assert_near(&format!("{what}, projection"), projection, parameter.projection, whole);
        if let Some((index, expected, expected_step)) = parameter.element {
            assert_near(&format!("{what}, gradient {index}"), gradient[index], expected, whole);
            let added = (stepped[index] - before[index]) / learning_rate;
            // A step is a thousandth of a weight, whose digits in single precision end at its ten-millionth.
            assert!((added - expected_step).abs() < 1e-3, "{what}, step of {index}: {added}, not {expected_step}");
        }
    }
}

#[test]
fn outputs_gradients_and_a_training_step_equal_those_of_pytorch() {
    let mut checked = 0;
    for case in cases() {
        check(&case);
        checked += 1;
    }
    assert_eq!(checked, 7);
}

#[test]
fn six_steps_of_adamw_equal_those_of_pytorch() {
    let expected = GOLDEN.lines().find_map(|line| line.strip_prefix("adamw ")).map(numbers).unwrap();
    let [_, _, settings @ ..] = cases().next().unwrap().step;
    let settings = optimizer(settings);
    let mut state = AdamW::new(vector(&[1.0, -2.0, 3.0, -4.0]), &settings);
    for (step, expected) in expected.chunks_exact(4).enumerate() {
        let gradient = [0, 1, 2, 3].map(|i| (f64::from(i) + 1.0) * (1.3 * step as f64 + 0.7 * f64::from(i)).sin());
        (state, _) = state.update(vector(&gradient.map(|value| value as f32)), &settings, 1000);
        for (found, expected) in floats(state.vectors.parameters.clone()).iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6 * expected.abs(), "step {step}: {found}, not {expected}");
        }
    }
}

#[test]
fn weights_that_pytorch_saved_are_read() {
    let file =
        DenoiserFile::read(include_bytes!("../../tests/golden/denoiser.safetensors"), Convention::PyTorch).unwrap();
    let (x, _, condition) = batch(&file);
    let output = file.net::<Host>(&Default::default()).unwrap().forward(x, &condition);
    let expected = GOLDEN.lines().find_map(|line| line.strip_prefix("saved ")).map(numbers).unwrap();
    assert_all_near("output", &floats(output.inner()), &expected);
}
