//! Both architectures, on both processors.

use burn::backend::{Autodiff, Flex, NdArray};
use burn::tensor::TensorData;
use burn::tensor::backend::AutodiffBackend;
use mote_core::noise::Philox;
use rand::Rng;
use safetensors::SafeTensors;
use serde_json::json;

use super::condition::Dropout;
use super::*;
use crate::dataset::{ChannelScale, SampleShape};
use crate::diffusion::DiffusionConfig;
use crate::diffusion::sample::SamplingConfig;
use crate::quantize::TooLarge;

fn small_unet() -> UNetConfig {
    let widths = vec![4, 8];
    UNetConfig { widths, blocks: 1, middle: 1, groups: 2, embedding: 8, attention: vec![1], heads: 2, dropout: 0.0 }
}

fn small() -> DenoiserConfig {
    DenoiserConfig {
        shape: SampleShape::image(6, 4, 1),
        classes: 3,
        architecture: Architecture::UNet(small_unet()),
        output: Output::Mean,
        self_conditioning: false,
        condition_channels: 0,
    }
}

fn small_mlp() -> DenoiserConfig {
    let mlp = MlpConfig { width: 12, blocks: 2, groups: 2, embedding: 8, dropout: 0.0 };
    DenoiserConfig { shape: SampleShape::vector(5), architecture: Architecture::Mlp(mlp), ..small() }
}

/// `count` values of a wave.
fn wave<B: Backend, const D: usize>(shape: [usize; D], pitch: f32, size: f32) -> Tensor<B, D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * pitch).sin() * size).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// The network with parameters of ordinary size, none of them zero.
fn filled<B: DenoiserBackend>(config: &DenoiserConfig) -> Denoiser<B> {
    let net = config.init::<B>(7, &Default::default()).unwrap();
    let len = parameters(&net).dims()[0];
    set_parameters(net, wave([len], 0.37, 0.3))
}

/// The gradient of all parameters for some fixed weights, samples and conditions, extra channels and dropout included.
fn gradient<B>(config: &DenoiserConfig) -> Vec<f32>
where
    B: DenoiserBackend + AutodiffBackend,
    B::InnerBackend: DenoiserBackend,
{
    let device = Default::default();
    let net = filled::<B>(config);
    let SampleShape { height, width, channels } = config.shape;
    let mut condition = Condition::new(config, &[0, 500, 999], 1000, &[2, 0, 3], &device);
    let extra = [3, config.extra_channels(), height, width];
    condition.extra = (config.extra_channels() > 0).then(|| wave(extra, 0.53, 1.0));
    condition.dropout = Some(5);
    let loss = (net.forward(wave([3, channels, height, width], 0.71, 1.0), &condition) - 0.5).powi_scalar(2).mean();
    gradients(&net, &loss.backward()).into_data().to_vec().unwrap()
}

#[test]
fn gradients_agree_between_flex_and_ndarray() {
    let dropping = Architecture::UNet(UNetConfig { dropout: 0.3, ..small_unet() });
    let told = DenoiserConfig {
        architecture: dropping,
        output: Output::MeanAndVariance,
        self_conditioning: true,
        condition_channels: 2,
        ..small()
    };
    let signal = DenoiserConfig { shape: SampleShape::signal(8, 2), ..told.clone() };
    for config in [small(), told, signal, small_mlp()] {
        let (ours, theirs) = (gradient::<Autodiff<Flex>>(&config), gradient::<Autodiff<NdArray>>(&config));
        let most = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-4 * most, "off by {worst} of {most}");
        assert!(ours.iter().filter(|value| **value != 0.0).count() > ours.len() / 2);
    }
}

#[test]
fn kept_features_are_those_computed_anew() {
    let (config, device) = (small(), Default::default());
    let features = Features::<Flex>::new(&config, 50, &device);
    for times in [[0.0, 49.0, 7.0], [0.0, 7.5, 49.0], [50.0, 1.0, 2.0]] {
        let kept = features.condition(&config, &times, &[2, 0, 1]);
        let anew = Condition::<Flex>::at(&config, &times, 50, &[2, 0, 1], &device);
        assert_eq!(kept.time.into_data(), anew.time.into_data(), "{times:?}");
        assert_eq!(kept.class.into_data(), anew.class.into_data());
    }
}

