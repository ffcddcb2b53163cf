"""Who may become live."""

from pathlib import Path

import msgspec
import pytest

from ranking.errors import AliasConflict
from ranking.registry import DirectoryRegistry, ModelVersion
from ranking.testing import T0_US
from ranking.testing_models import ACME, model_bundle
from training.errors import GatesFailed, TrainingError
from training.gates.promotion import FORCED, gates_of, promote_version
from training.gates.verdicts import GATES, Gate, GateReport


@pytest.fixture
def registry(tmp_path: Path) -> DirectoryRegistry:
    return DirectoryRegistry(tmp_path / "registry", lambda: T0_US)


def published(registry: DirectoryRegistry, tmp_path: Path, seed: int) -> ModelVersion:
    path = tmp_path / f"bundle-{seed}"
    return registry.publish(ACME, path if path.exists() else model_bundle(seed=seed).save(path))


def gated(
    registry: DirectoryRegistry, version: ModelVersion, live: int, verdict: str = "passed"
) -> None:
    told = {"name": "better", "verdict": verdict, "reason": "so it is."}
    report = GateReport(
        tenant=ACME,
        digest=version.digest,
        live=live,
        judged_us=T0_US,
        gates=(msgspec.convert(told, Gate),),
    )
    registry.attach(version, {GATES: report.to_json()})


def test_a_version_that_passed_becomes_live(registry: DirectoryRegistry, tmp_path: Path) -> None:
    first, second = (published(registry, tmp_path, seed) for seed in (1, 2))
    gated(registry, first, live=0)
    assert promote_version(registry, ACME, first) == first
    gated(registry, second, live=1)
    assert promote_version(registry, ACME, second, expected=1) == second
    assert registry.aliases() == {ACME: {"live": 2, "previous": 1}}
    assert promote_version(registry, ACME, second) == second  # it is live already


@pytest.mark.parametrize(
    ("live", "verdict", "said"),
    [
        (None, "", "did not come before the gates: `headwater models gate acme 2"),
        (1, "failed", "It may not replace what is live. better: so it is."),
        (0, "passed", "was judged when no version was live, and now version 1 is"),
        (7, "passed", "was judged when version 7 was live, and now version 1 is"),
    ],
)
def test_another_one_does_not_without_a_reason(
    registry: DirectoryRegistry, tmp_path: Path, live: int | None, verdict: str, said: str
) -> None:
    first, second = (published(registry, tmp_path, seed) for seed in (1, 2))
    registry.promote(ACME, first.version)
    if live is not None:
        gated(registry, second, live, verdict)
    with pytest.raises(GatesFailed, match="version 2 of acme") as refused:
        promote_version(registry, ACME, second)
    assert said in str(refused.value)
    assert registry.aliases() == {ACME: {"live": 1}}
    promote_version(registry, ACME, second, force="the editors asked for it")
    assert registry.aliases() == {ACME: {"live": 2, "previous": 1}}
    kept = msgspec.json.decode(registry.documents(second)[FORCED])
    assert kept["reason"] == "the editors asked for it"
    assert said in kept["gates"]


def test_gates_of_another_bundle_do_not_count(registry: DirectoryRegistry, tmp_path: Path) -> None:
    first, second = (published(registry, tmp_path, seed) for seed in (1, 2))
    gated(registry, first, live=0)
    registry.attach(second, {GATES: registry.documents(first)[GATES]})
    with pytest.raises(GatesFailed, match="did not come before the gates"):
        promote_version(registry, ACME, second)


def test_a_reason_does_not_overcome_another_live_version(
    registry: DirectoryRegistry, tmp_path: Path
) -> None:
    version = published(registry, tmp_path, 1)
    with pytest.raises(AliasConflict):
        promote_version(registry, ACME, version, expected=5, force="because")
    with pytest.raises(TrainingError, match="at most 1000 characters"):
        promote_version(registry, ACME, version, force="x" * 1_001)
    assert registry.alias(ACME, "live") is None
    assert FORCED not in registry.documents(version)


def test_damaged_gates_are_told(registry: DirectoryRegistry, tmp_path: Path) -> None:
    version = published(registry, tmp_path, 1)
    assert gates_of(registry, version) is None
    registry.attach(version, {GATES: b"{"})
    with pytest.raises(TrainingError, match=r"gates\.json of version 1 cannot be read"):
        gates_of(registry, version)
