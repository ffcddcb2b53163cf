"""A data directory with a community and its live models, and the service on it as a process.

The service has the directory itself, or is workers beside an engine node that has it.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
import orjson
from xgboost import Booster

from feeds.cli_cluster import init_cluster, start_cluster, stop_cluster
from feeds.credentials import format_api_key, hash_secret
from feeds.engine import FeedEngine
from feeds.model import TenantId, format_time
from feeds.remote import open_remote
from feeds.testing_ports import free_ports
from ranking.bundle import ModelBundle
from ranking.features import FeatureMatrix, FeatureSpec
from ranking.registry import DirectoryRegistry
from ranking.scorers.boosted import BoostedScorer
from ranking.scorers.factorization import FactorTable
from ranking.table import ActivityTable
from serving.bench_community import (
    NOW_US,
    PAGE,
    READER,
    Shape,
    factors_of,
    feature_spec,
    matrix,
    populate,
    trees,
    user_side,
)
from serving.bench_server import Server
from serving.configs import service_config
from serving.handover import bundle_name, write_handed
from serving.settings import load_settings
from serving.sources import own_table

__all__ = ["Site", "follow_request", "node", "read_request"]

_SECRET: Final = "secret-of-the-bench-0123456789"  # noqa: S105 - of a directory that is removed


@dataclass(frozen=True, slots=True)
class Site:
    """Tenants and their models; of the first of them what the references need."""

    directory: Path
    node: Path | None
    """The socket of the engine node that has the data; None where the service has it itself."""

    booster: Booster
    factors: FactorTable
    table: ActivityTable

    @classmethod
    def made(cls, directory: Path, shape: Shape, node: Path | None = None) -> Self:
        """The tenants of `shape`, each with feeds, a key and a model of its own that is live."""
        directory.mkdir()
        spec = feature_spec(shape.features)
        booster = trees(spec, shape.trees)
        with _engine(directory, node) as engine:
            registry = DirectoryRegistry(directory / "registry")
            for number in range(shape.tenants):
                tenant = shape.tenant(number)
                posted = populate(engine, shape, tenant)
                secret = hash_secret(_SECRET)
                engine.add_key(tenant, _key_id(number), secret, ("read", "write")).result()
                factors = factors_of(posted)
                if number == 0:
                    first = factors, own_table(engine, tenant, [], shape.activities)
                _hand_over(_bundle(tenant, booster, spec, factors), directory, registry)
            registry.close()
        return cls(directory, node, booster, *first)

    def rows(self, candidates: int) -> np.ndarray:
        """The features of the reader's candidates, as the service computes them."""
        with _engine(self.directory, self.node) as engine:
            query, _ = user_side(engine)
        config = service_config(load_settings(candidates_max=candidates))
        return matrix(config, query, self.table, self.factors, candidates)

    @contextmanager
    def service(
        self, candidates: int, *, workers: int = 1, cores: set[int] | None = None, **settings: float
    ) -> Iterator[Server]:
        """The service, answering ranked reads of so many candidates; other `settings` by name."""
        address_file = self.directory / f"address-{workers}"
        address_file.unlink(missing_ok=True)
        arguments = [
            *(sys.executable, "-m", "serving", "serve", "--port", "0", "--no-loader"),
            *("--data-dir", str(self.directory / "data"), "--address-file", str(address_file)),
            *("--clock-start", format_time(NOW_US)),
        ]
        if self.node is not None:
            arguments += ["--engine", str(self.node), "--workers", str(workers)]
        given = {
            "candidates_max": candidates,
            "deadline_ms": 60_000,
            "tenant_requests_per_s": 1_000_000,
            "served_max": 0,  # else the one reader has soon seen all, and less is ranked
            **settings,
        }
        environment = {f"HEADWATER_{name.upper()}": str(value) for name, value in given.items()}
        log = self.directory / f"service-{workers}.log"
        with Server(arguments, environment, log, cores) as server:
            server.wait(address_file, read_request())
            yield server


def read_request(query: str = f"limit={PAGE}", number: int = 0) -> bytes:
    """The reader's ranked read of the tenant with a number."""
    return (
        f"GET /v2/users/{READER}/feeds/personalized?{query} HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {format_api_key(_key_id(number), _SECRET)}\r\n\r\n"
    ).encode()


def follow_request(target: str, number: int = 0) -> bytes:
    """The reader's home feed follows another, in the tenant with a number."""
    content = orjson.dumps({"target": target})
    return (
        f"POST /v2/feeds/timeline/{READER}/follows HTTP/1.1\r\nHost: bench\r\n"
        f"Authorization: Bearer {format_api_key(_key_id(number), _SECRET)}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    ).encode() + content


@contextmanager
def node(directory: Path) -> Iterator[Path]:
    """An engine node that leads a cluster of one, until the block ends: its socket."""
    directory.mkdir()
    init_cluster(directory, "bench", free_ports(1), nodes=1, plain=True)
    try:
        start_cluster(directory)
        yield directory / "n1.sock"
    finally:
        stop_cluster(directory)


@contextmanager
def _engine(directory: Path, node: Path | None) -> Iterator[FeedEngine]:
    """What has the data, or writes to what has it."""
    opened = (
        FeedEngine.open(directory / "data", clock=lambda: NOW_US)
        if node is None
        else open_remote(node, clock=lambda: NOW_US)
    )
    with opened as engine:
        yield engine


def _key_id(number: int) -> str:
    return f"benchkey{number}"


def _bundle(
    tenant: TenantId, booster: Booster, spec: FeatureSpec, factors: FactorTable
) -> ModelBundle:
    return ModelBundle(
        tenant,
        BoostedScorer(spec, bytes(booster.save_raw("ubj"))),
        FeatureMatrix(spec.names, np.zeros((2, len(spec.names)), np.float32)),
        factors=factors,
        trained_us=NOW_US,
        training_fingerprint="noise",
        metrics={},
    )


def _hand_over(bundle: ModelBundle, directory: Path, registry: DirectoryRegistry) -> None:
    """Make the bundle live, as the loader would."""
    with tempfile.TemporaryDirectory(dir=directory) as saved:
        bundle.save(Path(saved) / "bundle")
        version = registry.publish(bundle.tenant, Path(saved) / "bundle")
    home = directory / "data" / "models" / bundle.tenant
    home.mkdir(parents=True)
    registry.fetch(version, home / bundle_name(version))
    write_handed(home, version)
