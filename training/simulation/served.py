"""A made-up community on a service that stays: to look at feeds, export, train, and live on."""

import atexit
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from ranking.config import RankingConfig
from training.errors import SimulationError
from training.service_frames import ServedTenant
from training.simulation.community import Community
from training.simulation.config import SimulationConfig
from training.simulation.service import ServiceConfig, ServiceDays, headwater
from training.sources.base import Progress, no_progress

__all__ = ["ServedCommunity"]


class ServedCommunity:
    """A `headwater serve` of its own on a free port, and the community that lives on it.

    `directory` gets the service's data and log; it must not hold a community yet. Between two
    calls of `live` the service goes on answering, at the evening of the last day. End it with
    `stop`, or use it as a context. Raises `SimulationError`.
    """

    def __init__(
        self,
        directory: Path | str,
        config: SimulationConfig | None = None,
        ranking: RankingConfig | None = None,
    ) -> None:
        self.directory = Path(directory).resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        service = ServiceConfig(log_candidates=True)
        self.tenant = service.tenant
        self._days = ServiceDays(self.directory, ranking or RankingConfig.default(), service)
        atexit.register(self.stop)  # a notebook that fails half-way must leave no service behind
        self._community = Community(config or SimulationConfig(), self._days)

    @property
    def registry(self) -> str:
        """The address of the service's model registry."""
        return f"mlflow+sqlite:///{self._data / 'registry' / 'mlflow.db'}"

    @property
    def users(self) -> tuple[str, ...]:
        """The members, in order of number."""
        return tuple(member.user for member in self._community.members)

    def live(
        self, days: int, *, model_version: int | None = None, progress: Progress = no_progress
    ) -> None:
        """Live through more days; with a `model_version`, which must be live, it ranks."""
        self._days.model_version = model_version
        for day in range(days):
            progress("living", day, days)
            self._community.step()
        progress("living", days, days)

    def client(self) -> ServedTenant:
        """The tenant as data frames, with a key that may read, write and change the ranking."""
        if not self._days.address:
            raise SimulationError("the service is not running: call live first")
        return ServedTenant(self._days.address, self._days.key)

    def export(self, what: Literal["events", "slates"], out: Path | str) -> Path:
        """Export all events or slates so far, as `headwater export` does; returns `out`."""
        command = ("export",) if what == "events" else ("slates", "export")
        done = subprocess.run(  # noqa: S603 (our own command)
            [
                *headwater(*command, "--tenant", self.tenant, "--out", str(out), "--json"),
                *("--data-dir", str(self._data)),
            ],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            told = (done.stdout or done.stderr).decode().strip()
            raise SimulationError(f"the {what} cannot be exported: {told}")
        return Path(out)

    def stop(self) -> None:
        """End the service; twice is harmless. It ends with this process at the latest."""
        atexit.unregister(self.stop)
        self._days.stop()

    @property
    def _data(self) -> Path:
        return self.directory / "data"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
