//! Fugue icons, cut from their sheet.

use std::collections::BTreeMap;
use std::io::Cursor;

use anyhow::{Context, ensure};
use image::{ImageFormat, imageops};

use super::archive::{gunzip, tar_files};
use super::client::Package;
use super::{FetchableSet, Files, variants};

const SHA256: &str = "5bb672fba02eef84d318590bd94ccb8c89d533a51e5de4975c7d1664bce00fa5";
/// Pixels along a side.
const SIDE: u32 = 16;

pub(super) const SET: FetchableSet = FetchableSet {
    name: "fugue",
    about: "Fugue icons: 3,570 color icons with transparency, 16x16, 10 classes by subject",
    licence: "CC-BY-3.0",
    attribution: "Fugue Icons by Yusuke Kamiyamane",
    url: "https://p.yusukekamiyamane.com",
    bytes: 1_164_955,
    package: Package::python_source("fugue-icons", "3.5.6", "fugue-icons-3.5.6.tar.gz", SHA256),
    sha256: SHA256,
    unpack,
    source: variants,
};

/// The class of an icon by the first word of its name; all others are of the class `thing`.
const CLASSES: &[(&str, &[&str])] = &[
    ("arrow", &["arrow", "chevron", "control", "direction", "download", "navigation", "share", "upload"]),
    (
        "container",
        &[
            "baggage",
            "bin",
            "box",
            "briefcase",
            "drawer",
            "folder",
            "folders",
            "inbox",
            "jar",
            "luggage",
            "present",
            "safe",
            "shopping",
            "store",
            "toolbox",
            "wallet",
        ],
    ),
    (
        "document",
        &[
            "blog",
            "blogs",
            "blueprint",
            "blueprints",
            "book",
            "books",
            "calendar",
            "certificate",
            "cheque",
            "clipboard",
            "document",
            "documents",
            "map",
            "maps",
            "newspaper",
            "newspapers",
            "note",
            "notebook",
            "notebooks",
            "paper",
            "postage",
            "receipt",
            "receipts",
            "report",
            "reports",
            "script",
            "scripts",
            "slide",
            "slides",
            "sticky",
            "ticket",
        ],
    ),
    (
        "interface",
        &[
            "application",
            "applications",
            "border",
            "category",
            "dashboard",
            "edit",
            "grid",
            "layer",
            "layers",
            "layout",
            "node",
            "selection",
            "sort",
            "switch",
            "table",
            "tables",
            "toggle",
            "ui",
            "validation",
            "wrap",
            "zone",
            "zones",
        ],
    ),
    (
        "machine",
        &[
            "battery",
            "camcorder",
            "camera",
            "cassette",
            "computer",
            "controller",
            "database",
            "databases",
            "disc",
            "discs",
            "disk",
            "disks",
            "drive",
            "hard",
            "headphone",
            "keyboard",
            "keyboards",
            "media",
            "microphone",
            "mobile",
            "monitor",
            "mouse",
            "network",
            "pda",
            "plug",
            "printer",
            "processor",
            "radio",
            "scanner",
            "server",
            "servers",
            "socket",
            "speaker",
            "system",
            "television",
            "terminal",
            "usb",
            "webcam",
        ],
    ),
    (
        "message",
        &["at", "balloon", "balloons", "envelope", "feed", "mail", "mails", "megaphone", "notification", "telephone"],
    ),
    (
        "people",
        &[
            "animal", "brain", "ear", "eye", "ghost", "hand", "robot", "skull", "smiley", "stickman", "thumb", "user",
            "users", "xfn",
        ],
    ),
    (
        "picture",
        &[
            "brightness",
            "clapperboard",
            "color",
            "contrast",
            "eraser",
            "fill",
            "film",
            "films",
            "gradient",
            "highlighter",
            "image",
            "images",
            "marker",
            "music",
            "paint",
            "palette",
            "pencil",
            "photo",
            "picture",
            "pictures",
            "pipette",
            "ruler",
            "spray",
            "stamp",
        ],
    ),
    (
        "sign",
        &[
            "asterisk",
            "bookmark",
            "bookmarks",
            "caution",
            "cross",
            "crown",
            "currency",
            "exclamation",
            "flag",
            "heart",
            "information",
            "lightning",
            "medal",
            "minus",
            "new",
            "plus",
            "prohibition",
            "question",
            "rosette",
            "shield",
            "star",
            "status",
            "tag",
            "tags",
            "tick",
            "traffic",
            "trophy",
            "weather",
            "zodiac",
        ],
    ),
];

