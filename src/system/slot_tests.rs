use super::*;

const OLD: VerityId = VerityId([1; 16]);
const NEW: VerityId = VerityId([2; 16]);

fn found(name: &str, verity: Option<VerityId>) -> Found {
    Found { entry: Entry::parse(name).unwrap(), file: name.into(), verity }
}

fn noted(number: u64, id: VerityId, state: State) -> Recorded {
    Recorded {
        number,
        version: format!("v{number}"),
        stream: None,
        seq: None,
        manifest_digest: None,
        state,
        verity_uuid: id.to_string(),
        reason: None,
        boot: None,
    }
}

fn record(a: Option<Recorded>, b: Option<Recorded>) -> Record {
    let slots = [(Slot::A, a), (Slot::B, b)];
    Record {
        slots: slots.into_iter().filter_map(|(slot, one)| Some((slot, one?))).collect(),
        ..Record::default()
    }
}

/// Each row: what is booted, the entries with the tree that each boots, the trees on disk, what was noted of a and b;
/// then the states of both, and where the next boot goes.
#[test]
fn states_follow_from_what_is_there() {
    use Slot::{A, B};
    use State::{Empty, Failed, Good, Staged, Trying};
    type Row<'a> = (
        &'a str,
        Slot,
        &'a [(&'a str, Option<VerityId>)],
        [Option<VerityId>; 2],
        [Option<(u64, VerityId, State)>; 2],
        [State; 2],
        Option<Slot>,
        Option<Slot>,
    );
    let (old, new) = (Some(OLD), Some(NEW));
    let (a_good, b_good) = (Some((1, OLD, Good)), Some((2, NEW, Good)));
    let rows: &[Row<'_>] = &[
        (
            "a card's first boot",
            A,
            &[("edge-1+2-1.efi", old)],
            [old, None],
            [None, None],
            [Trying, Empty],
            Some(A),
            None,
        ),
        (
            "found good",
            A,
            &[("edge-1+3.efi", old)],
            [old, None],
            [a_good, None],
            [Good, Empty],
            Some(A),
            None,
        ),
        (
            "cut after the name, before the note",
            A,
            &[("edge-1+3.efi", old)],
            [old, None],
            [None, None],
            [Trying, Empty],
            Some(A),
            None,
        ),
        // An import, step by step.
        (
            "b's old entry is gone",
            A,
            &[("edge-1+3.efi", old)],
            [old, new],
            [a_good, b_good],
            [Good, Empty],
            Some(A),
            None,
        ),
        (
            "b's hash tree is half written",
            A,
            &[("edge-1+3.efi", old)],
            [old, None],
            [a_good, b_good],
            [Good, Empty],
            Some(A),
            None,
        ),
        (
            "b is written, and has no entry yet",
            A,
            &[("edge-1+3.efi", old)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Empty],
            Some(A),
            None,
        ),
        (
            "b is staged",
            A,
            &[("edge-1+3.efi", old), ("edge-2+3.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Staged],
            Some(B),
            None,
        ),
        (
            "the note of b was lost",
            A,
            &[("edge-1+3.efi", old), ("edge-2+3.efi", new)],
            [old, new],
            [a_good, None],
            [Good, Staged],
            Some(B),
            None,
        ),
        (
            "a note about what b had before",
            A,
            &[("edge-1+3.efi", old), ("edge-3+3.efi", new)],
            [old, new],
            [a_good, Some((2, OLD, Good))],
            [Good, Staged],
            Some(B),
            None,
        ),
        // The trial.
        (
            "b is tried",
            B,
            &[("edge-1+3.efi", old), ("edge-2+2-1.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Trying],
            Some(B),
            Some(A),
        ),
        (
            "b had its last try",
            B,
            &[("edge-1+3.efi", old), ("edge-2+0-3.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Trying],
            Some(A),
            Some(A),
        ),
        (
            "b is good",
            B,
            &[("edge-1+3.efi", old), ("edge-2+3.efi", new)],
            [old, new],
            [a_good, b_good],
            [Good, Good],
            Some(B),
            Some(A),
        ),
        (
            "b fell back to a by itself",
            A,
            &[("edge-1+2-1.efi", old), ("edge-2+0-3.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Failed],
            Some(A),
            None,
        ),
        (
            "a was chosen in the menu while b is tried",
            A,
            &[("edge-1+2-1.efi", old), ("edge-2+2-1.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Trying],
            Some(B),
            None,
        ),
        (
            "b rotted late",
            A,
            &[("edge-1+2-1.efi", old), ("edge-2+0-3.efi", new)],
            [old, new],
            [a_good, b_good],
            [Good, Failed],
            Some(A),
            Some(B),
        ),
        (
            "and its entry was taken away when a was found good",
            A,
            &[("edge-1+3.efi", old)],
            [old, new],
            [a_good, Some((2, NEW, Failed))],
            [Good, Failed],
            Some(A),
            None,
        ),
        (
            "power cuts used up the tries of a, and b runs, which failed before",
            B,
            &[("edge-1+0-3.efi", old), ("edge-2+0-4.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Failed))],
            [Failed, Trying],
            Some(B),
            Some(A),
        ),
        (
            "b was good, and this boot of it is not yet",
            B,
            &[("edge-1+3.efi", old), ("edge-2+1-2.efi", new)],
            [old, new],
            [a_good, b_good],
            [Good, Good],
            Some(B),
            Some(A),
        ),
        // By hand.
        (
            "rolled back by hand",
            B,
            &[("edge-1+3.efi", old), ("edge-2+0.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Failed))],
            [Good, Trying],
            Some(A),
            Some(A),
        ),
        (
            "and booted",
            A,
            &[("edge-1+2-1.efi", old), ("edge-2+0.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Failed))],
            [Good, Failed],
            Some(A),
            None,
        ),
        (
            "cut after the name of it",
            A,
            &[("edge-1+2-1.efi", old), ("edge-2+0.efi", new)],
            [old, new],
            [a_good, b_good],
            [Good, Failed],
            Some(A),
            Some(B),
        ),
        (
            "somebody gave b its tries back",
            A,
            &[("edge-1+3.efi", old), ("edge-2+3.efi", new)],
            [old, new],
            [a_good, Some((2, NEW, Failed))],
            [Good, Staged],
            Some(B),
            None,
        ),
        (
            "blessed by other means",
            A,
            &[("edge-1.efi", old), ("edge-2.efi", new)],
            [old, new],
            [None, None],
            [Trying, Good],
            Some(B),
            Some(B),
        ),
        // Damage.
        (
            "a kernel that is cut off boots nothing",
            A,
            &[("edge-1+3.efi", old), ("edge-2+3.efi", None)],
            [old, new],
            [a_good, Some((2, NEW, Staged))],
            [Good, Empty],
            None,
            None,
        ),
        ("no entry at all", A, &[], [old, new], [a_good, b_good], [Good, Empty], None, None),
        (
            "both given up",
            A,
            &[("edge-1+0-3.efi", old), ("edge-2+0-3.efi", new)],
            [old, new],
            [a_good, b_good],
            [Good, Failed],
            Some(B),
            Some(B),
        ),
        (
            "tens come after nines",
            A,
            &[("edge-9+3.efi", old), ("edge-10+3.efi", new)],
            [old, new],
            [None, None],
            [Trying, Staged],
            Some(B),
            None,
        ),
    ];
    for (what, booted, entries, on_disk, notes, states, next, fallback) in rows {
        let entries: Vec<Found> = entries.iter().map(|(name, id)| found(name, *id)).collect();
        let [a, b] = notes.map(|note| note.map(|(number, id, state)| noted(number, id, state)));
        let record = record(a, b);
        let status = judge(Seen { booted: *booted, entries: &entries, on_disk: *on_disk, record: &record });
        assert_eq!([status.of(A).state, status.of(B).state], *states, "{what}");
        assert_eq!(status.next, *next, "{what}");
        assert_eq!(status.fallback(), *fallback, "{what}");
        assert!(status.of(*booted).booted && !status.of(booted.other()).booted, "{what}");
    }
}
