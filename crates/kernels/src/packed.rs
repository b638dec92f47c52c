//! The order of weights that the AVX2, AVX-512 and NEON kernels read.
//!
//! A register's worth of rows, four, eight or sixteen, lie side by side: of eight, block `b` of rows
//! `8i … 8i + 7` becomes one *group* of eight blocks, in which every field of the block's format is taken
//! from the eight rows in turn, element by element, in the order in which the kernels read them. An
//! element is a 16-bit float, or the four bytes that hold four neighbouring weights: so 32 bytes of a
//! group are four neighbouring weights of each of eight rows, and a lane of a register is a row. Sums then
//! stay in their lanes: nothing is added across a register, and scales and conversions serve all rows at
//! once.
//!
//! A group has the size of its blocks, so packing is in place and costs no memory.

use crate::Kind;
use rayon::prelude::*;

/// Rows of a group at most; all sizes of groups divide it.
pub(crate) const MOST_ROWS: usize = 16;

/// A field of a block, or a part of one: where it begins in the block and, times the rows, in the group,
/// its bytes, and the bytes of an element.
#[derive(Clone, Copy)]
struct Field {
    at: usize,
    to: usize,
    len: usize,
    element: usize,
    /// 32 single bits, of which bit `i` belongs to weight `i`.
    bits: bool,
}

const fn half(at: usize, to: usize) -> Field {
    Field { at, to, len: 2, element: 2, bits: false }
}

const fn words(at: usize, to: usize, len: usize) -> Field {
    Field { at, to, len, element: 4, bits: false }
}

const fn bits(at: usize) -> Field {
    Field { at, to: at, len: 4, element: 4, bits: true }
}

// In a group every block is read from its beginning to its end, without a jump: AMD's prefetch loses
// track of two streams in one page, and a step with one row then waits for each line of memory (measured
// on Genoa with Q6_K's fields one after the other: 8 GB/s instead of 30).

/// Where the nibbles `i` of pair `pair` of eighths are in a block of Q4_K or, with `fifth` bits, Q5_K.
pub(crate) const fn nibbles(fifth: bool, pair: usize, i: usize) -> usize {
    16 + 4 * if !fifth {
        8 * pair + i
    } else if pair == 0 {
        2 * i
    } else {
        8 + 8 * pair + i
    }
}

/// Where the fifth bits `i` of all eighths are in a block of Q5_K.
pub(crate) const fn fifth(i: usize) -> usize {
    16 + 4 * (2 * i + 1)
}

/// Where the scales of a block of Q6_K begin; before them is the scale of all.
pub(crate) const SCALES: usize = 2;

/// Where the low nibbles `i` of a half of a block of Q6_K are: of quarters 0 and 2, or (`odd`) 1 and 3.
pub(crate) const fn low(half: usize, odd: usize, i: usize) -> usize {
    SCALES + 16 + 96 * half + 4 * if odd == 0 { 2 * i } else { 16 + i }
}

/// Where the high bits `i` of all quarters of a half of a block of Q6_K are.
pub(crate) const fn high(half: usize, i: usize) -> usize {
    SCALES + 16 + 96 * half + 4 * (2 * i + 1)
}

const Q5K: [Field; 20] = {
    let mut fields = [words(80, nibbles(true, 1, 0), 96); 20];
    (fields[0], fields[1], fields[2]) = (half(0, 0), half(2, 2), words(4, 4, 12));
    let mut i = 0;
    while i < 8 {
        fields[3 + 2 * i] = words(48 + 4 * i, nibbles(true, 0, i), 4);
        fields[4 + 2 * i] = words(16 + 4 * i, fifth(i), 4);
        i += 1;
    }
    fields
};

const Q6K: [Field; 36] = {
    let mut fields = [half(208, 0); 36];
    fields[1] = words(192, SCALES, 16);
    let mut i = 0;
    while i < 16 {
        let (h, i8) = (i / 8, i % 8);
        fields[2 + 2 * i] = words(64 * h + 4 * i8, low(h, 0, i8), 4);
        fields[3 + 2 * i] = words(128 + 32 * h + 4 * i8, high(h, i8), 4);
        i += 1;
    }
    fields[34] = words(32, low(0, 1, 0), 32);
    fields[35] = words(96, low(1, 1, 0), 32);
    fields
};

fn fields(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Q4_0 => const { &[half(0, 0), words(2, 2, 16)] },
        Kind::Q4_1 => const { &[half(0, 0), half(2, 2), words(4, 4, 16)] },
        Kind::Q5_0 => const { &[half(0, 0), bits(2), words(6, 6, 16)] },
        Kind::Q5_1 => const { &[half(0, 0), half(2, 2), bits(4), words(8, 8, 16)] },
        Kind::Q8_0 => const { &[half(0, 0), words(2, 2, 32)] },
        Kind::Q4K => {
            const { &[half(0, 0), half(2, 2), words(4, 4, 12), words(16, nibbles(false, 0, 0), 128)] }
        }
        Kind::Q5K => &Q5K,
        Kind::Q6K => &Q6K,
    }
}

