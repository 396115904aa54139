use burn::backend::{Autodiff, Flex};

use super::*;
use crate::dataset::{Augment, Dataset, SampleShape, Values};
use crate::denoiser::{Architecture, MlpConfig, UNetConfig, gradients, parameters, set_parameters};
use crate::diffusion::{Gaps, Likelihood, LowResolution, Objective, ScheduleConfig, fill};
use crate::trainer::{AdamW, Decay, Ema};

type Train = Autodiff<Flex>;

fn teacher() -> TeacherConfig {
    TeacherConfig {
        steps: 10,
        batch: 8,
        class_dropout: 0.2,
        augment: Augmentation::default(),
        weighting: Weighting::Uniform,
        loss: LossConfig::Simple,
        distance: Distance::Squared,
        timesteps: TimeSampling::Uniform,
        noise: NoiseConfig::default(),
        gradient_checkpointing: false,
        optimizer: OptimizerConfig {
            learning_rate: 1e-2,
            warm_up: 1,
            decay: Decay::Constant,
            floor: 0.0,
            betas: [0.9, 0.99],
            weight_decay: 0.0,
            clip: 1.0,
            accumulate: 1,
            ema: Ema::Decay(0.9),
            snapshots: None,
        },
    }
}

fn diffusion(objective: Objective) -> DiffusionConfig {
    DiffusionConfig::new(objective, 100, ScheduleConfig::Cosine { offset: 0.008 })
}

fn network(shape: SampleShape) -> DenoiserConfig {
    let unet = "widths = [4, 8]\nblocks = 1\nmiddle = 1\ngroups = 2";
    let architecture = match shape.is_vector() {
        true => Architecture::Mlp(MlpConfig { width: 16, blocks: 2, groups: 1, embedding: 8, dropout: 0.0 }),
        false => Architecture::UNet(toml::from_str::<UNetConfig>(&format!("{unet}\nembedding = 8")).unwrap()),
    };
    let (output, self_conditioning, condition_channels) = (Output::Mean, false, 0);
    DenoiserConfig { shape, classes: 2, architecture, output, self_conditioning, condition_channels }
}

/// Two classes of waves around 0.3 and -0.3, as floats or as pixels.
fn data(shape: SampleShape) -> Dataset {
    let n = 60;
    let value = |at: usize| {
        let (sample, place) = (at / shape.len(), at % shape.len());
        let side = if sample.is_multiple_of(2) { 0.3 } else { -0.3 };
        side + 0.1 * (sample as f32 + place as f32).sin()
    };
    let values = (0..n * shape.len()).map(value);
    let values = match shape.is_image() {
        true => Values::Bytes(values.map(crate::dataset::to_pixel).collect()),
        false => Values::Floats(values.collect()),
    };
    let labels = (0..n as u16).map(|sample| sample % 2).collect();
    Dataset::new(shape, values, labels, vec!["up".to_owned(), "down".to_owned()])
}

fn task<'a>(
    config: &'a TeacherConfig,
    network: &'a DenoiserConfig,
    diffusion: &'a Diffusion,
    data: &'a Dataset,
) -> TeacherTask<'a, Flex> {
    TeacherTask::new(config, network, diffusion, data.train(), 1, Placement::Device, &Default::default())
}

fn step_loss(task: &TeacherTask<'_, Flex>, net: &Denoiser<Train>, step: u64, part: Part) -> Tensor<Train, 1> {
    task.loss(net, task.host.plan(step, part))
}

const SHAPES: [SampleShape; 3] = [SampleShape::image(4, 6, 3), SampleShape::signal(8, 2), SampleShape::vector(3)];

fn worst(a: Tensor<Flex, 4>, b: Tensor<Flex, 4>) -> f32 {
    (a - b).abs().max().into_scalar()
}

