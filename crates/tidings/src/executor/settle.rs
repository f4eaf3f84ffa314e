//! Outcomes of external calls, recorded: all together; if that fails, one by one, so that only the culprit is tried
//! again.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::breakers::Breakers;
use super::{Executor, TICK};
use crate::breaker::Gate;
use crate::effect::{EffectError, EffectRequest};
use crate::error::{Error, HandlerError};
use crate::handler::{Ended, SettledList};
use crate::health::{Loop, Reason};
use crate::panic::catch_panic;
use crate::retry::jitter;
use crate::store::effects::{self, PAUSE_MAX};

/// Shortest pause after the first failure; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// No pause is longer while the provider is down.
const DOWN_PAUSE_MAX: Duration = Duration::from_secs(1);
/// From here on a failing effect is reported as an error: an operator should look.
const ATTEMPTS_ALARM: u32 = 10;

/// An effect that failed, and whether its provider is down.
struct FailedEffect {
    asked: EffectRequest,
    error: EffectError,
    is_down: bool,
}

impl Executor {
    /// Records the outcomes of external calls; does not give up before they are recorded or the process stops.
    pub(super) async fn settle(&self, mut ended: Vec<Ended>, breakers: &Breakers, stop: &CancellationToken) {
        ended.sort_by(|a, b| a.asked.key.cmp(&b.asked.key));
        let mut kinds: HashMap<String, (Box<dyn SettledList>, Vec<EffectRequest>)> = HashMap::new();
        let mut failed = Vec::new();
        for Ended { asked, result } in ended {
            match result {
                Ok(settled) => {
                    let (list, all) = kinds
                        .entry(asked.kind.clone())
                        .or_insert_with(|| (self.effect_handlers[&*asked.kind].clone().list(), Vec::new()));
                    list.push(settled);
                    all.push(asked);
                }
                Err(error) => {
                    let is_down = breakers.gate(self.provider(&asked.kind), Instant::now()) != Gate::Open;
                    failed.push(FailedEffect { asked, error, is_down });
                }
            }
        }
        for (list, all) in kinds.values() {
            let mut recorded = self.settle_together(&**list, all).await;
            if recorded.is_err() {
                recorded = self.settle_one_by_one(&**list, all).await;
            }
            while let Err(e) = recorded
                && !stop.is_cancelled()
            {
                self.store.health().waits(Loop::Settle, reason(&e), &e);
                tokio::time::sleep(TICK).await;
                recorded = self.settle_one_by_one(&**list, all).await;
            }
        }
        while !failed.is_empty()
            && let Err(e) = self.postpone(&failed).await
            && !stop.is_cancelled()
        {
            // Given up here, they would stay claimed for minutes after the database is back.
            self.store.health().failed(Loop::Settle, &e);
            tokio::time::sleep(TICK).await;
        }
        self.store.health().goes_on(Loop::Settle);
    }

    async fn settle_together(
        &self,
        list: &dyn SettledList,
        all: &[EffectRequest],
    ) -> Result<(), HandlerError> {
        let mut tx = self.store.begin().await?;
        let marked = effects::mark_done(&mut tx, all).await?;
        if let Some(index) = marked.iter().position(|marked| *marked == 0) {
            return Err(HandlerError::Transient(format!("{} was settled before", all[index].key)));
        }
        catch_panic(list.settle(0..list.len(), &mut tx)).await?;
        tx.commit().await?;
        self.counts.done.fetch_add(all.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn settle_one_by_one(
        &self,
        list: &dyn SettledList,
        all: &[EffectRequest],
    ) -> Result<(), HandlerError> {
        let mut tx = self.store.begin().await?;
        let mut done = 0;
        for (index, asked) in all.iter().enumerate() {
            let settled = tx.attempt(async |tx| {
                if effects::mark_done(tx, std::slice::from_ref(asked)).await? == [0] {
                    return Ok(0);
                }
                catch_panic(list.settle(index..index + 1, tx)).await.map(|()| 1)
            });
            match settled.await? {
                Ok(count) => done += count,
                Err(e) => {
                    let e = EffectError::Unknown(format!("its outcome could not be recorded: {e}"));
                    effects::postpone(&mut tx, asked, &e, pause(&e, asked.attempts, false, jitter())).await?;
                    log_failure(asked, &e);
                }
            }
        }
        tx.commit().await?;
        self.counts.done.fetch_add(done, Ordering::Relaxed);
        Ok(())
    }

    async fn postpone(&self, failed: &[FailedEffect]) -> Result<(), Error> {
        let mut tx = self.store.begin().await?;
        for FailedEffect { asked, error, is_down } in failed {
            if let EffectError::Conflict(_) = error {
                effects::hold(&mut tx, asked, error).await?;
                continue;
            }
            let pause = pause(error, asked.attempts, *is_down, jitter());
            effects::postpone(&mut tx, asked, error, pause).await?;
        }
        tx.commit().await?;
        for FailedEffect { asked, error, .. } in failed {
            log_failure(asked, error);
        }
        self.counts.failed.fetch_add(failed.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The reason that outcomes are not recorded.
fn reason(e: &HandlerError) -> Reason {
    match e {
        HandlerError::Dependency(_) | HandlerError::InDoubt(_) => Reason::Away,
        HandlerError::Conflict(_) => Reason::InTheWay,
        _ => Reason::Event,
    }
}

/// The pause before the next try: doubled with each failure, and up to twice as long by `jitter` (0 to 1), so that
/// effects that failed together do not come back together.
///
/// While a provider is down one effect at a time asks, and there has to be one that is due: then none waits for
/// long, however often it failed.
fn pause(e: &EffectError, failures: u32, is_down: bool, jitter: f64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.min(20)).min(PAUSE_MAX);
    let shortest = match e {
        EffectError::NoTurn(_) => PAUSE_MIN,
        _ if is_down => doubled.min(DOWN_PAUSE_MAX),
        _ => doubled,
    };
    shortest.mul_f64(1.0 + jitter)
}

fn log_failure(asked: &EffectRequest, e: &EffectError) {
    if matches!(e, EffectError::NoTurn(_)) {
        return;
    }
    let (key, attempts) = (&asked.key, asked.attempts + 1);
    if let EffectError::Conflict(_) = e {
        tracing::error!(key, attempts, error = %e, "the provider contradicts an effect, which waits for an operator");
    } else if attempts >= ATTEMPTS_ALARM {
        tracing::error!(key, attempts, error = %e, "an effect keeps failing");
    } else {
        tracing::warn!(key, attempts, error = %e, "an effect failed and will be tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_a_provider_is_down_no_effect_waits_for_long() {
        let (failed, unasked) = (EffectError::NotDone("no".into()), EffectError::NoTurn("later".into()));
        let seconds = |e, failures, is_down| pause(e, failures, is_down, 0.0).as_secs_f64();
        assert_eq!([0, 1, 2, 30].map(|n| seconds(&failed, n, false)), [0.25, 0.5, 1.0, 300.0]);
        assert_eq!([0, 1, 2, 30].map(|n| seconds(&failed, n, true)), [0.25, 0.5, 1.0, 1.0]);
        assert_eq!([0, 30].map(|n| seconds(&unasked, n, true)), [0.25, 0.25]);
        assert_eq!(pause(&failed, 0, false, 1.0).as_secs_f64(), 0.5);
    }
}
