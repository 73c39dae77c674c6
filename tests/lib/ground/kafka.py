"""One KRaft broker in one folder: data, configuration, log, and state.json with its ports and its process. Several
that form a cluster are put together in cluster.py; each of them is a broker like any other here.

The folder is the broker's whole life: `restart` finds the same ports and data there, and every signal goes to the
process that state.json names, never to one found by its name.
"""

import base64
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import time
import uuid

from . import certificates, install, paths, ports, processes, wire
from .paths import Problem

USER, USER_PASSWORD = "clbridge", "clbridge-secret"
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
    return ["java", f"-Xmx{heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *options, "-cp", classpath(),
            main, *arguments]


class Broker:
    """The broker of one folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder).absolute()
        self.state_file = self.folder / "state.json"
        self._child = None

    def state(self):
        try:
            return json.loads(self.state_file.read_text())
        except FileNotFoundError:
            raise Problem(f"no broker in {self.folder}: 'tests/up kafka start {self.folder}' makes one") from None

    def _write(self, state):
        fresh = self.state_file.with_suffix(".new")
        fresh.write_text(json.dumps(state, indent=1))
        fresh.rename(self.state_file)
        (self.folder / "env").write_text("".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in self.environment(state).items()))

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

    def start(self, secure=False, settings=(), heap="768m"):
        """Makes a broker in an empty or new folder and waits until it serves."""
        try:
            port = self.reserve(secure)
            self.make({"ports": port, "secure": secure, "heap": heap}, 1, f"1@127.0.0.1:{port['controller']}",
                      new_cluster_id(), settings)
            self.launch()
            self.wait()
        except BaseException:
            self.give_up()
            raise

    def reserve(self, secure=False, more=()):
        """Takes the folder and ports of its own; returns them by name."""
        if self.state_file.exists():
            raise Problem(f"{self.folder} already holds a broker: 'restart' it, or 'down' and remove the folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ["plain", "controller", *(("sasl_ssl", "ssl") if secure else ()), *more]
        self.state_file.write_text("{}")  # the ports are ours as long as it exists
        return dict(zip(names, ports.reserve(len(names), self.state_file)))

    def make(self, state, node, voters, cluster_id, settings=()):
        """Writes configuration and data folder of node number `node` of a cluster; nothing is started."""
        if state["secure"]:
            install.tools()
            certificates.make(self.folder / "tls")
        self._configure(state["ports"], node, voters, state["secure"], settings)
        self._format(state["secure"], cluster_id)
        self._write(state)

    def give_up(self):
        """Half a broker would keep its ports and its process."""
        state = json.loads(self.state_file.read_text()) if self.state_file.exists() else {}
        if state.get("process"):
            processes.kill(state["process"])
        self._forget()

    def _configure(self, port, node, voters, secure, settings):
        listeners = {"PLAINTEXT": ("plain", "PLAINTEXT"), "CONTROLLER": ("controller", "PLAINTEXT")}
        if secure:
            listeners |= {"SASLTLS": ("sasl_ssl", "SASL_SSL"), "TLS": ("ssl", "SSL")}
        if "via" in port:
            listeners["VIA"] = ("via", "PLAINTEXT")
        # Who comes by VIA is told to come through the port where a test listens in between.
        advertised = {name: port["between"] if key == "via" else port[key]
                      for name, (key, _) in listeners.items() if key != "controller"}
        lines = {
            "process.roles": "broker,controller",
            "node.id": str(node),
            "controller.quorum.voters": voters,
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "listeners": ",".join(f"{name}://127.0.0.1:{port[key]}" for name, (key, _) in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://127.0.0.1:{at}" for name, at in advertised.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, (_, kind) in listeners.items()),
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
        for setting in settings:
            name, equals, value = setting.partition("=")
            if not equals:
                raise Problem(f"--set wants NAME=VALUE, not '{setting}'")
            lines[name.strip()] = value.strip()
        (self.folder / "server.properties").write_text("".join(f"{k}={v}\n" for k, v in lines.items()))
        (self.folder / "log4j2.properties").write_text(LOG4J)

    def _format(self, secure, cluster_id):
        command = ["format", "-t", cluster_id, "-c", str(self.folder / "server.properties")]
        if secure:
            command += ["--add-scram", f"SCRAM-SHA-512=[name={USER},password={USER_PASSWORD}]"]
        done = subprocess.run(java("kafka.tools.StorageTool", command), capture_output=True, text=True)
        if done.returncode:
            raise Problem(f"formatting {self.folder} failed: {done.stdout.strip()} {done.stderr.strip()}")

    def launch(self):
        """Starts the process; nobody is waited for."""
        state = self.state()
        options = [f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"]
        command = java("kafka.Kafka", [str(self.folder / "server.properties")], state["heap"], options)
        # A broker under load needs the full compiler, unlike the short-lived tools.
        command.remove("-XX:TieredStopAtLevel=1")
        self._child, state["process"] = processes.spawn(command, self.folder / "kafka.log", self.folder)
        self._write(state)

    def wait(self, seconds=300):
        """Waits until the broker answers; fails at once when its process ends."""
        state = self.state()
        end = time.monotonic() + seconds
        while not wire.serves("127.0.0.1", state["ports"]["plain"]):
            if self._child is not None:
                self._child.poll()
            if not processes.alive(state["process"]):
                raise Problem(f"Kafka in {self.folder} ended while starting:\n{self._tail()}")
            if time.monotonic() > end:
                raise Problem(f"Kafka in {self.folder} does not answer after {seconds} s:\n{self._tail()}")
            time.sleep(0.05)

    def _tail(self):
        log = self.folder / "kafka.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-25:]) if log.exists() else "(no log)"

    def restart(self):
        """Starts the broker again on the same data and ports; a running one is stopped cleanly first."""
        self.end()
        self.launch()
        try:
            self.wait()
        except BaseException:
            processes.kill(self.state()["process"])  # half a broker would keep the ports
            raise

    def end(self):
        """Stops a running one cleanly."""
        who = self.state().get("process")
        if processes.alive(who):
            processes.end(who, 60)

    def kill9(self):
        """kill -9; returns when the process is gone."""
        who = self.state()["process"]
        if not processes.alive(who):
            raise Problem(f"the broker in {self.folder} (process {who['pid']}) is not running")
        processes.kill(who)

    def kill_if_running(self):
        """kill -9 of whatever is left."""
        who = self.state().get("process")
        if processes.alive(who):
            processes.kill(who)

    def freeze(self, number):
        """SIGSTOP or SIGCONT."""
        who = self.state()["process"]
        if not processes.send(who, number):
            raise Problem(f"the broker in {self.folder} (process {who['pid']}) is not running")

    def down(self, remove=False):
        """Ends the broker and gives its ports back; with `remove` the folder goes too."""
        if self.state_file.exists():
            state = json.loads(self.state_file.read_text() or "{}")
            if state.get("process"):
                processes.end(state["process"], 30)
        self._forget()
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self):
        ports.release(self.state_file)
        self.state_file.unlink(missing_ok=True)


def new_cluster_id():
    """A random id in Kafka's own writing."""
    # As Uuid.randomUuid does: never with a dash in front, which the command line would take for an option.
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


STOP, CONT = signal.SIGSTOP, signal.SIGCONT

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
