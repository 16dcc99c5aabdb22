//! The signals that a command handles.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tnv_client::{Result, remove_temporaries};
use tnv_common::error::Context;

/// Makes a write beyond `ulimit -f` an error with its reason. By default SIGXFSZ ends the process silently.
pub(super) fn ignore_file_size_limit() -> Result<()> {
    let registered = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    registered.map(drop).context(|| "handle signals")
}

/// Removes the temporary files of an interrupted download, which exist on file systems without `O_TMPFILE`.
pub(super) fn remove_temporaries_on_signals() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM]).context(|| "handle signals")?;
    let work = move || {
        for signal in signals.forever() {
            remove_temporaries();
            // Ends the process. If that fails, the download continues.
            let _ = emulate_default_handler(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(work).map(drop).context(|| "start the signal thread")
}

/// Sets the flag at the first SIGINT or SIGTERM. The second one ends the process with exit code 1.
pub(super) fn halt_on_signals() -> Result<Arc<AtomicBool>> {
    let halt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: at the first signal the flag is not set yet.
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&halt))
            .and_then(|_| flag::register(signal, Arc::clone(&halt)))
            .context(|| "handle signals")?;
    }
    Ok(halt)
}
