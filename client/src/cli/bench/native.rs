//! The door of TNV itself: the client library, used as an application uses it. All threads share one client,
//! which asks a tracker before each operation, as it always does.

use tnv_client::{AppId, Client, FileId, Result, Triple, UserId};

use super::content::{Check, Content};
use super::row::{Door, File, Session};

pub(super) struct NativeDoor {
    pub(super) client: Client,
    pub(super) owner: (AppId, UserId),
}

impl Door for NativeDoor {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(NativeSession { door: self }))
    }
}

struct NativeSession<'a> {
    door: &'a NativeDoor,
}

impl NativeSession<'_> {
    fn triple(&self, file: &File) -> Result<Triple> {
        let (appid, userid) = self.door.owner.clone();
        Ok(Triple { appid, userid, fileid: FileId::new(&*file.id)? })
    }
}

impl Session for NativeSession<'_> {
    fn upload(&mut self, content: &mut Content<'_>) -> Result<Box<str>> {
        let (appid, userid) = &self.door.owner;
        let size = content.size();
        let fileid = self.door.client.upload(appid, userid, content, size)?;
        Ok(fileid.as_str().into())
    }

    fn download(&mut self, file: &File, check: &mut Check<'_>) -> Result<()> {
        self.door.client.download(&self.triple(file)?, 0, 0, check).map(drop)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        self.door.client.delete(&self.triple(file)?)
    }
}
