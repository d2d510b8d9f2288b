//! HPACK's Huffman code (RFC 7541, appendix B), decoded four bits at a time.
//!
//! The code is canonical: among codes of one length, values ascend with symbols, and each length
//! goes on where the shorter one ended. So the lengths say everything.

use std::sync::LazyLock;

const EOS: u16 = 256;

#[rustfmt::skip]
const LENGTHS: [u8; 256] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
];
const EOS_LENGTH: u8 = 30;

/// What four bits do in a state: the state after them and the symbol they completed, if any.
#[derive(Clone, Copy)]
struct Step {
    next: u16,
    symbol: Option<u8>,
    invalid: bool,
}

struct Machine {
    steps: Vec<[Step; 16]>,
    /// States in which a string may end: between symbols, or in at most seven ones.
    accepting: Vec<bool>,
}

static MACHINE: LazyLock<Machine> = LazyLock::new(Machine::new);

/// Appends the decoded string; false when the bytes are no string of this code, or when it would be
/// longer than `limit`.
pub(crate) fn decode(encoded: &[u8], limit: usize, into: &mut Vec<u8>) -> bool {
    let machine = &*MACHINE;
    let end = into.len().saturating_add(limit);
    let mut state = 0usize;
    for byte in encoded {
        for nibble in [byte >> 4, byte & 15] {
            let step = machine.steps[state][usize::from(nibble)];
            if step.invalid {
                return false;
            }
            if let Some(symbol) = step.symbol {
                if into.len() == end {
                    return false;
                }
                into.push(symbol);
            }
            state = usize::from(step.next);
        }
    }
    machine.accepting[state]
}

/// A node of the code's tree: where a zero and a one lead to.
#[derive(Clone, Copy)]
enum Edge {
    None,
    Node(u16),
    Leaf(u16),
}

impl Machine {
    fn new() -> Self {
        let tree = tree();
        let steps = (0..tree.len())
            .map(|node| steps_from(&tree, node))
            .collect();
        let mut accepting = vec![false; tree.len()];
        let mut node = 0;
        for _ in 0..8 {
            accepting[node] = true;
            match tree[node][1] {
                Edge::Node(next) => node = usize::from(next),
                _ => break,
            }
        }
        Self { steps, accepting }
    }
}

fn tree() -> Vec<[Edge; 2]> {
    let mut symbols: Vec<(u8, u16)> = LENGTHS.iter().copied().zip(0..).collect();
    symbols.push((EOS_LENGTH, EOS));
    symbols.sort_unstable();
    let mut nodes = vec![[Edge::None; 2]];
    let (mut code, mut before) = (0u32, symbols[0].0);
    for (length, symbol) in symbols {
        code <<= length - before;
        before = length;
        let mut at = 0usize;
        for bit in (0..length).rev() {
            let way = (code >> bit & 1) as usize;
            if bit == 0 {
                nodes[at][way] = Edge::Leaf(symbol);
            } else if let Edge::Node(next) = nodes[at][way] {
                at = usize::from(next);
            } else {
                let next = nodes.len();
                nodes.push([Edge::None; 2]);
                nodes[at][way] = Edge::Node(next as u16);
                at = next;
            }
        }
        code += 1;
    }
    nodes
}

fn steps_from(tree: &[[Edge; 2]], node: usize) -> [Step; 16] {
    std::array::from_fn(|nibble| {
        let mut step = Step {
            next: 0,
            symbol: None,
            invalid: false,
        };
        let mut at = node;
        for bit in (0..4).rev() {
            match tree[at][nibble >> bit & 1] {
                Edge::Node(next) => at = usize::from(next),
                // The shortest code has five bits: four complete one symbol at most.
                Edge::Leaf(symbol) if symbol != EOS => {
                    step.symbol = Some(symbol as u8);
                    at = 0;
                }
                Edge::Leaf(_) | Edge::None => step.invalid = true,
            }
        }
        step.next = at as u16;
        step
    })
}

#[cfg(test)]
mod tests {
    use super::decode;

    fn decoded(encoded: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        decode(encoded, 1000, &mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn examples_of_rfc_7541() {
        let domain = [
            0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff,
        ];
        assert_eq!(decoded(&domain).as_deref(), Some("www.example.com"));
        assert_eq!(
            decoded(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).as_deref(),
            Some("no-cache")
        );
        let date = [
            0xd0, 0x7a, 0xbe, 0x94, 0x10, 0x54, 0xd4, 0x44, 0xa8, 0x20, 0x05, 0x95, 0x04, 0x0b,
            0x81, 0x66, 0xe0, 0x82, 0xa6, 0x2d, 0x1b, 0xff,
        ];
        assert_eq!(
            decoded(&date).as_deref(),
            Some("Mon, 21 Oct 2013 20:13:21 GMT")
        );
    }

    #[test]
    fn padding_is_ones_and_less_than_a_byte() {
        assert_eq!(decoded(&[]).as_deref(), Some(""));
        assert_eq!(decoded(&[0xff]), None, "eight ones");
        assert_eq!(decoded(&[0b0001_1000]), None, "padding of zeros");
        assert_eq!(decoded(&[0xff, 0xff, 0xff, 0xff]), None, "the end symbol");
    }

    #[test]
    fn a_string_is_not_longer_than_allowed() {
        let mut out = Vec::new();
        assert!(!decode(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf], 7, &mut out));
    }
}
