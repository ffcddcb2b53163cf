"""The ranking config: one frozen document per tenant that says how both ranked feeds come about.

A document names what differs from the defaults; `RankingConfig.parse` fills in the rest, and tells
every mistake at once. `to_document` gives the whole, and parsing that gives the same config.
"""

import difflib
from collections.abc import Mapping
from typing import Any, Final, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ranking.candidates import FeedKind
from ranking.config_options import (
    PINS_MAX,
    ActiveOptions,
    AdjustmentsOptions,
    CapsOptions,
    DiversityOptions,
    ExplorationOptions,
    FactorsOptions,
    FiltersOptions,
    FreshOptions,
    Options,
    Pin,
    QuotasOptions,
    SecondDegreeOptions,
    SimilarOptions,
    SourceOptions,
    SourcesOptions,
    TopicsOptions,
    TrendingOptions,
    ValueOptions,
    no_filters,
)
from ranking.errors import InvalidRankingConfig
from ranking.fallback import fallback_problems
from ranking.sources import NEWEST

__all__ = ["FeedOptions", "RankingConfig", "json_schema", "problems"]

Document = Mapping[str, Any]  # Any: JSON, checked by `parse`

PROBLEMS_MAX: Final = 50
"""Problems of one document that are told; how many more there are is told after them."""


class FeedOptions(Options):
    """How one ranked feed comes about, from the sources to the slate."""

    sources: SourcesOptions = Field(
        default=SourcesOptions(
            following=SourceOptions(on=True, quota=400),
            trending=TrendingOptions(on=True, quota=100),
            newest=SourceOptions(on=True, quota=100),
        ),
        description="Where candidates come from.",
    )
    filters: FiltersOptions = Field(
        default=FiltersOptions(), description="What is removed before anything is scored."
    )
    value: ValueOptions = Field(
        default=ValueOptions(), description="What an engagement of each kind is worth."
    )
    adjustments: AdjustmentsOptions = Field(
        default=AdjustmentsOptions(), description="What is done to scores by rule."
    )
    diversity: DiversityOptions = Field(
        default=DiversityOptions(), description="What resembles the places above it gives way."
    )
    caps: CapsOptions = Field(
        default=CapsOptions(), description="How many of one kind stand together."
    )
    quotas: QuotasOptions = Field(
        default=QuotasOptions(), description="How much comes from outside of follows."
    )
    pins: tuple[Pin, ...] = Field(
        default=(),
        strict=False,
        max_length=PINS_MAX,
        description="Activities that stand in a place of their own, as long as a filter does not "
        "remove them and the activity table holds them.",
    )
    exploration: ExplorationOptions = Field(
        default=ExplorationOptions(), description="How often chance fills a place."
    )
    post_filters: FiltersOptions = Field(
        default=no_filters(),
        description="What is removed from the slate; the next best move up in its place.",
    )
    deadline_ms: float = Field(
        default=100.0,
        ge=1,
        le=60_000,
        description="Milliseconds after which a read no longer waits for model or table.",
    )
    fallback: str | dict[str, Any] | None = Field(
        # Any: checked by its own parser
        default=None,
        description="What ranks where no model does: null and `recency` are newest first, "
        "an object is a ranking expression.",
    )
    slate_size: int = Field(
        default=100,
        ge=1,
        le=1_000,
        description="Activities of one slate, over all of its pages, at most.",
    )
    log_sample_rate: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of slates that are logged with their features; the service's own "
        "`slate_log_rate` is the most.",
    )

    @field_validator("pins")
    @classmethod
    def _check_pins(cls, pins: tuple[Pin, ...]) -> tuple[Pin, ...]:
        told = [
            f"two pins have the same {part}: give each its own"
            for part in ("id", "position")
            if len({getattr(pin, part) for pin in pins}) < len(pins)
        ]
        if told:
            raise ValueError("\n".join(told))
        return pins

    @field_validator("fallback")
    @classmethod
    def _check_fallback(cls, document: object) -> object:
        if told := fallback_problems(document):
            raise ValueError("\n".join(told))
        return document

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        told = []
        if not self.asked():
            dropped = ", ".join(f"{name} ({each.quota})" for name, each in self._silent())
            told.append(
                f"no source is on, which drops every candidate, those of {dropped}: turn one on"
            )
        told += [
            f"the pin {pin.id} has position {pin.position}, and a slate has {self.slate_size} "
            "places from 0 on: give a position inside it"
            for pin in self.pins
            if pin.position >= self.slate_size
        ]
        if told:
            raise ValueError("\n".join(told))
        return self

    def asked(self) -> dict[str, SourceOptions]:
        """The sources that can give a candidate, by name, in the order in which they are asked."""
        return {
            name: source
            for name, source in self.sources.named().items()
            if source.on and (name != "editorial" or self.promoted())
        }

    def promoted(self) -> tuple[str, ...]:
        """The ids that the editorial source proposes: pins, then what is promoted."""
        pinned = (pin.id for pin in self.pins)
        return tuple(dict.fromkeys((*pinned, *self.sources.editorial.activities)))

    def _silent(self) -> list[tuple[str, SourceOptions]]:
        return [(name, each) for name, each in self.sources.named().items() if not each.on]


