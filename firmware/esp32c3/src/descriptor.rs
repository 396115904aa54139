//! What the second-stage bootloader and espflash look for at the firmware's beginning: `esp_app_desc_t` of ESP-IDF's
//! *Application Image Format*.

/// Characters, the rest zero.
const fn text<const LEN: usize>(from: &str) -> [u8; LEN] {
    let mut text = [0; LEN];
    let mut index = 0;
    while index < from.len() {
        text[index] = from.as_bytes()[index];
        index += 1;
    }
    text
}

#[repr(C)]
struct Descriptor {
    magic: u32,
    secure_version: u32,
    reserved: [u32; 2],
    version: [u8; 32],
    project: [u8; 32],
    time: [u8; 16],
    date: [u8; 16],
    idf_version: [u8; 32],
    elf_sha256: [u8; 32],
    least_efuse_block_revision: u16,
    greatest_efuse_block_revision: u16,
    /// Logarithm to the base 2.
    mmu_page_len: u8,
    reserved_at_end: [u8; 75],
}

const _: () = assert!(size_of::<Descriptor>() == 256);

#[unsafe(export_name = "esp_app_desc")]
#[unsafe(link_section = ".flash.appdesc")]
#[used]
static DESCRIPTOR: Descriptor = Descriptor {
    magic: 0xABCD_5432,
    secure_version: 0,
    reserved: [0; 2],
    version: text(env!("CARGO_PKG_VERSION")),
    project: text("mote"),
    // The same sources give the same bytes.
    time: [0; 16],
    date: [0; 16],
    // The oldest that the bootloader of today's tools accepts.
    idf_version: text("v5.0.0"),
    elf_sha256: [0; 32],
    least_efuse_block_revision: 0,
    greatest_efuse_block_revision: u16::MAX,
    mmu_page_len: 16,
    reserved_at_end: [0; 75],
};
