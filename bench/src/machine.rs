//! The machine itself as a column: its limits, as far as a row has one.

use std::path::PathBuf;
use std::time::Duration;

use crate::contender::{Contender, Outcome, Task};
use crate::sources::Sources;
use crate::table::{LARGE, Work};
use crate::usage::Server;
use crate::{Failure, Result, limits};

/// The machine, and where it may write.
pub(crate) struct Machine {
    place: PathBuf,
    sources: Sources,
    sync: bool,
}

impl Machine {
    pub(crate) fn new(place: PathBuf, sources: &Sources, sync: bool) -> Machine {
        Machine { place, sources: sources.clone(), sync }
    }
}

impl Contender for Machine {
    fn servers(&self) -> Vec<Server> {
        Vec::new()
    }

    fn starts(&self) -> Vec<(&'static str, Duration)> {
        Vec::new()
    }

    fn prepare(&mut self, task: &Task) -> Result<()> {
        match task.spec.work {
            Work::Download => self.sources.of(task.size * task.files).map(drop),
            Work::Get => self.sources.of(task.size).map(drop),
            Work::Upload if task.spec.size == LARGE => self.sources.of(task.size).map(drop),
            _ => Ok(()),
        }
    }

    fn measure(&mut self, task: &Task) -> Result<Outcome> {
        let Task { spec, size, count, files, round } = *task;
        let place = self.place.join(format!("{}-{round}", spec.name.replace(' ', "-")));
        std::fs::create_dir_all(&place).map_err(|error| format!("{}: {error}", place.display()))?;
        let row = match spec.work {
            Work::Upload if spec.size == LARGE => {
                limits::copies(&self.sources.of(size)?, &place, count, self.sync)
            }
            Work::Upload => limits::make_files(&place, size, spec.threads, count, self.sync),
            Work::Download => limits::sendfiles(&self.sources.of(size * files)?, size, spec.threads, count),
            Work::Get => limits::relayed(&self.sources.of(size)?, spec.threads, count),
            Work::Addresses => limits::round_trips(spec.threads, count),
            Work::Sync => limits::syncs(&place, size, spec.threads, count),
            other => Err(Failure::Failed(format!("the machine has no limit of {other:?}"))),
        };
        Ok(Outcome { row: row?, client_cpu_s: None })
    }
}
