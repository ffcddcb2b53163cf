"""Each tenant's metrics, in bounded space: for operators alone, at `GET /metrics/tenants`.

A tenant that asks has a place while there is one, and keeps it until it has asked nothing for
`idle_s`; who finds no place is counted as `_other`, which no tenant can be called. So labels are
bounded, whoever comes and goes, and nobody pushes an active tenant out.

Prometheus's own files for many processes keep every label for ever. So each worker saves its
numbers as one file of its own, replaced as a whole: a scrape of any worker adds up all files, and
a worker in another's place goes on counting.
"""

import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from feeds.model import TenantId
from serving.current_request import CurrentRequest
from serving.exposition import Family, Sample, exposition

__all__ = ["OTHER", "TENANT_FAMILIES", "TenantMetrics", "render"]

OTHER: Final = "_other"
"""The label of all tenants that have no place."""

SECONDS: Final = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
"""Upper bounds of a tenant's latency histogram, seconds: half as many as of the service's."""

_ABOVE: Final = (*map(repr, SECONDS), "+Inf")

REQUESTS: Final = Family(
    "headwater_tenant_requests",
    "counter",
    ("tenant", "status"),
    "Requests answered, by the first digit of the status.",
)
REQUEST_SECONDS: Final = Family(
    "headwater_tenant_request_seconds",
    "histogram",
    ("tenant",),
    "Seconds from a request's head to its last byte.",
)
RANKED_READS: Final = Family(
    "headwater_tenant_ranked_reads",
    "counter",
    ("tenant", "kind", "outcome"),
    "Slates made, by how: as `headwater_ranked_reads`.",
)
STAGE_SECONDS: Final = Family(
    "headwater_tenant_stage_seconds",
    "summary",
    ("tenant", "stage"),
    "Seconds in one stage of a ranked read, or in the write of a command.",
)
EVENTS: Final = Family(
    "headwater_tenant_events", "counter", ("tenant",), "Impressions and engagements recorded."
)
TENANT_FAMILIES: Final = (REQUESTS, REQUEST_SECONDS, RANKED_READS, STAGE_SECONDS, EVENTS)
"""Every metric of a tenant."""

Series = tuple[str, ...]
"""What is counted: a short name of the family, and the labels but the tenant."""

Counts = dict[Series, float]


class _Saved(msgspec.Struct, array_like=True):
    """A tenant's numbers in a worker's file."""

    tenant: str
    counts: list[tuple[Series, float]]


_decoder = msgspec.msgpack.Decoder(list[_Saved])


class _Place:
    """What is counted of a tenant, and when it last asked."""

    __slots__ = ("counts", "used_s")

    def __init__(self, used_s: float, counts: Counts | None = None) -> None:
        self.used_s = used_s
        self.counts: Counts = {} if counts is None else counts


