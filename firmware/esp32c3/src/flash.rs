//! Models in flash, which the processor sees through a cache in pages of 64 KiB that are mapped one by one. The bootloader
//! maps the firmware's; the models' are mapped here, by the chip's ROM (ESP32-C3 technical reference manual, 3.3.3).

use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};
use esp_hal::peripherals::FLASH;
use esp_storage::{FlashStorage, FlashStorageError};
use mote_device::FlashStore;
use mote_slots::{Found, Layout};

/// The models' partition: `partitions.csv`.
const OFFSET: u32 = 0x11_0000;
const LEN: u32 = 0x2E_0000;

/// Where its pages are mapped: behind the 4 MiB that the linker gives to the firmware.
const ADDRESS: u32 = 0x3C40_0000;

const PAGE_KIB: u32 = 64;
const PAGE: u32 = PAGE_KIB * 1024;
const _: () = assert!(OFFSET.is_multiple_of(PAGE) && LEN.is_multiple_of(PAGE));

/// The memory that is mapped: flash, not external RAM.
const IN_FLASH: u32 = 0;
/// The pages follow each other.
const ONE_AFTER_THE_OTHER: u32 = 0;

unsafe extern "C" {
    // In ROM; esp-rom-sys has the addresses.
    fn Cache_Suspend_ICache() -> u32;
    fn Cache_Resume_ICache(autoload: u32);
    fn Cache_Invalidate_Addr(address: u32, len: u32);
    fn Cache_Dbus_MMU_Set(memory: u32, address: u32, offset: u32, page_kib: u32, pages: u32, fixed: u32) -> i32;
}

/// The models in flash.
pub type Models = FlashStore<CachedFlash>;

/// The HAL's driver, which empties the cache of what it changes in the models' partition.
pub struct CachedFlash(FlashStorage<'static>);

impl CachedFlash {
    /// The models in it, which are mapped now.
    pub(crate) fn store(flash: FLASH<'static>) -> Models {
        map_models();
        let layout = Layout::new::<Self>(OFFSET, LEN).expect("the partition is two halves of whole sectors");
        FlashStore::new(CachedFlash(FlashStorage::new(flash)), layout, mapped)
    }

    fn empty_cache(from: u32, to: u32) {
        // SAFETY: the function is the ROM's; the addresses are the models', which `map_models` has mapped.
        unsafe { Cache_Invalidate_Addr(ADDRESS.wrapping_add(from.wrapping_sub(OFFSET)), to.wrapping_sub(from)) }
    }
}

/// A slot's file as the processor sees it.
fn mapped(found: &Found) -> &'static [u8] {
    // SAFETY: `store` has mapped the partition there, and the slot in use is not written.
    unsafe { found.mapped(core::ptr::with_exposed_provenance((ADDRESS - OFFSET) as usize)) }
}

impl ErrorType for CachedFlash {
    type Error = FlashStorageError;
}

impl ReadNorFlash for CachedFlash {
    const READ_SIZE: usize = <FlashStorage<'static> as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, offset: u32, into: &mut [u8]) -> Result<(), FlashStorageError> {
        ReadNorFlash::read(&mut self.0, offset, into)
    }

    fn capacity(&self) -> usize {
        ReadNorFlash::capacity(&self.0)
    }
}

impl NorFlash for CachedFlash {
    const WRITE_SIZE: usize = <FlashStorage<'static> as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <FlashStorage<'static> as NorFlash>::ERASE_SIZE;

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashStorageError> {
        let written = NorFlash::write(&mut self.0, offset, bytes);
        Self::empty_cache(offset, offset + bytes.len() as u32);
        written
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashStorageError> {
        let erased = NorFlash::erase(&mut self.0, from, to);
        Self::empty_cache(from, to);
        erased
    }
}

/// Maps the models. While the cache stands still nothing may be read from flash: this lies in RAM, and what it calls in ROM.
#[esp_hal::ram]
fn map_models() {
    // SAFETY: the functions are the ROM's, with their arguments; the pages are nobody else's; no interrupt is on yet.
    unsafe {
        let autoload = Cache_Suspend_ICache();
        Cache_Dbus_MMU_Set(IN_FLASH, ADDRESS, OFFSET, PAGE_KIB, LEN / PAGE, ONE_AFTER_THE_OTHER);
        Cache_Resume_ICache(autoload);
    }
}
