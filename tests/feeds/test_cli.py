"""The commands, run as users run them."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog
from typer.testing import CliRunner

from feeds.credentials import parse_api_key, verify
from feeds.directory import DataDirectory
from feeds.engine import FeedEngine, system_clock_us
from feeds.errors import DataDirectoryLocked, InvalidInput, NotFound
from feeds.model import TenantId
from feeds.tenants import TOLD_S_MAX, TRAINED_FILE, Trained
from feeds.training_time import HOUR_US
from serving.cli import build

ACTION = {
    "type": "post",
    "time_us": 1_500_000_000_000_000,
    "feed": "user:ann",
    "actor": "user:ann",
    "verb": "ship",
    "object": "v1",
}

app = build({"import", "export", "keys", "tenants"})


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "actions.jsonl"
    path.write_text(json.dumps(ACTION) + "\n")
    return path


def test_import_then_export(data: Path, log: Path, tmp_path: Path) -> None:
    told = run("import", log, "--tenant", "demo", "--data-dir", data)
    assert re.search(r"imported into demo.*post\W+1\b.*actions_per_s", told, re.DOTALL)
    again = json.loads(run("import", log, "--tenant", "demo", "--data-dir", data, "--json"))
    assert {"post": 1, "duplicate": 1} == again["counts"]
    out = tmp_path / "out"
    told = run("export", "--tenant", "demo", "--out", out, "--data-dir", data)
    assert re.search(r"exported demo.*events\W+1\b", told, re.DOTALL)
    report = json.loads(
        run("export", "--tenant", "demo", "--out", out, "--data-dir", data, "--json")
    )
    assert (0, 1) == (report["events"], report["events_total"])
    assert 1 == len(list(out.rglob("*.parquet")))


def test_answer_is_json_alone_and_warnings_go_to_standard_error(data: Path, log: Path) -> None:
    run("import", log, "--tenant", "demo", "--data-dir", data)
    (segment,) = (data / "log").iterdir()
    with segment.open("ab") as torn:
        torn.write(b"\0\0\0")
    command = ["import", log, "--tenant", "demo", "--data-dir", data, "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "serving", *map(str, command)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert 1 == json.loads(done.stdout)["counts"]["duplicate"]
    assert "log_tail_cut" in done.stderr


def test_created_key_is_shown_once_and_its_secret_is_not_stored(data: Path) -> None:
    made = json.loads(run("tenants", "create", "demo", "--data-dir", data, "--json"))
    written = parse_api_key(made["api_key"])
    assert written is not None
    key_id, secret = written
    assert key_id == made["key_id"]
    with FeedEngine.open(data) as engine:
        assert [TenantId("demo")] == engine.tenants()
        assert verify(engine.key(key_id), secret)
    assert secret not in run("keys", "list", "demo", "--data-dir", data)
    stored = b"".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert secret.encode() not in stored


def test_tables_hold_the_whole_key(data: Path) -> None:
    told = run("tenants", "create", "demo", "--data-dir", data)
    assert re.search(r"hw_[a-z0-9]{12}_[A-Za-z0-9_-]{43} ", told)
    told = run("keys", "create", "demo", "--data-dir", data)
    assert re.search(r"hw_[a-z0-9]{12}_[A-Za-z0-9_-]{43} ", told)


def test_tenants_and_keys_are_listed(data: Path) -> None:
    first = json.loads(run("tenants", "create", "demo", "--data-dir", data, "--json"))
    second = json.loads(
        run("keys", "create", "demo", "--scope", "admin", "--data-dir", data, "--json")
    )
    listed = json.loads(run("tenants", "list", "--data-dir", data, "--json"))
    (told,) = listed["tenants"]
    assert ("demo", 2, 0) == (told["tenant"], told["keys"], told["storage_bytes"])
    keys = json.loads(run("keys", "list", "demo", "--data-dir", data, "--json"))["keys"]
    assert {first["key_id"], second["key_id"]} == {key["key_id"] for key in keys}
    assert {key["key_id"]: key["scopes"] for key in keys}[second["key_id"]] == ["admin"]
    assert "demo" in run("tenants", "list", "--data-dir", data)


def test_key_is_rotated_and_the_old_one_is_good_for_a_while(data: Path) -> None:
    old = json.loads(run("tenants", "create", "demo", "--data-dir", data, "--json"))
    rotate = ("keys", "rotate", "demo", old["key_id"], "--grace-s", "60")
    new = json.loads(run(*rotate, "--data-dir", data, "--json"))
    listed = json.loads(run("keys", "list", "demo", "--data-dir", data, "--json"))["keys"]
    expiries = {key["key_id"]: key["expires"] for key in listed}
    assert expiries[new["key_id"]] is None
    assert expiries[old["key_id"]] is not None
    assert "until" in run("keys", "list", "demo", "--data-dir", data)
    assert old["api_key"] not in json.dumps(listed)


def test_key_is_revoked_once(data: Path) -> None:
    made = json.loads(run("tenants", "create", "demo", "--data-dir", data, "--json"))
    run("keys", "revoke", "demo", made["key_id"], "--data-dir", data)
    listed = json.loads(run("keys", "list", "demo", "--data-dir", data, "--json"))
    assert [] == listed["keys"]
    with pytest.raises(NotFound, match="`headwater keys list demo` shows all"):
        run("keys", "revoke", "demo", made["key_id"], "--data-dir", data)


def test_quotas_are_set_shown_and_given_back_to_the_default(data: Path, log: Path) -> None:
    run("import", log, "--tenant", "demo", "--data-dir", data)
    quota = ("tenants", "quota", "set", "demo", "--data-dir", data, "--json")
    told = json.loads(run(*quota, "--requests-per-s", "5", "--storage-bytes", "1000"))
    assert told["quotas"]["requests_per_s"] == 5
    told = json.loads(run(*quota, "--default", "requests_per_s"))
    assert told["quotas"] == {
        "requests_per_s": None,
        "events_per_s": None,
        "storage_bytes": 1_000,
        "training_minutes": None,
    }
    shown = run("tenants", "quota", "show", "demo", "--data-dir", data)
    assert re.search(r"storage_bytes\W+1000\b", shown)
    (listed,) = json.loads(run("tenants", "list", "--data-dir", data, "--json"))["tenants"]
    assert listed["quotas"] == told["quotas"]
    assert listed["activities"] == 1
    assert listed["storage_bytes"] > 100
    with pytest.raises(InvalidInput, match="'speed' is no quota: use requests_per_s"):
        run(*quota[:-1], "--default", "speed")


def test_minutes_of_training_are_listed_where_the_service_knows_them(
    data: Path, tmp_path: Path
) -> None:
    run("tenants", "create", "demo", "--data-dir", data)
    now_us = system_clock_us()

    def listed(hours: dict[str, dict[int, float]], at_us: int, home: Path, *more: str) -> object:
        home.mkdir(exist_ok=True)
        (home / TRAINED_FILE).write_bytes(msgspec.json.encode(Trained(at_us, hours)))
        told = run("tenants", "list", "--data-dir", data, "--json", *more)
        return json.loads(told)["tenants"][0]["trained_minutes"]

    hours = {"demo": {now_us // HOUR_US: 90.0}, "other": {now_us // HOUR_US: 30.0}}
    assert "minutes of training not known" in run("tenants", "list", "--data-dir", data)
    assert listed(hours, now_us, data / "models") == 1.5
    assert "minutes of training 1.5" in run("tenants", "list", "--data-dir", data)
    assert listed({}, now_us, data / "models") == 0
    assert listed(hours, now_us - TOLD_S_MAX * 1_000_000 - 1, data / "models") is None
    (data / "models" / TRAINED_FILE).write_text("{")
    assert "minutes of training not known" in run("tenants", "list", "--data-dir", data)
    elsewhere = tmp_path / "models"
    assert listed(hours, now_us, elsewhere, "--models-dir", str(elsewhere)) == 1.5


def test_tenant_is_deleted_where_its_name_is_given_twice(data: Path, log: Path) -> None:
    for tenant in ("demo", "other"):
        run("import", log, "--tenant", tenant, "--data-dir", data)
    with pytest.raises(InvalidInput, match="`headwater tenants delete demo --confirm demo`"):
        run("tenants", "delete", "demo", "--data-dir", data)
    delete = ("tenants", "delete", "demo", "--confirm", "demo", "--data-dir", data, "--json")
    assert {"tenant": "demo", "deleted": True} == json.loads(run(*delete))
    listed = json.loads(run("tenants", "list", "--data-dir", data, "--json"))
    assert ["other"] == [one["tenant"] for one in listed["tenants"]]
    assert [] == listed["deleting"]
    told = json.loads(run(*delete))
    assert "tenant 'demo' does not exist" in told["error"]
    report = json.loads(run("import", log, "--tenant", "demo", "--data-dir", data, "--json"))
    assert {"post": 1, "duplicate": 0} == report["counts"]


def test_operators_have_keys_of_their_own(data: Path) -> None:
    made = json.loads(run("keys", "create", "@operators", "--data-dir", data, "--json"))
    listed = json.loads(run("keys", "list", "@operators", "--data-dir", data, "--json"))
    assert [(made["key_id"], ["operator"])] == [
        (key["key_id"], key["scopes"]) for key in listed["keys"]
    ]
    assert {"tenants": [], "deleting": []} == json.loads(
        run("tenants", "list", "--data-dir", data, "--json")
    )


def test_tenant_that_exists_is_not_created_again(data: Path) -> None:
    run("tenants", "create", "demo", "--data-dir", data)
    with pytest.raises(InvalidInput, match="`headwater keys create demo` makes a key"):
        run("tenants", "create", "demo", "--data-dir", data)


def test_locked_data_directory_names_the_process_and_what_to_do(data: Path, log: Path) -> None:
    with DataDirectory.lock(data), pytest.raises(DataDirectoryLocked) as caught:
        run("import", log, "--tenant", "demo", "--data-dir", data)
    assert str(os.getpid()) in str(caught.value)
    assert "stop" in str(caught.value)


def test_error_is_json_where_a_program_reads(data: Path) -> None:
    told = json.loads(run("keys", "list", "nobody", "--data-dir", data, "--json"))
    assert "NotFound" == told["exception"]
    assert "tenant 'nobody' does not exist" in told["error"]


def test_log_that_is_absent_says_how_to_get_one(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist: make one with `headwater prepare`"):
        run("import", tmp_path / "none.jsonl", "--tenant", "demo", "--data-dir", data)
