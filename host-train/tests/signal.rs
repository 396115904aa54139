//! `mote-train signal compare` as its users run it.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use serde_json::Value;

fn mote_train(args: &[&str], folder: &Path) -> Output {
    common::mote_train().args(args).current_dir(folder).stdin(Stdio::null()).output().unwrap()
}

fn succeed(args: &[&str], folder: &Path) -> String {
    let Output { status, stdout, stderr } = mote_train(args, folder);
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn fail(args: &[&str], folder: &Path) -> String {
    let Output { status, stderr, .. } = mote_train(args, folder);
    assert!(!status.success(), "{args:?}");
    String::from_utf8(stderr).unwrap()
}

const WITHOUT: &str = "data.leave_out=[\"square\"]";
const DENOISER: [&str; 4] = [
    "--set",
    "train.weighting={kind=\"p2\",gamma=1.0,k=1e-6}",
    "--set",
    "train.timesteps={kind=\"lognormal\",mean=-1.4,std=0.7}",
];
const IMPUTER: [&str; 10] = [
    "--set",
    "diffusion.gaps.rows=[2,16]",
    "--set",
    "diffusion.objective=x0",
    "--set",
    "train.weighting.kind=uniform",
    "--set",
    "network.condition_channels=1",
    "--set",
    "network.export=false",
];

#[test]
fn every_method_is_measured_on_the_same_windows_and_every_left_out_class_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let train = |run: &str, more: &[&str]| {
        let common =
            ["train", "--preset", "toy-signal", "--steps", "30", "--set", "data.unlabelled=true", "--run", run];
        let quiet = ["--set", "watch.sample_every=0", "--set", "sample.samples=1"];
        succeed(&[&common, &quiet[..], more].concat(), folder);
    };
    train("model", &[]);
    train("denoiser", &DENOISER);
    train("imputer", &IMPUTER);
    train("strange", &["--set", WITHOUT]);
    train("other", &["--set", "data.leave_out=[\"sine\"]"]);
    train("denoiser-strange", &[&DENOISER[..], &["--set", WITHOUT]].concat());
    let sizes =
        "--windows 12 --noise-levels 0.2,0.6 --gap-rows 4,12 --draws 3 --steps 8 --jump 2 --resamples 2 --scored 20";
    let sizes: Vec<&str> = sizes.split_whitespace().collect();
    let runs = "signal compare --run model --denoiser denoiser --imputer imputer --without strange --denoiser-without \
                denoiser-strange --json --picture compared.png";
    let command: Vec<&str> = runs.split_whitespace().chain(sizes.iter().copied()).collect();
    let json = |text: String| -> Value { serde_json::from_str(&text).unwrap() };
    let found = json(succeed(&command, folder));
    assert_eq!((&found["windows"], &found["draws"]), (&12.into(), &3.into()));
    let names = |key: &str| -> Vec<&str> {
        found[key].as_array().unwrap().iter().map(|errors| errors["method"].as_str().unwrap()).collect()
    };
    let diffusion = ["diffusion_sample", "diffusion_mean", "diffusion_one_pass"];
    assert_eq!(names("denoising"), [&diffusion[..], &["regression", "moving_average", "nothing"]].concat());
    assert_eq!(names("gaps"), [&diffusion[..2], &["regression", "straight_line"]].concat());
    let error = |key: &str, method: &str, at: usize| {
        let methods = found[key].as_array().unwrap();
        let errors = methods.iter().find(|errors| errors["method"] == method).unwrap();
        let number = |name: &str| errors["at"][at][name].as_f64().unwrap();
        assert_eq!(errors["at"][at]["natural"].as_array().unwrap().len(), 2);
        assert!(number("standard_error") > 0.0 && number("standard_error") < number("error"), "{errors}");
        (number("number"), number("error"))
    };
    for at in 0..2 {
        // Nothing done leaves the noise, and a filter of the training side does no worse than nothing.
        let (sigma, left) = error("denoising", "nothing", at);
        assert!((left / sigma - 1.0).abs() < 0.1, "{left} of noise of {sigma}");
        assert!(error("denoising", "moving_average", at).1 < 1.02 * left);
        // The square of a mean's error is at most the mean square error of what it is of.
        for key in ["denoising", "gaps"] {
            assert!(error(key, "diffusion_mean", at).1 < 1.1 * error(key, "diffusion_sample", at).1);
        }
        assert_eq!(error("gaps", "straight_line", at).0, [4.0, 12.0][at]);
    }
    assert!(error("gaps", "straight_line", 0).1 < error("gaps", "straight_line", 1).1);
    let anomalies = found["anomalies"].as_array().unwrap();
    assert_eq!(anomalies.len(), 3);
    for anomaly in anomalies {
        assert_eq!((&anomaly["left_out"][0], &anomaly["windows"][1]), (&"square".into(), &20.into()), "{anomaly}");
        let [low, auc, high] =
            [&anomaly["interval"][0], &anomaly["auc"], &anomaly["interval"][1]].map(|x| x.as_f64().unwrap());
        assert!(0.0 <= low && low <= auc && auc <= high && high <= 1.0, "{anomaly}");
    }
    // A square's deviation is that of no sine or triangle of its amplitude, but amplitudes vary.
    assert!(anomalies[2]["score"].as_str().unwrap().contains("Mahalanobis"));
    assert!(anomalies[2]["auc"].as_f64().unwrap() > 0.6);
    assert!(image::open(folder.join("compared.png")).unwrap().width() > 1000);
    // The same again but for the time it took; as a table, too.
    let without_seconds = |mut value: Value| {
        fn clear(value: &mut Value) {
            match value {
                Value::Object(fields) => {
                    fields.remove("seconds");
                    fields.values_mut().for_each(clear);
                }
                Value::Array(elements) => elements.iter_mut().for_each(clear),
                _ => {}
            }
        }
        clear(&mut value);
        value
    };
    assert_eq!(without_seconds(json(succeed(&command, folder))), without_seconds(found));
    let plain: Vec<&str> = ["signal", "compare", "--run", "model"].into_iter().chain(sizes.iter().copied()).collect();
    let table = succeed(&plain, folder);
    for part in ["12 held-out windows", "diffusion, mean of samples", "straight line", "moving average"] {
        assert!(table.contains(part), "{table}");
    }
    assert!(!table.contains("regression") && !table.contains("Anomalies"), "{table}");
    for (more, part) in [
        ("--gap-rows 4 --imputer denoiser", "was not trained to fill gaps"),
        ("--gap-rows 4 --denoiser imputer", "fills gaps"),
        ("--without model", "holds no run that leaves something out"),
        ("--without strange --denoiser-without denoiser", "holds no run that leaves something out"),
        ("--without other --denoiser-without denoiser-strange", "leaves out square, no run of --without does"),
        ("--denoiser-without denoiser-strange", "--without"),
        ("--gap-rows 32", "a window has 32 rows"),
        ("--gap-rows 4 --noise-levels 0", "--noise-levels"),
        ("--gap-rows 4 --sampler heun", "cannot begin or turn back"),
    ] {
        let small = "--jump 2 --resamples 2".split_whitespace();
        let command: Vec<&str> = plain[..4].iter().copied().chain(small).chain(more.split_whitespace()).collect();
        let said = fail(&command, folder);
        assert!(said.contains(part), "{more}: {said}");
    }
}