#[test]
fn networks_that_cannot_be_are_refused() {
    let with = |unet: UNetConfig| DenoiserConfig { architecture: Architecture::UNet(unet), ..small() }.check();
    let odd = DenoiserConfig { shape: SampleShape::image(6, 5, 1), ..small() };
    assert!(odd.check().unwrap_err().to_string().contains("5 wide and 6 high cannot be halved 1 times"));
    assert_eq!(with(UNetConfig { groups: 3, ..small_unet() }), Err(ConfigError::Groups { width: 4, groups: 3 }));
    assert_eq!(
        with(UNetConfig { attention: vec![2], ..small_unet() }),
        Err(ConfigError::NoLevel { level: 2, last: 1 })
    );
    assert_eq!(with(UNetConfig { heads: 3, ..small_unet() }), Err(ConfigError::Heads { width: 8, heads: 3 }));
    assert_eq!(with(UNetConfig { middle: 0, ..small_unet() }), Err(ConfigError::Zero("middle")));
    assert_eq!(with(UNetConfig { embedding: 7, ..small_unet() }), Err(ConfigError::Embedding(7)));
    assert_eq!(with(UNetConfig { widths: vec![], ..small_unet() }), Err(ConfigError::Zero("number of widths")));
    assert_eq!(with(UNetConfig { dropout: 1.0, ..small_unet() }), Err(ConfigError::Dropout(1.0)));
    let pictures = DenoiserConfig { shape: small().shape, ..small_mlp() };
    assert_eq!(pictures.check(), Err(ConfigError::NotVectors(small().shape)));
    let vectors = DenoiserConfig { shape: SampleShape::vector(5), ..small() };
    assert_eq!(vectors.check(), Err(ConfigError::Vectors(5)));
}

#[test]
fn what_core_cannot_run_is_not_exportable() {
    assert_eq!(small().exportable(), Ok(()));
    assert_eq!(small_mlp().exportable(), Ok(()));
    let learned = DenoiserConfig { output: Output::MeanAndVariance, ..small() };
    assert_eq!(learned.exportable(), Err(NotExportable::LearnedVariance));
    let itself = DenoiserConfig { self_conditioning: true, ..small() };
    assert_eq!(itself.exportable(), Err(NotExportable::SelfConditioning));
    let told = DenoiserConfig { condition_channels: 1, ..small() };
    assert_eq!(told.exportable(), Err(NotExportable::ConditionChannels));

    let with = |side: usize, channels: usize, unet: UNetConfig| {
        let (shape, architecture) = (SampleShape::image(side, side, channels), Architecture::UNet(unet));
        DenoiserConfig { shape, architecture, ..small() }.exportable()
    };
    let too_large = |what, found, most| Err(NotExportable::TooLarge(TooLarge { what, found, most }));
    assert_eq!(with(128, 1, small_unet()), Ok(()));
    let fine = UNetConfig { groups: 4, ..small_unet() };
    assert_eq!(with(256, 1, fine), too_large("pixels under an attention", 128 * 128, 4096));
    let plain = UNetConfig { attention: vec![], ..small_unet() };
    assert_eq!(with(256, 1, plain.clone()), too_large("values in a group", 2 * 65_536, 65_536));
    let wide = UNetConfig { widths: vec![32], groups: 32, ..plain };
    assert_eq!(with(1024, 1, wide), too_large("values in a tensor", 32 << 20, 1 << 24));
}

/// Random sizes, small: pictures, signals and vectors, every option now and then.
fn random_configs(count: usize) -> impl Iterator<Item = DenoiserConfig> {
    let mut random = Philox::new(1);
    let mut below = move |below: u32| (random.next_u32() % below) as usize;
    (0..count).map(move |_| {
        let (levels, groups) = (1 + below(3), 1 + below(2));
        let side = |steps: usize| steps << (levels - 1);
        let shape = match below(3) {
            0 => SampleShape::image(side(1 + below(3)), side(1 + below(3)), 1 + below(3)),
            1 => SampleShape::signal(side(2 + below(4)), 1 + below(3)),
            _ => SampleShape::vector(1 + below(6)),
        };
        let (embedding, dropout) = (2 * (1 + below(4)), below(2) as f64 * 0.25);
        let architecture = if shape.is_vector() {
            Architecture::Mlp(MlpConfig {
                width: groups * (1 + below(6)),
                blocks: 1 + below(3),
                groups,
                embedding,
                dropout,
            })
        } else {
            let heads = 1 + below(2);
            let widths: Vec<usize> = (0..levels).map(|_| groups * heads * (1 + below(3))).collect();
            let attention = (0..levels).filter(|_| below(2) == 0).collect();
            let (blocks, middle) = (1 + below(2), 1 + below(2));
            Architecture::UNet(UNetConfig { widths, blocks, middle, groups, embedding, attention, heads, dropout })
        };
        let output = [Output::Mean, Output::MeanAndVariance][below(2)];
        let (self_conditioning, condition_channels) = (below(2) == 0, below(3));
        DenoiserConfig { shape, classes: 1 + below(4), architecture, output, self_conditioning, condition_channels }
    })
}