/// Whatever is done to the noise, the network's target is of the noise that is in its input: from both come the data.
#[test]
fn input_and_target_are_of_the_same_noise() {
    let noise = NoiseConfig { offset: 0.2, pyramid: 0.5, immiscible: true };
    for objective in [Objective::Epsilon, Objective::V, Objective::Velocity] {
        for time in [Time::Discrete, Time::Continuous] {
            let (shape, process) = (SHAPES[0], DiffusionConfig { time, ..diffusion(objective) }.build().unwrap());
            let (data, network) = (data(shape), network(shape));
            // Not too near the end, where epsilon says little of the data.
            let config =
                TeacherConfig { noise, timesteps: TimeSampling::Lognormal { mean: -1.0, std: 0.7 }, ..teacher() };
            let task = task(&config, &network, &process, &data);
            for step in 0..5 {
                let (examples, _) = task.examples(task.host.plan(step, Part::ALL));
                let found = process.estimate(&examples.x, &examples.target, &examples.times.times);
                assert!(worst(found, examples.images) < 1e-4, "{objective:?} {time:?} {step}");
            }
        }
    }
}

/// The network after a few steps, and their losses.
fn trained(
    config: &TeacherConfig,
    network: &DenoiserConfig,
    process: &DiffusionConfig,
    steps: u64,
) -> (Denoiser<Train>, Vec<f32>) {
    trained_on(&data(network.shape), config, network, process, steps)
}

/// The same on other data.
fn trained_on(
    data: &Dataset,
    config: &TeacherConfig,
    network: &DenoiserConfig,
    process: &DiffusionConfig,
    steps: u64,
) -> (Denoiser<Train>, Vec<f32>) {
    config.check(process, network).unwrap();
    let diffusion = process.build().unwrap();
    let task = task(config, network, &diffusion, data);
    let mut net = network.init::<Train>(1, &Default::default()).unwrap();
    let mut state = AdamW::new(parameters(&net).inner(), &config.optimizer);
    let mut losses = Vec::new();
    for step in 0..steps {
        net = set_parameters(net, Tensor::from_inner(state.vectors.parameters.clone()));
        let loss = step_loss(&task, &net, step, Part::ALL);
        losses.push(loss.clone().into_scalar());
        let gradient = gradients(&net, &loss.backward());
        (state, _) = state.update(gradient, &config.optimizer, steps);
    }
    (set_parameters(net, Tensor::from_inner(state.vectors.parameters)), losses)
}

#[test]
fn every_loss_trains_images_signals_and_vectors() {
    let hybrid = LossConfig::Hybrid { lambda: 0.001 };
    let of = |loss, weighting, distance, timesteps| TeacherConfig { loss, weighting, distance, timesteps, ..teacher() };
    let (simple, squared, uniform) = (LossConfig::Simple, Distance::Squared, TimeSampling::Uniform);
    let recipes = [
        of(simple, Weighting::Uniform, squared, uniform),
        of(simple, Weighting::P2 { gamma: 1.0, k: 1.0 }, Distance::Absolute, uniform),
        of(simple, Weighting::Edm { sigma_data: 0.5 }, squared, TimeSampling::Lognormal { mean: -1.2, std: 1.2 }),
        of(simple, Weighting::Vlb, Distance::Huber { delta: 0.5 }, TimeSampling::Weighted),
        of(simple, Weighting::TruncatedSnr, Distance::PseudoHuber { c: 0.01 }, uniform),
        of(LossConfig::Vlb, Weighting::Vlb, squared, TimeSampling::Weighted),
        of(hybrid, Weighting::MinSnr { gamma: 5.0 }, squared, uniform),
    ];
    for shape in SHAPES {
        for (config, objective) in recipes.iter().zip([
            Objective::V,
            Objective::Epsilon,
            Objective::X0,
            Objective::V,
            Objective::Velocity,
            Objective::V,
            Objective::Epsilon,
        ]) {
            let output = if config.loss == hybrid { Output::MeanAndVariance } else { Output::Mean };
            let (net, losses) = trained(config, &DenoiserConfig { output, ..network(shape) }, &diffusion(objective), 2);
            assert!(losses.iter().all(|loss| loss.is_finite()), "{shape} {config:?}: {losses:?}");
            let sum: f32 = parameters(&net).sum().into_scalar();
            assert!(sum.is_finite(), "{shape} {config:?}");
        }
    }
}

