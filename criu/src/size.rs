//! Sizes as people write them.

/// Reads a number of bytes: digits, and `K`, `M` or `G` (1024, and its powers) behind them or not.
///
/// # Errors
/// If it is none, in words for who wrote it.
pub fn parse(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let number: Option<u64> = digits.parse().ok().filter(|_| !digits.starts_with('+'));
    number
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| format!("{text} is no size: write bytes, or a number with K, M or G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [("0", 0), ("7", 7), ("3K", 3072), ("64m", 64 << 20), ("2G", 2 << 30)] {
            assert_eq!(parse(text), Ok(size), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1T",
            "1.5G",
            "ä",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
