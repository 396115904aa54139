//! Power is cut in every write and every erasure of an update, also within one: the device boots with the old or the new
//! model, never with neither and never with a mixture, and takes the next update.

use mote_slots::simulator::{Cut, Operation, Simulator, Tear};
use mote_slots::{Fault, Found, Layout, Manifest, Slot, Slots, UpdateError};

/// Words that a cut leaves of a write are tried one by one up to this number, then a few.
const EVERY_WORD: usize = 96;
/// Mixtures of old and new bits that are tried for each operation.
const SEEDS: u64 = 4;

/// Bytes that differ from model to model and are never what erased flash holds.
fn model(number: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 7 + i / 256) as u8 ^ number.wrapping_mul(37)) & 0x7F).collect()
}

struct Device<const WRITE: usize, const ERASE: usize> {
    flash: Simulator<WRITE, ERASE>,
    layout: Layout,
}

impl<const WRITE: usize, const ERASE: usize> Clone for Device<WRITE, ERASE> {
    fn clone(&self) -> Self {
        Device { flash: self.flash.clone(), layout: self.layout }
    }
}

impl<const WRITE: usize, const ERASE: usize> Device<WRITE, ERASE> {
    /// An erased one with room for `len` bytes in each slot.
    fn new(len: usize) -> Self {
        let blocks = 2 * (len + mote_slots::PREFIX_LEN).div_ceil(ERASE.max(256)) * ERASE.max(256) / ERASE;
        // The slots begin at the second block: offsets are not those within the region.
        let layout = Layout::new::<Simulator<WRITE, ERASE>>(ERASE as u32, (blocks * ERASE) as u32).unwrap();
        Device { flash: Simulator::new(blocks + 1), layout }
    }

    fn boot(&mut self) -> (Slots, Option<Found>) {
        Slots::new(self.layout).boot(&mut self.flash, |_, _| true)
    }

    /// What the device would draw with after a reset.
    fn booted(&mut self) -> Option<Vec<u8>> {
        let found = self.boot().1?;
        Some(self.flash.bytes(found.offset, found.len).to_vec())
    }

    fn update(&mut self, model: &[u8], chunk: usize) -> Result<Found, UpdateError<mote_slots::simulator::Error>> {
        let (slots, _) = self.boot();
        let mut update = slots.begin(&Manifest::of(model)).map_err(UpdateError::Fault)?;
        for chunk in model.chunks(chunk) {
            update.write(&mut self.flash, chunk)?;
        }
        update.check(&mut self.flash)?.commit(&mut self.flash)
    }
}

/// What is tried in one operation.
fn tears(operation: Operation) -> Vec<Tear> {
    let (Operation::Write { words } | Operation::Erase { words }) = operation;
    let some = if words <= EVERY_WORD { (0..words).collect() } else { vec![0, 1, words / 2, words - 1] };
    let words = some.into_iter().map(Tear::Words);
    words.chain((0..SEEDS).map(Tear::Bits)).chain([Tear::Nothing]).collect()
}

/// Runs `check` on a copy of the device after each cut of the update to `new`; says whether the cut was in the last write.
fn for_every_cut<const WRITE: usize, const ERASE: usize>(
    before: &Device<WRITE, ERASE>,
    new: &[u8],
    chunk: usize,
    mut check: impl FnMut(Device<WRITE, ERASE>, bool, Tear),
) -> usize {
    let mut whole = before.clone();
    whole.flash.power_on();
    whole.update(new, chunk).unwrap();
    let operations = whole.flash.operations().to_vec();
    let mut cuts = 0;
    for (number, &operation) in operations.iter().enumerate() {
        for tear in tears(operation) {
            let mut device = before.clone();
            device.flash.cut(Cut { operation: number, tear });
            assert!(device.update(new, chunk).is_err(), "the update noticed the cut");
            assert!(!device.flash.is_powered());
            device.flash.power_on();
            check(device, number + 1 == operations.len(), tear);
            cuts += 1;
        }
    }
    cuts
}