class TenantMetrics:
    """Counts by tenant. `note` and `save` belong to one event loop, `render` to any thread."""

    def __init__(
        self,
        tenants_max: int,
        idle_s: float,
        file: Path | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """At most `tenants_max` tenants have a place, each until it was idle for `idle_s`.

        `file` is this worker's, in the directory that all workers share: what it holds is gone on
        with. None where there is one process.
        """
        self._tenants_max = tenants_max
        self._idle_s = idle_s
        self._file = file
        self._monotonic = monotonic
        self._places: OrderedDict[str, _Place] = OrderedDict()  # who asked longest ago is first
        self._other = _Place(monotonic())
        self._changed = False
        if file is not None and file.exists():
            self._load(file)

    def note(self, request: CurrentRequest, status: int, seconds: float) -> None:
        """Count a request of a tenant, and what it did; some 2 us."""
        assert request.tenant is not None
        counts = self._counts(request.tenant)
        self._changed = True
        _add(counts, ("requests", f"{status // 100}xx"), 1)
        _add(counts, ("seconds", _ABOVE[bisect_left(SECONDS, seconds)]), 1)
        _add(counts, ("seconds_sum",), seconds)
        for step in request.steps:
            if step.outcome:
                _add(counts, ("ranked", step.kind, step.outcome), 1)
            for stage, time_us in step.stages_us.items():
                _add(counts, ("stage", stage), 1)
                _add(counts, ("stage_sum", stage), time_us / 1e6)
        if request.events:
            _add(counts, ("events",), request.events)

    def forget(self, tenant: TenantId) -> None:
        """The tenant was deleted: tell of it no more, as soon as every worker has saved."""
        if self._places.pop(tenant, None) is not None:
            self._changed = True

    def tenants(self) -> list[TenantId]:
        """The tenants that have a place."""
        return [TenantId(tenant) for tenant in self._places]

    def save(self) -> None:
        """Write this worker's file anew, if anything was counted since; half a millisecond."""
        self._let_go(self._monotonic())
        if self._file is None or not self._changed:
            return
        saved = [_Saved(tenant, list(counts.items())) for tenant, counts in self._numbers()]
        draft = self._file.with_suffix(".draft")
        draft.write_bytes(msgspec.msgpack.encode(saved))
        draft.replace(self._file)
        self._changed = False

    def gather(self) -> Mapping[str, Counts]:
        """The numbers of all workers by tenant, for `render`; they never fall between two calls."""
        self.save()
        if self._file is None:
            return {tenant: dict(counts) for tenant, counts in self._numbers()}
        found: dict[str, Counts] = {}
        for path in sorted(self._file.parent.glob(f"*{self._file.suffix}")):
            for saved in _decoder.decode(path.read_bytes()):
                counts = found.setdefault(saved.tenant, {})
                for series, value in saved.counts:
                    _add(counts, series, value)
        return found

    def _counts(self, tenant: str) -> Counts:
        now_s = self._monotonic()
        self._let_go(now_s)
        place = self._places.get(tenant)
        if place is not None:
            self._places.move_to_end(tenant)
        elif len(self._places) < self._tenants_max:
            place = self._places[tenant] = _Place(now_s)
        else:
            place = self._other
        place.used_s = now_s
        return place.counts

    def _let_go(self, now_s: float) -> None:
        """Free the places of tenants that were idle for too long."""
        while self._places:
            tenant = next(iter(self._places))
            if now_s - self._places[tenant].used_s <= self._idle_s:
                return
            del self._places[tenant]
            self._changed = True

    def _numbers(self) -> Iterator[tuple[str, Counts]]:
        for tenant, place in self._places.items():
            yield tenant, place.counts
        if self._other.counts:
            yield OTHER, self._other.counts

    def _load(self, file: Path) -> None:
        now_s = self._monotonic()
        for saved in _decoder.decode(file.read_bytes()):
            place = _Place(now_s, dict(saved.counts))
            if saved.tenant == OTHER:
                self._other = place
            else:
                self._places[saved.tenant] = place


def render(found: Mapping[str, Counts]) -> bytes:
    """What `TenantMetrics.gather` found, in Prometheus's text format."""
    return exposition((family, _samples(family, found)) for family in TENANT_FAMILIES)


def _add(counts: Counts, series: Series, value: float) -> None:
    counts[series] = counts.get(series, 0) + value


def _samples(family: Family, found: Mapping[str, Counts]) -> Iterable[Sample]:
    for tenant, counts in sorted(found.items()):
        if family is REQUEST_SECONDS:
            yield from _histogram(tenant, counts)
            continue
        for (name, *values), value in sorted(counts.items()):
            if (known := _SUFFIXES.get(name)) is not None and known[0] is family:
                labels = dict(zip(family.labels, (tenant, *values), strict=True))
                yield Sample(labels, value, known[1])


_SUFFIXES: Final = {
    "requests": (REQUESTS, "_total"),
    "ranked": (RANKED_READS, "_total"),
    "stage": (STAGE_SECONDS, "_count"),
    "stage_sum": (STAGE_SECONDS, "_sum"),
    "events": (EVENTS, "_total"),
}


def _histogram(tenant: str, counts: Counts) -> Iterable[Sample]:
    total = 0.0
    for above in _ABOVE:
        total += counts.get(("seconds", above), 0)
        yield Sample({"tenant": tenant, "le": above}, total, "_bucket")
    yield Sample({"tenant": tenant}, total, "_count")
    yield Sample({"tenant": tenant}, counts.get(("seconds_sum",), 0.0), "_sum")
