//! DNS messages for tests, written out byte by byte and independent of the crate's own reading and writing.

pub(crate) const A: u16 = 1;
pub(crate) const CNAME: u16 = 5;
pub(crate) const PTR: u16 = 12;
pub(crate) const TXT: u16 = 16;
pub(crate) const AAAA: u16 = 28;
pub(crate) const SRV: u16 = 33;
pub(crate) const OPT: u16 = 41;
pub(crate) const ANY: u16 = 255;

/// `name` in wire form, uncompressed, its letters as they are.
pub(crate) fn name(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut wire: Vec<u8> =
        labels.flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat()).collect();
    wire.push(0);
    wire
}

/// A query with RD and one question of class IN.
pub(crate) fn query(id: u16, asked: &str, record_type: u16) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend(name(asked));
    message.extend(record_type.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// A record of class IN.
pub(crate) fn record(owner: &str, record_type: u16, ttl: u32, data: &[u8]) -> Vec<u8> {
    let mut record = name(owner);
    record.extend(record_type.to_be_bytes());
    record.extend([0, 1]);
    record.extend(ttl.to_be_bytes());
    record.extend((data.len() as u16).to_be_bytes());
    record.extend(data);
    record
}

/// An address record of the type that fits.
pub(crate) fn address(owner: &str, ttl: u32, address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        std::net::IpAddr::V4(v4) => record(owner, A, ttl, &v4.octets()),
        std::net::IpAddr::V6(v6) => record(owner, AAAA, ttl, &v6.octets()),
    }
}

/// A CNAME record.
pub(crate) fn alias(owner: &str, ttl: u32, target: &str) -> Vec<u8> {
    record(owner, CNAME, ttl, &name(target))
}

/// An OPT record that offers `size` bytes, with `options`.
pub(crate) fn opt(size: u16, options: &[u8]) -> Vec<u8> {
    let mut record = vec![0];
    record.extend(OPT.to_be_bytes());
    record.extend(size.to_be_bytes());
    record.extend([0, 0, 0x80, 0]);
    record.extend((options.len() as u16).to_be_bytes());
    record.extend(options);
    record
}

/// The reply to `query` with these sections: QR, RD, RA, and `code`.
pub(crate) fn reply_with(
    query: &[u8],
    code: u8,
    answers: &[Vec<u8>],
    authority: &[Vec<u8>],
    additional: &[Vec<u8>],
) -> Vec<u8> {
    let mut message = query.to_vec();
    message[2] = 0x81 | (query[2] & 0x78);
    message[3] = 0x80 | code;
    for (at, section) in [(6, answers), (8, authority), (10, additional)] {
        message[at..at + 2].copy_from_slice(&(section.len() as u16).to_be_bytes());
        message.extend(section.concat());
    }
    message
}

/// The reply to `query` with these answers.
pub(crate) fn reply(query: &[u8], answers: &[Vec<u8>]) -> Vec<u8> {
    reply_with(query, 0, answers, &[], &[])
}
