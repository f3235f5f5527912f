//! The result of the plugins before, as far as this one looks into it: CNI SPEC section 5 "ADD Success".

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::failure::Failure;

/// The keys that are looked at. The others are not: they may hold whatever they hold.
#[derive(Deserialize)]
struct Previous {
    #[serde(default)]
    interfaces: Value,
    #[serde(default)]
    ips: Value,
}

/// The addresses that the pod was given: all but those that a result says are of an interface of the node. `interface` is the
/// pod's, `CNI_IFNAME`.
pub(crate) fn addresses(result: &str, interface: &str) -> Result<Vec<IpAddr>, Failure> {
    let unreadable = |reason: &str| Failure::Decode { reason: format!("`prevResult`: {reason}") };
    // serde would take an array for the keys in their order.
    if !result.starts_with('{') {
        return Err(unreadable("no JSON object"));
    }
    let result: Previous = serde_json::from_str(result).map_err(|error| unreadable(&error.to_string()))?;
    let interfaces = list("interfaces", &result.interfaces)?;
    let mut addresses = Vec::new();
    for ip in list("ips", &result.ips)? {
        if is_the_pods(ip, interfaces, interface)? {
            let address = ip.get("address").and_then(Value::as_str).and_then(address);
            addresses.push(address.ok_or_else(|| malformed("ips"))?);
        }
    }
    Ok(addresses)
}

/// Go writes an empty list as null, or not at all.
fn list<'r>(key: &str, value: &'r Value) -> Result<&'r [Value], Failure> {
    match value {
        Value::Null => Ok(&[]),
        Value::Array(values) => Ok(values),
        _ => Err(malformed(key)),
    }
}

/// Tells if an address is the pod's: it names no interface, or one that is in a sandbox or has the name of the pod's.
fn is_the_pods(ip: &Value, interfaces: &[Value], name: &str) -> Result<bool, Failure> {
    let index = match ip.get("interface") {
        None | Some(Value::Null) => return Ok(true),
        Some(index) => index.as_u64().and_then(|index| usize::try_from(index).ok()),
    };
    let interface = index.and_then(|index| interfaces.get(index)).ok_or_else(|| malformed("ips"))?;
    let text = |key| interface.get(key).and_then(Value::as_str).unwrap_or_default();
    Ok(!text("sandbox").is_empty() || text("name") == name)
}

/// An address with its prefix length.
fn address(text: &str) -> Option<IpAddr> {
    let (address, length) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (length.parse::<u8>().ok()? <= longest).then_some(address)
}

fn malformed(key: &str) -> Failure {
    Failure::Config { reason: format!("`prevResult.{key}` is malformed") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: &str = r#"{"cniVersion":"1.0.0",
        "interfaces":[{"name":"cni0","mac":"00:11:22:33:44:55"},{"name":"veth3243"},
                      {"name":"eth0","sandbox":"/var/run/netns/blue"}],
        "ips":[{"address":"10.1.0.5/16","gateway":"10.1.0.1","interface":2},{"version":"6","address":"fd00::5/64","interface":2},
               {"address":"192.0.2.1/32","interface":0}],
        "routes":[{"dst":"0.0.0.0/0"}],"dns":{}}"#;

    fn found(result: &str) -> Vec<String> {
        addresses(result, "eth0").unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_pods_addresses_are_found_and_not_the_nodes() {
        assert_eq!(found(BRIDGE), ["10.1.0.5", "fd00::5"]);
        assert_eq!(
            found(r#"{"ips":[{"address":"10.1.0.5/32"},{"address":"10.1.0.6/32","interface":null}]}"#),
            ["10.1.0.5", "10.1.0.6"]
        );
        assert_eq!(
            found(r#"{"interfaces":[{"name":"eth0"}],"ips":[{"address":"10.1.0.5/32","interface":0}]}"#),
            ["10.1.0.5"]
        );
        let deep = format!("{{\"x\":{}1e400{}}}", "[".repeat(9_000), "]".repeat(9_000));
        for empty in [&*deep, "{}", r#"{"ips":null,"interfaces":null}"#, r#"{"ips":[]}"#] {
            assert_eq!(found(empty), [""; 0]);
        }
    }

    #[test]
    fn a_result_of_another_shape_is_refused() {
        let code = |result: &str| addresses(result, "eth0").unwrap_err().code();
        let deep = format!("{{\"ips\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for result in ["[]", "1", "\"{}\"", "{", r#"{"ips":[],"ips":[]}"#, &deep] {
            assert_eq!(code(result), 6, "{result}");
        }
        for ips in [
            "{}",
            "1",
            "[1]",
            "[{}]",
            r#"[{"address":1}]"#,
            r#"[{"address":"10.1.0.5"}]"#,
            r#"[{"address":"10.1.0.5/33"}]"#,
            r#"[{"address":"fd00::5/129"}]"#,
            r#"[{"address":"a/1"}]"#,
            r#"[{"address":"10.1.0.5/16","interface":0}]"#,
            r#"[{"address":"10.1.0.5/16","interface":-1}]"#,
            r#"[{"address":"10.1.0.5/16","interface":"0"}]"#,
        ] {
            assert_eq!(code(&format!("{{\"ips\":{ips}}}")), 7, "{ips}");
        }
        assert_eq!(code(r#"{"interfaces":{}}"#), 7);
    }
}
