//! Where a job's inputs lie in the board's memory.

use mote_protocol::{Error, Input};

/// Each input begins at a multiple of so many bytes, as the memory does.
const ALIGNMENT: usize = 4;

/// Where each input lies, one after the other in the order of [`Input::ALL`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Inputs {
    /// Bytes written of each.
    lens: [usize; Input::ALL.len()],
}

impl Inputs {
    /// Writes the next part of an input; its first part forgets what was written of it and of those after it.
    pub(crate) fn write(&mut self, memory: &mut [u8], input: Input, offset: u32, data: &[u8]) -> Result<(), Error> {
        let mut next = *self;
        if offset == 0 {
            next.lens.iter_mut().skip(input as usize).for_each(|len| *len = 0);
        }
        let written = next.len(input);
        if offset as usize != written {
            return Err(Error::Offset { expected: written as u32 });
        }
        let begin = next.begin(input) + written;
        let (end, room) = (begin.saturating_add(data.len()), memory.len() as u32);
        let place = memory.get_mut(begin..end).ok_or(Error::TooLong { len: end as u32, room })?;
        place.copy_from_slice(data);
        if let Some(len) = next.lens.get_mut(input as usize) {
            *len += data.len();
        }
        *self = next;
        Ok(())
    }

    /// What was written of an input.
    pub(crate) fn get<'m>(&self, memory: &'m [u8], input: Input) -> &'m [u8] {
        let begin = self.begin(input);
        memory.get(begin..begin + self.len(input)).unwrap_or_default()
    }

    fn len(&self, input: Input) -> usize {
        self.lens.get(input as usize).copied().unwrap_or(0)
    }

    fn begin(&self, input: Input) -> usize {
        self.lens.iter().take(input as usize).map(|len| len.next_multiple_of(ALIGNMENT)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_lie_one_after_the_other_and_a_new_one_forgets_those_after_it() {
        let (mut inputs, mut memory) = (Inputs::default(), [0; 16]);
        inputs.write(&mut memory, Input::Start, 0, &[1, 2]).unwrap();
        inputs.write(&mut memory, Input::Start, 2, &[3]).unwrap();
        inputs.write(&mut memory, Input::Known, 0, &[4, 5, 6, 7, 8]).unwrap();
        inputs.write(&mut memory, Input::Mask, 0, &[9]).unwrap();
        assert_eq!(memory, [1, 2, 3, 0, 4, 5, 6, 7, 8, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(Input::ALL.map(|input| inputs.get(&memory, input)), [&[1, 2, 3][..], &[4, 5, 6, 7, 8], &[9]]);
        inputs.write(&mut memory, Input::Known, 0, &[10]).unwrap();
        assert_eq!(Input::ALL.map(|input| inputs.get(&memory, input)), [&[1, 2, 3][..], &[10], &[]]);
    }

    #[test]
    fn a_gap_and_too_much_are_refused_and_change_nothing() {
        let (mut inputs, mut memory) = (Inputs::default(), [0; 4]);
        inputs.write(&mut memory, Input::Start, 0, &[1]).unwrap();
        assert_eq!(inputs.write(&mut memory, Input::Start, 2, &[3]), Err(Error::Offset { expected: 1 }));
        assert_eq!(inputs.write(&mut memory, Input::Start, 1, &[3; 4]), Err(Error::TooLong { len: 5, room: 4 }));
        assert_eq!(inputs.write(&mut memory, Input::Mask, 0, &[3]), Err(Error::TooLong { len: 5, room: 4 }));
        assert_eq!(inputs.get(&memory, Input::Start), [1]);
    }
}
