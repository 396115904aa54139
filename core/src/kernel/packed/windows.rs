//! Windows of a pass in the work area, and the words that are made of them.

use crate::kernel::conv::{self, COLUMN, ConvShape, QUAD, Rows, lines, position, run};
use crate::quant::Activation;
use crate::view::{part, part_mut};
use core::array;
use core::marker::PhantomData;
use core::mem;

/// The windows of the pixels of a pass that have not been multiplied yet.
pub(super) struct Windows<'a, I> {
    shape: &'a ConvShape,
    /// Pixels after the present group.
    left: usize,
    /// Pixels of the present group.
    pixels: usize,
    element: PhantomData<I>,
}

impl<'a, I: Activation> Windows<'a, I> {
    pub(super) fn new(shape: &'a ConvShape, count: usize) -> Self {
        Windows { shape, left: count, pixels: 0, element: PhantomData }
    }

    /// Goes on to the next group: its pixels.
    ///
    /// A group of i8 takes up to six, of i16 four, two or one: its words are then never longer than what the work area has
    /// beside the windows that follow.
    pub(super) fn next_group(&mut self) -> Option<usize> {
        self.pixels = match (size_of::<I>(), self.left) {
            (_, 0) => return None,
            (1, left) => left.min(6),
            (_, 4..) => 4,
            (_, 2..) => 2,
            _ => 1,
        };
        self.left -= self.pixels;
        Some(self.pixels)
    }

    /// Words of a quad of one window.
    const QUAD_WORDS: usize = QUAD * size_of::<I>() / size_of::<u32>();

    fn quads(&self) -> usize {
        self.shape.padded_taps() / QUAD
    }

    /// Where the windows of the present group start.
    fn start(&self, work: &[u32]) -> usize {
        work.len().saturating_sub((self.pixels + self.left) * self.quads() * Self::QUAD_WORDS)
    }

    /// See [`crate::kernel::Kernel::gather`].
    pub(super) fn gather(&mut self, rows: &Rows<'_, I>, zero: I, first: usize, work: &mut [i16]) {
        let work = bytemuck::pod_align_to_mut::<i16, u32>(work).1;
        let width = self.shape.output[1].max(1);
        let [mut row, mut column] = [first / width, first % width];
        let mut lines = lines(self.shape, rows, row);
        while let Some(pixels) = self.next_group() {
            let start = self.start(work);
            let windows = part_mut(work, start, pixels * self.quads() * Self::QUAD_WORDS);
            let mut done = 0;
            while done < pixels {
                if column == width {
                    (row, column) = (row + 1, 0);
                    lines = conv::lines(self.shape, rows, row);
                }
                let windows = windows.get_mut(done * Self::QUAD_WORDS..).unwrap_or_default();
                let count = if self.shape.channels_in.is_multiple_of(QUAD) {
                    self.gather_one(&lines, zero, column, windows);
                    1
                } else {
                    let (count, windows) = ((pixels - done).min(width - column), bytemuck::cast_slice_mut(windows));
                    match self.gather_nine(&lines, column, count, windows) {
                        0 => self.gather_elements(&lines, zero, column, count, windows),
                        count => count,
                    }
                };
                done += count;
                column += count;
            }
        }
    }

    /// One window, quad by quad, from the rows under it. `windows` starts with it.
    fn gather_one(&self, lines: &[&[I]; 3], zero: I, column: usize, windows: &mut [u32]) {
        let shape = self.shape;
        let channels = shape.channels_in;
        let mut window = Window { target: windows, step: self.pixels * Self::QUAD_WORDS };
        let run = run(shape, column);
        for &line in lines.iter().take(shape.kernel[0]) {
            if line.is_empty() {
                window.fill(zero, shape.kernel[1] * channels);
            } else if let Some(x) = run {
                window.copy(part(line, x * channels, shape.kernel[1] * channels));
            } else {
                for tap in 0..shape.kernel[1] {
                    match position(shape, COLUMN, column, tap) {
                        Some(x) => window.copy(part(line, x * channels, channels)),
                        None => window.fill(zero, channels),
                    }
                }
            }
        }
    }

