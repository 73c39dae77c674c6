"""What the tests need on a bare machine, pinned, installed once and safe against two at once.

A program that is there is used; what is missing comes from apt-get when we are root, else the line to type is given.
"""

import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from . import paths
from .paths import Problem

KAFKA_VERSION = "4.1.1"
SCALA_VERSION = "2.13"
LOG4J_BRIDGE_VERSION = "2.24.3"
NATS_VERSION = "2.15.2"
NATS_NEEDS_GO = (1, 25)
PYTHON_PACKAGES = ("confluent-kafka==2.16.1", "fastavro==1.13.1", "nats-py==2.16.0", "nkeys==0.2.1", "pika==1.4.4",
                   "duckdb==1.5.5", "duckdb-extension-avro==1.5.5", "backports.zstd==1.8.0", "xxhash==4.1.0")
PURE_PYTHON = "nkeys"  # which has no wheel
ERLANG = ("base", "crypto", "eldap", "inets", "mnesia", "os-mon", "parsetools", "public-key", "runtime-tools", "ssl",
          "syntax-tools", "tools", "xmerl")
MAVEN_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1"

BUILD = {  # what `cargo build` runs or links: librdkafka is built from source, with TLS
    "gcc": "gcc", "g++": "g++", "make": "make", "pkg-config": "pkg-config", "cmake": "cmake", "perl": "perl",
}
BUILD_FILES = {"libssl-dev": "/usr/include/openssl/ssl.h", "zlib1g-dev": "/usr/include/zlib.h"}


def say(text):
    """Progress goes to stderr: stdout belongs to what the caller asked for."""
    print(f"tests/up: {text}", file=sys.stderr, flush=True)


def apt(packages):
    """Installs Debian packages as root, or says the line that an administrator has to type."""
    packages = sorted(packages)
    if not packages:
        return
    line = f"apt-get install -y --no-install-recommends {' '.join(packages)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Problem(f"missing: {', '.join(packages)}. Type as root: {line}")
    say(line)
    # Run level 1: what a package would start as a service stays stopped.
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", RUNLEVEL="1")
    options = ["-q", "-y", "-o", "DPkg::Lock::Timeout=300"]
    install = ["apt-get", *options, "install", "--no-install-recommends", *packages]
    with paths.locked("apt"):
        # Without a fresh list a package may be unknown or its file gone from the mirror.
        for attempt in (["apt-get", *options, "update"], install):
            done = subprocess.run(attempt, env=environment, stdout=sys.stderr)
            if done.returncode:
                raise Problem(f"'{' '.join(attempt)}' ended with {done.returncode}")


def build():
    """The compiler and the headers that `cargo build` of the workspace needs."""
    missing = {package for program, package in BUILD.items() if not shutil.which(program)}
    missing |= {package for package, file in BUILD_FILES.items() if not pathlib.Path(file).exists()}
    apt(missing)
    if not shutil.which("cargo"):
        raise Problem("no cargo in PATH: install Rust 1.90 or newer (https://rustup.rs), it is not taken from apt")


def _java_version():
    if not shutil.which("java"):
        return 0
    text = subprocess.run(["java", "-version"], capture_output=True, text=True).stderr
    found = re.search(r'version "(\d+)', text)
    return int(found.group(1)) if found else 0


def java():
    """Java 17 or newer, which Kafka 4 needs."""
    if _java_version() >= 17:
        return
    known = subprocess.run(["apt-cache", "show", "openjdk-17-jre-headless"], capture_output=True)
    apt({"openjdk-17-jre-headless" if known.returncode == 0 else "default-jre-headless"})
    if _java_version() < 17:
        raise Problem("Java 17 or newer is needed, and the java in PATH is older: put a newer one first in PATH")


def tools():
    """kcat, and openssl for the certificates of the TLS listener."""
    apt({name for name in ("kcat", "openssl") if not shutil.which(name)})


POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>clbridge.tests</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_{SCALA_VERSION}</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_BRIDGE_VERSION}</version></dependency>
  </dependencies>
</project>
"""


def kafka():
    """The folder with Kafka's jars: CLB_KAFKA_LIBS, or the pinned version from Maven Central."""
    java()
    named = os.environ.get("CLB_KAFKA_LIBS")
    if named:
        if not list(pathlib.Path(named).glob("kafka_*.jar")):
            raise Problem(f"CLB_KAFKA_LIBS={named} holds no kafka_*.jar: name the libs folder of a Kafka 4")
        return pathlib.Path(named)
    mark = hashlib.sha256((POM + MAVEN_PLUGIN).encode()).hexdigest()[:8]
    libs = paths.cache() / f"kafka-{KAFKA_VERSION}-{mark}"
    if libs.exists():
        return libs
    with paths.locked("kafka"):
        if libs.exists():
            return libs
        if not shutil.which("mvn"):
            apt({"maven"})
        say(f"fetching Kafka {KAFKA_VERSION} from Maven Central into {libs}")
        with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="kafka-new-") as work:
            pom, fresh = pathlib.Path(work) / "pom.xml", pathlib.Path(work) / "libs"
            pom.write_text(POM)
            done = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(pom), f"{MAVEN_PLUGIN}:copy-dependencies",
                 f"-DoutputDirectory={fresh}"], stdout=sys.stderr)
            if done.returncode or not list(fresh.glob("kafka_*.jar")):
                raise Problem(f"mvn could not fetch Kafka {KAFKA_VERSION} (ended with {done.returncode}, see above)")
            fresh.rename(libs)  # whole or not at all
    return libs


