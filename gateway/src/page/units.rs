//! Numbers for people.

use std::time::{SystemTime, UNIX_EPOCH};

/// A size.
pub(super) fn bytes(bytes: u64) -> String {
    let mut size = bytes;
    let mut rest = 0;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024 {
            return match unit {
                "B" => format!("{size} B"),
                unit => format!("{size}.{} {unit}", rest * 10 / 1024),
            };
        }
        (size, rest) = (size / 1024, size % 1024);
    }
    format!("{size}.{} TiB", rest * 10 / 1024)
}

/// A short time.
pub(super) fn micros(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} µs"),
        1000..1_000_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// How long ago a time was, in milliseconds since 1970.
pub(super) fn ago(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u64::try_from(now.as_millis()).unwrap_or(u64::MAX).saturating_sub(ms) / 1000;
    match seconds {
        0..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// How long it is until a time, in milliseconds since 1970.
pub(super) fn until(ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = ms.saturating_sub(u64::try_from(now.as_millis()).unwrap_or(u64::MAX)) / 1000;
    match seconds {
        0..60 => format!("in {seconds} s"),
        60..3600 => format!("in {} min", seconds / 60),
        3600..172_800 => format!("in {} h", seconds / 3600),
        _ => format!("in {} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        for (size, told) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (9_437_184, "9.0 MiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(bytes(size), told);
        }
        assert_eq!([830, 2048, 3_210_000].map(micros), ["830 µs", "2.04 ms", "3.21 s"]);
        assert!(ago(0).ends_with("days ago"));
    }
}
