"""The model registry on MLflow with SQLite, without a server. The only importer of mlflow (3 s).

Each tenant has an experiment and a registered model named `<tenant>.ranker`. A published version is
a run with the bundle as plain files, its metrics and notes, and a model version that points at
them; the version's tag `headwater.version` holds the same record as a directory registry does.
Nothing is pickled, and no "flavor" of MLflow is involved: a bundle loads without MLflow.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from feeds.model import TenantId, check_tenant_id
from ranking.errors import ModelNotFound, RegistryUnavailable
from ranking.files import copy_files, locked, whole_directory
from ranking.registry import (
    Alias,
    ModelVersion,
    check_fetched,
    check_published,
    known_aliases,
    promoted,
    rolled_back,
    shadowed,
    wall_clock_us,
)

# MLflow looks at this when it is imported: without it, a thread sends usage data to its makers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = ["MlflowRegistry"]

_SCHEME: Final = "sqlite:///"
_SUFFIX: Final = ".ranker"
_TAG: Final = "headwater.version"
_BUNDLE: Final = "bundle"
_PAGE: Final = 100
_ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_METRIC_NAME: Final = re.compile(r"[^\w./: -]")


class MlflowRegistry:
    """A registry in an SQLite file, `sqlite:///FILE`, with the bundles in `artifacts` beside it.

    MLflow cannot compare and set an alias: a lock file, `FILE.lock`, lets writers take turns. Who
    moves aliases in MLflow's own interface at the same moment may be overwritten.
    """

    def __init__(self, tracking_uri: str, clock: Callable[[], int] = wall_clock_us) -> None:
        if not tracking_uri.startswith(_SCHEME):
            raise RegistryUnavailable(
                f"{tracking_uri!r} is not an MLflow store of ours: write sqlite:///FILE"
            )
        self._file = Path(tracking_uri.removeprefix(_SCHEME)).absolute()
        self._clock = clock
        uri = f"{_SCHEME}{self._file}"
        with _reached(self._file), self._locked(), _quiet():  # one process alone makes the tables
            self._client = MlflowClient(uri, uri)
            self._client.search_registered_models(max_results=1)

    def tenants(self) -> list[TenantId]:
        """The tenants with a published version, in order of their names."""
        with _reached(self._file):
            models = list(_pages(self._client.search_registered_models))
        names = [model.name for model in models if model.latest_versions]
        return sorted(TenantId(name.removesuffix(_SUFFIX)) for name in names if _is_ours(name))

    def publish(self, tenant: TenantId, bundle: Path, notes: str = "") -> ModelVersion:
        """See `ModelRegistry.publish`; the run holds metrics and notes besides the bundle."""
        published = check_published(tenant, bundle, notes)
        record = ModelVersion(
            tenant=tenant,
            version=0,  # MLflow gives it
            kind=published.kind,
            digest=published.digest,
            published_us=self._clock(),
            notes=notes,
            metrics=dict(published.metrics),
        )
        with _reached(self._file), self._locked():
            run = self._log_run(record, bundle)
            self._create_model(tenant)
            created = self._client.create_model_version(
                _model(tenant),
                source=f"runs:/{run}/{_BUNDLE}",
                run_id=run,
                tags={_TAG: msgspec.json.encode(record).decode()},
                description=notes or None,
            )
        return msgspec.structs.replace(record, version=int(created.version))

    def versions(self, tenant: TenantId) -> list[ModelVersion]:
        """See `ModelRegistry.versions`; those that other tools registered are left out."""
        wanted = f"name='{_model(tenant)}'"
        with _reached(self._file):
            found = list(_pages(self._client.search_model_versions, filter_string=wanted))
        ours = [_version_of(each) for each in found if _TAG in each.tags]
        return sorted(ours, key=lambda version: -version.version)

    def alias(self, tenant: TenantId, name: Alias) -> ModelVersion | None:
        """See `ModelRegistry.alias`; about 2 ms."""
        with _reached(self._file):
            try:
                return _version_of(self._client.get_model_version_by_alias(_model(tenant), name))
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise

    def aliases(self) -> dict[TenantId, Mapping[Alias, int] | None]:
        """See `ModelRegistry.aliases`; 0.3 ms a tenant."""
        with _reached(self._file):
            models = list(_pages(self._client.search_registered_models))
        return {
            TenantId(model.name.removesuffix(_SUFFIX)): known_aliases(_numbers(model.aliases))
            for model in models
            if model.latest_versions and _is_ours(model.name)
        }

    def promote(self, tenant: TenantId, version: int, expected: int | None = None) -> ModelVersion:
        """See `ModelRegistry.promote`."""
        wanted = self._version(tenant, version)
        with _reached(self._file), self._locked():
            aliases = self._aliases(tenant)
            self._set_aliases(tenant, aliases, promoted(aliases, version, expected))
        return wanted

    def roll_back(self, tenant: TenantId) -> ModelVersion:
        """See `ModelRegistry.roll_back`."""
        with _reached(self._file), self._locked():
            before = self._aliases(tenant)
            after = rolled_back(before, tenant)
            self._set_aliases(tenant, before, after)
        return self._version(tenant, after["live"])

    def set_shadow(self, tenant: TenantId, version: int | None) -> ModelVersion | None:
        """See `ModelRegistry.set_shadow`."""
        wanted = None if version is None else self._version(tenant, version)
        with _reached(self._file), self._locked():
            before = self._aliases(tenant)
            self._set_aliases(tenant, before, shadowed(before, version))
        return wanted

    def fetch(self, version: ModelVersion, directory: Path) -> Path:
        """See `ModelRegistry.fetch`."""
        run = self._run_of(version)
        with whole_directory(directory) as draft, _reached(self._file):
            source = Path(self._client.download_artifacts(run, _BUNDLE))  # where it lies, no copy
            copy_files(source, draft)
            check_fetched(version, draft)
        return directory

    def close(self) -> None:
        """Close the connections to SQLite."""
        # MLflow has no public way; a store that is used again afterwards opens new connections.
        self._client._tracking_client.store.engine.dispose()  # noqa: SLF001
        self._client._get_registry_client().store.engine.dispose()  # noqa: SLF001

    def _locked(self) -> AbstractContextManager[None]:
        return locked(self._file.with_name(f"{self._file.name}.lock"))

    def _log_run(self, record: ModelVersion, bundle: Path) -> str:
        """A finished run with the bundle's files, metrics and notes; returns its id."""
        at_ms = record.published_us // 1_000
        tags = {"mlflow.note.content": record.notes, "headwater.digest": record.digest}
        run: str = self._client.create_run(
            self._experiment(record.tenant), start_time=at_ms, tags=tags
        ).info.run_id
        self._client.log_artifacts(run, str(bundle), _BUNDLE)
        for name, value in record.metrics.items():
            logged = _METRIC_NAME.sub("_", name.replace("@", "_at_"))
            self._client.log_metric(run, logged, value, timestamp=at_ms)
        self._client.set_terminated(run, end_time=at_ms)
        return run

    def _experiment(self, tenant: TenantId) -> str:
        name = _model(tenant)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = self._file.parent / "artifacts" / tenant
        return str(self._client.create_experiment(name, artifact_location=artifacts.as_uri()))

    def _create_model(self, tenant: TenantId) -> None:
        try:
            self._client.create_registered_model(_model(tenant))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _get(self, tenant: TenantId, number: int) -> Any:  # Any: mlflow is untyped here
        with _reached(self._file):
            try:
                return self._client.get_model_version(_model(tenant), str(number))
            except MlflowException as error:
                if error.error_code not in _ABSENT:
                    raise
        known = ", ".join(str(each.version) for each in self.versions(tenant)[:10]) or "none"
        raise ModelNotFound(f"tenant {tenant} has no version {number}: the latest are {known}")

    def _version(self, tenant: TenantId, number: int) -> ModelVersion:
        return _version_of(self._get(tenant, number))

    def _run_of(self, version: ModelVersion) -> str:
        return str(self._get(version.tenant, version.version).run_id)

    def _aliases(self, tenant: TenantId) -> dict[str, int]:
        try:
            aliases = self._client.get_registered_model(_model(tenant)).aliases
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return {}
            raise
        return _numbers(aliases)

    def _set_aliases(
        self, tenant: TenantId, before: Mapping[str, int], after: Mapping[str, int]
    ) -> None:
        # In order of names reversed: `previous` before `live`, so that a kill between leaves live.
        for name in sorted(after, reverse=True):
            if before.get(name) != after[name]:
                self._client.set_registered_model_alias(_model(tenant), name, str(after[name]))
        for name in before.keys() - after.keys():
            self._client.delete_registered_model_alias(_model(tenant), name)