fn values<const D: usize>(tensor: Tensor<Flex, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

#[test]
fn any_network_has_the_right_shape_begins_as_its_seed_says_and_keeps_its_parameters_in_a_file() {
    let device = Default::default();
    for config in random_configs(40) {
        let SampleShape { height, width, channels } = config.shape;
        let begun = |seed| values(parameters(&config.init::<Flex>(seed, &device).unwrap()));
        assert_eq!(begun(3), begun(3), "{config:?}");
        assert_ne!(begun(3), begun(4), "{config:?}");

        let net = filled::<Flex>(&config);
        let x = wave([2, channels, height, width], 0.71, 1.0);
        let mut condition = Condition::new(&config, &[3, 9], 10, &[0, config.classes], &device);
        let plain = net.forward(x.clone(), &condition);
        assert_eq!(plain.dims(), [2, config.output_channels(), height, width], "{config:?}");
        let plain = values(plain);
        assert!(plain.iter().all(|value| value.is_finite()), "{config:?}");
        condition.extra = Some(Tensor::zeros([2, config.extra_channels(), height, width], &device))
            .filter(|_| config.extra_channels() > 0);
        assert_eq!(values(net.forward(x, &condition)), plain, "no extra channels are zeros: {config:?}");

        let file = DenoiserFile {
            network: config.clone(),
            diffusion: diffusion(),
            sampling: SamplingConfig::ddim(4, 1.0),
            channels_scale: vec![ChannelScale { offset: 0.5, scale: 2.0 }; channels],
            parameters: values(parameters(&net)),
        };
        for convention in [Convention::Own, Convention::PyTorch] {
            assert_eq!(DenoiserFile::read(&file.write(convention), convention).unwrap(), file, "{convention:?}");
        }
        assert_eq!(values(parameters(&file.net::<Flex>(&device).unwrap())), file.parameters);
    }
}

fn diffusion() -> DiffusionConfig {
    serde_json::from_value(json!({
        "objective": "v", "timesteps": 10, "schedule": { "kind": "cosine", "offset": 0.008 }
    }))
    .unwrap()
}

#[test]
fn pytorchs_linear_weights_are_turned_and_its_gains_are_called_weights() {
    let config = small_mlp();
    let Denoiser::Mlp(net) = filled::<Flex>(&config) else { panic!("a perceptron") };
    let weight = net.linear_in.weight.val();
    let norm = values(net.norm_out.gain.val());
    let (sampling, channels_scale) = (SamplingConfig::ddim(1, 1.0), Vec::new());
    let parameters = values(parameters(&Denoiser::Mlp(net)));
    let file = DenoiserFile { network: config, diffusion: diffusion(), sampling, channels_scale, parameters };
    let bytes = file.write(Convention::PyTorch);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |name: &str| -> (Vec<usize>, Vec<f32>) {
        let tensor = tensors.tensor(name).unwrap();
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
        (tensor.shape().to_vec(), tensor.data().chunks_exact(4).map(value).collect())
    };
    assert_eq!(floats("linear_in.weight"), (vec![12, 5], values(weight.transpose())));
    assert_eq!(floats("norm_out.weight"), (vec![12], norm));
    assert_eq!(floats("embedding.class").0, [4, 8]);
    assert!(DenoiserFile::from_bytes(&bytes).is_err(), "the other convention's names");
}

#[test]
fn dropout_is_a_function_of_its_seed_keeps_the_mean_and_is_off_without_one() {
    let drop = |rate, seed| {
        values(Dropout::new(rate, seed).apply(Tensor::<Flex, 4>::ones([10, 10, 10, 10], &Default::default())))
    };
    let dropped = drop(0.25, Some(1));
    assert_eq!(drop(0.25, Some(1)), dropped);
    assert_ne!(drop(0.25, Some(2)), dropped);
    assert!(drop(0.25, None).iter().chain(&drop(0.0, Some(1))).all(|&value| value == 1.0));
    for rate in [0.25, 0.5, 0.8] {
        let dropped = drop(rate, Some(1));
        let zeros = dropped.iter().filter(|&&value| value == 0.0).count() as f64;
        // Five standard deviations of a binomial distribution.
        let deviation = (1e4 * rate * (1.0 - rate)).sqrt();
        assert!((zeros - 1e4 * rate).abs() < 5.0 * deviation, "{zeros} of 10,000 at {rate}");
        assert!(dropped.iter().all(|&value| value == 0.0 || value == (1.0 / (1.0 - rate)) as f32));
    }
}
