//! Deterministic simulation of tencrypt tunnels: virtual clock, seeded lossy network, reference model.
