//! The members of packages: ar, tar, zip; gzip and xz.

use std::io::Read;

use anyhow::{Context, ensure};

/// The data of a Debian package (ar(5), deb(5)): every file of its `data.tar.xz` that `keep` accepts by its path.
pub(super) fn deb_files(deb: &[u8], keep: impl Fn(&str) -> bool) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    tar_files(&unxz(ar_member(deb, "data.tar.xz")?)?, keep)
}

/// A member of an ar archive: a magic, then for each member a header of 60 bytes (name 16, .., length 10 in decimal, 2)
/// and its bytes, padded to an even length.
fn ar_member<'a>(archive: &'a [u8], wanted: &str) -> anyhow::Result<&'a [u8]> {
    let mut rest = archive.strip_prefix(b"!<arch>\n").context("it is no ar archive")?;
    while let Some((header, tail)) = rest.split_at_checked(60) {
        let text = |range| std::str::from_utf8(&header[range]).unwrap_or("").trim().to_owned();
        let length: usize = text(48..58).parse().context("a member's length is no number")?;
        let (member, tail) = tail.split_at_checked(length).context("it ends inside a member")?;
        if text(0..16).trim_end_matches('/') == wanted {
            return Ok(member);
        }
        rest = tail.get(length % 2..).unwrap_or(&[]);
    }
    anyhow::bail!("it has no member {wanted}")
}

/// Every plain file of a tar archive that `keep` accepts by its path, a leading `./` taken off.
pub(super) fn tar_files(archive: &[u8], keep: impl Fn(&str) -> bool) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
        if entry.header().entry_type().is_file() && keep(&path) {
            let mut contents = Vec::new();
            entry.read_to_end(&mut contents)?;
            files.push((path, contents));
        }
    }
    Ok(files)
}

pub(super) fn gunzip(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).context("its gzip stream is damaged")?;
    Ok(plain)
}

pub(super) fn unxz(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut plain = Vec::new();
    lzma_rust2::XzReader::new(bytes, true).read_to_end(&mut plain).context("its xz stream is damaged")?;
    Ok(plain)
}

/// A member of a zip archive (APPNOTE.TXT 4.3), stored or deflated, of less than 4 GiB.
pub(super) fn zip_member(archive: &[u8], wanted: &str) -> anyhow::Result<Vec<u8>> {
    let u16_at = |at: usize| archive.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    let u32_at = |at: usize| archive.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let end = archive.windows(4).rposition(|window| window == b"PK\x05\x06").context("it is no zip archive")?;
    let early = "it ends early";
    let mut at = u32_at(end + 16).context(early)?;
    for _ in 0..u16_at(end + 10).context(early)? {
        ensure!(archive.get(at..at + 4) == Some(b"PK\x01\x02"), "its directory is damaged");
        let [name_length, extra, comment] = [28, 30, 32].map(|offset| u16_at(at + offset).unwrap_or(0));
        let name = archive.get(at + 46..at + 46 + name_length).context(early)?;
        if name == wanted.as_bytes() {
            let (method, length) = (u16_at(at + 10).context(early)?, u32_at(at + 20).context(early)?);
            let local = u32_at(at + 42).context(early)?;
            let skip = u16_at(local + 26).context(early)? + u16_at(local + 28).context(early)?;
            let bytes = archive.get(local + 30 + skip..local + 30 + skip + length).context(early)?;
            return match method {
                0 => Ok(bytes.to_vec()),
                8 => {
                    let mut plain = Vec::new();
                    flate2::read::DeflateDecoder::new(bytes).read_to_end(&mut plain).context("a member is damaged")?;
                    Ok(plain)
                }
                _ => anyhow::bail!("its compression method {method} is not known"),
            };
        }
        at += 46 + name_length + extra + comment;
    }
    anyhow::bail!("it has no member {wanted}")
}

/// Archives for tests.
#[cfg(test)]
pub(super) mod make {
    use std::io::Write;

    pub(crate) fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, contents) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(contents.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    pub(crate) fn xz(bytes: &[u8]) -> Vec<u8> {
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut writer = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    pub(crate) fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, bytes) in members {
            out.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes());
            out.extend(*bytes);
            out.extend(std::iter::repeat_n(b'\n', bytes.len() % 2));
        }
        out
    }

    pub(crate) fn deb(files: &[(&str, &[u8])]) -> Vec<u8> {
        ar(&[("debian-binary", b"2.0"), ("control.tar.xz", b"?"), ("data.tar.xz", &xz(&tar(files)))])
    }

    /// The first member is stored, the others are deflated.
    pub(crate) fn zip(members: &[(&str, &[u8])]) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (number, (name, plain)) in members.iter().enumerate() {
            let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(plain).unwrap();
            let (method, bytes) = if number == 0 { (0u16, plain.to_vec()) } else { (8, encoder.finish().unwrap()) };
            let u32_of = |value: usize| (value as u32).to_le_bytes();
            let shared = [
                &method.to_le_bytes()[..],
                &[0; 8],
                &u32_of(bytes.len()),
                &u32_of(plain.len()),
                &(name.len() as u16).to_le_bytes(),
                &[0, 0],
            ]
            .concat();
            let begin = out.len();
            out.extend([b"PK\x03\x04\x14\0\0\0", &shared[..], name.as_bytes(), &bytes].concat());
            directory.extend(
                [b"PK\x01\x02\x14\0\x14\0\0\0", &shared[..], &[0; 10], &u32_of(begin), name.as_bytes()].concat(),
            );
        }
        let count = (members.len() as u16).to_le_bytes();
        let (at, length) = ((out.len() as u32).to_le_bytes(), (directory.len() as u32).to_le_bytes());
        [
            out,
            directory,
            b"PK\x05\x06\0\0\0\0".to_vec(),
            count.to_vec(),
            count.to_vec(),
            length.to_vec(),
            at.to_vec(),
            vec![0, 0],
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_deb_come_out_by_path() {
        let deb = make::deb(&[("./usr/share/a.txt", b"one"), ("./usr/share/b.txt", b"two")]);
        let files = deb_files(&deb, |path| path.ends_with("b.txt")).unwrap();
        assert_eq!(files, [("usr/share/b.txt".to_owned(), b"two".to_vec())]);
        assert!(
            deb_files(&make::ar(&[("data.tar.gz", b"x")]), |_| true).unwrap_err().to_string().contains("no member")
        );
        assert!((0..deb.len() - 1).all(|length| deb_files(&deb[..length], |_| true).is_err()));
    }

    #[test]
    fn members_of_a_zip_come_out_stored_or_deflated() {
        let long = [7; 1000];
        let zip = make::zip(&[("a", b"one"), ("folder/b", &long)]);
        assert_eq!(zip_member(&zip, "a").unwrap(), b"one");
        assert_eq!(zip_member(&zip, "folder/b").unwrap(), long);
        assert!(zip_member(&zip, "c").unwrap_err().to_string().contains("no member c"));
        assert!((0..zip.len() - 22).all(|length| zip_member(&zip[..length], "a").is_err()));
    }

    #[test]
    fn compressed_streams_come_back_and_damaged_ones_do_not() {
        let plain: Vec<u8> = (0..=255).cycle().take(3000).collect();
        assert_eq!(gunzip(&make::gzip(&plain)).unwrap(), plain);
        assert_eq!(unxz(&make::xz(&plain)).unwrap(), plain);
        assert!(gunzip(&make::gzip(&plain)[..40]).is_err() && unxz(&make::xz(&plain)[..40]).is_err());
    }
}
