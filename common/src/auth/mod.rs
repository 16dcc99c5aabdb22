//! What is proven with a key that both ends know (HMAC-SHA-256), both ends of each.
//!
//! - `secret`: the keys, and the one function that makes a proof.
//! - `app_key`: keys of applications; uploads and deletes of an application that has one need a proof.
//! - `signed_link`: HTTP links that are valid until a time.

pub mod app_key;
pub mod secret;
pub mod signed_link;
