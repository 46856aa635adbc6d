//! Numbers with units, for people.

/// A number of bytes in binary units, three significant digits.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{} {}", three_digits(value), UNITS[unit]) }
}

/// A duration given in microseconds, three significant digits.
pub fn duration_us(us: f64) -> String {
    match us {
        _ if us < 999.5 => format!("{} us", three_digits(us)),
        _ if us < 999_500.0 => format!("{} ms", three_digits(us / 1e3)),
        _ if us < 120e6 => format!("{} s", three_digits(us / 1e6)),
        _ if us < 7200e6 => format!("{:.0} min", us / 60e6),
        _ if us < 172_800e6 => format!("{:.0} h", us / 3600e6),
        _ => format!("{:.0} days", us / 86_400e6),
    }
}

/// So many of something whose plural takes an s.
pub fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// A part of one in percent.
pub fn percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn three_digits(value: f64) -> String {
    let digits = match value {
        _ if value == value.trunc() && value < 1e6 => 0,
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "object")), ["0 objects", "1 object", "2 objects"]);
    }

    #[test]
    fn numbers_keep_three_digits() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (1536, "1.50 KiB"),
            (64 << 20, "64 MiB"),
            (1_073_000_000, "1.00 GiB"),
            (123_456_789_012, "115 GiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        for (us, text) in [
            (0.0, "0 us"),
            (12.34, "12.3 us"),
            (1234.0, "1.23 ms"),
            (999_600.0, "1.00 s"),
            (65e6, "65 s"),
            (600e6, "10 min"),
            (864e9, "10 days"),
        ] {
            assert_eq!(duration_us(us), text);
        }
        assert_eq!(percent(0.126), "13 %");
    }
}
