"""The configuration of an engine node, in TOML; every mistake is told at once."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from feeds.config import FeedsConfig
from feeds.errors import InvalidInput
from feeds.replication.certificates import NodeFiles
from feeds.replication.transport import Address, check_addresses

__all__ = ["NodeConfig", "NodeLimitsConfig", "TlsFiles"]

NODES: Final = (1, 3, 5)
"""How many nodes a cluster may have: one more failure is survived with each two."""

_ENGINE: Final = FeedsConfig()
_Positive = Annotated[int, Field(ge=1, le=2**40)]
_NAME: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=_NAME)]


class TlsFiles(BaseModel):
    """Where a node's certificates lie; relative paths are relative to the config file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path
    """The cluster's authority."""

    cert: Path
    """This node's certificate: it names `<node>.<cluster_id>`."""

    key: Path
    """Its key, readable by the owner alone."""


class NodeLimitsConfig(BaseModel):
    """The engine's limits that are a node's own; the others travel in what is written.

    They bear the names that they have in `FeedsConfig`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fanout_rows_max: _Positive = _ENGINE.fanout_rows_max
    """Followers that one command of a fan-out's task reaches at most."""

    unfollow_rows_max: _Positive = _ENGINE.unfollow_rows_max
    """Rows that one command of an ended follow's task removes at most."""

    unfollow_scan_max: _Positive = _ENGINE.unfollow_scan_max
    """Rows that such a command looks at, at most."""

    proposals_max: _Positive = _ENGINE.proposals_max
    """Commands that may wait, or be on their way; another one is refused as overloaded."""

    segment_bytes_max: _Positive = _ENGINE.segment_bytes_max
    """Bytes of one segment of the log; the next command after that begins a new one."""

    flush_every_bytes: _Positive = _ENGINE.flush_every_bytes
    """Bytes of commands after which the store is flushed and the log before them dropped."""

    disk_reserve_bytes: Annotated[int, Field(ge=0, le=2**60)] = _ENGINE.disk_reserve_bytes
    """Free bytes on the disks of log and store below which no command is written."""

    block_cache_bytes: Annotated[int, Field(ge=0, le=2**60)] = _ENGINE.block_cache_bytes
    """Bytes of the store's one block cache."""

    write_buffer_bytes: _Positive = _ENGINE.write_buffer_bytes
    """Bytes that one column family holds in memory before it writes a file."""

    def engine(self) -> FeedsConfig:
        """The engine's limits with these in their place."""
        return replace(_ENGINE, **self.model_dump())


class NodeConfig(BaseModel):
    """One node of a cluster."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cluster_id: Name
    """Names the cluster: nodes of another one are refused."""

    node: Name
    """Names this node among `nodes`."""

    nodes: dict[Name, str]
    """Where every node listens, this one too: `n1 = "10.0.0.1:7000"`. One, three or five.

    Choose ports below those that the system gives to outgoing connections (on Linux 32768).
    """

    data_dir: Path
    """Log and store of this node; relative to the config file."""

    socket: Path
    """The unix socket for processes of this machine; relative to the config file."""

    tls: TlsFiles | None = None
    """Certificates. Without them `plain` must say that none are wanted."""

    plain: bool = False
    """Speak without encryption; only where every node is on this machine."""

    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = "info"
    """What is logged at least."""

    election_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 0.4
    """Seconds without a leader before another one may be elected; up to twice that."""

    log_keep_mb: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Megabytes of log that are kept for a node that is behind; beyond, it gets a snapshot."""

    limits: NodeLimitsConfig = NodeLimitsConfig()
    """Limits of its log, its store and of what it does beside, under `[limits]`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        problems = [
            f"nodes: {name} is at {address!r}: write host:port"
            for name, address in self.nodes.items()
            if _address(address) is None
        ]
        if self.node not in self.nodes:
            problems.append(f"node: {self.node!r} is none of nodes ({', '.join(self.nodes)})")
        if len(self.nodes) not in NODES:
            problems.append(f"nodes: there are {len(self.nodes)}: a cluster has 1, 3 or 5")
        if len(set(self.nodes.values())) < len(self.nodes):
            problems.append("nodes: two have one address")
        if self.tls is None and not self.plain:
            problems.append("tls: name ca, cert and key (`headwater certs`), or say plain = true")
        if self.tls is not None and self.plain:
            problems.append("plain: there are certificates too: remove one of the two")
        if not problems and self.tls is None:
            try:
                check_addresses(self.addresses(), None)
            except InvalidInput as error:
                problems.append(f"plain: {error}")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file. Raises `InvalidInput` with every mistake as a sentence."""
        try:
            with path.open("rb") as file:
                found = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"{path} cannot be read as TOML: {error}") from error
        try:
            config = cls.model_validate(found)
        except ValidationError as error:
            told = "; ".join(_sentence(dict(one)) for one in error.errors())
            raise InvalidInput(f"{path}: {told}") from error
        return config.beside(path.parent)

    def beside(self, directory: Path) -> Self:
        """The same with its relative paths below a directory."""
        tls = self.tls and TlsFiles(
            ca=directory / self.tls.ca, cert=directory / self.tls.cert, key=directory / self.tls.key
        )
        paths = {"data_dir": directory / self.data_dir, "socket": directory / self.socket}
        return self.model_copy(update={**paths, "tls": tls})

    def to_toml(self) -> str:
        """The file that says this."""
        lines = [
            f'cluster_id = "{self.cluster_id}"',
            f'node = "{self.node}"',
            f'data_dir = "{self.data_dir}"',
            f'socket = "{self.socket}"',
            f'log_level = "{self.log_level}"',
            f"election_timeout_s = {self.election_timeout_s}",
            f"log_keep_mb = {self.log_keep_mb}",
            f"plain = {str(self.plain).lower()}",
            "",
            "[nodes]",
            *(f'{name} = "{address}"' for name, address in self.nodes.items()),
        ]
        if self.tls is not None:
            files = (("ca", self.tls.ca), ("cert", self.tls.cert), ("key", self.tls.key))
            lines += ["", "[tls]", *(f'{name} = "{path}"' for name, path in files)]
        limits = self.limits.model_dump(exclude_defaults=True)
        if limits:
            lines += ["", "[limits]", *(f"{name} = {limit}" for name, limit in limits.items())]
        return "\n".join(lines) + "\n"

    def addresses(self) -> dict[str, Address]:
        """Where every node listens."""
        found = {name: _address(address) for name, address in self.nodes.items()}
        return {name: address for name, address in found.items() if address is not None}

    def files(self) -> NodeFiles | None:
        """The certificates as the transport takes them."""
        return NodeFiles(self.tls.ca, self.tls.cert, self.tls.key) if self.tls else None


def _address(text: str) -> Address | None:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        return None
    return Address(host.strip("[]"), int(port))


def _sentence(problem: dict[str, object]) -> str:
    place = ".".join(str(part) for part in problem["loc"])  # type: ignore[attr-defined]
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
