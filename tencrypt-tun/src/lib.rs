//! Linux adapter of tencrypt: TUN device, network namespaces, routes, nftables enforcement, raw sockets.
