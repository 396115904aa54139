//! The drive that a chip's boot ROM shows on USB while its BOOTSEL button is held at reset.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// The file by which the drive is known, and which says of which chip it is.
const INFO: &str = "INFO_UF2.TXT";

/// Copies a UF2 file to the drive of the board that identifies itself so. The chip restarts when it has every block.
pub(crate) fn write(board_id: &str, file: &[u8]) -> Result<()> {
    write_to(&mounted(), board_id, file)
}

fn write_to(folders: &[PathBuf], board_id: &str, file: &[u8]) -> Result<()> {
    let found: Vec<&PathBuf> = folders.iter().filter(|folder| is_board(folder, board_id)).collect();
    let [drive] = found[..] else {
        if found.is_empty() {
            bail!(
                "no drive {board_id} is mounted: hold the board's BOOTSEL button while you plug it in, mount the drive that \
                 appears, and try again; or use --uf2 FILE, or a debug probe with --probe"
            );
        }
        bail!("{} drives are boards of the kind {board_id}: unplug all but one", found.len());
    };
    let path = drive.join("MOTE.UF2");
    fs::write(&path, file).with_context(|| format!("cannot write {}", path.display()))?;
    println!("wrote {}", path.display());
    Ok(())
}

/// Whether the drive's description names this board.
fn is_board(folder: &Path, board_id: &str) -> bool {
    let Ok(info) = fs::read_to_string(folder.join(INFO)) else { return false };
    info.lines().filter_map(|line| line.split_once(':')).any(|(field, value)| {
        field.trim().eq_ignore_ascii_case("board-id")
            && value.trim().split('-').collect::<Vec<_>>().join("-") == board_id
    })
}

/// Where drives are mounted: on Linux from the kernel's list, on macOS below /Volumes, on Windows by letter.
fn mounted() -> Vec<PathBuf> {
    if cfg!(windows) {
        return ('D'..='Z').map(|letter| PathBuf::from(format!("{letter}:\\"))).collect();
    }
    let volumes = fs::read_dir("/Volumes").into_iter().flatten().flatten().map(|entry| entry.path());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    volumes.chain(mount_points(&mounts)).collect()
}

/// The second word of each line; the kernel writes a space in a name as \040.
fn mount_points(mounts: &str) -> Vec<PathBuf> {
    mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(|path| path.replace("\\040", " ").into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_to_the_one_drive_of_this_board() {
        let folder = tempfile::tempdir().unwrap();
        let drives = ["pico", "pico2", "stick"].map(|name| folder.path().join(name));
        for drive in &drives {
            fs::create_dir(drive).unwrap();
        }
        fs::write(drives[0].join(INFO), "UF2 Bootloader v3.0\r\nModel: Raspberry Pi RP2\r\nBoard-ID: RPI-RP2\r\n")
            .unwrap();
        fs::write(drives[1].join(INFO), "UF2 Bootloader v1.0\nModel: Raspberry Pi RP2350\nBoard-ID: RP2350\n").unwrap();
        write_to(&drives, "RP2350", b"blocks").unwrap();
        assert_eq!(fs::read(drives[1].join("MOTE.UF2")).unwrap(), b"blocks");
        assert!(!drives[0].join("MOTE.UF2").exists() && !drives[2].join("MOTE.UF2").exists());

        let error = write_to(&drives[1..], "RPI-RP2", b"").unwrap_err().to_string();
        assert!(error.contains("BOOTSEL"), "{error}");
        fs::copy(drives[0].join(INFO), drives[2].join(INFO)).unwrap();
        let error = write_to(&drives, "RPI-RP2", b"").unwrap_err().to_string();
        assert!(error.contains("2 drives"), "{error}");
    }

    #[test]
    fn spaces_in_mount_points_are_read() {
        let mounts = "/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /media/me/RPI\\040RP2 vfat rw 0 0\n";
        assert_eq!(mount_points(mounts), [PathBuf::from("/"), PathBuf::from("/media/me/RPI RP2")]);
    }
}
