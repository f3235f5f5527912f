//! The owners of namespaces, and the list on disk that says so to the plugin.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
};

use tencrypt_cni::list::{List, ListError, Standing};

use crate::tenant::Tenant;

/// The standing of a pod's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// It is of this tenant.
    Of(String),
    /// It is to be protected, and cannot be now.
    Unclear(String),
    /// It is left as it is.
    Open,
    /// Nobody has said.
    Unknown,
}

/// The namespaces.
#[derive(Debug)]
pub(super) struct Enrolment {
    path: PathBuf,
    list: List,
    tenants: BTreeMap<String, BTreeSet<String>>,
    /// Those that cannot be protected, with the reason.
    claims: BTreeMap<String, String>,
}

impl Enrolment {
    /// Starts with the list on disk: what it has enrolled stays so until every file was read. The second value is the reason why it
    /// cannot be read.
    pub(super) fn read(path: PathBuf) -> (Self, Option<String>) {
        let (list, problem) = match List::read(&path) {
            Ok(list) => (list, None),
            Err(ListError::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => (List::new(), None),
            Err(error) => (List::new(), Some(format!("{}: {error}", path.display()))),
        };
        (Self { path, list, tenants: BTreeMap::new(), claims: BTreeMap::new() }, problem)
    }

    /// Takes the namespaces of these `tenants`, those with `claims` that cannot be met, and those that are `open`. If not all files could be read (`all_read` false), no namespace
    /// that was enrolled is taken out. The list on disk is written before anything of this counts.
    ///
    /// # Errors
    /// The list cannot be written: nothing more is open than before.
    pub(super) fn set(
        &mut self,
        tenants: &[Rc<Tenant>],
        claims: &BTreeMap<String, String>,
        open: &BTreeSet<String>,
        all_read: bool,
    ) -> Result<(), String> {
        let mut owners: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for tenant in tenants {
            for namespace in &tenant.namespaces {
                owners.entry(namespace.clone()).or_default().insert(tenant.name().to_owned());
            }
        }
        let mut list = if all_read { List::new() } else { self.list.clone() };
        let failed = |reason: &dyn std::fmt::Display| format!("{}: {reason}", self.path.display());
        for (standing, names) in [
            (Standing::Open, open.iter().collect::<Vec<_>>()),
            // Behind the others: what somebody has enrolled is not open.
            (Standing::Enrolled, owners.keys().chain(claims.keys()).collect()),
        ] {
            for name in names {
                let named = (name != "-").then_some(&**name);
                let may_be_claimed = !all_read && self.list.standing(named) == Some(Standing::Enrolled);
                if standing == Standing::Open && may_be_claimed {
                    continue;
                }
                list.set(named, Some(standing)).map_err(|error| failed(&error))?;
            }
        }
        if self.list.is_ready() {
            list.set_ready();
        }
        // Even if the list cannot be written: its pods are protected then, by this agent.
        self.tenants = owners;
        self.claims.clone_from(claims);
        let is_written = list == self.list && List::read(&self.path).is_ok_and(|read| read == list);
        if !is_written {
            list.write(&self.path).map_err(|error| failed(&error))?;
        }
        self.list = list;
        Ok(())
    }

    /// Notes that the agent is ready.
    ///
    /// # Errors
    /// The list cannot be written.
    pub(super) fn set_ready(&mut self) -> Result<(), String> {
        if self.list.is_ready() {
            return Ok(());
        }
        let mut list = self.list.clone();
        list.set_ready();
        list.write(&self.path).map_err(|error| format!("{}: {error}", self.path.display()))?;
        self.list = list;
        Ok(())
    }

    /// The standing of a namespace, or of pods without one.
    pub(super) fn place(&self, namespace: Option<&str>) -> Place {
        let owners = self.tenants.get(namespace.unwrap_or("-"));
        match (owners, self.list.standing(namespace)) {
            (Some(owners), _) => match owners.first() {
                Some(owner) if owners.len() == 1 => Place::Of(owner.clone()),
                _ => {
                    let names: Vec<&str> = owners.iter().map(String::as_str).collect();
                    Place::Unclear(format!("its namespace is claimed by the tenants {}", names.join(", ")))
                }
            },
            (None, standing) => match (self.claims.get(namespace.unwrap_or("-")), standing) {
                // Whatever the list says: it may not have been possible to write it.
                (Some(claim), _) => Place::Unclear(claim.clone()),
                (None, Some(Standing::Enrolled)) => {
                    Place::Unclear("the files of its namespace's tenant cannot be read".to_owned())
                }
                (None, Some(Standing::Open)) => Place::Open,
                (None, None) => Place::Unknown,
            },
        }
    }

    /// Tells if the list on disk says of a namespace with a tenant that it is open, since it cannot be written: the plugin waits for
    /// none of its pods for long.
    pub(super) fn is_behind(&self, namespace: Option<&str>) -> bool {
        self.list.standing(namespace) == Some(Standing::Open)
            && self.tenants.contains_key(namespace.unwrap_or("-"))
    }

    /// The namespaces that more than one tenant claims, a line each.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = String> {
        self.tenants.iter().filter(|(_, owners)| owners.len() > 1).map(|(namespace, owners)| {
            let names: Vec<&str> = owners.iter().map(String::as_str).collect();
            format!(
                "namespace {namespace} is claimed by the tenants {}: none of its pods can start",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_protected_is_not_open_though_the_list_cannot_be_written() {
        let folder = std::env::temp_dir().join(format!("tencrypt-node-{}-enrolment", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (mut enrolment, _) = Enrolment::read(folder.join("namespaces"));
        let open: BTreeSet<String> = ["shop".to_owned(), "bank".to_owned()].into();
        enrolment.set(&[], &BTreeMap::new(), &open, true).unwrap();
        assert_eq!(enrolment.place(Some("shop")), Place::Open);
        std::fs::remove_dir_all(&folder).unwrap();
        let claims = BTreeMap::from([("shop".to_owned(), "no keys".to_owned())]);
        assert!(enrolment.set(&[], &claims, &["bank".to_owned()].into(), true).is_err());
        assert_eq!(enrolment.place(Some("shop")), Place::Unclear("no keys".to_owned()));
        enrolment.tenants.insert("bank".to_owned(), ["bank".to_owned()].into());
        assert!(enrolment.is_behind(Some("bank")) && !enrolment.is_behind(Some("other")));
    }
}
