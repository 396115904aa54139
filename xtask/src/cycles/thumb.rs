//! What kind of work a Thumb instruction is: as far as its cycles depend on it.
//!
//! Encodings: Armv7-M Architecture Reference Manual, A5.2 and A5.3. The floating-point unit is left out.

/// An instruction's kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Loads one register from a base register's address, plus an index register's value.
    Load { dest: u8, base: u8, index: Option<u8> },
    /// Stores one register; `indexed` by another one, not by a constant.
    Store { indexed: bool },
    /// Loads or stores this many registers.
    Several(u32),
    /// `SDIV`, `UDIV`.
    Divide,
    /// `TBB`, `TBH`, the special registers, exclusive and ordered accesses.
    Special,
    /// Everything else but a coprocessor's instruction.
    Other,
}

/// The kinds of straight code's instructions; `None` where one is a coprocessor's, or cut off.
pub(super) fn kinds(code: &[u8]) -> Option<Vec<Kind>> {
    let mut halves = code.chunks(2).map(|half| half.try_into().ok().map(u16::from_le_bytes));
    let mut kinds = Vec::new();
    while let Some(first) = halves.next() {
        let first = first?;
        kinds.push(if first < 0xE800 { narrow(first) } else { wide(first, halves.next()??)? });
    }
    Some(kinds)
}

/// A field of an instruction: `len` bits from bit `low` on.
fn field(half: u16, low: u32, len: u32) -> u8 {
    (half >> low & ((1 << len) - 1)) as u8
}

fn bit(half: u16, low: u32) -> bool {
    half >> low & 1 == 1
}

fn narrow(half: u16) -> Kind {
    let constant = |dest, base| match bit(half, 11) {
        true => Kind::Load { dest, base, index: None },
        false => Kind::Store { indexed: false },
    };
    match half >> 12 {
        0b0100 if bit(half, 11) => Kind::Load { dest: field(half, 8, 3), base: 15, index: None },
        0b0101 if field(half, 9, 3) < 3 => Kind::Store { indexed: true },
        0b0101 => Kind::Load { dest: field(half, 0, 3), base: field(half, 3, 3), index: Some(field(half, 6, 3)) },
        0b0110..=0b1000 => constant(field(half, 0, 3), field(half, 3, 3)),
        0b1001 => constant(field(half, 8, 3), 13),
        // PUSH and POP, whose bit 8 is LR or PC.
        0b1011 if field(half, 9, 2) == 0b10 => Kind::Several((half & 0x1FF).count_ones()),
        0b1100 => Kind::Several((half & 0xFF).count_ones()),
        _ => Kind::Other,
    }
}

fn wide(first: u16, second: u16) -> Option<Kind> {
    // 0b11101_1 and 0b11111_1.
    let coprocessor = first & 0xEC00 == 0xEC00;
    if coprocessor {
        return None;
    }
    Some(match first >> 9 {
        0b1110100 => multiple(first, second),
        0b1111100 => single(first, second),
        0b1111101 if first >> 7 == 0b1_1111_0111 && bit(first, 4) && field(second, 4, 4) == 15 => Kind::Divide,
        // MSR and MRS.
        _ if (first & 0xFFE0 == 0xF380 || first & 0xFFE0 == 0xF3E0) && second & 0xD000 == 0x8000 => Kind::Special,
        _ => Kind::Other,
    })
}

fn multiple(first: u16, second: u16) -> Kind {
    let dual_or_exclusive = bit(first, 6);
    // Pre-indexed or written back.
    let dual = first & 0x0120 != 0;
    match (dual_or_exclusive, dual) {
        (false, _) => Kind::Several(second.count_ones()),
        (true, true) => Kind::Several(2),
        (true, false) => Kind::Special,
    }
}

