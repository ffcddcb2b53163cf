import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from feeds.model import TenantId
from serving.settings import Settings, SettingsInvalid, load_settings
from serving.slate_log.config import SlateRules, rules_of


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"HEADWATER_{name.upper()}", raising=False)


def test_environment_sets_what_the_caller_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_PORT", "9000")
    monkeypatch.setenv("HEADWATER_SLATES_MAX", "7")

    settings = load_settings(port=9001)

    assert settings.port == 9001
    assert settings.slates_max == 7


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(port=70_000, deadline_ms=0, clock_start="yesterday", log_level="loud")

    assert len(caught.value.problems) == 4
    assert "port is '70000'" in str(caught.value) or "port is 70000" in str(caught.value)
    for name in ("HEADWATER_PORT", "HEADWATER_DEADLINE_MS", "--clock-start", "--log-level"):
        assert name in str(caught.value)


def test_room_for_models_that_would_not_hold_the_largest_one_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="models_bytes_max is 1048576, and one model of"):
        load_settings(models_bytes_max=1_048_576)

    assert load_settings(models_bytes_max=1_048_576, model_bytes_max=300_000)


def test_a_setting_that_is_no_more_is_told_with_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HEADWATER_TABLES_MAX", "100")
    with pytest.raises(SettingsInvalid, match="set HEADWATER_TABLES_BYTES_MAX") as caught:
        load_settings(port=70_000)
    assert len(caught.value.problems) == 2
    monkeypatch.delenv("HEADWATER_TABLES_MAX")
    with pytest.raises(SettingsInvalid, match="tables_max is no setting any more"):
        load_settings(tables_max=100)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    bare = [name for name, field in Settings.model_fields.items() if not field.description]

    assert bare == []


def test_every_number_has_a_lower_and_an_upper_limit() -> None:
    numbers = {
        name: {type(limit).__name__ for limit in field.metadata}
        for name, field in Settings.model_fields.items()
        if field.annotation in (int, float)
    }

    assert {name: {"Ge", "Le"} for name in numbers} == numbers


def test_settings_round_trip() -> None:
    settings = load_settings(port=0, clock_start="1998-04-20T00:00:00", loader=False)

    assert Settings(**settings.model_dump()) == settings


def test_registry_and_models_lie_in_the_data_directory_unless_told() -> None:
    settings = load_settings(data_dir=Path("/data"))

    assert settings.registry_uri == "mlflow+sqlite:////data/registry/mlflow.db"
    assert settings.models_path == Path("/data/models")
    assert load_settings(registry="dir:/models").registry_uri == "dir:/models"


def test_the_slate_log_lies_in_the_data_directory_unless_told() -> None:
    assert load_settings(data_dir=Path("/data")).slate_log_path == Path("/data/slates")
    assert load_settings(slate_log_dir=Path("/log")).slate_log_path == Path("/log")


def test_the_slate_log_of_single_tenants_is_set_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    given = '{"acme": {"rate": 0.5, "candidates": true}}'
    monkeypatch.setenv("HEADWATER_SLATE_LOG_TENANTS", given)
    settings = load_settings()
    rules = rules_of(settings)
    assert rules(TenantId("acme")) == SlateRules(rate=0.5, candidates=True)
    assert rules(TenantId("other")) == SlateRules()
    assert Settings(**settings.model_dump()) == settings
    assert Settings(**json.loads(settings.model_dump_json())) == settings


@pytest.mark.parametrize(
    "given",
    [
        {"slate_log_bytes_max": 16 * 1024 * 1024 - 1},
        {"slate_log_tenants": {"acme": {"bytes_max": 1024 * 1024}}},
        {"slate_log_bytes_max": 32 * 1024 * 1024, "workers": 4, "engine": Path("node.sock")},
    ],
)
def test_a_slate_log_needs_room_for_what_every_worker_appends_to(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsInvalid, match="too few for a full segment"):
        load_settings(**given)


def test_clock_start_is_microseconds_since_the_epoch() -> None:
    assert load_settings(clock_start="1970-01-02T00:00:00").clock_start_us == 86_400_000_000
    assert load_settings().clock_start_us is None
