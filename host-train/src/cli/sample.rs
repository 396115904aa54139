//! `mote-train sample`.

mod settings;
mod values;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_core::noise::NoiseUse;

use super::Usage;
use super::settings::{OnBackend, Run, Settings};
use crate::dataset::{Dataset, SampleShape};
use crate::denoiser::DenoiserFile;
use crate::diffusion::sample::{
    ClassifierGuided, ClassifierShape, Known, Noise, NoisyClassifier, Resampling, Reverse, SamplerConfig,
    SamplingConfig, slerp,
};
use crate::diffusion::{Diffusion, Request, Sampler, from_pixels};
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::npy::Samples;
use crate::evaluate::sheet::{Legend, Section, sheet};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::trainer::{Checkpoints, Keep, read_denoiser};

pub(super) use settings::{SamplingArgs, range};
pub(super) use values::{Form, Series};

/// Draws samples of a run's teacher or student, or of any checkpoint: whole, from an image, between two, around what is known.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Where the samples go: .png (a picture of all), .npy or, for signals and vectors, .csv [default: RUN/samples.png]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How many [default: four of each class; eight where one image is worked on]
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    /// The class of all, its number or its name [default: classes in turn; the first where one image is worked on]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Seed of the noise: sample i is request (seed, i), here and on the chip
    #[arg(long, default_value_t = SAMPLING_SEED)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    uses: Uses,
}

/// Which network draws.
#[derive(Debug, clap::Args)]
pub(super) struct NetworkArgs {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// teacher, student, latest or best (checkpoints of the teacher's training), or any file of weights or checkpoint
    #[arg(long, value_name = "WEIGHTS", default_value = "teacher")]
    weights: String,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "What to draw [default: whole samples]")]
struct Uses {
    /// Redraw the dark part of --mask in this image (RePaint, Lugmayr et al. 2022), by ddpm unless --sampler says otherwise
    #[arg(long, value_name = "FILE", requires = "mask", group = "use")]
    inpaint: Option<PathBuf>,
    /// Bright where the image is known, dark where it is drawn
    #[arg(long, value_name = "FILE", requires = "inpaint")]
    mask: Option<PathBuf>,
    /// inpaint: steps that each turn goes back
    #[arg(long, value_name = "STEPS", default_value_t = 10)]
    jump: usize,
    /// inpaint: times that each stretch is walked; 1 only replaces the known part
    #[arg(long, value_name = "N", default_value_t = 10)]
    resamples: usize,
    /// Begin at this image with noise added (SDEdit, Meng et al. 2021)
    #[arg(long, value_name = "FILE", group = "use")]
    from: Option<PathBuf>,
    /// from, between: share of the steps that are walked; 1 leaves little of the image
    #[arg(long, value_name = "SHARE", default_value_t = 0.6)]
    strength: f64,
    /// Go from the noise of --seed to that of this seed, on the great circle
    #[arg(long, value_name = "SEED", group = "use")]
    interpolate: Option<u64>,
    /// Go from one image to another, both with noise added (Ho et al. 2020, section 4.3)
    #[arg(long, num_args = 2, value_names = ["FILE", "FILE"], group = "use")]
    between: Option<Vec<PathBuf>>,
    /// The low resolution that a super-resolution network enlarges, or an image of the samples' size, which is reduced first
    /// [default: those of the run's held-out data]
    #[arg(long, value_name = "FILE")]
    condition: Option<PathBuf>,
    /// Guide by the gradient of a classifier of noised data (Dhariwal, Nichol 2021), made by `mote-train classifier`
    #[arg(long, value_name = "FILE")]
    classifier: Option<PathBuf>,
    /// classifier: strength; 1 draws from the classes' distributions, more their typical samples
    #[arg(long, value_name = "S", default_value_t = 1.0, requires = "classifier")]
    classifier_scale: f64,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    args.network.open()?.on_backend(&args)
}

