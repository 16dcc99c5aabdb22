//! `scripts/bench table`: the standard table.

use std::time::Duration;

use crate::{Failure, Result, load};

/// Runs it.
pub(crate) fn run(mut parser: lexopt::Parser) -> Result<()> {
    if let Some(arg) = parser.next()? {
        return Err(arg.unexpected().into());
    }
    let nobody = ([127, 0, 0, 1], 1).into();
    let rows = [load::ids(nobody, 8, Duration::ZERO)?, load::addresses(nobody, 8, Duration::ZERO)?];
    Err(Failure::Failed(format!("the table is not there yet: {rows:?}")))
}
