//! How a worker that is to end comes to its end.

use super::*;

#[test]
fn with_a_limit_of_one_it_serves_its_one_session() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    rules.max_lifetime_sessions = Some(1);
    let mut world = World::new(rules);
    let first = world.first_is_up();
    (0..100).for_each(|_| world.pass(Duration::from_secs(1)));
    assert_eq!(world.alive(), [first], "an idle browser is not replaced");
    world.seat(first);
    world.tell_counts(first);
    assert_eq!(world.alive().len(), 2);
}

#[test]
fn an_idle_count_from_before_the_drain_was_known_does_not_end_it() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.feed(Input::Drain);
    world.tell_counts(old);
    assert!(!world.server(old).stopping, "a session may just have come");
    world.beat(old, false);
    assert!(world.server(old).stopping);
}

#[test]
fn when_the_store_lost_the_counters_only_silence_or_time_ends_a_drain() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.feed(Input::Relisted(old));
    world.feed(Input::Drain);
    world.beat(old, false);
    assert!(!world.server(old).stopping);
    world.feed(Input::Quiet(old));
    assert!(world.server(old).stopping);
}

#[test]
fn after_the_drain_timeout_proxies_get_a_moment_and_then_it_ends() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.tell_counts(old);
    world.feed(Input::Drain);
    world.beat(old, false);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.server(old).status, Some(WorkerStatus::ShuttingDown));
    assert!(!world.server(old).stopping);
    world.pass(EVICTION_GRACE);
    assert!(world.server(old).stopping);
}

#[test]
fn a_second_word_ends_at_once() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.seat(old);
    world.feed(Input::Drain);
    world.feed(Input::Stop);
    assert!(world.server(old).stopping);
    world.exit(old);
    assert!(world.finished);
}
