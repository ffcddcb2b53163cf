"""Who may become live: a version that passed the gates against what is live now.

A person may promote another one by giving a reason, which is kept with the version.
"""

from typing import Final

import msgspec

from feeds.model import TenantId
from ranking.registry import ModelRegistry, ModelVersion
from training.errors import GatesFailed, TrainingError
from training.gates.verdicts import GATES, GateReport

__all__ = ["FORCED", "gates_of", "promote_version"]

FORCED: Final = "promoted_by_force.json"
"""The document of a version that holds why it was made live without passing the gates."""

REASON_CHARS_MAX: Final = 1_000
"""Characters of such a reason."""


class Forced(msgspec.Struct, frozen=True):
    """Why a version was made live without the gates' consent, and what they had said."""

    reason: str
    gates: str


def gates_of(registry: ModelRegistry, version: ModelVersion) -> GateReport | None:
    """What the gates last said of a version; None where it never came before them."""
    document = registry.documents(version).get(GATES)
    try:
        return None if document is None else GateReport.from_json(document)
    except msgspec.MsgspecError as error:
        raise TrainingError(
            f"{GATES} of version {version.version} cannot be read ({error}): gate it again"
        ) from error


def promote_version(
    registry: ModelRegistry,
    tenant: TenantId,
    version: ModelVersion,
    *,
    expected: int | None = None,
    force: str = "",
) -> ModelVersion:
    """Make a version live if it passed the gates against what is live now.

    With `force`, a reason, it is made live whatever the gates say, and the reason is kept. With
    `expected`, only if that version is live (0: none). Raises `GatesFailed` with what to do, or
    `AliasConflict`; nothing moved then.
    """
    if len(force) > REASON_CHARS_MAX:
        raise TrainingError(f"a reason has at most {REASON_CHARS_MAX} characters")
    live = registry.alias(tenant, "live")
    now = live.version if live else 0
    if now == version.version:
        return registry.promote(tenant, version.version, expected)
    refusal = _refusal(gates_of(registry, version), version, now)
    if refusal and not force:
        raise GatesFailed(refusal)
    promoted = registry.promote(tenant, version.version, now if expected is None else expected)
    if refusal:
        forced = msgspec.json.encode(Forced(force, refusal))
        registry.attach(version, {FORCED: forced})
    return promoted


def _refusal(report: GateReport | None, version: ModelVersion, live: int) -> str:
    """Why a version may not become live, and what to do; empty if it may."""
    tenant, number = version.tenant, version.version
    again = (
        f"`headwater models gate {tenant} {number} --events DIR` judges it, and "
        "`headwater models promote ... --force REASON` makes it live all the same"
    )
    if report is None or report.digest != version.digest:
        return f"version {number} of {tenant} did not come before the gates: {again}"
    if report.live != live:
        against = f"version {report.live}" if report.live else "no version"
        now = f"version {live} is" if live else "none is"
        return (
            f"version {number} of {tenant} was judged when {against} was live, and now {now}: "
            f"{again}"
        )
    if not report.passed:
        return f"version {number} of {tenant}: {report.sentence} {again}"
    return ""
