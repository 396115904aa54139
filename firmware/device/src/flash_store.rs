//! Models in two slots of a flash.

use crate::{Store, Stored, Update};
use embedded_storage::nor_flash::NorFlash;
use mote_core::Model;
use mote_protocol::{Error, SlotState};
use mote_slots::{Checked, Fault, Found, Layout, Manifest, Slot, Slots, UpdateError};

/// Models in two slots of a flash that the processor reads as memory.
#[derive(Debug)]
pub struct FlashStore<F> {
    flash: F,
    file: fn(&Found) -> &'static [u8],
    slots: Slots,
    states: [Result<Found, Fault>; 2],
    progress: Progress,
}

/// How far an update is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one, and nothing is allocated")]
enum Progress {
    None,
    Writing(mote_slots::Update),
    Checked(Checked),
}

impl<F: NorFlash> FlashStore<F> {
    /// `file` gives a slot's file as the processor sees it: [`Found::mapped`], or a copy where flash is not mapped.
    pub fn new(flash: F, layout: Layout, file: fn(&Found) -> &'static [u8]) -> Self {
        let states = [Err(Fault::Erased); 2];
        FlashStore { flash, file, slots: Slots::new(layout), states, progress: Progress::None }
    }

    /// Boots: finds the newest model that this firmware can read.
    fn boot(&mut self) -> Option<Found> {
        let file = self.file;
        let (slots, found) =
            Slots::new(self.slots.layout()).boot(&mut self.flash, |_, found| Model::parse(file(found)).is_ok());
        self.slots = slots;
        self.states = Slot::ALL.map(|slot| slots.state(slot));
        found
    }
}

impl<F: NorFlash> Store for FlashStore<F> {
    fn newest(&mut self) -> Option<Stored> {
        let found = self.boot()?;
        Some(Stored { file: (self.file)(&found), slot: Some(found.slot as u8) })
    }

    fn slots(&self) -> u8 {
        Slot::ALL.len() as u8
    }

    fn slot_len(&self) -> u32 {
        self.slots.layout().capacity()
    }

    fn slot(&mut self, slot: u8) -> Result<SlotState, Error> {
        let slot = *Slot::ALL.get(usize::from(slot)).ok_or(Error::Slot)?;
        if let Progress::Writing(update) = &self.progress
            && update.slot() == slot
        {
            return Ok(SlotState::Updating { written: update.received(), len: update.len() });
        }
        Ok(match self.states[slot as usize] {
            Ok(Found { sequence, len, checksum, signed, .. }) => SlotState::Whole { sequence, len, checksum, signed },
            Err(_) => SlotState::Empty,
        })
    }

    fn read(&mut self, slot: u8, offset: u32, into: &mut [u8]) -> Result<usize, Error> {
        let found = self.states.get(usize::from(slot)).copied().and_then(Result::ok).ok_or(Error::Slot)?;
        let rest = (self.file)(&found).get(offset as usize..).unwrap_or_default();
        into.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
        Ok(rest.len().min(into.len()))
    }

    fn begin(&mut self, update: Update<'_>) -> Result<(), Error> {
        self.abort();
        let signature = match update.signature {
            [] => None,
            bytes => Some(bytes.try_into().map_err(|_| Error::Signature)?),
        };
        let manifest = Manifest { len: update.len, checksum: update.checksum, signature };
        let begun = self.slots.begin(&manifest).map_err(|fault| self.error(fault))?;
        self.states[begun.slot() as usize] = Err(Fault::NotCommitted);
        self.progress = Progress::Writing(begun);
        Ok(())
    }

    fn write(&mut self, offset: u32, data: &[u8]) -> Result<(), Error> {
        let Progress::Writing(update) = &mut self.progress else { return Err(Error::NoUpdate) };
        let (received, len) = (update.received(), update.len());
        if offset != received {
            return Err(Error::Offset { expected: received });
        }
        update.write(&mut self.flash, data).map_err(|error| match error {
            UpdateError::TooMany { .. } => {
                Error::TooLong { len: received.saturating_add(data.len() as u32), room: len }
            }
            _ => Error::Flash,
        })
    }

    fn check(&mut self) -> Result<&[u8], Error> {
        let Progress::Writing(update) = core::mem::replace(&mut self.progress, Progress::None) else {
            return Err(Error::NoUpdate);
        };
        if update.received() < update.len() {
            let expected = update.received();
            self.progress = Progress::Writing(update);
            return Err(Error::Offset { expected });
        }
        let checked = update.check(&mut self.flash).map_err(|error| match error {
            UpdateError::Fault(fault) => self.error(fault),
            _ => Error::Flash,
        })?;
        let file = (self.file)(&checked.found());
        self.progress = Progress::Checked(checked);
        Ok(file)
    }

    fn commit(&mut self) -> Result<(), Error> {
        let Progress::Checked(checked) = core::mem::replace(&mut self.progress, Progress::None) else {
            return Err(Error::NoUpdate);
        };
        let found = checked.commit(&mut self.flash).map_err(|_| Error::Flash)?;
        self.states[found.slot as usize] = Ok(found);
        Ok(())
    }

    fn abort(&mut self) {
        self.progress = Progress::None;
    }
}

