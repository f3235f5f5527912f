//! Two pods of one tenant talk encrypted, on one bridge and across nodes.

mod support;

use support::Cluster;
use tencrypt_lab::test;

#[test]
fn the_probe_sees_what_is_not_encrypted() {
    test("the_probe_sees_what_is_not_encrypted", || {
        for cluster in [Cluster::on_one_node, Cluster::on_two_nodes] {
            let cluster = cluster();
            let service = cluster.service(10);
            let probe = cluster.probe_also(service);
            cluster.control(&probe, cluster.b.addresses().into_iter().chain(service));
        }
    });
}
