"""Where `headwater config` finds a tenant's ranking configs: an engine, or a service's API.

Both answer with the same JSON. Over the API a service checks and previews; an engine is written to
by this process, which checks documents itself and knows of no requests to preview.
"""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from feeds.engine import FeedEngine
from feeds.errors import Conflict, InvalidInput
from feeds.model import TenantId, format_time
from feeds.reader import StoreReader
from feeds.values import RankingConfigs
from ranking.config import RankingConfig
from serving.configs import read_config, write_config

__all__ = [
    "ApiConfigs",
    "ConfigAccess",
    "EngineConfigs",
    "RequestRefused",
    "describe_versions",
    "way_back",
]

TIMEOUT_S: Final = 60.0
"""Seconds that a service is given for one answer: a preview ranks some hundred times."""

REPLY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of a service's answer at most."""

Json = dict[str, Any]  # Any: JSON

_CONNECTIONS: Final[Mapping[str, type[http.client.HTTPConnection]]] = MappingProxyType(
    {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
)


class RequestRefused(Exception):
    """A service did not do what it was asked for; `problems` are those of a document."""

    def __init__(self, sentence: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(sentence)
        self.problems = problems


class ConfigAccess(Protocol):
    """A tenant's ranking configs, as JSON; raises the errors of the engine, or `RequestRefused`."""

    def versions(self) -> Json:
        """`active`, `previous`, and the `versions` that are kept, the newest first."""
        ...

    def read(self, version: int) -> Json:
        """The `document` of a `version`."""
        ...

    def save(self, document: Json) -> Json:
        """The `version` that a document was saved as."""
        ...

    def activate(self, version: int, expected: int, *, allow_empty: bool) -> Json:
        """The `version` that is active now, and the `previous` one."""
        ...

    def roll_back(self, expected: int | None) -> Json:
        """As `activate`, of the version that was active before."""
        ...


def describe_versions(configs: RankingConfigs) -> Json:
    """Which versions there are, as the API tells it."""
    listed = [
        {"version": one.version, "saved": format_time(one.saved_us), "bytes": one.length}
        for one in reversed(configs.saved)
    ]
    return {"active": configs.active, "previous": configs.previous, "versions": listed}


@dataclass(frozen=True, slots=True)
class EngineConfigs:
    """Those of a tenant in an engine; one that only reads cannot write."""

    reader: StoreReader
    tenant: TenantId

    def versions(self) -> Json:
        """As `ConfigAccess.versions`."""
        return describe_versions(self.reader.ranking_configs(self.tenant))

    def read(self, version: int) -> Json:
        """As `ConfigAccess.read`; 0 is the default of this release."""
        config = (
            read_config(self.reader.ranking_config(self.tenant, version))
            if version
            else RankingConfig.default()
        )
        return {"version": version, "document": config.to_document()}

    def save(self, document: Json) -> Json:
        """As `ConfigAccess.save`; raises `InvalidRankingConfig` with every mistake."""
        content = write_config(RankingConfig.parse(document))
        saved = self._engine().save_ranking_config(self.tenant, content).result()
        return {"index": saved.index, "version": saved.version}

    def activate(self, version: int, expected: int, *, allow_empty: bool) -> Json:
        """As `ConfigAccess.activate`; what it would leave of requests is not known here."""
        del allow_empty
        if version:
            read_config(self.reader.ranking_config(self.tenant, version))
        done = self._engine().activate_ranking_config(self.tenant, version, expected).result()
        return {"index": done.index, "version": done.version, "previous": done.previous}

    def roll_back(self, expected: int | None) -> Json:
        """As `ConfigAccess.roll_back`."""
        configs = self.reader.ranking_configs(self.tenant)
        previous = way_back(configs, expected)
        done = self._engine().activate_ranking_config(self.tenant, previous, configs.active)
        told = done.result()
        return {"index": told.index, "version": told.version, "previous": told.previous}

    def _engine(self) -> FeedEngine:
        if not isinstance(self.reader, FeedEngine):
            raise InvalidInput("this store is only read: write over --url, or --engine")
        return self.reader


def way_back(configs: RankingConfigs, expected: int | None) -> int:
    """The version to roll back to; raises `Conflict` where there is none, or another is active."""
    if expected not in (None, configs.active):
        raise Conflict(
            f"version {configs.active} is active, not {expected} as expected: somebody was faster; "
            "look at what ranks now before you roll it back"
        )
    if configs.previous is None:
        raise Conflict("no ranking config was ever activated: there is nothing to roll back")
    return configs.previous


@dataclass(frozen=True, slots=True)
class ApiConfigs:
    """Those of the tenant whose API key it is, of a service at `url`."""

    url: str
    key: str

    def versions(self) -> Json:
        """As `ConfigAccess.versions`."""
        return self._ask("GET", "/v2/ranking-configs")

    def read(self, version: int) -> Json:
        """As `ConfigAccess.read`."""
        return self._ask("GET", f"/v2/ranking-configs/{version}")

    def save(self, document: Json) -> Json:
        """As `ConfigAccess.save`."""
        return self._ask("POST", "/v2/ranking-configs", document)

    def activate(self, version: int, expected: int, *, allow_empty: bool) -> Json:
        """As `ConfigAccess.activate`; refused where it leaves nothing, unless `allow_empty`."""
        body = {"expected_version": expected, "allow_empty": allow_empty}
        return self._ask("POST", f"/v2/ranking-configs/{version}/activate", body)

    def roll_back(self, expected: int | None) -> Json:
        """As `ConfigAccess.roll_back`."""
        body = {"expected_version": expected}
        return self._ask("POST", "/v2/ranking-configs/rollback", body)

    def preview(self, document: Json, requests: int | None, mode: str) -> Json:
        """What a document would change, as `POST /v2/ranking-configs/preview` answers."""
        asked = {"mode": mode} | ({} if requests is None else {"requests": requests})
        return self._ask("POST", f"/v2/ranking-configs/preview?{urlencode(asked)}", document)

    def _ask(self, method: str, path: str, body: Json | None = None) -> Json:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body, allow_nan=False).encode()
        connection = self._connection()
        try:
            connection.request(method, path, content, headers)
            reply = connection.getresponse()
            status, answer = reply.status, reply.read(REPLY_BYTES_MAX)
            told = json.loads(answer)
        except (OSError, http.client.HTTPException) as error:
            raise RequestRefused(f"{self.url} does not answer: {error}") from None
        except ValueError:
            raise RequestRefused(f"{self.url} did not answer with JSON: is it Headwater?") from None
        finally:
            connection.close()
        if not isinstance(told, dict):
            raise RequestRefused(f"{self.url} answered with no object: is it Headwater?")
        if status >= http.client.BAD_REQUEST:
            sentence = str(told.get("detail", f"{self.url} answered {status}"))
            raise RequestRefused(sentence, tuple(map(str, told.get("problems", ()))))
        return told

    def _connection(self) -> http.client.HTTPConnection:
        try:
            parts = urlsplit(self.url)
            kind, host, port = _CONNECTIONS[parts.scheme], parts.hostname, parts.port
        except (KeyError, ValueError):
            host = None
        if host is None:
            raise RequestRefused(f"{self.url[:200]!r} is no address: write http://HOST:PORT")
        return kind(host, port, timeout=TIMEOUT_S)
