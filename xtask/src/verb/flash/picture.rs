//! The memory map, as a picture in text.

use crate::board::{Board, Region};
use crate::elf::Firmware;
use anyhow::Result;
use mote_core::Model;
use mote_slots::PREFIX_LEN;

/// Characters of a bar.
const BAR: u64 = 24;

/// What lies where: memory in order of addresses, how much of each part is used.
pub(crate) fn memory_map(board: &Board, firmware: Option<&Firmware>, model: Option<&Model<'_>>) -> Result<String> {
    let memory = &board.memory;
    let mut rows = Vec::new();
    if let Some(region) = memory.bootloader {
        rows.push(Row::new("bootloader", region, None, "the chip's own"));
    }
    let flash = firmware.map(|firmware| firmware.flash);
    rows.push(Row::new("firmware", memory.firmware, flash, if flash.is_some() { "" } else { "stays as it is" }));
    let (a, note) = match model {
        Some(model) => (Some((model.bytes().len() + PREFIX_LEN) as u64), model.name()),
        None => (None, "stays as it is"),
    };
    rows.push(Row::new("slot A", memory.slot(0), a, note));
    let b = if model.is_some() { "emptied" } else { "stays as it is" };
    rows.push(Row::new("slot B", memory.slot(1), model.map(|_| 0), b));
    let arena = model.map(|model| model.arena_len() as u64);
    match firmware {
        Some(firmware) => {
            let capacity = firmware.arena_capacity()? as u32;
            let at = firmware.address("MOTE_ARENA")? as u32;
            let rest = memory.ram.len - capacity;
            let data = Region { start: memory.ram.start, len: rest };
            rows.push(Row::new(
                "data, stack",
                data,
                Some(firmware.ram - u64::from(capacity)),
                "the stack comes on top",
            ));
            rows.push(Row::new("arena", Region { start: at, len: capacity }, arena, ""));
        }
        None => {
            rows.push(Row::new("RAM", memory.ram, None, ""));
            rows.push(Row { at: None, ..Row::new("arena", Region { start: 0, len: memory.arena }, arena, "in RAM") });
        }
    }
    let mut picture = format!("{}: {}\n", board.name, board.processor);
    let width = BAR as usize + 2;
    picture += &format!("{:>12} {:<12} {:width$} {:>10} {:>10}\n", "address", "", "", "used", "of");
    for row in rows {
        picture += &row.line();
    }
    Ok(picture)
}

/// A line of the picture.
struct Row<'a> {
    name: &'a str,
    at: Option<u32>,
    len: u32,
    used: Option<u64>,
    note: &'a str,
}

impl<'a> Row<'a> {
    fn new(name: &'a str, region: Region, used: Option<u64>, note: &'a str) -> Self {
        Row { name, at: Some(region.start), len: region.len, used, note }
    }

    fn line(&self) -> String {
        let at = self.at.map_or(String::new(), |at| format!("{at:#010x}"));
        let full = self.used.map_or(0, |used| (used * BAR).div_ceil(u64::from(self.len)).min(BAR)) as usize;
        let empty = if self.used.is_some() { '.' } else { ' ' };
        let bar: String = (0..BAR as usize).map(|i| if i < full { '#' } else { empty }).collect();
        let used = self.used.map_or(String::new(), |used| used.to_string());
        let line = format!("{at:>12} {:<12} |{bar}| {used:>10} {:>10}  {}", self.name, self.len, self.note);
        line.trim_end().to_owned() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::HARDWARE;
    use mote_core::selftest;

    #[test]
    fn a_model_alone_shows_flash_from_the_bottom_to_the_top_and_what_stays() {
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        let picture = memory_map(&HARDWARE[1], None, Some(&model)).unwrap();
        let names: Vec<&str> =
            picture.lines().skip(2).map(|line| line[13..].split('|').next().unwrap().trim()).collect();
        assert_eq!(names, ["bootloader", "firmware", "slot A", "slot B", "RAM", "arena"]);
        let slot_a = picture.lines().find(|line| line.contains("slot A")).unwrap();
        assert!(slot_a.starts_with("  0x10080000 slot A       |#......................."), "{slot_a}");
        assert!(slot_a.contains(&format!("{} {:>10}", model.bytes().len() + 512, 768 * 1024)), "{slot_a}");
        assert!(picture.contains("0x10140000 slot B"));
    }
}
