//! Both architectures, on both processors.

use burn::backend::{Autodiff, Flex, NdArray};
use burn::tensor::TensorData;
use burn::tensor::backend::AutodiffBackend;

use super::*;
use crate::dataset::SampleShape;

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
fn filled<B: Backend>(config: &DenoiserConfig) -> Denoiser<B> {
    let net = config.init::<B>(7, &Default::default()).unwrap();
    let len = parameters(&net).dims()[0];
    set_parameters(net, wave([len], 0.37, 0.3))
}

/// The gradient of all parameters for some fixed weights, samples and conditions, extra channels and dropout included.
fn gradient<B: DenoiserBackend + AutodiffBackend>(config: &DenoiserConfig) -> Vec<f32> {
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
}
