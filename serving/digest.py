"""The digest of a user: the best of what came lately that the user has not seen or touched."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from feeds.counters import DAY_US
from feeds.errors import InvalidTime
from feeds.model import FeedId, TenantId, UserId, format_time
from feeds.reader import StoreReader
from ranking.candidates import Feedback, Query
from ranking.config import RankingConfig
from ranking.config_options import AgeOptions, ExplorationOptions, FilterOptions
from ranking.fallback import bound, fallback_scorer
from ranking.pipeline import build_ranker, build_sources
from ranking.ranker import Ranker
from ranking.slates import Slate
from ranking.sources import CandidateSource, propose
from ranking.table import ActivityTable
from serving.cursors import PinnedSlate
from serving.pages import RankedPages
from serving.rankers import LiveModel
from serving.reader import FeedReader
from serving.sources import EngineFollowingSource

__all__ = ["SINCE_DAYS", "DigestMaker", "DigestReader", "check_since", "digest_config"]

SINCE_DAYS: Final = 7
"""Days that a digest goes back where nobody says."""


def check_since(since_us: int | None, now_us: int) -> int:
    """Since when a digest goes back, microseconds; raises `InvalidTime` for a time to come."""
    if since_us is None:
        return max(0, now_us - SINCE_DAYS * DAY_US)
    if since_us >= now_us:
        raise InvalidTime(
            f"since is {format_time(since_us)}, and it is {format_time(now_us)}: give an earlier "
            "time"
        )
    return since_us


def digest_config(config: RankingConfig, since_us: int, now_us: int) -> RankingConfig:
    """The personalized feed of a config as a digest: nothing old, seen or touched, no chance."""
    feed, on = config.personalized, FilterOptions()
    age = AgeOptions(on=True, days_max=max(0.01, (now_us - since_us) / DAY_US))
    filters = feed.filters.model_copy(update={"age": age, "served": on, "engaged": on})
    digest = feed.model_copy(update={"filters": filters, "exploration": ExplorationOptions()})
    return config.model_copy(update={"personalized": digest})


@dataclass(frozen=True, slots=True)
class DigestReader:
    """Reads one user's digest in the service. To be used on one event loop."""

    reader: FeedReader

    async def read(self, tenant: TenantId, user: UserId, since_us: int | None, limit: int) -> bytes:
        """At most `limit` activities since a time as JSON; reading it counts as no serving."""
        reader, now_us = self.reader, self.reader.clock_us()
        since_us = check_since(since_us, now_us)
        config = digest_config(reader.config(tenant), since_us, now_us)
        served = (
            reader.served.of(tenant, user) | reader.engine.user_record(tenant, user).shown.keys()
        )
        query, slate = await reader.rank_feed(tenant, user, config, limit, served)
        pages = RankedPages(reader.engine, reader.tables)
        pinned = PinnedSlate.of(slate, _head(slate, since_us, now_us))
        return pages.page(pinned, 0, limit, query.follows).content


def _head(slate: Slate, since_us: int, now_us: int) -> bytes:
    return orjson.dumps(
        {
            "since": format_time(since_us),
            "until": format_time(now_us),
            "slate_id": slate.request_id,
            "scorer": slate.scorer,
            "model_version": slate.model_version,
            "degraded": slate.degraded,
        }
    )


@dataclass(frozen=True, slots=True)
class DigestMaker:
    """Makes the digests of many users from one store, all as of one time.

    `config` is a digest's (`digest_config`); what was seen is what impressions were recorded of.
    """

    store: StoreReader
    tenant: TenantId
    table: ActivityTable
    config: RankingConfig
    home_group: str
    as_of_us: int
    model: LiveModel | None = None
    candidates_max: int = 500

    def digest(self, user: UserId, limit: int) -> Slate:
        """A user's digest; the same store and time give the same one. Some 3 ms."""
        query = self._query(user, limit)
        candidates = propose(self._sources(query), query, self.table, self.candidates_max)
        return self._ranker(query).rank(query, candidates, self.table)

    def _query(self, user: UserId, limit: int) -> Query:
        name = f"digest:{self.tenant}:{user}:{self.as_of_us}".encode()
        digest = hashlib.blake2b(name, digest_size=16)
        record = self.store.user_record(self.tenant, user)
        return Query(
            tenant=self.tenant,
            user=user,
            kind="personalized",
            now_us=self.as_of_us,
            limit=limit,
            request_id=digest.hexdigest(),
            seed=int.from_bytes(digest.digest()[:8]),
            record=record,
            follows=self.store.follows(self.tenant, FeedId(self.home_group, user)),
            served=record.shown.keys(),
            feedback=Feedback.of(record),
        )

    def _sources(self, query: Query) -> Sequence[CandidateSource]:
        return [
            EngineFollowingSource(self.store, self.home_group, source.quota).read(query)
            if source.name == "following"
            else source
            for source in build_sources(self.config, "personalized")
        ]

    def _ranker(self, query: Query) -> Ranker:
        if self.model is None:
            scorer = fallback_scorer(self.config.personalized.fallback)
            return build_ranker(self.config, "personalized", bound(scorer, query))
        return build_ranker(
            self.config,
            "personalized",
            bound(self.model.scorer, query),
            factors=self.model.factors,
            model_version=str(self.model.version),
        )