def _model(tenant: TenantId) -> str:
    return f"{check_tenant_id(tenant)}{_SUFFIX}"


def _numbers(aliases: Mapping[str, str]) -> dict[str, int]:
    return {name: int(version) for name, version in aliases.items()}


def _is_ours(name: str) -> bool:
    return name.endswith(_SUFFIX)


def _version_of(found: Any) -> ModelVersion:  # Any: mlflow is untyped here
    """Our record of a model version; raises `ModelNotFound` for one that other tools registered."""
    tag = found.tags.get(_TAG)
    if tag is None:
        raise ModelNotFound(
            f"version {found.version} of {found.name} was not published by headwater: "
            "publish a bundle, and promote that"
        )
    record = msgspec.json.decode(tag, type=ModelVersion)
    return msgspec.structs.replace(record, version=int(found.version))


def _pages(search: Callable[..., Any], **arguments: str) -> Iterator[Any]:  # Any: mlflow's own
    """Everything that a paged search of MLflow finds."""
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def _reached(file: Path) -> Iterator[None]:
    """Translate what MLflow and SQLite raise."""
    try:
        yield
    except FileExistsError:
        raise
    except (MlflowException, SQLAlchemyError, msgspec.MsgspecError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryUnavailable(
            f"the MLflow registry {file} cannot be read or written ({reason}): check the file, the "
            "disk and its rights, then try again"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow's report of its tables out of our log, and one warning about its own code."""
    loggers = [logging.getLogger(name) for name in ("mlflow.store.db.utils", "alembic")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # MLflow 3.17 uses `noload`, which SQLAlchemy 2.1 deprecates.
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy", DeprecationWarning)
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
