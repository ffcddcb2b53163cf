"""The platform over HTTP: a `headwater serve` of its own, or any service with a tenant's key.

A service ranks by its own clock. Here the clock is started anew for every simulated day, at the
evening, when the day's visits begin: one process a day, on one data directory. What the service
stamps itself is therefore right to the seconds that the day takes to be served: the time of a slate
and of a follow, and the ages in its features. Posts, impressions and engagements bring the
simulated times along. Ids of slates, and the seeds of exploration that derive from them, are the
service's own chance: where it explores, two simulations differ in what chance shows.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from feeds.actions import Follow, Post
from feeds.events import Engagement, Impression
from feeds.model import ActivityId, UserId, format_time
from ranking.candidates import FeedKind
from ranking.config import RankingConfig
from training.errors import SimulationError
from training.simulation.platform import ServedSlate

__all__ = ["ServiceConfig", "ServiceDays", "ServicePlatform", "headwater", "service_days"]

Json = dict[str, Any]  # Any: JSON


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """How the service of a simulation is started and called."""

    tenant: str = "simulated"
    """The tenant that is made for the community."""
    start_s_max: float = 60.0
    """Seconds that the service may take until it answers."""
    stop_s_max: float = 20.0
    """Seconds that it may take to end; then it is killed."""
    request_s_max: float = 30.0
    """Seconds that a reply may take."""
    ask_every_s: float = 0.05
    """Seconds between two looks whether it answers."""
    model_s_max: float = 60.0
    """Seconds that it may take to take up a model that was promoted."""
    log_candidates: bool = False
    """Whether the slate log holds the candidates too that were not shown."""


class ServicePlatform:
    """A service that answers at an address, called with a tenant's key; one connection.

    Raises `SimulationError` where it does not do what is asked, with its own words.
    """

    def __init__(self, address: str, key: str, timeout_s: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def begin(self, evening_us: int) -> None:
        """The service has a clock of its own, which nobody sets."""

    def post(self, post: Post) -> ActivityId:
        """Post an activity; returns its id."""
        group, _, feed = post.feed.partition(":")
        body = {
            "actor": post.actor,
            "verb": post.verb,
            "object": post.object,
            "foreign_id": post.foreign_id,
            "time": format_time(post.time_us),
            "to": list(post.to),
            **post.custom,
        }
        answer = self.call("POST", f"/v2/feeds/{group}/{feed}/activities", body)
        return ActivityId(answer["activity"]["id"])

    def follow(self, follow: Follow) -> None:
        """Let a feed follow another, as of the service's own time."""
        group, _, feed = follow.follower.partition(":")
        body = {"target": follow.target, "copy_limit": follow.copy_limit}
        self.call("POST", f"/v2/feeds/{group}/{feed}/follows", body)

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:  # noqa: ARG002 - the service's clock decides
        """The first page of a ranked feed, by what ranks for the tenant."""
        answer = self.call("GET", f"/v2/users/{user}/feeds/{kind}?limit={places}")
        shown = tuple(ActivityId(each["id"]) for each in answer["results"])
        return ServedSlate(answer["slate_id"], shown)

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        """Record what a member saw and did."""
        self.call("POST", "/v2/events", {"events": [_body(event) for event in events]})

    def activate(self, config: RankingConfig) -> None:
        """Let a ranking config rank the tenant's feeds from now on."""
        active = self.call("GET", "/v2/ranking-config")["version"]
        saved = self.call("POST", "/v2/ranking-configs", config.to_document())["version"]
        change = {"expected_version": active, "allow_empty": True}
        self.call("POST", f"/v2/ranking-configs/{saved}/activate", change)

    def call(self, method: str, target: str, body: Json | None = None) -> Json:
        """One request and its JSON; raises `SimulationError` where it fails."""
        content = None if body is None else json.dumps(body).encode()
        try:
            self._connection.request(method, target, content, self._headers)
            reply = self._connection.getresponse()
            text = reply.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise SimulationError(
                f"{method} {target}: the service does not answer ({error}); its log has the cause"
            ) from error
        if reply.status >= http.HTTPStatus.BAD_REQUEST:
            told = text[:500].decode(errors="replace")
            raise SimulationError(f"{method} {target} was answered {reply.status}: {told}")
        answer: Json = json.loads(text)
        return answer

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _body(event: Impression | Engagement) -> Json:
    body: Json = {
        "type": "impression",
        "user": event.user,
        "activity_id": event.activity_id,
        "time": format_time(event.time_us),
        "feed": event.feed,
        "position": event.position,
        "slate_id": event.slate_id,
    }
    if isinstance(event, Engagement):
        body |= {"type": "engagement", "kind": event.kind, "value": event.value}
    return body