def debian(package):
    """The folder with the files of a Debian package, unpacked and not installed: no service, no user, no links."""
    place = paths.cache() / f"debian-{package}"
    if place.exists():
        return place
    with paths.locked(f"debian-{package}"):
        if place.exists():
            return place
        if not shutil.which("dpkg-deb"):
            raise Problem(f"{package} is taken from its Debian package, and this is no Debian: see CLB_NATS_SERVER and "
                          "CLB_RABBITMQ in 'tests/up help'")
        say(f"unpacking Debian's {package} into {place}")
        with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="debian-new-") as work:
            fetch = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package]
            if subprocess.run(fetch, cwd=work, stdout=sys.stderr).returncode:
                if os.geteuid() != 0:
                    raise Problem(f"'{' '.join(fetch)}' failed. Type as root: apt-get update")
                # Without a fresh list a package may be unknown or its file gone from the mirror.
                with paths.locked("apt"):
                    subprocess.run(["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", "update"], stdout=sys.stderr)
                if subprocess.run(fetch, cwd=work, stdout=sys.stderr).returncode:
                    raise Problem(f"'{' '.join(fetch)}' failed (see above)")
            file, fresh = next(pathlib.Path(work).glob("*.deb")), pathlib.Path(work) / "files"
            if subprocess.run(["dpkg-deb", "-x", file, fresh]).returncode:
                raise Problem(f"unpacking {file.name} failed (see above)")
            fresh.rename(place)  # whole or not at all
    return place


def _go_version():
    if not shutil.which("go"):
        return (0, 0)
    found = re.search(r"go(\d+)\.(\d+)", subprocess.run(["go", "version"], capture_output=True, text=True).stdout)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)


def nats(old=False):
    """The NATS server: CLB_NATS_SERVER, or the pinned version built with Go, or where Go is missing or too old Debian's.
    `old`: Debian's in any case, for what older servers lack."""
    named = os.environ.get("CLB_NATS_SERVER")
    if named and not old:
        return pathlib.Path(named)
    if old or _go_version() < NATS_NEEDS_GO:
        return debian("nats-server") / "usr" / "sbin" / "nats-server"
    place = paths.cache() / f"nats-server-{NATS_VERSION}"
    if place.exists():
        return place
    with paths.locked("nats"):
        if place.exists():
            return place
        say(f"building nats-server {NATS_VERSION} into {place}")
        with tempfile.TemporaryDirectory(dir=paths.cache(), prefix="nats-new-") as work:
            step = ["go", "install", f"github.com/nats-io/nats-server/v2@v{NATS_VERSION}"]
            done = subprocess.run(step, env=dict(os.environ, GOBIN=work), stdout=sys.stderr)
            if done.returncode:
                raise Problem(f"'{' '.join(step)}' ended with {done.returncode} (see above)")
            (pathlib.Path(work) / "nats-server").rename(place)
    return place


def rabbitmq():
    """RabbitMQ's folder, which holds sbin: CLB_RABBITMQ, or from Debian's package. Its Erlang is installed."""
    named = os.environ.get("CLB_RABBITMQ")
    if named:
        if not (pathlib.Path(named) / "sbin" / "rabbitmq-server").exists():
            raise Problem(f"CLB_RABBITMQ={named} holds no sbin/rabbitmq-server")
        return pathlib.Path(named)
    wanted = [f"erlang-{part}" for part in ERLANG]
    there = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted], capture_output=True, text=True)
    apt(set(wanted) - {line.split()[0] for line in there.stdout.splitlines() if line.endswith(" installed")})
    found = list((debian("rabbitmq-server") / "usr" / "lib" / "rabbitmq" / "lib").glob("rabbitmq_server-*"))
    if not found:
        raise Problem(f"Debian's rabbitmq-server holds no rabbitmq_server-*: remove {paths.cache() / 'debian-rabbitmq-server'}")
    return found[0]


def both_nats():
    """Both NATS servers."""
    return f"{nats()}, {nats(old=True)}"


def python():
    """The interpreter with the pinned clients that the judge uses: CLB_PYTHON, or a virtual environment."""
    named = os.environ.get("CLB_PYTHON")
    if named:
        return pathlib.Path(named)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    mark = hashlib.sha256(" ".join((version, sys.base_prefix, *PYTHON_PACKAGES)).encode()).hexdigest()[:8]
    home = paths.cache() / f"python-{version}-{mark}"
    interpreter, complete = home / "bin" / "python", home / "complete"
    if complete.exists():
        return interpreter
    with paths.locked("python"):
        if complete.exists():
            return interpreter
        try:
            import ensurepip  # noqa: F401  (Debian ships venv without it)
        except ImportError:
            apt({"python3-venv"})
        say(f"making a Python {version} environment with {', '.join(PYTHON_PACKAGES)} in {home}")
        for step in ([sys.executable, "-m", "venv", "--clear", str(home)],
                     [str(interpreter), "-m", "pip", "install", "-q", "--only-binary", ":all:",
                      "--no-binary", PURE_PYTHON, *PYTHON_PACKAGES]):
            done = subprocess.run(step, stdout=sys.stderr)
            if done.returncode:
                raise Problem(f"'{' '.join(step)}' ended with {done.returncode}")
        complete.write_text("\n".join(PYTHON_PACKAGES) + "\n")
    return interpreter


WHAT = {"build": build, "kafka": kafka, "nats": both_nats, "amqp": rabbitmq, "tools": tools, "python": python}


def install(names):
    """Installs the named parts, or all."""
    for name in names or WHAT:
        if name not in WHAT:
            raise Problem(f"unknown part '{name}': one of {', '.join(WHAT)}")
        place = WHAT[name]()
        say(f"{name}: {place or 'there'}")
