//! Network laboratory of tencrypt: namespaces, bridges, VXLAN, sniffer and DNS server for the demo and the end-to-end tests.
