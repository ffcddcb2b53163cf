"""The request process serves with trees and without training's libraries, installed or not."""

import importlib
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from feeds.engine import FeedEngine
from feeds.model import ActivityDraft, FeedId, TenantId
from ranking.registry import DirectoryRegistry
from ranking.testing_models import boosted_scorer, model_bundle
from serving.imports import REFUSED, RefusingFinder
from serving.loader import Loader
from serving.testing import add_tenant

ACME = TenantId("acme")

PROGRAM = """
import asyncio, json, sys
from pathlib import Path

if {refuse}:
    from serving.imports import refuse_training_imports
    refuse_training_imports()

import httpx
from serving.app import create_app
from serving.compose import compose
from serving.settings import load_settings

async def read():
    app = create_app(compose(load_settings(data_dir=Path({data!r}))))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        headers = {{"Authorization": "Bearer {key}"}}
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            path = "/v2/users/bob/feeds/personalized?explain=1"
            return (await client.get(path, headers=headers)).json()

page = asyncio.run(read())
resident = next(l for l in open("/proc/self/status") if l.startswith("VmRSS")).split()[1]
print(json.dumps({{
    "modules": sorted({{name.partition(".")[0] for name in sys.modules}}),
    "resident_mb": int(resident) / 1024,
    "degraded": page["degraded"],
    "scorer": page["scorer"],
    "results": len(page["results"]),
}}))
"""


@dataclass(frozen=True)
class Site:
    """A data directory with a tenant and its live model."""

    data: Path
    key: str

    def read(self, *, refuse: bool) -> dict[str, object]:
        """What a process that answers one personalized read has in it."""
        program = PROGRAM.format(refuse=refuse, data=str(self.data), key=self.key)
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("imports")
    data = directory / "data"
    with FeedEngine.open(data) as engine:
        key = add_tenant(engine, ACME)
        engine.follow(ACME, FeedId("timeline", "bob"), FeedId("user", "ann")).result()
        draft = ActivityDraft(actor="user:ann", verb="post", object="o")
        engine.post(ACME, FeedId("user", "ann"), draft).result()
    registry = DirectoryRegistry(directory / "registry")
    model_bundle(ACME, boosted_scorer()).save(directory / "bundle")
    registry.promote(ACME, registry.publish(ACME, directory / "bundle").version)
    (data / "models").mkdir()
    Loader(registry, data / "models").poll()
    return Site(data, key)


def test_a_personalized_read_by_trees_imports_none_of_the_refused(site: Site) -> None:
    found = site.read(refuse=True)

    assert (found["degraded"], found["scorer"], found["results"]) == (None, "boosted", 1)
    modules = set(found["modules"])  # type: ignore[call-overload]
    assert "xgboost" in modules
    assert modules & (REFUSED | {"pyarrow"}) == set()


def test_refusing_saves_at_least_64_megabytes(site: Site) -> None:
    refused, free = site.read(refuse=True), site.read(refuse=False)

    assert "pandas" in free["modules"]  # type: ignore[operator]
    assert float(str(refused["resident_mb"])) + 64 < float(str(free["resident_mb"]))


def test_serving_without_a_tree_model_needs_no_refusal() -> None:
    program = "import serving.app, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert set(done.stdout.split()) & (REFUSED | {"pyarrow", "scipy", "xgboost"}) == set()


def test_a_refused_module_says_where_it_belongs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [RefusingFinder(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "polars", raising=False)

    with pytest.raises(ModuleNotFoundError, match="kept out of the request process") as caught:
        importlib.import_module("polars")

    assert caught.value.name == "polars"
    assert find_spec("json") is not None
