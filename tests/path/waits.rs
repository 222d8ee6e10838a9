//! Every kind of wait, through the C header and the Rust crate: the right state, the exact time, the
//! name of whoever ended it.

use anyhow::Result;
use hotspan_tests::scenario::whole_path;

#[test]
fn nanosleep_is_sleep() -> Result<()> {
    whole_path("sleep", |_| {})
}

#[test]
fn a_mutex_names_its_holder() -> Result<()> {
    whole_path("mutex", |checks| {
        checks.causes("lock");
    })
}

#[test]
fn a_condvar_is_a_notification() -> Result<()> {
    whole_path("condvar", |_| {})
}

#[test]
fn a_pipe_is_a_notification() -> Result<()> {
    whole_path("pipe", |_| {})
}

#[test]
fn a_unix_socket_is_a_socket() -> Result<()> {
    whole_path("unix_socket", |_| {})
}

#[test]
fn a_tcp_socket_is_a_socket() -> Result<()> {
    whole_path("tcp_socket", |_| {})
}

#[test]
fn poll_and_epoll_are_polls() -> Result<()> {
    whole_path("poll", |_| {})
}

#[test]
fn fsync_is_disk() -> Result<()> {
    whole_path("fsync", |_| {})
}

#[test]
fn waitpid_is_child() -> Result<()> {
    whole_path("waitpid", |_| {})
}

#[test]
fn a_consumer_names_its_producer() -> Result<()> {
    whole_path("producers", |checks| {
        checks.causes("notify");
    })
}
