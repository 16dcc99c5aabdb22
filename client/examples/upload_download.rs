//! Uploads a file, prints its stat, downloads it and removes it:
//!
//! ```sh
//! cargo run -p tnv-client --example upload_download -- 127.0.0.1:21000 film.mp4 copy.mp4
//! ```

use std::path::Path;
use std::process::ExitCode;

use tnv_client::{AppId, Client, Error, ErrorKind, FileKey, Options, Result, UserId};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [tracker, film, copy] = args.as_slice() else {
        return Err(Error::new(ErrorKind::Invalid, "usage: upload_download TRACKER FILM COPY"));
    };

    // A program needs one client. Clones share its connections.
    let client = Client::new(std::slice::from_ref(tracker), Options::default())?;
    let (appid, userid) = (AppId::new("tnvideo")?, UserId::new("tnv001")?);

    let fileid = client.upload_file(&appid, &userid, Path::new(film))?;
    println!("stored as {fileid}");

    let file = FileKey { appid, userid, fileid };
    let info = client.stat(&file)?;
    match info.stat {
        Some(stat) => println!("{} bytes, CRC-32 {:08x?}, uploaded at {}", info.size, stat.crc32, stat.time),
        None => println!("{} bytes, on a legacy storage", info.size),
    }

    // A range, as a player requests it.
    let mut start = vec![0; usize::try_from(info.size.min(16)).unwrap_or(16)];
    client.read_slice(&file, &info, 0, &mut start)?;
    println!("starts with {start:02x?}");

    let bytes = client.download_file(&file, 0, 0, Path::new(copy))?;
    println!("fetched {bytes} bytes into {copy}");
    client.delete(&file)
}
