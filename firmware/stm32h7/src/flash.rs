//! Flash behind the data cache: what is written is not what the cache holds, until it is told.

use crate::Models;
use cortex_m::peripheral::{CPUID, SCB};
use embassy_stm32::Peri;
use embassy_stm32::flash::{Blocking, Error, Flash};
use embassy_stm32::peripherals::FLASH;
use embedded_storage::nor_flash::{ErrorType, NorFlash, ReadNorFlash};

/// Where flash is mapped.
const BASE: usize = 0x0800_0000;

/// The HAL's driver, which empties the data cache after each change.
pub struct CachedFlash {
    flash: Flash<'static, Blocking>,
    cache: SCB,
    processor: CPUID,
}

impl CachedFlash {
    /// The models in it.
    pub(crate) fn store(flash: Peri<'static, FLASH>, cache: SCB, processor: CPUID) -> Models {
        mote_embassy::store::<_, BASE>(CachedFlash { flash: Flash::new_blocking(flash), cache, processor })
    }

    fn empty_cache(&mut self) {
        self.cache.clean_invalidate_dcache(&mut self.processor);
    }
}

impl ErrorType for CachedFlash {
    type Error = Error;
}

impl ReadNorFlash for CachedFlash {
    const READ_SIZE: usize = <Flash<'static, Blocking> as ReadNorFlash>::READ_SIZE;

    fn read(&mut self, offset: u32, into: &mut [u8]) -> Result<(), Error> {
        ReadNorFlash::read(&mut self.flash, offset, into)
    }

    fn capacity(&self) -> usize {
        ReadNorFlash::capacity(&self.flash)
    }
}

impl NorFlash for CachedFlash {
    const WRITE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::WRITE_SIZE;
    const ERASE_SIZE: usize = <Flash<'static, Blocking> as NorFlash>::ERASE_SIZE;

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        let written = NorFlash::write(&mut self.flash, offset, bytes);
        self.empty_cache();
        written
    }

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        let erased = NorFlash::erase(&mut self.flash, from, to);
        self.empty_cache();
        erased
    }
}
