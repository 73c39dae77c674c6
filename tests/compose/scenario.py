"""What is done to one profile's stack, and what must be true in the end: every container is killed once while records
flow, and everything that survived on the MDTs was printed by every group; nothing was cleared that a dead group lacked."""

import time

from ground.paths import Problem

import printed
from stack import until

MDTS, FILE_SYSTEMS = 3, 2
WHILE_DOWN = 150  # records that are logged while a container is dead
LONG_ENOUGH = 12  # seconds of records: more than twice clear.min_age in compose/config/bridge.toml


class Scenario:
    """One run of one profile."""

    def __init__(self, stack, say):
        self.stack, self._say = stack, say
        self.began = time.monotonic()

    def say(self, text):
        self._say(f"{self.stack.profile}: {text} ({time.monotonic() - self.began:.0f} s)")

    def run(self):
        """All of it; a Problem says what went wrong."""
        stack = self.stack
        stack.up()
        self.wait_well(*stack.services())
        until("every MDT was found, and records were cleared on each", self._cleared_everywhere)
        self.say("up, and records flow to every group")
        self.mdts_crash()
        for service in filter(None, (self._broker(), stack.bridge, "workload")):
            self.kill(service)
        self.groups_die()
        self.settle()
        self.judge()

    def _broker(self):
        return next((name for name in self.stack.services() if name in ("kafka", "nats", "rabbitmq")), None)

    def wait_well(self, *services):
        for name in services:
            until(f"{name} runs and is healthy", lambda name=name: self.stack.well(name))

    def _cleared_everywhere(self):
        mdts = self.stack.mdts()
        return len(mdts) == MDTS and all(mdt["cleared"] > 0 for mdt in mdts.values())

    def wait_flow(self):
        """Every group acknowledges, on every MDT, records that were logged after now."""
        newest = {name: mdt["last_index"] for name, mdt in self.stack.mdts().items()}
        until("every group acknowledges new records of every MDT", lambda: self._beyond(newest))

    def _beyond(self, newest, others_of=None):
        """Whether the groups, but for one, have acknowledged what is beyond these indexes."""
        status = self.stack.status()
        return len(newest) == MDTS and status.keys() == newest.keys() and all(
            len(mdt["groups"]) == len(self.stack.groups)
            and all(group["floor"] > newest[name] for group in mdt["groups"] if group["name"] != others_of)
            for name, mdt in status.items())

    def wait_logged(self, count=WHILE_DOWN):
        before = self.stack.emitted()
        until("the MDTs log more records", lambda: self.stack.emitted() >= before + count)

    def kill(self, service):
        """One container dies, records come meanwhile, it is started, records flow."""
        self.stack.kill(service)
        self.wait_logged()
        self.stack.start(service)
        self.wait_well(service)
        self.wait_flow()
        self.say(f"{service} killed and started, records flow")

    def mdts_crash(self):
        """The MDTs' container dies: what was not committed is taken back, and its indexes are used again."""
        self.stack.kill("mdt")
        self.stack.start("mdt")
        self.wait_well("mdt")
        until("the restart policy brought the workload back",
              lambda: self.stack.state("workload")[2] > 0 and self.stack.well("workload"))
        self.wait_logged()
        self.wait_flow()
        self.say("mdt killed and started, records flow")

    def groups_die(self):
        """A group that is dead holds the clears back; the others go on. Then those die too."""
        stack = self.stack
        dead, *others = stack.groups.values()
        name = next(iter(stack.groups))
        stack.kill(dead)

        newest = {mdt: figures["last_index"] for mdt, figures in stack.mdts().items()}
        # Enough that, but for the dead group, records would have been old enough to be cleared long ago.
        self.wait_logged(LONG_ENOUGH * stack.rate)
        until("the other groups acknowledge what was logged after its death", lambda: self._beyond(newest, others_of=name))
        histories = stack.histories()
        early = printed.uncovered(histories, printed.Printed(stack.log(dead)))
        if early:
            raise Problem(f"{len(early)} records were cleared that {dead} never printed, for instance {early[0]}")
        self.say(f"{dead} killed; while it was dead nothing was cleared that it lacked")
        stack.kill(*others)
        self.wait_logged()
        stack.start(dead, *others)
        self.wait_well(dead, *others)
        self.wait_flow()
        self.say(f"{', '.join(others)} killed and all started, records flow")

    def settle(self):
        """No more records; all are cleared."""
        stack = self.stack
        stack.kill("workload")
        stack.docker.run("exec", stack.id("mdt"), "mdt-sim", "emit-stop")

        def done():
            mdts = stack.mdts()
            return len(mdts) == MDTS and all(mdt["cleared"] == mdt["last_index"] for mdt in mdts.values())

        until("every record was cleared on every MDT", done)
        self.say("everything was cleared")

    def judge(self):
        """Record by record."""
        stack = self.stack
        histories = stack.histories()
        if len({history.mdt.split("-")[0] for history in histories}) != FILE_SYSTEMS:
            raise Problem(f"there are not {FILE_SYSTEMS} file systems: {[history.mdt for history in histories]}")
        wrong, again = [], 0
        for name, service in stack.groups.items():
            seen = printed.Printed(stack.log(service))
            wrong += printed.violations(histories, name, seen)
            again += seen.duplicates()
        if wrong:
            raise Problem("; ".join(wrong))
        self.say(f"passed: {sum(map(len, histories))} records of {len(histories)} MDTs, three groups printed all that "
                 f"survived; lost 0, printed again {again}")
