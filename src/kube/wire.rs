//! The protobuf wire format: tags, varints and lengths, read forwards and written backwards.
//!
//! Knows nothing of Kubernetes. Groups, which nobody uses, are refused.

/// Why bytes are no protobuf message.
pub(super) type Fault = &'static str;

/// One value off the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], Fault> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err("a length was expected"),
        }
    }

    pub(super) fn varint(self) -> Result<u64, Fault> {
        match self {
            Wire::Varint(n) => Ok(n),
            _ => Err("a varint was expected"),
        }
    }
}

/// The fields of a message, in the order they were written.
#[derive(Clone)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Fault> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|n| (1..1 << 29).contains(n))
            .ok_or("a field number is out of range")?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| "a length is out of range")?;
                Wire::Bytes(self.take(len)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err("a wire type is not known"),
        };
        Ok(Some((number, wire)))
    }

    pub(super) fn is_done(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn varint(&mut self) -> Result<u64, Fault> {
        let (value, len) = varint(self.rest)?.ok_or("the message is cut short")?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or("the message is cut short")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        self.take(N)?.try_into().map_err(|_| "the message is cut short")
    }
}

/// The varint at the start of `bytes` and its length; `None` if it is not all there yet.
pub(super) fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Fault> {
    let mut value = 0u64;
    for (at, byte) in bytes.iter().enumerate() {
        if at == 10 || (at == 9 && *byte > 1) {
            return Err("a varint is out of range");
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            return Ok(Some((value, at + 1)));
        }
    }
    if bytes.len() >= 10 { Err("a varint is out of range") } else { Ok(None) }
}

/// Writes a message from its end to its start, so that a length is known when it is written.
#[derive(Default)]
pub(super) struct Writer {
    /// The message in `buf[at..]`; what lies before is room to grow.
    buf: Vec<u8>,
    at: usize,
}

impl Writer {
    /// Bytes written so far.
    pub(super) fn len(&self) -> usize {
        self.buf.len() - self.at
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        if self.at < bytes.len() {
            self.grow(bytes.len());
        }
        self.at -= bytes.len();
        self.buf[self.at..self.at + bytes.len()].copy_from_slice(bytes);
    }

    pub(super) fn put_varint(&mut self, mut value: u64) {
        let (mut bytes, mut len) = ([0u8; 10], 0);
        while value >= 0x80 {
            bytes[len] = value as u8 | 0x80;
            value >>= 7;
            len += 1;
        }
        bytes[len] = value as u8;
        self.put(&bytes[..=len]);
    }

    pub(super) fn varint_field(&mut self, number: u32, value: u64) {
        self.put_varint(value);
        self.put_varint(u64::from(number) << 3);
    }

    pub(super) fn fixed64_field(&mut self, number: u32, value: u64) {
        self.put(&value.to_le_bytes());
        self.put_varint(u64::from(number) << 3 | 1);
    }

    pub(super) fn bytes_field(&mut self, number: u32, bytes: &[u8]) {
        let before = self.len();
        self.put(bytes);
        self.close(number, before);
    }

    /// Puts tag and length before everything written since the length was `before`.
    pub(super) fn close(&mut self, number: u32, before: usize) {
        self.put_varint((self.len() - before) as u64);
        self.put_varint(u64::from(number) << 3 | 2);
    }

    /// The message.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.buf.drain(..self.at);
        self.buf
    }

    fn grow(&mut self, by: usize) {
        let len = self.len();
        let room = (len + by).next_power_of_two().max(256);
        let mut buf = vec![0; room + len];
        buf[room..].copy_from_slice(&self.buf[self.at..]);
        self.buf = buf;
        self.at = room;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_backwards_read_forwards() {
        let mut w = Writer::default();
        let before = w.len();
        w.varint_field(3, u64::MAX);
        w.bytes_field(2, &[7; 300]);
        w.fixed64_field(1, 5);
        w.close(9, before);
        let bytes = w.finish();
        let mut r = Reader::new(&bytes);
        let (number, wire) = r.next().unwrap().unwrap();
        assert_eq!(number, 9);
        let mut inner = Reader::new(wire.bytes().unwrap());
        assert_eq!(inner.next().unwrap(), Some((1, Wire::Fixed64(5))));
        assert_eq!(inner.next().unwrap(), Some((2, Wire::Bytes(&[7; 300]))));
        assert_eq!(inner.next().unwrap(), Some((3, Wire::Varint(u64::MAX))));
        assert_eq!(inner.next().unwrap(), None);
        assert_eq!(r.next().unwrap(), None);
    }

    #[test]
    fn refused() {
        for bytes in [&[0x08][..], &[0x0a, 5, 1], &[0x00, 1], &[0x0b], &[0xff; 11], &[0x0d, 1, 2], &[0x09, 1]]
        {
            assert!(Reader::new(bytes).next().is_err(), "{bytes:?}");
        }
        assert_eq!(varint(&[0x80]), Ok(None));
        assert_eq!(varint(&[0xac, 0x02, 9]), Ok(Some((300, 2))));
        assert!(varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).is_err());
    }
}
