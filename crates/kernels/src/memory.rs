//! Memory for weights.

use memmap2::MmapMut;
use std::io;
use std::ops::{Deref, DerefMut};

/// Bytes in memory of their own, all zero at first. A step reads all weights once, so Linux is asked
/// for large pages: fewer look-ups of addresses, and the processor's prefetch ends at a page.
pub(crate) struct Bytes(MmapMut);

impl Bytes {
    pub(crate) fn zeroed(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon(len.max(1))?;
        // A kernel without them says no; small pages work as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(Self(map))
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
