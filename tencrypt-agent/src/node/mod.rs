//! The channel between the agent of a node and the program of a pod, as the program sees it: frames, and the messages in them.
//!
//! One stream socket a pod. The agent gives everything that an ordinary `up` reads from files, and later changes; the program
//! pushes status and events. It goes on without the agent, and takes another one's channel in place of this one.
//! `docs/node-protocol.md` describes the protocol.

mod facts;
mod frame;
mod message;
mod order;
pub mod reading;
pub mod said;
pub(crate) mod start;

pub(crate) use self::{
    facts::Facts,
    frame::{Header, Payload},
    message::{KEYS, Message},
};
pub use self::{
    facts::check as check_facts,
    frame::{HEADER_LEN, Kind},
    message::{End, Pod, Versions},
    order::{Order, OrderError},
};
