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
    assert!(KINDS.iter().all(|kind| seen.insert(kind.extension)), "an extension is listed twice");
}

#[test]
fn what_a_browser_could_run_is_never_shown() {
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
fn first_bytes_give_the_same_kind_as_the_name() {
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

/// Regression: texts in GBK were sent as UTF-8, and browsers could not read them.
#[test]
fn only_utf8_texts_are_sent_as_utf8() {
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
fn other_first_bytes_are_unknown() {
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
    // A picture that browsers cannot show keeps its type and is an attachment.
    let kind = Kind::of_content(&padded(b"8BPS\0\x01"));
    assert_eq!((kind.media_type, kind.is_shown), ("image/vnd.adobe.photoshop", false));
}
