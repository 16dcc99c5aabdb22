//! Who may upload and delete: what is remembered of a connection, and the keys of applications that it
//! is held against. Decides, and knows neither socket nor file.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use tnv_common::auth::app_key::AppKeys;
use tnv_common::auth::secret::Secret;
use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::proto::AppId;
use tnv_common::proto::tnv::auth::{Nonce, Proof};

/// A challenge is answered at once or not at all.
const CHALLENGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Applications whose keys one connection can have proven at a time; the oldest gives way. Clients
/// have one or a few, and idle connections must stay small.
const PROVEN_MAX: usize = 8;

/// What is remembered of a connection.
#[derive(Default)]
pub struct Session {
    challenge: Option<Challenge>,
    /// With the key that was proven: should it be taken out of the file, the proof goes with it.
    proven: Vec<(AppId, Secret)>,
}

struct Challenge {
    appid: AppId,
    nonce: Nonce,
    since: Instant,
}

/// The keys of applications, and the file that they are from.
pub struct Keys {
    file: Option<PathBuf>,
    keys: RwLock<AppKeys>,
}

impl Keys {
    /// These keys; without a file there are none and never will be.
    pub fn new(file: Option<PathBuf>, keys: AppKeys) -> Arc<Keys> {
        Arc::new(Keys { file, keys: RwLock::new(keys) })
    }

