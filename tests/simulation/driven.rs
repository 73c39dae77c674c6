//! What the living bridge does beside publishing: it looks at its groups, repairs, clears and trims.

use std::time::Duration;

use clbridge::core::{ClearOutcome, Event, Reason};
use clbridge_sinks::TopicIx;

use crate::broker::Kind;
use crate::content::FEEDS;
use crate::draw::Draw;
use crate::world::{InKernel, World};

impl World {
    pub fn bridge_observes(&mut self, draw: &mut Draw) -> Result<(), String> {
        if self.life.as_ref().is_some_and(|l| l.answer.is_none()) {
            // The answer may take its time, and the world goes on meanwhile.
            let at_once = draw.percent(70);
            return self.look(at_once, draw);
        }
        self.judged_answer(draw, false)
    }

    /// The bridge reads the registry and asks for positions; `at_once`: and hears of them.
    pub fn look(&mut self, at_once: bool, draw: &mut Draw) -> Result<(), String> {
        let (now, t) = (self.now, Duration::from_millis(self.now));
        let Some(l) = &mut self.life else { return Ok(()) };
        if now >= self.until.registry {
            l.apply(&self.registry, &mut self.groups, &mut self.broker, &mut self.judge, now);
        } else {
            l.core.on(Event::Unanswered { what: Reason::RegistryUnreadable, why: "model".into() }, t);
        }
        self.bridge_repairs();
        let Some(l) = &mut self.life else { return Ok(()) };
        if now >= self.until.positions {
            l.answer = Some(self.broker.progress());
        } else {
            l.core.on(Event::Unanswered { what: Reason::BrokerUnavailable, why: "model".into() }, t);
        }
        if at_once { self.judged_answer(draw, true) } else { Ok(()) }
    }

    /// The answer about groups arrives, and the judge looks at what the bridge makes of it.
    fn judged_answer(&mut self, draw: &mut Draw, fresh: bool) -> Result<(), String> {
        let now = self.now;
        let Some(l) = &mut self.life else { return Ok(()) };
        let answered = l.answer.is_some();
        let lived = l.answered(&self.broker, now);
        let (broker, groups) = (&self.broker, &self.groups);
        let bent = |name: &str| {
            let Some(g) = groups.iter().find(|g| g.name() == name) else { return false };
            let (log, at) = (&broker.logs[g.topic], broker.logs[g.topic].positions.get(name));
            at.is_some_and(|at| at.iter().zip(&log.partitions).any(|(at, p)| at.is_none_or(|at| at > p.end)))
        };
        // What an older bridge believes does not matter any more.
        if lived.is_ok() && l.id == self.lives {
            self.judge.looked(&l.core, l.in_flight(), &self.mdt, |name| answered && fresh && bent(name))?;
        }
        for hold in l.core.snapshot("cl1", Duration::from_millis(now)).holding {
            *self.met.holds.entry(hold.reason.clone()).or_default() += 1;
            let at = self.now;
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{at} held: {}", hold.reason));
            }
        }
        self.ended(lived, draw)
    }

    /// Repairs that were asked for are carried out.
    fn bridge_repairs(&mut self) {
        let Some(l) = &mut self.life else { return };
        let frontier = l.core.ledger().frontier();
        let wanted = l.core.ledger().groups().filter(|(_, g)| g.spec.repair > g.applied().1);
        let wanted: Vec<_> = wanted
            .map(|(_, g)| (g.spec.name.clone(), g.spec.repair, g.floor(), g.evicted().collect::<Vec<_>>()))
            .filter(|(.., evicted)| !evicted.is_empty())
            .collect();
        for (name, number, floor, evicted) in wanted {
            let group = self.groups.iter().find(|g| g.name() == name).unwrap();
            let (topic, end, missing) = group.repair(&evicted, floor, frontier, &self.mdt, &mut self.broker);
            // What the MDT still holds must come again; the rest is the gap that the operator accepted.
            let standing: Vec<u64> = self.mdt.readable(0).map(|r| r.uid).collect();
            self.judge.goes_on_without(&name, &standing);
            let event = Event::GroupRepaired { group: &name, number, topic, end, missing };
            l.core.on(event, Duration::from_millis(self.now));
        }
    }

    pub fn bridge_clears(&mut self, draw: &mut Draw) -> Result<(), String> {
        let now = self.now;
        if let Some(l) = &mut self.life
            && let Some(upto) = l.issue_clear(now)
        {
            let (life, value, registry_at) = (l.id, upto.index().get(), l.registry_at);
            self.log(|| format!("life {life} issues a clear of {value}"));
            self.judge.issued(life, registry_at, value, &self.broker, &self.mdt, now)?;
            self.kernel.push_back(InKernel { upto, life });
        }
        // The kernel may keep a clear for a while.
        if now < self.until.kernel || draw.percent(30) {
            return Ok(());
        }
        if let Some(upto) = self.again.pop() {
            self.carry_out(upto)?;
        }
        let Some(InKernel { upto, life }) = self.kernel.pop_front() else { return Ok(()) };
        let outcome = if now < self.until.user_unknown {
            ClearOutcome::UnknownUser
        } else if now < self.until.mdt_busy {
            ClearOutcome::Busy("model".into())
        } else if self.carry_out(upto.index().get())? {
            ClearOutcome::Done
        } else {
            ClearOutcome::Beyond
        };
        for l in self.life.iter_mut().chain(&mut self.zombie).filter(|l| l.id == life) {
            l.core.on(Event::Cleared { upto, outcome: outcome.clone() }, Duration::from_millis(now));
        }
        Ok(())
    }

    fn carry_out(&mut self, upto: u64) -> Result<bool, String> {
        let Ok(recs) = self.mdt.clear(upto) else { return Ok(false) };
        self.log(|| format!("cleared up to {upto}"));
        self.judge.cleared(&recs)?;
        Ok(true)
    }

    pub fn bridge_trims(&mut self) -> Result<(), String> {
        let Some(l) = self.life.as_ref().filter(|_| self.broker.kind != Kind::Confirming) else { return Ok(()) };
        for topic in 0..FEEDS {
            for (p, below) in l.core.trimmable(TopicIx(topic as u16)).into_iter().enumerate() {
                let gone = self.broker.logs[topic].partitions[p].forget(below);
                self.judge.trimmed(topic, p, &gone, &self.broker, &self.mdt)?;
            }
        }
        Ok(())
    }
}
