//! Judges a run, record by record: what the simulated MDTs say happened against what the groups' members wrote out.
//!
//! Pure: evidence in, verdict out. It shares no code with what it judges and never takes a missing proof for a good
//! one: a run in which nothing was recorded or cleared fails.

use std::collections::{BTreeMap, HashMap, HashSet};

use clbridge_schemas::lustre::{Fid, Time};
use mdt_sim::oracle::{Emitted, Entry, Event};

/// Everything that is known about a run.
#[derive(Debug, Default)]
pub struct Evidence {
    /// What happened on each simulated MDT.
    pub mdts: Vec<MdtEvidence>,
    /// What each persistent group wrote out.
    pub groups: Vec<GroupEvidence>,
    /// Where each partition of a record topic starts.
    pub log_starts: Vec<LogStart>,
    /// The sink declares that nothing is published twice.
    pub exactly_once: bool,
    /// The sink declares that a topic is one sequence, over all partitions.
    pub one_sequence: bool,
}

/// What happened on one simulated MDT.
#[derive(Debug)]
pub struct MdtEvidence {
    /// Its device name.
    pub name: String,
    /// Its oracle log, in order.
    pub history: Vec<Entry>,
    /// Records that its changelog still held at the end.
    pub backlog: u64,
}

/// What the members of one group wrote out, killed ones included.
#[derive(Debug)]
pub struct GroupEvidence {
    /// Its name.
    pub name: String,
    /// What each of its members wrote, in order.
    pub members: Vec<Vec<Written>>,
    /// The records of one object come to one member at a time, in order.
    pub in_order: bool,
}

/// One line that a member wrote.
#[derive(Clone, Debug)]
pub struct Written {
    /// When it was there to be read, at the latest: nanoseconds since 1970.
    pub at_ns: u64,
    /// MDT.
    pub mdt: String,
    /// Incarnation of the MDT's changelog.
    pub incarnation: u32,
    /// Index.
    pub index: u64,
    /// The object by whose FID records are spread over partitions; empty for none.
    pub object: String,
    /// What it says.
    pub what: What,
}

/// What a line says.
#[derive(Clone, Debug)]
pub enum What {
    /// This happened.
    Record(Content),
    /// What was said of these indexes of this incarnation is void.
    #[allow(missing_docs)]
    Retraction { incarnation: u32, from: u64, to: u64 },
}

/// What tells two records with the same index apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    /// The type's number.
    pub kind: u32,
    /// The record's time, RFC 3339 with nine decimals.
    pub time: String,
    /// The target FID as text; empty for a MARK, which has none.
    pub tfid: String,
}

impl Content {
    /// What a member has to write for a record that the oracle has.
    #[must_use]
    pub fn of(e: &Emitted) -> Self {
        let (seq, oid, ver) = e.tfid;
        Self {
            kind: e.kind,
            time: Time::from_nanos(e.time_ns.cast_signed()).to_string(),
            tfid: if e.kind == 0 { String::new() } else { Fid { seq, oid, ver }.to_string() },
        }
    }
}

/// Where the log of a partition starts.
#[derive(Debug)]
pub struct LogStart {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Its first position before the first record.
    pub began: u64,
    /// Its first position at the end.
    pub now: u64,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Verdict {
    /// What is wrong, one sentence a kind; empty: nothing.
    pub problems: Vec<String>,
    /// By MDT.
    pub mdts: Vec<MdtTally>,
    /// By group.
    pub groups: Vec<GroupTally>,
}

/// Figures of one MDT.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MdtTally {
    /// Its name.
    pub name: String,
    /// Records emitted.
    pub emitted: u64,
    /// Records that a crash took back.
    pub taken_back: u64,
    /// Records that stand.
    pub surviving: u64,
    /// Clears that were carried out.
    pub clears: u64,
    /// Clears that were refused.
    pub refused: u64,
}

/// Figures of one group.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct GroupTally {
    /// Its name.
    pub name: String,
    /// Different records written out.
    pub records: u64,
    /// Lines beyond the first of a record: at least once is what was promised.
    pub repeated: u64,
    /// Records that a retraction made void.
    pub void: u64,
    /// Of these, records that stand all the same: they were published once more.
    pub again: u64,
    /// Whether the order of its lines was judged.
    pub in_order: bool,
}

/// Counts what is wrong by kind and keeps the first case of each, so that a thousand cases are one sentence.
#[derive(Default)]
struct Problems(BTreeMap<String, (u64, String)>);

impl Problems {
    fn note(&mut self, kind: impl Into<String>, case: impl FnOnce() -> String) {
        self.0.entry(kind.into()).and_modify(|(n, _)| *n += 1).or_insert_with(|| (1, case()));
    }

