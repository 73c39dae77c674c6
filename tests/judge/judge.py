"""Judges a run: reads oracle, topics and members' logs, prints what is wrong, appends a row to faults.json.

Exit status 0: all invariants hold. 1: a violation, or a run that proves nothing. 2: it could not be judged.

  tests/up python tests/judge/judge.py --sink kafka|kafka-idempotent|nats|amqp|files --at ADDRESS_OR_FOLDER
      --oracle FS-MDT0000=FILE [--oracle ...] --members DIR [--group NAME[@FEED][=MDT,MDT]]... [--unfinished NAME]...
      [--feed NAME=TYPE,TYPE]... --fault NAME [--runs N] [--recovery-ms N] [--report FILE]
"""

import argparse
import importlib
import json
import sys
import time

import avro
import checks
import members
import oracle
import report
from topics import TYPES

SINKS = ("kafka", "kafka-idempotent", "nats", "amqp", "files")
WEAK_ORDER = ("duplicate", "order", "misplaced")


def reader(sink):
    """How this sink's topics are read: read_SINK.py, in whatever mode the sink was."""
    return importlib.import_module(f"read_{sink.partition('-')[0]}")


def arguments(words):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sink", default="kafka", choices=SINKS,
                        help="kafka-idempotent: duplicates and disorder are only printed")
    parser.add_argument("--at", required=True, metavar="ADDRESS_OR_FOLDER", help="where the sink's broker is, or its files")
    parser.add_argument("--oracle", action="append", required=True, metavar="MDT=FILE")
    parser.add_argument("--members", action="append", default=[], metavar="DIR_OR_FILE")
    parser.add_argument("--group", action="append", default=[], metavar="NAME[@FEED][=MDT,...]",
                        help="a persistent group; clears must wait for each of them")
    parser.add_argument("--unfinished", action="append", default=[], metavar="NAME",
                        help="a group that need not have acknowledged all by now; clears wait for it all the same")
    parser.add_argument("--released", action="append", default=[], metavar="NAME",
                        help="a group that a policy may let go: it must acknowledge everything, but no clear waits for it")
    parser.add_argument("--before", action="append", default=[], metavar="DIR_OR_FILE",
                        help="members' logs from before the topics were deleted and made again")
    parser.add_argument("--retractions", type=int, default=0, help="as many must be seen, or the run proves nothing")
    parser.add_argument("--pinned", action="append", default=[], metavar="[FEED=]N",
                        help="partitions that keys are spread over, where the broker does not tell or has more")
    parser.add_argument("--most-repeated", type=int, default=None, metavar="N",
                        help="records that one start may publish again behind a retraction; without it: any number")
    parser.add_argument("--feed", action="append", default=[], metavar="NAME=TYPE,...",
                        help="a feed and its types (the default feed's name is empty); without it: everything")
    parser.add_argument("--fault", required=True)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--recovery-ms", type=int, default=0)
    parser.add_argument("--said", action="append", default=[], help="what status said of the fault, for the report")
    parser.add_argument("--ended-by", default="", help="what ended it, for the report")
    parser.add_argument("--drawn", default="", help="what was drawn of the fault's variants, for the report")
    parser.add_argument("--seed", type=int, default=0, help="of what was drawn, for the report")
    parser.add_argument("--prefix", default="lustre", help="what the names of topics begin with")
    parser.add_argument("--avsc", default=avro.AVSC)
    parser.add_argument("--any-key", action="store_true", help="the topic's key is not the object's FID")
    parser.add_argument("--without-groups", action="store_true", help='the bridge has without_groups = "durable"')
    parser.add_argument("--nothing-cleared-ok", action="store_true", help="nothing can be cleared in this run")
    parser.add_argument("--report", default=None, help="instead of target/report/faults.json")
    return parser.parse_args(words)


def feeds(said):
    """The feeds that the command line names; the default one is everything."""
    found = {"": checks.Feed()}
    for text in said:
        name, _, types = text.partition("=")
        codes = frozenset(int(one) if one.isdigit() else TYPES.index(one) for one in types.split(",") if one)
        found[name] = checks.Feed(name, codes or None)
    return found


