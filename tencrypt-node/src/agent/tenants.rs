//! The tenants' files: what is good comes into force, what has changed is told to the pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
};

use super::{Agent, LOOK, Watches, cluster::Said};
use crate::{
    data_path::DataPath,
    pod::Command,
    release::{Program, Release},
    tenant::{self, Tenant, TenantError},
    watch::FolderWatch,
};

impl Agent {
    /// Reads the tenants' folders, and what the cluster says. What is wrong leaves what was before in force.
    pub(super) fn read_tenants(&mut self) {
        let mut read = match tenant::read_all(&self.settings.tenants, &mut self.key_files) {
            Ok(read) => read,
            Err(error) => {
                self.note("tenants", Some(error.to_string()));
                self.enrol_namespaces(&Said::default(), false);
                return;
            }
        };
        self.note("tenants", None);
        self.tenant_problems.clear();
        let mut said = self.read_cluster();
        let in_folders: BTreeSet<String> = read.keys().cloned().collect();
        let members: Vec<(String, BTreeSet<String>)> =
            said.tenants.iter().map(|(name, tenant)| (name.clone(), tenant.namespaces.clone())).collect();
        add(&mut read, std::mem::take(&mut said.tenants));
        tenant::refuse_twins(&mut read, |name| self.shared.tenant(name).is_some());
        for (name, namespaces) in members {
            if let Some(Err(error)) = read.get(&name) {
                said.claim(&namespaces, &error.to_string());
            }
        }
        let mut all_read = said.is_complete;
        let names: BTreeSet<String> = read.keys().cloned().collect();
        for (name, read) in read {
            match read {
                Ok(tenant) => self.put_in_force(tenant),
                Err(error) => {
                    // The namespaces of the cluster's are known, and those of others are not to suffer.
                    all_read &= !in_folders.contains(&name);
                    self.tenant_problems.insert(name, error.to_string());
                }
            }
        }
        for (name, fault) in std::mem::take(&mut said.tenant_faults) {
            self.tenant_problems.entry(name).or_insert(fault);
        }
        self.shared.retain(|name| names.contains(name) || !said.is_complete);
        let faults: Vec<String> = self.tenant_problems.values().cloned().collect();
        self.note("tenant files", (!faults.is_empty()).then(|| faults.join("; ")));
        self.enrol_namespaces(&said, all_read);
        self.replace_old();
        self.acknowledge_keys();
    }

    /// Reads what the cluster says; without a cluster that is nothing, and all of it.
    fn read_cluster(&mut self) -> Said {
        let pods = &self.pods;
        let has_pods = |tenant: &str| pods.values().any(|entry| entry.record.tenant == tenant);
        let Some(cluster) = &mut self.cluster else {
            self.is_synced = true;
            return Said { is_complete: true, ..Said::default() };
        };
        let said = cluster.read(has_pods);
        self.is_synced |= said.is_complete;
        self.note("cluster", (!said.faults.is_empty()).then(|| said.faults.join("; ")));
        said
    }

    fn enrol_namespaces(&mut self, said: &Said, all_read: bool) {
        let open: BTreeSet<String> = self.settings.open.union(&said.open).cloned().collect();
        let fault = self.enrolment.set(&self.shared.tenants(), &said.claims, &open, all_read).err();
        self.note("list", fault);
        let conflicts: Vec<String> = self.enrolment.conflicts().collect();
        self.note("namespaces", (!conflicts.is_empty()).then(|| conflicts.join("; ")));
    }

    fn put_in_force(&mut self, tenant: Tenant) {
        let name = tenant.name().to_owned();
        let before = self.shared.tenant(&name);
        if before.as_ref().is_some_and(|before| before.marks.tenant != tenant.marks.tenant) {
            let reason = "tenant.key: is another tenant's than the one that is in force".to_owned();
            self.tenant_problems.insert(name, reason);
            return;
        }
        let has_changed = before.is_none_or(|before| *before != tenant);
        if has_changed {
            tracing::info!(tenant = name, "files are in force");
            self.shared.set(tenant);
        }
        let Some(now) = self.shared.tenant(&name) else { return };
        for entry in self.pods.values().filter(|entry| entry.record.tenant == name) {
            // What has not been told, since its keys could not be read at that moment, is said again.
            if has_changed || entry.handle.view.borrow().is_stale {
                // One that has ended hears nothing.
                let _ = entry.handle.commands.send(Command::Changed(Rc::clone(&now)));
            }
        }
    }

    /// The folders whose changes concern tenants.
    pub(super) fn tenant_folders(&self) -> BTreeSet<PathBuf> {
        let folder = &self.settings.tenants;
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let tenants = entries.filter(|path| path.is_dir()).take(tenant::MAX);
        let within = tenants.flat_map(|path| [path.join("certificates"), path]);
        let cluster = self.settings.kubernetes.iter().flat_map(|cluster| {
            let tenants = cluster.tenants_config_map.is_none().then(|| cluster.tenants.clone());
            tenants.into_iter().chain(cluster.pod.parent().map(PathBuf::from))
        });
        std::iter::once(folder.clone()).chain(within).chain(cluster).collect()
    }

    /// Watches the folders that there are now.
    pub(super) fn follow_tenants(&mut self, watches: &mut Watches) {
        let folders = self.tenant_folders();
        if folders == watches.tenant_folders {
            return;
        }
        // Without another watch the look each few seconds remains.
        match FolderWatch::of(&folders, LOOK) {
            Ok(watch) => {
                watches.tenants = watch;
                watches.tenant_folders = folders;
                self.note("watch", None);
            }
            Err(error) => self.note("watch", Some(format!("events of the tenants' folders: {error}"))),
        }
    }

    /// Returns the release that an adopted data path was started with, as far as it can be known: the files as they were are not there any more.
    pub(super) fn release_of(&mut self, running: &DataPath, tenant: &str) -> Option<Release> {
        let latest = self.shared.release(tenant)?;
        if latest.tag() == running.tag {
            return Some(latest);
        }
        // The program that it runs, under its name: what an upgrade goes back to.
        let path = running.process.executable().ok()?;
        let program = match self.programs.get(&path) {
            Some(program) => Rc::clone(program),
            None => {
                let program = Rc::new(Program::read(&path).ok()?);
                self.programs.insert(path, Rc::clone(&program));
                program
            }
        };
        Some(Release { program, tenant: latest.tenant })
    }
}

/// Adds the tenants of the cluster to those of the folders. A name that both have is refused.
fn add(read: &mut BTreeMap<String, Result<Tenant, TenantError>>, cluster: BTreeMap<String, Tenant>) {
    for (name, tenant) in cluster {
        let is_twice = read.contains_key(&name);
        let twice = || TenantError::Named(format!("tenant {name} has a folder and is one of the cluster's"));
        let tenant = if is_twice { Err(twice()) } else { Ok(tenant) };
        read.insert(name, tenant);
    }
}
