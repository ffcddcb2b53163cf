"""A whole service for tests: real engine, real sockets, tenants with keys."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import httpx
import uvicorn

from feeds.config import FeedsConfig
from feeds.credentials import format_api_key, hash_secret
from feeds.engine import FeedEngine
from feeds.model import TenantId
from ranking.candidates import Query
from ranking.features import Factors
from ranking.scorers.base import Scorer
from ranking.slates import Slate
from serving.app import create_app
from serving.compose import FollowedModels, Services, compose
from serving.http_protocol import uvicorn_config
from serving.models import ModelCounts, ModelStatus
from serving.rankers import LiveModel
from serving.settings import load_settings
from serving.tracing import Tracing

__all__ = [
    "ALL_SCOPES",
    "HeldModel",
    "HeldModels",
    "HeldShadowSlates",
    "Served",
    "ServiceProcess",
    "add_tenant",
    "served",
    "wait_until",
]

Value = TypeVar("Value")

ALL_SCOPES = ("read", "write", "admin")
"""What a tenant's key can allow."""

DEADLINE_S = 30.0

COMMAND = Path(sys.executable).with_name("headwater")
"""The installed command."""


def wait_until(
    condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S, pause_s: float = 0.01
) -> None:
    """Return once the condition holds; raises `TimeoutError` naming `what` after the deadline."""
    deadline = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {deadline_s} s for {what}")
        time.sleep(pause_s)


def add_tenant(engine: FeedEngine, name: str, scopes: tuple[str, ...] = ("read", "write")) -> str:
    """Create a tenant; returns an API key of it with these scopes."""
    engine.create_tenant(name).result()
    key_id = "".join(filter(str.isalnum, name)) + "0".join(scope[0] for scope in scopes) + "key"
    secret = f"secret-of-{name}-0123456789"
    engine.add_key(TenantId(name), key_id, hash_secret(secret), scopes).result()
    return format_api_key(key_id, secret)


@dataclass(frozen=True, slots=True)
class Served:
    """A service that answers on a socket of this machine, from a thread of this process."""

    services: Services
    address: str
    loop: asyncio.AbstractEventLoop

    def client(self, key: str | None = None) -> httpx.Client:
        """A client with this API key."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.address, headers=headers, timeout=DEADLINE_S)

    def tenant(self, name: str, scopes: tuple[str, ...] = ("read", "write")) -> httpx.Client:
        """A client of a new tenant."""
        return self.client(add_tenant(self.services.engine, name, scopes))

    def run(self, work: Callable[[], Awaitable[Value]]) -> Value:
        """Await something on the service's event loop."""

        async def awaited() -> Value:
            return await work()

        future: Future[Value] = asyncio.run_coroutine_threadsafe(awaited(), self.loop)
        return future.result(DEADLINE_S)


class HeldModels:
    """Live models that are set by hand: the memory twin of what the loader hands over."""

    def __init__(self) -> None:
        self.held: dict[TenantId, LiveModel] = {}
        self.shadows: dict[TenantId, LiveModel] = {}

    def get(self, tenant: TenantId) -> LiveModel | None:
        """The model that was set for the tenant."""
        return self.held.get(tenant)

    def loading(self, tenant: TenantId) -> bool:
        """What is set by hand is there at once."""
        del tenant
        return False

    def shadow(self, tenant: TenantId) -> LiveModel | None:
        """The model on trial that was set for the tenant."""
        return self.shadows.get(tenant)

    async def start(self) -> None:
        """Nothing to follow."""

    async def stop(self) -> None:
        """Nothing to end."""

    def status(self, tenant: TenantId) -> ModelStatus:
        """The model that was set for the tenant."""
        model = self.held.get(tenant)
        if model is None:
            return ModelStatus()
        shadow = self.shadows.get(tenant)
        return ModelStatus(
            version=str(model.version),
            shadow=None if shadow is None else str(shadow.version),
            scorer=model.scorer.name,
            spec_fingerprint=model.scorer.spec.fingerprint,
        )

    def forget(self, tenant: TenantId) -> None:
        """The model that was set for the tenant is none any more."""
        self.held.pop(tenant, None)

    def counts(self) -> ModelCounts:
        """How many were set."""
        return ModelCounts(len(self.held), 0)


class HeldShadowSlates:
    """What models on trial would have shown: the memory twin of the slate log."""

    def __init__(self) -> None:
        self.noted: list[tuple[Query, Slate]] = []

    def note(self, query: Query, shadow: Slate) -> None:
        """Keep the slate."""
        self.noted.append((query, shadow))


@dataclass(frozen=True, slots=True)
class HeldModel:
    """A live model made by hand."""

    version: str
    scorer: Scorer
    factors: Factors | None = None


@contextmanager
def served(
    data_dir: Path,
    feeds: FeedsConfig | None = None,
    models: FollowedModels | None = None,
    tracing: Tracing | None = None,
    **settings: object,
) -> Iterator[Served]:
    """A service on a data directory until the block ends; `settings` as in `Settings`."""
    services = compose(
        load_settings(data_dir=data_dir, port=0, **settings),
        feeds,
        models or HeldModels(),
        tracing=tracing,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn_config(create_app(services), services.settings)
    server = uvicorn.Server(config)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve(sockets=[listener])

    def work() -> None:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(serve())

    thread = threading.Thread(target=work, name="served")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), "the service to listen")
        if not server.started:
            raise RuntimeError("the service did not start: its log has the cause")
        host, port = listener.getsockname()[:2]
        yield Served(services, f"http://{host}:{port}", loops[0])
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listener.close()


class ServiceProcess:
    """`headwater serve` as a process of its own, on a free port; its log is in `log`."""

    def __init__(self, directory: Path, *options: str) -> None:
        self._address_file = directory / "address"
        self._address_file.unlink(missing_ok=True)
        self.log = directory / "service.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 (our own command)
                [
                    *(str(COMMAND), "serve", "--port", "0"),
                    *("--data-dir", str(directory / "data")),
                    *("--address-file", str(self._address_file), *options),
                ],
                stdout=log,
                stderr=log,
            )

    def address(self) -> str:
        """Where it listens; waits until it does."""
        wait_until(
            lambda: self._listens() or self.process.poll() is not None, "the service to listen"
        )
        if not self._listens():
            raise RuntimeError(f"the service ended: {self.log.read_text()[-2_000:]}")
        return self._address_file.read_text().strip()

    def client(self, key: str) -> httpx.Client:
        """A client with this API key."""
        headers = {"Authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.address(), headers=headers, timeout=DEADLINE_S)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; returns the exit status."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.end(signal.SIGKILL)

    def _listens(self) -> bool:
        return self._address_file.exists() and self._address_file.read_text().endswith("\n")