    fn sentences(self) -> Vec<String> {
        self.0
            .into_iter()
            .map(
                |(kind, (n, first))| {
                    if n == 1 { format!("{kind}: {first}") } else { format!("{kind}: {n} times, first {first}") }
                },
            )
            .collect()
    }
}

/// A record as one group wrote it.
struct Line<'a> {
    content: &'a Content,
    at_ns: u64,
    incarnation: u32,
    void: bool,
}

/// What one group wrote of one MDT, by index.
type Lines<'a> = HashMap<u64, Vec<Line<'a>>>;

/// Judges a run.
#[must_use]
pub fn judge(evidence: &Evidence) -> Verdict {
    let mut problems = Problems::default();
    let mut verdict = Verdict::default();
    let mut books = Vec::new();
    for group in &evidence.groups {
        let (book, tally) = read_group(group, &mut problems);
        books.push((group.name.as_str(), book));
        verdict.groups.push(tally);
        if group.in_order {
            check_order(group, evidence.one_sequence, &mut problems);
        }
    }
    for mdt in &evidence.mdts {
        let (tally, again) = judge_mdt(mdt, &books, &mut problems);
        verdict.mdts.push(tally);
        for (group, again) in verdict.groups.iter_mut().zip(again) {
            group.again += again;
        }
    }
    for group in verdict.groups.iter().filter(|g| g.again > 0 && evidence.exactly_once) {
        problems.note("the sink declares that it publishes nothing twice, and it did", || {
            format!("{} was told {} records again that stand", group.name, group.again)
        });
    }
    for (group, book) in &books {
        for mdt in book.keys().filter(|name| !evidence.mdts.iter().any(|m| m.name == **name)) {
            problems.note(format!("{group} wrote records of an MDT that is not there"), || (*mdt).to_owned());
        }
    }
    for start in evidence.log_starts.iter().filter(|s| s.now != s.began) {
        problems.note("the broker dropped records", || {
            let LogStart { topic, partition, began, now } = start;
            format!("{topic} partition {partition} began at position {began} and begins at {now}")
        });
    }
    if verdict.mdts.iter().all(|m| m.surviving == 0) {
        problems.note("nothing was recorded", || "so nothing is proven".to_owned());
    }
    if verdict.mdts.iter().all(|m| m.clears == 0) {
        problems.note("nothing was cleared", || "so nothing is proven".to_owned());
    }
    if evidence.groups.is_empty() {
        problems.note("no group took part", || "so nothing is proven".to_owned());
    }
    verdict.problems = problems.sentences();
    verdict
}

/// Sorts what a group wrote by MDT and index.
fn read_group<'a>(group: &'a GroupEvidence, problems: &mut Problems) -> (HashMap<&'a str, Lines<'a>>, GroupTally) {
    let mut tally = GroupTally { name: group.name.clone(), in_order: group.in_order, ..GroupTally::default() };
    let mut voids: HashMap<&str, Vec<(u32, u64, u64)>> = HashMap::new();
    for line in group.members.iter().flatten() {
        if let What::Retraction { incarnation, from, to } = line.what {
            let known = voids.entry(&line.mdt).or_default();
            // Each partition has its own MARK for the same retraction.
            if !known.contains(&(incarnation, from, to)) {
                known.push((incarnation, from, to));
            }
        }
    }
    let mut book: HashMap<&str, Lines<'a>> = HashMap::new();
    for line in group.members.iter().flatten() {
        let What::Record(content) = &line.what else { continue };
        let same = book.entry(&line.mdt).or_default().entry(line.index).or_default();
        if let Some(known) = same.iter_mut().find(|k| k.incarnation == line.incarnation) {
            tally.repeated += 1;
            known.at_ns = known.at_ns.min(line.at_ns);
            if known.content != content {
                problems.note(format!("{} got two different records with one identity", group.name), || {
                    format!("{} {}:{} is {:?} and {content:?}", line.mdt, line.incarnation, line.index, known.content)
                });
            }
            continue;
        }
        let void = voids.get(line.mdt.as_str()).is_some_and(|v| {
            v.iter().any(|(i, from, to)| *i == line.incarnation && (*from..=*to).contains(&line.index))
        });
        tally.records += 1;
        tally.void += u64::from(void);
        same.push(Line { content, at_ns: line.at_ns, incarnation: line.incarnation, void });
    }
    (book, tally)
}

