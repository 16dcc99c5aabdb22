//! A service on the event loop, on a port of its own, until it is dropped.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tnv_common::net::allow::AllowList;
use tnv_common::net::event_loop::{self, ServerSettings, Service};
use tnv_common::net::listen;
use tnv_common::net::stop::Stop;

pub struct Running {
    pub address: SocketAddr,
    pub stop: Stop,
    pub thread: Option<JoinHandle<()>>,
}

impl Running {
    pub fn serve(service: impl Service, threads: usize, max_conns: usize) -> Running {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::new().unwrap();
        let settings = ServerSettings {
            name: "test",
            threads,
            max_conns,
            allow_hosts: AllowList::everybody(),
            stop_timeout: Duration::from_secs(5),
        };
        let signal = stop.clone();
        let thread = std::thread::spawn(move || {
            event_loop::run(listener, &settings, Arc::new(service), &signal).unwrap();
        });
        Running { address, stop, thread: Some(thread) }
    }

    pub fn raw(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.set();
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the event loop ended badly");
    }
}