    fn keys(&self) -> RwLockReadGuard<'_, AppKeys> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again. One that is at fault changes nothing: it must not open a door.
    pub fn reload(&self) {
        let Some(file) = &self.file else { return };
        match AppKeys::read(file) {
            Ok(keys) => {
                log::info!("{}: keys of {} applications", file.display(), keys.count());
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            Err(error) => log::error!("the keys of applications stay as they are: {error}"),
        }
    }

    /// The nonce that a proof is to be made with; none where the application has no key. A challenge
    /// that was open is void.
    pub fn challenge(&self, session: &mut Session, appid: AppId, now: Instant) -> Option<Nonce> {
        session.challenge = None;
        if self.keys().of(&appid).is_empty() {
            return None;
        }
        let nonce = rand::random();
        session.challenge = Some(Challenge { appid, nonce, since: now });
        Some(nonce)
    }

    /// Takes a proof. Whatever comes of it, the challenge is spent.
    pub fn prove(&self, session: &mut Session, proof: &Proof, now: Instant) -> Result<()> {
        let appid = &proof.appid;
        let open = session.challenge.take().filter(|open| {
            open.appid == *appid && now.saturating_duration_since(open.since) < CHALLENGE_TIMEOUT
        });
        let Some(open) = open else {
            return fail!(
                Forbidden,
                "no challenge for {appid} is open on this connection; ask for one first"
            );
        };
        let keys = self.keys();
        let Some(key) = keys.proven(appid, &open.nonce, &proof.nonce, &proof.mac) else {
            return fail!(Forbidden, "that is no proof of the key of {appid}; is it another key?");
        };
        session.proven.retain(|(known, _)| known != appid);
        if session.proven.len() == PROVEN_MAX {
            session.proven.remove(0);
        }
        session.proven.push((appid.clone(), key.clone()));
        Ok(())
    }

    /// Whether this connection may upload and delete files of an application.
    pub fn check(&self, session: &Session, appid: &AppId) -> Result<()> {
        let keys = self.keys();
        let valid = keys.of(appid);
        let is_proven = || session.proven.iter().any(|(known, key)| known == appid && valid.contains(key));
        match valid.is_empty() || is_proven() {
            true => Ok(()),
            false => fail!(
                Forbidden,
                "{appid} needs a key for uploads and deletes, and this connection has not proven it"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::auth::app_key::prove;
    use tnv_common::error::ErrorKind;

    fn appid(text: &str) -> AppId {
        AppId::new(text).unwrap()
    }

    fn key(text: &str) -> Secret {
        Secret::new(text).unwrap()
    }

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn keys(list: &[(&str, &str)]) -> AppKeys {
        let mut keys = AppKeys::default();
        list.iter().for_each(|(app, text)| keys.insert(appid(app), key(text)));
        keys
    }

    /// The proof of a key for a challenge.
    fn proof(app: &str, text: &str, nonce: &Nonce) -> Proof {
        let ours = [7; 32];
        Proof { appid: appid(app), nonce: ours, mac: prove(&key(text), &appid(app), nonce, &ours) }
    }

    fn refused(outcome: Result<()>) -> String {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Forbidden);
        error.message().to_owned()
    }

    #[test]
    fn an_application_with_a_key_is_open_to_those_who_proved_it() {
        let keys = Keys::new(None, keys(&[("video", KEY)]));
        let (mut session, now) = (Session::default(), Instant::now());
        assert!(refused(keys.check(&session, &appid("video"))).contains("video needs a key"));
        assert_eq!(keys.check(&session, &appid("other")), Ok(()));
        assert_eq!(keys.challenge(&mut session, appid("other"), now), None);
        let nonce = keys.challenge(&mut session, appid("video"), now).unwrap();
        assert_eq!(keys.prove(&mut session, &proof("video", KEY, &nonce), now), Ok(()));
        assert_eq!(keys.check(&session, &appid("video")), Ok(()));
        assert!(keys.check(&Session::default(), &appid("video")).is_err(), "this connection alone");
    }

    #[test]
    fn a_nonce_is_good_once_on_its_connection_for_its_application_and_for_a_while() {
        let keys = Keys::new(None, keys(&[("video", KEY), ("music", KEY)]));
        let now = Instant::now();
        let open = |session: &mut Session| keys.challenge(session, appid("video"), now).unwrap();
        let mut session = Session::default();
        let good = proof("video", KEY, &open(&mut session));
        assert!(keys.prove(&mut session, &good, now).is_ok());
        assert!(refused(keys.prove(&mut session, &good, now)).contains("no challenge"), "a second time");
        let mut other = Session::default();
        assert!(refused(keys.prove(&mut other, &good, now)).contains("no challenge"), "another connection");
        open(&mut other);
        assert!(refused(keys.prove(&mut other, &good, now)).contains("no proof"), "with its own challenge");
        assert!(keys.check(&other, &appid("video")).is_err());

        let nonce = open(&mut session);
        assert!(
            refused(keys.prove(&mut session, &proof("music", KEY, &nonce), now)).contains("no challenge")
        );
        let nonce = open(&mut session);
        let late = now + CHALLENGE_TIMEOUT;
        assert!(
            refused(keys.prove(&mut session, &proof("video", KEY, &nonce), late)).contains("no challenge")
        );
        let (first, second) = (open(&mut session), open(&mut session));
        assert_ne!(first, second);
        assert!(refused(keys.prove(&mut session, &proof("video", KEY, &first), now)).contains("no proof"));
    }

    #[test]
    fn a_key_that_is_taken_away_takes_its_proofs_along_and_another_does_not() {
        let other = "another-key-0123456789abcdef";
        let keys_now = Keys::new(None, keys(&[("video", KEY)]));
        let (mut session, now) = (Session::default(), Instant::now());
        let nonce = keys_now.challenge(&mut session, appid("video"), now).unwrap();
        keys_now.prove(&mut session, &proof("video", KEY, &nonce), now).unwrap();
        *keys_now.keys.write().unwrap() = keys(&[("video", other), ("video", KEY)]);
        assert_eq!(keys_now.check(&session, &appid("video")), Ok(()));
        *keys_now.keys.write().unwrap() = keys(&[("video", other)]);
        assert!(keys_now.check(&session, &appid("video")).is_err());
    }

    #[test]
    fn a_connection_remembers_a_few_proofs_and_no_more() {
        let names: Vec<String> = (0..=PROVEN_MAX).map(|n| format!("app{n}")).collect();
        let list: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), KEY)).collect();
        let keys = Keys::new(None, keys(&list));
        let (mut session, now) = (Session::default(), Instant::now());
        for name in &names {
            let nonce = keys.challenge(&mut session, appid(name), now).unwrap();
            keys.prove(&mut session, &proof(name, KEY, &nonce), now).unwrap();
        }
        assert_eq!(session.proven.len(), PROVEN_MAX);
        assert!(keys.check(&session, &appid(&names[0])).is_err());
        assert_eq!(keys.check(&session, &appid(&names[PROVEN_MAX])), Ok(()));
    }
}
