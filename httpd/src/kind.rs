//! What a file is, and whether a browser may show it: one table of media types, looked up by the end of the name
//! that the request gives the file, else by its first bytes. A browser shows sound, film, pictures and a few
//! harmless kinds beside them; what it might run, and what the table does not have, comes as an attachment.

use infer::MatcherType;

/// As many first bytes are looked at: the kinds that are known tell themselves within these.
pub const SNIFF_BYTES: usize = 1024;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The media type.
    pub media_type: &'static str,
    /// What a name of this kind ends with; empty where it is not known.
    pub extension: &'static str,
    /// Whether a browser may show it in the site's name.
    pub is_shown: bool,
    /// Whether its text, where it is text, is taken for UTF-8.
    pub is_utf8: bool,
}

/// What is not known.
pub const UNKNOWN: Kind = attached("application/octet-stream", "");

/// A kind that a browser may show.
const fn shown(media_type: &'static str, extension: &'static str) -> Kind {
    Kind { media_type, extension, is_shown: true, is_utf8: true }
}

/// A kind that is only for keeping: a browser might run it, or cannot show it.
const fn attached(media_type: &'static str, extension: &'static str) -> Kind {
    Kind { media_type, extension, is_shown: false, is_utf8: true }
}

/// The kinds of media, by the end of their names. The type is the one that IANA lists, unless Chromium does not
/// open a file of that type and opens it under another one: then it is that one, and a comment says so. XML in
/// every form may carry scripts, so it is never shown.
#[rustfmt::skip]
const KINDS: &[Kind] = &[
    // Film.
    shown("video/mp4", "mp4"), shown("video/mp4", "m4v"), shown("video/mp4", "mp4v"), shown("video/mp4", "f4v"),
    shown("video/mp4", "cmfv"), shown("video/iso.segment", "m4s"),
    // Chromium plays it in a page, and keeps it where its address is opened.
    shown("video/quicktime", "mov"), shown("video/quicktime", "qt"),
    shown("video/webm", "webm"),
    shown("video/matroska", "mkv"), shown("video/matroska-3d", "mk3d"),
    shown("video/ogg", "ogv"), shown("application/ogg", "ogx"),
    shown("video/mp2t", "ts"), shown("video/mp2t", "m2ts"), shown("video/mp2t", "mts"), shown("video/mp2t", "m2t"),
    shown("video/mpeg", "mpg"), shown("video/mpeg", "mpeg"), shown("video/mpeg", "mpe"),
    shown("video/mpeg", "m1v"), shown("video/mpeg", "m2v"), shown("video/mpeg", "vob"),
    shown("video/3gpp", "3gp"), shown("video/3gpp", "3gpp"), shown("video/3gpp2", "3g2"),
    // IANA lists video/vnd.avi, which players do not know.
    shown("video/x-msvideo", "avi"),
    // IANA lists none for these.
    shown("video/x-flv", "flv"), shown("video/x-ms-wmv", "wmv"), shown("video/x-ms-asf", "asf"),
    attached("application/mxf", "mxf"),
    attached("application/vnd.rn-realmedia", "rm"), attached("application/vnd.rn-realmedia-vbr", "rmvb"),
    // Sound.
    shown("audio/mpeg", "mp3"), shown("audio/mpeg", "mp2"), shown("audio/mpeg", "mpga"),
    shown("audio/mp4", "m4a"), shown("audio/mp4", "m4b"), shown("audio/mp4", "m4r"), shown("audio/mp4", "mp4a"),
    shown("audio/mp4", "cmfa"),
    shown("audio/aac", "aac"), shown("audio/aac", "adts"),
    shown("audio/flac", "flac"),
    shown("audio/ogg", "ogg"), shown("audio/ogg", "oga"), shown("audio/ogg", "opus"), shown("audio/ogg", "spx"),
    shown("audio/webm", "weba"),
    shown("audio/matroska", "mka"),
    // IANA lists audio/vnd.wave, which Chromium does not open.
    shown("audio/wav", "wav"), shown("audio/wav", "wave"),
    shown("audio/amr", "amr"),
    shown("audio/ac3", "ac3"), shown("audio/eac3", "eac3"), shown("audio/vnd.dts", "dts"),
    // IANA lists none for these.
    shown("audio/midi", "mid"), shown("audio/midi", "midi"),
    shown("audio/aiff", "aif"), shown("audio/aiff", "aiff"),
    shown("audio/x-caf", "caf"), shown("audio/x-ms-wma", "wma"),
    // Lists of pieces, and words to go with film.
    shown("application/vnd.apple.mpegurl", "m3u8"), shown("audio/mpegurl", "m3u"),
    attached("application/dash+xml", "mpd"),
    shown("text/vtt", "vtt"),
    attached("application/x-subrip", "srt"), attached("text/x-ssa", "ass"), attached("text/x-ssa", "ssa"),
    attached("application/ttml+xml", "ttml"),
    // Pictures.
    shown("image/jpeg", "jpg"), shown("image/jpeg", "jpeg"), shown("image/jpeg", "jpe"), shown("image/jpeg", "jfif"),
    shown("image/png", "png"), shown("image/apng", "apng"),
    shown("image/gif", "gif"), shown("image/webp", "webp"), shown("image/avif", "avif"),
    shown("image/heic", "heic"), shown("image/heif", "heif"), shown("image/jxl", "jxl"),
    shown("image/bmp", "bmp"), shown("image/vnd.microsoft.icon", "ico"),
    shown("image/tiff", "tif"), shown("image/tiff", "tiff"), shown("image/jp2", "jp2"),
    attached("image/svg+xml", "svg"), attached("image/svg+xml", "svgz"),
    // What is read.
    shown("text/plain", "txt"), shown("text/plain", "log"),
    shown("text/csv", "csv"), shown("application/json", "json"), shown("application/pdf", "pdf"),
];