/// Every cut of an update on this kind of flash, and then a complete update. `len`: bytes of the models.
fn survives<const WRITE: usize, const ERASE: usize>(len: usize, check_codes: bool) -> usize {
    let [old, new, next] = [1, 2, 3].map(|number| model(number, len - usize::from(number) * 3));
    let mut device = Device::<WRITE, ERASE>::new(len);
    if check_codes {
        device.flash = device.flash.with_check_codes();
    }
    // Both slots are in use once, so that what is erased held a model.
    device.update(&model(9, len), 100).unwrap();
    device.update(&old, 256).unwrap();
    for_every_cut(&device, &new, 60, |mut device, in_commit, tear| {
        let booted = device.booted().expect("old or new, never neither");
        if in_commit && tear == Tear::Nothing {
            assert_eq!(booted, new, "the commit record was written whole");
        } else if in_commit {
            assert!(booted == old || booted == new);
        } else {
            assert_eq!(booted, old, "before the commit record the old model is the newest");
        }
        device.update(&next, 1000).unwrap();
        assert_eq!(device.booted(), Some(next.clone()), "the next update is taken");
    })
}

#[test]
fn flash_of_single_bytes_survives_every_cut() {
    assert!(survives::<1, 1024>(1500, false) > 150);
}

#[test]
fn nrf52_flash_survives_every_cut() {
    assert!(survives::<4, 4096>(9000, false) > 200);
}

#[test]
fn stm32_flash_of_double_words_survives_every_cut() {
    assert!(survives::<8, 2048>(5000, true) > 200);
}

#[test]
fn stm32_flash_of_quad_words_survives_every_cut() {
    assert!(survives::<16, 8192>(9000, true) > 200);
}

#[test]
fn stm32h7_flash_survives_every_cut() {
    assert!(survives::<32, 131_072>(3000, true) > 100);
}

#[test]
fn rp2350_flash_survives_every_cut() {
    assert!(survives::<256, 4096>(9000, false) > 200);
}

#[test]
fn the_first_update_of_an_erased_device_survives_every_cut() {
    let (new, next) = (model(1, 700), model(2, 700));
    let device = Device::<4, 512>::new(1000);
    for_every_cut(&device, &new, 33, |mut device, in_commit, _| {
        let booted = device.booted();
        assert!(booted.is_none() || in_commit && booted.as_ref() == Some(&new));
        device.update(&next, 64).unwrap();
        assert_eq!(device.booted(), Some(next.clone()));
    });
}

/// A second cut, in every operation of the update that follows the first cut.
#[test]
fn cuts_in_a_row_never_leave_neither() {
    let [old, new, next] = [1, 2, 3].map(|number| model(number, 300));
    let mut device = Device::<32, 512>::new(400);
    device.update(&model(9, 300), 100).unwrap();
    device.update(&old, 100).unwrap();
    let mut cuts = 0;
    for_every_cut(&device, &new, 300, |mut device, _, _| {
        let first = device.booted().expect("old or new");
        cuts += for_every_cut(&device, &next, 300, |mut device, in_commit, _| {
            let second = device.booted().expect("what there was, or the next");
            assert!(second == first || in_commit && second == next);
        });
    });
    assert!(cuts > 500, "{cuts}");
}

