//! The settings that every server has, and those of the database, made of several keys each.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::keys::{self, AnyKey};
use super::{Config, ConfigError, Part, read};
use crate::auth::secret::{HOW_TO_MAKE, Secret};
use crate::auth::signed_link::LinkSecrets;
use crate::db::{DbSettings, Password, Tls, TlsMode};
use crate::limits::RESERVED_FDS;
use crate::net;
use crate::net::allow::AllowList;
use crate::net::event_loop::ServerSettings;
use crate::text;

/// Longer than any password; a longer file is the wrong one.
const PASSWORD_FILE_BYTES_MAX: usize = 4096;

/// Far more than all public certificates together; a longer file is the wrong one.
const CA_FILE_BYTES_MAX: usize = 4 << 20;

/// What every server needs to know.
#[derive(Clone, Debug)]
pub struct CommonSettings {
    /// The address to listen on.
    pub bind: SocketAddr,
    /// Most requests worked on at once.
    pub threads: usize,
    /// Most connections, no more than the descriptors allow.
    pub max_conns: usize,
    /// Who may connect.
    pub allow_hosts: AllowList,
    /// How long what is under way may take when the server is told to stop.
    pub stop_timeout: Duration,
    /// Where the log goes; standard error otherwise.
    pub log_file: Option<PathBuf>,
}

impl CommonSettings {
    /// What of it the server loop needs.
    pub fn server(&self, part: Part) -> ServerSettings {
        ServerSettings {
            name: part.binary(),
            threads: self.threads,
            max_conns: self.max_conns,
            allow_hosts: self.allow_hosts.clone(),
            stop_timeout: self.stop_timeout,
        }
    }
}

impl Config {
    /// The settings of every server. Host names are resolved here.
    pub fn common(&self) -> Result<CommonSettings, Vec<ConfigError>> {
        let threads = self.get(&keys::TNV_THREADS)?;
        let max_conns = self.get(&keys::TNV_MAX_CONNS)?.min(self.conns_allowed(threads));
        Ok(CommonSettings {
            bind: self.bind()?,
            threads: threads as usize,
            max_conns: max_conns as usize,
            allow_hosts: self.get(&keys::TNV_ALLOW_HOSTS)?,
            stop_timeout: self.get(&keys::TNV_STOP_TIMEOUT)?,
            log_file: self.get(&keys::TNV_LOG_FILE)?,
        })
    }

    /// The settings of the database.
    pub fn database(&self) -> Result<DbSettings, Vec<ConfigError>> {
        Ok(DbSettings {
            addresses: self.get(&keys::MYSQL_ADDRS)?,
            user: self.get(&keys::MYSQL_USER)?,
            password: self.password()?,
            rw_timeout: self.get(&keys::MYSQL_RW_TIMEOUT)?,
            tls: self.mysql_tls()?,
            charset: self.get(&keys::MYSQL_CHARSET)?,
            directory: self.get(&keys::TNV_DB_PATH)?,
            durable: true,
        })
    }

    fn bind(&self) -> Result<SocketAddr, ConfigError> {
        let mut address = self.get(&keys::TNV_BIND)?;
        if self.is_port_set() {
            address.port = Some(self.get(&keys::TNV_STORAGE_PORT)? as u16);
        }
        let found = net::resolve(&address.to_string(), self.part.default_port())
            .map_err(|error| self.error(&keys::TNV_BIND, error, "a host that can be resolved"))?;
        // A name may stand for both; the protocol's clients know IPv4.
        let ipv4 = found.iter().find(|address| address.is_ipv4());
        let chosen = ipv4.or(found.first()).copied();
        chosen.ok_or_else(|| self.error(&keys::TNV_BIND, "a host without an address", "one that has one"))
    }

    fn is_port_set(&self) -> bool {
        self.part == Part::Storage && self.is_set(&keys::TNV_STORAGE_PORT)
    }

    /// The connections that the descriptor limit has room for, each of them with what its request
    /// may open beside it, as far as threads can work on requests at once.
    fn conns_allowed(&self, threads: u64) -> u64 {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let free = limit.saturating_sub(RESERVED_FDS);
        let extra = self.part.descriptors_per_request();
        let all_busy = free / (extra + 1);
        if all_busy <= threads { all_busy.max(1) } else { free - threads * extra }
    }

    fn password(&self) -> Result<Password, ConfigError> {
        let Some(file) = self.get(&keys::MYSQL_PASS_FILE)? else {
            return self.get(&keys::MYSQL_PASS);
        };
        if self.is_set(&keys::MYSQL_PASS) {
            let got = format!("it beside mysql_pass on line {}", self.line(&keys::MYSQL_PASS));
            return Err(self.error(&keys::MYSQL_PASS_FILE, got, "one of the two"));
        }
        password_of(&file).map(Password::new).map_err(|error| {
            let got = format!("{}: {error}", file.display());
            self.error(&keys::MYSQL_PASS_FILE, got, "a file with the password as its first line")
        })
    }

