//! DNS interception for tencrypt: resolv.conf, sans-IO interceptor, UDP and TCP proxy.
