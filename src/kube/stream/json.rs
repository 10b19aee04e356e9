//! Where JSON values begin and end, told from the bytes alone as they arrive.
//!
//! Follows strings and brackets only: whether what lies between them is JSON is for the parser to say.

/// Where in a text a scan stands.
#[derive(Debug, Default)]
pub(super) struct Scanner {
    depth: u32,
    string: bool,
    escape: bool,
}

impl Scanner {
    /// How many brackets are open.
    pub(super) fn depth(&self) -> u32 {
        self.depth
    }

    /// Whether the scan stands inside a string.
    pub(super) fn in_string(&self) -> bool {
        self.string
    }

    /// Takes one byte.
    pub(super) fn step(&mut self, byte: u8) {
        match byte {
            _ if self.escape => self.escape = false,
            b'\\' if self.string => self.escape = true,
            b'"' => self.string = !self.string,
            _ if self.string => {}
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Takes bytes up to and including the one that closes the bracket at `floor`; `None` if it is not
    /// among them, and all were taken.
    pub(super) fn close(&mut self, bytes: &[u8], floor: u32) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() {
            if self.string && !self.escape {
                // The bulk of most objects: run over it without looking at the brackets in it.
                let run = bytes[at..].iter().position(|b| *b == b'"' || *b == b'\\')?;
                at += run;
            }
            self.step(bytes[at]);
            at += 1;
            if self.depth == floor && !self.string {
                return Some(at);
            }
        }
        None
    }
}

/// The value of a member of an object, as it stands in its text.
pub(super) fn member<'a>(object: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let mut scanner = Scanner::default();
    let (mut start, mut found) = (0, false);
    for (at, byte) in object.iter().enumerate() {
        let outside = scanner.depth() == 1 && !scanner.in_string();
        match byte {
            b'{' if scanner.depth() == 0 => start = at + 1,
            b':' if outside => {
                found = names(&object[start..at], key);
                start = at + 1;
            }
            b',' | b'}' if outside => {
                if found {
                    return Some(object[start..at].trim_ascii());
                }
                start = at + 1;
            }
            _ => {}
        }
        scanner.step(*byte);
    }
    None
}

/// Whether a text is a string literal of the given name.
pub(super) fn names(literal: &[u8], name: &str) -> bool {
    let literal = literal.trim_ascii();
    match literal.strip_prefix(b"\"").and_then(|l| l.strip_suffix(b"\"")) {
        Some(plain) if !plain.contains(&b'\\') => plain == name.as_bytes(),
        _ => serde_json::from_slice::<String>(literal).is_ok_and(|text| text == name),
    }
}