impl Kind {
    /// What the end of a name says, if anything.
    pub fn of_name(name: &str) -> Option<Kind> {
        let (_, extension) = name.rsplit_once('.')?;
        // What the table does not have is a document, a program or an archive, and never shown.
        Kind::of_extension(extension).or_else(|| {
            let media_type = mime_guess::from_ext(extension).first_raw()?;
            Some(attached(media_type, ""))
        })
    }

    /// What the first bytes say. Only sound, film and pictures are recognised: everything else is not for a
    /// browser to show.
    pub fn of_content(bytes: &[u8]) -> Kind {
        let extension = iso_media(bytes)
            .or_else(|| ogg(bytes))
            .or_else(|| mpeg_audio(bytes))
            .or_else(|| is_transport_stream(bytes).then_some("ts"));
        let kind = match extension.and_then(Kind::of_extension) {
            Some(kind) => kind,
            None => inferred(bytes).unwrap_or(UNKNOWN),
        };
        // A letter of several bytes may be cut at the end of what is looked at.
        let is_utf8 = std::str::from_utf8(bytes).err().is_none_or(|error| error.error_len().is_none());
        Kind { is_utf8, ..kind }
    }

    /// What a file is by its name and by its first bytes together: the name says what it is, and the bytes of a
    /// text in which character set it is not.
    pub fn with_content(self, content: Kind) -> Kind {
        Kind { is_utf8: content.is_utf8, ..self }
    }

    /// Whether the first bytes are to be looked at though the name is known.
    pub fn is_text(self) -> bool {
        self.media_type.starts_with("text/")
    }

    fn of_extension(extension: &str) -> Option<Kind> {
        KINDS.iter().find(|kind| kind.extension.eq_ignore_ascii_case(extension)).copied()
    }

    /// The `Content-Type` value. A text in the character set of its language (GBK, Latin-1) must not be called
    /// UTF-8: without a word of it a browser finds out itself.
    pub fn content_type(self) -> String {
        match self.is_text() && self.is_utf8 {
            true => format!("{}; charset=utf-8", self.media_type),
            false => self.media_type.to_owned(),
        }
    }
}

/// What a library recognises, under the name that the table has for it.
fn inferred(bytes: &[u8]) -> Option<Kind> {
    let found = infer::get(bytes)?;
    let is_media =
        matches!(found.matcher_type(), MatcherType::Audio | MatcherType::Video | MatcherType::Image);
    // Two letters alone are the beginning of many texts. The head of a bitmap has four zeros.
    let is_text = found.extension() == "bmp" && bytes.get(6..10) != Some(&[0; 4]);
    if !is_media || is_text {
        return None;
    }
    Some(Kind::of_extension(found.extension()).unwrap_or(attached(found.mime_type(), found.extension())))
}

