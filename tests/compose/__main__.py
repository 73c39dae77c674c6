"""The command line of compose/test."""

import argparse
import concurrent.futures
import signal
import sys
import time

from ground import paths
from ground.paths import Problem

import engine
import images
from scenario import Scenario
from stack import BROKERS, STOPPED, Stack

DID_NOT_RUN = 3
AT_ONCE = 2  # stacks: most of a run is waiting for containers


def say(text):
    print(f"compose/test: {text}", flush=True)


def arguments(words):
    parser = argparse.ArgumentParser(
        prog="compose/test", description="Builds and runs the stack's profiles with a real Docker engine, kills every "
        "container, and compares what the groups printed with what happened on the MDTs.",
        epilog="Exit status: 0 passed, 1 failed, 3 did not run because there is no engine.")
    parser.add_argument("what", nargs="*", metavar="PROFILE", help=f"{', '.join(BROKERS)} (default: all); or 'images': "
                        "only make the images of compose.local.yml, for `docker compose -f … up`")
    parser.add_argument("--base", help=f"a base image that is there, instead of {images.BASE}")
    parser.add_argument("--rate", type=int, default=100, help="records a second over all MDTs (default 100)")
    parser.add_argument("--keep", action="store_true", help="leave a failed stack up, to look at it")
    said = parser.parse_args(words)
    said.images_only = "images" in said.what
    said.profiles = [name for name in said.what if name != "images"] or list(BROKERS)
    for name in said.profiles:
        if name not in BROKERS:
            parser.error(f"unknown profile '{name}': {', '.join(BROKERS)}")
    return said


def prepare(stack):
    """Checks the files and builds the images of one profile; whether that worked."""
    try:
        stack.check()
        stack.build()
    except Problem as problem:
        say(f"{stack.profile}: FAILED: {problem}")
        return False
    say(f"{stack.profile}: images are there")
    return True


def one(stack, said):
    """Runs one profile; whether it passed."""
    try:
        Scenario(stack, say).run()
    except Problem as problem:
        say(f"{stack.profile}: FAILED: {problem}")
        for service in stack.known():
            status, health, restarts = stack.state(service)
            say(f"{service}: {status}, {health or 'no health check'}, {restarts} restarts by policy; its last lines:\n"
                f"{stack.tail(service)}")
        if said.keep:
            say(f"left as it is: {' '.join(stack.docker.compose)} -p {stack.project} ps")
            return False
        stack.down()
        return False
    except BaseException:
        stack.down()
        raise
    stack.down()
    return True


def all_of(stacks, said):
    """Runs the stacks, some at once; the profiles that failed."""
    # One after the other, since they share layers.
    ready = [stack for stack in stacks if prepare(stack)]
    passed = ready
    if not said.images_only:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                results = list(pool.map(lambda stack: one(stack, said), ready))
            except BaseException:
                STOPPED.set()
                pool.shutdown(cancel_futures=True)
                raise
        passed = [stack for stack, fine in zip(ready, results) if fine]
    return [stack.profile for stack in stacks if stack not in passed]


def main(words):
    """Returns the exit status."""
    said = arguments(words)
    # So that what was started is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    began = time.monotonic()
    try:
        with paths.locked("compose"), engine.docker() as docker:
            folder = images.stage(said.profiles)
            if not said.base:
                images.base(docker)
            # An engine may answer and still not be allowed to start anything, as within a container of others.
            docker.probe(said.base or images.BASE)
            variables = {"LOCAL": str(folder), "BASE": said.base or images.BASE}
            failed = all_of([Stack(docker, name, said.rate, variables) for name in said.profiles], said)
    except engine.NoEngine as why:
        say(f"DID NOT RUN: {why}\n{engine.HOW}")
        return DID_NOT_RUN
    word = f"FAILED: {', '.join(failed)}" if failed else f"passed: {', '.join(said.profiles)}"
    say(f"{word} ({time.monotonic() - began:.0f} s)")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Problem as problem:
        print(f"compose/test: {problem}", file=sys.stderr)
        sys.exit(1)
