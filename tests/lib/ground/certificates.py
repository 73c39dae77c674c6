"""A certificate authority and a server certificate of our own, for the TLS listeners of one test broker."""

import subprocess

from .paths import Problem

PASSWORD = "test-ground"


def _openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"openssl {words[0]} ended with {done.returncode}: {done.stderr.strip()}")


def make(folder):
    """Writes ca.pem, another-ca.pem (which signed nothing here) and server.p12, valid for 127.0.0.1 and localhost."""
    folder.mkdir(exist_ok=True)
    for name in ("ca", "another-ca"):
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 30, "-subj", f"/CN=clbridge test {name}",
                 "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost",
             "-keyout", folder / "server.key", "-out", folder / "server.csr")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl("x509", "-req", "-days", 30, "-in", folder / "server.csr", "-CA", folder / "ca.pem",
             "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", folder / "names", "-out", folder / "server.pem")
    _openssl("pkcs12", "-export", "-in", folder / "server.pem", "-inkey", folder / "server.key",
             "-certfile", folder / "ca.pem", "-name", "server", "-passout", f"pass:{PASSWORD}",
             "-out", folder / "server.p12")