/// MP4 and its relatives begin with their brand, and with those that they are compatible with.
fn iso_media(bytes: &[u8]) -> Option<&'static str> {
    let (head, brands) = bytes.split_at_checked(8)?;
    let (length, name) = head.split_first_chunk()?;
    if name != b"ftyp" {
        return None;
    }
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?.clamp(8, bytes.len());
    // After the first brand comes its version.
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
        // A list of the streams: it does not say what they are.
        () if begins(b"fishead\0") => "ogx",
        () if begins(b"OpusHead") => "opus",
        () if begins(b"Speex   ") => "spx",
        () => "ogg",
    })
}

/// The head of a frame of MP3 or AAC, with a checksum or without.
fn mpeg_audio(bytes: &[u8]) -> Option<&'static str> {
    let &[0xFF, second, third, ..] = bytes else { return None };
    let is_mpeg = second & 0xE0 == 0xE0 && second & 0x18 != 0x08;
    // Neither the bit rate nor the sampling rate is one that is forbidden.
    let is_rate = third & 0xF0 != 0xF0 && third & 0x0C != 0x0C;
    match second {
        _ if second & 0xF6 == 0xF0 => Some("aac"),
        _ if is_mpeg && second & 0x06 == 0x02 && is_rate => Some("mp3"),
        _ => None,
    }
}

