//! The teacher's trajectories: drawn once, in large batches, kept in memory, and on disk until the stage is done.

use std::ops::Range;
use std::path::PathBuf;

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use mote_core::step_table::StepRow;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::dataset::{Augmentation, SampleShape, Split};
use crate::denoiser::DenoiserConfig;
use crate::diffusion::sample::{Denoise, Noise, Reverse, Threshold};
use crate::diffusion::{Sampler, per_image};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::trainer::{Batch, StepRandom};

/// Who is followed.
pub trait Teacher<B: Backend> {
    /// The teacher told which class each sample of a batch has.
    fn told<'a>(&'a self, classes: &'a [usize]) -> Box<dyn Denoise<B> + 'a>;
}

impl<B: DenoiserBackend> Teacher<B> for Sampler<'_, B> {
    fn told<'a>(&'a self, classes: &'a [usize]) -> Box<dyn Denoise<B> + 'a> {
        Box::new(self.given(classes, None))
    }
}

/// The way a teacher goes from noise to data.
pub struct Path<'a, B: Backend> {
    /// Who goes it.
    pub teacher: &'a dyn Teacher<B>,
    /// Its rows, without fresh noise; level `i` is where row `i` begins, the last level is the data.
    pub rows: Vec<StepRow>,
    /// Keeps its estimates within the data's range.
    pub threshold: Threshold,
    /// Of a sample.
    pub shape: SampleShape,
    /// Trajectory number i is of class `i % classes`.
    pub classes: usize,
    /// Trajectory number i begins at noise `(seed, i)`.
    pub seed: u64,
}

impl<B: Backend> Path<'_, B> {
    /// The class of trajectory number `number`.
    pub fn class(&self, number: usize) -> usize {
        number % self.classes
    }

    /// Where the rows `rows` lead from `z`, `[batch, channels, height, width]`.
    pub fn follow(&self, rows: Range<usize>, z: Tensor<B, 4>, classes: &[usize]) -> Tensor<B, 4> {
        let denoise = self.teacher.told(classes);
        self.walk(&self.reverse(&*denoise, 0..0, z.device()), rows, z, |_| ())
    }

    /// Where one DDIM step from level `from` to level `to` leads, `[batch, channels, height, width]`.
    pub fn leap(&self, from: usize, to: usize, z: Tensor<B, 4>, classes: &[usize]) -> Tensor<B, 4> {
        let row = &self.rows[from];
        let [signal, noise] = self.rows.get(to).map_or([1.0, 0.0], |row| [row.signal, row.noise]);
        let x0 = self.threshold.apply(self.teacher.told(classes).estimate(&z, row, None).x0);
        let keep = noise / row.noise;
        z * keep + x0 * (signal - keep * row.signal)
    }

    /// The states of the trajectories `numbers` at every level, `[trajectories, levels, channels, height, width]`.
    fn draw(&self, numbers: Range<u64>, device: &B::Device) -> Tensor<B, 5> {
        let classes: Vec<usize> = numbers.clone().map(|number| self.class(number as usize)).collect();
        let denoise = self.teacher.told(&classes);
        let reverse = self.reverse(&*denoise, numbers, device.clone());
        let start = reverse.start();
        let mut states = vec![start.clone()];
        self.walk(&reverse, 0..self.rows.len(), start, |z| states.push(z.clone()));
        Tensor::stack(states, 1)
    }

    fn walk(
        &self,
        reverse: &Reverse<'_, B>,
        rows: Range<usize>,
        z: Tensor<B, 4>,
        mut seen: impl FnMut(&Tensor<B, 4>),
    ) -> Tensor<B, 4> {
        let mut previous = None;
        rows.fold(z, |z, row| {
            let next = reverse.row(row, z, &mut previous, || unreachable!("a teacher's rows add no noise"));
            seen(&next);
            next
        })
    }

    fn reverse<'b>(&'b self, denoise: &'b dyn Denoise<B>, samples: Range<u64>, device: B::Device) -> Reverse<'b, B> {
        let noise = Noise { seed: self.seed, samples, shape: self.shape, device };
        Reverse { denoise, table: &self.rows, threshold: self.threshold, noise }
    }
}