#[test]
fn training_lowers_the_negative_log_likelihood() {
    for (shape, config, steps) in [
        (SHAPES[2], teacher(), 150),
        (SHAPES[2], TeacherConfig { loss: LossConfig::Hybrid { lambda: 0.01 }, ..teacher() }, 150),
        (SHAPES[1], teacher(), 40),
        (SHAPES[0], teacher(), 40),
    ] {
        let output = if config.loss == LossConfig::Simple { Output::Mean } else { Output::MeanAndVariance };
        let (network, process) = (DenoiserConfig { output, ..network(shape) }, diffusion(Objective::V));
        let (data, diffusion) = (data(shape), process.build().unwrap());
        let nll = |net: &Denoiser<Train>| {
            let likelihood = Likelihood { samples: 12, timesteps: 30, seed: 1 };
            likelihood.measure(&net.valid(), &network, &diffusion, &data.held_out(), |_, _| ()).bits_per_dim
        };
        let (before, after) =
            (trained(&config, &network, &process, 0).0, trained(&config, &network, &process, steps).0);
        let (before, after) = (nll(&before), nll(&after));
        assert!(after < before - 0.2, "{shape}: {before} before, {after} after");
    }
}

/// The parts of a step's examples are its examples: their mean loss is the loss of all.
#[test]
fn the_loss_of_the_parts_is_the_loss_of_the_whole() {
    for shape in SHAPES {
        let (network, data) = (network(shape), data(shape));
        let (config, diffusion) = (teacher(), diffusion(Objective::V).build().unwrap());
        let task = task(&config, &network, &diffusion, &data);
        let net = network.init::<Train>(1, &Default::default()).unwrap();
        let loss = |part| -> f32 { step_loss(&task, &net, 3, part).into_scalar() };
        let parts: f32 = (0..4).map(|index| loss(Part { index, of: 4 })).sum();
        let whole = loss(Part::ALL);
        assert!((parts / 4.0 - whole).abs() < 1e-5 * whole, "{shape}: {parts} in parts, {whole} as a whole");
    }
}

/// The examples of a part are the part of the examples, whatever is done to data and noise, wherever the data are.
#[test]
fn a_part_and_streamed_data_are_the_same_examples() {
    let shape = SHAPES[0];
    let (network, data) = (DenoiserConfig { condition_channels: 3, ..network(shape) }, data(shape));
    let low_resolution = Some(LowResolution { factor: 2, noise: 0.1 });
    let process = DiffusionConfig { low_resolution, ..diffusion(Objective::V) }.build().unwrap();
    for immiscible in [false, true] {
        let noise = NoiseConfig { offset: 0.2, pyramid: 0.5, immiscible };
        let config = TeacherConfig { noise, augment: Augmentation(vec![Augment::Shift(1)]), ..teacher() };
        let on_device = task(&config, &network, &process, &data);
        let device = Default::default();
        let streamed = TeacherTask::<Flex>::new(&config, &network, &process, data.train(), 1, Placement::Host, &device);
        let whole = on_device.examples(on_device.host.plan(5, Part::ALL)).0;
        for index in 0..4 {
            let part = Part { index, of: 4 };
            for task in [&on_device, &streamed] {
                let found = task.examples(task.host.plan(5, part)).0;
                let same = |found: Tensor<Flex, 4>, whole: &Tensor<Flex, 4>| {
                    assert_eq!(worst(found, part.narrow(whole.clone())), 0.0, "part {index}, immiscible {immiscible}");
                };
                same(found.images, &whole.images);
                same(found.x, &whole.x);
                same(found.target, &whole.target);
                same(found.given.unwrap(), whole.given.as_ref().unwrap());
                assert_eq!(found.labels, part.slice(&whole.labels));
                assert_eq!(found.times.times, part.slice(&whole.times.times));
            }
        }
    }
}

/// Filling gaps of up to `most` rows.
fn gaps(most: usize) -> DiffusionConfig {
    DiffusionConfig { gaps: Some(Gaps { rows: [2, most] }), ..diffusion(Objective::X0) }
}

