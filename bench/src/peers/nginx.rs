//! An nginx as two columns: one server sends files, another one passes requests on to it. Both are of one nginx
//! with a worker for each processor.
//!
//! It is set up as who knows it would: sendfile with full packets, open files remembered, no log of requests,
//! connections kept for ever on both sides; the proxy with kept connections to the server behind, and without the
//! temporary files on disk that it would otherwise write where a viewer is slower than the server behind.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tnv_tests::port::free_address;

use crate::contender::{Contender, Outcome, Task, get};
use crate::exec::{self, Running};
use crate::peers::find;
use crate::sources::Sources;
use crate::usage::Server;
use crate::{Failure, Result};

/// Why it cannot be had.
pub(crate) fn missing() -> Option<String> {
    find("nginx").is_none().then(|| "nginx is not installed (Debian: nginx-light)".to_owned())
}

/// A running nginx, of which one of the two servers is asked.
pub(crate) struct Nginx {
    process: Running,
    asked: SocketAddr,
    sources: Sources,
    directory: PathBuf,
    ready: Duration,
}

impl Nginx {
    /// Starts one in a directory.
    pub(crate) fn start(directory: &Path, sources: &Sources, is_proxy: bool) -> Result<Nginx> {
        let program = find("nginx").ok_or("nginx is not installed".to_owned())?;
        let (files, proxy) = (free_address(), free_address());
        let failed = |error: std::io::Error| {
            Failure::Failed(format!("start nginx in {}: {error}", directory.display()))
        };
        fs::create_dir_all(directory.join("tmp")).map_err(failed)?;
        let config = directory.join("nginx.conf");
        fs::write(&config, configuration(sources.directory(), files, proxy)).map_err(failed)?;
        let log = directory.join("error.log");
        let child = Command::new(program)
            .arg("-p")
            .arg(directory)
            .arg("-e")
            .arg(&log)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("stderr")).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        let mut process = Running(child);
        let asked = if is_proxy { proxy } else { files };
        let ready =
            exec::wait_ready("nginx", &mut process, &log, || std::net::TcpStream::connect(asked).is_ok())?;
        Ok(Nginx { process, asked, sources: sources.clone(), directory: directory.to_owned(), ready })
    }
}

fn configuration(root: &Path, files: SocketAddr, proxy: SocketAddr) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("    {kind}_temp_path tmp/{kind};\n"))
        .concat();
    format!(
        "{user}worker_processes auto;
daemon off;
pid nginx.pid;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    default_type application/octet-stream;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 3600;
    keepalive_requests 1000000000;
    open_file_cache max=100 inactive=1h;
{temporary}    upstream files {{
        server {files};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {files};
        root {root};
    }}
    server {{
        listen {proxy};
        location / {{
            proxy_pass http://files;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_max_temp_file_size 0;
        }}
    }}
}}
",
        root = root.display()
    )
}

impl Contender for Nginx {
    fn servers(&self) -> Vec<Server> {
        vec![Server { name: "nginx", pid: self.process.0.id() }]
    }

    fn starts(&self) -> Vec<(&'static str, Duration)> {
        vec![("nginx", self.ready)]
    }

    fn prepare(&mut self, task: &Task) -> Result<()> {
        self.sources.of(task.size).map(drop)
    }

    fn measure(&mut self, task: &Task) -> Result<Outcome> {
        get(task, &format!("http://{}/{}", self.asked, task.size), &self.directory)
    }
}
