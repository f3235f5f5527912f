use tencrypt_lab as lab;
#[test]
fn builds() {
    lab::test("builds", || {
        let node = lab::Node::new("10.128.0.1/16".parse().unwrap(), "fd00:128::1/64".parse().unwrap()).unwrap();
        let node2 = lab::Node::new("10.128.2.1/16".parse().unwrap(), "fd00:128::2:1/64".parse().unwrap()).unwrap();
        lab::join(&node, &node2).unwrap();
        let a = node.pod("10.128.0.21".parse().unwrap(), "fd00:128::21".parse().unwrap(), 1450).unwrap();
        let b = node2.pod("10.128.2.22".parse().unwrap(), "fd00:128::2:22".parse().unwrap(), 1450).unwrap();
        node.service("172.30.0.10".parse().unwrap(), &[b.v4(), a.v4()], &lab::Ports::All).unwrap();
        node.service("fd00:30::10".parse().unwrap(), &[b.v6()], &lab::Ports::Only(vec![(80, 8080)])).unwrap();
        let sh = |ns: &lab::NetNs, s: &str| {
            let mut c = std::process::Command::new("sh"); c.args(["-c", s]);
            ns.spawn(c).unwrap().wait().unwrap();
        };
        sh(node.netns(), "id; ip a; nft list ruleset; ip -d link show vxlan0");
        sh(a.netns(), "ip a; ip r; ip -6 r; ping -c2 10.128.2.22; ping -c2 fd00:128::2:22; ping -c2 172.30.0.10; ping -c1 -W1 172.30.0.10");
    });
}
