//! The examples of RFC 7541, appendix C, and the dynamic table's limits.

use front::hpack::{Decoder, Invalid};

fn decoded(decoder: &mut Decoder, block: &[u8]) -> Vec<String> {
    let mut fields = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    let whole = decoder.decode(block, 10_000, |n, v| {
        fields.push(format!("{}: {}", text(n), text(v)))
    });
    assert_eq!(whole, Ok(true));
    fields
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits
        .chunks(2)
        .map(|pair| str::from_utf8(pair).expect("ASCII"));
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"))
        .collect()
}

fn three_requests(blocks: [&str; 3]) {
    let mut decoder = Decoder::default();
    let common = [
        ":method: GET",
        ":scheme: http",
        ":path: /",
        ":authority: www.example.com",
    ];
    assert_eq!(decoded(&mut decoder, &bytes(blocks[0])), common);
    assert_eq!(
        decoded(&mut decoder, &bytes(blocks[1])),
        [&common[..], &["cache-control: no-cache"]].concat()
    );
    let third = [
        ":method: GET",
        ":scheme: https",
        ":path: /index.html",
        ":authority: www.example.com",
        "custom-key: custom-value",
    ];
    assert_eq!(decoded(&mut decoder, &bytes(blocks[2])), third);
}

#[test]
fn requests_without_huffman_code() {
    three_requests([
        "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
        "8286 84be 5808 6e6f 2d63 6163 6865",
        "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
    ]);
}

#[test]
fn requests_with_huffman_code() {
    three_requests([
        "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
        "8286 84be 5886 a8eb 1064 9cbf",
        "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
    ]);
}

#[test]
fn a_smaller_table_forgets_the_oldest() {
    let mut decoder = Decoder::default();
    decoded(&mut decoder, b"\x40\x01a\x01b\x40\x01c\x01d");
    assert_eq!(decoded(&mut decoder, b"\xbe\xbf"), ["c: d", "a: b"]);
    // 34 bytes each (with 32 counted for the entry): one of them has room in 40.
    assert_eq!(decoded(&mut decoder, b"\x3f\x09\xbe"), ["c: d"]);
    assert_eq!(decoder.decode(b"\xbf", 100, |_, _| ()), Err(Invalid));
}

#[test]
fn an_entry_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::default();
    decoded(&mut decoder, b"\x40\x01a\x01b");
    let large = [b"\x40\x01x\x7f\xa1\x20".as_slice(), &[b'y'; 4256]].concat();
    decoded(&mut decoder, &large);
    assert_eq!(decoder.decode(b"\xbe", 100, |_, _| ()), Err(Invalid));
}

#[test]
fn fields_beyond_the_limit_are_counted_and_not_shown() {
    let mut decoder = Decoder::default();
    let mut seen = 0;
    assert_eq!(
        decoder.decode(b"\x40\x01a\x01b\xbe\xbe", 70, |_, _| seen += 1),
        Ok(false)
    );
    assert_eq!(seen, 2);
}