_OUTSIDE: Final = ("active", "trending", "fresh")

_OF_EVERYTHING: Final = ("following", NEWEST)
"""Sources that cannot leave out what the user follows."""

_EXPLORE: Final = FeedOptions(
    sources=SourcesOptions(
        second_degree=SecondDegreeOptions(outside=True),
        topics=TopicsOptions(outside=True),
        similar=SimilarOptions(outside=True),
        factors=FactorsOptions(outside=True),
        active=ActiveOptions(on=True, quota=250, outside=True),
        trending=TrendingOptions(on=True, quota=150, outside=True),
        fresh=FreshOptions(on=True, quota=100, outside=True),
    ),
    exploration=ExplorationOptions(policy="epsilon"),
)


class RankingConfig(Options):
    """How a tenant's ranked feeds come about. Immutable; `default` is the mix of 0.1."""

    personalized: FeedOptions = Field(
        default=FeedOptions(),
        description="Candidates mostly from what the user follows, reordered.",
    )
    explore: FeedOptions = Field(
        default=_EXPLORE, description="Candidates from outside of what the user follows."
    )

    @model_validator(mode="after")
    def _check_explore(self) -> Self:
        sources = self.explore.sources.named()
        told = [
            f"explore.sources.{name} is on, and explore shows what the user does not follow: "
            + ("turn it off" if name in _OF_EVERYTHING else "set outside to true")
            for name, source in sources.items()
            if source.on and (name in _OF_EVERYTHING or not getattr(source, "outside", True))
        ]
        if told:
            raise ValueError("\n".join(told))
        return self

    @classmethod
    def default(cls) -> Self:
        """The config of a tenant that has none of its own."""
        return cls()

    @classmethod
    def parse(cls, document: Document) -> Self:
        """The config of a document, whatever it leaves out as by default.

        Raises `InvalidRankingConfig` with every problem.
        """
        if not isinstance(document, Mapping):
            raise InvalidRankingConfig(
                [f"a ranking config is an object, not {repr(document)[:80]}"]
            )
        try:
            return cls.model_validate(_merged(cls.default().to_document(), document))
        except ValidationError as error:
            told = [
                sentence
                for problem in error.errors(include_url=False)
                for sentence in _sentences(cls, problem)
            ]
            more = len(told) - PROBLEMS_MAX
            tail = [f"and {more} problems more"] if more > 0 else []
            raise InvalidRankingConfig([*told[:PROBLEMS_MAX], *tail]) from None

    def to_document(self) -> dict[str, Any]:  # Any: JSON
        """The whole config as a JSON object; `parse` gives it back."""
        return self.model_dump(mode="json")

    def feed(self, kind: FeedKind) -> FeedOptions:
        """What is said of one feed."""
        return self.personalized if kind == "personalized" else self.explore


def problems(document: Document) -> list[str]:
    """Every mistake of a document as a sentence; none where it is a ranking config."""
    try:
        RankingConfig.parse(document)
    except InvalidRankingConfig as error:
        return list(error.problems)
    return []


def json_schema() -> dict[str, Any]:  # Any: JSON
    """The JSON Schema of the whole document; a document may leave out any field."""
    return RankingConfig.model_json_schema()


def _merged(base: Document, given: Document) -> dict[str, Any]:  # Any: JSON
    """`base` with what is given in its place; objects are merged, all else is replaced."""
    return {**base} | {
        name: _merged(base[name], value)
        if isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        else value
        for name, value in given.items()
    }


def _sentences(model: type[Options], problem: Any) -> list[str]:  # Any: pydantic's ErrorDetails
    where = ".".join(str(step) for step in problem["loc"])
    prefix = f"{where}: " if where else ""
    if problem["type"] == "extra_forbidden":
        *path, name = problem["loc"]
        return [_unknown(_model_at(model, path), where, str(name))]
    if problem["type"] == "value_error":
        return [prefix + line for line in str(problem["ctx"]["error"]).split("\n")]
    message = str(problem["msg"])
    return [f"{where} is {repr(problem['input'])[:80]}: {message[:1].lower()}{message[1:]}"]


def _unknown(model: type[Options], where: str, name: str) -> str:
    known = list(model.model_fields)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
    return f"{where[:200]}: there is no {name[:80]!r}: {hint}"


def _model_at(model: type[Options], path: list[Any]) -> type[Options]:  # Any: pydantic's steps
    """The part of the config that a path of field names and places leads to."""
    for step in path:
        annotation = Pin if isinstance(step, int) else model.model_fields[step].annotation
        if isinstance(annotation, type) and issubclass(annotation, Options):
            model = annotation
    return model
