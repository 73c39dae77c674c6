"""What every member has in common: its log, and that it says what it does before it does it (member.py)."""

import json
import os
import time

import avro


class Member:
    """A member of a group. A sink's own says `run`, which goes on until `ending` is set, and `close`."""

    DECODES = False  # whether it must know what a record is to acknowledge it

    def __init__(self, said):
        self.said = said
        self.name = said.member or f"{said.group}-{os.getpid()}"
        self.log = os.open(said.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.consumed = 0
        self.ending = None
        self.busy = time.monotonic()
        self.decoder = avro.Decoder() if said.log_records or self.DECODES else None
        self.say("started", log_records=said.log_records)

    def say(self, event, **more):
        """One line, in the system's hands when this returns."""
        line = {"event": event, "at_ns": time.time_ns(), "group": self.said.group, "member": self.name, **more}
        os.write(self.log, json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def took(self, count):
        """Notes how many records came; ends when none came for as long as allowed."""
        self.consumed += count
        now = time.monotonic()
        if count:
            self.busy = now
        elif self.said.idle_s and now - self.busy > self.said.idle_s:
            self.ending = "idle"

    def stopped(self, reason):
        """The last line."""
        self.say("stopped", reason=reason, consumed=self.consumed)
        os.close(self.log)

    def run(self):
        """Takes, announces and acknowledges until `ending`."""
        raise NotImplementedError

    def close(self):
        """Leaves the group."""
        raise NotImplementedError
