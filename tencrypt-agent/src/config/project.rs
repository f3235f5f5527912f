//! The pod's project: from the configuration, and from the search domains of resolv.conf where that leaves it open.

use tencrypt_dns::{Name, Project, ProjectError};

use super::Tenant;

/// A project that neither the configuration nor the search domains tell.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoProject {
    /// No search domain tells what the configuration leaves open.
    #[error("no search domain of the form <namespace>.svc.{}; set {missing} in [tenant]", known(.domain.as_ref()))]
    Absent {
        /// The cluster domain, if the configuration names it.
        domain: Option<Name>,
        /// The settings that are left open.
        missing: &'static str,
    },
    /// The search domains tell several projects, or cannot be used.
    #[error("{source}; set {missing} in [tenant]")]
    Search {
        /// The fault of the search domains.
        source: ProjectError,
        /// The settings that are left open.
        missing: &'static str,
    },
    /// The configuration alone tells the project, and it is none.
    #[error("`project` and `cluster_domain` in [tenant]: {0}")]
    Configured(ProjectError),
}

fn known(domain: Option<&Name>) -> String {
    domain.map_or_else(|| "<cluster domain>".to_owned(), Name::to_string)
}

impl Tenant {
    /// Finds the pod's project. What the configuration names counts; the rest is taken from the search domains, where a
    /// configured cluster domain leaves only its own to be looked at.
    ///
    /// # Errors
    /// See [`NoProject`].
    pub(crate) fn project_among(&self, search: &[Name]) -> Result<Project, NoProject> {
        let domain = self.cluster_domain.clone();
        let (found, missing) = match (&self.project, &domain) {
            (Some(name), Some(domain)) => {
                return Project::new(name, domain.clone()).map_err(NoProject::Configured);
            }
            (Some(name), None) => (Project::named(name, search), "`cluster_domain`"),
            (None, Some(domain)) => (Project::from_search(&of_cluster(search, domain)), "`project`"),
            (None, None) => (Project::from_search(search), "`project` and `cluster_domain`"),
        };
        found.map_err(|source| match source {
            ProjectError::Absent => NoProject::Absent { domain, missing },
            source => NoProject::Search { source, missing },
        })
    }
}

/// The search domains `<namespace>.svc.<domain>`.
fn of_cluster(search: &[Name], domain: &Name) -> Vec<Name> {
    let is_of_it = |name: &&Name| {
        Project::from_search(std::slice::from_ref(*name))
            .is_ok_and(|project| project.cluster_domain() == domain)
    };
    search.iter().filter(is_of_it).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBELET: [&str; 3] = ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local"];
    const TWO: [&str; 2] = ["shop.svc.cluster.local", "web.svc.corp.example"];

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn found(project: Option<&str>, domain: Option<&str>, search: &[&str]) -> Result<String, String> {
        let tenant = Tenant {
            project: project.map(str::to_owned),
            cluster_domain: domain.map(name),
            suite: tencrypt::CipherSuite::default(),
        };
        let search: Vec<Name> = search.iter().map(|text| name(text)).collect();
        match tenant.project_among(&search) {
            Ok(project) => Ok(project.to_string()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn settings_count_and_search_domains_tell_the_rest() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(found(Some("shop"), Some("cluster.local"), &[]), ok("shop (cluster.local)"));
        assert_eq!(found(Some("shop"), Some("corp.example"), &KUBELET), ok("shop (corp.example)"));
        assert_eq!(found(Some("other"), None, &KUBELET), ok("other (cluster.local)"));
        assert_eq!(found(None, Some("cluster.local"), &KUBELET), ok("shop (cluster.local)"));
        assert_eq!(found(None, Some("corp.example"), &TWO), ok("web (corp.example)"));
        assert_eq!(found(None, None, &KUBELET), ok("shop (cluster.local)"));
    }

    #[test]
    fn a_setting_that_is_missing_is_named() {
        let refused = |project, domain, search: &[&str]| found(project, domain, search).unwrap_err();
        let form = "no search domain of the form <namespace>.svc.";
        assert_eq!(
            refused(Some("shop"), None, &["corp.example"]),
            format!("{form}<cluster domain>; set `cluster_domain` in [tenant]")
        );
        assert_eq!(
            refused(None, Some("cluster.local"), &["web.svc.corp.example"]),
            format!("{form}cluster.local; set `project` in [tenant]")
        );
        assert_eq!(
            refused(None, None, &[]),
            format!("{form}<cluster domain>; set `project` and `cluster_domain` in [tenant]")
        );
        assert!(
            refused(None, None, &TWO).starts_with("search domains name more than one project; set `project`")
        );
    }
}
