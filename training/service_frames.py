"""A tenant of a running service as data frames: feeds, explained slates, previewed configs.

    tenant = ServedTenant("http://127.0.0.1:8000", "hw_...")
    feed = tenant.feed("bob")
    tenant.explain(feed["slate_id"].iloc[0]).contributions()

What is asked is the service's HTTP API; nothing is computed here but the frames' shape. Times are
UTC; a frame is tidy, with one row for each place, request or step, and a named index.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, urlencode

from training.simulation.service import ServicePlatform

if TYPE_CHECKING:
    import pandas as pd

    from ranking.candidates import FeedKind
    from ranking.config import RankingConfig

__all__ = ["ConfigPreview", "ExplainedSlate", "ServedTenant"]

Json = dict[str, Any]  # Any: JSON

_PLACE = (
    "activity_id",
    "score",
    "bias",
    "source",
    "reason",
    "propensity",
    "explored",
    "placed",
)
_REQUEST = (
    "user",
    "kind",
    "time",
    "overlap_at_10",
    "kendall_tau",
    "first_changed",
    "old_length",
    "new_length",
)


@dataclass(frozen=True, slots=True)
class ExplainedSlate:
    """A served slate and why it was as it was; `document` is the service's reply."""

    document: Json

    @property
    def bit_identical(self) -> bool | None:
        """Whether scoring the logged features again gave the very same bits; None: not done."""
        found: bool | None = self.document["recomputed"]["bit_identical"]
        return found

    def to_frame(self) -> "pd.DataFrame":
        """One row a place, by `position`: what stands there, its score, source and propensity.

        A column `multiplier_<name>` is what that adjustment multiplied the score's lift by.
        """
        rows = [
            {name: place[name] for name in _PLACE}
            | {f"multiplier_{name}": value for name, value in place["multipliers"].items()}
            for place in self._places
        ]
        return self._by_position(rows)

    def features(self) -> "pd.DataFrame":
        """One row a place, one column a feature, as the scorer read them; NaN where missing."""
        return self._by_position([place["features"] for place in self._places]).astype("float32")

    def contributions(self) -> "pd.DataFrame":
        """One row a place, one column a feature: what it added to the score; `bias` is the rest.

        The columns of a row add up to its score. Without columns but `bias` where what scored
        cannot tell.
        """
        rows = [{**(p["contributions"] or {}), "bias": p["bias"]} for p in self._places]
        return self._by_position(rows).astype("float64")

    def stages(self) -> "pd.DataFrame":
        """One row a step of the ranking, by `name`: candidates that came and left, microseconds."""
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        columns = ["name", "came", "left", "time_us"]
        return pd.DataFrame(self.document["stages"], columns=columns).set_index("name")

    def removed(self) -> "pd.DataFrame":
        """One row for each filter and reason: how many candidates it took out."""
        import pandas as pd  # noqa: PLC0415 - as above

        columns = ["filter", "reason", "count"]
        return pd.DataFrame(self.document["removed"], columns=columns).set_index("filter")

    @property
    def _places(self) -> list[Json]:
        places: list[Json] = self.document["activities"]
        return places

    def _by_position(self, rows: list[Json]) -> "pd.DataFrame":
        import pandas as pd  # noqa: PLC0415 - as above

        index = pd.Index([place["position"] for place in self._places], name="position")
        return pd.DataFrame(rows, index=index)


@dataclass(frozen=True, slots=True)
class ConfigPreview:
    """The last slates by the active config and by another one; `document` is the reply."""

    document: Json

    def to_frame(self) -> "pd.DataFrame":
        """One row a request: how alike both slates are, whether the first place changed, lengths.

        The index is `request`, from 0; `slate_id` is what was served then.
        """
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        names = [*_REQUEST, "slate_id"]
        rows = [{name: slate[name] for name in names} for slate in self.document["slates"]]
        frame = pd.DataFrame(rows, columns=names).rename_axis("request")
        return frame.assign(
            time=pd.to_datetime(frame["time"], utc=True),
            kendall_tau=frame["kendall_tau"].astype("float64"),
        )

    def places(self) -> "pd.DataFrame":
        """One row a place of the new slates, by `request` and `position`.

        `was` is the place that the activity had, and `moved` how far it rose; missing where it is
        new to the slate.
        """
        import pandas as pd  # noqa: PLC0415 - as above

        rows = [
            {"request": number, "user": slate["user"], "kind": slate["kind"]}
            | {"activity_id": place["id"]}
            | {name: place[name] for name in ("position", "was", "moved", "score", "source")}
            for number, slate in enumerate(self.document["slates"])
            for place in slate["new"]
        ]
        columns = ["request", "position", "user", "kind", "activity_id", "was", "moved", "score"]
        frame = pd.DataFrame(rows, columns=[*columns, "source"]).set_index(["request", "position"])
        return frame.astype({"was": "Int64", "moved": "Int64", "score": "float64"})

    def removed(self) -> "pd.DataFrame":
        """One row a request, one column a filter: how many candidates the new config takes out."""
        import pandas as pd  # noqa: PLC0415 - as above

        rows = [slate["removed"] for slate in self.document["slates"]]
        return pd.DataFrame(rows, dtype="Int64").fillna(0).rename_axis("request")


class ServedTenant:
    """A tenant of a running service, by its address and a key of the tenant.

    Every call raises `SimulationError` with the service's own words where it refuses.
    """

    def __init__(self, address: str, key: str, timeout_s: float = 30.0) -> None:
        self._service = ServicePlatform(address, key, timeout_s)

    def call(self, method: str, target: str, body: Json | None = None) -> Json:
        """One request and its JSON, for what has no frame here."""
        return self._service.call(method, target, body)

    def feed(self, user: str, kind: "FeedKind" = "personalized", limit: int = 25) -> "pd.DataFrame":
        """The first page of a ranked feed, a row a place, by `position`.

        Reading makes and logs a slate: `slate_id` names it, the same in all rows.
        """
        import pandas as pd  # noqa: PLC0415 - half a second that only notebooks pay

        page = self.call(
            "GET", f"/v2/users/{quote(user)}/feeds/{kind}?{urlencode({'limit': limit})}"
        )
        names = ["position", "actor", "verb", "object", "time", "score", "source", "reason"]
        rows = [
            {"activity_id": each["id"], **{name: each[name] for name in names}}
            | {"propensity": each["propensity"], "slate_id": page["slate_id"]}
            for each in page["results"]
        ]
        columns = ["activity_id", *names, "propensity", "slate_id"]
        frame = pd.DataFrame(rows, columns=columns).set_index("position")
        return frame.assign(time=pd.to_datetime(frame["time"], utc=True))

    def explain(self, slate_id: str) -> ExplainedSlate:
        """Why a slate was as it was, from the slate log."""
        return ExplainedSlate(self.call("GET", f"/v2/slates/{quote(slate_id)}/explain"))

    def preview(
        self,
        config: "RankingConfig",
        requests: int | None = None,
        mode: Literal["logged", "fresh"] = "logged",
    ) -> ConfigPreview:
        """What a ranking config would change at the last slates; nothing is saved or served.

        `logged` ranks them again from their own candidates and features; `fresh` ranks the last
        request of each user and feed as of now, so that other sources and pins show.
        """
        asked = {"mode": mode} | ({} if requests is None else {"requests": str(requests)})
        target = f"/v2/ranking-configs/preview?{urlencode(asked)}"
        return ConfigPreview(self.call("POST", target, config.to_document()))

    def close(self) -> None:
        """End the connection."""
        self._service.close()
