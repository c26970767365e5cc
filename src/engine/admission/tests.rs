//! The door, without an engine.

use super::*;

fn request(id: &str, tokens: usize, n: u32) -> NewRequest {
    let prompt = vec![1; tokens].into();
    NewRequest { request_id: id.into(), prompt, n, ..NewRequest::default() }
}

fn of_tenant(tenant: &str, id: &str, tokens: usize) -> NewRequest {
    NewRequest { tenant: tenant.into(), ..request(id, tokens, 1) }
}

fn admission(max_queued: u32, max_queued_tokens: u64) -> Admission {
    Admission::new(QueueLimits::new(max_queued, max_queued_tokens), 1000)
}

/// The error, or whether it is the tenant's bound and how many sequences are to go.
fn refusal(door: &Admission, request: &NewRequest) -> (bool, f64) {
    match door.enter(request, 1, Instant::now()) {
        Err(Refusal::NoRoom { quota, ahead }) => (quota, ahead.sequences),
        other => panic!("{other:?}"),
    }
}

fn enter(door: &Admission, request: &NewRequest) -> Arc<Ticket> {
    door.enter(request, 1, Instant::now()).unwrap()
}

fn queued(door: &Admission) -> (u64, u64) {
    (door.taken().queued, door.taken().queued_tokens)
}

#[test]
fn counts_sequences_and_tokens_until_they_leave() {
    let door = admission(4, 100);
    let first = enter(&door, &request("a", 10, 3));
    assert_eq!(queued(&door), (3, 10));
    assert_eq!(refusal(&door, &request("b", 10, 2)), (false, 1.0));
    door.leave_queue(&first, 1);
    assert_eq!(queued(&door), (2, 10));
    door.leave_queue(&first, 0);
    assert_eq!(queued(&door), (1, 0));
    let second = enter(&door, &request("b", 10, 2));
    assert_eq!((first.first, second.first, door.num_requests()), (0, 3, 2));
}

#[test]
fn refuses_by_tokens_but_never_a_lone_request() {
    covers!("API-40");
    let door = admission(10, 100);
    let large = enter(&door, &request("large", 500, 1));
    refusal(&door, &request("small", 1, 1));
    door.leave_queue(&large, 0);
    enter(&door, &request("small", 1, 1));
}

#[test]
fn an_id_is_unique_while_in_flight() {
    covers!("API-32");
    let door = admission(10, 100);
    let ticket = enter(&door, &request("a", 1, 1));
    let again = door.enter(&request("a", 1, 1), 1, Instant::now());
    assert_eq!(again.unwrap_err(), Refusal::Error(RequestError::DuplicateId));
    door.leave(&ticket);
    enter(&door, &request("a", 1, 1));
}

#[test]
fn a_refused_request_leaves_no_trace() {
    let door = admission(1, 100);
    enter(&door, &request("a", 1, 1));
    refusal(&door, &of_tenant("t", "b", 1));
    assert_eq!((queued(&door).0, door.num_requests(), door.num_tenants_waiting()), (1, 1, 1));
    assert!(!door.cancel("b", Cause::Admin));
    assert!(door.cancel("a", Cause::Admin));
}

#[test]
fn a_tenant_has_half_of_the_queue_and_who_has_no_name_all_of_it() {
    covers!("API-49");
    let door = admission(16, 1000);
    (0..8).for_each(|i| drop(enter(&door, &of_tenant("flood", &i.to_string(), 1))));
    // Room again means an eighth of its bound; the first two of them have their turn after none of others.
    assert_eq!(refusal(&door, &of_tenant("flood", "x", 1)), (true, 1.0));
    enter(&door, &of_tenant("other", "y", 400));
    (0..7).for_each(|i| drop(enter(&door, &request(&format!("nameless {i}"), 1, 1))));
    assert_eq!(refusal(&door, &request("nameless", 1, 1)), (false, 2.0));
    assert_eq!(refusal(&door, &of_tenant("third", "z", 1)), (false, 2.0));
    assert_eq!(door.num_tenants_waiting(), 3);
}

#[test]
fn a_tenant_has_half_of_the_tokens_but_its_only_request_may_have_more() {
    covers!("API-49");
    let door = admission(16, 1000);
    enter(&door, &of_tenant("small", "a", 100));
    let large = enter(&door, &of_tenant("large", "b", 800));
    assert!(refusal(&door, &of_tenant("large", "c", 1)).0);
    assert!(!refusal(&door, &of_tenant("small", "c", 200)).0);
    door.leave_queue(&large, 0);
    enter(&door, &of_tenant("large", "c", 500));
    assert!(refusal(&door, &of_tenant("large", "d", 1)).0);
    door.end(&large);
}

#[test]
fn what_may_come_to_hold_more_blocks_than_is_allowed_waits_outside() {
    covers!("API-49");
    let limits = QueueLimits { max_claimed_pools: 2, ..QueueLimits::new(100, 100_000) };
    let door = Admission::new(limits, 50);
    let enter = |tenant: &str, id: &str, n: u32, blocks: u64| {
        let request = NewRequest { n, ..of_tenant(tenant, id, 1) };
        door.enter(&request, blocks, Instant::now()).map_err(|refusal| match refusal {
            Refusal::NoRoom { quota, .. } => quota,
            Refusal::Error(error) => panic!("{error}"),
        })
    };
    // Alone it may claim any number; a sequence counts once for each of n.
    let lone = enter("", "a", 3, 50).unwrap();
    assert_eq!(door.taken().kv_blocks, 150);
    assert_eq!(enter("", "b", 1, 1).unwrap_err(), false);
    (0..3).for_each(|index| door.leave_queue(&lone, index));
    assert_eq!(enter("", "b", 1, 1).unwrap_err(), false);
    door.leave(&lone);
    assert_eq!(enter("", "b", 1, 1).unwrap_err(), false);
    door.end(&lone);
    enter("", "a", 1, 40).unwrap();
    enter("t", "b", 1, 30).unwrap();
    assert_eq!(enter("t", "c", 1, 21).unwrap_err(), true);
    enter("t", "c", 1, 20).unwrap();
    assert_eq!(enter("u", "d", 1, 11).unwrap_err(), false);
    enter("u", "d", 1, 10).unwrap();
}
