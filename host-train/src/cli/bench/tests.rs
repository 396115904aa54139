use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parse(words: &str) -> Result<Args, String> {
    let words = std::iter::once("bench").chain(words.split_whitespace());
    Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
}

fn open(words: &str) -> (tempfile::TempDir, Run) {
    let (folder, args) = (tempfile::tempdir().unwrap(), parse(words).unwrap());
    let settings = args.settings(folder.path(), BackendName::Flex).unwrap();
    let run = Run::open(&folder.path().join("run"), settings).unwrap();
    (folder, run)
}

#[test]
fn a_task_has_the_process_and_the_network_of_the_recipe() {
    let (_folder, run) = open(
        "--preset fashion --shape 12x8x1 --classes 3 --batch 5 --set network.widths=[8,16] --set train.class_dropout=0.5",
    );
    let task: serde_json::Value = serde_json::from_str(&task(&run).unwrap()).unwrap();
    let network = &task["network"];
    assert_eq!(network["architecture"]["widths"], serde_json::json!([8, 16]));
    assert_eq!(network["shape"], serde_json::json!({ "height": 12, "width": 8, "channels": 1 }));
    assert_eq!((&network["classes"], &task["batch"], &task["class_dropout"]), (&3.into(), &5.into(), &0.5.into()));
    let at = |name: &str, timestep: usize| task[name][timestep].as_f64().unwrap();
    for timestep in [0, 400, 999] {
        let (signal, noise) = (at("signal", timestep), at("noise", timestep));
        assert!((signal * signal + noise * noise - 1.0).abs() < 1e-9);
        // The preset's objective is v.
        assert_eq!((at("target_of_data", timestep), at("target_of_noise", timestep)), (-noise, signal));
    }
    let mean = (0..1000).map(|timestep| at("weight", timestep)).sum::<f64>() / 1000.0;
    assert!((mean - 1.0).abs() < 1e-3, "{mean}");
}

#[test]
fn what_the_peers_cannot_train_is_refused() {
    for words in [
        "--preset toy-table",
        "--preset toy --set network.self_conditioning=true --set network.export=false",
        "--preset toy --set train.optimizer.accumulate=2",
    ] {
        let (_folder, run) = open(words);
        let error = task(&run).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("leave --peer out"), "{words}: {error}");
    }
}

#[test]
fn a_step_is_timed_on_images_and_on_signals() {
    for shape in ["8x8x3", "1x16x2"] {
        let words = format!("--preset toy --shape {shape} --classes 2 --batch 2 --seconds 0.05");
        let (_folder, run) = open(&words);
        assert_eq!((run.data.shape.to_string(), run.data.classes()), (shape.to_owned(), 2));
        let (begun, seconds, devices) = (Instant::now(), Duration::from_millis(50), Devices::Default);
        let bench = Bench { begun, seconds, devices, speed: OnceCell::new() };
        run.on_backend(&bench).unwrap();
        let speed = bench.speed.into_inner().unwrap();
        assert!(speed.images_per_second > 0.0 && speed.least <= speed.most && speed.groups >= 3, "{speed:?}");
        assert!(speed.seconds_to_first_step > 0.0 && speed.loss.is_finite(), "{speed:?}");
        assert!(!cfg!(target_os = "linux") || speed.memory_bytes > Some(1 << 20), "{speed:?}");
    }
}

#[test]
fn wrong_shapes_and_times_are_refused() {
    for words in
        ["--shape 28x28", "--shape 28x28x2", "--shape 0x28x1", "--seconds 0", "--classes 3", "--ways unet-eager:f32"]
    {
        assert!(parse(words).is_err(), "{words}");
    }
    let missing = parse("--peer --python /no/such/python").unwrap();
    let error = missing.peer.measure(tempfile::tempdir().unwrap().path(), "{}", "cpu", 1.0).unwrap_err();
    assert!(error.is::<Usage>() && error.to_string().contains("--python PROGRAM"), "{error}");
}

/// A program in Python's place: it is given the script, the task and the options.
#[cfg(unix)]
#[test]
fn what_python_prints_is_read_and_its_failures_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let measure = |text: &str| {
        let python = folder.path().join("python");
        std::fs::write(&python, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&python, std::fs::Permissions::from_mode(0o755)).unwrap();
        let args = parse(&format!("--peer --budget 7 --ways unet-eager:f32 --python {}", python.display())).unwrap();
        args.peer.measure(folder.path(), "{\"batch\":1}", "cpu", 2.5)
    };
    let echo = r#"test -f "$(dirname "$1")/denoiser.py" && grep -q batch "$2" && shift 2 &&
        echo "{\"torch\": \"2.0\", \"cuda\": null, \"device\": \"$*\", \"ways\": []}""#;
    let peers = measure(echo).unwrap();
    assert_eq!(peers.device, "--device cpu --seconds 2.5 --budget 7 --ways unet-eager:f32");
    let absent = measure("exit 3").unwrap_err();
    assert!(absent.is::<Usage>() && absent.to_string().contains("pip install torch"), "{absent}");
    assert!(measure("exit 1").unwrap_err().to_string().contains("see its message above"));
    assert!(measure("echo hello").unwrap_err().to_string().contains("printed no result"));
}

#[test]
fn the_fastest_way_of_a_network_is_found_among_those_that_failed() {
    let way = |name: &str, rate: f64| {
        serde_json::json!({ "way": name, "images_per_second": rate, "least": rate, "most": rate, "groups": 3,
            "steps_per_group": 2, "seconds_to_first_step": 1.5, "memory_bytes": 4096, "loss": 0.5, "parameters": 9 })
    };
    let failed = serde_json::json!({ "way": "unet-compile:bf16", "error": "not done after 1 s" });
    let peers: Peers = serde_json::from_value(serde_json::json!({ "torch": "2", "cuda": null, "device": "x",
        "ways": [way("unet-eager:f32", 10.0), failed, way("unet-graph:f32", 30.0), way("ddp-eager:f32", 90.0)] }))
    .unwrap();
    assert_eq!(peers.fastest("unet").unwrap().0, "unet-graph:f32");
    assert_eq!(peers.fastest("ddp").unwrap().1.images_per_second, 90.0);
    assert!(peers.ways[1].speed.is_none() && peers.fastest("other").is_none());
}
