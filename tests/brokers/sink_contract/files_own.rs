//! What only files have: files that are torn, disks that are full, locks, and clients that read them without clbridge.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use clbridge_sinks::files::{Codec, FilesConfig, FilesSink};
use clbridge_sinks::{
    Broker as _, Consumer, GroupObserver as _, MdtSelection, Refused, Sink, SinkError, StartAt, Subscription,
};

use crate::files::{Files, first_of};
use crate::ground::{
    Ground as _, HANG, Mdt, Seen, counts, id, id_in, indexes, message, new_group, payload, publish_one, read_all,
    recovered, retry, take, wait_for,
};

fn open(files: &[PathBuf]) -> Vec<&PathBuf> {
    files.iter().filter(|f| f.extension().is_some_and(|e| e == "inprogress")).collect()
}

/// What fastavro reads of files, as `FILE CODEC INDEX` a line.
fn by_fastavro(files: &[PathBuf]) -> Vec<(String, u64)> {
    let reader = r#"
import os, sys, fastavro
for path in sys.argv[1:]:
    if not os.path.exists(path):
        path = path.removesuffix(".inprogress")  # closed meanwhile
    with open(path, "rb") as file:
        reader = fastavro.reader(file)
        for record in reader:
            print(reader.metadata["avro.codec"], record["index"])
"#;
    let said = Command::new(crate::ground::variable("CLB_PYTHON")).args(["-c", reader]).args(files).output().unwrap();
    assert!(said.status.success(), "fastavro: {}", String::from_utf8_lossy(&said.stderr));
    let lines = String::from_utf8(said.stdout).unwrap();
    lines.lines().map(|l| l.split_once(' ').unwrap()).map(|(c, i)| (c.to_owned(), i.parse().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_avro_reads_every_codec() {
    let _turn = crate::ground::On::Files.shared().await;
    for (codec, name) in [(Codec::Null, "null"), (Codec::Deflate, "deflate"), (Codec::Zstd, "zstandard")] {
        let g = Files::new(codec);
        let mut mdt = Mdt::new(&g).await;
        mdt.write(1..=500);
        let read = by_fastavro(&g.files(mdt.topic()));
        assert!(read.iter().all(|(codec, _)| codec == name), "{codec:?}");
        assert_eq!(read.into_iter().map(|(_, i)| i).collect::<Vec<_>>(), (1..=500).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_file_is_cut_to_its_last_whole_block_at_the_start() {
    let _turn = crate::ground::On::Files.shared().await;
    // given a file of which a last block was written in part when the bridge was killed
    let g = Files { rotate_bytes: 1 << 20, ..Files::new(Codec::Deflate) };
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=100);
    let files = g.files(mdt.topic());
    let [torn] = open(&files)[..] else { panic!("{files:?}") };
    let whole = std::fs::read(torn).unwrap();
    let block = &whole[whole.len() - 200..];
    std::fs::File::options().append(true).open(torn).unwrap().write_all(&block[..150]).unwrap();
    // when it starts, then what was committed is left, in whole blocks, under its last name
    let (recovered, topics) = mdt.crash(&g).await;
    assert_eq!(recovered.state.unwrap().frontier.unwrap().id, id(100));
    let files = g.files(&topics[0]);
    assert!(open(&files).is_empty(), "{files:?}");
    assert_eq!(std::fs::read(&files[0]).unwrap(), whole);
    assert_eq!(by_fastavro(&files).len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_state_whole_blocks_are_kept_and_the_topic_counts_as_used() {
    let _turn = crate::ground::On::Files.shared().await;
    // given a folder of State that somebody deleted, and a torn file
    let g = Files { rotate_bytes: 1 << 20, ..Files::new(Codec::Zstd) };
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=100);
    std::fs::remove_dir_all(g.dir.path().join("clbridge.state")).unwrap();
    let files = g.files(mdt.topic());
    std::fs::File::options().append(true).open(&files[0]).unwrap().write_all(&[2, 100, 7]).unwrap();
    drop(mdt.publisher);
    // when it starts, then no record that can be read is lost, and nobody takes it for the first start
    let topics = g.sink().prepare(&[crate::ground::spec(&mdt.name, None)], None).await.unwrap();
    std::fs::remove_dir_all(g.dir.path().join("clbridge.state")).unwrap();
    std::fs::create_dir(g.dir.path().join("clbridge.state")).unwrap();
    let recovered = g.sink().recover(&mdt.name, &topics).await.unwrap();
    assert!(recovered.used && recovered.state.is_none());
    assert_eq!(indexes(&read_all(&*g.sink(), &topics[0]).await), (1..=100).collect::<Vec<_>>());
    assert_eq!(by_fastavro(&g.files(&topics[0])).len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_closed_by_size_and_by_age_and_named_by_their_first_record() {
    let _turn = crate::ground::On::Files.shared().await;
    // given small files
    let g = Files::new(Codec::Null);
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=500);
    let files = g.files(mdt.topic());
    assert!(files.len() > 5, "{files:?}");
    assert!(open(&files).len() <= 1, "{files:?}");
    let largest = files.iter().map(|f| std::fs::metadata(f).unwrap().len()).max().unwrap();
    assert!(largest < 16 << 10, "{largest}");
    for file in &files {
        let name = file.file_name().unwrap().to_str().unwrap();
        let first = by_fastavro(std::slice::from_ref(file))[0].1;
        assert!(name.contains(&format!(".1-{first}.avro")), "{name} begins with {first}");
        assert_eq!(first_of(file), first - 1);
    }
    // given large files that are closed by their age, when nothing comes
    let g = Files { rotate_bytes: 1 << 30, rotate_after_ms: 1_000, ..Files::new(Codec::Null) };
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=10);
    let began = Instant::now();
    while !open(&g.files(mdt.topic())).is_empty() {
        assert!(began.elapsed() < HANG, "never closed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // then what comes next is in the next file
    mdt.write(11..=20);
    assert_eq!(g.files(mdt.topic()).iter().map(|f| first_of(f)).collect::<Vec<_>>(), [0, 10]);
    assert_eq!(indexes(&mdt.read_all().await), (1..=20).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_removed_only_below_the_limit_and_when_it_is_old() {
    let _turn = crate::ground::On::Files.shared().await;
    let g = Files::new(Codec::Deflate);
    let mut mdt = Mdt::new(&g).await;
    for batch in 0..10 {
        mdt.write(batch * 30 + 1..=batch * 30 + 30);
    }
    let files = g.files(mdt.topic());
    let limit = first_of(&files[files.len() / 2]) + 1;
    // given files that are young, then nothing is removed, whatever is read
    assert_eq!(mdt.sink.trim(mdt.topic(), &[limit], Duration::from_secs(3600)).await.unwrap(), [0]);
    // given some that are old
    let old = std::time::SystemTime::now() - Duration::from_secs(7200);
    for file in &files[..2] {
        std::fs::File::options().append(true).open(file).unwrap().set_modified(old).unwrap();
    }
    // then these are removed as far as the slowest reader has passed them whole
    assert_eq!(
        mdt.sink.trim(mdt.topic(), &[first_of(&files[1]) + 1], Duration::from_secs(3600)).await.unwrap(),
        [first_of(&files[1])]
    );
    assert_eq!(mdt.sink.trim(mdt.topic(), &[limit], Duration::from_secs(3600)).await.unwrap(), [first_of(&files[2])]);
    assert_eq!(g.files(mdt.topic()), files[2..]);
}

/// A small file system of its own, taken down at the end; `None` where nobody may make one.
struct Small(tempfile::TempDir);

impl Small {
    fn new(kib: u32) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|said| said.status.success());
        mounted.then_some(Self(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_publishing_and_leaves_whole_files_and_publishing_goes_on_when_there_is_room() {
    let _turn = crate::ground::On::Files.shared().await;
    let Some(disk) = Small::new(1024) else {
        return println!("does not apply: a small file system cannot be mounted here");
    };
    // given a disk that has little room
    let dir = disk.0.path().to_owned();
    let filler = dir.join("filler");
    let g = Files { at: Some(dir), memory: 2 << 20, block_bytes: 16 << 10, ..Files::new(Codec::Null) };
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=100);
    std::fs::write(&filler, vec![7; 300 << 10]).unwrap();
    // when more is published than it can take
    let (mut seen, mut next, mut refused) = (Seen::default(), 101, 0);
    let began = Instant::now();
    while refused < 20 {
        let record = payload(&mdt.name, id(next));
        match mdt.publisher.publish(&message(&mdt.topics[0], id(next), &record)) {
            Ok(()) => next += 1,
            Err(Refused::Full) => {
                refused += 1;
                mdt.publisher.poll(Duration::from_millis(5), &mut |d| seen.note(d)).unwrap();
            }
            Err(Refused::Dead(e)) => panic!("{e}"),
        }
        assert!(began.elapsed() < HANG && next < 1_000_000, "never full");
    }
    // then it is refused, nothing of it is durable, and every file is whole as far as it is
    assert_eq!((seen.frontier, seen.places.len()), (None, 0));
    assert_eq!(indexes(&mdt.read_all().await), (1..=100).collect::<Vec<_>>());
    let copy = tempfile::tempdir().unwrap();
    let whole: Vec<PathBuf> = g
        .files(mdt.topic())
        .iter()
        .map(|f| (f, copy.path().join(f.file_name().unwrap())))
        .map(|(from, to)| std::fs::copy(from, &to).map(|_| to).unwrap())
        .collect();
    assert!(by_fastavro(&whole).len() >= 100);
    // and State, which has its room already, can still be taken by another start
    assert!(g.sink().peek_state(&mdt.name).await.unwrap().is_some());
    // when there is room again, then all that was taken becomes durable, once and in order
    let was = next - 1;
    std::fs::remove_file(&filler).unwrap();
    let grown = Command::new("mount").args(["-o", "remount,size=64m"]).arg(disk.0.path()).status().unwrap();
    assert!(grown.success());
    mdt.seal(was, &mut seen);
    assert_eq!(indexes(&mdt.read_all().await), (1..=was).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_dies_on_a_full_disk_starts_again_on_it() {
    let _turn = crate::ground::On::Files.shared().await;
    let Some(disk) = Small::new(1024) else {
        return println!("does not apply: a small file system cannot be mounted here");
    };
    // given a disk that became full under a batch, and a bridge that was killed then
    let dir = disk.0.path().to_owned();
    let g = Files { at: Some(dir.clone()), rotate_bytes: 1 << 20, ..Files::new(Codec::Null) };
    let mut mdt = Mdt::new(&g).await;
    mdt.write(1..=100);
    let filled = std::fs::File::create(dir.join("filler")).unwrap();
    while (&filled).write_all(&[7; 512]).is_ok() {}
    let mut seen = Seen::default();
    mdt.publish(101..=1000, &mut seen);
    assert!(mdt.publisher.seal(Some(id(1000)), Some(&mdt.state)).is_ok());
    mdt.publisher.poll(Duration::from_millis(300), &mut |d| seen.note(d)).unwrap();
    assert_eq!(seen.frontier, None);
    let name = mdt.name.clone();
    drop(mdt.publisher);
    // when it starts while the disk is still full (the old one's thread is over in a moment)
    let recovered = recovered(&*g.sink(), &name, &mdt.topics).await;
    // then it finds what was durable, and State can be written
    let mut state = recovered.state.unwrap();
    assert_eq!(state.frontier.unwrap().id, id(100));
    let (mut p, mut seen) = (recovered.publisher, Seen::default());
    state.number += 1;
    retry(&mut *p, &mut seen, |p| p.store(&state));
    wait_for(&mut *p, &mut seen, |s| s.state == Some(state.number));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_was_fenced_leaves_nothing_in_files_that_others_read() {
    let _turn = crate::ground::On::Files.shared().await;
    // given a bridge that lives, with blocks behind what it committed
    let g = Files { rotate_bytes: 1 << 20, ..Files::new(Codec::Null) };
    let mut first = Mdt::new(&g).await;
    first.write(1..=100);
    let mut seen = Seen::default();
    first.publish(101..=500, &mut seen);
    // when another one takes over, and the first goes on writing
    let mut second = Mdt::named(&g, first.name.clone(), &[None]).await;
    for index in 501..=3000 {
        let record = payload(&first.name, id(index));
        if first.publisher.publish(&message(&first.topics[0], id(index), &record)).is_err() {
            break;
        }
    }
    let mut record = Vec::new();
    for index in 101..=200 {
        record = payload(&second.name, id_in(1, index));
        publish_one(&mut *second.publisher, &second.topics[0], id(index), &record, &mut seen);
    }
    assert!(!record.is_empty());
    second.seal(200, &mut seen);
    // and the first is told that it is fenced, and nothing else
    let began = Instant::now();
    let told = loop {
        let sealed = first.publisher.seal(Some(id(3000)), Some(&first.state));
        let polled = first.publisher.poll(Duration::from_millis(20), &mut |d| panic!("{d:?}"));
        match (sealed, polled) {
            (Err(Refused::Dead(e)), _) | (_, Err(e)) => break e,
            _ => assert!(began.elapsed() < HANG, "never fenced"),
        }
    };
    assert!(matches!(told, SinkError::Fenced { .. }), "{told}");
    drop(first.publisher);
    // then whoever reads the files, even without a look at State, finds the second's records only
    let files: Vec<PathBuf> = g.files(second.topic());
    assert_eq!(by_fastavro(&files).into_iter().map(|(_, i)| i).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_share_mdts_by_locks_and_a_dead_one_s_go_to_the_others() {
    let _turn = crate::ground::On::Files.shared().await;
    // given a group of two members on four MDTs
    let g = Files::new(Codec::Deflate);
    let group = new_group("shared");
    let mut mdts = Vec::new();
    for _ in 0..4 {
        let mdt = Mdt::new(&g).await;
        g.make().register(&group, mdt.topic(), StartAt::Oldest).await.unwrap();
        mdts.push(mdt);
    }
    let all = MdtSelection::List(mdts.iter().map(|m| m.name.clone()).collect());
    let (mut one, mut other) = (g.member(&group, all.clone()), g.member(&group, all));
    for member in [&mut one, &mut other] {
        assert!(member.next(10, Duration::from_millis(100)).await.unwrap().records.is_empty());
    }
    // (the first one lets go of two when it notices the second)
    settle(&mut *one, &mut *other).await;
    for mdt in &mut mdts {
        mdt.write(1..=50);
    }
    // when both take, then each has two of them, and none has what the other has
    let mine = topics_of(&mut *one, 100).await;
    let theirs = topics_of(&mut *other, 100).await;
    assert_eq!((mine.len(), theirs.len()), (2, 2));
    assert!(mine.is_disjoint(&theirs));
    // when one dies, then the other gets its MDTs, from where it stood
    drop(one);
    for mdt in &mut mdts {
        mdt.write(51..=60);
    }
    let taken = take(&mut *other, true, |all| all.len() >= 40).await;
    assert_eq!(taken.iter().map(|(topic, _)| topic.clone()).collect::<BTreeSet<_>>().len(), 4);
    assert_eq!(counts(&taken), (51..=60).map(|i| (i, 4)).collect());
}

async fn settle(one: &mut dyn Consumer, other: &mut dyn Consumer) {
    for _ in 0..4 {
        assert!(one.next(10, Duration::from_millis(600)).await.unwrap().records.is_empty());
        assert!(other.next(10, Duration::from_millis(600)).await.unwrap().records.is_empty());
    }
}

async fn topics_of(member: &mut dyn Consumer, count: usize) -> BTreeSet<String> {
    take(member, true, |all| all.len() >= count).await.into_iter().map(|(topic, _)| topic).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_without_rights_is_told_as_such() {
    let _turn = crate::ground::On::Files.shared().await;
    // given a place where nobody can make a folder
    let config = FilesConfig { dir: Path::new("/proc/clbridge").to_owned(), ..FilesConfig::default() };
    let sink = FilesSink::new(config).unwrap();
    let told = sink.prepare(&[crate::ground::spec(&crate::ground::new_mdt(), None)], None).await.unwrap_err();
    // then the error names it
    assert!(told.to_string().contains("/proc/clbridge"), "{told}");
    // and a group whose name would lead elsewhere is refused
    let what = Subscription::default();
    assert!(matches!(sink.consumer("../x", &what), Err(SinkError::Mismatch { .. })));
}
