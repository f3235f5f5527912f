//! The protocol over real sockets, and the program with an agent that is none.

mod agent;
mod call;
mod program;
