"""The command line of tests/up."""

import argparse
import os
import sys

from . import cluster, install, kafka, nats, run, server
from .paths import Problem

HELP = """commands:
  install [PART]...                       what is missing on this machine: build, kafka, nats, amqp, tools, python (all
                                          parts when none is named)
  kafka start DIR [--sasl-tls] [--set NAME=VALUE]... [--heap SIZE] [--quick] [--servers N]
                                          one KRaft broker on free ports, data in DIR; writes DIR/env (KAFKA_BOOTSTRAP,
                                          KAFKA_PID, KAFKA_DIR, KAFKA_CLASSPATH; with --sasl-tls KAFKA_SASL_SSL,
                                          KAFKA_SSL, KAFKA_CA, KAFKA_WRONG_CA, KAFKA_USER, KAFKA_PASSWORD); with
                                          --servers a cluster, N copies of everything, in DIR/1 to DIR/N (each can be
                                          named below instead of DIR, which means all)
  nats start DIR [--old] [--tls] [--auth accounts|operator] [--config FILE] [--set NAME=VALUE]... [--servers N]
                                          one NATS server with JetStream, or a cluster of N; --old: Debian's, older one;
                                          --config: more lines of its configuration, as DIR/more.conf; --set reaches
                                          into blocks as jetstream.NAME and tls.NAME. DIR/env: NATS_URL, NATS_MONITOR,
                                          NATS_DIR, NATS_PID, NATS_VERSION (new, old); with --tls NATS_CA,
                                          NATS_WRONG_CA, and a client's NATS_CERTIFICATE, NATS_KEY, NATS_PKCS12; with
                                          --auth accounts NATS_USER, NATS_PASSWORD and NATS_NKEY (a file), with
                                          operator NATS_CREDS (a file)
  nats reload DIR                         has it read server.conf and more.conf again
  amqp start DIR [--tls] [--set NAME=VALUE]...
                                          one RabbitMQ node with its management API; --set: lines of rabbitmq.conf.
                                          DIR/env: AMQP_URL, AMQP_MANAGEMENT (with user and password), AMQP_DIR,
                                          AMQP_PID, AMQP_USER, AMQP_PASSWORD; with --tls AMQP_TLS_URL and the files as
                                          for nats (AMQP_CA, ...), whose client's name is AMQP_USER (SASL EXTERNAL)
  amqp ctl DIR WORDS...                   rabbitmqctl for that node
  KIND kill|stall|continue|restart|wait|env DIR
                                          kill -9 · SIGSTOP · SIGCONT · start again on the same data and ports ·
                                          wait until it answers · print its variables
  KIND down DIR [--remove]                ends it and gives its ports back (--remove: and its data)
  run [--with KIND,...] [--old] [--sasl-tls] [--set NAME=VALUE]... [--heap SIZE] [--own] -- CMD...
                                          CMD with servers of its own (all kinds; --with: only these), taken down
                                          whatever happens (--own: CMD starts its servers itself, below CLB_RUN_DIR);
                                          --sasl-tls, --set and --heap are for Kafka, --old for NATS
  tool NAME ARGS...                       one of Kafka's own tools, such as kafka-topics or kafka-consumer-groups
  python ARGS...                          Python with confluent-kafka, nats-py, pika, fastavro and duckdb

variables: CLB_KAFKA=HOST:PORT (a broker to use in `run`), CLB_KAFKA_LIBS (a Kafka 4's libs folder),
  CLB_NATS_SERVER (a nats-server), CLB_RABBITMQ (a folder that holds sbin/rabbitmq-server),
  CLB_PYTHON (an interpreter with the clients), CLB_CACHE (default ~/.cache/clbridge)"""


