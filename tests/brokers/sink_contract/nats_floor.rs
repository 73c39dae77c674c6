//! Every way in which a consumer's ack floor moves without an acknowledgement, provoked on a real server: none of them
//! counts as one, neither for a bridge that was there nor for one that comes afterwards.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use async_nats::jetstream::{AckKind, Message, stream::DiscardPolicy};
use clbridge_sinks::nats::NatsSink;
use clbridge_sinks::{GroupObserver, SinkError, StartAt, Topic};
use futures_util::StreamExt;

use crate::ground::{Ground as _, HANG, Mdt, On, answered, mismatch, new_group, unless_unavailable};
use crate::nats::{Nats, is_old};

/// Records that are there at first, and those that the group has acknowledged.
const THERE: u64 = 20;
const DONE: u64 = 5;

/// A group that has acknowledged the first records, watched by a bridge.
struct Scene {
    g: Nats,
    mdt: Mdt,
    group: String,
    /// A bridge that was there all the time.
    watching: NatsSink,
}

/// What a bridge makes of an answer, by the rules of the core.
#[derive(PartialEq, Eq, Debug)]
enum Verdict {
    /// The position stands, or moved by acknowledgements.
    At(u64),
    /// It holds: no position.
    Vanished,
    /// It holds: deleted before the group had read it.
    Evicted,
    /// It holds until the group has come back.
    WentBack,
}

impl Scene {
    async fn new(what: &str) -> Self {
        let g = Nats::new();
        let mut mdt = Mdt::new(&g).await;
        let group = new_group(what);
        let watching = g.make();
        watching.register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
        mdt.write(1..=THERE);
        let scene = Self { g, mdt, group, watching };
        for message in scene.fetch(DONE as usize).await {
            message.double_ack().await.unwrap();
        }
        assert_eq!(scene.seen_by(&scene.watching).await.unwrap(), Verdict::At(DONE + 1));
        scene
    }

    fn topic(&self) -> &Topic {
        self.mdt.topic()
    }

    async fn consumer(&self) -> PullConsumer {
        self.g.stream(self.topic()).await.get_consumer(&self.group).await.unwrap()
    }

    /// Messages as a member of another make takes them.
    async fn fetch(&self, count: usize) -> Vec<Message> {
        let (mut all, began) = (Vec::new(), Instant::now());
        while all.len() < count {
            let wanted = count - all.len();
            let consumer = self.consumer().await;
            let mut batch =
                consumer.fetch().max_messages(wanted).expires(Duration::from_secs(1)).messages().await.unwrap();
            while let Some(message) = batch.next().await {
                all.push(message.unwrap());
            }
            assert!(began.elapsed() < HANG, "only {} messages came", all.len());
        }
        all
    }

    async fn seen_by(&self, observer: &dyn GroupObserver) -> Result<Verdict, SinkError> {
        self.seen_after(observer, DONE + 1).await
    }

    async fn seen_after(&self, observer: &dyn GroupObserver, was: u64) -> Result<Verdict, SinkError> {
        let progress = observer.progress(std::slice::from_ref(&self.group), &self.mdt.topics).await?;
        let topic = &progress.topics[&self.topic().name];
        let at = &topic.groups[&self.group];
        assert!(at.iter().all(|p| *p == at[0]), "one sequence, one position: {at:?}");
        Ok(match at[0] {
            _ if topic.low[0] > was => Verdict::Evicted,
            None => Verdict::Vanished,
            Some(at) if at < was => Verdict::WentBack,
            Some(at) => Verdict::At(at),
        })
    }

    /// What a bridge that was there, and one that comes now, make of it.
    async fn verdicts(&self) -> [Verdict; 2] {
        [self.seen_by(&self.watching).await.unwrap(), self.seen_by(&self.g.make()).await.unwrap()]
    }

    /// Nothing but a command ends it, also after later acknowledgements.
    async fn holds_as(&self, expected: Verdict) {
        for seen in self.verdicts().await {
            assert_eq!(seen, expected);
        }
        for message in self.fetch(2).await {
            message.double_ack().await.unwrap();
        }
        for seen in self.verdicts().await {
            assert_eq!(seen, expected, "after later acknowledgements");
        }
    }

