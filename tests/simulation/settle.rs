//! How a run ends well when nothing goes wrong any more.

use crate::draw::Draw;
use crate::schedule::Op;
use crate::world::World;

impl World {
    /// No more misfortune: everything must come to rest with nothing left on the MDT.
    pub fn settle(&mut self) -> Result<(), String> {
        let mut draw = Draw::new(self.lives);
        self.until = Default::default();
        if let Some(l) = &mut self.life {
            l.replies_held_until = 0;
        }
        while !self.adrift.is_empty() {
            self.one_adrift(&mut draw)?;
        }
        if let Some(zombie) = self.zombie.take() {
            let life = self.life.replace(zombie);
            self.dies(false, &mut draw)?;
            self.life = life;
        }
        if self.registry.groups.is_empty() {
            let spec = self.groups[0].spec.clone();
            self.registry.groups.insert(spec.name.clone(), spec);
        }
        self.put_right();
        // What comes next tells what was taken back.
        self.mdt.emit(3, self.now);
        for round in 1..20_000 {
            self.pass(20);
            // A first position below what was deleted meanwhile shows as a hold only after it was accepted.
            if round % 1_000 == 0 {
                self.put_right();
            }
            for op in [Op::Read, Op::Seal, Op::Broker, Op::Reply, Op::Observe, Op::Probe, Op::Clear, Op::Trim] {
                self.bridge_acts(op, &mut draw)?;
            }
            for n in 0..self.groups.len() {
                if self.registry.groups.contains_key(self.groups[n].name()) {
                    for p in 0..self.groups[n].partitions() {
                        self.groups[n].work(p, true, &mut draw, &mut self.broker, &mut self.judge);
                    }
                    self.groups[n].read_repair(&mut self.broker, &mut self.judge);
                }
            }
            if self.life.is_none() {
                self.start()?;
                // Nothing readable after a crash: the next record tells what happened.
                if self.life.is_none() {
                    self.mdt.emit(1, self.now);
                }
            }
            let cleared = self.mdt.cleared() == self.mdt.newest() && self.kernel.is_empty() && self.again.is_empty();
            let named = |g: &&crate::groups::Group| self.registry.groups.contains_key(g.name());
            if cleared && self.groups.iter().filter(named).all(|g| g.is_through(&self.broker)) {
                return self.judge.end(&self.mdt, &self.broker);
            }
        }
        let now = std::time::Duration::from_millis(self.now);
        let status = self.life.as_ref().map(|l| l.core.snapshot("cl1", now));
        let (cleared, newest) = (self.mdt.cleared(), self.mdt.newest());
        Err(format!("the backlog never came back to zero: cleared {cleared} of {newest}: {status:?}"))
    }
}
