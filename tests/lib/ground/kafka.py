"""One KRaft broker (Apache Kafka) in one folder. Several that form a cluster are put together in cluster.py; each of
them is a broker like any other here.
"""

import base64
import os
import subprocess
import uuid

from . import certificates, install, paths, wire
from .paths import Problem
from .server import USER, USER_PASSWORD, Server, setting

DEFAULTS = {
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "auto.create.topics.enable": "false",
    "log.retention.check.interval.ms": "5000",
    "log.cleaner.backoff.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "20000000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
    # On a busy machine a broker may stand still for ten seconds; alone, it must not be taken for dead then. (After a
    # kill it is not itself again before this is over.)
    "broker.session.timeout.ms": "15000",
}
LOG4J = """status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""


def classpath():
    """The class path of Kafka and of its tools."""
    return f"{install.kafka()}/*"


def java(main, arguments, heap="256m", options=()):
    """The command line of one of Kafka's programs."""
    # Without MetaspaceSize everything is collected each time that classes outgrow a bound, the first of which is 20 MB: on
    # a busy machine a broker stood still for 29 s in one such collection (CollectForMetadataAllocation in its log).
    # PerfDisableSharedMem: no statistics are written to a file while all threads wait.
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:MetaspaceSize=256m", "-XX:+PerfDisableSharedMem",
            "-XX:TieredStopAtLevel=1", *options, "-cp", classpath(), main, *arguments]


def listeners(secure=False):
    """The names of the ports that a broker needs."""
    return ["plain", "controller", *(("sasl_ssl", "ssl") if secure else ())]


class Broker(Server):
    """The broker of one folder."""

    KIND, TITLE = "kafka", "Kafka"

    def environment(self, state=None):
        """What a test needs to know, as environment variables."""
        state = state or self.state()
        port = state["ports"]
        known = {
            "KAFKA_BOOTSTRAP": f"127.0.0.1:{port['plain']}",
            "KAFKA_DIR": str(self.folder),
            "KAFKA_PID": str(state.get("process", {}).get("pid", "")),
            "KAFKA_CLASSPATH": classpath(),
        }
        if state["secure"]:
            known |= {
                "KAFKA_SASL_SSL": f"127.0.0.1:{port['sasl_ssl']}",
                "KAFKA_SSL": f"127.0.0.1:{port['ssl']}",
                "KAFKA_CA": str(self.folder / "tls" / "ca.pem"),
                "KAFKA_WRONG_CA": str(self.folder / "tls" / "another-ca.pem"),
                "KAFKA_USER": USER,
                "KAFKA_PASSWORD": USER_PASSWORD,
            }
        return known

    def start(self, secure=False, settings=(), heap="768m", quick=False):
        """Makes a broker in an empty or new folder and waits until it serves. `quick`: its life will be short."""
        def made():
            port = self.reserve(listeners(secure))
            self.make({"ports": port, "secure": secure, "heap": heap, "quick": quick}, 1, f"1@127.0.0.1:{port['controller']}",
                      new_cluster_id(), settings)
        self.begin(made)

    def make(self, state, node, voters, cluster_id, settings=()):
        """Writes configuration and data folder of node number `node` of a cluster; nothing is started."""
        if state["secure"]:
            install.tools()
            certificates.make(self.folder / "tls")
        self._configure(state["ports"], node, voters, state["secure"], settings)
        self._format(state["secure"], cluster_id)
        self.write({"kind": self.KIND, **state})

    def _configure(self, port, node, voters, secure, settings):
        known = {"PLAINTEXT": ("plain", "PLAINTEXT"), "CONTROLLER": ("controller", "PLAINTEXT")}
        if secure:
            known |= {"SASLTLS": ("sasl_ssl", "SASL_SSL"), "TLS": ("ssl", "SSL")}
        if "via" in port:
            known["VIA"] = ("via", "PLAINTEXT")
        # Who comes by VIA is told to come through the port where a test listens in between.
        advertised = {name: port["between"] if key == "via" else port[key]
                      for name, (key, _) in known.items() if key != "controller"}
        lines = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port[key]}" for name, (key, _) in known.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, at in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, (_, kind) in known.items()),
            "log.dirs": str(self.folder / "data"),
            **DEFAULTS,
        }
        if secure:
            plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
            scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
            lines |= {
                "ssl.keystore.type": "PKCS12",
                "ssl.keystore.location": str(self.folder / "tls" / "server.p12"),
                "ssl.keystore.password": certificates.PASSWORD,
                "ssl.key.password": certificates.PASSWORD,
                "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
                "listener.name.sasltls.plain.sasl.jaas.config":
                    f'{plain} required user_{USER}="{USER_PASSWORD}";',
                "listener.name.sasltls.scram-sha-512.sasl.jaas.config": f"{scram} required;",
            }
        lines |= dict(map(setting, settings))
        (self.folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
        (self.folder / "log4j2.properties").write_text(LOG4J)

    def _format(self, secure, cluster_id):
        command = ["format", "-t", cluster_id, "-c", str(self.folder / "server.properties")]
        if secure:
            command += ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={USER_PASSWORD}]"]
        done = subprocess.run(java("kafka.tools.StorageTool", command), capture_output=True, text=True)
        if done.returncode:
            raise Problem(f"formatting {self.folder} failed: {done.stdout.strip()} {done.stderr.strip()}")

    def launched_by(self, state):
        # Its log tells how long all threads stood still and why, should a broker ever seem not to answer.
        options = [f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}", "-Xlog:safepoint",
                   f"-Djava.io.tmpdir={self.folder}"]
        command = java("kafka.Kafka", [str(self.folder / "server.properties")], state["heap"], options)
        # A broker under load for long needs the full compiler, which is dearer than what it gains in a short life.
        if not state["quick"]:
            command.remove("-XX:TieredStopAtLevel=1")
        return command, None

    def serves(self, state):
        return wire.serves("127.0.0.1", state["ports"]["plain"])


def new_cluster_id():
    """A random id in Kafka's own writing."""
    # As Uuid.randomUuid does: never with a dash in front, which the command line would take for an option.
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


TOOLS = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-dump-log": "kafka.tools.DumpLogSegments",
}


def tool(name, arguments):
    """Becomes one of Kafka's own tools."""
    if name not in TOOLS:
        raise Problem(f"unknown tool '{name}': one of {', '.join(TOOLS)}")
    quiet = paths.cache() / "log4j2-tools.properties"
    if not quiet.exists():
        fresh = quiet.with_suffix(f".{os.getpid()}")
        fresh.write_text(LOG4J.replace("level = info", "level = error"))
        fresh.rename(quiet)
    command = java(TOOLS[name], arguments, options=[f"-Dlog4j2.configurationFile={quiet}"])
    os.execvp(command[0], command)
