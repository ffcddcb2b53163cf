"""Certificates of a cluster: an authority of its own, and one certificate for each node.

A node's certificate names `<node>.<cluster id>`; nobody else's authority is asked. The keys are
Ed25519. What is made here is enough for a cluster; any other authority that signs such names will
do as well.
"""

import datetime as dt
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from feeds.errors import InvalidInput

__all__ = ["NodeFiles", "make_certificates", "node_name"]

DAYS_DEFAULT: Final = 3650
_CLOCK_SKEW: Final = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """Where a node finds its authority, certificate and key."""

    ca: Path
    cert: Path
    key: Path


def node_name(node: str, cluster_id: str) -> str:
    """What a node's certificate names."""
    return f"{node}.{cluster_id}"


def make_certificates(
    directory: Path, cluster_id: str, nodes: Sequence[str], now: dt.datetime, days: int
) -> dict[str, NodeFiles]:
    """Make an authority and a certificate for each node, readable by the owner alone.

    Raises `InvalidInput` where a file is there already: certificates are not replaced by accident.
    """
    paths = {
        node: NodeFiles(directory / "ca.pem", directory / f"{node}.pem", directory / f"{node}.key")
        for node in nodes
    }
    for place in [directory / "ca.pem", *(one.cert for one in paths.values())]:
        if place.exists():
            raise InvalidInput(f"{place} is there already: choose another directory with --out")
    directory.mkdir(parents=True, exist_ok=True)
    authority = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"headwater {cluster_id}")])
    until = now + dt.timedelta(days=days)
    ca = (
        _certificate(subject, subject, authority, now, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False
        )
        .sign(authority, None)
    )
    _write(directory / "ca.pem", ca.public_bytes(serialization.Encoding.PEM))
    for node, files in paths.items():
        key = Ed25519PrivateKey.generate()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)])
        alternative = x509.SubjectAlternativeName([x509.DNSName(node_name(node, cluster_id))])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _certificate(name, subject, key, now, until)
            .add_extension(alternative, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()),
                critical=False,
            )
            .sign(authority, None)
        )
        _write(files.cert, certificate.public_bytes(serialization.Encoding.PEM))
        _write(
            files.key,
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )
    return paths


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Ed25519PrivateKey,
    now: dt.datetime,
    until: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(until)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _write(path: Path, data: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
