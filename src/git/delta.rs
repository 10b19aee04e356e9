//! Deltas as packs have them (gitformat-pack): instructions that make an object of another one. Pure.

/// The size of the base and of what is made of it, in bytes, and where the instructions begin.
///
/// # Errors
/// [`None`] for what is no delta.
pub(super) fn sizes(delta: &[u8]) -> Option<(u64, u64, usize)> {
    let (base, first) = size(delta)?;
    let (made, second) = size(&delta[first..])?;
    Some((base, made, first + second))
}

fn size(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().enumerate().take(9) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((value, at + 1));
        }
    }
    None
}

/// Makes `size` bytes of `base` by `instructions`.
///
/// # Errors
/// [`None`] for instructions that are none, reach beyond the base, or make another size.
pub(super) fn apply(base: &[u8], instructions: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut made = Vec::with_capacity(size);
    let mut left = instructions.iter();
    while let Some(&command) = left.next() {
        if command & 0x80 == 0 {
            let insert = usize::from(command);
            let bytes = left.as_slice();
            if insert == 0 || insert > bytes.len() {
                return None;
            }
            made.extend_from_slice(&bytes[..insert]);
            left.nth(insert - 1)?;
        } else {
            let mut number = |bits: std::ops::Range<u32>| {
                let mut value = 0_usize;
                for (at, bit) in bits.enumerate() {
                    if command >> bit & 1 == 1 {
                        value |= usize::from(*left.next()?) << (8 * at);
                    }
                }
                Some(value)
            };
            let (from, length) = (number(0..4)?, number(4..7)?);
            let length = if length == 0 { 0x1_0000 } else { length };
            made.extend_from_slice(base.get(from..from.checked_add(length)?)?);
        }
        if made.len() > size {
            return None;
        }
    }
    (made.len() == size).then_some(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_copy_and_insert_and_make_no_more_than_they_say() {
        let base = b"hello, world";
        // Copy 5 from 0, insert ` all`, copy 7 from 5.
        let instructions = [&[0x90, 5, 4][..], b" all", &[0x91, 5, 7]].concat();
        assert_eq!(apply(base, &instructions, 16).unwrap(), b"hello all, world");
        assert_eq!(sizes(&[&[12, 0x90, 1][..], &instructions].concat()), Some((12, 144, 3)));
        for (bad, size) in [
            (&[0x90, 13][..], 13),
            (&[0x91, 12, 1], 1),
            (&[0x90, 5], 4),
            (&[0x90, 5], 6),
            (&[0], 0),
            (&[3, b'a'], 1),
            (&[0x91], 1),
        ] {
            assert_eq!(apply(base, bad, size), None, "{bad:?}");
        }
        let long = vec![b'x'; 0x1_0000];
        assert_eq!(apply(&long, &[0x80], 0x1_0000).unwrap(), long, "no length is 64 KiB");
        assert_eq!((sizes(&[0x80; 12]), sizes(&[]), sizes(&[1])), (None, None, None));
    }
}