impl<F: NorFlash> FlashStore<F> {
    /// What the board answers.
    fn error(&self, fault: Fault) -> Error {
        match fault {
            Fault::Length { found } => Error::TooLong { len: found, room: self.slot_len() },
            Fault::Checksum { found } => Error::Checksum { found },
            Fault::Unsigned | Fault::Signature => Error::Signature,
            _ => Error::Flash,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::selftest;
    use mote_slots::simulator::Simulator;
    use std::boxed::Box;
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::vec::Vec;

    type Flash = Simulator<4, 4096>;

    /// The flash, and what the processor sees of it: a copy that is made when it is looked at.
    #[derive(Clone)]
    struct Shared(Rc<RefCell<Flash>>);

    std::thread_local! {
        static SEEN: RefCell<Option<Shared>> = const { RefCell::new(None) };
    }

    fn seen(found: &Found) -> &'static [u8] {
        SEEN.with_borrow(|shared| {
            let shared = shared.as_ref().expect("a flash");
            Box::leak(shared.0.borrow().bytes(found.offset, found.len).into())
        })
    }

    impl embedded_storage::nor_flash::ErrorType for Shared {
        type Error = mote_slots::simulator::Error;
    }

    impl embedded_storage::nor_flash::ReadNorFlash for Shared {
        const READ_SIZE: usize = 4;

        fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Self::Error> {
            self.0.borrow_mut().read(offset, bytes)
        }

        fn capacity(&self) -> usize {
            self.0.borrow().capacity()
        }
    }

    impl NorFlash for Shared {
        const WRITE_SIZE: usize = 4;
        const ERASE_SIZE: usize = 4096;

        fn erase(&mut self, from: u32, to: u32) -> Result<(), Self::Error> {
            self.0.borrow_mut().erase(from, to)
        }

        fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Self::Error> {
            self.0.borrow_mut().write(offset, bytes)
        }
    }

    fn store() -> FlashStore<Shared> {
        let flash = Shared(Rc::new(RefCell::new(Flash::new(8))));
        SEEN.set(Some(flash.clone()));
        FlashStore::new(flash, Layout::new::<Shared>(0, 8 * 4096).unwrap(), seen)
    }

    fn model() -> Vec<u8> {
        let mut file = [0; 8192];
        selftest::write_model(&mut file).unwrap().bytes().to_vec()
    }

    fn announced(file: &[u8]) -> Update<'static> {
        Update { len: file.len() as u32, checksum: mote_core::format::checksum(file), signature: &[], in_use: None }
    }

    fn update(store: &mut FlashStore<Shared>, file: &[u8]) {
        store.begin(announced(file)).unwrap();
        for (number, part) in file.chunks(256).enumerate() {
            store.write(number as u32 * 256, part).unwrap();
        }
        assert_eq!(store.check().unwrap(), file);
        store.commit().unwrap();
    }

    #[test]
    fn updates_go_to_the_slots_in_turn_and_are_read_back() {
        let (mut store, file) = (store(), model());
        assert!(store.newest().is_none());
        for (turn, slot) in [0, 1, 0].into_iter().enumerate() {
            update(&mut store, &file);
            let SlotState::Whole { sequence, len, .. } = store.slot(slot).unwrap() else { panic!("not whole") };
            assert_eq!((sequence as usize, len as usize), (turn + 1, file.len()));
            let stored = store.newest().unwrap();
            assert_eq!((stored.slot, stored.file), (Some(slot), &file[..]));
        }
        let mut part = [0; 100];
        let at = file.len() - 30;
        assert_eq!(store.read(1, at as u32, &mut part), Ok(30));
        assert_eq!(part[..30], file[at..]);
        assert_eq!(store.read(1, u32::MAX, &mut part), Ok(0));
        assert_eq!(store.read(2, 0, &mut part), Err(Error::Slot));
    }

    #[test]
    fn parts_out_of_order_and_damage_are_refused_and_the_old_model_stays() {
        let (mut store, file) = (store(), model());
        update(&mut store, &file);
        store.newest().unwrap();
        assert_eq!(store.write(0, &[1]), Err(Error::NoUpdate));
        assert_eq!(
            store.begin(Update { len: 16_000, ..announced(&file) }),
            Err(Error::TooLong { len: 16_000, room: 15_872 })
        );
        assert_eq!(store.begin(Update { signature: &[1; 63], ..announced(&file) }), Err(Error::Signature));
        store.begin(announced(&file)).unwrap();
        store.write(0, &file[..100]).unwrap();
        assert_eq!(store.write(0, &file[..100]), Err(Error::Offset { expected: 100 }));
        assert_eq!(store.slot(1), Ok(SlotState::Updating { written: 100, len: file.len() as u32 }));
        assert_eq!(store.check(), Err(Error::Offset { expected: 100 }));
        assert!(matches!(store.write(100, &file), Err(Error::TooLong { .. })));
        let mut damaged = file[100..].to_vec();
        damaged[50] ^= 4;
        store.write(100, &damaged).unwrap();
        assert!(matches!(store.check(), Err(Error::Checksum { .. })));
        assert_eq!(store.commit(), Err(Error::NoUpdate));
        assert_eq!(store.slot(1), Ok(SlotState::Empty));
        assert_eq!(store.newest().unwrap().slot, Some(0));
    }
}
