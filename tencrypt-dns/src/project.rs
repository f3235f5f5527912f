//! The tenant that a pod belongs to, and what a name means to it.

use std::fmt;

use tencrypt::directory::Class;
use thiserror::Error;

use crate::Name;

/// A project: a namespace of one cluster, with the zones that hold its names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Project {
    namespace: String,
    cluster_domain: Name,
    services: Name,
    pods: Name,
}

/// Reason for which the search domains do not tell the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProjectError {
    /// No search domain has the form `<namespace>.svc.<cluster domain>`.
    #[error("no search domain of the form <namespace>.svc.<cluster domain>")]
    Absent,
    /// Several search domains have that form and differ.
    #[error("search domains name more than one project")]
    Ambiguous,
    /// Not the name of a Kubernetes namespace: 1 to 63 lower-case letters, digits and hyphens (RFC 1123).
    #[error("not the name of a namespace")]
    Namespace,
    /// The zones of the project would be longer than a domain name may be.
    #[error("cluster domain too long")]
    ClusterDomain,
}

impl Project {
    /// The project `namespace` of the cluster `cluster_domain` (`cluster.local` in most, never assumed here).
    ///
    /// # Errors
    /// [`ProjectError::Namespace`], [`ProjectError::ClusterDomain`].
    pub fn new(namespace: &str, cluster_domain: Name) -> Result<Self, ProjectError> {
        if !is_namespace(namespace.as_bytes()) {
            return Err(ProjectError::Namespace);
        }
        let zone = |kind: &str| {
            let labels = [namespace.as_bytes(), kind.as_bytes()];
            Name::from_labels(labels.into_iter().chain(cluster_domain.labels()))
                .map_err(|_| ProjectError::ClusterDomain)
        };
        Ok(Self {
            services: zone("svc")?,
            pods: zone("pod")?,
            namespace: namespace.to_owned(),
            cluster_domain,
        })
    }

    /// The project that search domains tell: the namespace part of `<namespace>.svc.<cluster domain>`, which kubelet
    /// puts first for pods with the policy `ClusterFirst`.
    ///
    /// # Errors
    /// [`ProjectError::Absent`], and [`ProjectError::Ambiguous`] where a pod also searches another project: its
    /// configuration must then name its own.
    pub fn from_search(search: &[Name]) -> Result<Self, ProjectError> {
        let mut found: Option<Self> = None;
        for (namespace, cluster_domain) in search.iter().filter_map(service_zone) {
            let project = Self::new(&namespace, cluster_domain)?;
            match &found {
                Some(first) if *first != project => return Err(ProjectError::Ambiguous),
                _ => found = Some(project),
            }
        }
        found.ok_or(ProjectError::Absent)
    }

    /// The project `namespace`, in the cluster domain that search domains tell.
    ///
    /// # Errors
    /// [`ProjectError::Namespace`], [`ProjectError::Absent`], and [`ProjectError::Ambiguous`] where the search domains
    /// are of more than one cluster and none is of `namespace`.
    pub fn named(namespace: &str, search: &[Name]) -> Result<Self, ProjectError> {
        let mut zones: Vec<_> = search.iter().filter_map(service_zone).collect();
        if zones.iter().any(|(found, _)| found == namespace) {
            zones.retain(|(found, _)| found == namespace);
        }
        let mut domains = zones.into_iter().map(|(_, domain)| domain);
        let domain = domains.next().ok_or(ProjectError::Absent)?;
        if domains.any(|other| other != domain) {
            return Err(ProjectError::Ambiguous);
        }
        Self::new(namespace, domain)
    }

    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The cluster domain.
    #[must_use]
    pub const fn cluster_domain(&self) -> &Name {
        &self.cluster_domain
    }

    /// Internal if `name` lies below `<namespace>.svc.<cluster domain>` or `<namespace>.pod.<cluster domain>`, external
    /// otherwise.
    #[must_use]
    pub fn class_of(&self, name: &Name) -> Class {
        if name.is_below(&self.services) || name.is_below(&self.pods) {
            Class::Internal
        } else {
            Class::External
        }
    }

    /// Tells if `zone` may hold names of the project.
    pub(crate) fn has_names_in(&self, zone: &Name) -> bool {
        let holds = |own: &Name| own == zone || own.is_below(zone) || zone.is_below(own);
        holds(&self.services) || holds(&self.pods)
    }
}