    /// The windows of `count` pixels beside each other, element by element, for quads of windows and of the input do not agree.
    /// `windows` starts with the first of them. Returns how many were done.
    fn gather_elements(&self, lines: &[&[I]; 3], zero: I, column: usize, count: usize, windows: &mut [I]) -> usize {
        let shape = self.shape;
        let channels = shape.channels_in;
        // A pixel on the left edge alone, if the others may go through `gather_nine`.
        let count = if column == 0 && shape.taps() == 9 { 1 } else { count };
        if windows.len() < self.quads().saturating_sub(1) * QUAD * self.pixels + QUAD * count {
            return count;
        }
        let x = |pixel: usize, tap: usize| position(shape, COLUMN, column + pixel, tap);
        // Pixels whose window is outside in this column, on the left and on the right, which can be one, and the first
        // element inside.
        let columns = [0, 1, 2].map(|tap| {
            let before = usize::from(x(0, tap).is_none());
            let after = usize::from(before < count && x(count - 1, tap).is_none());
            (before, after, x(before, tap).unwrap_or(0) * channels)
        });
        let (mut place, mut lane) = (windows.as_mut_ptr(), 0);
        for &values in lines.iter().take(shape.kernel[0]) {
            for (tap_column, &(before, after, from)) in columns.iter().enumerate().take(shape.kernel[1]) {
                let (before, after) = if values.is_empty() { (count, 0) } else { (before, after) };
                for channel in 0..channels {
                    // SAFETY: a window has a place for each of its elements, the last of which was checked; without
                    // enlargement, a column of the input is a step from the last.
                    unsafe {
                        let (inside, end) = (place.add(QUAD * before), place.add(QUAD * (count - after)));
                        fill(place, inside, zero);
                        if shape.upsample[1] == 1 {
                            let from = values.as_ptr().wrapping_add(from + channel);
                            copy(from, shape.stride[1] * channels, inside, end);
                        } else {
                            for pixel in before..count - after {
                                let value = x(pixel, tap_column).and_then(|x| values.get(x * channels + channel));
                                *place.add(QUAD * pixel) = value.copied().unwrap_or(zero);
                            }
                        }
                        fill(end, place.add(QUAD * count), zero);
                    }
                    (place, lane) = (place.wrapping_add(1), lane + 1);
                    if lane == QUAD {
                        (place, lane) = (place.wrapping_add(QUAD * (self.pixels - 1)), 0);
                    }
                }
            }
        }
        count
    }

    /// The windows of nine elements of pixels beside each other: as many of `count` as lie inside the image, none if there are
    /// none or windows are not such.
    fn gather_nine(&self, lines: &[&[I]; 3], column: usize, count: usize, windows: &mut [I]) -> usize {
        let shape = self.shape;
        let left = column * shape.stride[1];
        let nine = shape.taps() == 9 && shape.kernel[0] == 3 && shape.upsample[1] == 1;
        if !nine || left == 0 || left + 1 >= shape.input[1] || lines.iter().any(|line| line.is_empty()) {
            return 0;
        }
        // Only the last column's window can reach past the right edge.
        let outside = (left + (count - 1) * shape.stride[1]) + 1 >= shape.input[1];
        let count = count - usize::from(outside);
        let from = lines.map(|line| part(line, left - 1, (count - 1) * shape.stride[1] + 3));
        if windows.len() < 2 * QUAD * self.pixels + QUAD * count || from.iter().any(|row| row.is_empty()) {
            return 0;
        }
        let mut from = from.map(<[I]>::as_ptr);
        let mut to = [0, 1, 2].map(|quad| windows.as_mut_ptr().wrapping_add(QUAD * self.pixels * quad));
        for _ in 0..count {
            for tap in 0..9 {
                // SAFETY: three elements of each row from a pixel's first on, and three quads of its window, which were checked.
                unsafe { *to[tap / QUAD].add(tap % QUAD) = *from[tap / 3].add(tap % 3) };
            }
            from = from.map(|row| row.wrapping_add(shape.stride[1]));
            to = to.map(|quad| quad.wrapping_add(QUAD));
        }
        count
    }

