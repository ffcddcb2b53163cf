"""Who is trained when, by one scheduler each; and a scheduler that is killed is taken up again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.model import TenantId
from feeds.training_time import HOUR_US
from ranking.registry import open_registry
from training.config import (
    BoostedConfig,
    BoostedVariant,
    EvaluationConfig,
    FactorizationConfig,
    ScheduleConfig,
    TrainingConfig,
)
from training.errors import TrainingError
from training.events.log import EventLog
from training.schedule import (
    Outcome,
    TrainedState,
    due_reason,
    tenant_lock,
    train_due,
    watch,
)
from training.sources.base import write_actions
from training.testing import community, events_of, log_of, write_export

SCHEDULE = ScheduleConfig(new_events_min=100, age_s_max=1_000, retry_s=500)
SECOND = 1_000_000
NOW = 2_000_000_000 * SECOND
QUICK = TrainingConfig(
    factorization=FactorizationConfig(dimensions=4, epochs=2),
    boosted=BoostedConfig(variants=(BoostedVariant("boosted-3", 3),), trees_max=10, stop_rounds=5),
    evaluation=EvaluationConfig(draws=100),
)
TRAINED = TrainedState(events=500, began_us=NOW, version=1)
FAILED = TrainedState(events=500, began_us=NOW, problem="too few")


@pytest.mark.parametrize(
    ("state", "events", "after_s", "reason"),
    [
        (None, 0, 0, None),
        (None, 1, 0, "it was never trained"),
        (TRAINED, 500, 10_000, None),
        (TRAINED, 599, 0, None),
        (TRAINED, 600, 0, "100 new events"),
        (TRAINED, 501, 999, None),
        (TRAINED, 501, 1_000, "1 new events, and its model is 0.0 days old"),
        (TRAINED, 400, 10_000, None),
        (FAILED, 500, 499, None),
        (FAILED, 500, 500, "its training failed and is tried again"),
        (FAILED, 600, 0, "100 new events"),
    ],
)
def test_a_tenant_is_due_by_new_events_by_age_or_after_a_failure(
    state: TrainedState | None, events: int, after_s: int, reason: str | None
) -> None:
    assert due_reason(state, events, NOW + after_s * SECOND, SCHEDULE) == reason


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000), st.booleans())
def test_more_events_or_more_time_never_make_a_tenant_less_due(
    events: int, more: int, seconds: int, failed: bool
) -> None:
    state = FAILED if failed else TRAINED
    now_us = NOW + seconds * SECOND
    if due_reason(state, events, now_us, SCHEDULE) is not None:
        assert due_reason(state, events + more, now_us + more * SECOND, SCHEDULE) is not None


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(
        TrainingError, match="new_events_min is 0: give a number above 0; age_s_max"
    ):
        replace(SCHEDULE, new_events_min=0, age_s_max=-1).check()


def log(tenant: str, seed: int, days: int = 16) -> EventLog:
    return log_of(events_of(community(seed, users=16, days=days)), tenant)


class Place:
    """An export, a registry and the schedulers' directory."""

    def __init__(self, home: Path) -> None:
        self.events, self.out = home / "events", home / "out"
        self.registry = f"dir:{home / 'registry'}"
        self.now_us = NOW

    def round(self, config: TrainingConfig = QUICK) -> list[Outcome]:
        return train_due(
            self.events,
            out=self.out,
            registry=self.registry,
            schedule=SCHEDULE,
            config=config,
            scheduler="inline",
            clock=lambda: self.now_us,
        )

    def did(self) -> dict[str, str]:
        return {outcome.tenant: outcome.did for outcome in self.round()}

    def versions(self, tenant: str) -> list[int]:
        opened = open_registry(self.registry)
        try:
            return [version.version for version in opened.versions(tenant)]  # type: ignore[arg-type]
        finally:
            opened.close()

    def state(self, tenant: str) -> TrainedState:
        return msgspec.json.decode(
            (self.out / tenant / "trained.json").read_bytes(), type=TrainedState
        )


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_rounds_train_who_is_due_and_nobody_twice(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    write_export(log("small", 2, days=1), place.events)
    first = {outcome.tenant: outcome for outcome in place.round()}
    assert (first["acme"].did, first["acme"].version) == ("trained", 1)
    assert first["small"].did == "failed"
    assert "too few to train" in first["small"].reason
    assert place.did() == {"acme": "waiting", "small": "waiting"}
    place.now_us += 500 * SECOND
    assert place.did() == {"acme": "waiting", "small": "failed"}
    write_export(log("acme", 1, days=30), place.events)
    assert place.did() == {"acme": "trained", "small": "waiting"}
    assert place.versions("acme") == [2, 1]
    assert place.state("acme").version == 2
    assert place.state("small").problem


def test_a_tenant_without_minutes_left_waits_until_it_has_some(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    opened = open_registry(place.registry)
    opened.add_trained(TenantId("acme"), NOW, 600 * 60)
    (outcome,) = place.round()
    assert outcome.did == "spent"
    assert "was trained 600.0 minutes within the last day, its quota" in outcome.reason
    assert place.versions("acme") == []
    place.now_us += 24 * HOUR_US
    assert place.did() == {"acme": "trained"}


def test_a_round_counts_the_minutes_that_it_took(place: Place) -> None:
    write_export(log("acme", 1), place.events)

    def ticking() -> int:
        place.now_us += SECOND
        return place.now_us

    train_due(
        place.events,
        out=place.out,
        registry=place.registry,
        schedule=SCHEDULE,
        config=QUICK,
        scheduler="inline",
        clock=ticking,
    )
    hours = open_registry(place.registry).trained_hours(TenantId("acme"))
    assert 0 < sum(hours.values()) <= (place.now_us - NOW) / SECOND


def test_a_tenant_that_another_scheduler_trains_is_left_alone(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    with tenant_lock(place.out / "acme") as alone:
        assert alone
        assert place.did() == {"acme": "held"}
    assert place.did() == {"acme": "trained"}


def test_two_schedulers_at_once_publish_one_version(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(place.did()["acme"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place.versions("acme") == [1]
    assert "trained" in found
    assert set(found) <= {"trained", "held", "waiting"}


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, "the scheduler ended before it was killed"
        assert time.monotonic() < deadline, f"waited 60 s for {path}"
        time.sleep(0.01)


def test_what_a_killed_scheduler_was_training_is_trained_by_the_next(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    command = ["train", "--all", "--watch", "--events", str(place.events), "--out", str(place.out)]
    scheduler = subprocess.Popen(
        [
            *(sys.executable, "-m", "serving", *command, "--json"),
            *("--registry", place.registry, "--scheduler", "inline"),
        ],
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )
    try:
        wait_for(place.out / "acme" / "running.json", scheduler)
    finally:
        scheduler.send_signal(signal.SIGKILL)
        scheduler.wait()
    assert place.versions("acme") == []
    (outcome,) = place.round()
    assert (outcome.did, outcome.reason) == ("trained", "its training was killed")
    assert place.versions("acme") == [1]
    assert not (place.out / "acme" / "running.json").exists()
    assert place.did() == {"acme": "waiting"}


def test_what_was_published_before_the_kill_is_not_trained_again(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    place.round()
    state = place.out / "acme" / "trained.json"
    began = msgspec.json.decode(state.read_bytes(), type=TrainedState)
    running = {"events": began.events, "began_us": began.began_us}
    (place.out / "acme" / "running.json").write_bytes(msgspec.json.encode(running))
    state.unlink()
    (outcome,) = place.round()
    assert (outcome.did, outcome.version) == ("resumed", 1)
    assert place.versions("acme") == [1]
    assert place.state("acme") == began


def test_a_broken_state_and_a_damaged_export_are_outcomes(place: Place) -> None:
    write_export(log("acme", 1), place.events)
    (place.out / "acme").mkdir(parents=True)
    (place.out / "acme" / "trained.json").write_text("{")
    (outcome,) = place.round()
    assert outcome.did == "failed"
    assert "remove it to train anew" in outcome.reason
    (place.out / "acme" / "trained.json").unlink()
    (place.events / "tenant=acme" / "manifest.json").write_text("{")
    (outcome,) = place.round()
    assert (outcome.did, "manifest.json" in outcome.reason) == ("failed", True)


def test_an_empty_export_is_told_and_watching_goes_on(place: Place) -> None:
    with pytest.raises(TrainingError, match="has no exported tenant"):
        place.round()
    told: list[list[Outcome]] = []
    pauses: list[float] = []
    watch(place.round, told.append, SCHEDULE, rounds=3, pause=pauses.append)
    assert [outcomes[0].did for outcomes in told] == ["failed"] * 3
    assert pauses == [SCHEDULE.look_every_s] * 2


def test_the_command_exports_and_trains_who_is_due(tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, dict[str, list[dict[str, object]]]]:
        done = subprocess.run(
            [sys.executable, "-m", "serving", *arguments, "--json"],
            capture_output=True,
            cwd=tmp_path,
            check=False,
            timeout=120,
        )
        return done.returncode, json.loads(done.stdout)

    write_actions(community(1, users=8, days=2), tmp_path / "actions.jsonl")
    run("import", "actions.jsonl", "--tenant", "acme", "--data-dir", "data")
    train = ("train", "--all", "--events", "events", "--out", "out", "--registry", "dir:registry")
    options = ("--export-from", "data", "--scheduler", "inline", "--metrics-file", "drift.prom")
    status, answer = run(*train, *options)
    (outcome,) = answer["outcomes"]
    assert (status, outcome["tenant"], outcome["did"]) == (1, "acme", "failed")
    assert "16 engagements are too few to train" in str(outcome["reason"])
    assert 'headwater_drift_problem{tenant="acme"} 1\n' in (tmp_path / "drift.prom").read_text()