fn single(first: u16, second: u16) -> Kind {
    let (dest, base) = (field(second, 12, 4), field(first, 0, 4));
    let indexed = base != 15 && !bit(first, 7) && !bit(second, 11);
    let is_word = field(first, 5, 2) == 2;
    match bit(first, 4) {
        false => Kind::Store { indexed },
        // A preload.
        true if dest == 15 && !is_word => Kind::Other,
        true => Kind::Load { dest, base, index: indexed.then_some(field(second, 0, 4)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn load(dest: u8, base: u8, index: Option<u8>) -> Kind {
        Kind::Load { dest, base, index }
    }

    /// Encodings by LLVM's assembler.
    #[test]
    fn every_kind_is_told_from_its_encoding() {
        let (plain, indexed) = (Kind::Store { indexed: false }, Kind::Store { indexed: true });
        let expected: &[(&str, &[u16], Kind)] = &[
            ("ldr r1, [r2]", &[0x6811], load(1, 2, None)),
            ("ldrb r1, [r2, r3]", &[0x5CD1], load(1, 2, Some(3))),
            ("ldrsh r1, [r2, r3]", &[0x5ED1], load(1, 2, Some(3))),
            ("strh r1, [r2, r3]", &[0x52D1], indexed),
            ("str r1, [sp, #4]", &[0x9101], plain),
            ("ldr r7, [sp, #4]", &[0x9F01], load(7, 13, None)),
            ("ldr r3, [pc, #8]", &[0x4B02], load(3, 15, None)),
            ("ldrh r1, [r2, #4]", &[0x8891], load(1, 2, None)),
            ("strb r1, [r2, #4]", &[0x7111], plain),
            ("push {r4, r5, lr}", &[0xB530], Kind::Several(3)),
            ("pop {r4, pc}", &[0xBD10], Kind::Several(2)),
            ("stm r1!, {r2, r3}", &[0xC10C], Kind::Several(2)),
            ("ldm.w r1, {r2, r3, r4}", &[0xE891, 0x001C], Kind::Several(3)),
            ("push.w {r4, r5, r6, r7, r8, lr}", &[0xE92D, 0x41F0], Kind::Several(6)),
            ("ldr r12, [r0], #4", &[0xF850, 0xCB04], load(12, 0, None)),
            ("ldr.w r12, [r0, #400]", &[0xF8D0, 0xC190], load(12, 0, None)),
            ("ldrsb.w r12, [r0, r9, lsl #1]", &[0xF910, 0xC019], load(12, 0, Some(9))),
            ("ldr.w r12, [pc, #-8]", &[0xF85F, 0xC008], load(12, 15, None)),
            ("pld [r0, #4]", &[0xF890, 0xF004], Kind::Other),
            ("str r12, [r0], #4", &[0xF840, 0xCB04], plain),
            ("str.w r12, [r0, r9]", &[0xF840, 0xC009], indexed),
            ("ldrd r2, r3, [r0], #8", &[0xE8F0, 0x2302], Kind::Several(2)),
            ("strd r2, r3, [r0, #8]", &[0xE9C0, 0x2302], Kind::Several(2)),
            ("ldrex r1, [r2]", &[0xE852, 0x1F00], Kind::Special),
            ("tbb [pc, r0]", &[0xE8DF, 0xF000], Kind::Special),
            ("mrs r0, primask", &[0xF3EF, 0x8010], Kind::Special),
            ("msr primask, r0", &[0xF380, 0x8810], Kind::Special),
            ("sdiv r0, r1, r2", &[0xFB91, 0xF0F2], Kind::Divide),
            ("udiv r0, r1, r2", &[0xFBB1, 0xF0F2], Kind::Divide),
            ("smull r0, r1, r2, r3", &[0xFB82, 0x0103], Kind::Other),
            ("smlald r0, r1, r2, r3", &[0xFBC2, 0x01C3], Kind::Other),
            ("smlad r0, r1, r2, r3", &[0xFB21, 0x3002], Kind::Other),
            ("smmulr r0, r1, r2", &[0xFB51, 0xF012], Kind::Other),
            ("ssat r0, #8, r1", &[0xF301, 0x0007], Kind::Other),
            ("sxtb16 r1, r2, ror #8", &[0xFA2F, 0xF192], Kind::Other),
            ("dsb", &[0xF3BF, 0x8F4F], Kind::Other),
            ("it eq", &[0xBF08], Kind::Other),
            ("cbz r0, .", &[0xB118], Kind::Other),
            ("bl .", &[0xF000, 0xF802], Kind::Other),
            ("bx lr", &[0x4770], Kind::Other),
        ];
        for &(text, halves, kind) in expected {
            let code: Vec<u8> = halves.iter().flat_map(|half| half.to_le_bytes()).collect();
            assert_eq!(kinds(&code), Some(vec![kind]), "{text}");
        }
    }

    #[test]
    fn a_coprocessors_instruction_is_not_known() {
        // vldr s0, [r0] and vadd.f32 s0, s0, s0
        assert_eq!(kinds(&[0x90, 0xED, 0x00, 0x0A]), None);
        assert_eq!(kinds(&[0x30, 0xEE, 0x00, 0x0A]), None);
    }
}
