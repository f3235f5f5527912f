//! Several records in a system call.

use super::*;

/// Makes record `index` of a train recognisable.
fn fill(record: &mut [u8], index: usize) {
    for (at, byte) in record.iter_mut().enumerate() {
        *byte = (index * 31 + at) as u8;
    }
}

/// Commits the whole of `want`, as the core does; how many times it had to ask.
fn commit(transport: &mut UdpTransport, mut want: Train) -> usize {
    let (mut asked, mut index) = (0, 0);
    while want.count > 0 {
        let mut slot = transport.reserve(want).expect("a flushed buffer has room");
        let records = slot.records();
        let stride = usize::from(if want.count == 1 { want.last } else { want.stride });
        for record in slot.buffer().chunks_mut(stride) {
            fill(record, index);
            index += 1;
        }
        let len = slot.buffer().len();
        slot.commit(records, len);
        want.count -= records;
        asked += 1;
    }
    asked
}

/// Receives `count` records and checks each against what [`commit`] wrote.
fn expect(transport: &mut UdpTransport, want: Train) {
    let mut buf = vec![0; 65_535];
    let mut expected = vec![0; usize::from(want.stride)];
    let mut index = 0;
    while index < usize::from(want.count) {
        let (meta, len) = receive(transport, &mut buf);
        for record in buf[..len].chunks(usize::from(meta.stride)) {
            let last = index + 1 == usize::from(want.count);
            let expected = &mut expected[..usize::from(if last { want.last } else { want.stride })];
            fill(expected, index);
            assert!(record == expected, "record {index} of {want:?}");
            index += 1;
        }
        assert_eq!(meta.ecn, want.ecn);
    }
    assert!(transport.recv(&mut buf).unwrap().is_none());
}

fn full_train(to: SocketAddr) -> Train {
    let stride = if to.is_ipv4() { 1_472 } else { 1_452 };
    Train { to, stride, count: 44, last: stride, ecn: 1 }
}

#[test]
fn a_full_train_is_one_call_at_either_end() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        assert!(here.offload().send && there.offload().receive, "the kernel has had both since 5.0");
        let want = full_train(SocketAddr::new(address, there.port()));
        assert_eq!(commit(&mut here, want), 1);
        assert_eq!(here.stats().send_calls, 0);
        here.flush();
        assert_eq!((here.stats().send_calls, here.stats().sent_records), (1, 44));
        expect(&mut there, want);
        let stats = there.stats();
        assert_eq!((stats.receive_calls, stats.received_trains, stats.received_records), (1, 1, 44));
        assert_eq!((here.stats().gso_refused, here.stats().unsent, stats.truncated), (0, 0, 0));
    }
}

#[test]
fn the_stride_arrives_with_the_train() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[0], there.port());
    commit(&mut here, Train { to, stride: 1_000, count: 7, last: 3, ecn: 0 });
    here.flush();
    let (meta, len) = receive(&mut there, &mut vec![0; 65_535]);
    assert_eq!((meta.stride, len, meta.from.port()), (1_000, 6_003, here.port()));
}

#[test]
fn a_train_of_more_than_a_datagram_is_sent_on_the_way() {
    let (mut here, mut there) = (transport(), transport());
    let to = SocketAddr::new(LOOPBACKS[0], there.port());
    let want = Train { to, stride: 1_400, count: 200, last: 900, ecn: 0 };
    // 46 fit a datagram and two of those the buffer.
    assert_eq!(commit(&mut here, want), 5);
    assert_eq!((here.stats().send_calls, here.stats().sent_records), (2, 184));
    here.flush();
    assert_eq!((here.stats().send_calls, here.stats().sent_records), (3, 200));
    expect(&mut there, want);
    assert_eq!(there.stats().receive_calls, 5);
}

#[test]
fn trains_to_many_destinations_leave_in_one_call_and_keep_their_order() {
    for address in LOOPBACKS {
        let mut here = transport();
        let mut there: Vec<_> = std::iter::repeat_with(transport).take(5).collect();
        for round in 0..3 {
            for (index, peer) in there.iter().enumerate() {
                let to = SocketAddr::new(address, peer.port());
                let stride = 100 + index as u16;
                commit(&mut here, Train { to, stride, count: 10, last: 50 + round, ecn: 0 });
            }
        }
        here.flush();
        assert_eq!((here.stats().send_calls, here.stats().sent_records), (1, 150));
        for (index, peer) in there.iter_mut().enumerate() {
            for round in 0..3 {
                let (meta, len) = receive(peer, &mut vec![0; 65_535]);
                assert_eq!((usize::from(meta.stride), len), (100 + index, 9 * (100 + index) + 50 + round));
            }
        }
    }
}

