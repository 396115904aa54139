//! What a firmware's ELF file tells: its symbols and how much memory it fills.

use crate::chip_log::Formats;
use anyhow::{Context, Result, anyhow};
use object::elf::{PT_LOAD, SHF_ALLOC, SHF_WRITE};
use object::read::elf::{ElfFile32, ProgramHeader};
use object::{Object, ObjectSection, ObjectSymbol, SectionFlags, SectionKind};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A linked firmware.
#[derive(Debug)]
pub(crate) struct Firmware {
    /// The ELF file.
    pub(crate) path: PathBuf,
    /// Bytes of flash: code, constants and the initial values of data.
    pub(crate) flash: u64,
    /// Bytes of RAM: data and zeroed data, the arena included, the stack not.
    pub(crate) ram: u64,
    /// The format strings of its log.
    pub(crate) formats: Formats,
    /// What lies in flash: where, and the bytes. Initial values of data count where they are stored.
    pub(crate) loaded: Vec<(u64, Vec<u8>)>,
    symbols: HashMap<String, Symbol>,
    /// Sections of code: the first address, the bytes.
    code: Vec<(u64, Vec<u8>)>,
}

#[derive(Clone, Copy, Debug)]
struct Symbol {
    address: u64,
    size: u64,
}

impl Firmware {
    /// Reads an ELF file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = object::File::parse(&*bytes).with_context(|| format!("{} is no ELF file", path.display()))?;
        let (mut flash, mut ram, mut code) = (0, 0, Vec::new());
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
            // riscv-rt and esp-hal reserve what RAM is left as a section, and esp-hal the addresses of what lies elsewhere.
            let reserved = matches!(section.name(), Ok(".heap" | ".stack" | ".rotext_dummy"));
            if reserved || sh_flags.0 & SHF_ALLOC.0 == 0 {
                continue;
            }
            match section.kind() {
                SectionKind::UninitializedData => ram += section.size(),
                // Data, and code that is copied to RAM with it.
                _ if sh_flags.0 & SHF_WRITE.0 != 0 => (flash, ram) = (flash + section.size(), ram + section.size()),
                _ => flash += section.size(),
            }
            if section.kind() == SectionKind::Text {
                code.push((section.address(), section.data()?.to_vec()));
            }
        }
        let named = || file.symbols().filter_map(|symbol| Some((symbol.name().ok()?, symbol)));
        Ok(Firmware {
            path: path.to_owned(),
            flash,
            ram,
            loaded: loaded(&bytes).with_context(|| format!("{} is no ELF file of 32 bits", path.display()))?,
            formats: Formats::new(named().map(|(name, symbol)| (name, symbol.address()))),
            symbols: named()
                .map(|(name, symbol)| (name.to_owned(), Symbol { address: symbol.address(), size: symbol.size() }))
                .collect(),
            code,
        })
    }

    /// The address of a symbol as the linker gives it.
    pub(crate) fn address(&self, name: &str) -> Result<u64> {
        self.symbol(name).map(|symbol| symbol.address)
    }

    /// The address of a function's first instruction: without the bit that marks Thumb code.
    pub(crate) fn code_address(&self, name: &str) -> Result<u64> {
        self.address(name).map(|address| address & !1)
    }

    /// The name of the function that an address lies in.
    pub(crate) fn function_at(&self, address: u64) -> Option<String> {
        let holds = |symbol: &Symbol| (symbol.address & !1..(symbol.address & !1) + symbol.size).contains(&address);
        let found = self.symbols.iter().find(|(_, symbol)| holds(symbol));
        found.map(|(name, _)| format!("{:#}", rustc_demangle::demangle(name)))
    }

    /// Bytes that the working memory's array takes.
    pub(crate) fn arena_capacity(&self) -> Result<u64> {
        self.symbol("MOTE_ARENA").map(|symbol| symbol.size)
    }

    /// First address and length of the flash region for the model.
    pub(crate) fn model_region(&self) -> Result<(u64, u64)> {
        let start = self.address("mote_model_start")?;
        Ok((start, self.address("mote_model_end")? - start))
    }

    /// `len` bytes of code from an address on.
    pub(crate) fn code(&self, address: u64, len: u64) -> Result<&[u8]> {
        let part = |(first, bytes): &'_ (u64, Vec<u8>)| {
            let start = usize::try_from(address.checked_sub(*first)?).ok()?;
            Some(start..start.checked_add(usize::try_from(len).ok()?)?).filter(|part| part.end <= bytes.len())
        };
        let found = self.code.iter().find_map(|section| Some(&section.1[part(section)?]));
        found.ok_or_else(|| anyhow!("{} has no code of {len} bytes at {address:#x}", self.path.display()))
    }

    fn symbol(&self, name: &str) -> Result<Symbol> {
        let missing = || anyhow!("{} has no symbol {name}: build it again", self.path.display());
        self.symbols.get(name).copied().ok_or_else(missing)
    }
}

/// The bytes of an ELF file that are stored on the chip, by the addresses they are stored at.
fn loaded(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    let file = ElfFile32::<object::Endianness>::parse(bytes)?;
    let endian = file.endian();
    let stored = file.elf_program_headers().iter().filter(|header| header.p_type(endian) == PT_LOAD);
    let part = |header: &object::elf::ProgramHeader32<_>| {
        let content = header.data(endian, bytes).map_err(|()| anyhow!("a segment lies outside the file"))?;
        Ok((u64::from(header.p_paddr(endian)), content.to_vec()))
    };
    let parts = stored.map(part).collect::<Result<Vec<_>>>()?;
    Ok(parts.into_iter().filter(|(_, bytes)| !bytes.is_empty()).collect())
}
