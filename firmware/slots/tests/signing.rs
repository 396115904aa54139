//! With a key, a model counts only if it is signed with it.

use ed25519_compact::{KeyPair, Seed};
use mote_slots::simulator::Simulator;
use mote_slots::{Fault, Found, Layout, Manifest, PublicKey, Slot, Slots, UpdateError};

type Flash = Simulator<4, 512>;

fn key_pair(seed: u8) -> KeyPair {
    KeyPair::from_seed(Seed::new([seed; 32]))
}

fn device(key: Option<&KeyPair>) -> (Flash, Slots) {
    let slots = Slots::new(Layout::new::<Flash>(0, 4096).unwrap());
    let slots = key.map_or(slots, |pair| slots.with_key(PublicKey::new(*pair.pk)));
    (Flash::new(8), slots)
}

fn signed(model: &[u8], pair: &KeyPair) -> Manifest {
    Manifest { signature: Some(*pair.sk.sign(model, None)), ..Manifest::of(model) }
}

fn update(flash: &mut Flash, slots: &Slots, manifest: &Manifest, model: &[u8]) -> Result<Found, Fault> {
    let mut update = slots.begin(manifest)?;
    update.write(flash, model).unwrap();
    match update.check(flash) {
        Ok(checked) => Ok(checked.commit(flash).unwrap()),
        Err(UpdateError::Fault(fault)) => Err(fault),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn with_a_key_only_its_signature_is_taken() {
    let (model, pair) = ([3; 777], key_pair(1));
    let (mut flash, slots) = device(Some(&pair));
    let (slots, _) = slots.boot(&mut flash, |_, _| true);
    assert_eq!(update(&mut flash, &slots, &Manifest::of(&model), &model), Err(Fault::Unsigned));
    assert!(flash.operations().is_empty(), "refused before anything is erased");
    let by_another = signed(&model, &key_pair(2));
    assert_eq!(update(&mut flash, &slots, &by_another, &model), Err(Fault::Signature));
    let of_another = Manifest { signature: signed(&[4; 777], &pair).signature, ..Manifest::of(&model) };
    assert_eq!(update(&mut flash, &slots, &of_another, &model), Err(Fault::Signature));

    assert!(update(&mut flash, &slots, &signed(&model, &pair), &model).unwrap().signed);
    let (_, found) = slots.boot(&mut flash, |_, _| true);
    assert_eq!(found.map(|found| found.slot), Some(Slot::A));
}

#[test]
fn a_boot_checks_signatures_before_it_asks_whether_the_model_parses() {
    let (model, pair) = ([3; 777], key_pair(1));
    let (mut flash, without_key) = device(None);
    for (manifest, fault) in [(Manifest::of(&model), Fault::Unsigned), (signed(&model, &key_pair(2)), Fault::Signature)]
    {
        // A device without a key takes it; the same flash under firmware with a key does not.
        let (slots, _) = without_key.boot(&mut flash, |_, _| true);
        let slot = update(&mut flash, &slots, &manifest, &model).unwrap().slot;
        let with_key = device(Some(&pair)).1;
        let (slots, found) = with_key.boot(&mut flash, |_, _| panic!("parsed before the signature was checked"));
        assert_eq!((found, slots.state(slot)), (None, Err(fault)));
    }
}

/// RFC 8032, 7.1, TEST 3: the two bytes AF 82.
#[test]
fn the_published_vector_is_taken() {
    let key = PublicKey::from_hex("fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025").unwrap();
    let signature = "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac\
                     18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a";
    let mut bytes = [0; 64];
    for (byte, digits) in bytes.iter_mut().zip(signature.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    }
    let model = [0xAF, 0x82];
    let (mut flash, slots) = device(None);
    let (slots, _) = slots.with_key(key).boot(&mut flash, |_, _| true);
    let manifest = Manifest { signature: Some(bytes), ..Manifest::of(&model) };
    assert!(update(&mut flash, &slots, &manifest, &model).is_ok());
    assert_eq!(PublicKey::from_hex("fc51"), None);
    assert_eq!(PublicKey::from_hex(&"g".repeat(64)), None);
}
