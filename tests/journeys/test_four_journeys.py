"""The four journeys of ARCHITECTURE.md on one service, by the commands and calls that users make.

An app posts; it reads a personalized feed; its events become a live model; a customer changes its
ranking. Every process is a real one, and one of them is killed on the way.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from serving.testing import ServiceProcess, wait_until

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
TAGS = ("art", "music", "science", "sport")
READERS, DAYS, LIKED_SHARE, OTHER_SHARE = 40, 20, 0.8, 0.05
BOB = "reader0"
RANKED = f"/v2/users/{BOB}/feeds/personalized"


@dataclass(frozen=True)
class House:
    """A directory with a service's data, and the tenant's key."""

    home: Path
    key: str

    def run(self, *words: str, status: int = 0) -> dict[str, Any]:
        """What a command answers."""
        return answer(self.home, *words, status=status)


def answer(home: Path, *words: str, status: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "serving", *words, "--json"],
        cwd=home,
        env={name: value for name, value in os.environ.items() if "HEADWATER_" not in name}
        | {"HEADWATER_DEADLINE_MS": "60000"},  # no busy machine makes a read late
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == status, done.stdout + done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("HEADWATER_CLOCK_START", time(NOW))
    monkeypatch.setenv("HEADWATER_DEADLINE_MS", "10000")  # the machine of a test may be busy
    scopes = [word for scope in ("read", "write", "admin") for word in ("--scope", scope)]
    made = answer(tmp_path, "tenants", "create", "acme", *scopes, "--data-dir", "data")
    return House(tmp_path, made["api_key"])


def time(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat()


def told(reply: httpx.Response, refused: int | None = None) -> dict[str, Any]:
    """The answer of a request that succeeds, or is refused with this status."""
    assert reply.status_code in ((200, 201) if refused is None else (refused,)), reply.text
    body: dict[str, Any] = reply.json()
    return body


def ids(page: dict[str, Any]) -> list[str]:
    return [entry["id"] for entry in page["results"]]


def test_all_four(house: House) -> None:
    """One test, so that each journey begins where the one before ended."""
    with ServiceProcess(house.home, "--no-loader") as first, first.client(house.key) as api:
        posted = an_app_posts(api)
        first.end(signal.SIGKILL)
    with ServiceProcess(house.home) as service, service.client(house.key) as api:
        what_was_acknowledged_is_there_after_a_kill(api, posted)
        slate = an_app_reads_a_personalized_feed(api)
        events_become_a_live_model(house, api)
        what_was_served_before_is_explained(api, slate, "recency")
        a_customer_changes_its_ranking(house, service, api)
        assert service.end() == 0


def an_app_posts(api: httpx.Client) -> str:
    """A write that is repeated is one, and its followers read it at once."""
    told(api.post(f"/v2/feeds/timeline/{BOB}/follows", json={"target": "user:ann"}))
    body = {"actor": "user:ann", "verb": "post", "object": "note:1", "tags": ["art"]}
    path, once = "/v2/feeds/user/ann/activities", {"Idempotency-Key": "note-1"}
    replies = [told(api.post(path, json=body, headers=once)) for _ in range(2)]
    (activity,) = {reply["activity"]["id"] for reply in replies}
    assert ids(told(api.get(f"/v2/feeds/timeline/{BOB}"))) == [activity]
    return str(activity)


def what_was_acknowledged_is_there_after_a_kill(api: httpx.Client, posted: str) -> None:
    assert ids(told(api.get(f"/v2/feeds/timeline/{BOB}"))) == [posted]
    assert ids(told(api.get(RANKED))) == [posted]


def an_app_reads_a_personalized_feed(api: httpx.Client) -> str:
    """Pages hang together while posts go on; what was done shows at the very next read."""
    for number in range(12):
        body = {"actor": "user:ann", "verb": "post", "object": f"more:{number}"}
        told(api.post("/v2/feeds/user/ann/activities", json=body))
    first = told(api.get(RANKED, params={"limit": 5, "explain": True}))
    body = {"actor": "user:ann", "verb": "post", "object": "meanwhile"}
    later = told(api.post("/v2/feeds/user/ann/activities", json=body))["activity"]["id"]
    pages, page = [first], first
    while page["next"] is not None:
        page = told(api.get(RANKED, params={"limit": 5, "cursor": page["next"]}))
        pages.append(page)
    shown = [activity for each in pages for activity in ids(each)]
    assert len(set(shown)) == len(shown)
    assert later not in shown
    assert first["degraded"] == "this tenant has no live model: ordered by time"
    assert {stage["name"] for stage in first["explanation"]["stages"]} >= {"filter", "score"}
    hidden = {"user": BOB, "activity_id": later, "type": "engagement", "kind": "hide"}
    told(api.post("/v2/events", json={"events": [hidden]}))
    after = told(api.get(RANKED, params={"limit": 25}))
    assert later not in ids(after)
    return str(first["slate_id"])


def events_become_a_live_model(house: House, api: httpx.Client) -> None:
    """Exported, trained and promoted beside the service, which takes the version up by itself."""
    likes = live_a_while(api)
    exported = house.run("export", "--tenant", "acme", "--data-dir", "data", "--out", "events")
    assert exported["events"] > likes
    trained = house.run(
        *("train", "--tenant", "acme", "--events", "events", "--data-dir", "data"),
        *("--out", "out", "--scheduler", "inline", "--promote"),
    )
    version = str(trained["version"])
    wait_until(lambda: told(api.get("/v2/model"))["version"] == version, "the model to be live")
    page = told(api.get(RANKED, params={"explain": True}))
    assert (page["model_version"], page["degraded"]) == (version, None)
    what_was_served_before_is_explained(api, page["slate_id"], page["scorer"])
    for entry in page["explanation"]["activities"]:
        total = sum(entry["contributions"].values()) + entry["bias"]
        assert total == pytest.approx(entry["score"], abs=1e-5 * max(1, abs(entry["score"])))


def what_was_served_before_is_explained(api: httpx.Client, slate: str, scorer: str) -> None:
    found = told(api.get(f"/v2/slates/{slate}/explain"))
    assert found["scorer"] == scorer
    assert found["recomputed"] == {"bit_identical": True, "different": 0, "problem": None}
    assert found["activities"]


def a_customer_changes_its_ranking(
    house: House, service: ServiceProcess, api: httpx.Client
) -> None:
    """Mistakes at once; what would change, of logged slates; activated, followed, rolled back."""
    document, wrong = house.home / "config.json", house.home / "wrong.json"
    pinned = ids(told(api.get("/v2/feeds/user/author3", params={"limit": 1})))[0]
    document.write_text(json.dumps({"personalized": {"pins": [{"id": pinned, "position": 0}]}}))
    wrong.write_text(json.dumps({"personalized": {"deadline_ms": -1, "sauces": {}}}))
    there = ("--url", service.address(), "--key", house.key)
    problems = house.run("config", "check", str(wrong), status=1)["problems"]
    assert len(problems) == 2

    before = told(api.get(RANKED))
    preview = house.run("config", "preview", str(document), "--mode", "fresh", *there)
    assert (preview["active_version"], preview["first_changed"]) == (0, 1.0)
    assert all(slate["new"][0]["id"] == pinned for slate in preview["slates"])
    logged = {slate["slate_id"] for slate in preview["slates"]} - {None}
    for slate in logged:
        assert told(api.get(f"/v2/slates/{slate}/explain"))["slate_id"] == slate

    version = house.run("config", "save", str(document), *there)["version"]
    told(api.post(f"/v2/ranking-configs/{version}/activate", json={"expected_version": 7}), 409)
    house.run("config", "activate", str(version), "--expected", "0", *there)
    changed = told(api.get(RANKED))
    assert (changed["config_version"], ids(changed)[0]) == (version, pinned)
    assert changed["model_version"] == before["model_version"]

    house.run("config", "rollback", *there)
    back = told(api.get(RANKED))
    assert back["config_version"] == 0
    what_was_served_before_is_explained(api, changed["slate_id"], changed["scorer"])


def live_a_while(api: httpx.Client) -> int:
    """Authors post for some days, and readers look and like what has their tag; how many likes."""
    posts = list(post_for_days(api))
    for reader in range(READERS):
        for author in range(len(TAGS)):
            path = f"/v2/feeds/timeline/reader{reader}/follows"
            told(api.post(path, json={"target": f"user:author{author}"}))
    events = list(looks(posts, np.random.default_rng(7)))
    for begin in range(0, len(events), 1_000):
        told(api.post("/v2/events", json={"events": events[begin : begin + 1_000]}))
    return sum(event["type"] == "engagement" for event in events)


def post_for_days(api: httpx.Client) -> Iterator[tuple[str, datetime, int]]:
    """Id, time and tag of what each author posts, three a day."""
    for number in range(DAYS * 3 * len(TAGS)):
        tag = number % len(TAGS)
        at = NOW - timedelta(days=DAYS) + timedelta(hours=8 * (number // len(TAGS)), minutes=tag)
        body = {
            "actor": f"user:author{tag}",
            "verb": "post",
            "object": f"post:{number}",
            "tags": [TAGS[tag]],
            "time": time(at),
        }
        reply = told(api.post(f"/v2/feeds/user/author{tag}/activities", json=body))
        yield reply["activity"]["id"], at, tag


def looks(
    posts: list[tuple[str, datetime, int]], draws: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Once a day each reader sees the day's posts, in order of time over all readers."""
    for day in range(1, DAYS):
        for reader in range(READERS):
            at = NOW - timedelta(days=DAYS - day) + timedelta(minutes=10 * reader)
            recent = [post for post in posts if timedelta(0) < at - post[1] < timedelta(days=1)]
            for position, (activity, _, tag) in enumerate(recent):
                event = {
                    "user": f"reader{reader}",
                    "activity_id": activity,
                    "time": time(at),
                    "position": position,
                }
                yield {"type": "impression", **event}
                liked = LIKED_SHARE if tag == reader % len(TAGS) else OTHER_SHARE
                if draws.random() < liked:
                    yield {"type": "engagement", "kind": "like", **event}
