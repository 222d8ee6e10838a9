//! The shop itself: one acceptor, a queue, workers, and what each endpoint does.

use std::{
    fs::File,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use hotspan_lanes::Span;

use crate::{
    http::{self, Request},
    neighbours::compute,
    queue::{Queue, lock},
    trace,
};

/// What the workers share.
#[derive(Debug)]
pub(crate) struct Shop {
    inventory: Mutex<u64>,
    orders: Mutex<File>,
    pricing: SocketAddr,
}

/// A server at work.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
    acceptor: JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

// === impl Shop ===

impl Shop {
    /// Orders go to a file that has no name any more, so nothing stays behind.
    pub(crate) fn open(pricing: SocketAddr) -> Result<Self> {
        let folder =
            std::env::current_exe()?.parent().context("a program has a folder")?.to_owned();
        let orders = nameless_file(&folder).or_else(|_| nameless_file(&std::env::temp_dir()))?;
        Ok(Self { inventory: Mutex::new(1000), orders: Mutex::new(orders), pricing })
    }

    fn handle(&self, path: &str) -> Result<String> {
        match path {
            "/checkout" => self.checkout(),
            "/restock" => Ok(self.restock()),
            "/report" => Ok(report()),
            _ => Ok(self.stock()),
        }
    }

    /// Takes an item, asks for its price, and keeps the order safe.
    fn checkout(&self) -> Result<String> {
        let left = trace::step("lock inventory", || {
            let mut inventory = lock(&self.inventory);
            compute(Duration::from_micros(300));
            *inventory = inventory.saturating_sub(1);
            *inventory
        });
        let price = trace::step("GET pricing", || {
            http::get(self.pricing, "/price", trace::traceparent().as_deref())
        })?;
        trace::step("save order", || -> Result<()> {
            let mut orders = lock(&self.orders);
            writeln!(orders, "{left} {price}")?;
            orders.sync_all()?;
            Ok(())
        })?;
        Ok(price)
    }

    /// The slow handler: counts the whole inventory while it holds the lock.
    fn restock(&self) -> String {
        let mut inventory = trace::step("lock inventory", || lock(&self.inventory));
        trace::step("recount under lock", || {
            compute(Duration::from_millis(3));
            thread::sleep(Duration::from_millis(15));
            *inventory = 1000;
        });
        "restocked".to_owned()
    }

    fn stock(&self) -> String {
        trace::step("lock inventory", || lock(&self.inventory).to_string())
    }
}

/// The CPU hog.
fn report() -> String {
    let sum = trace::step("render report", || compute(Duration::from_millis(25)));
    format!("report {sum}")
}

fn nameless_file(folder: &std::path::Path) -> std::io::Result<File> {
    let path = folder.join(format!("shop-orders-{}", std::process::id()));
    let file = File::create_new(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Serves on a port of the kernel's choice.
pub(crate) fn serve(shop: Shop, workers: usize) -> Result<Server> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let stopping = Arc::new(AtomicBool::new(false));
    let queue = Arc::new(Queue::<(Request, Span)>::new());
    let shop = Arc::new(shop);
    let acceptor = {
        let (queue, stopping) = (queue.clone(), stopping.clone());
        named("acceptor".to_owned(), move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                accept(stream, &queue);
            }
            queue.close();
        })?
    };
    let workers = (0..workers)
        .map(|number| {
            let (queue, shop) = (queue.clone(), shop.clone());
            named(format!("worker-{number}"), move || {
                while let Some((request, span)) = queue.pop() {
                    trace::within(span, || {
                        let answer = shop.handle(&request.path);
                        let (status, body) = match &answer {
                            Ok(body) => (200, body.as_str()),
                            Err(_) => (500, ""),
                        };
                        // A client that went away is no error of the shop's.
                        let _ = request.answer(status, body);
                    });
                }
            })
        })
        .collect::<Result<_>>()?;
    Ok(Server { address, stopping, acceptor, workers })
}

/// The request's span begins here; until a worker takes it, it is active on no thread: queued.
fn accept(stream: TcpStream, queue: &Queue<(Request, Span)>) {
    let Ok(request) = Request::read(stream) else {
        return;
    };
    let span = trace::root(&format!("GET {}", request.path), request.remote);
    trace::within(span, || queue.push((request, span)));
}

fn named(name: String, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    Ok(thread::Builder::new().name(name).spawn(work)?)
}

// === impl Server ===

impl Server {
    pub(crate) fn stop(self) -> Result<()> {
        self.stopping.store(true, Ordering::Relaxed);
        // Brings the acceptor out of its wait.
        drop(TcpStream::connect(self.address)?);
        for thread in std::iter::once(self.acceptor).chain(self.workers) {
            thread.join().ok().context("a thread of the shop panicked")?;
        }
        Ok(())
    }
}
