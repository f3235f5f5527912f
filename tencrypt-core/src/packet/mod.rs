//! IP packets.

mod opened;

pub use opened::Opened;
