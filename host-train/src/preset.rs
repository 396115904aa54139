//! Presets: complete recipes, as TOML.

mod overrides;

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::dataset::{DataConfig, Dataset};
use crate::denoiser::{Architecture, DenoiserConfig, Output};
use crate::diffusion::DiffusionConfig;
use crate::diffusion::sample::SamplingConfig;
use crate::distill::DistillConfig;
use crate::files;
use crate::trainer::{TeacherConfig, WatchConfig};

/// The named presets, `presets/*.toml`.
pub const NAMED: [(&str, &str); 8] = [
    ("demo", include_str!("../presets/demo.toml")),
    ("fashion", include_str!("../presets/fashion.toml")),
    ("fugue", include_str!("../presets/fugue.toml")),
    ("crawl", include_str!("../presets/crawl.toml")),
    ("motion", include_str!("../presets/motion.toml")),
    ("toy", include_str!("../presets/toy.toml")),
    ("toy-signal", include_str!("../presets/toy-signal.toml")),
    ("toy-table", include_str!("../presets/toy-table.toml")),
];

/// A complete recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// The data; the embedded set where nothing is said.
    #[serde(default)]
    pub data: DataConfig,
    /// Sizes of the network that do not come from the data.
    pub network: NetworkPreset,
    /// Process and objective.
    pub diffusion: DiffusionConfig,
    /// The teacher's training.
    pub train: TeacherConfig,
    /// What is watched while the teacher trains.
    #[serde(default)]
    pub watch: WatchConfig,
    /// How the teacher draws.
    pub sample: SamplePreset,
    /// The way to a student of few steps.
    pub distill: DistillConfig,
}

/// What of the network does not come from the data.
///
/// As text one table: `kind` (`"unet"` where it is not said, or `"mlp"`) with the fields of [`Architecture`]'s variant of
/// that name, and the fields below, each with its default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "serde_json::Map<String, serde_json::Value>", into = "serde_json::Value")]
pub struct NetworkPreset {
    /// The network.
    pub architecture: Architecture,
    /// What it says: `"mean"` (default) or `"mean_and_variance"`.
    pub output: Output,
    /// Whether it also sees its own estimate; default no.
    pub self_conditioning: bool,
    /// Channels of an image that it also sees; default 0.
    pub condition_channels: usize,
    /// Whether it is to become a `.mote` file, so that what core cannot run is refused before training; default yes.
    /// Without, it trains and draws on the host alone.
    pub export: bool,
}

/// The fields of a [`NetworkPreset`] beside the architecture's.
#[derive(Serialize, Deserialize)]
#[serde(default)]
struct Around {
    output: Output,
    self_conditioning: bool,
    condition_channels: usize,
    export: bool,
}

impl Default for Around {
    fn default() -> Self {
        Self { output: Output::Mean, self_conditioning: false, condition_channels: 0, export: true }
    }
}

impl TryFrom<serde_json::Map<String, serde_json::Value>> for NetworkPreset {
    type Error = serde_json::Error;

    fn try_from(mut fields: serde_json::Map<String, serde_json::Value>) -> Result<Self, Self::Error> {
        let names = ["output", "self_conditioning", "condition_channels", "export"];
        let around = names.into_iter().filter_map(|name| fields.remove_entry(name)).collect();
        let Around { output, self_conditioning, condition_channels, export } = serde_json::from_value(around)?;
        fields.entry("kind").or_insert_with(|| "unet".into());
        let architecture = serde_json::from_value(fields.into())?;
        Ok(Self { architecture, output, self_conditioning, condition_channels, export })
    }
}

impl From<NetworkPreset> for serde_json::Value {
    fn from(preset: NetworkPreset) -> Self {
        let NetworkPreset { architecture, output, self_conditioning, condition_channels, export } = preset;
        let around = Around { output, self_conditioning, condition_channels, export };
        let tables = [serde_json::to_value(architecture), serde_json::to_value(around)];
        let fields = tables.into_iter().flat_map(|table| match table {
            Ok(Self::Object(fields)) => fields,
            other => unreachable!("a struct of plain numbers became {other:?}"),
        });
        fields.collect()
    }
}

/// How the teacher draws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplePreset {
    /// The sampler and its settings, fields of this same table.
    #[serde(flatten)]
    pub sampling: SamplingConfig,
    /// Images drawn for the report, at least; a whole number for each class is drawn.
    pub samples: usize,
}

impl Preset {
    /// The named presets, for a message.
    pub fn names() -> String {
        NAMED.map(|(name, _)| name).join(", ")
    }

