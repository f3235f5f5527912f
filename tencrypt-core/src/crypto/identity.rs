//! Identity of this side.

use std::{fmt, net::IpAddr};

use super::{
    PeerId,
    rng::Rng,
    secret::{DEEP, Secret, Seed, wipe_stack},
    x25519,
};

/// This side's identity: an X25519 static key pair and the addresses it says it has. Made when a tunnel is set up for a
/// pod, kept in memory only, and gone with the process: there is no long-term key to steal, and no counter that could
/// start again. Not `Clone`, printed redacted, erased on drop.
pub struct Identity {
    // Boxed: the identity moves, the secret does not.
    secret: Box<Secret<32>>,
    peer_id: PeerId,
    addresses: Box<[IpAddr]>,
}

impl Identity {
    /// A fresh identity from `seed`, of a pod with these addresses.
    #[must_use]
    pub fn generate(seed: Seed, addresses: &[IpAddr]) -> Self {
        let mut rng = Rng::new(seed);
        let secret = Secret::boxed(|secret| rng.fill(secret));
        let peer_id = PeerId::from_bytes(x25519::public_key(secret.expose()));
        wipe_stack::<DEEP>();
        Self { secret, peer_id, addresses: addresses.into() }
    }

    /// The same identity once more, for another lane of the same pod: peers see one member, whichever lane speaks.
    #[must_use]
    pub fn for_another_lane(&self) -> Self {
        let secret = Secret::boxed(|secret| secret.copy_from_slice(self.secret.expose()));
        Self { secret, peer_id: self.peer_id, addresses: self.addresses.clone() }
    }

    /// The public key, by which peers know this side.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The pod's addresses, as they were when the identity was made.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The X25519 secret key.
    pub(crate) fn secret(&self) -> &[u8; 32] {
        self.secret.expose()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("peer_id", &self.peer_id)
            .field("addresses", &self.addresses)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_id_is_the_public_key_and_the_seed_decides_it() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let identity = Identity::generate(Seed::from_bytes([1; 32]), &[address]);
        assert_eq!(identity.peer_id().as_bytes(), &x25519::public_key(identity.secret()));
        assert_eq!(identity.addresses(), [address]);
        assert_eq!(Identity::generate(Seed::from_bytes([1; 32]), &[]).peer_id(), identity.peer_id());
        assert_ne!(Identity::generate(Seed::from_bytes([2; 32]), &[]).peer_id(), identity.peer_id());
        let lane = identity.for_another_lane();
        assert_eq!((lane.peer_id(), lane.secret()), (identity.peer_id(), identity.secret()));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let identity = Identity::generate(Seed::from_bytes([1; 32]), &[]);
        let printed = format!("{identity:?}");
        let secret: String = identity.secret().iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(printed.contains("peer_id") && !printed.contains(&secret[..8]), "{printed}");
        assert!(!printed.contains(&format!("{:?}", &identity.secret()[..4])[1..]), "{printed}");
    }
}
