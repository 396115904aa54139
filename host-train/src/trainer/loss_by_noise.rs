//! The loss of a trained network by noise level, on held-out samples.

use mote_core::schedule::log_snr;
use serde::{Deserialize, Serialize};

use super::validation::HeldOut;
use crate::dataset::Split;
use crate::denoiser::{Denoiser, DenoiserConfig};
use crate::diffusion::Diffusion;
use crate::ops::DenoiserBackend;

/// Equal parts of the timesteps.
const BINS: usize = 20;
/// The golden ratio less 1: its multiples fill the unit interval evenly, whatever their number.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// Mean squared errors of a network in equal parts of the timesteps, from little noise to much. Not weighted as in training,
/// and every sample has its class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossByNoise {
    /// Held-out samples, each asked once in every part.
    pub samples: usize,
    /// The parts.
    pub bins: Vec<Bin>,
}

/// A part of the timesteps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bin {
    /// The first and the last timestep, each as often asked as any between them.
    pub timesteps: [usize; 2],
    /// `ln(alpha_bar / (1 - alpha_bar))` at the middle one; none where that has no signal.
    pub log_snr: Option<f64>,
    /// Mean squared error of the network's output, in its objective.
    pub output: f64,
    /// Standard error of that mean.
    pub output_error: f64,
    /// Mean squared error of the estimate of the data that the output gives: it can be compared between objectives.
    pub data: f64,
}

impl LossByNoise {
    /// Measures `net` on `samples` of `held_out`, evenly spread over it (all where there are fewer). What is asked depends on
    /// nothing but the data and the number of samples. `progress` hears how many parts of how many are done.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn measure<B: DenoiserBackend>(
        net: &Denoiser<B>,
        network: &DenoiserConfig,
        diffusion: &Diffusion,
        held_out: &Split<'_>,
        samples: usize,
        progress: impl Fn(usize, usize),
    ) -> Self {
        let held_out = HeldOut::new(network, diffusion, held_out, samples);
        let (count, steps) = (held_out.len(), diffusion.timesteps());
        let bins = BINS.min(steps);
        let measure = |bin: usize| {
            let (first, end) = (bin * steps / bins, (bin + 1) * steps / bins);
            let place = |sample: usize| ((sample as f64 * GOLDEN).fract() * (end - first) as f64) as usize;
            let times: Vec<f64> = (0..count).map(|sample| (first + place(sample)) as f64).collect();
            let errors = held_out.errors(net, &times);
            let mean = |values: &dyn Fn(&[f64; 2]) -> f64| errors.iter().map(values).sum::<f64>() / count as f64;
            let output = mean(&|error| error[0]);
            let square = mean(&|error| (error[0] - output).powi(2));
            progress(bin + 1, bins);
            Bin {
                timesteps: [first, end - 1],
                log_snr: Some(log_snr(diffusion.alpha_bars[(first + end - 1) / 2])).filter(|value| value.is_finite()),
                output,
                output_error: (square / (count - 1).max(1) as f64).sqrt(),
                data: mean(&|error| error[1]),
            }
        };
        Self { samples: count, bins: (0..bins).map(measure).collect() }
    }

    /// As CSV, the columns that [`crate::evaluate::loss_by_noise`] draws.
    pub fn to_csv(&self) -> String {
        let row = |bin: &Bin| {
            let Bin { timesteps: [first, last], log_snr, output, output_error, data } = bin;
            let log_snr = log_snr.map(|value| value.to_string()).unwrap_or_default();
            format!("{first},{last},{log_snr},{output},{output_error},{data}\n")
        };
        let rows: String = self.bins.iter().map(row).collect();
        format!("first_timestep,last_timestep,log_snr,output_mse,output_standard_error,data_mse\n{rows}")
    }
}