/// In what each member wrote, the records of one object (or of an MDT, where its topic is one sequence) come in the
/// order of incarnation and index. What a member gets once more after a change in its group is counted elsewhere.
fn check_order(group: &GroupEvidence, one_sequence: bool, problems: &mut Problems) {
    for member in &group.members {
        let mut seen: HashSet<(&str, u32, u64)> = HashSet::new();
        let mut newest: HashMap<(&str, &str), (u32, u64)> = HashMap::new();
        for line in member.iter().filter(|l| matches!(l.what, What::Record(_))) {
            let id = (line.incarnation, line.index);
            let object = if one_sequence { "" } else { line.object.as_str() };
            if !seen.insert((&line.mdt, id.0, id.1)) || (object.is_empty() && !one_sequence) {
                continue;
            }
            let newest = newest.entry((&line.mdt, object)).or_insert(id);
            if id < *newest {
                problems.note(format!("{} got records out of order", group.name), || {
                    format!("{} {}:{} came behind {}:{}", line.mdt, id.0, id.1, newest.0, newest.1)
                });
            }
            *newest = id.max(*newest);
        }
    }
}

/// Goes through an MDT's history as it happened. Tells besides how many records that stand each group was told again.
fn judge_mdt(
    mdt: &MdtEvidence,
    books: &[(&str, HashMap<&str, Lines<'_>>)],
    problems: &mut Problems,
) -> (MdtTally, Vec<u64>) {
    let mut tally = MdtTally { name: mdt.name.clone(), ..MdtTally::default() };
    let mut standing: BTreeMap<u64, Content> = BTreeMap::new();
    let mut judged = 0;
    for entry in &mdt.history {
        match entry {
            Entry::Emitted(e) => {
                tally.emitted += 1;
                standing.insert(e.index, Content::of(e));
            }
            Entry::Event(Event::TakenBack { from, clears, .. }) => {
                tally.taken_back += standing.split_off(from).len() as u64;
                // What is cleared once more has to be proven once more.
                judged = clears.iter().map(|c| c.to).fold(judged.min(from.saturating_sub(1)), u64::min);
            }
            Entry::Event(Event::Clear { received_ns, index, errno: 0, .. }) => {
                tally.clears += 1;
                // 0 says "everything up to now".
                let upto = index.filter(|i| *i > 0).unwrap_or(u64::MAX);
                for (index, content) in standing.range(judged + 1..).take_while(|(i, _)| **i <= upto) {
                    for (group, book) in books {
                        let in_time = book
                            .get(mdt.name.as_str())
                            .and_then(|b| b.get(index))
                            .is_some_and(|lines| lines.iter().any(|l| l.content == content && l.at_ns <= *received_ns));
                        if !in_time {
                            problems.note(format!("cleared before {group} had written it out"), || {
                                format!("{} index {index} of {}", mdt.name, content.time)
                            });
                        }
                    }
                }
                judged = judged.max(upto.min(standing.keys().next_back().copied().unwrap_or(0)));
            }
            Entry::Event(Event::Clear { .. }) => tally.refused += 1,
            Entry::Event(_) => {}
        }
    }
    tally.surviving = standing.len() as u64;
    let compared = books.iter().map(|(group, book)| {
        let lines = book.get(mdt.name.as_str());
        compare(mdt, group, lines, &standing, problems);
        lines.map_or(0, |lines| told_again(lines, &standing))
    });
    let again = compared.collect();
    if mdt.backlog > 0 {
        problems.note("a changelog was not cleared to its end", || {
            format!("{} still holds {} records", mdt.name, mdt.backlog)
        });
    }
    (tally, again)
}

/// How many records that stand a group was told more than once, by a retraction between them.
fn told_again(lines: &Lines<'_>, standing: &BTreeMap<u64, Content>) -> u64 {
    let again = |(index, all): (&u64, &Vec<Line<'_>>)| {
        let (void, valid): (Vec<_>, Vec<_>) =
            all.iter().filter(|l| standing.get(index) == Some(l.content)).partition(|l| l.void);
        if valid.is_empty() { 0 } else { void.len() as u64 }
    };
    lines.iter().map(again).sum()
}

/// What a group was told, without what was retracted, must be exactly what stands on the MDT.
fn compare(
    mdt: &MdtEvidence,
    group: &str,
    lines: Option<&Lines<'_>>,
    standing: &BTreeMap<u64, Content>,
    problems: &mut Problems,
) {
    let told = |index: &u64| lines.and_then(|l| l.get(index)).into_iter().flatten().filter(|l| !l.void);
    for (index, content) in standing {
        if !told(index).any(|l| l.content == content) {
            problems.note(format!("a record never reached {group}"), || {
                format!("{} index {index} of {}", mdt.name, content.time)
            });
        }
    }
    for (index, line) in lines.into_iter().flatten().flat_map(|(index, all)| all.iter().map(move |l| (index, l))) {
        if !line.void && standing.get(index) != Some(line.content) {
            problems.note(format!("{group} was told what did not happen, and it was not retracted"), || {
                format!("{} {}:{index} of {}", mdt.name, line.incarnation, line.content.time)
            });
        }
    }
}

#[cfg(test)]
mod tests;
