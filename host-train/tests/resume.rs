//! A run that is stopped and goes on gives the bits of one that is not, with the binary a user runs.

mod common;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

fn mote_train(args: &[&str], run: &Path) -> Command {
    let mut command = common::mote_train();
    command.args(args).arg("--run").arg(run).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

fn succeed(args: &[&str], run: &Path) {
    let Output { status, stderr, .. } = mote_train(args, run).output().unwrap();
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
}

/// Starts the command, stops it as Ctrl-C does when `after` has passed since `begun` was there, and tells whether it was
/// stopped in time.
#[cfg(unix)]
fn interrupt(args: &[&str], run: &Path, begun: &str, after: Duration) -> bool {
    let mut child = mote_train(args, run).spawn().unwrap();
    let mut since = None;
    while since.is_none_or(|since: Instant| since.elapsed() < after) {
        if since.is_none() && run.join(begun).exists() {
            since = Some(Instant::now());
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // The shell's own kill: a small system has no other.
    let stopped = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    let Output { status, stderr, .. } = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    let interrupted = status.code() == Some(1) && stderr.contains("the same command goes on");
    // The signal may also come before the handler is there, or after the last step.
    assert!(stopped.success() && (interrupted || status.success() || status.code().is_none()), "{status} {stderr}");
    interrupted
}

#[cfg(unix)]
#[test]
fn a_stopped_run_goes_on_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    let train = ["train", "--preset", "toy", "--seed", "3"];
    succeed(&train, &whole);
    succeed(&["distill"], &whole);
    let mut stops = 0;
    // The log is there once training has begun; from the second time on it is there before.
    for after in [50, 400, 300, 500] {
        stops += u32::from(interrupt(&train, &stopped, "logs/train.csv", Duration::from_millis(after)));
    }
    succeed(&train, &stopped);
    for after in [50, 100, 150] {
        stops += u32::from(interrupt(&["distill"], &stopped, "teacher.safetensors", Duration::from_millis(after)));
    }
    succeed(&["distill"], &stopped);
    assert!(stops > 0, "no run was stopped midway");
    for name in ["teacher.safetensors", "student.safetensors", "teacher.npy", "student.npy", "loss.csv"] {
        let read = |run: &Path| std::fs::read(run.join(name)).unwrap();
        assert!(read(&whole) == read(&stopped), "{name} differs after {stops} stops");
    }
    let left: Vec<_> = std::fs::read_dir(&stopped).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("distill-checkpoint")), "{left:?}");
}

#[test]
fn wrong_settings_are_one_clear_line_and_leave_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (args, code, wanted) in [
        (&["train", "--preset", "dmeo"][..], 2, "there is no preset dmeo"),
        (&["train", "--data", "/nowhere"][..], 2, "there is no file or folder /nowhere"),
        (&["distill"][..], 2, "holds no trained teacher"),
    ] {
        let Output { status, stderr, .. } = mote_train(args, &run).output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(wanted) && stderr.lines().count() == 1, "{args:?}: {stderr}");
        assert!(!run.exists(), "{args:?} left a run folder");
    }
}

#[test]
fn a_teacher_from_elsewhere_is_distilled_and_another_network_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [here, there, other] = ["here", "there", "other"].map(|name| folder.path().join(name));
    succeed(&["train", "--preset", "toy", "--steps", "20"], &here);
    for run in [&there, &other] {
        std::fs::create_dir(run).unwrap();
        std::fs::copy(here.join("teacher.safetensors"), run.join("teacher.safetensors")).unwrap();
    }
    for _ in 0..2 {
        succeed(&["train", "--preset", "toy"], &there);
    }
    assert!(!there.join("checkpoints").exists(), "nothing was trained");
    for run in [&here, &there] {
        succeed(&["distill"], run);
    }
    let student = |run: &Path| std::fs::read(run.join("student.npy")).unwrap();
    assert!(student(&here) == student(&there));
    let Output { status, stderr, .. } = mote_train(&["train", "--preset", "toy-signal"], &other).output().unwrap();
    let stderr = String::from_utf8_lossy(&stderr);
    assert!(!status.success() && stderr.contains("another network than the recipe's"), "{stderr}");
}
