//! Tensors in the memory of devices: where they are, never what is in them. Nothing here leads to a pointer to read by.

use crate::memory::Block;

/// Bytes in a device's memory that somebody lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRange {
    pub device: i32,
    pub address: usize,
    pub size: usize,
}

/// The elements of a tensor in a device's memory.
pub struct DeviceBytes {
    range: DeviceRange,
    /// They are the engine's own.
    _block: Option<Block>,
}

impl DeviceBytes {
    /// Of the host's, who lends them for as long as this lives.
    pub fn lent(range: DeviceRange) -> Self {
        DeviceBytes { range, _block: None }
    }

    /// The first `size` bytes of a block of a device's memory.
    pub fn of_block(block: Block, device: i32, size: usize) -> Self {
        let range = DeviceRange { device, address: block.address().addr(), size };
        DeviceBytes { range, _block: Some(block) }
    }

    pub fn range(&self) -> DeviceRange {
        self.range
    }
}

/// Where an output is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputPlace {
    /// In host memory of the engine's.
    Host,
    /// In memory of this device that the engine takes.
    Device(i32),
    /// In memory that the host lends.
    Buffer(DeviceRange),
}
