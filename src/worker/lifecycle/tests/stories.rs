//! What holds whatever happens: stories of any kind, told to a worker.

use super::*;

/// Something that may happen at any time; the number picks one of the living generations.
#[derive(Clone, Debug)]
enum Happening {
    Pass(u64),
    Answer,
    Register,
    Crash,
    End,
    Seat,
    Leave,
    Counts,
    Beat,
    Order,
    Memory(u64),
    Checked(Health),
    Drain,
    Stop,
}

impl Happening {
    fn takes_away(&self) -> bool {
        use Happening::{Crash, Drain, Seat, Stop};
        let unwell = matches!(self, Happening::Checked(health) if *health != Health::Well);
        // A session may take the last seat of a browser.
        unwell || matches!(self, Crash | Drain | Stop | Seat)
    }
}

fn recycling() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0u64..20_000).prop_map(Happening::Pass),
        3 => Just(Happening::Answer),
        3 => Just(Happening::Register),
        2 => Just(Happening::End),
        8 => Just(Happening::Seat),
        5 => Just(Happening::Leave),
        5 => Just(Happening::Counts),
        3 => Just(Happening::Beat),
        1 => Just(Happening::Order),
        1 => (0u64..1500).prop_map(Happening::Memory),
        1 => prop_oneof![Just(Health::Well), Just(Health::Suspect)].prop_map(Happening::Checked),
    ]
}

fn anything() -> impl Strategy<Value = Happening> {
    prop_oneof![
        30 => recycling(),
        3 => Just(Happening::Crash),
        1 => Just(Happening::Checked(Health::Broken("it is".to_owned()))),
        1 => prop_oneof![Just(Happening::Drain), Just(Happening::Stop)],
    ]
}

fn happen(world: &mut World, happening: &Happening, which: usize) {
    if let Happening::Pass(millis) = happening {
        return world.pass(Duration::from_millis(*millis));
    }
    match happening {
        Happening::Drain => return world.feed(Input::Drain),
        Happening::Stop => return world.feed(Input::Stop),
        _ => {}
    }
    let alive = world.alive();
    if alive.is_empty() {
        return;
    }
    let generation = alive[which % alive.len()];
    match happening {
        Happening::Answer => world.answer(generation),
        Happening::Register => world.register(generation),
        Happening::Crash => world.exit(generation),
        Happening::End if world.server(generation).stopping => world.exit(generation),
        Happening::Seat => world.seat(generation),
        Happening::Leave => world.leave(generation),
        Happening::Counts => world.tell_counts(generation),
        Happening::Beat => world.beat(generation, false),
        Happening::Order => world.beat(generation, true),
        Happening::Memory(bytes) => world.feed(Input::Memory(generation, *bytes)),
        Happening::Checked(health) if world.server(generation).told_to_register => {
            world.feed(Input::Checked(generation, health.clone()));
        }
        _ => {}
    }
}

fn story(
    happening: impl Strategy<Value = Happening>,
) -> impl Strategy<Value = Vec<(Happening, usize)>> {
    prop::collection::vec((happening, 0usize..4), 0..250)
}

proptest! {
    #[test]
    fn make_before_break_never_costs_the_seats(story in story(anything())) {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        for (happening, which) in story {
            let before = world.available().count();
            happen(&mut world, &happening, which);
            if !happening.takes_away() {
                prop_assert!(world.available().count() >= before, "{:?}", happening);
            }
        }
    }

    #[test]
    fn whatever_happened_a_worker_comes_back_to_one_browser(story in story(anything())) {
        for mode in [RecycleMode::MakeBeforeBreak, RecycleMode::Exit] {
            let mut world = World::new(rules(mode));
            for (happening, which) in &story {
                happen(&mut world, happening, *which);
            }
            world.behave();
            if world.cycle.is_ending() {
                prop_assert!(world.finished);
            } else {
                prop_assert_eq!(world.available().count(), 1);
                prop_assert_eq!(world.alive().len(), 1, "{:?}", world.servers);
            }
        }
    }

    #[test]
    fn sessions_that_stay_on_old_browsers_keep_nobody_out(story in story(recycling())) {
        let mut world = World::new(rules(RecycleMode::MakeBeforeBreak));
        for (happening, which) in story {
            happen(&mut world, &happening, which);
        }
        for _ in 0..2 {
            world.behave_while(|server| server.status != Some(WorkerStatus::Draining));
            prop_assert_eq!(world.available().count(), 1, "{:?}", world.servers);
            world.fill_up();
        }
    }

    #[test]
    fn a_seat_is_given_up_only_for_a_reason(story in story(recycling())) {
        let mut lenient = rules(RecycleMode::MakeBeforeBreak);
        lenient.max_lifetime_sessions = None;
        lenient.max_memory = None;
        lenient.max_age = None;
        lenient.max_failures = 0;
        let mut world = World::new(lenient);
        let mut ordered = false;
        for (happening, which) in story {
            ordered |= matches!(happening, Happening::Order);
            happen(&mut world, &happening, which);
            prop_assert!(ordered || world.recycled.is_empty());
        }
    }
}
