//! x
use std::process::ExitCode;
use std::time::Duration;
use tnv_common::config::*;
use tnv_common::daemon::{self, Server};
use tnv_common::error::Result;
use tnv_common::stop::Stop;
struct T;
impl Server for T {
    const PART: Part = Part::Storage;
    type Settings = (Duration, tnv_common::db::DbSettings);
    fn settings(c: &Config) -> std::result::Result<Self::Settings, Vec<Fault>> {
        Ok((c.get(&keys::TNV_HEART_BEAT_INTERVAL)?, c.database()?))
    }
    fn check(c: &Config, s: &Self::Settings) -> Vec<Fault> {
        if s.1.directory.exists() { vec![] } else { vec![c.fault(&keys::TNV_DB_PATH, "nothing", "dir")] }
    }
    fn run(s: Self::Settings, common: CommonSettings, stop: &Stop) -> Result<()> {
        let listener = tnv_common::net::listen(common.bind)?;
        daemon::ready(Self::PART, listener.local_addr()?);
        log::warn!("settings {s:?} {common:?}\nforged");
        std::thread::spawn(|| {
            if std::env::var("PANIC").is_ok() {
                panic!("ouch\nline")
            }
        });
        while !stop.wait(s.0) {}
        if std::env::var("SLOW").is_ok() {
            std::thread::sleep(Duration::from_secs(20));
        }
        Ok(())
    }
}
fn main() -> ExitCode {
    daemon::main::<T>()
}