/// What is hidden is not seen, what is known is seen as it is, and the loss is of what is hidden alone; so too in parts and from
/// the host.
#[test]
fn a_network_for_gaps_sees_the_rest_and_is_judged_in_the_gap() {
    let shape = SHAPES[1];
    let (network, data) = (DenoiserConfig { condition_channels: 1, ..network(shape) }, data(shape));
    let (config, process) = (teacher(), gaps(5).build().unwrap());
    let on_device = task(&config, &network, &process, &data);
    let streamed =
        TeacherTask::<Flex>::new(&config, &network, &process, data.train(), 1, Placement::Host, &Default::default());
    let floats = |x: &Tensor<Flex, 4>| -> Vec<f32> { x.to_data().to_vec().unwrap() };
    let mut lengths = Vec::new();
    for step in 0..20 {
        let (examples, _) = on_device.examples(on_device.host.plan(step, Part::ALL));
        let known = floats(examples.given.as_ref().unwrap());
        let (x, target) = (floats(&examples.x), floats(&examples.target));
        let is_known = |at: usize| known[at / 16 * 8 + at % 8] == 1.0;
        assert!((0..x.len()).all(|at| x[at] == if is_known(at) { target[at] } else { 0.0 }));
        assert_eq!(target, floats(&examples.images));
        lengths.extend(known.chunks(8).map(|sample| sample.iter().filter(|&&value| value == 0.0).count()));
        let hidden = (0..x.len()).filter(|&at| !is_known(at)).map(|at| target[at] * target[at]).sum::<f32>();
        let net = network.init::<Train>(1, &Default::default()).unwrap();
        let loss: f32 = step_loss(&on_device, &net, step, Part::ALL).into_scalar();
        assert!((loss - hidden / x.len() as f32).abs() < 1e-6, "the untrained network says zero: {loss}");
        for index in 0..2 {
            let part = Part { index, of: 2 };
            for task in [&on_device, &streamed] {
                let found = task.examples(task.host.plan(step, part)).0;
                assert_eq!(worst(found.x, part.narrow(examples.x.clone())), 0.0);
                assert_eq!(worst(found.given.unwrap(), part.narrow(examples.given.clone().unwrap())), 0.0);
            }
        }
    }
    assert!(lengths.iter().all(|length| (2..=5).contains(length)) && (2..=5).all(|length| lengths.contains(&length)));
}

/// A signal that is one normal level and white noise has a best filling in closed form: the mean of what is known, drawn towards
/// zero, which errs by the noise and by what the level is uncertain.
#[test]
fn filling_a_linear_gaussian_signal_approaches_the_known_optimum() {
    let (shape, level, white) = (SampleShape::signal(8, 1), 0.5, 0.2);
    let mut random = StepRandom::new(3, 0);
    let mut samples = |count: usize| -> Vec<f32> {
        let sample = |_| {
            let values = random.normals(9);
            (1..9).map(|at| level * values[0] + white * values[at]).collect::<Vec<f32>>()
        };
        (0..count).flat_map(sample).collect()
    };
    let data = Dataset::new(shape, Values::Floats(samples(2000)), vec![0; 2000], vec!["all".to_owned()]);
    let network = DenoiserConfig { classes: 1, condition_channels: 1, ..network(shape) };
    let process = gaps(4);
    let config = TeacherConfig { batch: 64, class_dropout: 0.0, ..teacher() };
    let (net, _) = trained_on(&data, &config, &network, &process, 400);
    let test = Tensor::<Flex, 1>::from_floats(&samples(1000)[..], &Default::default()).reshape([1000, 1, 1, 8]);
    let known = crate::diffusion::known_rows(&vec![3..6; 1000], 8, &Default::default());
    let filled = fill(&net.valid(), &network, &test, &known);
    let (found, wanted): (Vec<f32>, Vec<f32>) =
        (filled.into_data().to_vec().unwrap(), test.into_data().to_vec().unwrap());
    assert!(
        (0..found.len()).all(|at| (3..6).contains(&(at % 8)) || found[at] == wanted[at]),
        "what is known has changed"
    );
    let error = found.iter().zip(&wanted).map(|(found, wanted)| (found - wanted).powi(2)).sum::<f32>() / 3000.0;
    let (level, white) = (level * level, white * white);
    let optimum = white + 1.0 / (1.0 / level + 5.0 / white);
    assert!(error > 0.9 * optimum && error < 1.25 * optimum, "{error}, the least possible is {optimum}");
}

