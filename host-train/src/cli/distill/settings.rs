//! The flags that change how a run's preset distills.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cli::Usage;
use crate::cli::sample::range;
use crate::denoiser::{Architecture, UNetConfig};
use crate::distill::{DistillConfig, Method, Placement, Plan, States};
use crate::preset::{NetworkPreset, Preset};

/// Changes of the preset's `[distill]`.
#[derive(Debug, Clone, Default, PartialEq, clap::Args)]
pub(super) struct RecipeArgs {
    /// A .toml file whose [distill] is the recipe, such as host-train/presets/students/fashion-2.toml [default: the run's preset's]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// The student's sampling steps, such as 4, 2 or 1 [default: as the preset's last stage]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// The way there [default: trajectory where another flag asks for other stages than the preset's]
    #[arg(long, value_enum)]
    method: Option<Method>,
    /// Sampling steps of the guided teacher [default: as the preset's first stage]
    #[arg(long, value_name = "N")]
    teacher_steps: Option<usize>,
    /// Training steps of all stages together [default: as the preset's]
    #[arg(long, value_name = "N")]
    train_steps: Option<u64>,
    /// The teacher's trajectories to learn from, drawn once; 0: noised training samples instead, the teacher runs in every step
    /// [default: as the preset's first stage]
    #[arg(long, value_name = "N")]
    trajectories: Option<usize>,
    /// The student's timesteps: spread evenly, or where the teacher's trajectories bend least between them [default: trailing]
    #[arg(long, value_enum)]
    placement: Option<PlacementName>,
    /// The student's timesteps themselves, falling from the last one; the nearest of the teacher's are taken
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', conflicts_with_all = ["placement", "steps"])]
    timesteps: Option<Vec<u32>>,
    /// Classifier-free guidance to fold in [default: as the teacher draws]
    #[arg(long, value_name = "W")]
    guidance: Option<f64>,
    /// Guide only where sigma lies in this range; of the cosine schedule 0.17,3.1 is between 0.1 and 0.8 of the timesteps
    /// (Kynkäänniemi et al. 2024) [default: as the teacher draws]
    #[arg(long, value_name = "LO,HI", value_parser = range)]
    guidance_interval: Option<[f64; 2]>,
    /// The student's network: widths such as 8,16, a named preset's, or a .toml file's [network] [default: the teacher's]
    #[arg(long, value_name = "WIDTHS|NAME|FILE")]
    student: Option<String>,
    /// Trajectories drawn at once [default: as the preset's, 100]
    #[arg(long, value_name = "N")]
    chunk: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PlacementName {
    Trailing,
    Tuned,
}

impl RecipeArgs {
    /// The preset's recipe with what is asked for instead; `begun` if the student begins as one that was distilled before.
    ///
    /// # Errors
    /// [`Usage`] for what cannot be.
    pub(super) fn apply(&self, preset: &Preset, begun: bool) -> anyhow::Result<DistillConfig> {
        let mut recipe = match &self.recipe {
            None => preset.distill.clone(),
            Some(path) => read(path).map_err(|error| Usage(format!("--recipe {}: {error:#}", path.display())))?,
        };
        recipe.guidance = self.guidance.or(recipe.guidance);
        recipe.guidance_interval = self.guidance_interval.or(recipe.guidance_interval);
        recipe.chunk = self.chunk.unwrap_or(recipe.chunk);
        if let Some(student) = &self.student {
            let found = network(student, &preset.network.architecture);
            recipe.student = Some(found.map_err(|error| Usage(format!("--student {student}: {error:#}")))?);
        }
        if self.other_stages() {
            recipe.stages = Plan { begun, ..self.plan(&recipe, preset) }.stages();
        }
        let check = || -> anyhow::Result<()> {
            if let Some([low, high]) = recipe.guidance_interval {
                anyhow::ensure!(0.0 <= low && low < high, "--guidance-interval {low},{high}: give 0 <= LO < HI");
            }
            anyhow::ensure!(recipe.guidance.is_none_or(f64::is_finite), "--guidance must be a number");
            recipe.check(preset.diffusion.timesteps)
        };
        check().map_err(|error| Usage(format!("{error:#}")))?;
        Ok(recipe)
    }

