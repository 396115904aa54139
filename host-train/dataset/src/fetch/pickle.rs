//! As much of Python's pickle format (protocol 2) as NumPy needs for dictionaries, lists and arrays. Nothing is called:
//! what a pickle asks to be called stays a description.
//!
//! Source: Python's `pickletools`, which describes every operation.

use std::collections::HashMap;

use anyhow::{Context, bail, ensure};

/// The number of a value in a [`Pickle`].
pub(super) type Id = usize;

/// A value.
#[derive(Debug, PartialEq)]
enum Value {
    None,
    Bool(bool),
    Int(i64),
    Text(String),
    /// Lists and tuples.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// A function or class: module and name.
    Global(String),
    /// The result of calling a function on arguments, then given a state.
    Call {
        function: Id,
        arguments: Id,
        state: Option<Id>,
    },
}

/// A parsed pickle.
#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    root: Id,
}

/// A NumPy array of numbers.
#[derive(Debug, PartialEq)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    /// `f8`, `i8` ..
    pub(super) kind: String,
    /// Whether the first dimension is the fastest.
    pub(super) fortran_order: bool,
    pub(super) bytes: Vec<u8>,
}

impl Pickle {
    /// Reads one value.
    pub(super) fn parse(mut bytes: &[u8]) -> anyhow::Result<Self> {
        let (mut values, mut stack, mut marks, mut memo) = (Vec::new(), Vec::<Id>::new(), Vec::new(), HashMap::new());
        let rest = &mut bytes;
        loop {
            let operation = take(rest, 1)?[0];
            let value = match operation {
                0x80 => {
                    ensure!(take(rest, 1)?[0] <= 2, "its protocol is above 2");
                    continue;
                }
                b'(' => {
                    marks.push(stack.len());
                    continue;
                }
                b'q' | b'r' => {
                    let at = number(rest, if operation == b'q' { 1 } else { 4 })?;
                    memo.insert(at, *stack.last().context("nothing to remember")?);
                    continue;
                }
                b'h' | b'j' => {
                    let at = number(rest, if operation == b'h' { 1 } else { 4 })?;
                    stack.push(*memo.get(&at).context("nothing remembered")?);
                    continue;
                }
                b'a' | b'e' => {
                    let first = if operation == b'a' { stack.len() - 1 } else { marks.pop().context("no mark")? };
                    let items = stack.split_off(first);
                    match stack.last().map(|&list| &mut values[list]) {
                        Some(Value::Sequence(list)) => list.extend(items),
                        _ => bail!("what is appended to is no list"),
                    }
                    continue;
                }
                b's' | b'u' => {
                    let first = if operation == b's' { stack.len() - 2 } else { marks.pop().context("no mark")? };
                    let items = stack.split_off(first);
                    match stack.last().map(|&dict| &mut values[dict]) {
                        Some(Value::Dict(dict)) => dict.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
                        _ => bail!("what an item is set in is no dictionary"),
                    }
                    continue;
                }
                b'b' => {
                    let new_state = stack.pop().context("no state")?;
                    match stack.last().map(|&object| &mut values[object]) {
                        Some(Value::Call { state, .. }) => *state = Some(new_state),
                        _ => bail!("what is given a state is no object"),
                    }
                    continue;
                }
                b'.' => return Ok(Self { values, root: stack.pop().context("it is empty")? }),
                b'R' => {
                    let (arguments, function) = (stack.pop(), stack.pop());
                    let (arguments, function) = (arguments.context("no arguments")?, function.context("no function")?);
                    Value::Call { function, arguments, state: None }
                }
                b'N' => Value::None,
                0x88 => Value::Bool(true),
                0x89 => Value::Bool(false),
                b'K' => Value::Int(number(rest, 1)? as i64),
                b'M' => Value::Int(number(rest, 2)? as i64),
                b'J' => Value::Int((number(rest, 4)? as u32 as i32).into()),
                b'X' => {
                    let length = number(rest, 4)?;
                    Value::Text(String::from_utf8(take(rest, length)?.to_vec())?)
                }
                b'c' => {
                    let mut line = || -> anyhow::Result<String> {
                        let end = rest.iter().position(|&byte| byte == b'\n').context("it ends early")?;
                        let line = take(rest, end + 1)?;
                        Ok(String::from_utf8(line[..end].to_vec())?)
                    };
                    Value::Global(format!("{}.{}", line()?, line()?))
                }
                b']' | b')' => Value::Sequence(Vec::new()),
                b'}' => Value::Dict(Vec::new()),
                0x85..=0x87 => {
                    let items = usize::from(operation - 0x84);
                    Value::Sequence(stack.split_off(stack.len().checked_sub(items).context("too few values")?))
                }
                b't' => Value::Sequence(stack.split_off(marks.pop().context("no mark")?)),
                _ => bail!("its operation {operation:#x} is not known"),
            };
            values.push(value);
            stack.push(values.len() - 1);
        }
    }

    /// The one object that a NumPy array of type object and no dimension holds.
    pub(super) fn object(&self) -> anyhow::Result<Id> {
        let state = self.state(self.root)?;
        let items = self.sequence(*state.get(4).context("the array has no items")?)?;
        items.first().copied().context("the array is empty")
    }

