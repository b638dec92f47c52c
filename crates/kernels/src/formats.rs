//! What the kernels for packed weights must know of the block formats: where values, scales and offsets
//! lie. Places are in bytes of one block; in a group every field is as many times larger, and begins as
//! many times later, as the group has rows.

/// What the values u of a block of 256 are; [packed](crate::packed) says where.
pub(crate) enum Values256 {
    /// Nibbles, with fifth bits or without. The scales are two 16-bit floats and twelve bytes at the
    /// beginning: six bits for each 32 weights' scale, and six for their offset.
    Nibbles { fifth: bool },
    /// Six bits; a 16-bit float at the beginning, then a signed byte for each sixteen weights' scale. The
    /// values are 32 too large.
    SixBits,
}

/// Blocks of 256 weights; weight = d · scale · u + c · offset.
pub(crate) trait Format256 {
    const BYTES: usize;
    const VALUES: Values256;
    /// Weights that share a scale.
    const SHARE: usize = match Self::VALUES {
        Values256::Nibbles { .. } => 32,
        Values256::SixBits => 16,
    };
    /// Whether scales have a sign.
    const SIGNED: bool = matches!(Self::VALUES, Values256::SixBits);
}

pub(crate) struct Q4K;
impl Format256 for Q4K {
    const BYTES: usize = 144;
    const VALUES: Values256 = Values256::Nibbles { fifth: false };
}

pub(crate) struct Q5K;
impl Format256 for Q5K {
    const BYTES: usize = 176;
    const VALUES: Values256 = Values256::Nibbles { fifth: true };
}

pub(crate) struct Q6K;
impl Format256 for Q6K {
    const BYTES: usize = 210;
    const VALUES: Values256 = Values256::SixBits;
}

/// Where the values u of a block of 32 are.
pub(crate) enum Values32 {
    /// Nibbles from a place on, the first 16 weights low and the others high, and the fifth bits.
    Nibbles(usize, Option<usize>),
    /// Signed bytes from a place on.
    Bytes(usize),
}

/// weight = scale · u + minimum.
pub(crate) enum Minimum {
    /// So many scales.
    Scales(f32),
    /// A 16-bit float at this place.
    At(usize),
    /// None.
    Zero,
}

/// Blocks of 32 weights; the scale is a 16-bit float at the beginning.
pub(crate) trait Format32 {
    const BYTES: usize;
    const VALUES: Values32;
    const MINIMUM: Minimum;
    /// Whether the values have a sign.
    const SIGNED: bool = matches!(Self::VALUES, Values32::Bytes(_));
}

pub(crate) struct Q4_0;
impl Format32 for Q4_0 {
    const BYTES: usize = 18;
    const VALUES: Values32 = Values32::Nibbles(2, None);
    const MINIMUM: Minimum = Minimum::Scales(-8.0);
}

pub(crate) struct Q4_1;
impl Format32 for Q4_1 {
    const BYTES: usize = 20;
    const VALUES: Values32 = Values32::Nibbles(4, None);
    const MINIMUM: Minimum = Minimum::At(2);
}

pub(crate) struct Q5_0;
impl Format32 for Q5_0 {
    const BYTES: usize = 22;
    const VALUES: Values32 = Values32::Nibbles(6, Some(2));
    const MINIMUM: Minimum = Minimum::Scales(-16.0);
}

pub(crate) struct Q5_1;
impl Format32 for Q5_1 {
    const BYTES: usize = 24;
    const VALUES: Values32 = Values32::Nibbles(8, Some(4));
    const MINIMUM: Minimum = Minimum::At(2);
}

pub(crate) struct Q8_0;
impl Format32 for Q8_0 {
    const BYTES: usize = 34;
    const VALUES: Values32 = Values32::Bytes(2);
    const MINIMUM: Minimum = Minimum::Zero;
}

/// The expression for `$e` = 0 to 7, each time a constant: of a loop the compiler may keep the counter,
/// and with it a jump for each register of weights that is unpacked.
macro_rules! eighths {
    ($e:ident => $body:expr) => { eighths!(@ $e => $body; 0 1 2 3 4 5 6 7) };
    (@ $e:ident => $body:expr; $($n:literal)*) => { $({ const $e: usize = $n; $body })* };
}
pub(crate) use eighths;

/// `M` rows of `blocks` values from row `first` on. A plain function: a closure that is compiled for a
/// kernel's instructions would not be inlined into `from_fn`.
#[inline]
pub(crate) fn of_rows<T, const M: usize>(all: &[T], first: usize, blocks: usize) -> [&[T]; M] {
    std::array::from_fn(|m| &all[(first + m) * blocks..][..blocks])
}

/// Value `b` of each row.
#[inline]
pub(crate) fn at<T, const M: usize>(rows: [&[T]; M], b: usize) -> [&T; M] {
    std::array::from_fn(|m| &rows[m][b])
}
