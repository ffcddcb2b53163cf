"""The model registry on MLflow, without a server. The only importer of mlflow (3 s).

Each tenant has an experiment and a registered model named `<tenant>.ranker`. A published version is
a run with the bundle and its documents as plain files, its metrics and notes, and a model version
that points at them; the version's tag `headwater.version` holds the same record as a directory
registry does. Nothing is pickled, and no "flavor" of MLflow is involved: a bundle loads without
MLflow.

A run is finished once it has its version. One that never got any is deleted with its files: by the
publishing that failed, or where that could not, by a later one of the tenant.
"""

import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
from sqlalchemy.exc import SQLAlchemyError

from feeds.model import TenantId, check_tenant_id
from feeds.training_time import TrainedHours, with_time
from ranking.artifacts import fetch_files, put_files, read_files_of, remove_files
from ranking.documents import DOCUMENT_BYTES_MAX, check_documents
from ranking.errors import ModelNotFound, RegistryUnavailable
from ranking.files import whole_directory
from ranking.registry import (
    POLICIES,
    Alias,
    ModelVersion,
    Policy,
    check_fetched,
    check_published,
    known_aliases,
    promoted,
    rolled_back,
    shadowed,
    wall_clock_us,
)
from ranking.registry_database import Database, open_database

# MLflow looks at this when it is imported: without it, a thread sends usage data to its makers.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

__all__ = ["MlflowRegistry"]

_SUFFIX: Final = ".ranker"
_TAG: Final = "headwater.version"
_POLICY: Final = "headwater.policy"
_TRAINED: Final = "headwater.trained_hours"
_BUNDLE: Final = "bundle"
_DOCUMENTS: Final = "documents"
_NONE: Final[Mapping[str, bytes]] = MappingProxyType({})
_PAGE: Final = 100
_ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
_METRIC_NAME: Final = re.compile(r"[^\w./: -]")
_DIGEST: Final = "headwater.digest"
_FAILURES: Final = (MlflowException, SQLAlchemyError, OSError)
_UNFINISHED: Final = f"attributes.status != 'FINISHED' and tags.`{_DIGEST}` LIKE '%'"
_SWEPT_AGE_US: Final = 3_600_000_000
"""Age from which on an unfinished run is looked at: whoever publishes now holds the lock, unless
the connection with it was lost."""
_SWEPT_MAX: Final = 20
"""Unfinished runs that one publishing looks at."""