    /// `groups accept`: the group is taken as it is now, and goes on.
    async fn accepted(&self) {
        let at = self.watching.register(&self.group, self.topic(), StartAt::Newest).await.unwrap()[0].unwrap();
        for observer in [&self.watching, &self.g.make()] {
            assert_eq!(self.seen_after(observer, at).await.unwrap(), Verdict::At(at));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_a_member_terminated_is_not_acknowledged() {
    let _turn = On::Nats.shared().await;
    let scene = Scene::new("terminated").await;
    let taken = scene.fetch(3).await;
    taken[0].ack_with(AckKind::Term).await.unwrap();
    for message in &taken[1..] {
        message.double_ack().await.unwrap();
    }
    scene.holds_as(Verdict::Vanished).await;
    scene.accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_message_that_was_delivered_too_often_is_not_acknowledged() {
    let _turn = On::Nats.shared().await;
    let scene = Scene::new("overdelivered").await;
    // given a limit that somebody sets for a while
    let stream = scene.g.stream(scene.topic()).await;
    let right = scene.consumer().await.cached_info().config.clone();
    stream.update_consumer(async_nats::jetstream::consumer::Config { max_deliver: 1, ..right.clone() }).await.unwrap();
    for seen in scene.verdicts().await {
        assert_eq!(seen, Verdict::Vanished, "the limit itself is seen");
    }
    // when a message reaches it, and later ones are acknowledged
    drop(scene.fetch(1).await);
    tokio::time::sleep(Duration::from_secs(3)).await;
    for message in scene.fetch(3).await {
        message.double_ack().await.unwrap();
    }
    stream.update_consumer(right).await.unwrap();
    // then it is not passed, although the limit is gone
    scene.holds_as(Verdict::Vanished).await;
    scene.accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_purged_is_not_acknowledged_by_a_group_that_had_not_read_it() {
    let _turn = On::Nats.shared().await;
    // given messages that a member holds, and others that were never delivered
    for held in [0, 3] {
        let scene = Scene::new("purged").await;
        let taken = scene.fetch(held).await;
        scene.g.stream(scene.topic()).await.purge().sequence(15).await.unwrap();
        for seen in scene.verdicts().await {
            assert_eq!(seen, Verdict::Evicted, "{held} held");
        }
        for message in taken {
            let _ = message.ack().await;
        }
        scene.holds_as(Verdict::Evicted).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_limit_evicted_is_not_acknowledged() {
    let _turn = On::Nats.shared().await;
    for limit in ["max_msgs", "max_bytes", "max_age"] {
        // given a limit that somebody sets, and that evicts what was not read
        let scene = Scene::new("evicted").await;
        let bytes = scene.g.stream(scene.topic()).await.cached_info().state.bytes;
        scene
            .g
            .change(scene.topic(), |c| match limit {
                "max_msgs" => (c.max_messages, c.discard) = (3, DiscardPolicy::Old),
                "max_bytes" => (c.max_bytes, c.discard) = (bytes as i64 / 4, DiscardPolicy::Old),
                _ => c.max_age = Duration::from_secs(1),
            })
            .await;
        let began = Instant::now();
        while scene.g.stream(scene.topic()).await.cached_info().state.first_sequence <= DONE + 1 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(began.elapsed() < HANG, "{limit} evicts nothing");
        }
        // then the setting is told while it is there
        for observer in [&scene.watching, &scene.g.make()] {
            let told = mismatch(scene.seen_by(observer).await);
            assert!(told.contains(limit) || told.contains("discard"), "{told}");
        }
        // and what went is seen when it is gone
        let unlimited = |c: &mut async_nats::jetstream::stream::Config| {
            (c.max_messages, c.max_bytes, c.max_age, c.discard) = (-1, -1, Duration::ZERO, DiscardPolicy::New);
        };
        scene.g.change(scene.topic(), unlimited).await;
        for seen in scene.verdicts().await {
            assert_eq!(seen, Verdict::Evicted, "{limit}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_deleted_from_the_middle_is_not_acknowledged() {
    let _turn = On::Nats.shared().await;
    let scene = Scene::new("deleted").await;
    // given a stream of which single messages cannot be deleted
    let stream = scene.g.stream(scene.topic()).await;
    assert!(stream.delete_message(DONE + 2).await.is_err());
    // when a limit by subject deletes some all the same
    scene.g.change(scene.topic(), |c| c.max_messages_per_subject = 4).await;
    let told = mismatch(scene.seen_by(&scene.watching).await);
    assert!(told.contains("max_msgs_per_subject"), "{told}");
    scene.g.change(scene.topic(), |c| c.max_messages_per_subject = -1).await;
    let gone = scene.g.stream(scene.topic()).await.cached_info().state.clone();
    if is_old() {
        // (a server of 2.9 deletes nothing that was there before)
        assert_eq!(gone.messages, THERE);
        return;
    }
    // then it is told by the beginning, or by what is missing behind it
    assert!(gone.messages < THERE, "{gone:?}");
    for seen in scene.verdicts().await {
        assert!([Verdict::Evicted, Verdict::Vanished].contains(&seen), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_reset_skipped_is_not_acknowledged() {
    let _turn = On::Nats.shared().await;
    let scene = Scene::new("reset").await;
    let mut consumer = scene.consumer().await;
    let reset = consumer.reset(Some(12)).await;
    let Ok(_) = reset else {
        println!("this server has no reset: {}", reset.err().unwrap());
        return;
    };
    scene.holds_as(Verdict::Vanished).await;
    scene.accepted().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_consumer_that_was_made_again_has_acknowledged_nothing() {
    let _turn = On::Nats.shared().await;
    for deliver_policy in [
        DeliverPolicy::New,
        DeliverPolicy::ByStartSequence { start_sequence: 15 },
        DeliverPolicy::Last,
        DeliverPolicy::All,
    ] {
        let mut scene = Scene::new("again").await;
        let stream = scene.g.stream(scene.topic()).await;
        stream.delete_consumer(&scene.group).await.unwrap();
        for seen in scene.verdicts().await {
            assert_eq!(seen, Verdict::Vanished, "it is gone");
        }
        let again = pull::Config { durable_name: Some(scene.group.clone()), deliver_policy, ..pull::Config::default() };
        stream.create_consumer(again).await.unwrap();
        scene.mdt.write(THERE + 1..=THERE + 10);
        scene.holds_as(Verdict::Vanished).await;
        scene.accepted().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_consumer_whose_settings_were_changed_is_not_believed() {
    let _turn = On::Nats.shared().await;
    use async_nats::jetstream::consumer::Config;
    type Change = fn(&mut Config, &str);
    let changes: [(&str, Change); 3] = [
        ("filter", |c, root| c.filter_subject = format!("{root}.0.MARK")),
        ("inactive_threshold", |c, _| c.inactive_threshold = Duration::from_secs(3600)),
        ("backoff", |c, _| (c.backoff, c.max_deliver) = (vec![Duration::from_secs(1)], 5)),
    ];
    for (what, change) in changes {
        let scene = Scene::new("changed").await;
        let stream = scene.g.stream(scene.topic()).await;
        let subject = stream.cached_info().config.subjects[0].clone();
        let mut config = scene.consumer().await.cached_info().config.clone();
        change(&mut config, subject.strip_suffix(".0.*").unwrap());
        stream.update_consumer(config).await.unwrap();
        for seen in scene.verdicts().await {
            assert_eq!(seen, Verdict::Vanished, "{what}");
        }
        // and `groups accept` puts right what can be, and takes the rest as it is
        scene.accepted().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_group_whose_members_acknowledge_for_each_other_is_refused() {
    let _turn = On::Nats.shared().await;
    let g = Nats::new();
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=THERE);
    for ack_policy in [AckPolicy::All, AckPolicy::None] {
        let group = new_group("each-other");
        let config = pull::Config { durable_name: Some(group.clone()), ack_policy, ..pull::Config::default() };
        g.stream(mdt.topic()).await.create_consumer(config).await.unwrap();
        let told = mismatch(g.make().register(&group, mdt.topic(), StartAt::Oldest).await);
        assert!(told.contains(&group) && told.contains("ack_policy"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_put_back_or_forgotten_by_a_member_stays_unacknowledged() {
    let _turn = On::Nats.shared().await;
    let scene = Scene::new("nak").await;
    let taken = scene.fetch(2).await;
    taken[0].ack_with(AckKind::Nak(None)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for seen in scene.verdicts().await {
        assert_eq!(seen, Verdict::At(DONE + 1));
    }
    // and it goes on when they were acknowledged after all
    for message in scene.fetch(2).await {
        message.double_ack().await.unwrap();
    }
    for seen in scene.verdicts().await {
        assert_eq!(seen, Verdict::At(DONE + 3));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_floor_that_falls_back_when_the_server_is_killed_holds_until_it_has_come_back() {
    let _turn = On::Nats.alone().await;
    // given acknowledgements just before the server is killed
    let scene = Scene::new("killed").await;
    let upto = THERE + 1;
    for message in scene.fetch((THERE - DONE) as usize).await {
        message.double_ack().await.unwrap();
    }
    scene.g.kill_and_restart();
    // then the group is where it was or before, never beyond
    let began = Instant::now();
    let seen = answered(|| async { scene.seen_by(&scene.g.make()).await }).await;
    println!("after the kill: {seen:?}");
    assert!(matches!(seen, Verdict::WentBack | Verdict::At(_)), "{seen:?}");
    // and comes back by what is delivered and acknowledged again
    while unless_unavailable(scene.seen_after(&scene.watching, upto).await) != Some(Verdict::At(upto)) {
        let consumer = scene.consumer().await;
        let mut batch = consumer.fetch().max_messages(100).expires(Duration::from_secs(1)).messages().await.unwrap();
        while let Some(Ok(message)) = batch.next().await {
            message.double_ack().await.unwrap();
        }
        assert!(began.elapsed() < HANG, "never came back");
    }
}
