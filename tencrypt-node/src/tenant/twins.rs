//! Tenants that have keys in common.

use std::collections::BTreeMap;

use super::{Tenant, TenantError, files::KeyMarks};

/// Refuses tenants that have a key in common: the pods of the one would be given the other's. One that `is_in_force` already stays, if
/// the other is not.
pub(crate) fn refuse_twins(
    tenants: &mut BTreeMap<String, Result<Tenant, TenantError>>,
    is_in_force: impl Fn(&str) -> bool,
) {
    let good: Vec<(&str, &KeyMarks)> =
        tenants.iter().filter_map(|(name, tenant)| Some((&**name, &tenant.as_ref().ok()?.marks))).collect();
    for (name, reason) in twins(&good, is_in_force) {
        tenants.insert(name, Err(TenantError::Named(reason)));
    }
}

/// The tenants that are refused for having another's keys, with the reason.
fn twins(good: &[(&str, &KeyMarks)], is_in_force: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let mut refused: BTreeMap<String, String> = BTreeMap::new();
    for (place, (name, marks)) in good.iter().enumerate() {
        for (other, _) in good.iter().skip(place + 1).filter(|(_, others)| marks.has_key_of(others)) {
            let stay = (is_in_force(name), is_in_force(other));
            let reason = format!("tenant.key: the tenants {name}, {other} have the same keys");
            if stay != (false, true) {
                refused.insert((*other).to_owned(), reason.clone());
            }
            if stay != (true, false) {
                refused.insert((*name).to_owned(), reason);
            }
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use tencrypt::KeyRing;

    use super::*;

    fn marks(tenant: u8, epochs: &[(u8, u8)]) -> KeyMarks {
        let roots: Vec<(u8, [u8; 32])> = epochs
            .iter()
            .map(|(number, first)| (*number, std::array::from_fn(|at| first ^ at as u8)))
            .collect();
        let given = roots.iter().map(|(number, root)| (*number, root));
        let ring = KeyRing::new([tenant; 16], given, epochs[0].0).unwrap();
        KeyMarks::of(&[tenant], &ring)
    }

    #[test]
    fn tenants_with_a_key_in_common_are_refused_but_for_the_one_that_was_there() {
        let (own, older) = (marks(1, &[(2, 20), (1, 10)]), marks(1, &[(1, 10)]));
        let (forged, other) = (marks(1, &[(2, 99)]), marks(2, &[(2, 20)]));
        let refused = |second: &KeyMarks, in_force: &[&str]| -> Vec<String> {
            let good = [("bank", &own), ("evil", second)];
            twins(&good, |name| in_force.contains(&name)).into_keys().collect()
        };
        assert_eq!(refused(&older, &[]), ["bank", "evil"]);
        assert_eq!(refused(&older, &["bank"]), ["evil"]);
        assert_eq!(refused(&older, &["bank", "evil"]), ["bank", "evil"]);
        // Who knows the id of a tenant and none of its keys is in nobody's way.
        assert_eq!(refused(&forged, &[]), [""; 0]);
        assert_eq!(refused(&other, &[]), [""; 0]);
    }
}
