"""One member of a consumer group, as a user would write it, that says what it does before it does it.

JSON lines, flushed to the system before the acknowledgement is sent:
  {"event":"started","at_ns":N,"group":G,"member":M,"log_records":BOOL}
  {"event":"records","at_ns":N,"group":G,"member":M,"records":{topic:{partition:[[position,incarnation,index],...]}}}
  {"event":"about","at_ns":N,"group":G,"member":M,"offsets":{topic:{partition:next position}}}
  {"event":"about","at_ns":N,"group":G,"member":M,"done":{topic:{partition:[position,...]}}} where each is acknowledged
  {"event":"committed"|"failed","at_ns":N,...,"error":TEXT for failed}
  {"event":"assigned"|"revoked"|"lost","at_ns":N,...,"partitions":{topic:[partition,...]}}
  {"event":"stopped","at_ns":N,...,"reason":TEXT,"consumed":N}
"""

import argparse
import importlib
import signal
import sys


def arguments(words):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sink", default="kafka", choices=("kafka", "nats", "amqp", "files"))
    parser.add_argument("--at", required=True, metavar="ADDRESS_OR_FOLDER", help="where the broker is, or the files")
    parser.add_argument("--group", required=True)
    parser.add_argument("--member", default=None, help="its name in the log (default: GROUP-PID)")
    parser.add_argument("--topics", required=True, help="a list a,b,c or one regular expression that begins with ^")
    parser.add_argument("--log", required=True, help="JSON lines are appended to this file")
    parser.add_argument("--batch", type=int, default=1000, help="records taken at once at most")
    parser.add_argument("--delay-ms", type=float, default=0, help="work pretended for each batch")
    parser.add_argument("--commit-ms", type=float, default=100, help="commits at most this often")
    parser.add_argument("--never-commit", action="store_true")
    parser.add_argument("--log-records", action="store_true")
    parser.add_argument("--idle-s", type=float, default=0, help="ends after this long without a record (0: never); longer than the session, or a killed "
                        "neighbour's partitions are left unread")
    kafka = parser.add_argument_group("kafka")
    kafka.add_argument("--assignor", default="range", help="range, roundrobin or cooperative-sticky")
    kafka.add_argument("--protocol", default="classic", choices=("classic", "consumer"), help="consumer: KIP-848")
    kafka.add_argument("--reset", default="error", help="auto.offset.reset: a registered group never needs it")
    kafka.add_argument("--session-ms", type=int, default=10000)
    kafka.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="any librdkafka setting")
    return parser.parse_args(words)


def main(words):
    """One member's life; returns the exit status."""
    said = arguments(words)
    sink = importlib.import_module(f"member_{said.sink}")
    member = sink.Member(said)

    def told(_number, _frame):
        member.ending = "signal"

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    try:
        member.run()
    except sink.ERRORS as error:
        member.close()
        member.stopped(f"error: {error}")
        print(f"member {member.name}: {error}", file=sys.stderr)
        return 1
    member.close()
    member.stopped(member.ending)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
