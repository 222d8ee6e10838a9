//! Sizes, durations, addresses: what is right, what is wrong, and that what is shown reads back.

use super::value::{self, Bytes, Value as _};

#[test]
fn sizes() {
    let size = |text: &str| value::size::<0>(text).map(|Bytes(n)| n);
    let right = [
        ("1", 1),
        ("65536", 65_536),
        ("512B", 512),
        ("64KiB", 64 << 10),
        ("64 KiB", 64 << 10),
        ("64kib", 64 << 10),
        ("1kB", 1_000),
        ("10MB", 10_000_000),
        ("10MiB", 10 << 20),
        ("3GB", 3_000_000_000),
        ("10GiB", 10 << 30),
        ("2TiB", 2 << 40),
        ("1TB", 1_000_000_000_000),
        ("9223372036854775807", i64::MAX as u64),
    ];
    for (text, n) in right {
        assert_eq!(size(text), Some(n), "{text}");
        assert_eq!(size(&Bytes(n).to_string()), Some(n), "{text} is shown as {}", Bytes(n));
    }
    let wrong = ["", "0", "B", "KiB", "-1", "+1", "1.5GiB", "64K", "64M", "1 2", "1 KiB 2", "0x10"];
    let huge = ["9223372036854775808", "99999999999999999999", "16777216TiB", "1KiBs", "١"];
    for text in wrong.into_iter().chain(huge) {
        assert_eq!(size(text), None, "{text}");
    }
    assert_eq!(value::size::<20>("1048575"), None);
    assert_eq!(value::size::<20>("1MiB"), Some(Bytes(1 << 20)));
    assert_eq!(Bytes(10 << 30).to_string(), "10GiB");
    assert_eq!(Bytes(1_500).to_string(), "1500B");
}

#[test]
fn ring_sizes_are_powers_of_two() {
    for (text, n) in [("4096", Some(4096)), ("1MiB", Some(1 << 20)), ("268435456", Some(1 << 28))] {
        assert_eq!(value::ring_bytes(text), n, "{text}");
    }
    for text in ["2048", "536870912", "4097", "1MB", "0", "8GiB", "18446744073709551616"] {
        assert_eq!(value::ring_bytes(text), None, "{text}");
    }
}

#[test]
fn durations() {
    let right = [
        ("7d", 604_800_000),
        ("1w", 604_800_000),
        ("36h", 129_600_000),
        ("1d12h", 129_600_000),
        ("90s", 90_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("500ms", 500),
        ("1s500ms", 1_500),
    ];
    for (text, milliseconds) in right {
        let duration = value::duration(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(duration.as_millis(), milliseconds, "{text}");
        let shown = duration.shown().unwrap();
        let again = value::duration(shown.as_str().unwrap());
        assert_eq!(again, Some(duration), "{text} is shown as {shown}");
    }
    let wrong =
        ["", "0s", "7", "d", "1.5h", "-1s", "1 h", "1H", "1y", "1h30", "99999999999999999999s"];
    for text in wrong.into_iter().chain(["18446744073709551615ms", "10000000000000d"]) {
        assert_eq!(value::duration(text), None, "{text}");
    }
}

#[test]
fn addresses_and_urls() {
    for text in ["127.0.0.1:7690", "0.0.0.0:1", "[::1]:7690", "127.0.0.1:0"] {
        assert!(value::address(text).is_some(), "{text}");
    }
    for text in ["7690", ":7690", "localhost:7690", "127.0.0.1", "127.0.0.1:65536", "::1:1x"] {
        assert!(value::address(text).is_none(), "{text}");
    }
    let url = |text: &str| value::collector(text).map(|url| url.to_string());
    let host = "http://hotspan-collector.hotspan.svc:7691";
    assert_eq!(url(host).as_deref(), Some(host));
    assert_eq!(url("http://a:1/").as_deref(), Some("http://a:1"));
    assert_eq!(url("http://[fe80::1]:1").as_deref(), Some("http://[fe80::1]:1"));
    let wrong = ["a:1", "https://a:1", "http://a", "http://:1", "http://a:0", "http://a:65536"];
    let paths =
        ["http://a:1/b", "http://a:1//", "http://u@a:1", "http://a b:1", "http://[x]:1", ""];
    for text in wrong.into_iter().chain(paths).chain(["http://::1:1", "http://a:+1"]) {
        assert_eq!(url(text), None, "{text}");
    }
}

#[test]
fn tokens_and_hosts() {
    assert!(value::token("0123456789abcdef").is_some());
    for text in
        ["", "0123456789abcde", "0123456789 abcdef", "0123456789abcdéf", "0123456789abc\ndef"]
    {
        assert!(value::token(text).is_none(), "{text}");
    }
    assert_eq!(value::hosts(""), Some(vec![]));
    assert_eq!(value::hosts("A.example, b"), Some(vec!["a.example".to_owned(), "b".to_owned()]));
    assert_eq!(value::hosts("fe80::1"), Some(vec!["fe80::1".to_owned()]));
    for text in [",", "a,", "a:1", "a b", "http://a", "*", "-a"] {
        assert_eq!(value::hosts(text), None, "{text}");
    }
}

#[test]
fn log_filters() {
    for text in ["warn", "debug", "hotspan=debug", "hotspan=debug,warn", "off"] {
        assert_eq!(value::log(text).as_deref(), Some(text));
    }
    for text in ["", " ", "hotspan=loud", "a=b=c"] {
        assert_eq!(value::log(text), None, "{text}");
    }
}