    fn mysql_tls(&self) -> Result<Tls, ConfigError> {
        let (mode, file) = (self.get(&keys::MYSQL_TLS)?, self.get(&keys::MYSQL_TLS_CA_FILE)?);
        match (mode, file) {
            (TlsMode::Off, None) => Ok(Tls::Off),
            (TlsMode::Required, None) => Ok(Tls::Required),
            (TlsMode::Verify, None) => Ok(Tls::Verify { ca_file: None }),
            (TlsMode::Verify, Some(file)) => match check_certificates(&file) {
                Ok(()) => Ok(Tls::Verify { ca_file: Some(file) }),
                Err(error) => {
                    let got = format!("{}: {error}", file.display());
                    Err(self.error(&keys::MYSQL_TLS_CA_FILE, got, "a file with certificates (PEM)"))
                }
            },
            (TlsMode::Off | TlsMode::Required, Some(_)) => {
                let got = "a file that would not be used";
                Err(self.error(&keys::MYSQL_TLS_CA_FILE, got, "mysql_tls = verify beside it"))
            }
        }
    }

    /// The secrets of signed links, where links are to be signed.
    pub fn link_secrets(&self) -> Result<Option<LinkSecrets>, ConfigError> {
        let Some(file) = self.get(&keys::TNV_HTTP_SECRET_FILE)? else {
            let text = self.get(&keys::TNV_HTTP_SECRET)?;
            return match text.expose() {
                "" => Ok(None),
                text => match Secret::new(text) {
                    Ok(secret) => Ok(Some(LinkSecrets::one(secret))),
                    Err(error) => Err(self.error(&keys::TNV_HTTP_SECRET, error, HOW_TO_MAKE)),
                },
            };
        };
        if self.is_set(&keys::TNV_HTTP_SECRET) {
            let got = format!("it beside tnv_http_secret on line {}", self.line(&keys::TNV_HTTP_SECRET));
            return Err(self.error(&keys::TNV_HTTP_SECRET_FILE, got, "one of the two"));
        }
        let read = LinkSecrets::read(&file).map(Some);
        read.map_err(|got| self.error(&keys::TNV_HTTP_SECRET_FILE, got, LinkSecrets::form()))
    }

    /// What a server that others than this host can reach should be told of who may, a line each.
    pub fn exposure_warnings(&self, common: &CommonSettings) -> Vec<String> {
        let CommonSettings { bind, allow_hosts: hosts, .. } = common;
        if bind.ip().to_canonical().is_loopback() {
            return Vec::new();
        }
        let mut doors: Vec<(&'static dyn AnyKey, String)> = Vec::new();
        if !hosts.is_set() {
            let text = format!(
                "not set, so everybody who reaches {bind} may connect; set it to the networks that may, \
                 or to 0.0.0.0/0;::/0 where that is meant"
            );
            doors.push((&keys::TNV_ALLOW_HOSTS, text));
        } else if hosts.is_loopback_only() {
            let text =
                format!("only this host itself may connect, though {bind} is not its loopback address");
            doors.push((&keys::TNV_ALLOW_HOSTS, text));
        }
        if self.part == Part::Tracker && !self.is_set(&keys::TNV_ALLOW_JOIN) {
            let text = "not set, so whoever may connect may also join as a storage, and clients are sent to \
                        it; set it to the hosts of the storages";
            doors.push((&keys::TNV_ALLOW_JOIN, text.to_owned()));
        }
        doors.into_iter().map(|(key, text)| self.notice(key, &text)).collect()
    }

    /// Settings that others overrule, each with the reason.
    pub(super) fn overruled(&self) -> Vec<(&'static dyn AnyKey, String)> {
        let mut overruled: Vec<(&'static dyn AnyKey, String)> = Vec::new();
        if let (true, Ok(bind), Ok(port)) =
            (self.is_port_set(), self.get(&keys::TNV_BIND), self.get(&keys::TNV_STORAGE_PORT))
            && self.is_set(&keys::TNV_BIND)
            && bind.port.is_some_and(|bound| u64::from(bound) != port)
        {
            overruled.push((&keys::TNV_BIND, format!("tnv_storage_port sets the port to {port}")));
        }
        if let (true, Ok(conns), Ok(threads)) =
            (self.is_set(&keys::TNV_MAX_CONNS), self.get(&keys::TNV_MAX_CONNS), self.get(&keys::TNV_THREADS))
            && conns > self.conns_allowed(threads)
        {
            let text = format!("the limit of open files (ulimit -Hn) allows {}", self.conns_allowed(threads));
            overruled.push((&keys::TNV_MAX_CONNS, text));
        }
        overruled
    }
}

/// Whether a file may be what the driver reads at each connect.
fn check_certificates(file: &Path) -> Result<(), String> {
    let bytes = read(file, CA_FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    match () {
        () if bytes.len() > CA_FILE_BYTES_MAX => Err(format!("over {CA_FILE_BYTES_MAX} bytes")),
        () if !text.contains("-----BEGIN CERTIFICATE-----") => Err("no BEGIN CERTIFICATE in it".to_owned()),
        () => Ok(()),
    }
}

/// The first line of a file, or what is wrong with it.
fn password_of(file: &Path) -> Result<String, String> {
    let bytes = read(file, PASSWORD_FILE_BYTES_MAX).map_err(|error| error.to_string())?;
    if bytes.len() > PASSWORD_FILE_BYTES_MAX {
        return Err(format!("over {PASSWORD_FILE_BYTES_MAX} bytes"));
    }
    let text = text::decode(&bytes)?;
    Ok(text::first_line(text).to_owned())
}
