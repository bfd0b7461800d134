//! How long old browsers go on, and what bounds them.

use super::*;

#[test]
fn a_recycle_ends_no_session_however_long_it_takes() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.beat(old, true);
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    world.pass(Duration::from_secs(500));
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    // Once the worker is to end, its time counts for all.
    world.feed(Input::Drain);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
    assert_eq!(
        world.server(old).evicted,
        None,
        "that is no fault of its browser"
    );
}

#[test]
fn who_wants_it_gets_a_bound_for_recycles() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.recycle_timeout = Some(Duration::from_secs(20));
    let mut world = World::new(rules);
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.beat(old, true);
    let new = world.alive()[1];
    world.answer(new);
    world.register(new);
    world.pass(Duration::from_secs(19));
    assert_eq!(world.server(old).status, Some(WorkerStatus::Draining));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
}

#[test]
fn only_so_many_drain_and_then_the_one_that_serves_goes_on() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    let first = leave_a_long_session(&mut world);
    let second = leave_a_long_session(&mut world);
    let third = leave_a_long_session(&mut world);
    assert_eq!(world.alive(), [first, second, third]);
    assert_eq!(world.available().collect::<Vec<_>>(), [third]);
    world.leave(first);
    world.beat(first, false);
    world.exit(first);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.alive().len(), 3, "there is a place to drain in again");
}

#[test]
fn one_that_is_used_up_makes_place_for_its_successor_while_others_drain() {
    for has_memory in [true, false] {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        world.rules.max_memory = None;
        world.first_is_up();
        let first = leave_a_long_session(&mut world);
        let mut draining = vec![first];
        if has_memory {
            draining.push(leave_a_long_session(&mut world));
        } else {
            let serving = world.available().next().unwrap();
            world.feed(Input::Memory(serving, 500));
            world.rules.room = Room {
                limit: 1000,
                free: 100,
            };
        }
        let last = world.available().next().unwrap();
        world.fill_up();
        assert_eq!(
            world.server(last).status,
            Some(WorkerStatus::Available),
            "its sessions go on"
        );
        world.empty(last);
        world.beat(last, false);
        assert!(world.server(last).stopping, "{:?}", world.servers);
        world.exit(last);
        world.rules.room = Room::UNLIMITED;
        world.pass(Duration::from_secs(1));
        let new = *world.alive().last().unwrap();
        world.answer(new);
        world.register(new);
        assert_eq!(world.available().collect::<Vec<_>>(), [new]);
        assert_eq!(world.at_once, [new], "without a seat it waits for nobody");
        for generation in draining {
            assert_eq!(world.server(generation).counts.active, 1, "nobody is ended");
            assert!(!world.server(generation).stopping);
        }
    }
}
