"""The command line of tests/up."""

import argparse
import os
import sys

from . import cluster, install, kafka, run
from .paths import Problem

HELP = """commands:
  install [build|kafka|tools|python]...   what is missing on this machine (all parts when none is named)
  kafka start DIR [--sasl-tls] [--set NAME=VALUE]... [--heap SIZE] [--brokers N]
                                          one KRaft broker on free ports, data in DIR; writes DIR/env (KAFKA_BOOTSTRAP,
                                          KAFKA_PID, KAFKA_DIR, KAFKA_CLASSPATH; with --sasl-tls KAFKA_SASL_SSL,
                                          KAFKA_SSL, KAFKA_CA, KAFKA_WRONG_CA, KAFKA_USER, KAFKA_PASSWORD); with
                                          --brokers a cluster, N copies of everything, in DIR/1 to DIR/N (each can be
                                          named below instead of DIR, which means all)
  kafka kill9|stop|cont|restart|wait|env DIR
                                          kill -9 · SIGSTOP · SIGCONT · start again on the same data and ports ·
                                          wait until it answers · print its variables
  kafka down DIR [--remove]               ends it and gives its ports back (--remove: and its data)
  run [--sasl-tls] [--set NAME=VALUE]... [--heap SIZE] [--own] -- CMD...
                                          CMD with a Kafka of its own, taken down whatever happens (--own: CMD starts
                                          its brokers itself, below CLB_RUN_DIR)
  tool NAME ARGS...                       one of Kafka's own tools, such as kafka-topics or kafka-consumer-groups
  python ARGS...                          Python with confluent-kafka and fastavro

variables: CLB_KAFKA=HOST:PORT (a broker to use in `run`), CLB_KAFKA_LIBS (a Kafka 4's libs folder),
  CLB_PYTHON (an interpreter with the clients), CLB_CACHE (default ~/.cache/clbridge)"""


def _broker_options(parser):
    parser.add_argument("--sasl-tls", action="store_true")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--heap", default="768m")


def _kafka(words):
    parser = argparse.ArgumentParser(prog="tests/up kafka")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("start", "kill9", "stop", "cont", "restart", "wait", "env", "down"):
        one = verbs.add_parser(verb)
        one.add_argument("dir")
        if verb == "start":
            _broker_options(one)
            one.add_argument("--brokers", type=int, default=1)
        if verb == "down":
            one.add_argument("--remove", action="store_true")
    said = parser.parse_args(words)
    several = cluster.Cluster.there(said.dir) or getattr(said, "brokers", 1) > 1
    broker = cluster.Cluster(said.dir) if several else kafka.Broker(said.dir)
    match said.verb:
        case "start" if several:
            broker.start(said.brokers, said.sasl_tls, said.set, said.heap)
        case "start":
            broker.start(said.sasl_tls, said.set, said.heap)
        case "stop":
            broker.freeze(kafka.STOP)
        case "cont":
            broker.freeze(kafka.CONT)
        case "down":
            broker.down(said.remove)
        case "env":
            pass
        case verb:
            getattr(broker, verb)()
    if said.verb in ("start", "restart", "env"):
        for name, value in broker.environment().items():
            print(f"{name}={value}")
    return 0


def _run(words):
    parser = argparse.ArgumentParser(prog="tests/up run")
    _broker_options(parser)
    parser.add_argument("--own", action="store_true")
    if "--" not in words:
        parser.error("the command follows '--'")
    cut = words.index("--")
    said, command = parser.parse_args(words[:cut]), words[cut + 1:]
    if not command:
        parser.error("the command follows '--'")
    return run.run(command, said.sasl_tls, said.set, said.heap, said.own)


def main(words):
    """Carries out one command and returns the exit status."""
    match words:
        case ["install", *names]:
            install.install(names)
        case ["kafka", *rest]:
            return _kafka(rest)
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
