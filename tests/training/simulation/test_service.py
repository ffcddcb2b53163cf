"""A community on a real `headwater serve`: the same slates as in this process, and a whole log."""

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from feeds.model import UserId
from training import load_events
from training.errors import SimulationError
from training.simulation.community import Community, Visit
from training.simulation.config import SimulationConfig
from training.simulation.platform import LocalPlatform, Mirrored
from training.simulation.policy import Arm
from training.simulation.service import ServicePlatform, service_days

CONFIG = SimulationConfig(users=12, days=2, topics=3, visits_per_day=0.9)


def command(home: Path, *arguments: str) -> dict[str, Any]:
    options = ("--data-dir", str(home / "data"), "--json")
    done = subprocess.run(
        [sys.executable, "-m", "serving", *arguments, *options],
        capture_output=True,
        check=True,
        timeout=60,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_service_serves_what_the_twin_ranks_and_logs_what_was_seen(tmp_path: Path) -> None:
    arm = Arm("newest")
    twin = LocalPlatform(arm)
    visits: list[Visit] = []

    def watch(visit: Visit) -> None:
        again = twin.read(visit.user, visit.kind, visit.now_us, CONFIG.places)
        assert again.activities == visit.slate.activities
        visits.append(visit)

    with service_days(tmp_path, arm.config) as served:
        community = Community(CONFIG, Mirrored(served, twin), watch)
        for _ in range(CONFIG.days):
            community.step()
    assert {visit.day for visit in visits} == {0, 1}
    every_impression_is_a_place_of_a_logged_slate(tmp_path, twin, visits)


def every_impression_is_a_place_of_a_logged_slate(
    home: Path, twin: LocalPlatform, visits: list[Visit]
) -> None:
    for what in ("", "slates"):
        command(
            home,
            *filter(None, [what]),
            "export",
            "--tenant",
            "simulated",
            "--out",
            str(home / f"out{what}"),
        )
    events = load_events(home / "out", "simulated")
    assert len(events) == len(twin.events)
    slates = pd.read_parquet(home / "outslates" / "tenant=simulated")
    shown = events[events.type == "impression"]
    joined = shown.merge(slates, on=["slate_id", "position"], suffixes=("", "_served"))
    assert len(joined) == len(shown) > 0
    assert (joined.activity_id == joined.activity_id_served).all()
    assert (joined.user == joined.user_served).all()
    assert set(slates.slate_id) == {visit.slate.slate_id for visit in visits}


class Refusing(BaseHTTPRequestHandler):
    """A service that refuses."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b'{"detail": "this key is not known"}')

    def log_message(self, *_: object) -> None:
        """Nothing to say."""


def test_a_refusal_and_a_service_that_is_gone_are_told_in_a_sentence() -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    platform = ServicePlatform(f"http://127.0.0.1:{server.server_port}", "hw_wrong")
    with pytest.raises(SimulationError, match=r"was answered 401.*this key is not known"):
        platform.read(UserId("u1"), "personalized", 0, 5)
    thread.join()
    server.server_close()
    platform.close()
    with pytest.raises(SimulationError, match="the service does not answer"):
        platform.read(UserId("u1"), "personalized", 0, 5)


def test_a_directory_that_holds_a_community_is_not_begun_again(tmp_path: Path) -> None:
    command(tmp_path, "tenants", "create", "simulated")
    with (
        service_days(tmp_path, Arm("newest").config) as served,
        pytest.raises(SimulationError, match="exists"),
    ):
        served.begin(0)
