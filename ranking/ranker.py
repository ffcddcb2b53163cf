"""The ranker: from candidates to a slate."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from ranking.adjustments import Adjustment, adjust
from ranking.arrangements import Arrangement
from ranking.backfill import backfill
from ranking.buckets import ENGAGEMENT, IMPRESSION
from ranking.candidates import Candidates, Query
from ranking.errors import InvalidScores
from ranking.explain import Trace, explanation, reasons, removed_activities
from ranking.exploration import Explorer, NoExplorer, Shown, Trials
from ranking.features import Factors, FeatureMatrix, FeatureSpec, build
from ranking.filters import Filter, RemovedFilter, apply_filters
from ranking.scorers.base import Scorer
from ranking.selectors import Selector, TopKSelector
from ranking.slates import RankedActivities, Scoring, Slate
from ranking.table import ActivityTable

__all__ = ["Ranker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranker:
    """Ranks candidates; immutable, so that one ranker serves many requests.

    `spec` names the features that are built: the scorer's own by default; families in `missing` are
    left out of them. `clock_ns` is a monotonic clock in nanoseconds for the times of the stages,
    which decide nothing.
    """

    scorer: Scorer
    filters: Sequence[Filter] = (RemovedFilter(),)
    adjustments: Sequence[Adjustment] = ()
    selector: Selector = field(default_factory=TopKSelector)
    arrangements: Sequence[Arrangement] = ()
    explorer: Explorer = field(default_factory=NoExplorer)
    post_filters: Sequence[Filter] = ()
    spec: FeatureSpec | None = None
    factors: Factors | None = None
    model_version: str | None = None
    missing: Collection[str] = ()
    clock_ns: Callable[[], int] = time.perf_counter_ns

    def rank(
        self, query: Query, candidates: Candidates, table: ActivityTable, explain: bool = False
    ) -> Slate:
        """The slate of at most `query.limit` places; the same input gives the same slate.

        With `explain` it says what was removed and what each feature added, which takes longer.
        Raises `InvalidScores` if the scorer breaks its contract.
        """
        trace = Trace(self.clock_ns)
        filtered = apply_filters(self.filters, query, candidates, table)
        kept = filtered.kept
        trace.passed("filter", len(candidates), len(kept))
        spec = self.spec or self.scorer.spec
        features = build(spec, query, kept, table, self.factors, missing=self.missing)
        trace.passed("features", len(kept), len(features))
        scores = _scores(self.scorer, features)
        trace.passed("score", len(features), len(scores))
        adjusted = adjust(self.adjustments, scores, query, kept, table)
        trace.passed("adjust", len(scores), len(adjusted.scores))
        selection = self.selector.select(kept, adjusted.scores, query.limit, table)
        for arrangement in self.arrangements:
            selection = arrangement.arrange(selection, query, kept, table)
        trace.passed("select", len(scores), selection.count)
        explored = self.explorer.explore(selection, query.seed, partial(_trials, kept, table))
        trace.passed("explore", selection.count, len(explored))
        backfilled = backfill(self.post_filters, explored, query, kept, table)
        shown = backfilled.shown
        trace.passed("post_filter", len(explored), len(shown))
        slate = Slate(
            request_id=query.request_id,
            tenant=query.tenant,
            user=query.user,
            kind=query.kind,
            ranked=_ranked(query, kept, scores, shown, table),
            scorer=self.scorer.name,
            model_version=self.model_version,
            timings_us=trace.timings_us(),
            scoring=Scoring(
                kept=kept,
                removed=(*filtered.removed, *backfilled.removed),
                spec=spec,
                features=features,
                scores=scores,
                shown=shown,
                stages=tuple(trace.stages),
                multipliers={
                    **{name: of[shown.places] for name, of in adjusted.multipliers.items()},
                    "author_spread": shown.multipliers,
                },
                placed=shown.placed,
            ),
        )
        if not explain:
            return slate
        return replace(
            slate,
            removed=removed_activities((*filtered.removed, *backfilled.removed), table),
            explanation=explanation(slate.ranked, trace, self.scorer, features, shown, adjusted),
        )


def _scores(scorer: Scorer, features: FeatureMatrix) -> npt.NDArray[np.float32]:
    if not len(features):
        return np.zeros(0, dtype=np.float32)
    scores = scorer.score(features)
    if scores.shape != (len(features),):
        raise InvalidScores(
            f"scorer {scorer.name} returned scores of shape {scores.shape} for {len(features)} "
            "candidates: return one number for each, in their order"
        )
    return scores


def _trials(candidates: Candidates, table: ActivityTable) -> Trials:
    totals = table.counts.totals
    return Trials(totals[candidates.rows, ENGAGEMENT], totals[candidates.rows, IMPRESSION])


def _ranked(
    query: Query,
    candidates: Candidates,
    scores: npt.NDArray[np.float32],
    shown: Shown,
    table: ActivityTable,
) -> RankedActivities:
    rows, of_places = candidates.rows[shown.places], scores[shown.places]
    names = candidates.sources
    return RankedActivities(
        activity_ids=table.ids(rows),
        feed_positions=table.positions(rows),
        scores=np.where(np.isfinite(of_places), of_places, np.nan).tolist(),
        sources=[names[source] for source in candidates.source[shown.places].tolist()],
        reasons=reasons(query, shown, candidates, table),
        propensities=shown.propensities.tolist(),
    )
