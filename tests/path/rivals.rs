//! Two agents of one host: the second one ends with exit code 1 and a line that says why, whether it
//! meets the first on the host or only at the collector.

use std::{
    fs,
    net::TcpListener,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use hotspan_tests::{
    accounting,
    fixture::Language,
    host::can_record,
    proxy::Proxy,
    publisher::{all_found, publish},
    service::{Place, SOON, Service},
};

/// An agent whose place at the collector is taken asks again for so long: the other may be dead.
const GRACE: Duration = Duration::from_secs(15);

/// Ends by itself with code 1 and one line.
fn refused(mut service: Service, limit: Duration, words: &[&str]) -> Result<()> {
    let status = service.end(limit)?;
    let said = service.log();
    ensure!(status.code() == Some(1), "{status}: {said}");
    ensure!(said.lines().count() == 1, "not one line: {said}");
    ensure!(words.iter().all(|word| said.contains(word)), "{said}");
    println!("{}", said.trim());
    Ok(())
}

#[test]
fn a_second_agent_of_this_host_is_refused() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let (place, other) = (Place::new()?, Place::new()?);
    let first = place.run(&[])?;
    let holder = format!("process {} (hotspan) holds", first.child.id());
    let words = ["another agent", "already profiles this host", &holder, "stop it first"];
    // Not through the fixture, which would wait for the first to go.
    refused(other.spawn(other.command("run", &[])?, "run")?, SOON, &words)?;
    refused(place.spawn(place.agent_command(None, &[])?, "agent")?, SOON, &words)?;
    let truths = publish(Language::Rust, "nested")?;
    place.settle()?;
    let (last, health) = accounting::end_well(&place, first, None, &[])?;
    ensure!(health.agents.len() == 1, "the refused one is in the accounting: {:?}", health.agents);
    all_found(&place, "beside a refused agent", truths)?;
    ensure!(last.stop()?.success(), "the last collector does not end well");
    Ok(())
}

/// What `make` makes in a network of its own and with a `/run` of its own, as a container has them. They last
/// as long as sockets and processes in it do.
fn elsewhere<T: Send + 'static>(make: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (sender, made) = mpsc::channel();
    // A namespace is a thread's; this one has no other work.
    let thread = std::thread::spawn(move || {
        let own = libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_FS;
        // SAFETY: no memory is passed.
        let result = unsafe { libc::unshare(own) };
        let script = "ip link set lo up && mount --make-rprivate / && mount -t tmpfs none /run";
        let made = match result {
            0 => {
                Command::new("sh").args(["-c", script]).status().context("`sh` is needed").and_then(
                    |status| {
                        ensure!(status.success(), "`{script}`: {status}");
                        make()
                    },
                )
            }
            _ => Err(std::io::Error::last_os_error().into()),
        };
        let _ = sender.send(made);
    });
    thread.join().map_err(|_| anyhow!("the thread failed"))?;
    made.recv()?
}

/// The lock that keeps agents of a host apart is one file system's: in a container, the collector must notice.
#[test]
fn a_second_agent_in_another_network_is_refused_by_the_collector() -> Result<()> {
    if !can_record() {
        return Ok(());
    }
    let place = Place::new()?;
    let collector = place.collector(&[])?;
    let first = place.agent(None, &[])?;
    place.wait_for_agent(&first)?;
    let started = Instant::now();
    let log = Place::new()?;
    let token = place.data_dir().join("ingest-token");
    let (listener, second, _log) = elsewhere(move || {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        fs::create_dir(log.data_dir())?;
        fs::copy(token, log.data_dir().join("ingest-token"))?;
        let second = log.spawn(log.agent_command(Some(port), &[])?, "agent")?;
        Ok((listener, second, log))
    })?;
    let _proxy = Proxy::on(listener, place.ingest)?;
    refused(second, GRACE * 2, &["of this host already streams", "stop it, or stop this one"])?;
    let took = started.elapsed();
    println!("refused after {took:?}");
    ensure!(took >= GRACE, "refused after {took:?}: a dead agent's successor would be, too");
    let refused = place.health()?.collector["refused"]["rival"].as_u64();
    ensure!(refused.is_some_and(|n| n > 0), "the collector does not report it");
    let truths = publish(Language::Rust, "nested")?;
    place.settle()?;
    let (last, health) = accounting::end_well(&place, first, Some(collector), &[])?;
    ensure!(health.agents.len() == 1, "the refused one is in the accounting: {:?}", health.agents);
    all_found(&place, "beside a refused agent", truths)?;
    ensure!(last.stop()?.success(), "the last collector does not end well");
    Ok(())
}
