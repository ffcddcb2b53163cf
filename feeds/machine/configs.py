"""Ranking configs: versions that are saved, and the one that is active. What they say is not read.

Activation compares and sets: who activates names the version that was active when they looked, so
nobody undoes a change that they have not seen. Rolling back is activating the former version.
"""

from collections.abc import Sequence

from feeds.commands import ActivateVersion, SaveVersion
from feeds.keys import RankingConfigKey, RankingConfigsKey
from feeds.machine.changes import Changes
from feeds.results import ConfigActivated, ConfigSaved, Rejected
from feeds.store.base import View
from feeds.values import RankingConfigs, SavedVersion, decode_ranking_configs, encode

__all__ = ["activate_config", "save_config"]


def save_config(command: SaveVersion, changes: Changes, view: View) -> ConfigSaved:
    """Write the document as the next version, and let the oldest go where there are too many."""
    configs = _configs(changes.tenant, view)
    version = configs.last + 1
    saved = SavedVersion(version, command.now_us, changes.index, len(command.document))
    kept = _kept([*configs.saved, saved], configs, command.versions_max)
    changes.put("config", RankingConfigKey(changes.tenant, version).encode(), command.document)
    for gone in configs.saved:
        if gone not in kept:
            changes.delete("config", RankingConfigKey(changes.tenant, gone.version).encode())
    _write(
        RankingConfigs(configs.active, configs.previous, configs.activated_us, version, kept),
        changes,
    )
    return ConfigSaved(changes.index, version)


def activate_config(
    command: ActivateVersion, changes: Changes, view: View
) -> ConfigActivated | Rejected:
    """Write which version is active, if the one that is expected was."""
    configs = _configs(changes.tenant, view)
    version, active = command.version, configs.active
    if active != command.expected:
        return Rejected(
            "conflict",
            f"{_named(active)} is active, not {_named(command.expected)} as expected: somebody was "
            f"faster; look at what ranks now, then activate with expected_version {active}",
        )
    if version and all(saved.version != version for saved in configs.saved):
        return Rejected(
            "unknown",
            f"ranking config version {version} is not kept: of {len(configs.saved)} versions the "
            f"newest is {configs.last}, and 0 is the default",
        )
    if version == active:
        return ConfigActivated(changes.index, active, configs.previous)
    _write(
        RankingConfigs(version, active, command.now_us, configs.last, configs.saved),
        changes,
    )
    return ConfigActivated(changes.index, version, active)


def _configs(tenant: str, view: View) -> RankingConfigs:
    data = view.get("config", RankingConfigsKey(tenant).encode())
    return decode_ranking_configs(data) if data else RankingConfigs()


def _kept(
    saved: Sequence[SavedVersion], configs: RankingConfigs, versions_max: int
) -> tuple[SavedVersion, ...]:
    """The newest versions with the one just saved, the active one and the one before that."""
    spared = {configs.active, configs.previous, saved[-1].version}
    surplus = len(saved) - versions_max
    kept = []
    for one in saved:
        if surplus > 0 and one.version not in spared:
            surplus -= 1
        else:
            kept.append(one)
    return tuple(kept)


def _write(configs: RankingConfigs, changes: Changes) -> None:
    changes.of_tenant = True
    changes.put("config", RankingConfigsKey(changes.tenant).encode(), encode(configs))


def _named(version: int) -> str:
    return f"version {version}" if version else "the default (version 0)"
