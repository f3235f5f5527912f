//! Tenants and the epochs of their keys.

use std::sync::Arc;

use tencrypt_core::{
    KeyRing,
    crypto::{write_epoch, write_key_file},
};

/// A tenant's keys.
#[derive(Debug, Clone)]
pub struct Tenant {
    id: [u8; 16],
    /// Roots of its epochs differ in their first byte.
    root: [u8; 32],
    pub(crate) keys: Arc<KeyRing>,
}

impl Tenant {
    /// Its keys, for a member that does not keep to the rules.
    #[must_use]
    pub fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// Its 16 bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        *self.keys.tenant_id()
    }

    pub(crate) fn new(id: [u8; 16], root: [u8; 32]) -> Self {
        Self { id, root, keys: Self::ring(id, root, &[1], 1) }
    }

    /// The same tenant with other epochs. An epoch has the same key whenever it is asked for.
    ///
    /// # Panics
    /// If the core refuses such a key file.
    #[must_use]
    pub fn with(&self, accept: &[u8], send: u8) -> Self {
        Self { keys: Self::ring(self.id, self.root, accept, send), ..self.clone() }
    }

    fn ring(id: [u8; 16], root: [u8; 32], accept: &[u8], send: u8) -> Arc<KeyRing> {
        let root = |epoch: u8| {
            let mut root = root;
            // Epoch 1 has the root as it was drawn.
            root[0] = root[0].wrapping_add(epoch).wrapping_sub(1);
            root
        };
        let mut text = write_key_file(id, accept[0], &root(accept[0])).to_string();
        accept[1..].iter().for_each(|epoch| text += &write_epoch(*epoch, &root(*epoch)));
        text += &format!("send {send}\n");
        Arc::new(KeyRing::parse(&text).expect("the core reads what it writes"))
    }
}
