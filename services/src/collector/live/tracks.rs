//! The tracks of the collector's service.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use api::TrackTarget;
use ids::HostPid;
use prometheus::{IntCounter, IntGauge};
use service::metrics::{Metrics, definitions as are};

use super::Live;
use collector::{Collector, Error, Inventory, Look, Track, TrackError, Tracks};

/// What the service keeps of tracks.
#[derive(Debug)]
pub(super) struct LiveTracks {
    state: Mutex<State>,
    processes: IntGauge,
    tracks: IntGauge,
    stale: IntGauge,
    lost: IntCounter,
}

#[derive(Debug)]
struct State {
    tracks: Option<Tracks>,
    /// The last inventory of each track that was asked for one.
    inventories: BTreeMap<u64, Inventory>,
    /// Of each track, the losses that are in the metric.
    counted: BTreeMap<u64, u64>,
}

impl LiveTracks {
    pub(super) fn start(
        metrics: &Metrics,
        collector: &mut Collector,
    ) -> Result<Self, prometheus::Error> {
        let state = State {
            tracks: collector.tracks(),
            inventories: BTreeMap::new(),
            counted: BTreeMap::new(),
        };
        Ok(Self {
            state: Mutex::new(state),
            processes: metrics.gauge(&are::TRACKED_PROCESSES)?,
            tracks: metrics.gauge(&are::TRACKS)?,
            stale: metrics.gauge(&are::TRACKS_STALE)?,
            lost: metrics.counter(&are::TRACK_LOST)?,
        })
    }

    /// Maps and numbers: one that panicked leaves them as they are.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&mut Tracks) -> Result<T, TrackError>,
    ) -> Result<T, TrackError> {
        let mut state = self.state();
        let answer = work(state.tracks.as_mut().ok_or(TrackError::Unsupported)?);
        self.count(&mut state)?;
        answer
    }

    fn count(&self, state: &mut State) -> Result<(), TrackError> {
        let all = state.tracks.as_mut().map_or_else(|| Ok(Vec::new()), Tracks::all)?;
        let processes = all.iter().map(|track| track.processes.len()).sum::<usize>();
        self.processes.set(i64::try_from(processes).unwrap_or(i64::MAX));
        let stale = all.iter().filter(|track| track.lost > 0).count();
        self.stale.set(i64::try_from(stale).unwrap_or(i64::MAX));
        self.tracks.set(i64::try_from(all.len()).unwrap_or(i64::MAX));
        let exists = |id: &u64| all.iter().any(|track| track.id == *id);
        state.counted.retain(|id, _| exists(id));
        state.inventories.retain(|id, _| exists(id));
        for track in &all {
            let counted = state.counted.entry(track.id).or_default();
            self.lost.inc_by(track.lost.saturating_sub(*counted));
            *counted = track.lost;
        }
        Ok(())
    }
}

impl Live {
    /// Begins a track; `calls` has system calls counted too.
    ///
    /// # Errors
    /// As [`Tracks::begin`], and if the programs for it are not there.
    pub fn begin_track(&self, target: &TrackTarget, calls: bool) -> Result<Track, TrackError> {
        let what = format!("{target:?}");
        // The same the other way round.
        self.settle_tracks();
        let track = self.tracks.with(|tracks| {
            let id = tracks.begin(target, calls)?;
            tracks.get(id)
        })?;
        track.ok_or(TrackError::Nobody { what })
    }

    /// Ends a track; false if there is none of that id.
    ///
    /// # Errors
    /// As [`Tracks::end`].
    pub fn end_track(&self, id: u64) -> Result<bool, TrackError> {
        let ended = self.tracks.with(|tracks| tracks.end(id));
        self.settle_tracks();
        ended
    }

    /// The tracks that there are. Those whose last process has ended go by this.
    ///
    /// # Errors
    /// As [`Tracks::all`].
    pub fn all_tracks(&self) -> Result<Vec<Track>, TrackError> {
        let all = self.tracks.with(Tracks::all);
        self.settle_tracks();
        all
    }

    /// When no system calls are counted any more, nothing is kept that would have them counted; and
    /// inventories from before are no basis for those after, as nobody knows what was between.
    fn settle_tracks(&self) {
        let mut state = self.tracks.state();
        if state.tracks.as_ref().is_some_and(|tracks| !tracks.counts_calls()) {
            state.inventories.clear();
            drop(state);
            self.collector().unfollow();
        }
    }

    /// One track.
    ///
    /// # Errors
    /// As [`Tracks::get`].
    pub fn track(&self, id: u64) -> Result<Option<Track>, TrackError> {
        self.tracks.with(|tracks| tracks.get(id))
    }

    /// The inventory of a track's processes: what is known not to have changed since it was last
    /// asked for is not read again. `None` if there is no such track.
    ///
    /// # Errors
    /// If the maps cannot be read, or what is there cannot.
    pub fn track_inventory(&self, id: u64) -> Result<Result<Option<Inventory>, Error>, TrackError> {
        let Some(track) = self.track(id)? else { return Ok(Ok(None)) };
        let pids: Vec<HostPid> = track.processes.keys().copied().collect();
        let mut earlier = self.tracks.state().inventories.remove(&id).unwrap_or_default();
        let mut spared = true;
        let is_first = earlier.processes.is_empty();
        let taken = self.counted(|collector| {
            collector.follow();
            // Who shares what is found out in a first look.
            let look = if is_first { Look::Ahead } else { Look::Now };
            let inventory = collector.again(&pids, &mut earlier, look);
            spared = collector.spared() == pids.len();
            inventory
        });
        Ok(taken.map(|inventory| {
            // After a change the next look is a first one again.
            if is_first || spared {
                self.tracks.state().inventories.insert(id, inventory.clone());
            }
            Some(inventory)
        }))
    }
}
