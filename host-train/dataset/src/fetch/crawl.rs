//! Tiles of Dungeon Crawl Stone Soup.

use std::collections::HashSet;

use image::ImageFormat;

use super::archive::{tar_files, unxz};
use super::client::Package;
use super::{FetchableSet, Files, LICENCE_FILE, variants};

/// Names of tiles whose authors did not agree to CC0, as the project crawl/tiles lists them.
const UNCLEAR: &str = include_str!("crawl-unclear.txt");
/// Pixels along a side; tiles of other sizes are left out.
const SIDE: u32 = 32;

pub(super) const SET: FetchableSet = FetchableSet {
    name: "crawl",
    about: "Dungeon Crawl tiles: about 5,000 color sprites with transparency, 32x32, 10 classes",
    licence: "CC0-1.0 for most; the origin of some older tiles is unclear: look into it before showing them",
    attribution: "Dungeon Crawl Stone Soup 0.28 by its team and contributors, in part from RLTiles (public domain)",
    url: "https://github.com/crawl/tiles",
    bytes: 13_913_072,
    package: Package::debian_source("crawl", "2:0.28.0-1.1", "crawl_0.28.0.orig.tar.xz"),
    sha256: "5a6be168f8888b84bdb199184ca20bd8636f77ba7e9e0124ebee8850092f2f47",
    unpack,
    source: variants,
};

/// The folder that a tile is in, and its class; the first that fits counts. Tiles in other folders (the interface's
/// icons, unused ones) are left out.
const CLASSES: &[(&str, &str)] = &[
    ("dngn/floor/", "floor"),
    ("dngn/wall/", "wall"),
    ("dngn/", "feature"),
    ("effect/", "effect"),
    ("item/armour/", "armour"),
    ("item/weapon/", "weapon"),
    ("item/", "item"),
    ("misc/", "mark"),
    ("mon/", "monster"),
    ("player/", "player"),
];

/// Puts each tile of the usual size, once, into `CLASS/BASE__NAME.png`.
fn unpack(tar_xz: &[u8]) -> anyhow::Result<Files> {
    const LICENCES: [&str; 2] = ["source/rltiles/license.txt", "docs/license/cc0.txt"];
    let wanted = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default();
        let is_tile = path.contains("/source/rltiles/") && name.ends_with(".png") && !name.starts_with("._");
        is_tile || LICENCES.iter().any(|licence| path.ends_with(licence))
    };
    let mut members = tar_files(&unxz(tar_xz)?, wanted)?;
    members.sort();
    let unclear: HashSet<&str> = UNCLEAR.lines().collect();
    let (mut files, mut seen) = (Files::new(), HashSet::new());
    for (path, contents) in members {
        let Some((_, place)) = path.split_once("/source/rltiles/").filter(|_| path.ends_with(".png")) else {
            files.entry(LICENCE_FILE.to_owned()).or_default().extend([&contents[..], b"\n"].concat());
            continue;
        };
        let class = CLASSES.iter().find_map(|(folder, class)| Some((place.strip_prefix(folder)?, class)));
        let Some((rest, class)) = class else { continue };
        let name = rest.trim_end_matches(".png");
        let stem = name.rsplit('/').next().unwrap_or_default();
        if unclear.contains(stem) {
            continue;
        }
        let picture = image::load_from_memory_with_format(&contents, ImageFormat::Png)?.into_rgba8();
        if picture.dimensions() == (SIDE, SIDE) && seen.insert(picture.into_raw()) {
            files.insert(format!("{class}/{}__{stem}.png", base(name)), contents);
        }
    }
    Ok(files)
}

/// Words of a name that tell variants of one tile apart.
const VARIANTS: [&str; 19] = [
    "black", "blue", "brown", "cyan", "gold", "gray", "green", "grey", "magenta", "new", "old", "orange", "pink",
    "purple", "red", "silver", "violet", "white", "yellow",
];

/// The name without what tells variants apart (colors, numbers, `new` and `old`), with `-` for its folders.
fn base(name: &str) -> String {
    let (folder, stem) = name.rsplit_once('/').unwrap_or(("", name));
    let plain = |word| ["light", "dark"].iter().find_map(|shade| str::strip_prefix(word, shade)).unwrap_or(word);
    let words = stem.split(['_', '-']).map(|word| word.trim_end_matches(|letter: char| letter.is_ascii_digit()));
    let kept: Vec<&str> = words.filter(|word| !word.is_empty() && !VARIANTS.contains(&plain(word))).collect();
    let kept = if kept.is_empty() { stem.to_owned() } else { kept.join("_") };
    if folder.is_empty() { kept } else { format!("{}-{kept}", folder.replace('/', "-")) }
}

#[cfg(test)]
mod tests {
    use super::super::archive::make;
    use super::*;

    fn tile(side: u32, value: u8) -> Vec<u8> {
        let mut png = std::io::Cursor::new(Vec::new());
        image::RgbaImage::from_pixel(side, side, image::Rgba([value; 4])).write_to(&mut png, ImageFormat::Png).unwrap();
        png.into_inner()
    }

    #[test]
    fn names_lose_what_tells_variants_apart() {
        for (name, expected) in [
            ("animals/butterfly10", "animals-butterfly"),
            ("bolt0_new", "bolt"),
            ("cloud_acid_2_old", "cloud_acid"),
            ("abyss/abyss_lightblue_3", "abyss-abyss"),
            ("base/draconian_red_m", "base-draconian_m"),
            ("brick_brown-vines4", "brick_vines"),
            ("blue", "blue"),
        ] {
            assert_eq!(base(name), expected, "{name}");
        }
    }

    #[test]
    fn tiles_of_the_usual_size_and_a_clear_licence_are_kept_once() {
        let (a, b, large) = (tile(32, 1), tile(32, 2), tile(48, 3));
        let root = |path: &str| format!("stone_soup/{path}");
        let members = [
            ("source/rltiles/mon/animals/bat1.png", &a),
            ("source/rltiles/mon/animals/bat2.png", &b),
            ("source/rltiles/mon/animals/copy_of_bat1.png", &a),
            ("source/rltiles/mon/large.png", &large),
            ("source/rltiles/mon/._bat.png", &b"apple".to_vec()),
            ("source/rltiles/mon/kenku.png", &tile(32, 4)),
            ("source/rltiles/gui/icon.png", &tile(32, 5)),
            ("source/rltiles/item/weapon/axe.png", &tile(32, 6)),
            ("source/rltiles/license.txt", &b"public domain".to_vec()),
        ]
        .map(|(path, contents)| (root(path), contents.clone()));
        let members: Vec<(&str, &[u8])> = members.iter().map(|(path, contents)| (&path[..], &contents[..])).collect();
        let files = unpack(&make::xz(&make::tar(&members))).unwrap();
        let names: Vec<&String> = files.keys().collect();
        let expected =
            ["LICENSE.txt", "monster/animals-bat__bat1.png", "monster/animals-bat__bat2.png", "weapon/axe__axe.png"];
        assert_eq!(names, expected);
    }
}