    /// A named preset, or a TOML file.
    ///
    /// # Errors
    /// If there is no such preset or file, or it is not a recipe.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        let named = NAMED.iter().find(|(known, _)| *known == name);
        let text = match named {
            Some((_, text)) => (*text).to_owned(),
            None if !name.ends_with(".toml") => {
                anyhow::bail!("there is no preset {name}; give one of {}, or a .toml file", Self::names())
            }
            None => String::from_utf8(files::read(Path::new(name))?).context("a preset is text")?,
        };
        let mut preset: Self = toml::from_str(&text).with_context(|| format!("preset {name} is not a recipe"))?;
        let folder = Path::new(name).parent().unwrap_or(Path::new(""));
        preset.diffusion.schedule = preset.diffusion.schedule.load(folder)?;
        Ok(preset)
    }

    /// The network for a data set.
    pub fn network(&self, data: &Dataset) -> DenoiserConfig {
        let NetworkPreset { architecture, output, self_conditioning, condition_channels, .. } = self.network.clone();
        let (shape, classes) = (data.shape, data.classes());
        DenoiserConfig { shape, classes, architecture, output, self_conditioning, condition_channels }
    }

    /// [`Preset::network`], if there can be one and it can become a `.mote` file where the preset says that it is to.
    ///
    /// # Errors
    /// [`crate::denoiser::ConfigError`], [`crate::denoiser::NotExportable`], [`TeacherConfig::check`],
    /// [`crate::diffusion::DiffusionError`].
    pub fn checked_network(&self, data: &Dataset) -> anyhow::Result<DenoiserConfig> {
        let network = self.network(data);
        network.check()?;
        if self.network.export {
            network.exportable().context("say `export = false` under [network] to train it for this machine alone")?;
        }
        self.diffusion.build()?;
        self.train.check(&self.diffusion, &network)?;
        Ok(network)
    }

    /// Samples to draw for `classes` classes: [`SamplePreset::samples`] rounded up to a multiple.
    pub fn samples(&self, classes: usize) -> usize {
        self.sample.samples.next_multiple_of(classes)
    }

    /// # Errors
    /// The first number that makes no sense, with what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.diffusion.timesteps >= 1, "diffusion.timesteps must be at least 1");
        self.sample.sampling.check(&self.diffusion.build()?)?;
        self.sample.sampling.check_output(self.network.output)?;
        anyhow::ensure!(self.train.batch >= 1, "train.batch must be at least 1");
        anyhow::ensure!(self.train.steps >= 1, "train.steps must be at least 1");
        self.train.optimizer.check(self.train.batch).context("under [train]")?;
        self.distill.check(self.diffusion.timesteps).context("under [distill]")?;
        self.watch.check()?;
        anyhow::ensure!(self.sample.samples >= 1, "sample.samples must be at least 1");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{DataSource, SampleShape, Values};

    /// The data that a named preset is for, or two blank samples of its shape where they would have to be fetched.
    fn data(preset: &Preset) -> Dataset {
        let DataSource::Fetched { name, .. } = &preset.data.source else {
            return preset.data.load().unwrap();
        };
        let (shape, classes) = match &name[..] {
            "fashion" => (SampleShape::image(28, 28, 1), 10),
            "fugue" => (SampleShape::image(16, 16, 4), 10),
            "crawl" => (SampleShape::image(32, 32, 4), 10),
            "motion" => (SampleShape::signal(128, 6), 7),
            _ => panic!("{name}: say here what it holds"),
        };
        let values = match shape.is_image() {
            true => Values::Bytes(vec![0; 2 * shape.len()]),
            false => Values::Floats(vec![0.0; 2 * shape.len()]),
        };
        Dataset::new(shape, values, vec![0; 2], (0..classes).map(|class: u32| class.to_string()).collect())
    }

    #[test]
    fn named_presets_are_usable_with_their_data_and_become_models() {
        for (name, text) in NAMED {
            let preset = Preset::find(name).unwrap();
            preset.check().unwrap();
            let data = data(&preset);
            assert!(preset.network.export, "{name}");
            preset.checked_network(&data).unwrap();
            preset.train.augment.check(data.shape).unwrap();
            assert!(text.starts_with("# "), "{name} does not say what it is");
        }
    }

    #[test]
    fn the_kind_of_network_is_a_unet_where_none_is_said() {
        let text = "widths = [4]\nblocks = 1\nmiddle = 1\ngroups = 2\nembedding = 8";
        let parse = |text: &str| toml::from_str::<NetworkPreset>(text);
        let plain = parse(text).unwrap();
        assert_eq!(parse(&format!("kind = \"unet\"\n{text}\nexport = true\noutput = \"mean\"")).unwrap(), plain);
        assert!(parse(&format!("{text}\nwidth = 3")).unwrap_err().to_string().contains("unknown field `width`"));
        assert!(parse("kind = \"mlp\"\nwidth = 8\nblocks = 1").unwrap_err().to_string().contains("embedding"));
        let perceptron = parse("kind = \"mlp\"\nwidth = 8\nblocks = 1\nembedding = 8\nexport = false").unwrap();
        assert!(matches!(&perceptron.architecture, Architecture::Mlp(mlp) if mlp.groups == 1) && !perceptron.export);
        for preset in [plain, perceptron] {
            let json = serde_json::to_string(&preset).unwrap();
            assert_eq!(serde_json::from_str::<NetworkPreset>(&json).unwrap(), preset);
        }
    }

    #[test]
    fn what_core_cannot_run_is_refused_before_training_unless_it_is_not_to_be_exported() {
        let mut preset = Preset::find("toy").unwrap();
        preset.network.self_conditioning = true;
        let data = crate::dataset::embedded();
        let refused = format!("{:#}", preset.checked_network(&data).unwrap_err());
        assert!(refused.contains("self-conditioning") && refused.contains("export = false"), "{refused}");
        preset.network.export = false;
        preset.checked_network(&data).unwrap();
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        let error = Preset::find("dmeo").unwrap_err().to_string();
        assert!(NAMED.iter().all(|(name, _)| error.contains(name)), "{error}");
    }
}
