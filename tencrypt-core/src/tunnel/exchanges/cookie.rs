//! Cookies of others, for messages of this side that they did not want to work on.

use std::time::{Duration, Instant};

use crate::{
    crypto::{CipherSuite, KeyRing},
    handshake::{self, CookieBytes},
    record,
    stats::DropReason,
    tunnel::limits::REPEAT_INTERVAL,
};

/// Takes a cookie for `message` at `now`, not too soon after the one `before`, since each costs a repetition, and makes mac2
/// with it.
pub(in crate::tunnel) fn repeat_with_cookie(
    message: &mut [u8],
    before: &mut Option<(CookieBytes, Instant)>,
    cookie: &record::Cookie<'_>,
    (keys, suite, now): (&KeyRing, CipherSuite, Instant),
) -> Result<(), DropReason> {
    let waited = |(_, taken): (CookieBytes, Instant)| -> Duration { now.saturating_duration_since(taken) };
    if before.is_some_and(|before| waited(before) < REPEAT_INTERVAL) {
        return Err(DropReason::RateLimited);
    }
    let read = handshake::read_cookie(keys, suite, message, cookie)?;
    *before = Some((read, now));
    handshake::set_mac2(message, &read);
    Ok(())
}
