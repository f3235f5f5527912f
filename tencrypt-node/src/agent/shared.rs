//! The latest that a data path can be started with: the program, and the tenants whose files are in force.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crate::{
    pod::Latest,
    release::{Program, Release},
    tenant::Tenant,
};

/// The program and the tenants, shared with the tasks of the pods.
#[derive(Debug)]
pub(super) struct Shared {
    program: Rc<Program>,
    tenants: RefCell<BTreeMap<String, Rc<Tenant>>>,
}

impl Shared {
    /// No tenants yet.
    pub(super) fn new(program: Program) -> Rc<Self> {
        Rc::new(Self { program: Rc::new(program), tenants: RefCell::default() })
    }

    /// The program.
    pub(super) fn program(&self) -> &Program {
        &self.program
    }

    /// The tenants.
    pub(super) fn tenants(&self) -> Vec<Rc<Tenant>> {
        self.tenants.borrow().values().cloned().collect()
    }

    /// The tenant of this name.
    pub(super) fn tenant(&self, name: &str) -> Option<Rc<Tenant>> {
        self.tenants.borrow().get(name).cloned()
    }

    /// The latest for a data path of this tenant.
    pub(super) fn release(&self, tenant: &str) -> Option<Release> {
        Some(Release { program: Rc::clone(&self.program), tenant: self.tenant(tenant)? })
    }

    /// Puts a tenant in force.
    pub(super) fn set(&self, tenant: Tenant) {
        self.tenants.borrow_mut().insert(tenant.name().to_owned(), Rc::new(tenant));
    }

    /// Takes the tenants out of force that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.tenants.borrow_mut().retain(|name, _| is_there(name));
    }
}

/// The latest for the pods of one tenant.
#[derive(Debug, Clone)]
pub(super) struct LatestOf {
    /// All there is.
    pub(super) shared: Rc<Shared>,
    /// The tenant's name.
    pub(super) tenant: Rc<str>,
}

impl Latest for LatestOf {
    fn release(&self) -> Option<Release> {
        self.shared.release(&self.tenant)
    }
}