/// Last words of a name that say which variant of an icon it is: its size, direction, color, or what is laid over it.
const VARIANTS: &[&str] = &[
    "000",
    "045",
    "090",
    "135",
    "180",
    "225",
    "270",
    "315",
    "arrow",
    "black",
    "blue",
    "bottom",
    "brown",
    "down",
    "empty",
    "exclamation",
    "gray",
    "green",
    "large",
    "left",
    "medium",
    "minus",
    "orange",
    "pencil",
    "pink",
    "plus",
    "purple",
    "red",
    "right",
    "small",
    "top",
    "up",
    "violet",
    "white",
    "yellow",
];

/// Cuts the sheet into `CLASS/BASE__NAME.png`.
fn unpack(tgz: &[u8]) -> anyhow::Result<Files> {
    let files = tar_files(&gunzip(tgz)?, |path| path.contains("/static/fugue-icons."))?;
    let file =
        |end: &str| files.iter().find(|(path, _)| path.ends_with(end)).with_context(|| format!("it has no {end}"));
    let sheet = image::load_from_memory_with_format(&file(".png")?.1, ImageFormat::Png)?.into_rgba8();
    let places: BTreeMap<String, (u32, u32)> = serde_json::from_slice(&file(".json")?.1)?;
    let mut icons = Files::new();
    for (name, (x, y)) in places {
        let inside = |at: u32, side: u32| at.checked_add(SIDE).is_some_and(|end| end <= side);
        ensure!(inside(x, sheet.width()) && inside(y, sheet.height()), "icon {name} is outside of the sheet");
        ensure!(!name.contains(['/', '\\', '.']), "icon {name} is no file name");
        let mut png = Cursor::new(Vec::new());
        imageops::crop_imm(&sheet, x, y, SIDE, SIDE).to_image().write_to(&mut png, ImageFormat::Png)?;
        icons.insert(format!("{}/{}__{name}.png", class(&name), base(&name)), png.into_inner());
    }
    Ok(icons)
}

/// The name without the color of documents and folders, of which there is a blue copy each.
fn uncolored(name: &str) -> &str {
    let blue = name.strip_prefix("blue-").filter(|rest| rest.starts_with("document") || rest.starts_with("folder"));
    blue.unwrap_or(name)
}

fn class(name: &str) -> &'static str {
    let first = uncolored(name).split('-').next().unwrap_or_default();
    CLASSES.iter().find(|(_, words)| words.contains(&first)).map_or("thing", |(class, _)| class)
}

/// The name without what tells variants of one icon apart: all after `--` and the [`VARIANTS`] at its end.
fn base(name: &str) -> &str {
    let mut base = uncolored(name).split("--").next().unwrap_or_default();
    while let Some((rest, _)) = base.rsplit_once('-').filter(|(_, last)| VARIANTS.contains(last)) {
        base = rest;
    }
    base
}

#[cfg(test)]
mod tests {
    use super::super::archive::make;
    use super::*;

    #[test]
    fn names_say_the_class_and_the_base() {
        for (name, expected_class, expected_base) in [
            ("mail--arrow", "message", "mail"),
            ("blue-document-pdf", "document", "document-pdf"),
            ("arrow-090-medium", "arrow", "arrow"),
            ("application-small-blue", "interface", "application"),
            ("cake-plain", "thing", "cake-plain"),
            ("blue", "thing", "blue"),
        ] {
            assert_eq!((class(name), base(name)), (expected_class, expected_base), "{name}");
        }
    }

    #[test]
    fn icons_are_cut_where_the_list_says() {
        let sheet = image::RgbaImage::from_fn(48, 16, |x, _| image::Rgba([(x / 16) as u8, 0, 0, 255]));
        let mut png = Cursor::new(Vec::new());
        sheet.write_to(&mut png, ImageFormat::Png).unwrap();
        let archive = |list: &str| {
            let members =
                [("f/f/static/fugue-icons.png", &png.get_ref()[..]), ("f/f/static/fugue-icons.json", list.as_bytes())];
            make::gzip(&make::tar(&members))
        };
        let icons = unpack(&archive(r#"{"cake": [16, 0], "mail--plus": [32, 0]}"#)).unwrap();
        assert_eq!(icons.keys().collect::<Vec<_>>(), ["message/mail__mail--plus.png", "thing/cake__cake.png"]);
        let cake = image::load_from_memory(&icons["thing/cake__cake.png"]).unwrap().into_rgba8();
        assert!(cake.dimensions() == (16, 16) && cake.pixels().all(|pixel| pixel[0] == 1));
        let outside = unpack(&archive(r#"{"cake": [40, 0]}"#)).unwrap_err().to_string();
        assert!(outside.contains("icon cake is outside"), "{outside}");
    }
}
