//! Tenants and the epochs of their keys.

use std::sync::Arc;

use tencrypt::KeyRing;

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

    /// The root key of an epoch, for a member that has a program of its own.
    #[must_use]
    pub fn root(&self, epoch: u8) -> [u8; 32] {
        let mut root = self.root;
        // Epoch 1 has the root as it was drawn.
        root[0] = root[0].wrapping_add(epoch).wrapping_sub(1);
        root
    }

    /// Its 16 bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        *self.keys.tenant_id()
    }

    pub(crate) fn new(id: [u8; 16], root: [u8; 32]) -> Self {
        let keys = Arc::new(
            KeyRing::parse(&KeyRing::write_file(id, 1, &root)).expect("the core reads what it writes"),
        );
        Self { id, root, keys }
    }

    /// The same tenant with other epochs. An epoch has the same key whenever it is asked for.
    ///
    /// # Panics
    /// If the core refuses such a key file.
    #[must_use]
    pub fn with(&self, accept: &[u8], send: u8) -> Self {
        let mut text = KeyRing::write_file(self.id, accept[0], &self.root(accept[0])).to_string();
        accept[1..].iter().for_each(|epoch| text += &KeyRing::write_epoch(*epoch, &self.root(*epoch)));
        text += &format!("send {send}\n");
        let keys = Arc::new(KeyRing::parse(&text).expect("the core reads what it writes"));
        Self { keys, ..self.clone() }
    }
}
