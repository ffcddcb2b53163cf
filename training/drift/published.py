"""Drift of published versions: of one, or of every tenant's live one, again and again."""

import contextlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from feeds.model import TenantId, check_tenant_id
from ranking.bundle import ModelBundle
from ranking.files import replace_file
from ranking.registry import Alias, ModelRegistry, ModelVersion, open_registry
from training.drift.histograms import HISTOGRAMS, TrainingHistograms
from training.drift.measure import DriftConfig, DriftReport, Learnt, measure_drift, slate_files
from training.drift.metrics import exposition
from training.errors import TOLD
from training.flow import find_version
from training.sources.base import Progress, no_progress

__all__ = ["DriftWatch", "drift_of"]


def drift_of(
    slates: Path | str,
    tenant: str,
    version: int | Alias = "live",
    *,
    registry: str,
    config: DriftConfig | None = None,
) -> DriftReport:
    """What the last day of exported slates has drifted from what a published version learnt from.

    Raises `ModelNotFound`, or `TrainingError` where there are no slates.
    """
    name = check_tenant_id(tenant)
    with contextlib.closing(open_registry(registry)) as opened:
        learnt = _learnt(opened, find_version(opened, name, version))
    return measure_drift(slates, tenant, learnt, config or DriftConfig())


def _learnt(registry: ModelRegistry, version: ModelVersion) -> Learnt:
    document = registry.documents(version).get(HISTOGRAMS)
    with tempfile.TemporaryDirectory(prefix="headwater-drift-") as temporary:
        bundle = ModelBundle.load(registry.fetch(version, Path(temporary) / "bundle"))
    return Learnt(
        version=version.version,
        trained_us=bundle.trained_us,
        histograms=None if document is None else TrainingHistograms.from_json(document),
    )


@dataclass(slots=True)
class DriftWatch:
    """Keeps a file of metrics with the drift of every tenant's live version.

    A tenant is measured anew where its live version or its exported slates are others than before.
    """

    slates: Path
    registry: str
    metrics_file: Path
    config: DriftConfig = field(default_factory=DriftConfig)
    _known: dict[TenantId, tuple[tuple[int, list[Path]], DriftReport]] = field(default_factory=dict)

    def look(
        self, tenants: Sequence[TenantId], progress: Progress = no_progress
    ) -> dict[TenantId, str]:
        """Write the file, and say of which tenants no drift could be measured, and why.

        Raises `RankingError` where the registry cannot be reached.
        """
        reports, failed = [], {}
        with contextlib.closing(open_registry(self.registry)) as opened:
            for number, tenant in enumerate(tenants):
                progress(f"drift of {tenant}", number, len(tenants))
                try:
                    reports.append(self._one(opened, tenant))
                except TOLD as error:
                    self._known.pop(tenant, None)
                    failed[tenant] = str(error)
        replace_file(self.metrics_file, exposition(reports, list(failed)).encode())
        return failed

    def _one(self, registry: ModelRegistry, tenant: TenantId) -> DriftReport:
        live = find_version(registry, tenant, "live")
        state = live.version, slate_files(self.slates, tenant)
        known = self._known.get(tenant)
        if known is None or known[0] != state:
            report = measure_drift(self.slates, tenant, _learnt(registry, live), self.config)
            known = self._known[tenant] = state, report
        return known[1]