class MlflowRegistry:
    """A registry in a database, with the files at an address of fsspec; `open_database` has both.

    MLflow cannot compare and set an alias: writers take turns by a lock of the database. Who
    moves aliases in MLflow's own interface at the same moment may be overwritten.
    """

    def __init__(self, address: str, clock: Callable[[], int] = wall_clock_us) -> None:
        self._database = open_database(address)
        self._clock = clock
        with self._reached():
            self._database.reach()  # MLflow itself would try again for minutes
            with self._database.locked(), _quiet():  # one process alone makes the tables
                self._client = MlflowClient(self._database.uri, self._database.uri)
                self._client.search_registered_models(max_results=1)

    def tenants(self) -> list[TenantId]:
        """The tenants with a published version, in order of their names."""
        with self._reached():
            models = list(_pages(self._client.search_registered_models))
        names = [model.name for model in models if model.latest_versions]
        return sorted(TenantId(name.removesuffix(_SUFFIX)) for name in names if _is_ours(name))

    def publish(
        self,
        tenant: TenantId,
        bundle: Path,
        notes: str = "",
        documents: Mapping[str, bytes] = _NONE,
    ) -> ModelVersion:
        """See `ModelRegistry.publish`; the run holds metrics and notes besides the files."""
        published = check_published(tenant, bundle, notes, documents)
        record = ModelVersion(
            tenant=tenant,
            version=0,  # MLflow gives it
            kind=published.kind,
            digest=published.digest,
            published_us=self._clock(),
            notes=notes,
            metrics=dict(published.metrics),
        )
        with self._reached(), self._database.locked():
            experiment = self._experiment(tenant)
            self._sweep(experiment, record.published_us)
            with self._run(experiment, record) as run:
                self._log_files(run, record, bundle, documents)
                self._create_model(tenant)
                created = self._client.create_model_version(
                    _model(tenant),
                    source=f"runs:/{run}/{_BUNDLE}",
                    run_id=run,
                    tags={_TAG: msgspec.json.encode(record).decode()},
                    description=notes or None,
                )
        return msgspec.structs.replace(record, version=int(created.version))

    def documents(self, version: ModelVersion) -> dict[str, bytes]:
        """See `ModelRegistry.documents`."""
        address = self._address(self._run_of(version), _DOCUMENTS)
        with self._reached():
            return read_files_of(address, DOCUMENT_BYTES_MAX)

    def attach(self, version: ModelVersion, documents: Mapping[str, bytes]) -> None:
        """See `ModelRegistry.attach`."""
        run = self._run_of(version)
        with self._reached(), self._database.locked():
            address = self._address(run, _DOCUMENTS)
            check_documents({**read_files_of(address, DOCUMENT_BYTES_MAX), **documents})
            put_files(address, documents)

    def policy(self, tenant: TenantId) -> Policy:
        """See `ModelRegistry.policy`."""
        with self._reached():
            found = self._tags(tenant).get(_POLICY)
        return next((policy for policy in POLICIES if policy == found), "by_hand")

    def set_policy(self, tenant: TenantId, policy: Policy) -> None:
        """See `ModelRegistry.set_policy`."""
        with self._reached(), self._database.locked():
            self._create_model(tenant)
            self._client.set_registered_model_tag(_model(tenant), _POLICY, policy)

    def trained_hours(self, tenant: TenantId) -> TrainedHours:
        """See `ModelRegistry.trained_hours`."""
        with self._reached():
            return _hours(self._tags(tenant))

    def add_trained(self, tenant: TenantId, at_us: int, seconds: float) -> None:
        """See `ModelRegistry.add_trained`."""
        with self._reached(), self._database.locked():
            self._create_model(tenant)
            hours = with_time(_hours(self._tags(tenant)), at_us, seconds)
            told = msgspec.json.encode(hours).decode()
            self._client.set_registered_model_tag(_model(tenant), _TRAINED, told)

    def all_trained_hours(self) -> dict[TenantId, TrainedHours]:
        """See `ModelRegistry.all_trained_hours`; 0.3 ms a tenant."""
        with self._reached():
            models = list(_pages(self._client.search_registered_models))
            return {
                TenantId(model.name.removesuffix(_SUFFIX)): _hours(model.tags)
                for model in models
                if _is_ours(model.name) and _TRAINED in model.tags
            }

    def versions(self, tenant: TenantId) -> list[ModelVersion]:
        """See `ModelRegistry.versions`; those that other tools registered are left out."""
        wanted = f"name='{_model(tenant)}'"
        with self._reached():
            found = list(_pages(self._client.search_model_versions, filter_string=wanted))
        ours = [_version_of(each) for each in found if _TAG in each.tags]
        return sorted(ours, key=lambda version: -version.version)

    def alias(self, tenant: TenantId, name: Alias) -> ModelVersion | None:
        """See `ModelRegistry.alias`; about 2 ms."""
        with self._reached():
            try:
                return _version_of(self._client.get_model_version_by_alias(_model(tenant), name))
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise

    def aliases(self) -> dict[TenantId, Mapping[Alias, int] | None]:
        """See `ModelRegistry.aliases`; 0.3 ms a tenant."""
        with self._reached():
            models = list(_pages(self._client.search_registered_models))
        return {
            TenantId(model.name.removesuffix(_SUFFIX)): known_aliases(_numbers(model.aliases))
            for model in models
            if model.latest_versions and _is_ours(model.name)
        }

    def promote(self, tenant: TenantId, version: int, expected: int | None = None) -> ModelVersion:
        """See `ModelRegistry.promote`."""
        wanted = self._version(tenant, version)
        with self._reached(), self._database.locked():
            aliases = self._aliases(tenant)
            self._set_aliases(tenant, aliases, promoted(aliases, version, expected))
        return wanted

    def roll_back(self, tenant: TenantId) -> ModelVersion:
        """See `ModelRegistry.roll_back`."""
        with self._reached(), self._database.locked():
            before = self._aliases(tenant)
            after = rolled_back(before, tenant)
            self._set_aliases(tenant, before, after)
        return self._version(tenant, after["live"])

    def set_shadow(self, tenant: TenantId, version: int | None) -> ModelVersion | None:
        """See `ModelRegistry.set_shadow`."""
        wanted = None if version is None else self._version(tenant, version)
        with self._reached(), self._database.locked():
            before = self._aliases(tenant)
            self._set_aliases(tenant, before, shadowed(before, version))
        return wanted

    def fetch(self, version: ModelVersion, directory: Path) -> Path:
        """See `ModelRegistry.fetch`."""
        run = self._run_of(version)
        with whole_directory(directory) as draft, self._reached():
            fetch_files(self._address(run, _BUNDLE), draft)
            check_fetched(version, draft)
        return directory

    def close(self) -> None:
        """Close the connections to the database."""
        # MLflow has no public way; a store that is used again afterwards opens new connections.
        self._client._tracking_client.store.engine.dispose()  # noqa: SLF001
        self._client._get_registry_client().store.engine.dispose()  # noqa: SLF001

    def _address(self, run: str, files: str) -> str:
        """Where files of a run lie."""
        return f"{self._client.get_run(run).info.artifact_uri.rstrip('/')}/{files}"

    @contextmanager
    def _run(self, experiment: str, record: ModelVersion) -> Iterator[str]:
        """The id of a run that is finished at the end, or gone where that is not reached."""
        at_ms = record.published_us // 1_000
        tags = {"mlflow.note.content": record.notes, _DIGEST: record.digest}
        run: str = self._client.create_run(experiment, start_time=at_ms, tags=tags).info.run_id
        try:
            yield run
        except BaseException:
            with suppress(*_FAILURES):  # what failed is told, and a later publishing settles it
                self._database.reach()  # MLflow itself would try again for minutes
                self._settle(run, at_ms)
            raise
        with suppress(*_FAILURES):  # its version is there: it is published
            self._client.set_terminated(run, end_time=at_ms)

    def _sweep(self, experiment: str, now_us: int) -> None:
        """Settle runs of ours that were not finished long ago, the oldest first."""
        until_ms = (now_us - _SWEPT_AGE_US) // 1_000
        unfinished = self._client.search_runs(
            [experiment],
            f"{_UNFINISHED} and attributes.start_time < {until_ms}",
            max_results=_SWEPT_MAX,
            order_by=["attributes.start_time ASC"],
        )
        for run in unfinished:
            with suppress(*_FAILURES):  # what is left over must not keep anyone from publishing
                self._settle(run.info.run_id, now_us // 1_000)

    def _settle(self, run: str, at_ms: int) -> None:
        """Finish a run that has its version; delete one that has none, the files first."""
        if self._client.search_model_versions(f"run_id='{run}'", max_results=1):
            self._client.set_terminated(run, end_time=at_ms)
            return
        files = self._client.get_run(run).info.artifact_uri
        if run in files:  # a directory of its own
            remove_files(files)
        self._client.set_terminated(run, status="FAILED", end_time=at_ms)
        self._client.delete_run(run)

    def _log_files(
        self, run: str, record: ModelVersion, bundle: Path, documents: Mapping[str, bytes]
    ) -> None:
        """The bundle's files, the documents and the metrics of a run."""
        bundled = {path.name: path.read_bytes() for path in sorted(bundle.iterdir())}
        put_files(self._address(run, _BUNDLE), bundled)
        put_files(self._address(run, _DOCUMENTS), documents)
        for name, value in record.metrics.items():
            logged = _METRIC_NAME.sub("_", name.replace("@", "_at_"))
            at_ms = record.published_us // 1_000
            self._client.log_metric(run, logged, value, timestamp=at_ms)

    def _experiment(self, tenant: TenantId) -> str:
        name = _model(tenant)
        found = self._client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        artifacts = f"{self._database.artifacts}/{tenant}"
        return str(self._client.create_experiment(name, artifact_location=artifacts))

    def _tags(self, tenant: TenantId) -> Mapping[str, str]:
        """What is noted of a tenant; nothing of one that is unknown."""
        try:
            tags: Mapping[str, str] = self._client.get_registered_model(_model(tenant)).tags
        except MlflowException as error:
            if error.error_code in _ABSENT:
                return {}
            raise
        return tags

    def _create_model(self, tenant: TenantId) -> None:
        try:
            self._client.create_registered_model(_model(tenant))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _get(self, tenant: TenantId, number: int) -> Any:  # Any: mlflow is untyped here
        with self._reached():
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

    @contextmanager
    def _reached(self) -> Iterator[None]:
        with _translated(self._database):
            yield

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


def _hours(tags: Mapping[str, str]) -> TrainedHours:
    return msgspec.json.decode(tags.get(_TRAINED, "{}"), type=dict[int, float])


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
def _translated(database: Database) -> Iterator[None]:
    """Translate what MLflow, the database and the file system raise."""
    try:
        yield
    except FileExistsError:
        raise
    except (*_FAILURES, msgspec.MsgspecError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RegistryUnavailable(
            f"the MLflow registry {database} cannot be read or written ({reason}): check the "
            "database, the place of its files and your rights to them, then try again"
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