    /// Whether the student's network is given.
    pub(super) fn names_a_student(&self) -> bool {
        self.student.is_some()
    }

    /// Whether a flag asks for other stages than the preset's.
    fn other_stages(&self) -> bool {
        let rest = Self { recipe: None, guidance: None, guidance_interval: None, chunk: None, ..self.clone() };
        rest != Self::default()
    }

    fn plan(&self, recipe: &DistillConfig, preset: &Preset) -> Plan {
        let (first, last) = (&recipe.stages[0], &recipe.stages[recipe.stages.len() - 1]);
        let placement = match (&self.timesteps, self.placement) {
            (Some(timesteps), _) => Placement::At { timesteps: timesteps.clone() },
            (None, Some(PlacementName::Trailing)) => Placement::Trailing,
            (None, Some(PlacementName::Tuned)) => Placement::Tuned,
            (None, None) => last.placement.clone(),
        };
        let at = self.timesteps.as_ref().map(Vec::len);
        Plan {
            method: self.method.unwrap_or(Method::Trajectory),
            rows: self.steps.or(at).unwrap_or(last.rows),
            teacher_rows: self.teacher_steps.unwrap_or(first.teacher_rows),
            steps: self.train_steps.unwrap_or_else(|| recipe.stages.iter().map(|stage| stage.steps).sum()),
            states: match self.trajectories {
                None => first.states,
                Some(0) => States::Data,
                Some(count) => States::Trajectories { count },
            },
            placement,
            resized: recipe.student.as_ref().is_some_and(|student| *student != preset.network.architecture),
            begun: false,
            optimizer: recipe.optimizer.clone(),
        }
    }
}

/// The `[distill]` of a file.
fn read(path: &Path) -> anyhow::Result<DistillConfig> {
    /// What of a file matters here.
    #[derive(Deserialize)]
    struct File {
        distill: DistillConfig,
    }
    Ok(from_file::<File>(path, "distill")?.distill)
}

/// What is read of a .toml file, which is its `[section]`.
fn from_file<T: DeserializeOwned>(path: &Path, section: &str) -> anyhow::Result<T> {
    let text = String::from_utf8(crate::files::read(path)?).context("it is not text")?;
    toml::from_str(&text).with_context(|| format!("it has no usable [{section}]"))
}

/// The network that `--student` names, for a teacher of architecture `teacher`.
fn network(text: &str, teacher: &Architecture) -> anyhow::Result<Architecture> {
    /// What of a file matters here.
    #[derive(Deserialize)]
    struct File {
        network: NetworkPreset,
    }
    let widths: Option<Vec<usize>> = text.split(',').map(|width| width.trim().parse().ok()).collect();
    match (widths, teacher) {
        (Some(widths), Architecture::UNet(teacher)) => {
            // Levels that are not there have no attention.
            let attention = teacher.attention.iter().copied().filter(|&level| level < widths.len()).collect();
            Ok(Architecture::UNet(UNetConfig { widths, attention, ..teacher.clone() }))
        }
        (Some(widths), Architecture::Mlp(teacher)) => {
            anyhow::ensure!(widths.len() == 1, "a perceptron has one width");
            let mut student = teacher.clone();
            student.width = widths[0];
            Ok(Architecture::Mlp(student))
        }
        (None, _) if text.ends_with(".toml") => Ok(from_file::<File>(Path::new(text), "network")?.network.architecture),
        (None, _) => Ok(Preset::find(text)?.network.architecture),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        recipe: RecipeArgs,
    }

    fn apply(words: &str) -> anyhow::Result<DistillConfig> {
        let line = Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace()))?;
        line.recipe.apply(&Preset::find("demo").unwrap(), false)
    }

    #[test]
    fn without_flags_the_recipe_is_the_presets() {
        assert_eq!(apply("").unwrap(), Preset::find("demo").unwrap().distill);
        let guided = apply("--guidance 2 --guidance-interval 0.17,3.1 --chunk 500").unwrap();
        assert_eq!((guided.guidance, guided.guidance_interval, guided.chunk), (Some(2.0), Some([0.17, 3.1]), 500));
        assert_eq!(guided.stages, Preset::find("demo").unwrap().distill.stages);
    }

    #[test]
    fn the_recipes_of_students_can_be_used() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/presets/students"));
        let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        for file in files {
            let recipe = apply(&format!("--recipe {}", file.display())).unwrap();
            assert_eq!(recipe, read(&file).unwrap());
            let one = apply(&format!("--recipe {} --steps 1", file.display())).unwrap();
            assert_eq!((one.student, one.stages.len(), one.stages[0].rows), (recipe.student, 1, 1));
        }
        let error = apply("--recipe none.toml").unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("none.toml"), "{error:#}");
    }

    #[test]
    fn flags_plan_other_stages_within_the_presets_steps() {
        let recipe = apply("--steps 1 --method progressive").unwrap();
        let rows: Vec<usize> = recipe.stages.iter().map(|stage| stage.rows).collect();
        assert_eq!((rows, recipe.stages.iter().map(|stage| stage.steps).sum()), (vec![8, 4, 2, 1], 700));
        let recipe = apply("--timesteps 999,600 --trajectories 0 --train-steps 90 --teacher-steps 32").unwrap();
        let [stage] = &recipe.stages[..] else { panic!("one stage: {recipe:?}") };
        assert_eq!((stage.rows, stage.teacher_rows, stage.steps, stage.states), (2, 32, 90, States::Data));
        assert_eq!(stage.placement, Placement::At { timesteps: vec![999, 600] });
    }

    #[test]
    fn an_adversarial_student_is_told_to_end_where_the_guided_teacher_does() {
        let recipe = apply("--steps 2 --method adversarial --trajectories 50").unwrap();
        let ways: Vec<(usize, usize)> = recipe.stages.iter().map(|stage| (stage.teacher_rows, stage.rows)).collect();
        assert_eq!(ways, [(16, 2), (16, 2)]);
        assert!(recipe.stages[1].optimizer.as_ref().is_some_and(|optimizer| optimizer.betas[0] == 0.0));
        let error = apply("--steps 2 --method adversarial --trajectories 0").unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("needs trajectories"), "{error:#}");
    }

    #[test]
    fn a_student_is_named_by_widths_or_a_file() {
        let widths = |recipe: DistillConfig| match recipe.student {
            Some(Architecture::UNet(unet)) => unet.widths,
            other => panic!("{other:?}"),
        };
        assert_eq!(widths(apply("--student 8,16").unwrap()), [8, 16]);
        assert_eq!(widths(apply("--student toy").unwrap()), [8, 16]);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("small.toml");
        std::fs::write(&file, "[network]\nwidths = [4]\nblocks = 1\nmiddle = 1\ngroups = 2\nembedding = 8\n").unwrap();
        assert_eq!(widths(apply(&format!("--student {}", file.display())).unwrap()), [4]);
    }

    #[test]
    fn what_cannot_be_is_wrong_usage() {
        for (words, wanted) in [
            ("--steps 17", "a student has 1 to 16"),
            ("--timesteps 5,900", "falling timesteps"),
            ("--guidance-interval 3,1", "give 0 <= LO < HI"),
            ("--student nothing", "there is no preset nothing"),
            ("--train-steps 0", "steps must be at least 1"),
        ] {
            let error = apply(words).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(wanted), "{words}: {error:#}");
        }
    }
}
