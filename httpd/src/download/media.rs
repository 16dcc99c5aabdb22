//! The one table of media types: looked up by the extension of the name in the request, else by the first
//! bytes. A browser may show sound, film, pictures and a few harmless kinds. What it could run, and what the
//! table does not have, is sent as an attachment.

use infer::MatcherType;

use crate::download::sniff;

/// So many first bytes decide: all known kinds are recognised within them.
pub const SNIFF_BYTES: usize = 1024;

/// A kind of file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// The media type.
    pub media_type: &'static str,
    /// The extension of names of this kind; empty if there is none.
    pub extension: &'static str,
    /// Whether a browser may show it under the site's origin.
    pub is_shown: bool,
    /// Whether a text of this kind is sent as UTF-8.
    pub is_utf8: bool,
}

/// An unknown kind.
pub const UNKNOWN: Kind = attached("application/octet-stream", "");

/// A kind that a browser may show.
const fn shown(media_type: &'static str, extension: &'static str) -> Kind {
    Kind { media_type, extension, is_shown: true, is_utf8: true }
}

/// A kind that is sent as an attachment: a browser could run it, or cannot show it.
const fn attached(media_type: &'static str, extension: &'static str) -> Kind {
    Kind { media_type, extension, is_shown: false, is_utf8: true }
}

/// The kinds, by extension. The type is IANA's, unless Chromium opens such files under another type only:
/// then it is that one, and a comment says so. XML in every form may carry scripts, so it is never shown.
#[rustfmt::skip]
const KINDS: &[Kind] = &[
    // Film.
    shown("video/mp4", "mp4"), shown("video/mp4", "m4v"), shown("video/mp4", "mp4v"), shown("video/mp4", "f4v"),
    shown("video/mp4", "cmfv"), shown("video/iso.segment", "m4s"),
    // Chromium plays it in a page, and downloads it when its address is opened.
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
    // Playlists and subtitles.
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
    // Documents.
    shown("text/plain", "txt"), shown("text/plain", "log"),
    shown("text/csv", "csv"), shown("application/json", "json"), shown("application/pdf", "pdf"),
];

impl Kind {
    /// The kind by the extension of a name, if it is known.
    pub fn of_name(name: &str) -> Option<Kind> {
        let (_, extension) = name.rsplit_once('.')?;
        // What the table does not have (documents, programs, archives) is never shown.
        Kind::of_extension(extension).or_else(|| {
            let media_type = mime_guess::from_ext(extension).first_raw()?;
            Some(attached(media_type, ""))
        })
    }

    /// The kind by the first bytes. Only sound, film and pictures are recognised; nothing else may be shown.
    pub fn of_content(bytes: &[u8]) -> Kind {
        let kind = match sniff::extension(bytes).and_then(Kind::of_extension) {
            Some(kind) => kind,
            None => inferred(bytes).unwrap_or(UNKNOWN),
        };
        // The last character may be cut.
        let is_utf8 = std::str::from_utf8(bytes).err().is_none_or(|error| error.error_len().is_none());
        Kind { is_utf8, ..kind }
    }

    /// The kind by name and first bytes together: the name decides, and the bytes say whether a text is
    /// UTF-8.
    pub fn with_content(self, content: Kind) -> Kind {
        Kind { is_utf8: content.is_utf8, ..self }
    }

    /// Whether it is text: then the first bytes matter although the name is known.
    pub fn is_text(self) -> bool {
        self.media_type.starts_with("text/")
    }

    fn of_extension(extension: &str) -> Option<Kind> {
        KINDS.iter().find(|kind| kind.extension.eq_ignore_ascii_case(extension)).copied()
    }

    /// The `Content-Type` value. A text in another character set (GBK, Latin-1) gets no charset, and the
    /// browser detects it.
    pub fn content_type(self) -> String {
        match self.is_text() && self.is_utf8 {
            true => format!("{}; charset=utf-8", self.media_type),
            false => self.media_type.to_owned(),
        }
    }
}

/// The kind that the `infer` crate recognises, as the table has it.
fn inferred(bytes: &[u8]) -> Option<Kind> {
    let found = infer::get(bytes)?;
    let is_media =
        matches!(found.matcher_type(), MatcherType::Audio | MatcherType::Video | MatcherType::Image);
    // Many texts begin with the two letters of a bitmap, whose header also has four zeros.
    let is_text = found.extension() == "bmp" && bytes.get(6..10) != Some(&[0; 4]);
    if !is_media || is_text {
        return None;
    }
    Some(Kind::of_extension(found.extension()).unwrap_or(attached(found.mime_type(), found.extension())))
}

#[cfg(test)]
#[path = "media_tests.rs"]
mod tests;