impl NetworkArgs {
    /// The run that the network belongs to.
    pub(super) fn open(&self) -> anyhow::Result<Run> {
        open_run(&self.run)
    }

    /// The network, and what it draws by default.
    pub(super) fn file(&self, dir: &RunDir) -> anyhow::Result<DenoiserFile> {
        read_denoiser(&self.path(dir)?)
    }

    /// The network's file.
    pub(super) fn path(&self, dir: &RunDir) -> anyhow::Result<PathBuf> {
        weights_file(dir, &self.weights)
    }
}

/// The run in this folder.
pub(super) fn open_run(dir: &Path) -> anyhow::Result<Run> {
    let none = || Usage(format!("{0} holds no run; `mote-train train --run {0}` begins one", dir.display()));
    Run::open(dir, Settings::recorded(dir)?.ok_or_else(none)?)
}

/// The file that `--weights` names.
pub(super) fn weights_file(dir: &RunDir, weights: &str) -> anyhow::Result<PathBuf> {
    let checkpoints = Checkpoints::new(dir.file("checkpoints"), Keep::default());
    let path = match weights {
        "teacher" | "student" => dir.file(&format!("{weights}.safetensors")),
        "latest" => checkpoints.latest(),
        "best" => checkpoints.best(),
        // A student of another name.
        name if dir.file(&format!("{name}.safetensors")).exists() => dir.file(&format!("{name}.safetensors")),
        path => PathBuf::from(path),
    };
    if !path.exists() {
        let path = path.display();
        return Err(Usage(format!(
            "there is no {path}; --weights {weights} needs it: give teacher, student, latest, best or a file"
        ))
        .into());
    }
    Ok(path)
}

/// What is made of a batch's noise.
enum Task<B: Backend> {
    /// Whole samples.
    Whole,
    Inpaint(Known<B>, Resampling),
    /// `[1, channels, height, width]`, noised to a row.
    From(Tensor<B, 4>, usize),
    /// From one state to another, `[1, channels, height, width]` each, at a row.
    Interpolate([Tensor<B, 4>; 2], usize),
}

impl<B: Backend> Task<B> {
    fn draw(&self, reverse: &Reverse<'_, B>, count: usize) -> Tensor<B, 4> {
        match self {
            Self::Whole => reverse.run(reverse.start(), 0),
            Self::Inpaint(known, resampling) => reverse.inpaint(known, *resampling),
            Self::From(data, row) => reverse.run(reverse.noised(data.clone(), *row), *row),
            Self::Interpolate(ends, row) => {
                let numbers = reverse.noise.samples.clone();
                let fractions: Vec<f64> =
                    numbers.map(|number| number as f64 / count.saturating_sub(1).max(1) as f64).collect();
                let [a, b] = ends.clone().map(|end| end.repeat_dim(0, fractions.len()));
                reverse.run(slerp(a, b, &fractions), *row)
            }
        }
    }
}