    /// What a dictionary has under `key`.
    pub(super) fn get(&self, dict: Id, key: &str) -> anyhow::Result<Id> {
        let Value::Dict(items) = &self.values[dict] else { bail!("it is no dictionary") };
        let found = items.iter().find(|(name, _)| self.values[*name] == Value::Text(key.to_owned()));
        found.map(|(_, value)| *value).with_context(|| format!("it has no {key}"))
    }

    /// The items of a list or tuple.
    pub(super) fn sequence(&self, id: Id) -> anyhow::Result<&[Id]> {
        match &self.values[id] {
            Value::Sequence(items) => Ok(items),
            other => bail!("{other:?} is no list"),
        }
    }

    /// A text.
    pub(super) fn text(&self, id: Id) -> anyhow::Result<&str> {
        match &self.values[id] {
            Value::Text(text) => Ok(text),
            other => bail!("{other:?} is no text"),
        }
    }

    /// An array of numbers.
    pub(super) fn array(&self, id: Id) -> anyhow::Result<Array> {
        let [_, shape, kind, fortran_order, bytes] = *self.state(id)? else { bail!("an array has five parts") };
        let side = |&id: &Id| match self.values[id] {
            Value::Int(side) => usize::try_from(side).context("a side is negative"),
            _ => bail!("a side is no number"),
        };
        let kind = match &self.values[kind] {
            Value::Call { arguments, .. } => {
                self.text(*self.sequence(*arguments)?.first().context("a type has no name")?)?.to_owned()
            }
            _ => bail!("an array has no type"),
        };
        Ok(Array {
            shape: self.sequence(shape)?.iter().map(side).collect::<Result<_, _>>()?,
            kind,
            fortran_order: self.values[fortran_order] == Value::Bool(true),
            bytes: self.latin1(bytes)?,
        })
    }

    fn state(&self, id: Id) -> anyhow::Result<&[Id]> {
        match &self.values[id] {
            Value::Call { state: Some(state), .. } => self.sequence(*state),
            other => bail!("{other:?} is no array"),
        }
    }

    /// Bytes, which Python 3 writes in protocol 2 as `_codecs.encode(text, "latin1")`.
    fn latin1(&self, id: Id) -> anyhow::Result<Vec<u8>> {
        let Value::Call { function, arguments, .. } = &self.values[id] else { bail!("an array has no bytes") };
        ensure!(self.values[*function] == Value::Global("_codecs.encode".to_owned()), "an array has no bytes");
        let text = self.text(*self.sequence(*arguments)?.first().context("nothing is encoded")?)?;
        text.chars().map(|letter| u8::try_from(letter).context("a byte is above 255")).collect()
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> anyhow::Result<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length).context("it ends early")?;
    *rest = tail;
    Ok(head)
}

/// A little-endian number of up to four bytes.
fn number(rest: &mut &[u8], bytes: usize) -> anyhow::Result<usize> {
    Ok(take(rest, bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{"x": [array([[1.5, 2.5]], order="F")], "n": -1}` in an object array, as NumPy with protocol 2 writes it but for the memo.
    pub(crate) fn toy() -> Vec<u8> {
        let array = |state: &[u8]| [b"cnumpy.core.multiarray\n_reconstruct\n(tR(", state, b"tb"].concat();
        let text = |text: &str| [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat();
        let kind = |name: &str| [b"cnumpy\ndtype\n(", &text(name)[..], b"tR"].concat();
        let latin1: String = [1.5f64, 2.5].iter().flat_map(|value| value.to_le_bytes()).map(char::from).collect();
        let bytes = [b"c_codecs\nencode\n(", &text(&latin1)[..], &text("latin1"), b"tR"].concat();
        let inner = array(&[b"K\x01(K\x01K\x02t", &kind("f8")[..], b"\x88", &bytes].concat());
        let list = [b"]q\x01", &inner[..], b"a"].concat();
        let dict = [b"}(", &text("x")[..], &list, &text("n"), b"J\xff\xff\xff\xffu"].concat();
        [b"\x80\x02", &array(&[b"K\x01)", &kind("O8")[..], b"\x89]", &dict, b"a"].concat())[..], b"."].concat()
    }

    #[test]
    fn arrays_in_lists_in_dictionaries_are_found() {
        let pickle = Pickle::parse(&toy()).unwrap();
        let dict = pickle.object().unwrap();
        let list = pickle.sequence(pickle.get(dict, "x").unwrap()).unwrap();
        let array = pickle.array(list[0]).unwrap();
        assert_eq!((&array.shape[..], &array.kind[..], array.fortran_order), (&[1, 2][..], "f8", true));
        assert_eq!(array.bytes, [1.5f64.to_le_bytes(), 2.5f64.to_le_bytes()].concat());
        assert_eq!(pickle.values[pickle.get(dict, "n").unwrap()], Value::Int(-1));
        assert!(pickle.get(dict, "y").unwrap_err().to_string().contains("no y"));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = toy();
        assert!((0..bytes.len()).all(|length| Pickle::parse(&bytes[..length]).is_err()));
    }
}