/// States of trajectories at some levels, on the device.
#[derive(Debug, Clone)]
pub struct Trajectories<B: Backend> {
    /// `[count * levels, channels, height, width]`, trajectory by trajectory.
    states: Tensor<B, 4>,
    levels: usize,
    /// The number of the first one.
    first: usize,
}

/// Where drawn trajectories are kept until they are not needed any more, so that drawing goes on where it was stopped.
pub struct Store {
    /// The folder.
    pub folder: PathBuf,
    /// All that decides the trajectories' bits, as text; those of another recipe are drawn anew.
    pub recipe: String,
}

impl<B: Backend> Trajectories<B> {
    /// Draws the trajectories `numbers` at every level of `path`, `chunk` at once; `progress` hears how many are there.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub fn draw(
        path: &Path<'_, B>,
        numbers: Range<usize>,
        chunk: usize,
        store: Option<&Store>,
        mut progress: impl FnMut(usize),
    ) -> anyhow::Result<Self> {
        let device = B::Device::default();
        let SampleShape { height, width, channels } = path.shape;
        let levels = path.rows.len() + 1;
        let mut states = Vec::new();
        for begin in numbers.clone().step_by(chunk) {
            let end = (begin + chunk).min(numbers.end);
            let shape = [end - begin, levels, channels, height, width];
            let kept = store.and_then(|store| store.read(begin, &shape));
            let drawn = match kept {
                Some(values) => Tensor::from_data(TensorData::new(values, shape), &device),
                None => path.draw(begin as u64..end as u64, &device),
            };
            if let Some(store) = store.filter(|store| !store.file(begin).exists()) {
                store.write(begin, &shape, &drawn.to_data().to_vec().expect("f32 backend"))?;
            }
            states.push(drawn.reshape([(end - begin) * levels, channels, height, width]));
            progress(end - numbers.start);
        }
        Ok(Self { states: Tensor::cat(states, 0), levels, first: numbers.start })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.states.dims()[0] / self.levels
    }

    /// The number of the first one.
    pub fn first(&self) -> usize {
        self.first
    }

    /// States, each as its trajectory (counted from the first one here) and its level, `[batch, channels, height, width]`.
    pub fn select(&self, of: impl IntoIterator<Item = (usize, usize)>) -> Tensor<B, 4> {
        let index = |(trajectory, level)| (trajectory * self.levels + level) as i32;
        let indices: Vec<i32> = of.into_iter().map(index).collect();
        self.states.clone().select(0, Tensor::<B, 1, Int>::from_ints(&indices[..], &self.states.device()))
    }

    /// Those of some levels alone.
    pub fn at(&self, levels: &[usize]) -> Self {
        let all = (0..self.count()).flat_map(|trajectory| levels.iter().map(move |&level| (trajectory, level)));
        Self { states: self.select(all), levels: levels.len(), first: self.first }
    }
}

/// The one entry of a stored file's metadata.
const RECIPE: &str = "recipe";
/// The one tensor of a stored file.
const STATES: &str = "states";

impl Store {
    fn file(&self, begin: usize) -> PathBuf {
        self.folder.join(format!("trajectories-{begin:08}.safetensors"))
    }

    /// The chunk that begins at a trajectory, if it is there and of this recipe.
    fn read(&self, begin: usize, shape: &[usize]) -> Option<Vec<f32>> {
        let path = self.file(begin);
        let file = path.exists().then(|| files::read(&path).ok())??;
        let values = parse(&file, &self.recipe, shape);
        if values.is_none() {
            let _ = std::fs::remove_file(path);
        }
        values
    }

