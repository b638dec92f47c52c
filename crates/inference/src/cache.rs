//! The state of one sequence.

use crate::Error;
use candle_core::{DType, Device, Result as TensorResult, Tensor};
use tandem_kernels::History;

/// Tokens that a cache in device memory has room for at first.
const FIRST_ROOM: usize = 512;

/// Keys and values of the tokens of one sequence, for one model.
///
/// An unused cache takes no memory. Main memory is taken in parts of 2 MiB or so as tokens come, and
/// what is there stays where it is; a device's in steps that double, and what is there is copied.
#[derive(Debug)]
pub struct KvCache {
    len: usize,
    /// Tokens that memory was really taken for.
    peak: usize,
    capacity: usize,
    bytes_per_token: usize,
    /// Which model's weights made the content.
    pub(crate) model: usize,
    pub(crate) layers: Layers,
}

/// Tokens that a cache in device memory has room for when it holds so many: it doubles.
pub(crate) fn room(tokens: usize, capacity: usize) -> usize {
    if tokens == 0 { 0 } else { tokens.next_power_of_two().max(FIRST_ROOM).min(capacity) }
}

/// Where keys and values are.
#[derive(Debug)]
pub(crate) enum Layers {
    /// Main memory, for the CPU kernels.
    Host(History),
    /// Tensors of the second backend, on its device.
    Device(DeviceLayers),
}

/// All layers' keys and values: `kv_heads × room × head_width` each.
#[derive(Debug)]
pub(crate) struct DeviceLayers {
    pub keys: Vec<Tensor>,
    pub values: Vec<Tensor>,
    /// Layers, KV heads, width of a head.
    shape: [usize; 3],
    room: usize,
    device: Device,
}

impl DeviceLayers {
    pub(crate) fn new(layers: usize, kv_heads: usize, head_width: usize, device: &Device) -> Self {
        let empty = Vec::with_capacity(layers);
        let shape = [layers, kv_heads, head_width];
        Self { keys: empty.clone(), values: empty, shape, room: 0, device: device.clone() }
    }

    /// Makes room for `tokens` of at most `capacity`; nothing changes when that fails.
    fn reserve(&mut self, tokens: usize, capacity: usize) -> TensorResult<()> {
        if tokens <= self.room {
            return Ok(());
        }
        let room = room(tokens, capacity);
        let [layers, kv_heads, head_width] = self.shape;
        let larger = |old: &[Tensor]| -> TensorResult<Vec<Tensor>> {
            let grow = |layer: usize| {
                let new = Tensor::zeros((kv_heads, room, head_width), DType::F32, &self.device)?;
                if let Some(old) = old.get(layer) {
                    new.slice_set(old, 1, 0)?;
                }
                Ok(new)
            };
            (0..layers).map(grow).collect()
        };
        let keys = larger(&self.keys)?;
        self.values = larger(&self.values)?;
        self.keys = keys;
        self.room = room;
        Ok(())
    }

    /// Takes over the first `tokens` tokens of another.
    fn copy_from(&mut self, other: &Self, tokens: usize, capacity: usize) -> TensorResult<()> {
        if tokens == 0 {
            return Ok(());
        }
        self.reserve(tokens, capacity)?;
        let all = self.keys.iter().zip(&other.keys).chain(self.values.iter().zip(&other.values));
        for (to, from) in all {
            to.slice_set(&from.narrow(1, 0, tokens)?.contiguous()?, 1, 0)?;
        }
        Ok(())
    }

    /// Writes the keys and values (`kv_heads × n × head_width`) of one layer's tokens from `at` on.
    pub(crate) fn write(
        &self,
        layer: usize,
        k: &Tensor,
        v: &Tensor,
        at: usize,
    ) -> TensorResult<()> {
        self.keys[layer].slice_set(k, 1, at)?;
        self.values[layer].slice_set(v, 1, at)
    }
}

impl KvCache {
    /// For the CPU kernels.
    pub(crate) fn host(
        model: usize,
        history: History,
        bytes_per_token: usize,
        capacity: usize,
    ) -> Self {
        let layers = Layers::Host(history);
        Self { len: 0, peak: 0, capacity, bytes_per_token, model, layers }
    }

    /// In the memory of a device.
    pub(crate) fn device(
        model: usize,
        layers: DeviceLayers,
        bytes_per_token: usize,
        capacity: usize,
    ) -> Self {
        let layers = Layers::Device(layers);
        Self { len: 0, peak: 0, capacity, bytes_per_token, model, layers }
    }

    /// Tokens in the cache.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token is in the cache.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens at most.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets all tokens from `len` on; O(1). Does nothing when there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes of memory that this cache has really taken so far (it grows as tokens come, and does
    /// not shrink when they are forgotten).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.peak * self.bytes_per_token
    }

    /// Forgets all, and takes over the first `tokens` tokens of another cache of the same model: as if
    /// they had been computed here, to the bit.
    ///
    /// # Errors
    /// If the caches are of different models, `other` has fewer tokens, they have no room here, or there
    /// is no memory for them.
    pub fn copy_from(&mut self, other: &Self, tokens: usize) -> Result<(), Error> {
        if self.model != other.model {
            return Err(Error::Usage("a KV cache belongs to the model that made it"));
        }
        if tokens > other.len {
            return Err(Error::Usage("a KV cache cannot give tokens that it has not"));
        }
        self.len = 0;
        self.reserve(tokens)?;
        match (&mut self.layers, &other.layers) {
            (Layers::Host(to), Layers::Host(from)) => to.copy_from(from, tokens),
            (Layers::Device(to), Layers::Device(from)) => {
                to.copy_from(from, tokens, self.capacity)?;
                self.peak = self.peak.max(to.room);
            }
            _ => return Err(Error::Usage("a KV cache belongs to the model that made it")),
        }
        self.advance(tokens);
        Ok(())
    }

    /// Checks that `more` tokens have room.
    pub(crate) fn check_room(&self, more: usize) -> Result<(), Error> {
        let wanted = self.len.saturating_add(more);
        if wanted > self.capacity {
            return Err(Error::ContextFull { wanted, capacity: self.capacity });
        }
        Ok(())
    }

    /// Takes memory for `more` tokens behind those that are here. A pass does so itself; who asks before it
    /// learns that there is none while nobody else's tokens are at stake.
    ///
    /// # Errors
    /// If they have no room, or there is no memory for them. The cache stays as it was.
    pub fn reserve(&mut self, more: usize) -> Result<(), Error> {
        self.check_room(more)?;
        match &mut self.layers {
            Layers::Host(history) => history.reserve(self.len + more).map_err(Error::Memory),
            Layers::Device(device) => {
                device.reserve(self.len + more, self.capacity)?;
                self.peak = device.room;
                Ok(())
            }
        }
    }

    /// Records that `more` tokens were written.
    pub(crate) fn advance(&mut self, more: usize) {
        self.len += more;
        self.peak = self.peak.max(self.len);
    }
}
