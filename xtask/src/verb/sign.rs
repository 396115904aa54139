//! `keygen` and `sign`: ed25519 (RFC 8032) over a model's bytes as they are.
//!
//! Keys are PEM files as other tools write them (RFC 8410), and a signature is its 64 bytes, so OpenSSL checks it too:
//! `openssl pkeyutl -verify -pubin -inkey mote.key.pub -rawin -in model.mote -sigfile model.mote.sig`.

use crate::images::write_whole;
use crate::model_file;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use ed25519_compact::{KeyPair, PublicKey, Seed, Signature};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Arguments of `keygen`.
#[derive(Args)]
pub(crate) struct KeygenArguments {
    /// The secret key's file; the public one is FILE.pub. Nothing is overwritten
    #[arg(long, value_name = "FILE", default_value = "mote.key")]
    out: PathBuf,
}

/// Arguments of `sign`.
#[derive(Args)]
pub(crate) struct SignArguments {
    /// The .mote file
    model: PathBuf,
    /// The secret key's file
    #[arg(long, value_name = "FILE", default_value = "mote.key")]
    key: PathBuf,
}

/// Makes a key.
pub(crate) fn keygen(arguments: &KeygenArguments) -> Result<()> {
    let (secret, public) = (&arguments.out, beside(&arguments.out, "pub"));
    if in_git(secret) {
        bail!(
            "{} would be committed with the repository it lies in: choose a place outside, or a name that .gitignore \
               names (*.key)",
            secret.display()
        );
    }
    let mut seed = [0; Seed::BYTES];
    getrandom::fill(&mut seed).map_err(|error| anyhow!("the system gives no random numbers: {error}"))?;
    let pair = KeyPair::from_seed(Seed::new(seed));
    write_new(secret, &pair.sk.to_pem(), true)?;
    write_new(&public, &pair.pk.to_pem(), false)?;
    println!("wrote {}: keep it secret, and keep it", secret.display());
    println!("wrote {}: `cargo xtask flash --key` makes firmware that takes nothing else", public.display());
    Ok(())
}

/// Signs a model.
pub(crate) fn sign(arguments: &SignArguments) -> Result<()> {
    let model = model_file::read(&arguments.model)?;
    let pem = read(&arguments.key, "secret key: make one with `cargo xtask keygen`")?;
    let pair = KeyPair::from_pem(&pem)
        .map_err(|error| anyhow!("{} is no secret ed25519 key in PEM: {error}", arguments.key.display()))?;
    let signature = pair.sk.sign(model.bytes(), None);
    let path = signature_path(&arguments.model);
    write_whole(&path, signature.as_ref())?;
    println!("wrote {}", path.display());
    Ok(())
}

/// A public key's file, or a secret key's, whose public part is taken.
pub(crate) fn read_public(path: &Path) -> Result<PublicKey> {
    let pem = read(path, "key: make one with `cargo xtask keygen`")?;
    PublicKey::from_pem(&pem)
        .or_else(|_| KeyPair::from_pem(&pem).map(|pair| pair.pk))
        .map_err(|error| anyhow!("{} is no ed25519 key in PEM: {error}", path.display()))
}

/// The signature beside a model, if there is one; with a key, there must be a right one.
pub(crate) fn signature(model: &Path, bytes: &[u8], key: Option<&PublicKey>) -> Result<Option<[u8; 64]>> {
    let path = signature_path(model);
    if !path.exists() {
        return match key {
            Some(_) => {
                bail!("{} is not signed, and the firmware is to have a key: run `cargo xtask sign`", model.display())
            }
            None => Ok(None),
        };
    }
    let bytes_of_file = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let signature: [u8; 64] = bytes_of_file.try_into().map_err(|bytes: Vec<u8>| {
        anyhow!("{} has {} bytes, a signature 64: sign again", path.display(), bytes.len())
    })?;
    if key.is_some_and(|key| key.verify(bytes, &Signature::new(signature)).is_err()) {
        bail!("{} is not this key's signature of {}: sign again", path.display(), model.display());
    }
    Ok(Some(signature))
}

fn signature_path(model: &Path) -> PathBuf {
    beside(model, "sig")
}

fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    name.into()
}

