"""Nodes on a network of their own that can be cut: namespaces of Linux, for tests of partitions.

Each node has a network namespace with one interface; a further one holds the bridge that joins
them. So nothing is seen outside, and removing the namespaces removes it all. A unix socket lies in
the file system: clients reach each node whatever is cut.
"""

import secrets
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

__all__ = ["Network", "NetworkUnavailable"]

_PORT: Final = 7400
_SUBNET: Final = "10.231.0"
_INTERFACE: Final = "eth0"
_DROP: Final = ("root", "pfifo", "limit", "0")  # a queue without room: all that leaves is dropped


class NetworkUnavailable(Exception):
    """This machine does not let its networks be parted; the message says why."""


class Network:
    """A bridge with some nodes. Every cut holds until `heal`."""

    def __init__(self, name: str, nodes: Sequence[str]) -> None:
        # Use `Network.between`.
        self._hub = f"{name}-hub"
        self._names = {node: f"{name}-{node}" for node in nodes}
        self._hosts = {node: f"{_SUBNET}.{place}" for place, node in enumerate(nodes, 1)}

    @classmethod
    @contextmanager
    def between(cls, nodes: Sequence[str]) -> Iterator["Network"]:
        """Join some nodes while the block lasts. Raises `NetworkUnavailable`."""
        if shutil.which("ip") is None or shutil.which("tc") is None:
            raise NetworkUnavailable("there is no `ip` or no `tc`: install iproute2")
        network = cls(f"hw{secrets.token_hex(4)}", nodes)
        try:
            network._make()
            yield network
        finally:
            network._remove()

    @property
    def addresses(self) -> dict[str, str]:
        """Where each node listens."""
        return {node: f"{host}:{_PORT}" for node, host in self._hosts.items()}

    @property
    def wrap(self) -> dict[str, list[str]]:
        """What is put before the command of each node, to run it in its place."""
        return {node: ["ip", "netns", "exec", name] for node, name in self._names.items()}

    def cut(self, node: str) -> None:
        """Pull a node's cable."""
        _run("ip", "-n", self._hub, "link", "set", node, "down")

    def mute(self, node: str) -> None:
        """Nothing that a node sends arrives; it hears everyone."""
        _run("tc", "-n", self._names[node], "qdisc", "add", "dev", _INTERFACE, *_DROP)

    def deafen(self, node: str) -> None:
        """Nothing that is sent to a node arrives; everyone hears it."""
        _run("tc", "-n", self._hub, "qdisc", "add", "dev", node, *_DROP)

    def part(self, one: str, other: str) -> None:
        """Two nodes cannot reach each other; each reaches the others."""
        for here, there in ((one, other), (other, one)):
            route = ("route", "replace", "blackhole", f"{self._hosts[there]}/32")
            _run("ip", "-n", self._names[here], *route)

    def heal(self) -> None:
        """End every cut."""
        for node, name in self._names.items():
            _run("ip", "-n", self._hub, "link", "set", node, "up")
            _run("tc", "-n", self._hub, "qdisc", "del", "dev", node, "root", check=False)
            _run("tc", "-n", name, "qdisc", "del", "dev", _INTERFACE, "root", check=False)
            _run("ip", "-n", name, "route", "flush", "type", "blackhole", check=False)

    def _make(self) -> None:
        try:
            _run("ip", "netns", "add", self._hub)
            _run("ip", "-n", self._hub, "link", "add", "bridge0", "type", "bridge")
            _run("ip", "-n", self._hub, "link", "set", "bridge0", "up")
            for node, name in self._names.items():
                pair = ("link", "add", node, "type", "veth", "peer", "name", _INTERFACE)
                _run("ip", "netns", "add", name)
                _run("ip", "-n", self._hub, *pair, "netns", name)
                _run("ip", "-n", self._hub, "link", "set", node, "master", "bridge0", "up")
                address = f"{self._hosts[node]}/24"
                _run("ip", "-n", name, "address", "add", address, "dev", _INTERFACE)
                _run("ip", "-n", name, "link", "set", _INTERFACE, "up")
                _run("ip", "-n", name, "link", "set", "lo", "up")
            first = next(iter(self._names))
            self.deafen(first)  # so that it is known now whether one way can be cut
            self.heal()
        except subprocess.CalledProcessError as error:
            why = f"{' '.join(error.cmd)}: {error.stderr.strip()}"
            raise NetworkUnavailable(f"network namespaces are not permitted: {why}") from error

    def _remove(self) -> None:
        for name in (self._hub, *self._names.values()):
            _run("ip", "netns", "del", name, check=False)


def _run(*command: str, check: bool = True) -> None:
    subprocess.run(command, check=check, capture_output=True, text=True)  # noqa: S603 - ours alone