def _kafka_options(parser):
    parser.add_argument("--sasl-tls", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--heap", default="768m")
    parser.add_argument("--quick", action="store_true")


def _nats_options(parser):
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--auth", choices=nats.AUTH)
    parser.add_argument("--config", metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


def _amqp_options(parser):
    parser.add_argument("--tls", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")


# What a kind's `start` takes on the command line, and how it is told.
OPTIONS = {"kafka": _kafka_options, "nats": _nats_options, "amqp": _amqp_options}
TOLD = {
    "kafka": lambda said: {"secure": said.sasl_tls, "settings": said.set, "heap": said.heap, "quick": said.quick},
    "nats": lambda said: {"old": said.old, "tls": said.tls, "auth": said.auth, "config": said.config,
                          "settings": said.set},
    "amqp": lambda said: {"tls": said.tls, "settings": said.set},
}
VERBS = {"kill": ["kill9"], "stall": ["stop"], "continue": ["cont"], "restart": [], "wait": [], "env": []}


def _server(kind, words):
    parser = argparse.ArgumentParser(prog=f"tests/up {kind}")
    verbs = parser.add_subparsers(dest="verb", required=True)
    start = verbs.add_parser("start")
    start.add_argument("dir")
    OPTIONS[kind](start)
    if kind in cluster.KINDS:
        start.add_argument("--servers", "--brokers", type=int, default=1)
    for verb, others in VERBS.items():
        one = verbs.add_parser(verb, aliases=others)
        one.set_defaults(verb=verb)
        one.add_argument("dir")
    down = verbs.add_parser("down")
    down.add_argument("dir")
    down.add_argument("--remove", action="store_true")
    if kind == "nats":
        verbs.add_parser("reload").add_argument("dir")
    if kind == "amqp":
        ctl = verbs.add_parser("ctl")
        ctl.add_argument("dir")
        ctl.add_argument("words", nargs=argparse.REMAINDER)
    return _carry_out(kind, parser.parse_args(words))


def _carry_out(kind, said):
    count = getattr(said, "servers", 1)
    several = cluster.Cluster.there(said.dir) or count > 1
    one = cluster.KINDS[kind](said.dir) if several and kind in cluster.KINDS else run.SERVERS[kind](said.dir)
    match said.verb:
        case "start" if several:
            one.start(count, **TOLD[kind](said))
        case "start":
            one.start(**TOLD[kind](said))
        case "stall":
            one.signal(server.STOP)
        case "continue":
            one.signal(server.CONT)
        case "down":
            one.down(said.remove)
        case "ctl":
            one.ctl(said.words)
        case "env":
            pass
        case verb:
            getattr(one, verb)()
    if said.verb in ("start", "restart", "env"):
        for name, value in one.environment().items():
            print(f"{name}={value}")
    return 0


def _run(words):
    parser = argparse.ArgumentParser(prog="tests/up run")
    _kafka_options(parser)
    parser.add_argument("--old", action="store_true")
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--with", dest="kinds", default=",".join(run.SERVERS), metavar="KIND,...")
    if "--" not in words:
        parser.error("the command follows '--'")
    cut = words.index("--")
    said, command = parser.parse_args(words[:cut]), words[cut + 1:]
    if not command:
        parser.error("the command follows '--'")
    kinds = [] if said.own else said.kinds.split(",")
    for kind in kinds:
        if kind not in run.SERVERS:
            parser.error(f"unknown kind '{kind}': one of {', '.join(run.SERVERS)}")
    return run.run(command, kinds, {"kafka": TOLD["kafka"](said), "nats": {"old": said.old}})


def main(words):
    """Carries out one command and returns the exit status."""
    match words:
        case ["install", *names]:
            install.install(names)
        case [kind, *rest] if kind in run.SERVERS:
            return _server(kind, rest)
        case ["run", *rest]:
            return _run(rest)
        case ["tool", name, *rest]:
            kafka.tool(name, rest)
        case ["python", *rest]:
            interpreter = str(install.python())
            os.execv(interpreter, [interpreter, *rest])
        case ["help" | "--help" | "-h"] | []:
            print(f"usage: tests/up COMMAND\n\n{HELP}")
        case _:
            raise Problem(f"unknown command '{' '.join(words)}': 'tests/up help' tells them")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"tests/up: {problem}", file=sys.stderr)
        sys.exit(2)