def takers(said, unfinished, released, groups):
    """The persistent groups; one that never said anything is there too, and holds everything back."""
    found = []
    for text in said:
        text, _, mdts = text.partition("=")
        name, _, feed = text.partition("@")
        group = groups.setdefault(name, members.Group(name))
        found.append(checks.Taker(group, feed, frozenset(mdts.split(",")) if mdts else None, name not in unfinished,
                                  name not in released))
    return found


def pinned(said):
    """Partitions by feed; the default feed's name is empty."""
    return {feed: int(count) for feed, _, count in (text.rpartition("=") for text in said)}


def judge(said):
    """The verdict on a run."""
    groups = members.read(said.members, said.before)
    persistent = takers(said.group, said.unfinished, said.released, groups)
    sink = reader(said.sink)
    read = sink.read_all(said.at, avro.Decoder(said.avsc), said.prefix, not said.any_key, pinned(said.pinned))
    now = time.time_ns()
    for taker in persistent:
        sink.committed_now(said.at, taker.group, read, now)
    verdict = checks.Verdict()
    histories = dict(text.split("=", 1) for text in said.oracle)
    for mdt in sorted({topic.mdt for topic in read.values()} - set(histories)):
        verdict.add("never happened", f"{mdt} has topics, but the oracle knows no such MDT")
    known = feeds(said.feed)
    # The default feed is there unless every group takes another and it has no topic.
    if any(taker.feed for taker in persistent) and not any(not topic.feed for topic in read.values()):
        del known[""]
    for mdt, file in sorted(histories.items()):
        own = [topic for topic in read.values() if topic.mdt == mdt]
        checks.check_mdt(oracle.read(file, mdt), own, known.values(), persistent, verdict, said.without_groups)
    return verdict


def failures(verdict, said):
    """Why the run fails, in words."""
    weak = WEAK_ORDER if said.sink == "kafka-idempotent" else ()
    found = [f"{count} × {kind}" for kind, count in sorted(verdict.counts.items()) if kind not in weak]
    if not verdict.records:
        found.append("the MDTs emitted nothing: the run proves nothing")
    if verdict.retractions < said.retractions:
        found.append(f"{verdict.retractions} retractions were seen, not {said.retractions}: the run proves too little")
    most = verdict.row()["most_repeated"]
    if said.most_repeated is not None and most > said.most_repeated:
        found.append(f"{most} records were published again by one start, and at most {said.most_repeated} may be")
    if not verdict.cleared and not said.nothing_cleared_ok:
        found.append("nothing was cleared: the run proves nothing")
    return found


def main(words):
    """Judges, prints, reports; returns the exit status."""
    said = arguments(words)
    began = time.monotonic()
    verdict = judge(said)
    row = {"sink": said.sink, "fault": said.fault, "runs": said.runs, **verdict.row(), "recovery_ms": said.recovery_ms,
           "said": said.said, "ended_by": said.ended_by, "drawn": said.drawn, "seed": said.seed}
    report.append(row, said.report)
    for kind, texts in sorted(verdict.told.items()):
        print(f"{verdict.counts[kind]} × {kind}, the first:")
        for text in texts:
            print(f"  {text}")
    if verdict.purged_unread:
        print(f"{verdict.purged_unread} records were given up by the server itself; they are not asked for")
    if row["repeated"]:
        print(f"{row['repeated']} records that had been retracted were published again, at most {row['most_repeated']} by one start")
    print(json.dumps(row))
    wrong = failures(verdict, said)
    word = f"FAILED: {'; '.join(wrong)}" if wrong else "passed"
    print(f"judge: {said.fault} on {said.sink}: {word} ({time.monotonic() - began:.1f} s)")
    return 1 if wrong else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (OSError, ValueError, RuntimeError, TimeoutError) as problem:
        print(f"judge: cannot judge: {problem}", file=sys.stderr)
        sys.exit(2)
