"""Several brokers that form one KRaft cluster: folder/1, folder/2, …, each a broker of its own (kafka.py) that can be
killed, stopped and restarted alone; what is said to the folder is said to all.

Every topic has as many copies as there are brokers, and a write needs all but one of them. Each broker has a listener
more, VIA, that it advertises at a port where nobody listens: a test puts a proxy there, which it can cut.
"""

import json
import pathlib

from . import kafka
from .paths import Problem


def settings(count):
    """What a replicated cluster needs beside one broker's settings."""
    copies, least = str(count), str(max(1, count - 1))
    lines = {
        "default.replication.factor": copies, "min.insync.replicas": least,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies, "transaction.state.log.min.isr": least,
        # A dead or stalled broker is noticed in seconds, so that a test sees what follows.
        "broker.heartbeat.interval.ms": "500", "broker.session.timeout.ms": "6000",
        "replica.lag.time.max.ms": "6000", "controller.quorum.election.timeout.ms": "2000",
        "controller.quorum.fetch.timeout.ms": "4000", "unclean.leader.election.enable": "false",
    }
    return [f"{name}={value}" for name, value in lines.items()]


class Cluster:
    """The brokers of one folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()

    @staticmethod
    def there(folder):
        """Whether the folder holds a cluster."""
        return (pathlib.Path(folder) / "cluster.json").exists()

    def brokers(self):
        """Every broker of it, by number."""
        try:
            count = json.loads((self.folder / "cluster.json").read_text())["brokers"]
        except FileNotFoundError:
            raise Problem(f"no cluster in {self.folder}: 'tests/up kafka start {self.folder} --brokers 3'") from None
        return [kafka.Broker(self.folder / str(number)) for number in range(1, count + 1)]

    def start(self, count, secure=False, more=(), heap="384m"):
        """Makes `count` brokers and waits until all serve."""
        if self.there(self.folder):
            raise Problem(f"{self.folder} already holds a cluster: 'restart' it, or 'down' and remove the folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "cluster.json").write_text(json.dumps({"brokers": count}))
        brokers = self.brokers()
        try:
            ports = [broker.reserve(secure, ("via", "between")) for broker in brokers]
            voters = ",".join(f"{n}@127.0.0.1:{port['controller']}" for n, port in enumerate(ports, 1))
            cluster_id = kafka.new_cluster_id()
            for number, (broker, port) in enumerate(zip(brokers, ports), 1):
                state = {"ports": port, "secure": secure, "heap": heap}
                broker.make(state, number, voters, cluster_id, [*settings(count), *more])
            self._launch(brokers)
        except BaseException:
            for broker in brokers:
                broker.give_up()
            raise

    @staticmethod
    def _launch(brokers):
        # None serves before most of them run.
        for broker in brokers:
            broker.launch()
        for broker in brokers:
            broker.wait()

    def environment(self):
        """What a test needs to know, as environment variables. KAFKA_VIA: PROXY'S PORT:BROKER'S PORT, by broker."""
        ports = [broker.state()["ports"] for broker in self.brokers()]
        known = self.brokers()[0].environment()
        known |= {
            "KAFKA_BOOTSTRAP": ",".join(f"127.0.0.1:{port['plain']}" for port in ports),
            "KAFKA_DIR": str(self.folder),
            "KAFKA_VIA": ",".join(f"{port['between']}:{port['via']}" for port in ports),
        }
        return known

    def restart(self):
        """Starts all again; running ones are stopped cleanly first."""
        brokers = self.brokers()
        for broker in brokers:
            broker.end()
        self._launch(brokers)

    def kill9(self):
        """kill -9 of all that run."""
        for broker in self.brokers():
            broker.kill_if_running()

    def wait(self):
        """Waits until all answer."""
        for broker in self.brokers():
            broker.wait()

    def freeze(self, number):
        """SIGSTOP or SIGCONT for all."""
        for broker in self.brokers():
            broker.freeze(number)

    def down(self, remove=False):
        """Ends all and gives their ports back."""
        brokers = self.brokers()
        for broker in brokers:
            broker.kill_if_running()
        for broker in brokers:
            broker.down(remove)
        (self.folder / "cluster.json").unlink()