/// No sample of a class that is left out, whatever is drawn.
#[test]
fn left_out_classes_are_in_no_batch() {
    use crate::dataset::{DataConfig, DataSource};
    let data = DataConfig { leave_out: vec!["triangle".to_owned()], ..DataSource::Waves.into() };
    let (kept, left_out) = (data.load().unwrap(), data.load_left_out().unwrap());
    let unet = toml::from_str::<UNetConfig>("widths = [4]\nblocks = 1\nmiddle = 1\ngroups = 2\nembedding = 8").unwrap();
    let network = DenoiserConfig { architecture: Architecture::UNet(unet), ..network(kept.shape) };
    let (config, process) = (TeacherConfig { batch: 50, ..teacher() }, diffusion(Objective::V).build().unwrap());
    let task = task(&config, &network, &process, &kept);
    let bits = |units: &[f32]| units.iter().map(|unit| unit.to_bits()).collect::<Vec<_>>();
    let units = |data: &Dataset, index: usize| bits(&data.units(index).collect::<Vec<f32>>());
    let forbidden: std::collections::HashSet<_> = (0..left_out.len()).map(|index| units(&left_out, index)).collect();
    let known: std::collections::HashSet<_> = kept.train().indices.iter().map(|&index| units(&kept, index)).collect();
    for step in 0..20 {
        let (examples, _) = task.examples(task.host.plan(step, Part::ALL));
        let values: Vec<f32> = crate::diffusion::to_units(examples.images);
        for sample in values.chunks(kept.shape.len()) {
            assert!(!forbidden.contains(&bits(sample)) && known.contains(&bits(sample)), "step {step}");
        }
    }
}

/// Nichol, Dhariwal: the bound trains the variance and leaves the mean to the simple loss.
#[test]
fn the_hybrid_losss_bound_does_not_move_the_mean() {
    let shape = SHAPES[1];
    let network = DenoiserConfig { output: Output::MeanAndVariance, ..network(shape) };
    let (data, diffusion) = (data(shape), diffusion(Objective::Epsilon).build().unwrap());
    let last_layer = |loss: LossConfig| -> Vec<f32> {
        let config = TeacherConfig { loss, ..teacher() };
        let task = task(&config, &network, &diffusion, &data);
        let net = network.init::<Train>(1, &Default::default()).unwrap();
        let Denoiser::UNet(unet) = &net else { unreachable!() };
        let gradient = unet.conv_out.weight.val().grad(&step_loss(&task, &net, 0, Part::ALL).backward()).unwrap();
        gradient.into_data().to_vec().unwrap()
    };
    let (simple, hybrid) = (last_layer(LossConfig::Simple), last_layer(LossConfig::Hybrid { lambda: 10.0 }));
    let (mean, variance) = simple.split_at(simple.len() / 2);
    let (hybrid_mean, hybrid_variance) = hybrid.split_at(simple.len() / 2);
    assert!(mean.iter().zip(hybrid_mean).all(|(a, b)| (a - b).abs() <= 1e-6 * a.abs()));
    assert!(variance.iter().all(|value| *value == 0.0) && hybrid_variance.iter().all(|value| *value != 0.0));
}

/// Every second sample of a self-conditioned network's batch sees an estimate, and all see the low resolution.
#[test]
fn half_of_the_samples_see_their_own_estimate() {
    let shape = SHAPES[0];
    let network = DenoiserConfig { self_conditioning: true, condition_channels: 3, ..network(shape) };
    let low_resolution = Some(LowResolution { factor: 2, noise: 0.1 });
    let process = DiffusionConfig { low_resolution, ..diffusion(Objective::V) };
    let (config, data, diffusion) = (teacher(), data(shape), process.build().unwrap());
    config.check(&process, &network).unwrap();
    let task = task(&config, &network, &diffusion, &data);
    let (examples, _) = task.examples(task.host.plan(0, Part::ALL));
    let net = network.init::<Train>(1, &Default::default()).unwrap();
    let own = task.own_estimate(&net.valid(), &examples);
    let Examples { x, times, given, .. } = examples;
    let given = given.unwrap();
    let extra = task.network.extra(&x, Some(own), Some(given.clone())).unwrap();
    assert_eq!(extra.dims(), [8, 6, 4, 6]);
    assert_eq!(worst(extra.clone().narrow(1, 3, 3), given), 0.0);
    // The untrained network's v is zero, so its estimate is `signal x`, within the pixels' range.
    let estimate = diffusion.estimate(&x, &x.zeros_like(), &times.times).clamp(-1.0, 1.0);
    for sample in 0..8 {
        let [seen, whole] = [&extra, &estimate].map(|x| x.clone().narrow(0, sample, 1).narrow(1, 0, 3));
        let expected = if sample % 2 == 0 { whole } else { whole.zeros_like() };
        assert_eq!(worst(seen, expected), 0.0, "sample {sample}");
    }
    assert!(trained(&config, &network, &process, 2).1.iter().all(|loss| loss.is_finite()));
}

