//! The order of weights that the AVX2, AVX-512 and NEON kernels read.
//!
//! A register's worth of rows, four, eight or sixteen, lie side by side: of eight, block `b` of rows
//! `8i … 8i + 7` becomes one *group* of eight blocks, in which every field of the block's format is taken
//! from the eight rows in turn, element by element. An element is a 16-bit float, or the four bytes that hold
//! four neighbouring weights: so 32 bytes of a group are four neighbouring weights of each of eight
//! rows, and a lane of a register is a row. Sums then stay in their lanes: nothing is added across a
//! register, and scales and conversions serve all rows at once.
//!
//! A group has the size of its blocks, so packing is in place and costs no memory.

use super::Kind;
use rayon::prelude::*;

/// Rows of a group at most; all sizes of groups divide it.
pub(super) const MOST_ROWS: usize = 16;

/// A field of a block: where it begins, its bytes, and the bytes of an element.
struct Field {
    at: usize,
    len: usize,
    element: usize,
    /// 32 single bits, of which bit `i` belongs to weight `i`.
    bits: bool,
}

const fn halves(at: usize, len: usize) -> Field {
    Field { at, len, element: 2, bits: false }
}

const fn words(at: usize, len: usize) -> Field {
    Field { at, len, element: 4, bits: false }
}

const fn bits(at: usize) -> Field {
    Field { at, len: 4, element: 4, bits: true }
}

/// The fields of a block, in the order of its bytes.
fn fields(kind: Kind) -> &'static [Field] {
    match kind {
        Kind::Q4_0 => const { &[halves(0, 2), words(2, 16)] },
        Kind::Q4_1 => const { &[halves(0, 2), halves(2, 2), words(4, 16)] },
        Kind::Q5_0 => const { &[halves(0, 2), bits(2), words(6, 16)] },
        Kind::Q5_1 => const { &[halves(0, 2), halves(2, 2), bits(4), words(8, 16)] },
        Kind::Q8_0 => const { &[halves(0, 2), words(2, 32)] },
        Kind::Q4K => const { &[halves(0, 2), halves(2, 2), words(4, 12), words(16, 128)] },
        Kind::Q5K => {
            const { &[halves(0, 2), halves(2, 2), words(4, 12), words(16, 32), words(48, 128)] }
        }
        Kind::Q6K => const { &[words(0, 128), words(128, 64), words(192, 16), halves(208, 2)] },
    }
}

/// Packs whole groups of `ROWS` rows of `row_bytes` each, in place.
pub(super) fn pack<const ROWS: usize>(kind: Kind, row_bytes: usize, data: &mut [u8]) {
    let (fields, bytes) = (fields(kind), kind.bytes());
    let group = |scratch: &mut Vec<u8>, group: &mut [u8]| {
        scratch.clear();
        scratch.extend_from_slice(group);
        for (b, group) in group.chunks_exact_mut(ROWS * bytes).enumerate() {
            for (r, row) in scratch.chunks_exact(row_bytes).enumerate() {
                let block = &row[b * bytes..][..bytes];
                for f in fields {
                    let from = &block[f.at..][..f.len];
                    let to = &mut group[ROWS * f.at..][..ROWS * f.len];
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
pub(super) fn unpack(
    kind: Kind,
    group: &[u8],
    rows: usize,
    (b, r): (usize, usize),
    block: &mut [u8],
) {
    let group = &group[b * rows * kind.bytes()..][..rows * kind.bytes()];
    for f in fields(kind) {
        let from = &group[rows * f.at..][..rows * f.len];
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
/// then needs one shift and one mask.
fn by_weight_in_four(bits: &[u8]) -> [u8; 4] {
    let mut bytes = [0; 4];
    for i in 0..32 {
        bytes[i % 4] |= (bits[i / 8] >> (i % 8) & 1) << (i / 4);
    }
    bytes
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
