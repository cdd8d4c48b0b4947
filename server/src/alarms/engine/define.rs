//! How definitions come in force, go on and go. What holds then is said in the module above.

use super::*;

impl Engine {
    /// Brings what is known in line with what is defined. The answer is those who have to look back first.
    pub(super) fn redefine(&mut self, is_start: bool) -> Programs {
        let Definitions { programs, is_partial } = self.definitions.borrow_and_update().clone();
        let now_ms = self.clock.wall_ms();
        let mut new = Programs::new();
        let mut states = self.board.lock();
        for (name, program) in &programs {
            if self.identities.get(name).is_none_or(|it| it != program.identity()) {
                new.insert(name.clone(), program.clone());
                continue;
            }
            let state = states.entry(name.clone()).or_insert_with(|| State::new(name, None));
            state.redefine(Some(program.clone()), None, now_ms);
        }
        if is_start || !is_partial {
            // Whose file cannot be read at the start is heard by nobody until it can be.
            let known = self.identities.len();
            self.identities.retain(|name, _| programs.contains_key(name));
            self.identities_changed |= self.identities.len() < known;
        }
        for (name, state) in states.iter_mut().filter(|_| !is_partial) {
            let is_gone = !programs.contains_key(name) && (state.program().is_some() || !state.is_empty());
            if is_gone {
                state.redefine(None, None, now_ms);
            }
        }
        drop(states);
        self.hear(&new);
        new
    }

    /// Reads from now on what those need who are heard, and those who will be.
    pub(super) fn hear(&mut self, new: &Programs) {
        let states = self.board.lock();
        let known = states.values().filter_map(State::program).map(|it| it.kinds());
        let kinds = known.chain(new.values().map(|it| it.kinds())).fold(ALWAYS, EventKinds::union);
        drop(states);
        self.reader.set_kinds(kinds);
    }

    /// Takes what is defined by now; says whether some of it has to look back first, which is under way then.
    pub(in crate::alarms) fn begin_definitions(&mut self) -> bool {
        let new = self.redefine(false);
        self.look_back(new);
        self.scan.is_some()
    }

    /// Begins to fold the past for new definitions. Until that is done, those before them stay.
    fn look_back(&mut self, new: Programs) {
        let same = |programs: &Programs| {
            programs.len() == new.len()
                && new.iter().all(|(name, it)| {
                    programs.get(name).is_some_and(|other| other.identity() == it.identity())
                })
        };
        if new.is_empty() {
            (self.scan, self.again) = (None, None);
        } else if self.scan.as_ref().is_none_or(|scan| !same(scan.programs())) {
            let scanned = Scanned::new(&self.journal, &self.clock, new);
            self.scan = Some(Scan::start(scanned, self.reader.position()));
        }
    }

    /// A scan is done: it is taken over, or goes on where there is much that it has not seen.
    pub(super) fn scanned(
        &mut self,
        scanned: Result<Result<Scanned, LogError>, JoinError>,
    ) -> Result<(), EngineError> {
        self.scan = None;
        let mut scanned = scanned??;
        let end = self.reader.position();
        if end.saturating_sub(scanned.position()) > CATCH_UP_EVENTS_MAX {
            self.scan = Some(Scan::start(scanned, end));
            return Ok(());
        }
        scanned.read_to(end, &AtomicBool::new(false))?;
        self.again = None;
        self.take_over(scanned);
        Ok(())
    }

    /// A look back broke off; the damage that it met may be there for long.
    pub(super) fn look_back_later(&mut self, error: &EngineError) {
        let pause = self.again.map_or(LOOK_BACK_AGAIN, |(_, pause)| (pause * 2).min(LOOK_BACK_AGAIN_MAX));
        self.again = Some((self.clock.monotonic() + pause, pause));
        let (error, seconds) = (crate::error::chain(error), pause.as_secs());
        error!(
            error,
            seconds, "new alarms cannot look back; those before them stay in force, it is tried again"
        );
    }

    /// Whether the pause after that is over.
    pub(super) fn is_time_to_look_back(&self) -> bool {
        let is_over = |(at, _): (Duration, Duration)| at <= self.clock.monotonic();
        self.scan.is_none() && self.again.is_some_and(is_over)
    }

    /// Waits until nobody looks back any more, and that is stored.
    #[cfg(test)]
    pub(in crate::alarms) async fn end_definitions(&mut self) -> Result<(), EngineError> {
        while self.scan.is_some() {
            let done = scanned(&mut self.scan).await;
            self.scanned(done)?;
        }
        self.checkpoint(false).await
    }

    /// From the next event on, new definitions hold. They have seen all events before it.
    pub(super) fn take_over(&mut self, scanned: Scanned) {
        let Scanned { mut programs, states: anew, .. } = scanned;
        for (name, program) in &mut programs {
            // Its words may have changed meanwhile.
            let latest = self.definitions.borrow().programs.get(name).cloned();
            if let Some(latest) = latest.filter(|it| it.identity() == program.identity()) {
                *program = latest;
            }
            self.identities.insert(name.clone(), program.identity().to_owned());
            self.identities_changed = true;
            self.unstored.insert(name.clone());
        }
        self.force(&programs, anew);
        self.hear(&Programs::new());
    }

    /// Puts definitions in force with what they know of the log up to here.
    pub(super) fn force(&self, programs: &Programs, anew: BTreeMap<String, State>) {
        let now_ms = self.clock.wall_ms();
        let mut states = self.board.lock();
        for (name, anew) in anew {
            let state = states.entry(name.clone()).or_insert_with(|| State::new(&name, None));
            state.redefine(programs.get(&name).cloned(), Some(anew), now_ms);
        }
    }
}

/// What a scan found, once there is one and it is done.
pub(super) async fn scanned(scan: &mut Option<Scan>) -> Result<Result<Scanned, LogError>, JoinError> {
    match scan {
        Some(scan) => scan.done().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use muster_core::clock::ManualClock;
    use muster_core::log::{LogConfig, RealDisk};

    use super::*;

    #[tokio::test]
    async fn a_look_back_that_breaks_off_is_tried_again_after_pauses_that_grow_to_a_limit() {
        let dir = tempfile::tempdir().expect("a folder");
        let clock = ManualClock::at(1_000);
        let log = LogConfig::new(dir.path().join("log"));
        let (journal, _) = Journal::open(log, RealDisk::shared(), clock.clone()).expect("a journal");
        let (_definitions, defined) = watch::channel(Definitions::default());
        let shared: SharedClock = clock.clone();
        let mut engine =
            Engine::open(&journal, dir.path(), &shared, "n", (defined, Board::default())).expect("an engine");
        assert!(!engine.is_time_to_look_back(), "nothing has broken off");
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            engine.look_back_later(&EngineError::Log(LogError::Closed));
            clock.advance(Duration::from_secs(seconds) - Duration::from_millis(1));
            assert!(!engine.is_time_to_look_back(), "after less than {seconds} s");
            clock.advance(Duration::from_millis(1));
            assert!(engine.is_time_to_look_back(), "after {seconds} s");
        }
        // One that succeeds ends this, and the next one that breaks off begins with the shortest pause.
        let nothing = Scanned::new(&journal, &shared, Programs::new());
        engine.scanned(Ok(Ok(nothing))).expect("taken over");
        assert!(!engine.is_time_to_look_back());
        engine.look_back_later(&EngineError::Log(LogError::Closed));
        clock.advance(LOOK_BACK_AGAIN);
        assert!(engine.is_time_to_look_back());
    }
}
