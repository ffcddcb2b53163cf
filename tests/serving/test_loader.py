"""The loader hands over what was verified, and keeps the old model where the new one fails."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import xgboost

from feeds.model import TenantId
from feeds.tenants import Trained, read_trained
from feeds.training_time import HOUR_US
from ranking.bundle import ModelBundle
from ranking.errors import RankingError, RegistryUnavailable
from ranking.registry import Alias, DirectoryRegistry, ModelVersion
from ranking.testing import T0_US
from ranking.testing_models import ACME, boosted_scorer, model_bundle
from serving.handover import leave_behind, read_handed, read_problem
from serving.loader import Loader, LoaderConfig
from serving.verify import verify_apart

DEADLINE_S = 60
BETA = TenantId("beta")


def _verify(directory: Path, digest: str) -> str | None:
    """In this process, which is quicker; `verify_apart` is tested by itself."""
    try:
        ModelBundle.load(directory, digest=digest)
    except RankingError as error:
        return str(error)
    return None


class House:
    """A registry, a loader and a clock."""

    def __init__(self, path: Path, config: LoaderConfig, *tenants: TenantId) -> None:
        self.path = path
        self.out = path / "out"
        self.registry = DirectoryRegistry(path / "registry", lambda: T0_US)
        self.now_s = 0.0
        self.loader = Loader(
            self.registry,
            self.out,
            tenants,
            config,
            verify=_verify,
            clock_us=lambda: T0_US,
            monotonic_s=lambda: self.now_s,
        )

    def publish(self, tenant: TenantId = ACME, seed: int = 1) -> int:
        """Publish and promote a model; returns its version."""
        bundle = self.path / f"bundle-{tenant}-{seed}"
        if not bundle.exists():
            model_bundle(tenant, seed=seed).save(bundle)
        version = self.registry.publish(tenant, bundle).version
        return self.registry.promote(tenant, version).version

    def damage(self, version: int, tenant: TenantId = ACME) -> Path:
        """Flip a byte of a published bundle; returns the file."""
        path = self.path / "registry" / tenant / f"{version:06d}" / "bundle" / "golden.npz"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        return path

    def live(self, tenant: TenantId = ACME, alias: Alias = "live") -> int | None:
        """The version that is handed over, which loads."""
        live = read_handed(self.out / tenant, alias)
        if live is None:
            return None
        ModelBundle.load(self.out / tenant / live.path, digest=live.digest)
        return live.version

    def problem(self, tenant: TenantId = ACME) -> str | None:
        """What the loader left word of."""
        problem = read_problem(self.out / tenant)
        return None if problem is None else problem.sentence

    def bundles(self, tenant: TenantId = ACME) -> list[str]:
        """The directories of the tenant."""
        return sorted(path.name.partition("-")[0] for path in (self.out / tenant).glob("*-*"))


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path, LoaderConfig(retry_first_s=10, retry_max_s=25))


def test_live_version_is_handed_over(house: House) -> None:
    house.loader.poll()
    assert house.live() is None
    house.publish()
    house.loader.poll()
    assert house.live() == 1
    live = json.loads((house.out / ACME / "live.json").read_text())
    assert live == {
        "version": 1,
        "digest": model_bundle().digest,
        "path": f"1-{model_bundle().digest[:12]}",
        "published_at": "2018-03-12T00:00:00.000000",
    }


def test_promotion_and_roll_back_are_followed(house: House) -> None:
    for seed in (1, 2):
        house.publish(seed=seed)
        house.loader.poll()
        assert house.live() == seed
    house.registry.roll_back(ACME)
    house.loader.poll()
    assert house.live() == 1


def test_published_version_that_is_not_promoted_stays_away(house: House) -> None:
    house.publish()
    bundle = model_bundle(seed=2).save(house.path / "other")
    house.registry.publish(ACME, bundle)
    house.loader.poll()
    assert (house.live(), house.bundles()) == (1, ["1"])


def test_unchanged_alias_touches_no_file(house: House) -> None:
    house.publish()
    house.loader.poll()
    before = (house.out / ACME / "live.json").stat().st_ino
    house.loader.poll()
    assert (house.out / ACME / "live.json").stat().st_ino == before


def test_time_of_training_is_handed_over_once_a_while(house: House) -> None:
    house.publish()
    house.registry.add_trained(ACME, T0_US, 90)
    house.loader.poll()
    told = {ACME: {T0_US // HOUR_US: 90.0}}
    assert read_trained(house.out) == Trained(T0_US, told)
    house.registry.add_trained(BETA, T0_US, 5)
    house.loader.poll()
    assert read_trained(house.out) == Trained(T0_US, told)
    house.now_s += LoaderConfig().check_s
    house.loader.poll()
    assert read_trained(house.out).hours == told | {BETA: {T0_US // HOUR_US: 5.0}}


def test_time_of_training_is_known_as_nothing_where_nobody_was_trained(house: House) -> None:
    assert read_trained(house.out).minutes(ACME, T0_US) is None
    house.loader.poll()
    assert read_trained(house.out).minutes(ACME, T0_US) == 0


def test_time_of_training_that_cannot_be_read_keeps_no_model_back(house: House) -> None:
    house.registry.add_trained(ACME, T0_US, 90)
    (house.path / "registry" / ACME / "trained_hours.json").write_text("{")
    house.publish()
    house.loader.poll()
    assert (house.live(), read_trained(house.out).minutes(ACME, T0_US)) == (1, None)


def test_damaged_version_keeps_the_old_one_and_says_so(house: House) -> None:
    house.publish()
    house.loader.poll()
    house.damage(house.publish(seed=2))
    house.loader.poll()
    assert house.live() == 1
    problem = read_problem(house.out / ACME)
    assert problem is not None
    assert (problem.version, problem.since) == (2, "2018-03-12T00:00:00.000000")
    assert "golden.npz is damaged" in problem.sentence
    assert house.bundles() == ["1"]


def test_problem_goes_once_a_sound_version_is_live(house: House) -> None:
    house.damage(house.publish())
    house.loader.poll()
    assert house.problem() is not None
    house.publish(seed=2)
    house.loader.poll()
    assert (house.live(), house.problem()) == (2, None)


def test_problem_goes_once_the_old_version_is_live_again(house: House) -> None:
    house.publish()
    house.loader.poll()
    house.damage(house.publish(seed=2))
    house.loader.poll()
    house.registry.roll_back(ACME)
    house.loader.poll()
    assert (house.live(), house.problem()) == (1, None)


def test_failed_version_is_tried_again_ever_more_rarely(house: House) -> None:
    path = house.damage(house.publish())
    sound = (house.path / "bundle-acme-1" / "golden.npz").read_bytes()
    tries = []
    for second in range(80):
        house.now_s = float(second)
        (house.out / ACME / "problem.json").unlink(missing_ok=True)
        house.loader.poll()
        if house.problem() is not None:
            tries.append(second)
    assert tries == [0, 10, 30, 55]
    path.write_bytes(sound)
    house.now_s = 80.0
    house.loader.poll()
    assert (house.live(), house.problem()) == (1, None)


def test_one_tenant_that_fails_does_not_hold_up_another(house: House) -> None:
    house.damage(house.publish(ACME))
    house.publish(BETA)
    house.loader.poll()
    assert (house.live(ACME), house.live(BETA)) == (None, 1)


def test_many_tenants_whose_aliases_stay_are_asked_for_in_one_pass(tmp_path: Path) -> None:
    asked: list[tuple[TenantId, Alias]] = []

    class Counting(DirectoryRegistry):
        def alias(self, tenant: TenantId, name: Alias) -> ModelVersion | None:
            asked.append((tenant, name))
            return super().alias(tenant, name)

    house = House(tmp_path, LoaderConfig())
    house.registry = Counting(tmp_path / "registry", lambda: T0_US)
    loader = Loader(house.registry, house.out, verify=_verify, monotonic_s=lambda: house.now_s)
    for tenant in (ACME, BETA):
        house.publish(tenant)
    for _ in range(3):
        loader.poll()
        assert asked == [(ACME, "live"), (BETA, "live")]
    house.publish(ACME, seed=2)
    loader.poll()
    assert asked[2:] == [(ACME, "live"), (ACME, "previous")]
    assert (house.live(ACME), house.live(ACME, "previous"), house.live(BETA)) == (2, 1, 1)
    house.now_s = 60.0
    loader.poll()
    assert len(asked) == 7


def test_later_tenants_are_followed_unless_some_are_named(tmp_path: Path) -> None:
    named = House(tmp_path, LoaderConfig(), ACME)
    for tenant in (ACME, BETA):
        named.publish(tenant)
    named.loader.poll()
    assert (named.live(ACME), named.live(BETA)) == (1, None)


def test_old_bundles_are_removed_but_the_latest(tmp_path: Path) -> None:
    house = House(tmp_path, LoaderConfig(old_versions_max=1))
    for seed in range(1, 6):
        house.publish(seed=seed)
        house.loader.poll()
    assert house.bundles() == ["3", "4", "5"]


def test_previous_version_is_at_hand_and_a_roll_back_fetches_and_verifies_nothing(
    house: House,
) -> None:
    for seed in (1, 2):
        house.publish(seed=seed)
    house.loader.poll()
    assert (house.live(), house.live(alias="previous")) == (2, 1)
    for number in (1, 2):
        house.damage(number)
    house.registry.roll_back(ACME)
    house.loader.poll()
    assert (house.live(), house.live(alias="previous"), house.problem()) == (1, 2, None)


def test_shadow_is_handed_over_and_withdrawn_beside_the_live_one(house: House) -> None:
    house.publish()
    house.registry.publish(ACME, model_bundle(seed=2).save(house.path / "bundle-2"))
    house.registry.set_shadow(ACME, 2)
    house.loader.poll()
    assert (house.live(), house.live(alias="shadow")) == (1, 2)
    house.registry.set_shadow(ACME, None)
    house.loader.poll()
    assert (house.live(), house.live(alias="shadow")) == (1, None)


def test_shadow_that_is_damaged_does_not_hold_up_the_live_one(house: House) -> None:
    house.publish()
    house.registry.publish(ACME, model_bundle(seed=2).save(house.path / "bundle-2"))
    house.damage(2)
    house.registry.set_shadow(ACME, 2)
    house.loader.poll()
    assert (house.live(), house.live(alias="shadow"), house.problem()) == (1, None, None)
    problem = read_problem(house.out / ACME, "shadow")
    assert problem is not None
    assert (problem.version, "golden.npz is damaged" in problem.sentence) == (2, True)
    house.registry.set_shadow(ACME, None)
    house.loader.poll()
    assert read_problem(house.out / ACME, "shadow") is None


def test_versions_that_an_alias_names_are_kept_however_old(tmp_path: Path) -> None:
    house = House(tmp_path, LoaderConfig(old_versions_max=0))
    for seed in (1, 2):
        house.publish(seed=seed)
        house.loader.poll()
    for version in (1, 2, 1, 2):
        house.registry.promote(ACME, version)
        house.loader.poll()
    assert house.bundles() == ["1", "2"]


def test_model_larger_than_the_limit_is_not_handed_over(tmp_path: Path) -> None:
    house = House(tmp_path, LoaderConfig(model_bytes_max=100))
    house.publish()
    house.loader.poll()
    assert house.live() is None
    assert "at most 100 are allowed" in (house.problem() or "")
    assert house.bundles() == []


def test_bundle_that_was_damaged_here_is_fetched_again(house: House) -> None:
    for seed in (1, 2):
        house.publish(seed=seed)
        house.loader.poll()
    (path,) = (house.out / ACME).glob("1-*")
    (path / "golden.npz").write_bytes(b"")
    house.registry.roll_back(ACME)
    house.loader.poll()
    assert (house.live(), house.problem()) == (1, None)


def test_bundle_that_was_removed_here_is_fetched_again(house: House) -> None:
    house.publish()
    house.loader.poll()
    (path,) = (house.out / ACME).glob("1-*")
    shutil.rmtree(path)
    house.loader.poll()
    assert house.live() == 1


@pytest.mark.parametrize("content", [b"", b"{}", b'{"version":1,"path":"../x","digest":""}'])
def test_damaged_live_file_is_written_again(house: House, content: bytes) -> None:
    house.publish()
    house.loader.poll()
    (house.out / ACME / "live.json").write_bytes(content)
    house.loader.poll()
    assert house.live() == 1


def test_registry_made_anew_is_told_apart_by_the_digest(house: House) -> None:
    house.publish()
    house.loader.poll()
    shutil.rmtree(house.path / "registry")
    house.publish(seed=2)
    house.now_s = LoaderConfig().check_s
    house.loader.poll()
    live = read_handed(house.out / ACME)
    assert live is not None
    assert (live.version, live.digest) == (1, model_bundle(seed=2).digest)


def test_registry_that_cannot_be_read_is_asked_again_after_a_while(house: House) -> None:
    house.publish()
    aliases = house.path / "registry" / ACME / "aliases.json"
    sound = aliases.read_bytes()
    aliases.write_bytes(b"{")
    house.loader.poll()
    assert "check the disk" in (house.problem() or "")
    aliases.write_bytes(sound)
    house.loader.poll()
    assert house.live() is None
    house.now_s = 10.0
    house.loader.poll()
    assert (house.live(), house.problem()) == (1, None)


def test_tenants_that_cannot_be_listed_do_not_end_the_loader(house: House) -> None:
    house.publish()
    stop = threading.Event()
    failures = iter([RegistryUnavailable("gone"), OSError("gone")])
    listed = house.registry.tenants

    class Flaky(DirectoryRegistry):
        def tenants(self) -> list[TenantId]:
            error = next(failures, None)
            if error is not None:
                raise error
            stop.set()
            return listed()

    registry = Flaky(house.path / "registry")
    config = LoaderConfig(poll_s=0, retry_first_s=0, retry_max_s=0)
    Loader(registry, house.out, (), config, verify=_verify).run(stop)
    assert stop.is_set()


# What follows starts processes.


def _rewritten(bundle: Path, name: str, content: bytes) -> str:
    """Put another file into a bundle, with a manifest that vouches for it; returns the digest."""
    (bundle / name).write_bytes(content)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["files"][name] = {
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    encoded = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(encoded)
    return hashlib.sha256(encoded).hexdigest()


def _hostile_model() -> bytes:
    """A model whose trees point outside of themselves."""
    booster = xgboost.Booster(model_file=bytearray(boosted_scorer().content))
    model = json.loads(bytes(booster.save_raw("json")))
    for tree in model["learner"]["gradient_booster"]["model"]["trees"]:
        tree["left_children"] = [2**30 for _ in tree["left_children"]]
        tree["right_children"] = [2**30 for _ in tree["right_children"]]
    return json.dumps(model).encode()


def test_hostile_model_is_refused_in_a_process_of_its_own(tmp_path: Path) -> None:
    bundle = model_bundle(scorer=boosted_scorer()).save(tmp_path / "bundle")
    assert verify_apart(bundle, model_bundle(scorer=boosted_scorer()).digest) is None
    digest = _rewritten(bundle, "ranker.ubj", _hostile_model())
    problem = verify_apart(bundle, digest)
    assert problem is not None
    assert "train anew" in problem or "fetch" in problem


def test_problem_of_a_bundle_comes_back_as_its_sentence(tmp_path: Path) -> None:
    bundle = model_bundle().save(tmp_path / "bundle")
    assert "is not the one that was published" in (verify_apart(bundle, "0" * 64) or "")


def test_bundle_that_takes_too_long_is_refused(tmp_path: Path) -> None:
    bundle = model_bundle().save(tmp_path / "bundle")
    problem = verify_apart(bundle, model_bundle().digest, seconds_max=1e-6)
    assert "did not load within 1e-06 s" in (problem or "")


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        threading.Event().wait(0.02)


class Running:
    """A loader process."""

    def __init__(self, house: House) -> None:
        arguments = ("--registry", f"dir:{house.path}/registry", "--out", str(house.out))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.loader", *arguments, "--poll-s", "0.05"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end(self) -> bytes:
        """What it logged, once it has ended."""
        _, logged = self.process.communicate(timeout=DEADLINE_S)
        return logged


@pytest.fixture
def running(house: House) -> Iterator[Running]:
    running = Running(house)
    yield running
    if running.process.poll() is None:
        running.process.kill()
    running.process.communicate()


def _is_of_live(event: dict[str, object]) -> bool:
    """Whether a log line is not of another alias, which the loader may be stopped before."""
    return event.get("alias") in (None, "live")


def test_process_follows_promotions_and_ends_on_sigterm(house: House, running: Running) -> None:
    house.publish()
    _until(lambda: house.live() == 1)
    house.publish(seed=2)
    _until(lambda: house.live() == 2)
    running.process.send_signal(signal.SIGTERM)
    events = [json.loads(line) for line in running.end().splitlines()]
    assert running.process.returncode == 0
    assert [(event["event"], event.get("version")) for event in events if _is_of_live(event)] == [
        ("loader_started", None),
        ("model_handed_over", 1),
        ("model_handed_over", 2),
        ("loader_stopped", None),
    ]


def test_process_ends_with_its_parent(house: House, running: Running) -> None:
    house.publish()
    _until(lambda: house.live() == 1)
    assert running.process.stdin is not None
    running.process.stdin.close()
    running.process.stdin = None
    running.end()
    assert running.process.returncode == 0


def test_second_process_waits_until_the_first_has_ended(house: House, running: Running) -> None:
    house.publish()
    _until(lambda: house.live() == 1)
    second = Running(house)
    assert second.process.stderr is not None
    assert b"another_loader_runs" in second.process.stderr.readline()
    running.process.terminate()
    running.end()
    house.publish(seed=2)
    _until(lambda: house.live() == 2)
    second.process.terminate()
    second.end()


def test_process_sweeps_what_a_killed_one_left(house: House) -> None:
    for left in (".draft-x", ".fetching-1-000000000000"):
        (house.out / ACME / left).mkdir(parents=True)
        (house.out / ACME / left / "golden.npz").touch()
    house.publish()
    running = Running(house)
    _until(lambda: house.live() == 1)
    running.process.send_signal(signal.SIGKILL)
    running.end()
    left = sorted(path.name for path in (house.out / ACME).iterdir())
    assert left == [f"1-{model_bundle().digest[:12]}", "live.json"]


def test_process_does_not_import_mlflow_for_a_directory(tmp_path: Path) -> None:
    code = (
        "import sys, serving.loader; from ranking.registry import open_registry; "
        f"open_registry('dir:{tmp_path}'); "
        "sys.exit(', '.join({'mlflow', 'pandas', 'xgboost', 'fastapi'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_versions_of_a_deleted_tenant_are_not_handed_over_to_another_of_its_name(
    tmp_path: Path,
) -> None:
    house = House(tmp_path, LoaderConfig())
    house.publish()
    house.loader.poll()
    assert house.live() == 1
    leave_behind(house.out, ACME)
    shutil.rmtree(house.out / ACME)
    house.loader.poll()
    assert house.live() is None
    house.publish(seed=2)
    house.loader.poll()
    assert house.live() == 2


def test_a_word_that_cannot_be_read_is_told_and_nothing_is_handed_over(tmp_path: Path) -> None:
    house = House(tmp_path, LoaderConfig())
    house.publish()
    house.out.mkdir()
    (house.out / f"{ACME}.deleted").write_text("?")
    house.loader.poll()
    assert house.live() is None
    problem = read_problem(house.out / ACME)
    assert problem is not None
    assert "write the last one of the deleted tenant there" in problem.sentence
