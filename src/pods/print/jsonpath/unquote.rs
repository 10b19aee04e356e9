//! Go's escapes in quoted strings, for single and double quotes alike.

/// The text within the quotes of `text`, its escapes resolved as Go's `strconv.UnquoteChar` does.
pub(in crate::pods::print) fn unquote(text: &str) -> Result<String, String> {
    const SYNTAX: &str = "invalid syntax";
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''));
    let inner = quote.and_then(|q| text[1..].strip_suffix(q)).ok_or(SYNTAX)?;
    if !inner.contains('\\') {
        return Ok(inner.to_owned());
    }
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if c == '\\' {
            escape(&mut rest, quote.unwrap_or('"'), &mut bytes).ok_or(SYNTAX)?;
        } else {
            push(&mut bytes, c);
        }
    }
    String::from_utf8(bytes).map_err(|_| SYNTAX.to_owned())
}

fn escape(rest: &mut std::str::Chars<'_>, quote: char, out: &mut Vec<u8>) -> Option<()> {
    let digits = |rest: &mut std::str::Chars<'_>, count: usize, radix: u32| {
        (0..count).try_fold(0, |value, _| Some(value * radix + rest.next()?.to_digit(radix)?))
    };
    match rest.next()? {
        'a' => out.push(7),
        'b' => out.push(8),
        'f' => out.push(12),
        'n' => out.push(b'\n'),
        'r' => out.push(b'\r'),
        't' => out.push(b'\t'),
        'v' => out.push(11),
        '\\' => out.push(b'\\'),
        c @ ('"' | '\'') if c == quote => push(out, c),
        'x' => out.push(u8::try_from(digits(rest, 2, 16)?).ok()?),
        'u' => push(out, char::from_u32(digits(rest, 4, 16)?)?),
        'U' => push(out, char::from_u32(digits(rest, 8, 16)?)?),
        c @ '0'..='7' => {
            let first = c.to_digit(8)?;
            out.push(u8::try_from(first * 64 + digits(rest, 2, 8)?).ok()?);
        }
        _ => return None,
    }
    Some(())
}

fn push(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}
