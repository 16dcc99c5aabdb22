//! The four servers, and what is named after each of them.

use std::fmt;

/// One of the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    /// Knows the groups and their storages, and which group a user belongs to.
    Tracker,
    /// Hands out the numbers that file paths are made of.
    IdServer,
    /// Keeps the files.
    Storage,
    /// Serves the files over HTTP.
    Httpd,
}

impl Part {
    /// Every server.
    pub const ALL: [Part; 4] = [Part::Tracker, Part::IdServer, Part::Storage, Part::Httpd];

    /// The name of its binary.
    pub fn binary(self) -> &'static str {
        match self {
            Part::Tracker => "tnv-tracker",
            Part::IdServer => "tnv-idserver",
            Part::Storage => "tnv-storage",
            Part::Httpd => "tnv-httpd",
        }
    }

    /// The name of its configuration file.
    pub fn file_name(self) -> &'static str {
        match self {
            Part::Tracker => "tracker.cfg",
            Part::IdServer => "id.cfg",
            Part::Storage => "storage.cfg",
            Part::Httpd => "http.cfg",
        }
    }

    /// The name of the service in the file that is shipped; any is accepted.
    pub fn service(self) -> &'static str {
        match self {
            Part::Tracker => "tnv_tracker",
            Part::IdServer => "tnv_id",
            Part::Storage => "tnv_storage",
            Part::Httpd => "tnv_http",
        }
    }

    /// The port that it listens on unless told otherwise.
    pub fn default_port(self) -> u16 {
        match self {
            Part::Tracker => 21000,
            Part::IdServer => 22000,
            Part::Storage => 23000,
            Part::Httpd => 8080,
        }
    }

    /// One sentence on what it does.
    pub fn summary(self) -> &'static str {
        match self {
            Part::Tracker => "Knows the groups, their storages, and which group each user belongs to.",
            Part::IdServer => "Hands out the numbers that file paths are made of, none of them twice.",
            Part::Storage => "Keeps the files of its group.",
            Part::Httpd => "Serves the files to browsers and players over HTTP.",
        }
    }

    /// The descriptors that one request may need beside its connection: a storage's file and the
    /// directory that it is made in; an HTTP request's connections to a storage and a tracker.
    pub(super) fn descriptors_per_request(self) -> u64 {
        match self {
            Part::Tracker | Part::IdServer => 0,
            Part::Storage | Part::Httpd => 2,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.binary())
    }
}
