//! Lines with their length before them, as git's protocols have them (gitprotocol-common). Pure.

/// The most that one line may carry, in bytes.
pub const MOST: usize = 65_516;
/// Bytes of data in a line of a side band, less its band.
pub const BAND: usize = MOST - 1;
/// The end of a part.
pub const FLUSH: &[u8] = b"0000";
/// What parts sections in version 2.
pub const DELIMITER: &[u8] = b"0001";

/// One line, or a mark between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// What a line carries.
    Data(Vec<u8>),
    /// `0000`
    Flush,
    /// `0001`
    Delimiter,
    /// `0002`
    End,
}

impl Line {
    /// Without the newline at its end; empty for a mark.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Data(data) => data.strip_suffix(b"\n").unwrap_or(data),
            _ => b"",
        }
    }
}

/// Appends a line; what is longer than [`MOST`] becomes several.
pub fn put(out: &mut Vec<u8>, data: &[u8]) {
    for piece in data.chunks(MOST) {
        out.extend_from_slice(format!("{:04x}", piece.len() + 4).as_bytes());
        out.extend_from_slice(piece);
    }
}

/// Cuts lines out of bytes that come in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    bytes: Vec<u8>,
    read: usize,
}

impl Lines {
    /// Takes the next piece.
    pub fn add(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next line, if all of it is here.
    ///
    /// # Errors
    /// What is no line.
    pub fn cut(&mut self) -> Result<Option<Line>, String> {
        let left = &self.bytes[self.read..];
        let Some(head) = left.get(..4) else { return Ok(None) };
        let digits =
            std::str::from_utf8(head).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let length = digits.and_then(|text| usize::from_str_radix(text, 16).ok());
        let line = match length {
            Some(0) => Line::Flush,
            Some(1) => Line::Delimiter,
            Some(2) => Line::End,
            Some(length) if (4..=MOST + 4).contains(&length) => {
                let Some(data) = left.get(4..length) else { return Ok(None) };
                let data = data.to_vec();
                self.read += length;
                return Ok(Some(Line::Data(data)));
            }
            _ => return Err(format!("`{}` is no length of a line", head.escape_ascii())),
        };
        self.read += 4;
        Ok(Some(line))
    }

    /// What is left over, as it is.
    pub fn rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.read);
        *self = Self::default();
        rest
    }

    /// Whether nothing is left over.
    pub fn is_empty(&self) -> bool {
        self.read == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_as_they_went_in_however_they_are_cut() {
        let mut all = Vec::new();
        put(&mut all, b"want abc\n");
        all.extend_from_slice(FLUSH);
        put(&mut all, &[7; MOST + 3]);
        all.extend_from_slice(DELIMITER);
        for step in [1, 3, 70_000] {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in all.chunks(step) {
                lines.add(piece);
                while let Some(line) = lines.cut().unwrap() {
                    found.push(line);
                }
            }
            assert!(lines.is_empty());
            assert_eq!((found.len(), found[0].text(), &found[1]), (5, b"want abc".as_slice(), &Line::Flush));
            assert_eq!((found[2].text().len(), found[3].text().len()), (MOST, 3));
            assert_eq!(found[4], Line::Delimiter);
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for bad in [b"00zz".as_slice(), b"0003", b"ffff", b"+004", b"<htm"] {
            let mut lines = Lines::default();
            lines.add(bad);
            assert!(lines.cut().is_err(), "{bad:?}");
        }
    }
}