    fn write(&self, begin: usize, shape: &[usize], values: &[f32]) -> anyhow::Result<()> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).expect("four bytes a value");
        let metadata = [(RECIPE.to_owned(), self.recipe.clone())].into();
        let file = safetensors::serialize([(STATES, view)], Some(metadata)).expect("a valid view");
        files::make_folder(&self.folder)?;
        files::write_atomically(&self.file(begin), &file)
    }
}

fn parse(file: &[u8], recipe: &str, shape: &[usize]) -> Option<Vec<f32>> {
    let (_, header) = SafeTensors::read_metadata(file).ok()?;
    if header.metadata().as_ref()?.get(RECIPE)? != recipe {
        return None;
    }
    let tensors = SafeTensors::deserialize(file).ok()?;
    let states = tensors.tensor(STATES).ok()?;
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    (states.dtype() == Dtype::F32 && states.shape() == shape)
        .then(|| states.data().chunks_exact(4).map(value).collect())
}

/// What a stage's tasks have in common.
pub struct Course<'a, B: Backend> {
    /// The teacher's way.
    pub path: Path<'a, B>,
    /// Its trajectories at every level; where there are none, states are noised training samples.
    pub trajectories: Option<Trajectories<B>>,
    /// The training samples.
    pub split: Split<'a>,
    /// States a step.
    pub batch: usize,
    /// The student's sizes.
    pub student: &'a DenoiserConfig,
    /// Timesteps of the process.
    pub timesteps: usize,
}

impl<B: DenoiserBackend> Course<'_, B> {
    /// Training samples with fresh noise, sample i at the level of `rows[i]`, and their classes; as many as `rows`,
    /// `[batch, channels, height, width]`.
    pub(super) fn noised(
        &self,
        rows: &[&StepRow],
        random: &mut StepRandom,
        device: &B::Device,
    ) -> (Tensor<B, 4>, Vec<usize>) {
        let Batch { images, labels } =
            Batch::<B>::draw(&self.split, rows.len(), &Augmentation::default(), self.student, random, device);
        let noise = random.normal(images.dims(), device);
        let each = |factor: &dyn Fn(&StepRow) -> f64| -> Tensor<B, 4> {
            per_image(&rows.iter().map(|row| factor(row) as f32).collect::<Vec<f32>>(), device)
        };
        (images * each(&|row| row.signal) + noise * each(&|row| row.noise), labels)
    }
}

/// What `teach` makes of states, block by block of those whose `levels` are the same: a level, its states and their classes.
pub(super) fn in_blocks<B: Backend>(
    z: &Tensor<B, 4>,
    levels: &[usize],
    classes: &[usize],
    teach: impl Fn(usize, Tensor<B, 4>, &[usize]) -> Tensor<B, 4>,
) -> Tensor<B, 4> {
    let mut begin = 0;
    let block = |part: &[usize]| {
        let (first, count) = (begin, part.len());
        begin += count;
        teach(part[0], z.clone().narrow(0, first, count), &classes[first..begin])
    };
    Tensor::cat(levels.chunk_by(|a, b| a == b).map(block).collect(), 0)
}