impl OnBackend for Args {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let (device, file) = (B::Device::default(), self.network.file(&run.dir)?);
        file.diffusion.check_draws()?;
        let (form, network) = (Form::of(&file), &file.network);
        ensure!(
            (network.shape, network.classes) == (run.data.shape, run.data.classes()),
            "the network draws {} classes of {}, the run's data are {} of {}",
            network.classes,
            network.shape,
            run.data.classes(),
            run.data.shape
        );
        let diffusion = file.diffusion.build()?;
        let sampling = self.sampling(&file)?;
        sampling.check(&diffusion).map_err(|error| Usage(error.to_string()))?;
        sampling.check_output(network.output).map_err(|error| Usage(error.to_string()))?;
        let class = self.class.as_deref().map(|class| class_number(class, &run.data.class_names)).transpose()?;
        let class = if self.uses.begins_elsewhere() { Some(class.unwrap_or(0)) } else { class };
        let count = self.count.unwrap_or(if class.is_none() { 4 * network.classes } else { 8 });
        if count == 0 {
            return Err(Usage("--count must be at least 1".to_owned()).into());
        }
        let net = file.net::<B::InnerBackend>(&device)?;
        let table = sampling.table(&diffusion);
        let task = self.uses.task::<B::InnerBackend>(&form, self.seed, &sampling, &table, &device)?;
        let classifier = match &self.uses.classifier {
            Some(path) => {
                let classifier = NoisyClassifier::<B>::from_bytes(&files::read(path)?, &device)
                    .with_context(|| path.display().to_string())?;
                let wanted = ClassifierShape { shape: network.shape, classes: network.classes };
                ensure!(
                    classifier.shape == wanted,
                    "the classifier is for {:?}, the network for {wanted:?}",
                    classifier.shape
                );
                Some(classifier)
            }
            None => None,
        };
        let sampler = Sampler { net: &net, config: network, diffusion: &diffusion, sampling };
        let bar = Progress::new("drawing samples");
        let request = Request { seed: self.seed, count, class };
        let condition = match &self.uses.condition {
            Some(path) => Some(condition_image(path, network.shape, &diffusion, &device)?),
            None => sampler.given_of(&run.data.held_out(), request, &device),
        };
        let draw = |reverse: &Reverse<'_, B::InnerBackend>, classes: &[usize]| match &classifier {
            None => task.draw(reverse, count),
            Some(classifier) => {
                let scale = self.uses.classifier_scale;
                let guided = ClassifierGuided::<B> { denoise: reverse.denoise, classifier, classes, scale };
                task.draw(&Reverse { denoise: &guided, ..reverse.clone() }, count)
            }
        };
        let units = sampler.draw_with(request, condition, &device, |done| bar.update(done, count), draw);
        bar.finish();
        let out = self.out.clone().unwrap_or_else(|| run.dir.file("samples.png"));
        if values::extension(&out) == "png" {
            let samples = Samples::from_units(units, form.shape);
            picture(&out, &samples, &run.data, class)?;
        } else {
            form.write(&out, units)?;
        }
        println!("Wrote {} ({count} samples, {} steps each)", out.display(), table.len());
        Ok(())
    }
}

impl Args {
    fn sampling(&self, file: &DenoiserFile) -> anyhow::Result<SamplingConfig> {
        let mut base = file.sampling.clone();
        if self.uses.inpaint.is_some() {
            base.sampler = SamplerConfig::Ddpm { variance: Default::default() };
        }
        let sampling = self.sampling.apply(&base)?;
        let restarts = self.uses.inpaint.is_some() || self.uses.from.is_some() || self.uses.between.is_some();
        if restarts {
            check_restarts(&sampling)?;
        }
        Ok(sampling)
    }
}

impl Uses {
    fn task<B: Backend>(
        &self,
        form: &Form,
        seed: u64,
        sampling: &SamplingConfig,
        table: &[mote_core::step_table::StepRow],
        device: &B::Device,
    ) -> anyhow::Result<Task<B>> {
        let tensor = |values: Vec<f32>| from_pixels::<B>(values, form.shape, device);
        let strength = || {
            let right = 0.0 < self.strength && self.strength <= 1.0;
            let rows = (self.strength * table.len() as f64).ceil() as usize;
            let wrong = || Usage(format!("--strength {} is not more than 0 and at most 1", self.strength));
            right.then(|| table.len() - rows.min(table.len())).ok_or_else(wrong)
        };
        if let (Some(image), Some(mask)) = (&self.inpaint, &self.mask) {
            let resampling = Resampling { jump: self.jump, resamples: self.resamples };
            resampling.check(table.len()).map_err(|error| Usage(error.to_string()))?;
            debug_assert!(sampling.sampler.one_row_a_level());
            let known = Known { data: tensor(form.sample(image)?), mask: tensor(form.mask(mask)?) };
            return Ok(Task::Inpaint(known, resampling));
        }
        if let Some(image) = &self.from {
            return Ok(Task::From(tensor(form.sample(image)?), strength()?));
        }
        let noise = |seed, samples| Noise::<B> { seed, samples, shape: form.shape, device: device.clone() };
        if let Some(other) = self.interpolate {
            let ends = [seed, other].map(|seed| noise(seed, 0..1).normal(NoiseUse::Start));
            return Ok(Task::Interpolate(ends, 0));
        }
        if let Some(images) = &self.between {
            let row = strength()?;
            let both = noise(seed, 0..2).normal(NoiseUse::Start);
            let mut ends = Vec::new();
            for (number, image) in images.iter().enumerate() {
                let data = tensor(form.sample(image)?) * table[row].signal;
                ends.push(data + both.clone().narrow(0, number, 1) * table[row].noise);
            }
            let ends =
                <[Tensor<B, 4>; 2]>::try_from(ends).map_err(|_| Usage("--between takes two images".to_owned()))?;
            return Ok(Task::Interpolate(ends, row));
        }
        Ok(Task::Whole)
    }