impl std::fmt::Display for LossByNoise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{:>11}  {:>7}  {:>18}  {:>9}", "timesteps", "log-SNR", "MSE of the output", "of data")?;
        for Bin { timesteps: [first, last], log_snr, output, output_error, data } in &self.bins {
            let log_snr = log_snr.map_or("-".to_owned(), |value| format!("{value:.2}"));
            let (timesteps, output) = (format!("{first}-{last}"), format!("{output:.5} +- {output_error:.5}"));
            writeln!(f, "{timesteps:>11}  {log_snr:>7}  {output:>18}  {data:>9.5}")?;
        }
        writeln!(f, "{} held-out samples in every row, not weighted", self.samples)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::denoiser::DenoiserFile;
    use crate::preset::Preset;

    /// A network that begins as the zero function errs by the mean square of what it should say.
    #[test]
    fn the_zero_function_errs_by_the_mean_square_of_the_target() {
        let preset = Preset::find("toy").unwrap();
        let data = preset.data.load().unwrap();
        let network = preset.network(&data);
        let held_out = data.held_out();
        let square: f64 = {
            let values: Vec<f64> = (0..held_out.len()).flat_map(|index| held_out.units(index)).map(f64::from).collect();
            values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64
        };
        for objective in ["epsilon", "v"] {
            let preset = preset.with(&[format!("diffusion.objective={objective}")]).unwrap();
            let diffusion = preset.diffusion.build().unwrap();
            let net = network.init::<Flex>(1, &Default::default()).unwrap();
            let heard = std::cell::Cell::new((0, 0));
            let found = LossByNoise::measure(&net, &network, &diffusion, &held_out, usize::MAX, |done, of| {
                heard.set((done, of));
            });
            assert_eq!((found.samples, found.bins.len(), heard.get()), (held_out.len(), 20, (20, 20)));
            assert_eq!((found.bins[0].timesteps[0], found.bins[19].timesteps[1]), (0, diffusion.timesteps() - 1));
            for (bin, next) in found.bins.iter().zip(&found.bins[1..]) {
                assert_eq!(bin.timesteps[1] + 1, next.timesteps[0]);
                assert!(bin.log_snr > next.log_snr, "{bin:?} {next:?}");
            }
            for bin in &found.bins {
                let [first, last] = bin.timesteps;
                let alpha_bar = diffusion.alpha_bars[first..=last].iter().sum::<f64>() / (last - first + 1) as f64;
                // v = signal noise - sigma x0; noise of these few samples is off by less than a hundredth.
                let wanted = if objective == "v" { alpha_bar + (1.0 - alpha_bar) * square } else { 1.0 };
                assert!((bin.output - wanted).abs() < 0.02 + 0.05 * wanted, "{objective}: {bin:?}, {wanted} wanted");
                assert!(bin.output_error > 0.0 && bin.output_error < 0.1 && bin.data.is_finite(), "{bin:?}");
            }
            let rows = found.to_csv();
            assert_eq!((rows.lines().count(), found.to_string().lines().count()), (21, 22));
            let json = serde_json::to_string(&found).unwrap();
            let again: LossByNoise = serde_json::from_str(&json).unwrap();
            assert_eq!(again.samples, found.samples);
        }
    }

    /// What is asked of a network does not depend on what it says.
    #[test]
    fn the_same_network_has_the_same_loss_from_its_file() {
        let preset = Preset::find("toy").unwrap();
        let data = preset.data.load().unwrap();
        let (network, diffusion) = (preset.network(&data), preset.diffusion.build().unwrap());
        let net = network.init::<Flex>(7, &Default::default()).unwrap();
        let file = DenoiserFile {
            network: network.clone(),
            diffusion: preset.diffusion.clone(),
            sampling: preset.sample.sampling.clone(),
            channels_scale: data.channels_scale.clone(),
            parameters: crate::denoiser::parameters(&net).into_data().to_vec().unwrap(),
        };
        let again = file.net::<Flex>(&Default::default()).unwrap();
        let of =
            |net: &Denoiser<Flex>| LossByNoise::measure(net, &network, &diffusion, &data.held_out(), 30, |_, _| ());
        assert_eq!(of(&net), of(&again));
    }
}