#[cfg(test)]
pub(super) mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::diffusion::{Diffusion, DiffusionConfig, Objective, ScheduleConfig};

    /// The exact teacher of data from N(0, deviation^2), whatever the class: `E[x0 | z] = z s d^2 / (s^2 d^2 + n^2)`.
    pub(in super::super) struct Gaussian {
        pub(in super::super) deviation: f64,
    }

    impl Gaussian {
        /// The standard deviation of a row's states.
        pub(in super::super) fn deviation_at(&self, row: &StepRow) -> f64 {
            (row.signal * self.deviation).hypot(row.noise)
        }
    }

    impl<B: Backend> Teacher<B> for Gaussian {
        fn told<'a>(&'a self, _: &'a [usize]) -> Box<dyn Denoise<B> + 'a> {
            Box::new(move |z: &Tensor<B, 4>, row: &StepRow| {
                z.clone() * (row.signal * self.deviation.powi(2) / self.deviation_at(row).powi(2))
            })
        }
    }

    pub(in super::super) const SHAPE: SampleShape = SampleShape::image(2, 2, 1);

    pub(in super::super) fn cosine() -> Diffusion {
        DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap()
    }

    pub(in super::super) fn path<B: Backend>(teacher: &Gaussian, rows: usize) -> Path<'_, B> {
        Path { teacher, rows: cosine().ddim(rows), threshold: Threshold::None, shape: SHAPE, classes: 2, seed: 5 }
    }

    pub(in super::super) fn floats<B: Backend>(x: Tensor<B, 4>) -> Vec<f32> {
        x.into_data().to_vec().unwrap()
    }

    /// A linear teacher multiplies the state by a number in each row.
    #[test]
    fn trajectories_of_a_linear_teacher_are_products_of_its_rows() {
        let teacher = Gaussian { deviation: 0.5 };
        let path = path::<Flex>(&teacher, 6);
        let drawn = Trajectories::draw(&path, 0..5, 2, None, |_| ()).unwrap();
        let start = floats(drawn.select([(4, 0)]));
        let mut factor = 1.0;
        for (level, row) in path.rows.iter().enumerate() {
            let of_x0 = row.signal * 0.25 / teacher.deviation_at(row).powi(2);
            factor *= row.a + row.b * of_x0;
            let found = floats(drawn.select([(4, level + 1)]));
            for (found, start) in found.iter().zip(&start) {
                assert!((f64::from(*found) - factor * f64::from(*start)).abs() < 1e-5, "level {level}");
            }
        }
    }

    #[test]
    fn numbers_not_chunks_decide_a_trajectory() {
        let teacher = Gaussian { deviation: 0.5 };
        let path = path::<Flex>(&teacher, 3);
        let all = Trajectories::draw(&path, 0..7, 100, None, |_| ()).unwrap();
        let mut heard = Vec::new();
        let some = Trajectories::draw(&path, 2..7, 2, None, |done| heard.push(done)).unwrap();
        assert_eq!((heard, some.count(), some.first()), (vec![2, 4, 5], 5, 2));
        let ends = all.at(&[0, 3]);
        for number in 2..7 {
            assert_eq!(floats(all.select([(number, 3)])), floats(some.select([(number - 2, 3)])));
            assert_eq!(floats(all.select([(number, 3)])), floats(ends.select([(number, 1)])));
        }
    }

    /// Chunks on disk are taken as they are, those of another recipe or damaged ones are drawn anew.
    #[test]
    fn drawing_goes_on_from_the_stored_chunks_of_its_own_recipe() {
        let folder = tempfile::tempdir().unwrap();
        let store = |recipe: &str| Store { folder: folder.path().join("kept"), recipe: recipe.to_owned() };
        let (good, other) = (Gaussian { deviation: 0.5 }, Gaussian { deviation: 0.9 });
        let states = |teacher: &Gaussian, store: Option<&Store>| {
            let drawn = Trajectories::draw(&path::<Flex>(teacher, 3), 0..4, 2, store, |_| ()).unwrap();
            floats(drawn.select((0..4).map(|number| (number, 3))))
        };
        let wanted = states(&good, None);
        assert_eq!(states(&good, Some(&store("good"))), wanted);
        std::fs::remove_file(store("good").file(2)).unwrap();
        let mixed = states(&other, Some(&store("good")));
        assert!(mixed[..8] == wanted[..8] && mixed[8..] != wanted[8..], "the first chunk is read, the second drawn");
        std::fs::write(store("good").file(2), b"half").unwrap();
        assert_eq!(states(&good, Some(&store("good"))), wanted);
        assert_eq!(states(&other, Some(&store("other"))), states(&other, None));
    }
}
