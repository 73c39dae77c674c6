//! The bridge killed -9 again and again under load, some of the times at the named points.

use std::time::{Duration, Instant};

use clbridge::failpoint::POINTS;

use crate::run::{PATIENCE, Run};

/// What was so when the bridge died.
struct Death {
    in_flight: u64,
    after_a_clear: bool,
}

/// What many kills showed.
pub struct Kills {
    /// In flight means accepted by the broker's client and not durable; a kill with more than this counts.
    much: u64,
    deaths: Vec<Death>,
    /// The longest time from a start to the first record durable behind the old ones, milliseconds.
    pub recovery_ms: u64,
}

/// Which of a run's kills happen at which named point, and at which hit of it.
fn point(kill: u32) -> Option<String> {
    let counts = [1000, 6, 10, 10];
    let at = [4, 8, 12, 16].iter().position(|at| *at == kill)?;
    Some(format!("{}:{}", POINTS[at], counts[at]))
}

/// Kills the bridge `count` times under a load that goes on; it runs again when this returns.
pub fn kill_repeatedly(run: &mut Run, count: u32) -> Kills {
    let much = run.sink().much();
    let mut kills = Kills { much, deaths: Vec::new(), recovery_ms: 0 };
    let mdts = run.sim.mdts().len();
    let mut durable = vec![0; mdts];
    for kill in 1..=count {
        let point = point(kill);
        let (started, cleared) = (Instant::now(), run.sim.cleared());
        if !run.bridge.has_ended() {
            assert_eq!(kill, 1, "only the first life is begun by the caller");
        } else {
            run.bridge.start(point.as_deref());
        }
        let mut death = Death { in_flight: 0, after_a_clear: false };
        let mut recovered = None;
        let mut now = durable.clone();
        while !run.bridge.has_ended() {
            assert!(started.elapsed() < PATIENCE, "kill {kill}: its moment never came");
            std::thread::sleep(Duration::from_millis(3));
            let Some(status) = run.bridge.running(mdts) else { continue };
            now = status.iter().map(|m| m.durable).collect();
            if recovered.is_none() && now.iter().zip(&durable).all(|(now, before)| now > before) {
                recovered = Some(u64::try_from(started.elapsed().as_millis()).unwrap());
            }
            death.in_flight = status.iter().map(|m| m.published.saturating_sub(m.durable)).sum();
            death.after_a_clear = run.sim.cleared() > cleared;
            if point.is_none() && recovered.is_some() && death.after_a_clear && death.in_flight > much + much / 5 {
                run.bridge.kill9();
            }
        }
        if let Some(point) = &point {
            let name = point.split(':').next().unwrap();
            assert!(
                run.bridge.log().contains(&format!("failpoint {name} reached")),
                "kill {kill}: the bridge ended before the named point {name}"
            );
        }
        kills.recovery_ms = kills.recovery_ms.max(recovered.unwrap_or(0));
        crate::tell!(
            "kill {kill} of {count} {}: {} records accepted and not durable, {} a clear since the start, durable again {}",
            point.as_deref().map_or_else(|| "from outside".to_owned(), |p| format!("at {p}")),
            death.in_flight,
            if death.after_a_clear { "after" } else { "before" },
            recovered.map_or_else(|| "never".to_owned(), |ms| format!("after {ms} ms")),
        );
        kills.deaths.push(death);
        durable = now;
    }
    run.bridge.start(None);
    kills
}

impl Kills {
    /// A run that killed nothing of weight proves nothing.
    ///
    /// # Panics
    /// When fewer than three quarters of the kills had much in flight, or fewer than half came after a clear.
    pub fn assert_worth(&self) {
        let (all, much) = (self.deaths.len(), self.much);
        let heavy = self.deaths.iter().filter(|d| d.in_flight > much).count();
        let cleared = self.deaths.iter().filter(|d| d.after_a_clear).count();
        crate::tell!("{heavy} of {all} kills with more than {much} in flight, {cleared} after a clear");
        assert!(heavy * 4 >= all * 3, "only {heavy} of {all} kills had more than {much} records in flight");
        assert!(cleared * 2 >= all, "only {cleared} of {all} kills came after a clear since the last start");
    }
}