#[test]
fn the_families_take_turns_in_one_flush() {
    let (mut here, mut there) = (transport(), transport());
    for round in 0..3_u8 {
        for address in LOOPBACKS {
            queue(&mut here, SocketAddr::new(address, there.port()), &[round; 20], 0);
            queue(&mut here, SocketAddr::new(address, there.port()), &[round; 30], 0);
        }
    }
    here.flush();
    assert_eq!((here.stats().send_calls, here.stats().sent_records), (6, 12));
    let mut buf = [0; 64];
    for family in [Family::V4, Family::V6] {
        for round in 0..3 {
            for len in [20, 30] {
                let received = eventually(|| there.recv_from_family(family, &mut buf).unwrap());
                assert_eq!((received.1, buf[0]), (len, round));
                assert_eq!(received.0.from.is_ipv4(), family == Family::V4);
            }
        }
        assert!(there.recv_from_family(family, &mut buf).unwrap().is_none());
    }
}

#[test]
fn a_family_asked_alone_costs_the_other_no_call() {
    let (mut here, mut there) = (transport(), transport());
    here.send(SocketAddr::new(LOOPBACKS[1], there.port()), b"six", 0);
    assert!(there.recv_from_family(Family::V4, &mut [0; 9]).unwrap().is_none());
    assert_eq!((there.stats().receive_calls, there.stats().receive_empty), (0, 1));
    let (_, len) = eventually(|| there.recv_from_family(Family::V6, &mut [0; 9]).unwrap());
    assert_eq!((len, there.stats().receive_calls), (3, 1));
}

#[test]
fn without_offload_every_record_is_a_call() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        here.set_offload(false);
        there.set_offload(false);
        let off = here.offload();
        assert!(!off.send && !off.receive);
        let want = full_train(SocketAddr::new(address, there.port()));
        assert_eq!(commit(&mut here, want), 44);
        here.flush();
        assert_eq!((here.stats().send_calls, here.stats().sent_records), (44, 44));
        expect(&mut there, want);
        assert_eq!((there.stats().receive_calls, there.stats().received_trains), (44, 0));
        // And on again.
        here.set_offload(true);
        there.set_offload(true);
        commit(&mut here, want);
        here.flush();
        expect(&mut there, want);
        assert_eq!((here.stats().send_calls, there.stats().receive_calls), (45, 45));
    }
}

#[test]
fn a_receiver_without_offload_gets_the_records_apart() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        there.set_offload(false);
        let want = full_train(SocketAddr::new(address, there.port()));
        commit(&mut here, want);
        here.flush();
        expect(&mut there, want);
        assert_eq!((here.stats().send_calls, there.stats().receive_calls), (1, 44));
    }
}

#[test]
fn switching_offload_sends_what_waits() {
    let (mut here, mut there) = (transport(), transport());
    queue(&mut here, SocketAddr::new(LOOPBACKS[0], there.port()), b"waits", 0);
    here.set_offload(false);
    assert_eq!(receive(&mut there, &mut [0; 9]).1, 5);
}

#[test]
fn a_train_longer_than_the_receive_buffer_is_dropped_and_counted() {
    let (mut here, mut there) = (transport(), transport());
    let want = full_train(SocketAddr::new(LOOPBACKS[0], there.port()));
    commit(&mut here, want);
    here.flush();
    here.send(want.to, b"next", 0);
    assert_eq!(receive(&mut there, &mut vec![0; 64_767]).1, 4);
    assert_eq!((there.stats().truncated, there.stats().received_records), (1, 1));
}

#[test]
fn a_message_that_fails_stops_none_behind_it() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        let to = SocketAddr::new(address, there.port());
        // No datagram goes to port 0: EINVAL, which for a train may also mean that trains are not taken.
        let nowhere = SocketAddr::new(address, 0);
        for (index, to) in [to, nowhere, to, nowhere, nowhere, to].into_iter().enumerate() {
            commit(&mut here, Train { to, stride: 100 + index as u16, count: 3, last: 40, ecn: 0 });
        }
        here.flush();
        for index in [0, 2, 5] {
            let (meta, len) = receive(&mut there, &mut [0; 1_000]);
            assert_eq!((meta.stride, len), (100 + index, 2 * usize::from(100 + index) + 40));
        }
        assert_eq!((here.stats().unsent, here.stats().sent_records), (9, 9));
        // The destination's other port still gets trains whole.
        let calls = here.stats().send_calls;
        commit(&mut here, full_train(to));
        here.flush();
        assert_eq!(here.stats().send_calls, calls + 1);
    }
}

#[test]
fn a_refused_port_disturbs_no_train() {
    for address in LOOPBACKS {
        let (mut here, mut there) = (transport(), transport());
        let (_holder, refused) = refusing(address);
        let want = full_train(SocketAddr::new(address, there.port()));
        for _ in 0..3 {
            commit(&mut here, Train { to: refused, ..want });
            commit(&mut here, want);
            here.flush();
            here.drain_path_errors();
            expect(&mut there, want);
        }
        let error = path_error(&mut here);
        assert_eq!((error.to, error.kind), (refused, PathErrorKind::Unreachable));
        assert_eq!((here.stats().unsent, here.stats().gso_refused), (0, 0));
    }
}