#[test]
fn an_abandoned_update_and_damage_leave_the_old_model() {
    let (old, new) = (model(1, 2000), model(2, 2000));
    let mut device = Device::<4, 512>::new(2000);
    device.update(&old, 256).unwrap();
    let (slots, _) = device.boot();
    let mut update = slots.begin(&Manifest::of(&new)).unwrap();
    update.write(&mut device.flash, &new[..1999]).unwrap();
    let error = update.clone().check(&mut device.flash).unwrap_err();
    assert_eq!(error, UpdateError::TooFew { received: 1999, len: 2000 });
    assert_eq!(update.write(&mut device.flash, &[0; 2]), Err(UpdateError::TooMany { len: 2000 }));
    // Another byte than the manifest's checksum promises.
    update.write(&mut device.flash, &[new[1999] ^ 1]).unwrap();
    assert!(matches!(update.check(&mut device.flash), Err(UpdateError::Fault(Fault::Checksum { .. }))));
    assert_eq!(device.booted(), Some(old.clone()));
    // Whole, but the caller has no use for it: not committed.
    let (slots, _) = device.boot();
    let mut update = slots.begin(&Manifest::of(&new)).unwrap();
    update.write(&mut device.flash, &new).unwrap();
    assert_eq!(update.check(&mut device.flash).unwrap().found().len, 2000);
    assert_eq!(device.booted(), Some(old.clone()));
    // Written whole, then damaged by one bit.
    let found = device.update(&new, 256).unwrap();
    assert_eq!(device.booted(), Some(new));
    device.flash.damage(found.offset + 1234, 0x10);
    assert_eq!(device.booted(), Some(old));
    assert!(matches!(device.boot().0.state(found.slot), Err(Fault::Checksum { .. })));
}

#[test]
fn a_second_update_before_a_reset_replaces_the_first_and_never_what_is_in_use() {
    let [old, new, next] = [1, 2, 3].map(|number| model(number, 600));
    let mut device = Device::<4, 512>::new(600);
    device.update(&old, 256).unwrap();
    let (slots, found) = device.boot();
    let found = found.unwrap();
    assert_eq!((slots.in_use(), found.slot), (Some(Slot::A), Slot::A));
    for model in [&new, &next] {
        let mut update = slots.begin(&Manifest::of(model)).unwrap();
        assert_eq!(update.slot(), Slot::B);
        update.write(&mut device.flash, model).unwrap();
        update.check(&mut device.flash).unwrap().commit(&mut device.flash).unwrap();
        assert_eq!(device.flash.bytes(found.offset, found.len), old);
    }
    assert_eq!(device.booted(), Some(next));
}

#[test]
fn a_newer_model_that_the_firmware_cannot_use_gives_way_to_the_older_one() {
    let (old, new) = (model(1, 600), model(2, 601));
    let mut device = Device::<4, 512>::new(700);
    device.update(&old, 256).unwrap();
    device.update(&new, 256).unwrap();
    let (slots, found) = Slots::new(device.layout).boot(&mut device.flash, |_, found| found.len == 600);
    assert_eq!(found.map(|found| found.slot), Some(Slot::A));
    assert_eq!(slots.state(Slot::B), Err(Fault::Refused));
    // The next update replaces it, and comes after it in order.
    let mut update = slots.begin(&Manifest::of(&old)).unwrap();
    assert_eq!(update.slot(), Slot::B);
    update.write(&mut device.flash, &old).unwrap();
    assert_eq!(update.check(&mut device.flash).unwrap().found().sequence, 3);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_erased() {
    let mut device = Device::<4, 512>::new(1000);
    device.update(&model(1, 1000), 256).unwrap();
    device.flash.power_on();
    let (slots, _) = device.boot();
    let capacity = device.layout.capacity();
    for len in [0, capacity + 1, u32::MAX] {
        let manifest = Manifest { len, checksum: 0, signature: None };
        assert_eq!(slots.begin(&manifest).unwrap_err(), Fault::Length { found: len });
    }
    assert!(device.flash.operations().is_empty());
}

#[test]
fn a_full_slot_is_taken_and_the_neighbours_stay_as_they_are() {
    let mut device = Device::<256, 512>::new(1000);
    let full = model(1, device.layout.capacity() as usize);
    for _ in 0..2 {
        device.update(&full, 77).unwrap();
    }
    assert_eq!(device.booted(), Some(full));
    assert!(device.flash.bytes(0, 512).iter().all(|&byte| byte == 0xFF), "the block before the slots");
}