/// The example on [`TeacherConfig`]'s page, and that a section without these fields is written as it was.
#[test]
fn the_options_are_read_as_their_page_has_them() {
    let page = include_str!("../teacher.rs");
    let (_, example) = page.split_once("/// ```toml\n").unwrap();
    let (example, _) = example.split_once("/// ```\n").unwrap();
    let plain = toml::to_string(&teacher()).unwrap();
    let (numbers, optimizer) = plain.split_once("[weighting]\nkind = \"uniform\"\n").unwrap();
    let text = format!("{numbers}{}{optimizer}", example.replace("/// ", ""));
    let wanted = TeacherConfig {
        weighting: Weighting::P2 { gamma: 1.0, k: 1.0 },
        loss: LossConfig::Hybrid { lambda: 0.001 },
        distance: Distance::PseudoHuber { c: 0.01 },
        timesteps: TimeSampling::Lognormal { mean: -1.2, std: 1.2 },
        noise: NoiseConfig { offset: 0.1, pyramid: 0.5, immiscible: true },
        gradient_checkpointing: true,
        ..teacher()
    };
    assert_eq!(toml::from_str::<TeacherConfig>(&text).unwrap(), wanted);
    for name in ["loss", "distance", "timesteps", "noise", "gradient_checkpointing"] {
        assert!(!plain.contains(name), "{plain}");
    }
}

#[test]
fn recipes_that_contradict_themselves_are_refused_with_what_to_do() {
    let (shape, process) = (SHAPES[0], diffusion(Objective::V));
    let refused = |config: TeacherConfig, process: &DiffusionConfig, network: &DenoiserConfig| {
        config.check(process, network).unwrap_err().to_string()
    };
    let two = DenoiserConfig { output: Output::MeanAndVariance, ..network(shape) };
    assert!(refused(teacher(), &process, &two).contains("kind = \"hybrid\""));
    let hybrid = TeacherConfig { loss: LossConfig::Hybrid { lambda: 0.001 }, ..teacher() };
    assert!(refused(hybrid.clone(), &process, &network(shape)).contains("mean_and_variance"));
    let continuous = DiffusionConfig { time: Time::Continuous, ..process.clone() };
    assert!(refused(hybrid, &continuous, &two).contains("a sum over the timesteps"));
    let vlb = TeacherConfig { loss: LossConfig::Vlb, ..teacher() };
    assert!(refused(vlb, &process, &network(shape)).contains("weighting = { kind = \"vlb\" }"));
    let given = DenoiserConfig { condition_channels: 3, ..network(shape) };
    assert!(refused(teacher(), &process, &given).contains("there are 0 channels to give"));
    let of_gaps = DenoiserConfig { condition_channels: 1, ..network(SHAPES[1]) };
    teacher().check(&gaps(5), &of_gaps).unwrap();
    assert!(refused(teacher(), &gaps(5), &network(SHAPES[1])).contains("diffusion.gaps 1"));
    assert!(refused(teacher(), &gaps(8), &of_gaps).contains("less than a signal's length"));
    let v = DiffusionConfig { objective: Objective::V, ..gaps(5) };
    assert!(refused(teacher(), &v, &of_gaps).contains("diffusion.objective = \"x0\""));
    let weighted = TeacherConfig { weighting: Weighting::TruncatedSnr, ..teacher() };
    assert!(refused(weighted, &gaps(5), &of_gaps).contains("is regression"));
    let low = DiffusionConfig { low_resolution: Some(LowResolution { factor: 2, noise: 0.0 }), ..gaps(5) };
    assert!(refused(teacher(), &low, &of_gaps).contains("not both"));
    let dropout = TeacherConfig { class_dropout: 1.5, ..teacher() };
    assert!(refused(dropout, &process, &network(shape)).contains("class_dropout is 1.5"));
}
