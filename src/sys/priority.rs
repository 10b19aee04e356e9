//! How much of the processor and the disk a thread claims beside others.

use std::io;

/// The lowest there is.
const LOWEST: i32 = 19;

/// Has the calling thread, and no other, run on what the others leave: niceness 19, which the kernel also takes for the
/// priority of its reads, where the disk's scheduler heeds one (BFQ). Only the privileged may take it back, so this is
/// for threads that end with their work.
///
/// # Errors
/// The kernel's.
pub fn give_way() -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, LOWEST)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The niceness of the calling thread.
    fn own() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn one_thread_gives_way_and_the_others_do_not() {
        let before = own();
        let lowered = std::thread::spawn(|| give_way().map(|()| own())).join().unwrap().unwrap();
        assert_eq!((lowered, own()), (19, before));
        assert!(before < 19, "else this shows nothing");
    }
}
