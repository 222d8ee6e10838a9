//! What most tests of faults begin and end with: a collector and an agent that streams to it, through a
//! network that can be broken if asked for; in the end all of it must be accounted for.

use anyhow::{Context as _, Result, ensure};

use crate::{
    accounting,
    proxy::Proxy,
    publisher::all_found,
    service::{Health, Place, Service},
    truth::Truth,
};

/// An agent and its collector, streaming when this is made.
#[derive(Debug)]
pub struct Stream {
    pub agent: Service,
    collector: Option<Service>,
    /// Goes last: they write to it.
    pub place: Place,
}

/// What is left of it: another collector, which never saw the agent, serves what was stored.
#[derive(Debug)]
pub struct Ended {
    pub health: Health,
    last: Service,
    pub place: Place,
}

// === impl Stream ===

impl Stream {
    /// The agent has `more` arguments.
    pub fn start(more: &[&str]) -> Result<Self> {
        let place = Place::new()?;
        let collector = place.collector(&[])?;
        Self::of(place, collector, None, more)
    }

    /// All that is between them goes through the proxy.
    pub fn through_proxy() -> Result<(Self, Proxy)> {
        let place = Place::new()?;
        let collector = place.collector(&[])?;
        let proxy = Proxy::to(place.ingest)?;
        Ok((Self::of(place, collector, Some(proxy.port), &[])?, proxy))
    }

    fn of(place: Place, collector: Service, port: Option<u16>, more: &[&str]) -> Result<Self> {
        let agent = place.agent(port, more)?;
        place.wait_for_agent(&agent)?;
        Ok(Self { agent, collector: Some(collector), place })
    }

    /// The present one.
    pub fn collector(&self) -> Result<&Service> {
        self.collector.as_ref().context("the collector was killed")
    }

    pub fn kill_collector(&mut self) -> Result<()> {
        self.collector.take().context("the collector was killed")?.kill()
    }

    /// Another one in the place of the one that was killed.
    pub fn start_collector(&mut self) -> Result<()> {
        self.collector = Some(self.place.collector(&[])?);
        Ok(())
    }

    /// Ends both well. Of the one agent nothing may be lost, but for these reasons.
    pub fn end(self, may_lose: &[&str]) -> Result<Ended> {
        let Self { agent, collector, place } = self;
        let (last, health) = accounting::end_well(&place, agent, collector, may_lose)?;
        ensure!(health.agents.len() == 1, "one agent ran: {:?}", health.agents);
        Ok(Ended { health, last, place })
    }
}

// === impl Ended ===

impl Ended {
    /// Every span of these truths is there, once and whole.
    pub fn found(self, name: &str, truths: Vec<Truth>) -> Result<()> {
        all_found(&self.place, name, truths)?;
        self.stop()
    }

    pub fn stop(self) -> Result<()> {
        ensure!(self.last.stop()?.success(), "the last collector does not end well");
        Ok(())
    }
}