fn read(path: &Path, what: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}, the {what}", path.display()))
}

fn write_new(path: &Path, text: &str, secret: bool) -> Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let mut file = options
        .open(path)
        .with_context(|| format!("cannot create {}: is it there already? keys are not overwritten", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Whether git would take the file in: it lies in a repository that does not ignore it.
fn in_git(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let Some(name) = path.file_name() else { return false };
    let git = |words: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(folder).args(words).stdout(Stdio::null()).stderr(Stdio::null());
        git
    };
    let inside = git(&["rev-parse", "--is-inside-work-tree"]).status().is_ok_and(|status| status.success());
    inside && !git(&["check-ignore", "--quiet"]).arg(name).status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::selftest;

    fn signed_model(folder: &Path) -> (PathBuf, PathBuf) {
        let mut file = [0; 8192];
        let model = folder.join("small.mote");
        fs::write(&model, selftest::write_model(&mut file).unwrap().bytes()).unwrap();
        let key = folder.join("mote.key");
        keygen(&KeygenArguments { out: key.clone() }).unwrap();
        sign(&SignArguments { model: model.clone(), key: key.clone() }).unwrap();
        (model, key)
    }

    #[test]
    fn a_signature_is_checked_against_its_key_and_its_model() {
        let folder = tempfile::tempdir().unwrap();
        let (model, key) = signed_model(folder.path());
        let bytes = fs::read(&model).unwrap();
        let public = read_public(&beside(&key, "pub")).unwrap();
        assert_eq!(*public, *read_public(&key).unwrap());
        assert!(signature(&model, &bytes, Some(&public)).unwrap().is_some());
        let error = signature(&model, &bytes[1..], Some(&public)).unwrap_err().to_string();
        assert!(error.contains("sign again"), "{error}");
        fs::remove_file(signature_path(&model)).unwrap();
        assert_eq!(signature(&model, &bytes, None).unwrap(), None);
        let error = signature(&model, &bytes, Some(&public)).unwrap_err().to_string();
        assert!(error.contains("xtask sign"), "{error}");
    }

    #[test]
    fn keys_are_not_overwritten_and_not_committed() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("mote.key");
        keygen(&KeygenArguments { out: out.clone() }).unwrap();
        assert!(keygen(&KeygenArguments { out: out.clone() }).is_err());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o077, 0, "only its owner reads it");
        }
        // In this repository: named in .gitignore, or refused.
        let root = crate::places::root();
        if root.join(".git").exists() {
            assert!(in_git(&root.join("secret.pem")));
            assert!(!in_git(&root.join("secret.key")));
        }
    }

    #[test]
    fn openssl_takes_our_keys_and_signatures_and_we_take_its_keys() {
        let openssl = |words: &[&std::ffi::OsStr]| {
            Command::new("openssl").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        if !openssl(&["version".as_ref()]).is_ok_and(|status| status.success()) {
            println!("SKIPPED: openssl is not installed");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (model, key) = signed_model(folder.path());
        let (public, signature) = (beside(&key, "pub"), signature_path(&model));
        let verify = |signature: &Path| {
            let words = ["pkeyutl", "-verify", "-pubin", "-rawin", "-inkey"].map(std::ffi::OsStr::new);
            let files =
                [public.as_os_str(), "-in".as_ref(), model.as_os_str(), "-sigfile".as_ref(), signature.as_os_str()];
            openssl(&[&words[..], &files[..]].concat()).unwrap().success()
        };
        assert!(verify(&signature));
        let mut other = fs::read(&signature).unwrap();
        other[5] ^= 1;
        let damaged = folder.path().join("damaged.sig");
        fs::write(&damaged, other).unwrap();
        assert!(!verify(&damaged));

        let theirs = folder.path().join("theirs.key");
        let words = ["genpkey", "-algorithm", "ed25519", "-out"].map(std::ffi::OsStr::new);
        assert!(openssl(&[&words[..], &[theirs.as_os_str()]].concat()).unwrap().success());
        sign(&SignArguments { model: model.clone(), key: theirs.clone() }).unwrap();
        let key = read_public(&theirs).unwrap();
        assert!(super::signature(&model, &fs::read(&model).unwrap(), Some(&key)).unwrap().is_some());
    }
}
