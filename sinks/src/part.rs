//! Which part of a rule's rows a pipeline carries: all of them, those of one lane, or those of a replay. Lanes split by
//! client, so that rows of one client keep their order. It must never know a target or a store.

use std::fmt;

/// Most lanes of a pipeline, and so most batches that it has under way at a time.
pub const LANES_MAX: u32 = 16;

/// Clients are dealt to so many slots, and slots to lanes.
pub const SLOTS: u32 = 256;

/// The slot of a client, the same in every build and for ever: FNV-1a (64 bits) of the id's bytes, its two halves
/// folded by exclusive or, modulo [`SLOTS`]. Events about no client have an empty id, and so a slot of their own.
pub fn slot(clientid: &str) -> u32 {
    let hash = clientid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let folded = (hash ^ (hash >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded % u64::from(SLOTS)).unwrap_or_default()
}

/// Which part of a rule's rows a pipeline carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub enum Part {
    /// All.
    #[default]
    Whole,
    /// Those of some clients.
    Lane(Lane),
    /// Recorded ones once more: a replay's number.
    Replay(i64),
}

/// One of several lanes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Lane {
    /// Which, from 1.
    pub at: u32,
    /// Of how many.
    pub of: u32,
    /// How often the number of lanes was changed: no key is ever used twice.
    pub generation: u32,
}

impl Lane {
    /// Whether rows of the client belong to it.
    pub fn carries(&self, clientid: &str) -> bool {
        slot(clientid) % self.of.max(1) == self.at.saturating_sub(1)
    }
}

impl Part {
    /// What stands behind the identity of the whole, as [`Part`] writes it.
    pub(crate) fn parse(suffix: &str) -> Option<Self> {
        if suffix.is_empty() {
            return Some(Self::Whole);
        }
        if let Some(number) = suffix.strip_prefix(" replay ") {
            return number.parse().ok().map(Self::Replay);
        }
        let (lane, generation) = suffix.strip_prefix(" #")?.split_once('@')?;
        let (at, of) = lane.split_once('/')?;
        Some(Self::Lane(Lane {
            at: at.parse().ok()?,
            of: of.parse().ok()?,
            generation: generation.parse().ok()?,
        }))
    }
}

/// What is added to the identity of the whole: nothing, ` #2/4@1` or ` replay 7`.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => Ok(()),
            Self::Lane(Lane { at, of, generation }) => write!(f, " #{at}/{of}@{generation}"),
            Self::Replay(number) => write!(f, " replay {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let lane = Lane { at: 2, of: 4, generation: 1 };
        for (part, text) in [(Part::Whole, ""), (Part::Lane(lane), " #2/4@1"), (Part::Replay(7), " replay 7")]
        {
            assert_eq!((part.to_string().as_str(), Part::parse(text)), (text, Some(part)));
        }
        assert_eq!(Part::parse(" #2/4"), None);
    }

    #[test]
    fn slots_never_change() {
        let slots = ["", "a", "device-1", "device-2", "käfer"].map(slot);
        assert_eq!(slots, SLOTS_OF_OLD, "rows of a client must stay in their lane after an upgrade");
    }

    const SLOTS_OF_OLD: [u32; 5] = [193, 192, 116, 93, 21];

    #[test]
    fn each_client_has_one_lane_and_lanes_have_about_as_many() {
        for of in 1..=LANES_MAX {
            let mut clients = vec![0; of as usize];
            for client in 0..10_000 {
                let id = format!("device-{client:05}");
                let lanes: Vec<_> =
                    (1..=of).filter(|at| Lane { at: *at, of, generation: 1 }.carries(&id)).collect();
                assert_eq!(lanes.len(), 1);
                clients[lanes[0] as usize - 1] += 1;
            }
            let (least, most) = (clients.iter().min().unwrap(), clients.iter().max().unwrap());
            assert!(least * 2 > *most, "{of}: {clients:?}");
        }
    }
}
