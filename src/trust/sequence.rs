//! Which sequence number a stream may come with: above the highest accepted, and not absurdly far above.

use super::Refusal;

/// The largest step. Daily bundles for 27 years; a stolen bundle key cannot lock a gateway out with 2^63.
pub const MOST_AHEAD: u64 = 10_000;

/// Judges `seq` of `stream` against the highest accepted (0: none yet). Numbers begin with 1.
///
/// # Errors
/// [`Refusal::SeqOld`], [`Refusal::SeqFar`].
pub fn judge(stream: &str, seq: u64, highest: u64) -> Result<(), Refusal> {
    if seq <= highest {
        return Err(Refusal::SeqOld { stream: stream.into(), seq, highest });
    }
    if seq - highest > MOST_AHEAD {
        return Err(Refusal::SeqFar { stream: stream.into(), seq, highest, most: MOST_AHEAD });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_by_a_bounded_step() {
        for (seq, highest, good) in [
            (1, 0, true),
            (0, 0, false),
            (5, 5, false),
            (4, 5, false),
            (5 + MOST_AHEAD, 5, true),
            (6 + MOST_AHEAD, 5, false),
            (1 << 63, 0, false),
            (u64::MAX, u64::MAX - 1, true),
        ] {
            assert_eq!(judge("s", seq, highest).is_ok(), good, "{seq} after {highest}");
        }
    }
}
