//! An nginx as three columns: one server sends files, two others pass requests on to it. All are of one nginx with
//! a worker for each processor.
//!
//! It is set up as who knows it would: sendfile with full packets, open files remembered, no log of requests,
//! connections kept for ever on both sides; the proxies with kept connections to the server behind, and without
//! temporary files, which they would write where a viewer is slower than the server behind. One has the buffers
//! that a proxy has by default, which most have; the other passes on what comes, 128 KiB at a time, which was the
//! fastest of all that were tried (buffers from 4 to 256 KiB, `reuseport`).

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

/// Which of the servers is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Files,
    Proxy,
    Unbuffered,
}

/// A running nginx, of which one of the servers is asked.
pub(crate) struct Nginx {
    process: Running,
    asked: SocketAddr,
    sources: Sources,
    directory: PathBuf,
    ready: Duration,
}

impl Nginx {
    /// Starts one in a directory.
    pub(crate) fn start(directory: &Path, sources: &Sources, asked: Asked) -> Result<Nginx> {
        let program = find("nginx").ok_or("nginx is not installed".to_owned())?;
        let (files, proxy, unbuffered) = (free_address(), free_address(), free_address());
        let failed = |error: std::io::Error| {
            Failure::Failed(format!("start nginx in {}: {error}", directory.display()))
        };
        fs::create_dir_all(directory.join("tmp")).map_err(failed)?;
        let config = directory.join("nginx.conf");
        fs::write(&config, configuration(sources.directory(), files, proxy, unbuffered)).map_err(failed)?;
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
        let asked = match asked {
            Asked::Files => files,
            Asked::Proxy => proxy,
            Asked::Unbuffered => unbuffered,
        };
        let ready =
            exec::wait_ready("nginx", &mut process, &log, || std::net::TcpStream::connect(asked).is_ok())?;
        Ok(Nginx { process, asked, sources: sources.clone(), directory: directory.to_owned(), ready })
    }
}

fn configuration(root: &Path, files: SocketAddr, proxy: SocketAddr, unbuffered: SocketAddr) -> String {
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    let pass = "proxy_pass http://files;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_max_temp_file_size 0;";
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
            {pass}
        }}
    }}
    server {{
        listen {unbuffered};
        location / {{
            {pass}
            proxy_buffering off;
            proxy_buffer_size 128k;
            proxy_buffers 8 128k;
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