    /// Whether one thing is worked on, rather than a set of samples drawn.
    fn begins_elsewhere(&self) -> bool {
        let Self { inpaint, from, interpolate, between, .. } = self;
        inpaint.is_some() || from.is_some() || interpolate.is_some() || between.is_some()
    }
}

/// Whether a sampler can begin at any of its rows.
pub(super) fn check_restarts(sampling: &SamplingConfig) -> Result<(), Usage> {
    match sampling.sampler {
        sampler if sampler.one_row_a_level() => Ok(()),
        sampler => Err(Usage(format!(
            "{sampler:?} cannot begin or turn back within its steps; take --sampler ddpm, ddim, euler, churn or consistency"
        ))),
    }
}

/// What a super-resolution network is given, `[1, channels, height, width]`.
fn condition_image<B: Backend>(
    path: &Path,
    shape: SampleShape,
    diffusion: &Diffusion,
    device: &B::Device,
) -> anyhow::Result<Tensor<B, 4>> {
    let low = diffusion.low_resolution.ok_or_else(|| {
        let message = "this network sees nothing beside the state; --condition is for those trained with \
                       diffusion.low_resolution";
        Usage(message.to_owned())
    })?;
    let small = low.shape(shape);
    let found = values::open(path)?;
    let image = if (found.height() as usize, found.width() as usize) == (small.height, small.width) {
        from_pixels(values::picture(path, small)?, small, device)
    } else {
        low.reduce(from_pixels(values::picture(path, shape)?, shape, device))
    };
    Ok(low.enlarge(image, [shape.height, shape.width]))
}

/// Most samples side by side.
const COLUMNS: usize = 16;

/// A picture of samples: classes in columns, or samples of one class in as even rows as their number allows.
fn picture(path: &Path, samples: &Samples, data: &Dataset, class: Option<usize>) -> anyhow::Result<()> {
    let count = samples.len();
    let (names, heading) = match class {
        None if count.is_multiple_of(data.classes()) => (data.class_names.clone(), "samples".to_owned()),
        _ => {
            let columns = (1..=COLUMNS.min(count)).rev().find(|columns| count.is_multiple_of(*columns)).unwrap_or(1);
            let heading = class.map_or("samples".to_owned(), |class| data.class_names[class].clone());
            ((0..columns).map(|column| column.to_string()).collect(), heading)
        }
    };
    let legend = Legend { class_names: &names, scale: &data.channels_scale };
    let rows = count / names.len();
    let sheet = sheet(legend, &[Section { label: vec![heading], samples }], rows, "")?;
    files::write_atomically(path, &sheet.to_png()?)
}

/// The class that is meant: its number, else its name.
pub(super) fn class_number(class: &str, names: &[String]) -> Result<usize, Usage> {
    let number = class.parse().ok().filter(|&number: &usize| number < names.len());
    number.or_else(|| names.iter().position(|name| name == class)).ok_or_else(|| {
        Usage(format!("there is no class {class}; give 0 to {} or one of {}", names.len() - 1, names.join(", ")))
    })
}
