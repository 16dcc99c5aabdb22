//! TNV's commands: decodes each request, has the other rooms do it, and answers. It touches neither
//! the disk nor a table itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::proto::tnv::auth::{Proof, decode_challenge};
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{
    CheckedUpload, Download, Read, UPLOAD_BYTES, UPLOAD_CHECKED_BYTES, Upload,
};
use tnv_common::proto::tnv::{REPLY_STORAGE, command};
use tnv_common::rpc::dialect::Tnv;
use tnv_common::rpc::server::{Handler, Request};

use crate::catalog::Catalog;
use crate::catalog::find::{self, stat};
use crate::file::read::OpenFile;
use crate::session::{Keys, Session};

/// The commands on the files of this catalog.
pub struct Service {
    catalog: Arc<Catalog>,
    keys: Arc<Keys>,
}

impl Service {
    /// Serves these files, to whom these keys let.
    pub fn new(catalog: Arc<Catalog>, keys: Arc<Keys>) -> Service {
        Service { catalog, keys }
    }

    fn upload(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let upload = Upload::decode(&request.head()?, request.body_bytes())?;
        self.keys.check(request.conn, &upload.file.appid)?;
        request.receive(self.catalog.upload(upload.file, upload.size, None)?);
        Ok(())
    }

    fn upload_checked(&self, request: &mut Request<'_, Session>) -> Result<()> {
        if request.body_bytes() == 0 {
            // The question whether this command is known.
            request.reply(&[]);
            return Ok(());
        }
        let CheckedUpload { upload, crc32 } = CheckedUpload::decode(&request.head()?, request.body_bytes())?;
        self.keys.check(request.conn, &upload.file.appid)?;
        request.receive(self.catalog.upload(upload.file, upload.size, Some(crc32))?);
        Ok(())
    }

    fn file_size(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let found = self.catalog.look(&FileKey::decode(&request.fixed()?)?)?;
        request.reply(&found.size().to_be_bytes());
        Ok(())
    }

    fn stat(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let found = self.catalog.look(&FileKey::decode(&request.fixed()?)?)?;
        request.reply(&stat(&found).encode());
        Ok(())
    }

    fn download(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let download = Download::decode(&request.fixed()?)?;
        let found = self.catalog.open(&download.file)?;
        let (offset, bytes) = download.check(found.size())?;
        self.reply_file(request, download.file, &[], found, offset..offset + bytes);
        Ok(())
    }

    fn fetch(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let download = Download::decode(&request.fixed()?)?;
        let found = self.catalog.open(&download.file)?;
        let (offset, bytes) = download.clip(found.size())?;
        let stat = stat(&found).encode();
        self.reply_file(request, download.file, &stat, found, offset..offset + bytes);
        Ok(())
    }

    fn read(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let Read { download, unique } = Read::decode(&request.fixed()?)?;
        let found = self.catalog.open(&download.file)?;
        if find::unique(&found) != unique {
            return fail!(NotFound, "the file was uploaded anew, fileid: {}", download.file.fileid);
        }
        let (offset, bytes) = download.check(found.size())?;
        self.reply_file(request, download.file, &[], found, offset..offset + bytes);
        Ok(())
    }

    /// Replies with a part of a file. Where the disk does not give it, that is noted like a failed write, and the
    /// client asks another member.
    fn reply_file(
        &self,
        request: &mut Request<'_, Session>,
        file: FileKey,
        head: &[u8],
        found: OpenFile<File>,
        part: Range<u64>,
    ) {
        let catalog = Arc::clone(&self.catalog);
        let (content, row) = found.into_parts();
        let failed = move |error: &io::Error| catalog.read_failed(&file, &row.path, error);
        request.reply_file(head, content, part, Box::new(failed));
    }

    fn delete(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let file = FileKey::decode(&request.fixed()?)?;
        self.keys.check(request.conn, &file.appid)?;
        self.catalog.delete(&file)?;
        request.reply(&[]);
        Ok(())
    }
}

impl Service {
    fn challenge(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let appid = decode_challenge(&request.fixed()?)?;
        let nonce = self.keys.challenge(request.conn, appid, Instant::now());
        request.reply(nonce.as_ref().map_or(&[], |nonce| nonce.as_slice()));
        Ok(())
    }

    fn prove(&self, request: &mut Request<'_, Session>) -> Result<()> {
        let proof = Proof::decode(&request.fixed()?)?;
        self.keys.prove(request.conn, &proof, Instant::now())?;
        request.reply(&[]);
        Ok(())
    }
}

/// The commands with content, and what comes before it.
const HEADS: &[(u8, usize)] =
    &[(command::UPLOAD, UPLOAD_BYTES), (command::UPLOAD_CHECKED, UPLOAD_CHECKED_BYTES)];

/// How a storage on this host speaks.
pub fn dialect(host: &str) -> Tnv {
    Tnv::new(REPLY_STORAGE, host).with_heads(HEADS)
}

impl Handler for Service {
    type Conn = Session;

    fn handle(&self, request: &mut Request<'_, Session>) -> Result<()> {
        match request.command() {
            command::UPLOAD => self.upload(request),
            command::FILE_SIZE => self.file_size(request),
            command::DOWNLOAD => self.download(request),
            command::DELETE => self.delete(request),
            command::STAT => self.stat(request),
            command::READ => self.read(request),
            command::FETCH => self.fetch(request),
            command::UPLOAD_CHECKED => self.upload_checked(request),
            command::CHALLENGE => self.challenge(request),
            command::PROVE => self.prove(request),
            _ => Err(request.unknown_command()),
        }
    }
}