class ServiceDays:
    """A service whose clock is set for every day, by starting it anew on its data directory.

    It answers at `address` to the tenant's `key`, both empty before the first day. Each day begins
    without a model, or, where `model_version` is set, once this live version is taken up.
    """

    def __init__(
        self, directory: Path, ranking: RankingConfig, config: ServiceConfig | None = None
    ) -> None:
        self.directory = directory
        self._config = config or ServiceConfig()
        self._ranking = ranking
        self.key = ""
        self.address = ""
        self.model_version: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._platform: ServicePlatform | None = None

    def begin(self, evening_us: int) -> None:
        """End the day before, and start the service with its clock at the evening."""
        first = not self.key
        if first:
            self.key = self._new_tenant()
        self.stop()
        self._platform = self._start(evening_us)
        if first:
            self._platform.activate(self._ranking)
        if self.model_version is not None:
            self._wait_for_model(self._platform, str(self.model_version))

    def post(self, post: Post) -> ActivityId:
        """As `ServicePlatform.post`."""
        return self._today.post(post)

    def follow(self, follow: Follow) -> None:
        """As `ServicePlatform.follow`."""
        self._today.follow(follow)

    def read(self, user: UserId, kind: FeedKind, now_us: int, places: int) -> ServedSlate:
        """As `ServicePlatform.read`."""
        return self._today.read(user, kind, now_us, places)

    def record(self, events: Sequence[Impression | Engagement]) -> None:
        """As `ServicePlatform.record`."""
        self._today.record(events)

    def stop(self) -> None:
        """End the service; twice is harmless."""
        if self._platform is not None:
            self._platform.close()
        process, self._process, self._platform = self._process, None, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(self._config.stop_s_max)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _today(self) -> ServicePlatform:
        if self._platform is None:
            raise SimulationError("the service is not running: begin a day first")
        return self._platform

    def _wait_for_model(self, platform: ServicePlatform, version: str) -> None:
        deadline_s = time.monotonic() + self._config.model_s_max
        while (found := platform.call("GET", "/v2/model")["version"]) != version:
            if time.monotonic() > deadline_s:
                raise SimulationError(
                    f"the service ranks with version {found or 'none'}, not {version}: promote it; "
                    f"its log is {self.directory / 'service.log'}"
                )
            time.sleep(self._config.ask_every_s)

    def _new_tenant(self) -> str:
        scopes = [word for scope in _SCOPES for word in ("--scope", scope)]
        command = headwater("tenants", "create", self._config.tenant, *scopes, "--json")
        done = subprocess.run(  # noqa: S603 (our own command)
            [*command, "--data-dir", str(self.directory / "data")],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SimulationError(
                f"the tenant cannot be made: {(done.stdout or done.stderr).decode().strip()}; "
                "name a new directory with --out"
            )
        return str(json.loads(done.stdout)["api_key"])

    def _start(self, evening_us: int) -> ServicePlatform:
        address_file, log = self.directory / "address", self.directory / "service.log"
        address_file.unlink(missing_ok=True)
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 (our own command)
                [
                    *headwater("serve", "--port", "0"),
                    "--no-loader" if self.model_version is None else "--loader",
                    *("--data-dir", str(self.directory / "data")),
                    *("--clock-start", format_time(evening_us)),
                    *("--address-file", str(address_file)),
                ],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ
                | {
                    # Members come back the next evening, when the service has long forgotten.
                    "HEADWATER_SERVED_MAX": "0",
                    "HEADWATER_SLATE_LOG_CANDIDATES": str(self._config.log_candidates),
                },
            )
        deadline_s = time.monotonic() + self._config.start_s_max
        while time.monotonic() < deadline_s and self._process.poll() is None:
            if address_file.exists() and (address := address_file.read_text()).endswith("\n"):
                self.address = address.strip()
                return ServicePlatform(self.address, self.key, self._config.request_s_max)
            time.sleep(self._config.ask_every_s)
        raise SimulationError(f"the service did not start: its log is {log}")


@contextlib.contextmanager
def service_days(
    directory: Path, ranking: RankingConfig, config: ServiceConfig | None = None
) -> Iterator[ServiceDays]:
    """A service for a community, ended with the block; `directory` keeps its data and its log."""
    directory.mkdir(parents=True, exist_ok=True)
    days = ServiceDays(directory, ranking, config)
    try:
        yield days
    finally:
        days.stop()


def headwater(*arguments: str) -> list[str]:
    """The `headwater` command with these arguments, to be run as a process."""
    return [sys.executable, "-m", _PROGRAM, *arguments]


_SCOPES: Final = ("read", "write", "admin")
"""What the key of a simulation may do: an admin says how feeds are ranked."""

_PROGRAM: Final = "serving"
"""The `headwater` command as a module: it is started, not imported."""
