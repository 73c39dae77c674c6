"""Several servers of one kind that form a cluster: folder/1, folder/2, …, each a server of its own (server.py) that can
be killed, stopped and restarted alone; what is said to the folder is said to all.

Kafka: every topic has as many copies as there are brokers, and a write needs all but one of them. Each broker has a
listener more, VIA, that it advertises at a port where nobody listens: a test puts a proxy there, which it can cut.
NATS: one JetStream domain, streams with as many replicas as they ask for.
"""

import json
import pathlib

from . import kafka, nats
from .paths import Problem
from .server import noted


class Cluster:
    """The servers of one folder. A kind says what they are, how they are made, and how they are found."""

    SERVER = None

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()

    @staticmethod
    def there(folder):
        """Whether the folder holds a cluster."""
        return (pathlib.Path(folder) / "cluster.json").exists()

    def servers(self):
        """Every server of it, by number."""
        kind, said = self.SERVER.KIND, noted(self.folder / "cluster.json")
        if said.get("kind") != kind:
            raise Problem(f"no {self.SERVER.TITLE} cluster in {self.folder}: "
                          f"'tests/up {kind} start {self.folder} --servers 3'")
        return [self.SERVER(self.folder / str(number)) for number in range(1, said["servers"] + 1)]

    def begin(self, count, make):
        """Makes `count` servers with `make`, and waits until all serve."""
        if self.there(self.folder):
            raise Problem(f"{self.folder} already holds a cluster: 'restart' it, or 'down' and remove the folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "cluster.json").write_text(json.dumps({"kind": self.SERVER.KIND, "servers": count}))
        servers = self.servers()
        try:
            make(servers)
            self._launch(servers)
        except BaseException:
            for server in servers:
                server.give_up()
            raise

    @staticmethod
    def _launch(servers):
        # None serves before most of them run.
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()

    def restart(self):
        """Starts all again; running ones are stopped cleanly first."""
        servers = self.servers()
        for server in servers:
            server.end()
        self._launch(servers)

    def kill(self):
        """kill -9 of all that run."""
        for server in self.servers():
            server.kill_if_running()

    def wait(self):
        """Waits until all answer."""
        for server in self.servers():
            server.wait()

    def signal(self, number):
        """A signal for all."""
        for server in self.servers():
            server.signal(number)

    def down(self, remove=False):
        """Ends all and gives their ports back."""
        servers = self.servers()
        for server in servers:
            server.kill_if_running()
        for server in servers:
            server.down(remove)
        (self.folder / "cluster.json").unlink()


class KafkaCluster(Cluster):
    """Kafka brokers, each a controller too."""

    SERVER = kafka.Broker

    @staticmethod
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

    def start(self, count, secure=False, settings=(), heap="384m", quick=False):
        """Makes `count` brokers and waits until all serve."""
        def made(brokers):
            ports = [broker.reserve([*kafka.listeners(secure), "via", "between"]) for broker in brokers]
            voters = ",".join(f"{n}@127.0.0.1:{port['controller']}" for n, port in enumerate(ports, 1))
            cluster_id = kafka.new_cluster_id()
            for number, (broker, port) in enumerate(zip(brokers, ports), 1):
                state = {"ports": port, "secure": secure, "heap": heap, "quick": quick}
                broker.make(state, number, voters, cluster_id, [*self.settings(count), *settings])
        self.begin(count, made)

    def environment(self):
        """What a test needs to know, as environment variables. KAFKA_VIA: PROXY'S PORT:BROKER'S PORT, by broker."""
        brokers = self.servers()
        ports = [broker.state()["ports"] for broker in brokers]
        return brokers[0].environment() | {
            "KAFKA_BOOTSTRAP": ",".join(f"127.0.0.1:{port['plain']}" for port in ports),
            "KAFKA_DIR": str(self.folder),
            "KAFKA_VIA": ",".join(f"{port['between']}:{port['via']}" for port in ports),
        }


class NatsCluster(Cluster):
    """NATS servers with JetStream."""

    SERVER = nats.Server

    def start(self, count, **how):
        """Makes `count` servers and waits until all serve; `how` as for one (nats.py)."""
        def made(servers):
            ports = [server.reserve(nats.PORTS) for server in servers]
            routes = [port["cluster"] for port in ports]
            for number, (server, port) in enumerate(zip(servers, ports), 1):
                server.make(port, number, routes, **how)
        self.begin(count, made)

    def reload(self):
        """Has all read their configuration again."""
        for server in self.servers():
            server.reload()

    def environment(self):
        """What a test needs to know, as environment variables."""
        servers = self.servers()
        known = [server.environment() for server in servers]
        return known[0] | {
            "NATS_URL": ",".join(one["NATS_URL"] for one in known),
            "NATS_MONITOR": ",".join(one["NATS_MONITOR"] for one in known),
            "NATS_DIR": str(self.folder),
        }


KINDS = {"kafka": KafkaCluster, "nats": NatsCluster}
