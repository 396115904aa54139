//! Structures in Thrift's compact protocol, in which Parquet keeps its headers.
//!
//! Source: Apache Thrift, `thrift-compact-protocol.md`.

/// Structures inside of structures; Parquet needs six.
const MAX_DEPTH: usize = 16;

/// Bytes that are read one after the other.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    depth: usize,
}

/// A structure: its fields' numbers and values.
pub(super) struct Struct<'a>(Vec<(i64, Value<'a>)>);

/// A value; those that Parquet's headers need none of are only passed over.
enum Value<'a> {
    Bool(bool),
    Int(i64),
    Bytes(&'a [u8]),
    List(Vec<Value<'a>>),
    Struct(Struct<'a>),
    Other,
}

type Result<T> = std::result::Result<T, String>;

fn early() -> String {
    "it ends early".to_owned()
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, depth: 0 }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(length).ok_or_else(early)?;
        self.rest = tail;
        Ok(head)
    }

    /// A little-endian length.
    pub(super) fn u32(&mut self) -> Result<usize> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("4 bytes")) as usize)
    }

    /// Seven bits a byte, the lowest first; the highest bit says that more follow.
    pub(super) fn varint(&mut self) -> Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err("a number is longer than 64 bits".to_owned())
    }

    fn int(&mut self) -> Result<i64> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }

    pub(super) fn structure(&mut self) -> Result<Struct<'a>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("its header is nested too deep".to_owned());
        }
        let (mut fields, mut number) = (Vec::new(), 0i64);
        loop {
            let header = self.take(1)?[0];
            if header == 0 {
                self.depth -= 1;
                return Ok(Struct(fields));
            }
            number = if header >> 4 == 0 { self.int()? } else { number.saturating_add((header >> 4).into()) };
            let value = match header & 15 {
                1 => Value::Bool(true),
                2 => Value::Bool(false),
                kind => self.value(kind)?,
            };
            fields.push((number, value));
        }
    }

    fn value(&mut self, kind: u8) -> Result<Value<'a>> {
        Ok(match kind {
            1 | 2 => Value::Bool(self.take(1)?[0] == 1),
            3 => Value::Int(i64::from(self.take(1)?[0] as i8)),
            4..=6 => Value::Int(self.int()?),
            7 => {
                self.take(8)?;
                Value::Other
            }
            8 => {
                let length = self.varint()?;
                Value::Bytes(self.take(usize::try_from(length).map_err(|_| early())?)?)
            }
            9 | 10 => {
                let header = self.take(1)?[0];
                let length = if header >> 4 == 15 { self.varint()? } else { u64::from(header >> 4) };
                Value::List((0..length).map(|_| self.value(header & 15)).collect::<Result<_>>()?)
            }
            12 => Value::Struct(self.structure()?),
            _ => return Err(format!("its header has a value of type {kind}")),
        })
    }
}

impl<'a> Struct<'a> {
    fn get(&self, number: i64) -> Option<&Value<'a>> {
        self.0.iter().find(|(found, _)| *found == number).map(|(_, value)| value)
    }

    pub(super) fn int(&self, number: i64) -> Option<i64> {
        match self.get(number)? {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub(super) fn bool(&self, number: i64) -> Option<bool> {
        match self.get(number)? {
            Value::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// A number that is a length or a place.
    pub(super) fn size(&self, number: i64) -> Result<usize> {
        self.int(number).and_then(|value| usize::try_from(value).ok()).ok_or_else(|| missing(number))
    }

    pub(super) fn text(&self, number: i64) -> Result<String> {
        match self.get(number) {
            Some(Value::Bytes(bytes)) => Ok(String::from_utf8_lossy(bytes).into_owned()),
            _ => Err(missing(number)),
        }
    }

    pub(super) fn structure(&self, number: i64) -> Result<&Struct<'a>> {
        match self.get(number) {
            Some(Value::Struct(structure)) => Ok(structure),
            _ => Err(missing(number)),
        }
    }

    /// A list of structures.
    pub(super) fn list(&self, number: i64) -> Result<Vec<&Struct<'a>>> {
        let Some(Value::List(values)) = self.get(number) else { return Err(missing(number)) };
        let structure = |value: &'_ Value<'a>| matches!(value, Value::Struct(_));
        if !values.iter().all(structure) {
            return Err(missing(number));
        }
        Ok(values
            .iter()
            .filter_map(|value| if let Value::Struct(structure) = value { Some(structure) } else { None })
            .collect())
    }
}

fn missing(number: i64) -> String {
    format!("its header lacks field {number}")
}
