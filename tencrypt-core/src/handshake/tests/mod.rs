//! Tests of the handshake. Those of its Noise messages are in files beside this one, and modules of `noise`.

mod exchange;
