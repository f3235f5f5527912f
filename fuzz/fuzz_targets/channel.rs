#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| tencrypt_fuzz_bodies::channel(data));
