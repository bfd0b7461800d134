//! Browsers that crash, hang or fail their checks.

use super::*;

#[test]
fn crashes_in_a_row_wait_longer_and_longer_and_a_sound_life_is_forgiven() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for _ in 0..10 {
        let generation = world.alive()[0];
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    let pauses: Vec<_> = world.crashes.iter().flatten().copied().collect();
    assert_eq!(pauses.len(), 10);
    assert!(pauses.is_sorted() && pauses[0] == FIRST_BACKOFF);
    assert_eq!(pauses[9], LONGEST_BACKOFF);

    let generation = world.alive()[0];
    world.answer(generation);
    world.register(generation);
    world.pass(SOUND_AFTER);
    world.exit(generation);
    assert_eq!(world.crashes.last(), Some(&Some(Duration::ZERO)));
    assert_eq!(world.alive().len(), 1, "replaced at once");
}

/// The pauses before the successors of browsers of which each serves for `time` and then dies.
fn pauses_when_each_serves(time: Duration) -> Vec<Duration> {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for _ in 0..10 {
        let generation = world.alive()[0];
        world.answer(generation);
        world.register(generation);
        world.pass(time);
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    world.crashes.into_iter().flatten().collect()
}

#[test]
fn one_that_served_and_died_is_replaced_soon_however_often() {
    assert_eq!(pauses_when_each_serves(SETTLED_AFTER), [FIRST_BACKOFF; 10]);
    let young = pauses_when_each_serves(Duration::from_millis(100));
    assert_eq!(young.len(), 10);
    assert!(young.is_sorted() && young[0] == FIRST_BACKOFF);
    assert_eq!(young[9], Duration::from_secs(2));
}

#[test]
fn starts_that_fail_wait_longer_again_after_one_that_served() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.feed(Input::Tick);
    for serves in [false, false, false, false, true, false] {
        let generation = world.alive()[0];
        if serves {
            world.answer(generation);
            world.register(generation);
        }
        world.exit(generation);
        world.pass(LONGEST_BACKOFF);
    }
    let millis: Vec<_> = world
        .crashes
        .iter()
        .flatten()
        .map(Duration::as_millis)
        .collect();
    assert_eq!(millis, [500, 1000, 2000, 4000, 2000, 4000]);
}

#[test]
fn one_that_breaks_after_a_check_found_it_well_has_served() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    for _ in 0..10 {
        let serving = *world.alive().last().unwrap();
        world.answer(serving);
        world.register(serving);
        world.feed(Input::Checked(serving, Health::Well));
        let why = "it hangs".to_owned();
        world.feed(Input::Checked(serving, Health::Broken(why)));
        world.pass(EVICTION_GRACE);
        world.exit(serving);
        world.pass(Duration::ZERO);
        assert_eq!(world.alive().len(), 1, "its successor is on its way");
    }
}

#[test]
fn a_suspect_gets_no_session_until_it_is_found_well() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let only = world.first_is_up();
    world.feed(Input::Checked(only, Health::Suspect));
    assert_eq!(world.available().count(), 0);
    world.feed(Input::Checked(only, Health::Well));
    assert_eq!(world.available().collect::<Vec<_>>(), [only]);
    assert_eq!(
        world.alive(),
        [only],
        "nothing was started for a moment's doubt"
    );
}

#[test]
fn the_sessions_of_a_broken_one_learn_why_and_it_is_killed_whether_it_serves_or_drains() {
    for drains in [false, true] {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        let old = world.first_is_up();
        world.seat(old);
        world.tell_counts(old);
        world.pass(SOUND_AFTER);
        if drains {
            world.beat(old, true);
            let new = world.alive()[1];
            world.answer(new);
            world.register(new);
        }
        world.feed(Input::Checked(old, Health::Broken("it hangs".to_owned())));
        let server = world.server(old).clone();
        assert_eq!(server.status, Some(WorkerStatus::ShuttingDown));
        assert_eq!(server.evicted.as_deref(), Some("it hangs"));
        assert!(!server.stopping, "its sessions are told first");
        assert_eq!(
            world.alive().len(),
            2,
            "another one serves or comes at once"
        );
        world.pass(EVICTION_GRACE);
        assert!(world.server(old).killed);
        let told = if drains {
            RecycleReason::Operator
        } else {
            RecycleReason::Failures
        };
        assert_eq!(world.recycled, [(old, told)]);
    }
}

#[test]
fn what_breaks_young_again_and_again_is_started_less_and_less_often() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.first_is_up();
    for _ in 0..20 {
        for generation in world.alive() {
            world.answer(generation);
            world.register(generation);
            world.feed(Input::Checked(
                generation,
                Health::Broken("again".to_owned()),
            ));
        }
        world.pass(EVICTION_GRACE);
        for generation in world.alive() {
            if world.server(generation).stopping {
                world.exit(generation);
            }
        }
    }
    let started = world.servers.len();
    assert!((2..8).contains(&started), "{started} in 40 s");
}
