//! What grows with what a deployment holds.

use crate::{Failure, Result};

/// `scripts/bench scale`.
pub(crate) fn run(_parser: lexopt::Parser) -> Result<()> {
    Err(Failure::Failed("this is not there yet".to_owned()))
}
