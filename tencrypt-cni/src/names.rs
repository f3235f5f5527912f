//! Names as CNI and Kubernetes allow them.

/// Longest name of a network or a container in bytes. Runtimes make file names of them: NAME_MAX (include/uapi/linux/limits.h).
const LONGEST: usize = 255;

/// Longest name of an interface in bytes: IFNAMSIZ without its end (include/uapi/linux/if.h).
const LONGEST_INTERFACE: usize = 15;

/// Tells if `name` may be a network's or a container's: a letter or digit of ASCII, then these and `_`, `.`, `-` (CNI SPEC
/// section 1 `name`, section 2 `CNI_CONTAINERID`).
pub(crate) fn is_cni_name(name: &str) -> bool {
    name.len() <= LONGEST && is_word(name)
}

/// Tells if `name` may be an interface's: `dev_valid_name` of net/core/dev.c, and no control characters.
pub(crate) fn is_interface(name: &str) -> bool {
    let is_refused = |letter: char| "/:".contains(letter) || letter.is_whitespace() || letter.is_control();
    (1..=LONGEST_INTERFACE).contains(&name.len()) && name != "." && name != ".." && !name.contains(is_refused)
}

/// Tells if `name` may be a Kubernetes namespace's: a label of RFC 1123 section 2.1, in lower case.
pub(crate) fn is_namespace(name: &str) -> bool {
    let is_inside = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    (1..=63).contains(&name.len())
        && name.chars().all(is_inside)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Tells if `name` may be a pod's, or its uid. Kubernetes wants a name of RFC 1123 there; podman hands over the container's name,
/// which may have capital letters and `_`.
pub(crate) fn is_pod(name: &str) -> bool {
    name.len() <= 253 && is_word(name)
}

fn is_word(name: &str) -> bool {
    let is_inside = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.chars().all(is_inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_networks_and_containers_are_those_of_the_specification() {
        for name in ["a", "0", "k8s-pod-network", "A_b.c-", &"a".repeat(255)] {
            assert!(is_cni_name(name), "{name}");
        }
        for name in ["", "-a", ".a", "_", "a/b", "a b", "a\n", "ä", "..", &"a".repeat(256)] {
            assert!(!is_cni_name(name), "{name}");
        }
    }

    #[test]
    fn interfaces_are_those_of_the_kernel() {
        for name in ["eth0", "a.b", "-", "0", "123456789012345", "ä"] {
            assert!(is_interface(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\u{1}", "1234567890123456"] {
            assert!(!is_interface(name), "{name}");
        }
    }

    #[test]
    fn namespaces_are_labels_and_pods_may_be_podmans() {
        for name in ["shop", "a", "0-a", &"a".repeat(63)] {
            assert!(is_namespace(name) && is_pod(name), "{name}");
        }
        for name in ["", "-", "a-", "-a", "a.b", "Shop", "a_b", "a\n", &"a".repeat(64)] {
            assert!(!is_namespace(name), "{name}");
        }
        assert!(
            is_pod("Web_1.a") && !is_pod("") && !is_pod("-") && !is_pod("a;b") && !is_pod(&"a".repeat(254))
        );
    }
}
