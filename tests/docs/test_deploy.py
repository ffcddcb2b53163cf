"""What deploy/ asks for exists: every metric and label of Prometheus, every option of Dask."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import dask.config
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from serving import docs
from serving.exposition import Family
from serving.node_metrics import ROLES
from serving.settings import Settings
from serving.slate_maker import OUTCOMES

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "headwater.json"
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASK = ROOT / "deploy" / "dask"
OF_PROMETHEUS = {"instance", "job", "le", "pid"}
"""Labels that are there without being a metric's own; `pid` is a worker's number."""

Panel = dict[str, Any]  # Any: JSON


def samples() -> dict[str, Family]:
    """Every name that can be queried, with the metric it is of."""
    suffixes = {
        "counter": ("_total",),
        "gauge": ("",),
        "histogram": ("_bucket", "_sum", "_count"),
        "summary": ("_sum", "_count"),
    }
    return {
        family.name + suffix: family
        for _, families in docs.metrics(ROOT)
        for family in families
        for suffix in suffixes[family.kind]
    }


SAMPLES = samples()


def panels() -> list[Panel]:
    found: list[Panel] = json.loads(DASHBOARD.read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[Panel]:
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[str]:
    """Every query of the dashboard, of its variables and of the alerts."""
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]
    yield from (rule["expr"] for rule in rules())


def problems(expression: str) -> list[str]:
    """What an expression asks for that is not there."""
    named = re.findall(r"\bheadwater_\w+", expression)
    if not named and "up{" not in expression:
        return ["it asks for nothing of ours"]
    unknown = [name for name in named if name not in SAMPLES]
    if unknown:
        return unknown
    known = OF_PROMETHEUS.union(*(SAMPLES[name].labels for name in named))
    grouped = ",".join(re.findall(r"\b(?:by|ignoring|on) \(([^)]*)\)", expression))
    labels = {label.strip() for label in grouped.split(",") if label.strip()}
    for name, matchers in re.findall(r"(\w+)\{([^}]*)\}", expression):
        own = OF_PROMETHEUS.union(SAMPLES[name].labels if name in SAMPLES else ())
        asked = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\"", matchers))
        labels |= {f"{name}{{{label}}}" for label in asked - own}
    return sorted(labels - known)


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_what_a_query_asks_for_exists(expression: str) -> None:
    assert [] == problems(expression)
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("rate(headwater_requests[5m])", ["headwater_requests"]),
        ("headwater_no_such_total", ["headwater_no_such_total"]),
        ("sum by (tenant) (headwater_requests_total)", ["tenant"]),
        ('headwater_node_role{rol="leader"}', ["headwater_node_role{rol}"]),
        ("vector(1)", ["it asks for nothing of ours"]),
    ],
)
def test_a_query_of_what_is_not_there_is_found(expression: str, expected: list[str]) -> None:
    assert expected == problems(expression)


def test_every_value_that_is_matched_exists() -> None:
    outcomes = {*OUTCOMES.values(), "model", "failed"}
    for expression in expressions():
        for label, known in (("outcome", outcomes), ("role", set(ROLES))):
            for value in re.findall(rf'\b{label}(?:=|!=|=~|!~)"([^"]*)"', expression):
                assert set(value.split("|")) <= known, expression


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    every = dashboard["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    assert [panel["title"].split()[0] for panel in every if panel["type"] == "row"] == [
        *("API", "Ranking:", "Models,", "Engine", "Tenants"),
    ]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(every)))
    assert used == variables
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]), panel["title"]


def test_every_metric_is_seen() -> None:
    """On the dashboard or by an alert: what nobody looks at need not be measured."""
    asked = " ".join(expressions())
    named = {SAMPLES[name].name for name in SAMPLES if re.search(rf"\b{name}\b", asked)}
    assert {family.name for family in SAMPLES.values()} - named == set()


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(rule["annotations"]) == {"summary", "action"}
        assert re.fullmatch(r"\d+[sm]", rule["for"])


def test_prometheus_scrapes_what_the_service_answers() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    routes = (ROOT / "serving" / "routes" / "health.py").read_text()
    for job in jobs.values():
        assert f'"{job["metrics_path"]}"' in routes
        port = Settings.model_fields["port"].default
        assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert jobs["headwater-tenants"]["authorization"]["type"] == "Bearer"
    assert all((PROMETHEUS / name).is_file() for name in config["rule_files"])
    assert {'job="headwater"'} == {
        found for one in expressions() for found in re.findall(r'\bjob="[^"]*"', one)
    }


def dask_environment() -> dict[str, str]:
    lines = (DASK / "dask.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def command_of(unit: str) -> list[str]:
    """What a unit starts, with the names of its environment file filled in."""
    text = (DASK / f"headwater-dask-{unit}.service").read_text()
    (started,) = re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)
    return [
        re.sub(r"\$\{(\w+)\}", lambda name: dask_environment()[name[1]], word)
        for word in started.split()
    ]


@pytest.mark.parametrize(
    ("unit", "command"), [("scheduler", dask_scheduler.main), ("worker", dask_worker.main)]
)
def test_dask_units_start_what_is_installed(unit: str, command: click.Command) -> None:
    program, name, *words = command_of(unit)
    assert (program, name) == ("/opt/headwater/.venv/bin/dask", unit)
    known = {option for parameter in command.params for option in parameter.opts}
    known |= {option for parameter in command.params for option in parameter.secondary_opts}
    assert {word for word in words if word.startswith("--")} <= known


def test_dask_is_open_to_those_with_a_certificate_alone() -> None:
    for unit in ("scheduler", "worker"):
        words = command_of(unit)
        assert words[words.index("--protocol") + 1] == "tls"
    scheduler, worker = command_of("scheduler"), command_of("worker")
    assert scheduler[scheduler.index("--dashboard-address") + 1].startswith("127.0.0.1:")
    assert "--no-dashboard" in worker
    assert worker[2] == f"tls://{dask_environment()['HEADWATER_DASK_HOST']}:8786"
    for name in dask_environment():
        if name.startswith("DASK_"):
            place = name.removeprefix("DASK_").lower().replace("__", ".").replace("_", "-")
            assert dask.config.get(place, "no such key") != "no such key"
    assert dask_environment()["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
