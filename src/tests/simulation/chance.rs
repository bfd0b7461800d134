//! Chance that repeats itself: in a thread that runs a schedule, whatever asks the system for random
//! bytes (names, hash maps, jitter) gets those of the schedule's seed.

use std::cell::Cell;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From here on this thread's random bytes are those of `seed`.
pub fn seed(seed: u64) {
    SEED.set(Some(seed));
}

fn next() -> Option<u64> {
    let state = SEED.try_with(Cell::get).ok().flatten()?;
    let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(state));
    // splitmix64.
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(mixed ^ (mixed >> 31))
}

/// Stands before the C library's in this test binary. All other threads get the system's bytes.
///
/// # Safety
/// As for getrandom(2): `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut u8, length: usize, flags: u32) -> isize {
    let Some(mut word) = next() else {
        // SAFETY: the caller's promise is the call's own.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    for at in 0..length {
        if at % 8 == 0 && at > 0 {
            word = next().unwrap_or_default();
        }
        // SAFETY: the caller has room for `length` bytes.
        unsafe { *buffer.add(at) = word.to_le_bytes()[at % 8] };
    }
    length as isize
}
