"""A member of a NATS group: pulls from the group's durable consumer of each stream, and acknowledges each message.

The last acknowledgement of a batch is answered by the server (a double acknowledgement), and it handles those of one
connection in order, so the answer is for all of them.
"""

import asyncio
import re
import time

import nats
from nats.js.errors import APIError

import membership
from read_nats import connected, durable, placed

ERRORS = (nats.errors.NoServersError,)
PERSISTENCE = 20  # seconds for which an acknowledgement is tried again, below any ack_wait
ACKNOWLEDGED = b"+ACK"
SETBACKS = (nats.errors.Error, APIError, asyncio.TimeoutError, OSError)


class Member(membership.Member):
    """Pulls, announces, acknowledges."""

    client = None

    def run(self):
        """Until SIGTERM, or idle for as long as allowed."""
        asyncio.run(self._run())

    async def _run(self):
        self.client = await connected(self.said.at)
        jetstream = self.client.jetstream(timeout=5)
        tasks = {}
        while self.ending is None:
            for stream in await self._streams(jetstream):
                if stream not in tasks:
                    tasks[stream] = asyncio.create_task(self._pull(jetstream, stream))
            await asyncio.sleep(0.2)
            self.took(0)
            for task in tasks.values():
                if task.done():
                    task.result()  # its failure is ours
        await asyncio.gather(*tasks.values())
        await self.client.close()

    async def _streams(self, jetstream):
        wanted = self.said.topics
        if not wanted.startswith("^"):
            return wanted.split(",")
        try:
            return [info.config.name for info in await jetstream.streams_info() if re.match(wanted, info.config.name)]
        except SETBACKS as error:
            self.say("error", error=repr(error))
            return []

    async def _pull(self, jetstream, stream):
        reader = None
        while self.ending is None:
            try:
                if reader is None:
                    reader = await jetstream.pull_subscribe_bind(durable(self.said.group), stream)
                batch = await reader.fetch(self.said.batch, timeout=self.said.commit_ms / 1000)
            except (nats.errors.TimeoutError, asyncio.TimeoutError):
                continue
            except SETBACKS as error:
                self.say("error", stream=stream, error=repr(error))
                await asyncio.sleep(0.2)
                continue
            if batch:
                await self._work(stream, batch)

    async def _work(self, stream, batch):
        self.took(len(batch))
        taken, done = {}, {}
        for message in batch:
            partition, _ = placed(message.subject)
            sequence = message.metadata.sequence.stream
            done.setdefault(partition, []).append(sequence)
            if self.decoder is not None:
                _, record = self.decoder(message.data)
                taken.setdefault(partition, []).append((sequence, record["incarnation"], record["index"]))
        if self.said.delay_ms:
            await asyncio.sleep(self.said.delay_ms / 1000)
        if taken:
            self.say("records", records={stream: taken})
        if self.said.never_commit:
            return
        self.say("about", done={stream: done})
        end = time.monotonic() + PERSISTENCE
        while True:
            try:
                for message in batch[:-1]:
                    await self.client.publish(message.reply, ACKNOWLEDGED)
                await self.client.request(batch[-1].reply, ACKNOWLEDGED, timeout=2)
                return self.say("committed", done={stream: done})
            except SETBACKS as error:
                self.say("failed", done={stream: done}, error=repr(error))
                if self.ending is not None or time.monotonic() > end:
                    return None  # they come again when the consumer's ack_wait is over, to whoever asks then
            await asyncio.sleep(0.2)

    def close(self):
        """There is nothing to leave: the group's consumer stays."""
