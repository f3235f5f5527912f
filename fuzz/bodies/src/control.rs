//! Messages of the program's control socket.

use tencrypt_agent::control::line::Line;

/// Reads the bytes as a request and as a reply. What is taken is written as what is taken again, and the same; what a client
/// says of a wrong reply is one line that a terminal does not obey.
pub fn control(data: &[u8]) {
    let line = read(data);
    if let Some(request) = &line.request {
        assert_eq!(read(request.as_bytes()).request.as_ref(), Some(request));
        assert!(line.reply.is_none(), "a request is no reply");
    }
    if let Some(reply) = &line.reply
        && reply.len() < 64 << 10
    {
        // Its end is a line's: what was cut off is none.
        assert_eq!(read(format!("{reply}\n").as_bytes()).reply.as_ref(), Some(reply));
    }
    let shown = line.failure.to_string();
    assert!(!shown.is_empty() && !shown.chars().any(char::is_control), "{shown:?}");
}

fn read(bytes: &[u8]) -> Line {
    Line::read(bytes).expect("the system has sockets")
}
