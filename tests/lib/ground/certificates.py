"""A certificate authority, a server's and a client's certificate of our own, for the TLS listeners of one test server."""

import subprocess

from .paths import Problem

PASSWORD = "test-ground"
CLIENT = "clbridge"  # the common name of the client's, where a server takes it for the user


def _openssl(*words):
    done = subprocess.run(["openssl", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        raise Problem(f"openssl {words[0]} ended with {done.returncode}: {done.stderr.strip()}")


def make(folder):
    """Writes ca.pem, another-ca.pem (which signed nothing here), server.* valid for 127.0.0.1 and localhost, and
    client.*; each as PEM and as PKCS12."""
    folder.mkdir(exist_ok=True)
    for name in ("ca", "another-ca"):
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 30, "-subj", f"/CN=clbridge test {name}",
                 "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem")
    _signed(folder, "server", "localhost", "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _signed(folder, "client", CLIENT, f"subjectAltName=DNS:{CLIENT}\nextendedKeyUsage=clientAuth\n")


def _signed(folder, name, common_name, extensions):
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={common_name}",
             "-keyout", folder / f"{name}.key", "-out", folder / f"{name}.csr")
    (folder / f"{name}.ext").write_text(extensions)
    _openssl("x509", "-req", "-days", 30, "-in", folder / f"{name}.csr", "-CA", folder / "ca.pem",
             "-CAkey", folder / "ca.key", "-CAcreateserial", "-extfile", folder / f"{name}.ext", "-out", folder / f"{name}.pem")
    _openssl("pkcs12", "-export", "-in", folder / f"{name}.pem", "-inkey", folder / f"{name}.key",
             "-certfile", folder / "ca.pem", "-name", name, "-passout", f"pass:{PASSWORD}",
             "-out", folder / f"{name}.p12")


def environment(prefix, folder):
    """The variables that tell a client where they are; PREFIX_PKCS12 has the password `test-ground`."""
    return {f"{prefix}_CA": str(folder / "ca.pem"), f"{prefix}_WRONG_CA": str(folder / "another-ca.pem"),
            f"{prefix}_CERTIFICATE": str(folder / "client.pem"), f"{prefix}_KEY": str(folder / "client.key"),
            f"{prefix}_PKCS12": str(folder / "client.p12")}