/// Packs whole groups of `ROWS` rows of `row_bytes` each, in place.
pub(crate) fn pack<const ROWS: usize>(kind: Kind, row_bytes: usize, data: &mut [u8]) {
    let (fields, bytes) = (fields(kind), kind.bytes());
    let group = |scratch: &mut Vec<u8>, group: &mut [u8]| {
        scratch.clear();
        scratch.extend_from_slice(group);
        for (b, group) in group.chunks_exact_mut(ROWS * bytes).enumerate() {
            for (r, row) in scratch.chunks_exact(row_bytes).enumerate() {
                let block = &row[b * bytes..][..bytes];
                for f in fields {
                    let from = &block[f.at..][..f.len];
                    let to = &mut group[ROWS * f.to..][..ROWS * f.len];
                    match f.element {
                        2 => spread::<2, ROWS>(from, to, r),
                        _ if f.bits => spread::<4, ROWS>(&by_weight_in_four(from), to, r),
                        _ => spread::<4, ROWS>(from, to, r),
                    }
                }
            }
        }
    };
    data.par_chunks_mut(ROWS * row_bytes).for_each_init(Vec::new, group);
}

/// Writes the elements of row `r` to their places. Their size is known to the compiler: a model has
/// hundreds of millions of them.
fn spread<const ELEMENT: usize, const ROWS: usize>(from: &[u8], to: &mut [u8], r: usize) {
    let places = to.as_chunks_mut::<ELEMENT>().0.chunks_exact_mut(ROWS);
    for (element, place) in from.as_chunks::<ELEMENT>().0.iter().zip(places) {
        place[r] = *element;
    }
}

/// Block `b` of row `r` of a packed group of `rows` rows, as it was before.
pub(crate) fn unpack(
    kind: Kind,
    group: &[u8],
    rows: usize,
    (b, r): (usize, usize),
    block: &mut [u8],
) {
    let group = &group[b * rows * kind.bytes()..][..rows * kind.bytes()];
    for f in fields(kind) {
        let from = &group[rows * f.to..][..rows * f.len];
        for (e, to) in block[f.at..][..f.len].chunks_exact_mut(f.element).enumerate() {
            let from = &from[(e * rows + r) * f.element..][..f.element];
            if f.bits {
                to.copy_from_slice(&by_weight(from));
            } else {
                to.copy_from_slice(from);
            }
        }
    }
}

/// Bit `i` of 32 goes to bit `i / 4` of byte `i % 4`: a register of four weights each of eight rows
/// then needs one shift and one mask. All bits of a byte at a time: a model has tens of millions of these.
fn by_weight_in_four(bits: &[u8]) -> [u8; 4] {
    let bits = u32::from_le_bytes([bits[0], bits[1], bits[2], bits[3]]);
    std::array::from_fn(|byte| {
        // Every fourth bit, moved together step by step.
        let mut x = bits >> byte & 0x1111_1111;
        x = (x | x >> 3) & 0x0303_0303;
        x = (x | x >> 6) & 0x000f_000f;
        (x | x >> 12) as u8
    })
}

/// The way back.
fn by_weight(bytes: &[u8]) -> [u8; 4] {
    let mut bits = [0; 4];
    for i in 0..32 {
        bits[i / 8] |= (bytes[i % 4] >> (i / 4) & 1) << (i % 8);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacking_gives_back_every_block() {
        back::<4>();
        back::<8>();
        back::<16>();
    }

    /// In the order of the kernels: eighth after eighth, and what was read before is in a cache.
    #[test]
    fn a_block_is_read_from_its_beginning_to_its_end() {
        let eighths = || (0..8).flat_map(|e| (0..8).map(move |i| (e, i)));
        let four = eighths().map(|(e, i)| nibbles(false, e / 2, i));
        let five = eighths().flat_map(|(e, i)| [nibbles(true, e / 2, i), fifth(i)]);
        let six = eighths().flat_map(|(e, i)| [low(e / 4, e % 2, i), high(e / 4, i)]);
        without_a_jump(Kind::Q4K, 16, four.collect());
        without_a_jump(Kind::Q5K, 16, five.collect());
        without_a_jump(Kind::Q6K, SCALES + 16, six.collect());
    }

    fn without_a_jump(kind: Kind, start: usize, places: Vec<usize>) {
        let mut next = start;
        for place in places {
            assert!(place <= next, "{kind:?} jumps from {next} to {place}");
            next = next.max(place + 4);
        }
        assert_eq!(next, kind.bytes());
    }

    #[test]
    fn single_bits_go_to_their_weights() {
        for i in 0..32 {
            let to = by_weight_in_four(&(1u32 << i).to_le_bytes());
            let right: [u8; 4] = std::array::from_fn(|b| u8::from(b == i % 4) << (i / 4));
            assert_eq!(to, right, "bit {i}");
            assert_eq!(by_weight(&to), (1u32 << i).to_le_bytes());
        }
    }

    fn back<const ROWS: usize>() {
        for &kind in Kind::ALL {
            let (blocks, bytes) = (3, kind.bytes());
            let rows: Vec<u8> =
                (0..2 * ROWS * blocks * bytes).map(|i| (i * i / 7 + i) as u8).collect();
            let mut packed = rows.clone();
            pack::<ROWS>(kind, blocks * bytes, &mut packed);
            assert_ne!(packed, rows);
            let mut block = vec![0; bytes];
            for (row, right) in rows.chunks_exact(blocks * bytes).enumerate() {
                let group = &packed[row / ROWS * ROWS * blocks * bytes..];
                for (b, right) in right.chunks_exact(bytes).enumerate() {
                    unpack(kind, group, ROWS, (b, row % ROWS), &mut block);
                    assert_eq!(block, right, "{kind:?} row {row} block {b}");
                }
            }
        }
    }
}
