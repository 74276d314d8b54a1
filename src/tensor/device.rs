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
    _owner: Owner,
}

/// What keeps the elements where they are.
enum Owner {
    Host,
    Engine { _block: Block },
    Backend { _keeper: Box<dyn Send + Sync> },
}

impl DeviceBytes {
    /// Of the host's, who lends them for as long as this lives.
    pub fn lent(range: DeviceRange) -> Self {
        DeviceBytes { range, _owner: Owner::Host }
    }

    /// The first `size` bytes of a block of a device's memory.
    pub fn of_block(block: Block, device: i32, size: usize) -> Self {
        let range = DeviceRange { device, address: block.address().addr(), size };
        DeviceBytes { range, _owner: Owner::Engine { _block: block } }
    }

    /// Of the backend's, which keeps them until it is told otherwise by the drop of `keeper`.
    pub fn kept_by(keeper: Box<dyn Send + Sync>, range: DeviceRange) -> Self {
        DeviceBytes { range, _owner: Owner::Backend { _keeper: keeper } }
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
