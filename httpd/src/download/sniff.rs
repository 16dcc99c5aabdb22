//! Recognises films and sound by their first bytes, where the `infer` crate is wrong or too coarse.

/// The extension of the recognised format.
pub fn extension(bytes: &[u8]) -> Option<&'static str> {
    iso_media(bytes)
        .or_else(|| ogg(bytes))
        .or_else(|| mpeg_audio(bytes))
        .or_else(|| is_transport_stream(bytes).then_some("ts"))
}

/// MP4 and its relatives begin with a list of brands: their own, and those that they are compatible with.
fn iso_media(bytes: &[u8]) -> Option<&'static str> {
    let (head, brands) = bytes.split_at_checked(8)?;
    let (length, name) = head.split_first_chunk()?;
    if name != b"ftyp" {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?.clamp(8, bytes.len());
    // The version follows the first brand.
    let (major, others) = brands[..length - 8].split_first_chunk::<4>()?;
    let has = |wanted: &[&[u8]]| others.chunks_exact(4).skip(1).any(|brand| wanted.contains(&brand));
    match major {
        b"qt  " => Some("mov"),
        b"M4A " | b"M4B " | b"M4P " | b"F4A " | b"F4B " => Some("m4a"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some("heic"),
        b"avif" | b"avis" => Some("avif"),
        b"mif1" | b"msf1" if has(&[b"avif", b"avis"]) => Some("avif"),
        b"mif1" | b"msf1" if has(&[b"heic", b"heix", b"hevc"]) => Some("heic"),
        b"mif1" | b"msf1" => Some("heif"),
        [b'3', b'g', b'2', _] => Some("3g2"),
        [b'3', b'g', b'p' | b'r' | b's' | b'e' | b'g', _] => Some("3gp"),
        // Raw pictures of cameras and JPEG 2000 use the same boxes.
        b"crx " | b"jp2 " | b"jpx " | b"jpm " | b"mjp2" => None,
        _ => Some("mp4"),
    }
}

/// Ogg: the first packet of the first page names the codec.
fn ogg(bytes: &[u8]) -> Option<&'static str> {
    if !bytes.starts_with(b"OggS") {
        return None;
    }
    let segments = usize::from(*bytes.get(26)?);
    let packet = bytes.get(27 + segments..)?;
    let begins = |with: &[u8]| packet.starts_with(with);
    Some(match () {
        () if begins(b"\x80theora") || begins(b"BBCD\0") || begins(b"\x01video") => "ogv",
        // A skeleton lists the streams without their codecs.
        () if begins(b"fishead\0") => "ogx",
        () if begins(b"OpusHead") => "opus",
        () if begins(b"Speex   ") => "spx",
        () => "ogg",
    })
}

/// An MP3 or AAC frame header, with or without a checksum.
fn mpeg_audio(bytes: &[u8]) -> Option<&'static str> {
    let &[0xFF, second, third, ..] = bytes else { return None };
    let is_mpeg = second & 0xE0 == 0xE0 && second & 0x18 != 0x08;
    // The bit rate and the sampling rate are not reserved values.
    let is_rate = third & 0xF0 != 0xF0 && third & 0x0C != 0x0C;
    match second {
        _ if second & 0xF6 == 0xF0 => Some("aac"),
        _ if is_mpeg && second & 0x06 == 0x02 && is_rate => Some("mp3"),
        _ => None,
    }
}

/// MPEG transport streams are packets of 188 bytes that begin with a G. Cameras put four bytes of time before
/// each.
fn is_transport_stream(bytes: &[u8]) -> bool {
    let begin = |start: usize, packet: usize| {
        let mut first = bytes.iter().skip(start).step_by(packet);
        bytes.len() > start + 2 * packet && (0..3).all(|_| first.next() == Some(&0x47))
    };
    begin(0, 188) || begin(4, 192)
}
