//! Memory and disk: what does not fit, and what grows.

use super::*;

/// A browser of 500 on a machine that has 100 left.
fn without_room() -> (World, Generation) {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_memory = None;
    rules.room = Room {
        limit: 1000,
        free: 100,
    };
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.feed(Input::Memory(old, 500));
    (world, old)
}

#[test]
fn a_replacement_that_does_not_fit_waits_for_the_last_session_and_then_breaks_before_it_makes() {
    let (mut world, old) = without_room();
    for _ in 0..LIMIT {
        world.pass(Duration::from_secs(10));
        world.seat(old);
        world.tell_counts(old);
    }
    assert_eq!(world.alive(), [old]);
    assert_eq!(
        world.available().count(),
        1,
        "it goes on: {:?}",
        world.servers
    );
    assert_eq!(world.no_room, 1, "said once");
    world.empty(old);
    world.beat(old, false);
    assert!(
        world.server(old).deregistered,
        "empty, it costs nobody a session"
    );
    world.exit(old);
    assert_eq!(world.alive().len(), 1);
    assert_eq!(
        world.at_once,
        world.alive(),
        "without a seat it waits for nobody"
    );
    assert_eq!(world.no_room, 1);
}

#[test]
fn a_replacement_that_does_not_fit_waits_no_longer_than_there_are_seats() {
    let (mut world, old) = without_room();
    for _ in 0..2 * LIMIT {
        world.seat(old);
        world.tell_counts(old);
    }
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    world.rules.room.free = 600;
    world.pass(Duration::from_secs(1));
    assert_eq!(
        world.alive().len(),
        2,
        "as soon as there is room: {:?}",
        world.servers
    );
}

#[test]
fn one_that_goes_on_growing_while_it_drains_is_ended_when_memory_is_short() {
    const MIB: u64 = 1 << 20;
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_memory = Some(1000 * MIB);
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Memory(old, 1001 * MIB));
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    assert_eq!(world.recycled, [(old, RecycleReason::Memory)]);
    world.feed(Input::Memory(old, 1500 * MIB));
    assert_eq!(
        world.server(old).evicted,
        None,
        "its sessions go on, and so may it, a little"
    );
    world.feed(Input::Memory(old, 1600 * MIB));
    let why = world.server(old).evicted.clone().unwrap();
    assert!(why.contains("1600 MiB of 1000 MiB"), "{why}");
    world.pass(EVICTION_GRACE);
    assert!(world.server(old).killed);
    assert_eq!(world.available().collect::<Vec<_>>(), [new]);
}

#[test]
fn who_fills_the_disk_is_replaced_and_ended_if_it_goes_on() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Disk(old, life::MAX_DISK + 1));
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    assert_eq!(world.recycled, [(old, RecycleReason::Disk)]);
    world.feed(Input::Disk(old, 2 * life::MAX_DISK));
    assert_eq!(world.server(old).evicted, None);
    world.feed(Input::Disk(old, 2 * life::MAX_DISK + 1));
    assert!(world.server(old).evicted.is_some());
}

#[test]
fn a_bound_on_memory_holds_for_all_browsers_of_a_worker_together() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    let old = leave_a_long_session(&mut world);
    world.feed(Input::Memory(old, 300));
    let serving = world.available().next().unwrap();
    world.seat(serving);
    world.tell_counts(serving);
    world.feed(Input::Memory(serving, 690));
    assert_eq!(world.alive(), [old, serving]);
    world.feed(Input::Memory(serving, 701));
    assert_eq!(world.alive().len(), 3);
}
