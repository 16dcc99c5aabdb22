//! The driver of TNV: the client library as an application uses it. All threads share one client.

use tnv_client::{AppId, Client, FileId, FileKey, Result, UserId};

use super::driver::{Driver, File, Session};
use super::payload::{Payload, Verifier};

pub(super) struct TnvDriver {
    pub(super) client: Client,
    pub(super) owner: (AppId, UserId),
}

impl Driver for TnvDriver {
    fn session(&self) -> Result<Box<dyn Session + '_>> {
        Ok(Box::new(TnvSession { driver: self }))
    }
}

struct TnvSession<'a> {
    driver: &'a TnvDriver,
}

impl TnvSession<'_> {
    fn key(&self, file: &File) -> Result<FileKey> {
        let (appid, userid) = self.driver.owner.clone();
        Ok(FileKey { appid, userid, fileid: FileId::new(&*file.id)? })
    }
}

impl Session for TnvSession<'_> {
    fn upload(&mut self, payload: &mut Payload<'_>) -> Result<Box<str>> {
        let (appid, userid) = &self.driver.owner;
        let size = payload.size();
        let fileid = self.driver.client.upload(appid, userid, payload, size)?;
        Ok(fileid.as_str().into())
    }

    fn download(&mut self, file: &File, verifier: &mut Verifier<'_>) -> Result<()> {
        self.driver.client.download(&self.key(file)?, 0, 0, verifier).map(drop)
    }

    fn delete(&mut self, file: &File) -> Result<()> {
        self.driver.client.delete(&self.key(file)?)
    }
}
