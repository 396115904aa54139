//! What this machine has for computing on an Nvidia GPU. `cargo xtask` asks before it compiles CUDA's backend, mote-train
//! before it computes on it.
//!
//! Files are looked for and `ldconfig` and `nvidia-smi` are run; nothing is loaded, so nothing here can fail.

mod surroundings;

use std::path::PathBuf;

pub use surroundings::Surroundings;

/// The driver's library: the name it is installed as, and that of a link to it.
const DRIVER: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
/// The run-time compiler, under the names that cudarc 0.19 loads.
const COMPILER: [&str; 4] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11"];
/// The library of collective operations, under the name that cudarc 0.19 loads.
const COLLECTIVES: [&str; 1] = ["libnccl.so"];
/// Where a toolkit may be, as cubecl 0.10 looks for its headers where `CUDA_PATH` names none.
const TOOLKITS: [&str; 3] = ["usr/local/cuda", "opt/cuda", "usr"];

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// The driver's library.
    pub driver: Option<PathBuf>,
    /// What shows a GPU: its device file, or its line of `nvidia-smi -L`.
    pub gpu: Option<String>,
    /// Whether `CUDA_VISIBLE_DEVICES` hides every GPU.
    pub hidden: bool,
    /// The run-time compiler, NVRTC, where the loader finds it.
    pub compiler: Option<PathBuf>,
    /// The folder of a toolkit whose `include` has CUDA's headers.
    pub toolkit: Option<PathBuf>,
    /// NCCL, which several GPUs need, where the loader finds it.
    pub collectives: Option<PathBuf>,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        Self::of(&Surroundings::here())
    }

    /// The machine with these surroundings.
    pub fn of(surroundings: &Surroundings) -> Self {
        let visible = surroundings.visible_devices.as_deref().map(str::trim);
        let has_headers = |toolkit: &PathBuf| toolkit.join("include/cuda_runtime.h").exists();
        let toolkits = match &surroundings.cuda_path {
            Some(path) => vec![path.clone()],
            None => TOOLKITS.map(|path| surroundings.root.join(path)).to_vec(),
        };
        Self {
            driver: surroundings.library(&DRIVER),
            gpu: surroundings.gpu(),
            hidden: matches!(visible, Some("" | "-1")),
            compiler: surroundings.library(&COMPILER),
            toolkit: toolkits.into_iter().find(has_headers),
            collectives: surroundings.library(&COLLECTIVES),
        }
    }

    /// Whether there is a GPU to compute on, and why.
    ///
    /// # Errors
    /// Why not.
    pub fn has_gpu(&self) -> Result<String, String> {
        let driver = self.has_driver()?;
        match &self.gpu {
            _ if self.hidden => Err("CUDA_VISIBLE_DEVICES hides every GPU".to_owned()),
            Some(gpu) => Ok(format!("{driver} and {gpu} are there")),
            None => Err(format!("{driver} is there, but no GPU: no /dev/nvidia0, and nvidia-smi lists none")),
        }
    }

    /// Whether there is a driver: its library.
    ///
    /// # Errors
    /// Why not, and what to do.
    pub fn has_driver(&self) -> Result<String, String> {
        match &self.driver {
            Some(driver) => Ok(driver.display().to_string()),
            None => Err("no Nvidia driver is here: there is no libcuda.so.1".to_owned()),
        }
    }

    /// Whether kernels can be compiled while a program runs.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn has_compiler(&self) -> Result<(), String> {
        let missing = match (&self.compiler, &self.toolkit) {
            (Some(_), Some(_)) => return Ok(()),
            (None, _) => "CUDA's run-time compiler: there is no libnvrtc.so where LD_LIBRARY_PATH and the system look",
            (_, None) => "CUDA's headers: CUDA_PATH names no folder with include/cuda_runtime.h",
        };
        Err(format!("this machine lacks {missing}; `cargo xtask train` gets both, as does installing CUDA's toolkit"))
    }

    /// Whether several GPUs can add their gradients.
    ///
    /// # Errors
    /// What is missing, and what to do.
    pub fn has_collectives(&self) -> Result<(), String> {
        let missing = "this machine lacks NCCL, which several GPUs need: there is no libnccl.so where LD_LIBRARY_PATH and \
                       the system look; `cargo xtask train` gets it, as does installing libnccl-dev";
        self.collectives.as_ref().map(drop).ok_or_else(|| missing.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Surroundings with these empty files and nothing else.
    fn surroundings(root: &Path, files: &[&str]) -> Surroundings {
        for file in files {
            let file = root.join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        Surroundings { root: root.to_owned(), ..Surroundings::default() }
    }

    #[test]
    fn a_gpu_is_a_driver_and_a_device() {
        let has = |files: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            Machine::of(&surroundings(folder.path(), files)).has_gpu()
        };
        let driver = "usr/lib/x86_64-linux-gnu/libcuda.so.1";
        let why = has(&[driver, "dev/nvidia0"]).unwrap();
        assert!(why.contains("libcuda.so.1") && why.ends_with("dev/nvidia0 are there"), "{why}");
        // A container may be given a GPU of any number; Windows' Linux has one device for all.
        has(&[driver, "dev/nvidia3"]).unwrap();
        has(&["usr/lib64/libcuda.so.1", "dev/dxg"]).unwrap();
        // These are of the driver, not of a GPU.
        let why = has(&[driver, "dev/nvidiactl", "dev/nvidia-uvm"]).unwrap_err();
        assert!(why.contains("but no GPU"), "{why}");
        assert!(has(&["dev/nvidia0"]).unwrap_err().contains("no Nvidia driver"));
        assert!(has(&[]).unwrap_err().contains("libcuda.so.1"));
    }

    #[test]
    fn libraries_are_where_the_loader_looks() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other");
        let mut here = surroundings(folder.path(), &["other/libcuda.so.1", "other/libnvrtc.so.12", "dev/nvidia0"]);
        assert_eq!(Machine::of(&here).driver, None);
        here.library_path = vec![folder.path().join("nowhere"), other.clone()];
        let machine = Machine::of(&here);
        assert_eq!(machine.driver, Some(other.join("libcuda.so.1")));
        assert_eq!(machine.compiler, Some(other.join("libnvrtc.so.12")));
        here.library_path.clear();
        here.loader_cache = format!("2 libs\n\tlibcuda.so.1 (libc6,x86-64) => {}/libcuda.so.1\n", other.display());
        assert_eq!(Machine::of(&here).driver, Some(other.join("libcuda.so.1")));
        // A cache may be older than what was removed.
        here.loader_cache = "\tlibcuda.so.1 (libc6,x86-64) => /nowhere/libcuda.so.1\n".to_owned();
        assert_eq!(Machine::of(&here).driver, None);
    }

    #[test]
    fn what_nvidia_smi_lists_is_a_gpu_unless_it_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let mut here = surroundings(folder.path(), &["usr/lib64/libcuda.so.1"]);
        here.nvidia_smi = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)\n".to_owned();
        assert!(Machine::of(&here).has_gpu().unwrap().contains("GPU 0: NVIDIA H100"));
        for hiding in ["", " -1"] {
            here.visible_devices = Some(hiding.to_owned());
            assert!(Machine::of(&here).has_gpu().unwrap_err().contains("CUDA_VISIBLE_DEVICES"), "{hiding:?}");
        }
        here.visible_devices = Some("0".to_owned());
        Machine::of(&here).has_gpu().unwrap();
        here.nvidia_smi = "No devices found.\n".to_owned();
        assert!(Machine::of(&here).has_gpu().is_err());
    }

    #[test]
    fn kernels_need_a_compiler_and_headers() {
        let folder = tempfile::tempdir().unwrap();
        let header = "cuda/include/cuda_runtime.h";
        let mut here = surroundings(folder.path(), &["usr/lib/libnvrtc.so", header]);
        assert!(Machine::of(&here).has_compiler().unwrap_err().contains("CUDA_PATH"));
        here.cuda_path = Some(folder.path().join("cuda"));
        assert_eq!(Machine::of(&here).has_compiler(), Ok(()));
        let bare = tempfile::tempdir().unwrap();
        here.root = bare.path().to_owned();
        assert!(Machine::of(&here).has_compiler().unwrap_err().contains("libnvrtc.so"));
    }
}