impl fmt::Display for Project {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.namespace, self.cluster_domain)
    }
}

/// `(namespace, cluster domain)` of a search domain `<namespace>.svc.<cluster domain>`; the cluster domain has at least
/// one label.
fn service_zone(domain: &Name) -> Option<(String, Name)> {
    let mut labels = domain.labels();
    let namespace = labels.next().filter(|label| is_namespace(label))?;
    let kind = labels.next()?;
    labels.next()?;
    let namespace = String::from_utf8(namespace.to_vec()).ok()?;
    (kind == b"svc").then_some(())?;
    Some((namespace, domain.parent(2)?))
}

fn is_namespace(label: &[u8]) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=Name::MAX_LABEL).contains(&label.len())
        && label.iter().all(|byte| is_word(byte) || *byte == b'-')
        && label.first().is_some_and(is_word)
        && label.last().is_some_and(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| Name::from_text(text).unwrap()).collect()
    }

    fn shop() -> Project {
        Project::from_search(&names(&["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"]))
            .unwrap()
    }

    fn class(project: &Project, text: &str) -> Class {
        project.class_of(&Name::from_text(text).unwrap())
    }

    #[test]
    fn the_project_is_read_from_the_search_domains() {
        let project = shop();
        assert_eq!(project.namespace(), "shop");
        assert_eq!(project.cluster_domain().to_string(), "cluster.local");
        let more = [
            "corp.example",
            "Shop-2.svc.k8s.corp.example",
            "svc.k8s.corp.example",
            "a.b",
            "c.d",
            "e.f",
            "g.h",
        ];
        let project = Project::from_search(&names(&more)).unwrap();
        assert_eq!(
            (project.namespace(), project.cluster_domain().to_string().as_str()),
            ("shop-2", "k8s.corp.example")
        );
    }

    #[test]
    fn search_domains_without_or_with_two_projects_are_errors() {
        let none = [
            "svc.cluster.local",
            "cluster.local",
            "shop.svc",
            "svc",
            "web.shop.svc.cluster.local",
            "-x.svc.a.b",
        ];
        assert_eq!(Project::from_search(&names(&none)), Err(ProjectError::Absent));
        assert_eq!(Project::from_search(&[]), Err(ProjectError::Absent));
        let two = names(&["shop.svc.cluster.local", "other.svc.cluster.local"]);
        assert_eq!(Project::from_search(&two), Err(ProjectError::Ambiguous));
        assert_eq!(Project::named("shop", &two).unwrap(), shop());
        assert_eq!(Project::named("third", &two).unwrap().namespace(), "third");
        let clusters = names(&["shop.svc.one.local", "other.svc.two.local"]);
        assert_eq!(Project::named("third", &clusters), Err(ProjectError::Ambiguous));
        assert_eq!(Project::named("other", &clusters).unwrap().cluster_domain().to_string(), "two.local");
        assert_eq!(Project::named("Shop", &two), Err(ProjectError::Namespace));
        assert!(Project::from_search(&names(&["shop.svc.cluster.local", "SHOP.svc.cluster.local."])).is_ok());
    }

    #[test]
    fn d07_name_traps_are_external() {
        let project = shop();
        for internal in [
            "web.shop.svc.cluster.local",
            "10-244-1-5.shop.pod.cluster.local",
            "0.WEB.Shop.SVC.cluster.LOCAL.",
        ] {
            assert_eq!(class(&project, internal), Class::Internal, "{internal}");
        }
        for external in [
            "web.evilshop.svc.cluster.local",
            "web.shop.svc.cluster.local.evil.com",
            "web.shop.svc.cluster.local.shop.svc",
            "web.shop.svc.other.local",
            "web.shop.svc.evil.cluster.local",
            "shop.svc.cluster.local",
            "web.shop.xpod.cluster.local",
            "web.other.svc.cluster.local",
            "example.com.svc.cluster.local",
            "local",
            ".",
        ] {
            assert_eq!(class(&project, external), Class::External, "{external}");
        }
        // Search expansion with ndots:5 asks for `example.com.shop.svc.cluster.local`: within the tenant's own zone.
        assert_eq!(class(&project, "example.com.shop.svc.cluster.local"), Class::Internal);
        let dotted = Name::from_labels(["web.shop", "svc", "cluster", "local"]).unwrap();
        assert_eq!(project.class_of(&dotted), Class::External);
    }
}