/// MPEG transport streams are packets of 188 bytes that begin with a G; those of cameras have four bytes of time
/// before each.
fn is_transport_stream(bytes: &[u8]) -> bool {
    let begin = |start: usize, packet: usize| {
        let mut first = bytes.iter().skip(start).step_by(packet);
        bytes.len() > start + 2 * packet && (0..3).all(|_| first.next() == Some(&0x47))
    };
    begin(0, 188) || begin(4, 192)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_people_store_has_the_type_that_players_open() {
        for (extensions, media_type, is_shown) in [
            ("mp4 MP4 m4v mp4v f4v cmfv", "video/mp4", true),
            ("m4s", "video/iso.segment", true),
            ("mov qt", "video/quicktime", true),
            ("webm", "video/webm", true),
            ("mkv", "video/matroska", true),
            ("mk3d", "video/matroska-3d", true),
            ("ogv", "video/ogg", true),
            ("ogx", "application/ogg", true),
            ("ts m2ts mts m2t", "video/mp2t", true),
            ("mpg mpeg mpe m1v m2v vob", "video/mpeg", true),
            ("3gp 3gpp", "video/3gpp", true),
            ("3g2", "video/3gpp2", true),
            ("avi", "video/x-msvideo", true),
            ("flv", "video/x-flv", true),
            ("wmv", "video/x-ms-wmv", true),
            ("asf", "video/x-ms-asf", true),
            ("mxf", "application/mxf", false),
            ("rm", "application/vnd.rn-realmedia", false),
            ("rmvb", "application/vnd.rn-realmedia-vbr", false),
            ("mp3 mp2 mpga", "audio/mpeg", true),
            ("m4a M4A m4b m4r mp4a cmfa", "audio/mp4", true),
            ("aac adts", "audio/aac", true),
            ("flac", "audio/flac", true),
            ("ogg oga opus spx", "audio/ogg", true),
            ("weba", "audio/webm", true),
            ("mka", "audio/matroska", true),
            ("wav wave", "audio/wav", true),
            ("amr", "audio/amr", true),
            ("ac3", "audio/ac3", true),
            ("eac3", "audio/eac3", true),
            ("dts", "audio/vnd.dts", true),
            ("mid midi", "audio/midi", true),
            ("aif aiff", "audio/aiff", true),
            ("caf", "audio/x-caf", true),
            ("wma", "audio/x-ms-wma", true),
            ("m3u8", "application/vnd.apple.mpegurl", true),
            ("m3u", "audio/mpegurl", true),
            ("mpd", "application/dash+xml", false),
            ("vtt", "text/vtt", true),
            ("srt", "application/x-subrip", false),
            ("ass ssa", "text/x-ssa", false),
            ("ttml", "application/ttml+xml", false),
            ("jpg jpeg jpe jfif", "image/jpeg", true),
            ("png", "image/png", true),
            ("apng", "image/apng", true),
            ("gif", "image/gif", true),
            ("webp", "image/webp", true),
            ("avif", "image/avif", true),
            ("heic", "image/heic", true),
            ("heif", "image/heif", true),
            ("jxl", "image/jxl", true),
            ("bmp", "image/bmp", true),
            ("ico", "image/vnd.microsoft.icon", true),
            ("tif tiff", "image/tiff", true),
            ("jp2", "image/jp2", true),
            ("svg svgz", "image/svg+xml", false),
            ("txt log", "text/plain", true),
            ("csv", "text/csv", true),
            ("json", "application/json", true),
            ("pdf", "application/pdf", true),
        ] {
            for extension in extensions.split(' ') {
                let kind = Kind::of_name(&format!("a b.c.{extension}")).unwrap();
                assert_eq!((kind.media_type, kind.is_shown), (media_type, is_shown), "{extension}");
            }
        }
        let mut seen = BTreeSet::new();
        assert!(KINDS.iter().all(|kind| seen.insert(kind.extension)), "an extension is there twice");
    }

    #[test]
    fn what_a_browser_might_run_is_never_shown() {
        for (name, media_type) in [
            ("a.html", "text/html"),
            ("a.xhtml", "application/xhtml+xml"),
            ("a.xml", "text/xml"),
            ("a.js", "text/javascript"),
            ("a.wasm", "application/wasm"),
            ("a.swf", "application/x-shockwave-flash"),
            ("a.zip", "application/zip"),
        ] {
            let kind = Kind::of_name(name).unwrap();
            assert_eq!((kind.media_type, kind.is_shown), (media_type, false), "{name}");
        }
        for name in
            ["a.mht", "a.mhtml", "a.xsl", "a.hta", "a.htc", "a.shtml", "a.mjs", "a.rdf", "a.atom", "a.css"]
        {
            assert!(!Kind::of_name(name).unwrap_or(UNKNOWN).is_shown, "{name}");
        }
        assert_eq!((Kind::of_name("no extension"), Kind::of_name("a.")), (None, None));
        let is_xml = |kind: &&Kind| kind.media_type.ends_with("xml") || kind.media_type.contains("html");
        assert!(!KINDS.iter().filter(is_xml).any(|kind| kind.is_shown));
    }

    fn padded(bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        bytes.resize(600, 0);
        bytes
    }

    /// The first box of an MP4 or a relative of it.
    fn ftyp(brands: &str) -> Vec<u8> {
        let (major, others) = brands.split_at(4);
        let length = u32::try_from(16 + others.len()).unwrap().to_be_bytes();
        padded(&[&length, &b"ftyp"[..], major.as_bytes(), &[0; 4], others.as_bytes()].concat())
    }

    fn ogg_page(packet: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0\x02".to_vec();
        page.resize(26, 0);
        page.extend([1, u8::try_from(packet.len()).unwrap()]);
        page.extend(packet);
        padded(&page)
    }

    fn stream(start: usize, packet: usize) -> Vec<u8> {
        let mut stream = vec![0; 800];
        (start..800).step_by(packet).for_each(|at| stream[at] = 0x47);
        stream
    }

    #[test]
    fn first_bytes_say_the_same_as_a_name() {
        for (bytes, extension) in [
            (ftyp("isomisomiso2avc1mp41"), "mp4"),
            (ftyp("iso6dashcmfc"), "mp4"),
            (ftyp("M4V M4V M4A mp42isom"), "mp4"),
            (ftyp("mp42mp42isom"), "mp4"),
            (ftyp("M4A M4A mp42isom"), "m4a"),
            (ftyp("M4B "), "m4a"),
            (ftyp("qt  qt  "), "mov"),
            (ftyp("3gp53gp5isom"), "3gp"),
            (ftyp("3g2a"), "3g2"),
            (ftyp("heicmif1heic"), "heic"),
            (ftyp("mif1mif1heic"), "heic"),
            (ftyp("mif1mif1"), "heif"),
            (ftyp("avifmif1avif"), "avif"),
            (ftyp("mif1avif"), "avif"),
            (padded(b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\x01\x42\x82\x84webm"), "webm"),
            (padded(b"\x1a\x45\xdf\xa3\xa3\x42\x86\x81\x01\x42\x82\x88matroska"), "mkv"),
            (stream(0, 188), "ts"),
            (stream(4, 192), "ts"),
            (padded(b"RIFF\0\0\0\0AVI LIST"), "avi"),
            (padded(b"RIFF\0\0\0\0WAVEfmt "), "wav"),
            (padded(b"RIFF\0\0\0\0WEBPVP8 "), "webp"),
            (padded(b"FLV\x01\x05"), "flv"),
            (padded(b"\0\0\x01\xba\x44"), "mpg"),
            (padded(b"ID3\x04\0\0\0\0\0\0"), "mp3"),
            (padded(b"\xFF\xFB\x90\x64"), "mp3"),
            (padded(b"\xFF\xFA\x90\x64"), "mp3"),
            (padded(b"\xFF\xF1\x50\x80"), "aac"),
            (padded(b"\xFF\xF0\x50\x80"), "aac"),
            (padded(b"fLaC\0\0\0\x22"), "flac"),
            (ogg_page(b"\x01vorbis"), "ogg"),
            (ogg_page(b"OpusHead\x01"), "opus"),
            (ogg_page(b"Speex   1.2"), "spx"),
            (ogg_page(b"\x80theora"), "ogv"),
            (ogg_page(b"fishead\0"), "ogx"),
            (padded(b"#!AMR\n"), "amr"),
            (padded(b"MThd\0\0\0\x06"), "midi"),
            (padded(b"FORM\0\0\0\0AIFFCOMM"), "aiff"),
            (padded(b"\xFF\xD8\xFF\xE0\0\x10JFIF"), "jpg"),
            (padded(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), "png"),
            (padded(b"GIF89a"), "gif"),
            (padded(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0"), "bmp"),
            (padded(b"II*\0\x08\0\0\0\x01\0"), "tif"),
            (padded(b"\0\0\x01\0\x01\0"), "ico"),
            (padded(b"\0\0\0\x0cJXL \r\n\x87\n"), "jxl"),
            (padded(b"\0\0\0\x0cjP  \r\n\x87\n\0"), "jp2"),
        ] {
            let kind = Kind { is_utf8: true, ..Kind::of_content(&bytes) };
            assert_eq!(kind, Kind::of_extension(extension).unwrap(), "{extension}");
        }
    }

    /// The story: texts in GBK were sent as UTF-8, and no browser could read them.
    #[test]
    fn only_a_text_in_utf8_is_called_so() {
        let text = Kind::of_name("a.txt").unwrap();
        assert_eq!(text.content_type(), "text/plain; charset=utf-8");
        for (bytes, content_type) in [
            (&b""[..], "text/plain; charset=utf-8"),
            (b"plain", "text/plain; charset=utf-8"),
            ("\u{7535}\u{5F71}".as_bytes(), "text/plain; charset=utf-8"),
            (&"\u{7535}\u{5F71}".as_bytes()[..5], "text/plain; charset=utf-8"),
            (b"\xB5\xE7\xD3\xB0", "text/plain"),
            (b"caf\xE9 au lait", "text/plain"),
            (b"\xFF\xFEh\0i\0", "text/plain"),
        ] {
            assert_eq!(text.with_content(Kind::of_content(bytes)).content_type(), content_type, "{bytes:?}");
        }
        let film = Kind::of_name("a.mp4").unwrap();
        assert!(!film.is_text() && text.is_text());
        assert_eq!(film.content_type(), "video/mp4");
    }

    #[test]
    fn first_bytes_of_anything_else_say_nothing() {
        for bytes in [
            &b""[..],
            b"\0\0\0\x18ftyp",
            b"\xFF",
            b"\xFF\xFEt\0e\0x\0t\0",
            b"BMW is a maker of cars",
            b"<!DOCTYPE html><script>alert(1)</script>",
            b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>",
            b"%PDF-1.7",
            b"text",
            b"GGGGGGGG",
        ] {
            assert_eq!(Kind { is_utf8: true, ..Kind::of_content(bytes) }, UNKNOWN, "{bytes:?}");
        }
        // A picture that no browser shows keeps its type and is not shown.
        let kind = Kind::of_content(&padded(b"8BPS\0\x01"));
        assert_eq!((kind.media_type, kind.is_shown), ("image/vnd.adobe.photoshop", false));
    }
}