    /// The words of the present group, of `N` pixels, for all window elements: `W` each, three pixels in two words, or one
    /// in one. For i8.
    pub(super) fn pack<'w, const N: usize, const W: usize>(&self, work: &'w mut [i16]) -> &'w [[u32; W]] {
        self.make(work, |from: *const [[i8; QUAD]; N], to: *mut [u32; W]| {
            for tap in 0..QUAD {
                // SAFETY: see `make`. The elements are read one by one, each before what overwrites it: of quad q of Q, the
                // words of element t end at byte 4 W (4 q + t + 1), and what is still to be read starts at or behind
                // (8 + N) 4 Q - 4 N (Q - q), in the least work area that holds N windows.
                unsafe {
                    let value = |pixel: usize| {
                        let quad = (&*from).get(pixel).unwrap_or(&[0; QUAD]);
                        i32::from(quad.get(tap).copied().unwrap_or(0)) as u32
                    };
                    let words = array::from_fn(|word| match (W, word % 2, word / 2 * 3) {
                        (1, ..) => value(0),
                        (_, 0, first) => value(first).wrapping_add(value(first + 2) << 11),
                        (_, _, first) => value(first + 1).wrapping_add(value(first + 2) << 21),
                    });
                    to.add(tap).write(words);
                }
            }
        })
    }

    /// The words of the present group, one for each of its `N` pixels, for all window elements. For i16.
    pub(super) fn widen<'w, const N: usize>(&self, work: &'w mut [i16]) -> &'w [[u32; N]] {
        self.make(work, |from: *const [[i16; QUAD]; N], to: *mut [u32; N]| {
            // SAFETY: see `make`. A quad is read before its words are written, and they are no longer than what has been
            // read and the 8 bytes a window element in front of the windows.
            unsafe {
                let windows: [[i16; QUAD]; N] = from.read();
                to.cast::<[[u32; N]; QUAD]>()
                    .write(array::from_fn(|tap| array::from_fn(|pixel| i32::from(windows[pixel][tap]) as u32)));
            }
        })
    }

    /// Calls `make_quad` with each quad of the group's windows and the place of its words, which are at the front of the work
    /// area; returns the words of all window elements.
    fn make<'w, From, const W: usize>(
        &self,
        work: &'w mut [i16],
        make_quad: impl Fn(*const From, *mut [u32; W]),
    ) -> &'w [[u32; W]] {
        let work = bytemuck::pod_align_to_mut::<i16, u32>(work).1;
        let (start, quads) = (self.start(work), self.quads());
        let words = size_of::<From>() / size_of::<u32>();
        if QUAD * W * quads > work.len() || start + words * quads > work.len() {
            return &[];
        }
        let work = work.as_mut_ptr();
        for quad in 0..quads {
            // SAFETY: both places are in the work area, as was checked; they are aligned to words.
            let (from, to) = unsafe { (work.add(start + quad * words), work.add(QUAD * W * quad)) };
            make_quad(from.cast(), to.cast());
        }
        // SAFETY: the words were just written.
        unsafe { core::slice::from_raw_parts(work.cast(), self.shape.taps()) }
    }
}

/// Copies elements `step` from each other to the same place of windows beside each other.
///
/// # Safety
/// All of them must be there, from `to` to before `end`.
#[inline(always)]
unsafe fn copy<I: Copy>(mut from: *const I, step: usize, mut to: *mut I, end: *mut I) {
    while to != end {
        // SAFETY: the caller's.
        unsafe { *to = *from };
        (from, to) = (from.wrapping_add(step), to.wrapping_add(QUAD));
    }
}

/// [`copy`] of one value.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn fill<I: Copy>(to: *mut I, end: *mut I, value: I) {
    // SAFETY: the caller's; the value stays where it is.
    unsafe { copy(&raw const value, 0, to, end) }
}

/// The place of one window, and from one of its quads to the next, in words.
struct Window<'w> {
    target: &'w mut [u32],
    step: usize,
}

impl<'w> Window<'w> {
    /// Copies whole quads.
    #[inline(always)]
    fn copy<I: Activation>(&mut self, from: &[I]) {
        match (bytemuck::try_cast_slice::<I, [u32; 1]>(from), bytemuck::try_cast_slice::<I, [u32; 2]>(from)) {
            (Ok(words), _) if size_of::<I>() == 1 => self.put(words),
            (_, Ok(words)) if size_of::<I>() == 2 => self.put(words),
            _ => self.put(from.as_chunks::<QUAD>().0),
        }
    }

    /// Fills `len` elements, whole quads.
    fn fill<I: Activation>(&mut self, value: I, len: usize) {
        for _ in 0..len / QUAD {
            self.put(&[[value; QUAD]]);
        }
    }

    /// Puts each of `quads` at the next place.
    #[inline(always)]
    fn put<T: Copy, const N: usize>(&mut self, quads: &[[T; N]]) {
        const { assert!(N * size_of::<T>() <= size_of::<[u32; 2]>()) }
        let len = quads.len() * self.step;
        // The last place of a window may be shorter than a step, not than a quad.
        let end = len - self.step.min(len) + N * size_of::<T>() / size_of::<u32>();
        if end > self.target.len() {
            return;
        }
        let mut place = self.target.as_mut_ptr();
        for &quad in quads {
            // SAFETY: the last place ends at `end`, inside the target.
            unsafe {
                place.cast::<[T; N]>().write(quad);
                place = place.add(self.step);
            }
        }
        self.target = mem::take(&mut self.target).get_mut(len..).unwrap_or_default();
    }
}
