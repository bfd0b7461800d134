//! When a replacement is started, and how an old browser gives way to it.

use super::*;

#[test]
fn the_old_one_drains_only_after_the_new_one_is_registered() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    for _ in 0..LIMIT {
        world.pass(Duration::from_secs(10));
        world.seat(old);
        world.tell_counts(old);
    }
    let [_, new] = world.alive()[..] else {
        panic!("the replacement is on its way: {:?}", world.servers);
    };
    world.answer(new);
    assert_eq!(world.available().collect::<Vec<_>>(), [old]);
    world.register(new);
    assert_eq!(world.available().collect::<Vec<_>>(), [new]);
    assert_eq!(world.recycled, [(old, RecycleReason::Lifetime)]);
    for _ in 0..LIMIT {
        assert!(!world.server(old).stopping, "sessions end by themselves");
        world.leave(old);
        world.beat(old, false);
    }
    assert!(world.server(old).stopping && world.server(old).deregistered);
}

/// A check may come between a browser's answer and its registration.
#[test]
fn one_that_is_suspect_when_it_is_registered_takes_over_when_it_is_well() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    let old = world.first_is_up();
    world.beat(old, true);
    world.pass(Duration::ZERO);
    let [_, new] = world.alive()[..] else {
        panic!("the replacement is on its way: {:?}", world.servers);
    };
    world.answer(new);
    world.feed(Input::Checked(new, Health::Suspect));
    world.register(new);
    assert_eq!(world.available().collect::<Vec<_>>(), [old]);
    world.feed(Input::Checked(new, Health::Well));
    assert_eq!(world.available().collect::<Vec<_>>(), [new]);
}

/// How many sessions its browser has had when the replacement is started: one comes every `pause`
/// milliseconds, and a browser takes `took` to start.
fn started_at(pause: u64, took: Duration, rules: Rules) -> u32 {
    let mut world = World::new(rules);
    world.took = took;
    let old = world.first_is_up();
    for sessions in 1.. {
        world.pass(Duration::from_millis(pause));
        world.seat(old);
        world.tell_counts(old);
        if world.alive().len() > 1 {
            return sessions;
        }
    }
    unreachable!()
}

#[test]
fn the_replacement_is_started_earlier_the_faster_the_worker_fills() {
    let rules = rules(RecycleMode::MakeBeforeBreak);
    let started_at = |pause| started_at(pause, Duration::from_secs(1), rules);
    assert_eq!(started_at(20_000), LIMIT, "a slow one reaches its limit");
    let fast = started_at(150);
    assert!((LIMIT / 2..LIMIT).contains(&fast), "{fast}");
    assert_eq!(started_at(1), LIMIT / 2, "not before half a life");
}

#[test]
fn the_replacement_is_started_before_half_a_life_if_seats_were_lost_otherwise() {
    let mut rules = rules(RecycleMode::MakeBeforeBreak);
    let slow = Duration::from_secs(3);
    let early = started_at(100, slow, rules);
    assert!((2..LIMIT / 2).contains(&early), "{early}");
    rules.ceiling = 10 * LIMIT;
    assert_eq!(started_at(100, slow, rules), LIMIT / 2, "it can go on");
}

#[test]
fn the_pace_of_a_worker_and_a_slow_start_are_not_forgotten_with_its_browser() {
    let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
    world.took = Duration::from_secs(4);
    let mut serving = world.first_is_up();
    let mut started_at = Vec::new();
    for start in [4, 1, 1] {
        let come = |world: &mut World| {
            world.pass(Duration::from_millis(100));
            world.seat(serving);
            world.tell_counts(serving);
        };
        let mut sessions = 0;
        while world.alive().len() == 1 {
            come(&mut world);
            sessions += 1;
        }
        started_at.push(sessions);
        let new = world.alive()[1];
        (0..start * 10).for_each(|_| come(&mut world));
        world.answer(new);
        world.register(new);
        world.empty(serving);
        world.exit(serving);
        serving = new;
    }
    // The first browser of a worker has to find out how fast it fills.
    assert!(started_at[0] > 1, "{started_at:?}");
    assert_eq!(started_at[1..], [1, 1]);
}

#[test]
fn mode_exit_drains_and_ends_or_starts_over() {
    for start_over in [false, true] {
        let mut rules = rules(RecycleMode::Exit);
        rules.start_over = start_over;
        let mut world = World::new(rules);
        let only = world.first_is_up();
        for _ in 0..2 * LIMIT {
            world.seat(only);
            world.tell_counts(only);
        }
        assert!(world.recycled.is_empty(), "it waits for its turn");
        assert_eq!(world.asked, [only], "and asked for it once");
        world.beat(only, true);
        assert_eq!(world.recycled, [(only, RecycleReason::Lifetime)]);
        assert_eq!(world.alive(), [only], "nothing is started before");
        while world.server(only).counts.active > 0 {
            world.leave(only);
        }
        world.beat(only, false);
        world.exit(only);
        assert_eq!(world.finished, !start_over);
        assert_eq!(world.alive().len(), usize::from(start_over));
    }
}

#[test]
fn each_reason_is_told_and_in_mode_exit_takes_its_turn() {
    let reasons = |change: fn(&mut World, Generation)| {
        let mut told = Vec::new();
        for mode in [RecycleMode::MakeBeforeBreak, RecycleMode::Exit] {
            let mut world = World::new(rules(mode));
            let old = world.first_is_up();
            world.seat(old);
            world.tell_counts(old);
            change(&mut world, old);
            if mode == RecycleMode::Exit && world.recycled.is_empty() {
                assert_eq!(world.asked, [old]);
                world.beat(old, true);
            }
            world.behave();
            told.push(world.recycled[0].1);
        }
        assert_eq!(told[0], told[1]);
        told[0]
    };
    assert_eq!(
        reasons(|world, old| world.feed(Input::Memory(old, 1001))),
        RecycleReason::Memory
    );
    assert_eq!(
        reasons(|world, _| world.pass(Duration::from_secs(601))),
        RecycleReason::Age
    );
    assert_eq!(
        reasons(|world, old| (0..3).for_each(|_| {
            world.feed(Input::Checked(old, Health::Suspect));
            world.feed(Input::Checked(old, Health::Well));
        })),
        RecycleReason::Failures
    );
    assert_eq!(
        reasons(|world, old| world.beat(old, true)),
        RecycleReason::Operator
    );
}
