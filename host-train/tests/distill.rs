//! `mote-train distill` as its users run it: each way to a student, other sizes, the search for one that fits.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

use mote_train::denoiser::{Architecture, DenoiserFile};

fn mote_train(args: &[&str], run: &Path) -> Output {
    common::mote_train().args(args).arg("--run").arg(run).stdin(Stdio::null()).output().unwrap()
}

fn succeed(args: &[&str], run: &Path) -> String {
    let Output { status, stdout, stderr } = mote_train(args, run);
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

fn student(run: &Path, name: &str) -> DenoiserFile {
    DenoiserFile::from_bytes(&std::fs::read(run.join(format!("{name}.safetensors"))).unwrap()).unwrap()
}

fn widths(file: &DenoiserFile) -> Vec<usize> {
    match &file.network.architecture {
        Architecture::UNet(unet) => unet.widths.clone(),
        Architecture::Mlp(mlp) => vec![mlp.width],
    }
}

/// One teacher, many students beside each other; each draws, is described in the manifest, and becomes a model.
#[test]
fn every_way_leads_to_a_student_that_becomes_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&["train", "--preset", "toy", "--set", "sample.samples=10"], &run);
    let ways: [(&str, &[&str], usize); 5] = [
        ("halved", &["--method", "progressive", "--steps", "2", "--trajectories", "20"], 2),
        ("jumps", &["--steps", "4", "--placement", "tuned", "--trajectories", "20", "--chunk", "8"], 4),
        ("named", &["--timesteps", "999,600", "--trajectories", "0", "--guidance", "2"], 2),
        ("agrees", &["--method", "consistency", "--steps", "1", "--trajectories", "20"], 1),
        (
            "data",
            &["--method", "consistency", "--steps", "2", "--trajectories", "0", "--guidance-interval", "0.2,3"],
            2,
        ),
    ];
    for (name, flags, steps) in ways {
        let said = succeed(&[&["distill", "--name", name, "--train-steps", "12"], flags].concat(), &run);
        assert!(said.contains(&format!("{name}.safetensors ({steps} steps at [999")), "{said}");
        let file = student(&run, name);
        assert_eq!((file.sampling.steps, file.sampling.guidance), (steps, 1.0));
        assert!(file.parameters.iter().all(|value| value.is_finite()) && run.join(format!("{name}.npy")).exists());
        let model = folder.path().join(format!("{name}.mote"));
        let model = model.to_str().unwrap();
        succeed(&["quantize", "--student", name, "--samples", "10", "--out", model], &run);
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
        let record = &manifest[format!("{name}_distill")];
        assert_eq!(record["timesteps"].as_array().map(Vec::len), Some(steps), "{record}");
    }
    // What one student's way leaves is gone; the run's own recipe is what it was.
    assert!(!run.join("distill-checkpoints").exists());
    succeed(&["distill"], &run);
    assert_eq!(student(&run, "student").sampling.steps, 2);
    let again = mote_train(&["distill", "--name", "jumps"], &run);
    assert!(String::from_utf8_lossy(&again.stderr).contains("give another --name"));
}

#[test]
fn a_student_may_be_narrower_and_is_found_for_a_chip() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&["train", "--preset", "toy", "--set", "sample.samples=10", "--steps", "20"], &run);
    let short = ["--train-steps", "8", "--trajectories", "16"];
    succeed(
        &[&["distill", "--name", "narrow", "--student", "4,8", "--method", "progressive"], &short[..]].concat(),
        &run,
    );
    assert_eq!(widths(&student(&run, "narrow")), [4, 8]);
    let limits =
        ["--max-flash", "9k", "--max-arena", "6k", "--max-macs", "0.5M", "--candidates", "2", "--search-steps", "4"];
    let proposed = succeed(&[&["distill", "--name", "fits", "--propose"], &limits[..]].concat(), &run);
    assert_eq!(proposed.lines().count(), 2, "{proposed}");
    assert!(!run.join("fits.safetensors").exists());
    let args = [&["distill", "--name", "fits"], &limits[..], &short[..]].concat();
    let table = succeed(&args, &run);
    let found: serde_json::Value =
        serde_json::from_slice(&std::fs::read(run.join("fits-search.json")).unwrap()).unwrap();
    let students = found["students"].as_array().unwrap();
    let losses: Vec<f64> = students.iter().map(|student| student["loss"].as_f64().unwrap()).collect();
    assert!(losses.len() == 2 && losses[0] <= losses[1] && losses[0] > 0.0, "{table}");
    for student in students {
        let [flash, arena, macs] = ["flash", "arena", "macs"].map(|what| student[what].as_u64().unwrap());
        assert!(flash <= 9 * 1024 && arena <= 6 * 1024 && macs <= 500_000, "{student}");
    }
    let best: Architecture = serde_json::from_value(students[0]["architecture"].clone()).unwrap();
    assert_eq!(student(&run, "fits").network.architecture, best);
    // The model takes what the search said; its name is in it, too.
    let model = folder.path().join("fits.mote");
    succeed(
        &["quantize", "--student", "fits", "--samples", "10", "--arena", "1", "--out", model.to_str().unwrap()],
        &run,
    );
    let len = std::fs::metadata(&model).unwrap().len();
    assert!(len.abs_diff(students[0]["flash"].as_u64().unwrap()) <= 16, "{len} bytes");
    let none = mote_train(&["distill", "--name", "none", "--max-flash", "100"], &run);
    assert!(String::from_utf8_lossy(&none.stderr).contains("no student fits"));
}

/// What `quantize` is told about scales shows in the file, in the report and in what `diff` compares.
#[test]
fn scales_are_chosen_reported_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    succeed(&["train", "--preset", "toy", "--set", "sample.samples=10", "--steps", "20"], &run);
    succeed(&["distill", "--train-steps", "8", "--trajectories", "16"], &run);
    let quantize = |name: &str, flags: &[&str]| {
        let path = folder.path().join(name);
        let args = [&["quantize", "--samples", "10", "--out", path.to_str().unwrap()], flags].concat();
        (succeed(&args, &run), path)
    };
    let operations = |path: &Path| -> usize {
        let said = succeed(&["diff", "--samples", "3", "--json", "--model", path.to_str().unwrap()], &run);
        let compared: serde_json::Value = serde_json::from_str(&said).unwrap();
        let operations = compared["operations"].as_array().unwrap();
        let first = operations[0]["signal_to_noise_db"].as_f64().unwrap();
        assert!(first > 30.0, "{compared}");
        operations.len()
    };
    let (said, usual) = quantize("usual.mote", &["--report", "--report-samples", "3"]);
    assert!(said.contains("activation scales of its own"), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(run.join("quantize.json")).unwrap()).unwrap();
    assert_eq!(report["layers"].as_array().map(Vec::len), Some(operations(&usual)));
    for damage in ["total_damage", "total_damage_with_scales_by_row"] {
        assert!((1e-6..0.5).contains(&report[damage].as_f64().unwrap()), "{damage}: {report}");
    }
    let (_, extremes) = quantize("extremes.mote", &["--ends", "extremes"]);
    assert_ne!(std::fs::read(&usual).unwrap(), std::fs::read(&extremes).unwrap());
    assert_eq!(operations(&usual), operations(&extremes));
    let (_, apart) = quantize("apart.mote", &["--halves", "apart"]);
    assert!(operations(&apart) > operations(&usual));
}
