"""Identities for one NATS server: a user by password, one by NKey, and an operator's, account's and user's JWT.

Run by the test ground's own Python (nkeys, PyNaCl): identities.py FOLDER. Writes user.nk (an NKey seed), user.creds (a
JWT with its seed), and for the server accounts.conf and operator.conf.
"""

import base64
import hashlib
import json
import os
import pathlib
import sys
import time

import nkeys

UNLIMITED = -1
USER, USER_PASSWORD = "clbridge", "clbridge-secret"


def made(kind):
    """A new key pair of a kind (nkeys.PREFIX_BYTE_...)."""
    seed = nkeys.encode_seed(os.urandom(32), prefix=kind)
    return nkeys.from_seed(seed), bytes(seed).decode()


def public(pair):
    return pair.public_key.decode()


def _part(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(name, subject, issuer, about):
    """A JWT as NATS wants it: ed25519 over header and claims, the id a hash of the claims."""
    claims = {"iat": int(time.time()), "iss": public(issuer), "name": name, "sub": subject, "nats": {**about, "version": 2}}
    digest = hashlib.new("sha512_256", json.dumps(claims, separators=(",", ":")).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    header = {"typ": "JWT", "alg": "ed25519-nkey"}
    signed = ".".join(_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    return f"{signed}.{_part(issuer.sign(signed.encode()))}"


def _account(name, operator, jetstream):
    pair, _ = made(nkeys.PREFIX_BYTE_ACCOUNT)
    names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
    limits = {name: UNLIMITED for name in names} | {"wildcards": True}
    if jetstream:
        limits |= {name: UNLIMITED for name in ("mem_storage", "disk_storage", "streams", "consumer")}
    return pair, token(name, public(pair), operator, {"type": "account", "limits": limits,
                                                      "default_permissions": {"pub": {}, "sub": {}}})


def _user(account):
    pair, seed = made(nkeys.PREFIX_BYTE_USER)
    about = {"type": "user", "pub": {}, "sub": {}, "subs": UNLIMITED, "data": UNLIMITED, "payload": UNLIMITED}
    return token(USER, public(pair), account, about), seed


def main(folder):
    """Writes everything into the folder."""
    folder.mkdir(parents=True)
    user, seed = made(nkeys.PREFIX_BYTE_USER)
    (folder / "user.nk").write_text(seed + "\n")
    (folder / "accounts.conf").write_text(f"""accounts {{
  CLB {{ jetstream: enabled, users: [
    {{ user: "{USER}", password: "{USER_PASSWORD}" }}
    {{ nkey: "{public(user)}" }}
  ] }}
  SYS {{ users: [ {{ user: "system", password: "{USER_PASSWORD}" }} ] }}
}}
system_account: SYS
""")
    operator, _ = made(nkeys.PREFIX_BYTE_OPERATOR)
    system, system_jwt = _account("SYS", operator, jetstream=False)
    account, account_jwt = _account("CLB", operator, jetstream=True)
    operator_jwt = token("clbridge test", public(operator), operator,
                         {"type": "operator", "system_account": public(system)})
    jwt, seed = _user(account)
    (folder / "user.creds").write_text(f"""-----BEGIN NATS USER JWT-----
{jwt}
------END NATS USER JWT------

-----BEGIN USER NKEY SEED-----
{seed}
------END USER NKEY SEED------
""")
    (folder / "operator.conf").write_text(f"""operator: {operator_jwt}
resolver: MEMORY
resolver_preload: {{
  {public(system)}: {system_jwt}
  {public(account)}: {account_jwt}
}}
system_account: {public(system)}
""")


main(pathlib.Path(sys.argv[1]))
