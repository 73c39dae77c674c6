"""What the images of compose.local.yml are made of, where no registry can be reached: a base that is this machine's
own distribution, and a folder with binaries and jars that were built or fetched here."""

import os
import pathlib
import platform
import shutil
import subprocess

from ground import install, paths
from ground.paths import Problem

from engine import command

BASE = "clbridge-base:local"
LOCAL = paths.SOURCE / "compose" / "local"


def target():
    """Cargo's target folder."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or paths.SOURCE / "target")


def base(docker):
    """Makes BASE, once: the smallest system of this machine's release, from the mirror that its apt uses."""
    if docker.run("images", "-q", BASE).strip():
        return
    install.apt({name for name in ("debootstrap",) if not shutil.which("/usr/sbin/debootstrap")})
    release = platform.freedesktop_os_release()["VERSION_CODENAME"]
    known = command(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(SITE)", "Created-By: Packages"])
    mirrors = [line.split()[2] for line in known.stdout.splitlines() if line.split()[:2] == [release, "main"]]
    if not mirrors:
        raise Problem(f"apt knows no mirror of {release} main: no base image can be made; name one that is there: BASE=…")
    root = paths.cache() / "compose-base"
    shutil.rmtree(root, ignore_errors=True)
    install.say(f"making {BASE}: {release} from {mirrors[0]}")
    try:
        command(["debootstrap", "--variant=minbase", release, str(root), mirrors[0]])
        packed = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
        docker.run("import", "-", BASE, stdin=packed.stdout)
        packed.stdout.close()
        if packed.wait():
            raise Problem(f"tar of {root} ended with {packed.returncode}")
    finally:
        shutil.rmtree(root, ignore_errors=True)


def stage(profiles):
    """Fills the folder that compose.local.yml builds from, and returns it: release binaries, and what brokers need."""
    folder = target() / "compose"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "bin").mkdir(parents=True)
    for file in LOCAL.iterdir():
        shutil.copy(file, folder)
    for name in ("clbridge", "mdt-sim"):
        binary = target() / "release" / name
        if not binary.exists():
            raise Problem(f"there is no {binary}: cargo build --release --bin clbridge --bin mdt-sim")
        command(["strip", "-o", str(folder / "bin" / name), str(binary)])
    if "kafka" in profiles:
        shutil.copytree(install.kafka(), folder / "libs")
    if "nats" in profiles:
        shutil.copy(install.nats(), folder / "bin" / "nats-server")
    return folder
