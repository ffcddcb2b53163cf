"""The parts of a ranking config: what each component of the pipeline can be told, with its limits.

Every part is frozen, says what it is in its description, and refuses numbers that are not finite.
A part that is off keeps its other values, so that it can be turned on again.
"""

from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from feeds.errors import InvalidCursor
from feeds.model import position_of

__all__ = [
    "PINS_MAX",
    "PROMOTED_MAX",
    "AdjustmentsOptions",
    "AgeOptions",
    "CapsOptions",
    "DiversityOptions",
    "ExplorationOptions",
    "FilterOptions",
    "FiltersOptions",
    "NewAuthorOptions",
    "Options",
    "OutOfNetworkOptions",
    "Pin",
    "QuotasOptions",
    "ShowLessOptions",
    "ShowMoreOptions",
    "SourceOptions",
    "SourcesOptions",
    "SpreadOptions",
    "ValueOptions",
    "no_filters",
]

QUOTA_MAX: Final = 2_000
"""Candidates of one source at most: as many as a service can be told to rank."""

PINS_MAX: Final = 20
"""Pins of one feed at most."""

PROMOTED_MAX: Final = 100
"""Promoted activities of one feed at most."""


class Options(BaseModel):
    """A part of a ranking config: frozen, no unknown fields, finite numbers of the right type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SourceOptions(Options):
    """A source of candidates."""

    on: bool = Field(default=False, description="Whether the source is asked.")
    quota: int = Field(
        default=100,
        ge=1,
        le=QUOTA_MAX,
        description="Candidates that it may add at most, beyond what the sources before it gave.",
    )
    timeout_ms: float = Field(
        default=100.0,
        gt=0,
        le=60_000,
        description="Milliseconds that it may take. What comes later is dropped and named in the "
        "reply, and it is left out as long as it is likely to be late; pins and what the user "
        "follows never are.",
    )


class EditorialOptions(SourceOptions):
    """Activities that the app promotes; pins are candidates of this source as well."""

    on: bool = Field(
        default=True, description="Whether promoted activities and pins are candidates."
    )
    activities: tuple[str, ...] = Field(
        default=(),
        strict=False,
        max_length=PROMOTED_MAX,
        description="Ids of the promoted activities, the first ones first.",
    )

    @field_validator("activities")
    @classmethod
    def _check_activities(cls, activities: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct_ids(activities)


class SecondDegreeOptions(SourceOptions):
    """What those whom the user follows engaged with."""

    days: float = Field(
        default=14.0, gt=0, le=365, description="Days since an activity's last engagement at most."
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class TopicsOptions(SourceOptions):
    """Activities with the tags that the user engages with."""

    days: float = Field(
        default=14.0,
        gt=0,
        le=365,
        description="Days since an activity was posted or engaged with at most.",
    )
    half_life_days: float = Field(
        default=30.0,
        gt=0,
        le=3_650,
        description="Days after which an engagement with a tag counts half.",
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class SimilarOptions(SourceOptions):
    """Activities like those that the user engaged with last."""

    by: Literal["co_engagement", "factors"] = Field(
        default="co_engagement",
        description="What makes activities alike: who engaged with both, or the model's factors.",
    )
    seeds: int = Field(
        default=20,
        ge=1,
        le=100,
        description="Activities that the user engaged with last to start from.",
    )
    days: float = Field(
        default=30.0,
        gt=0,
        le=365,
        description="Days since an activity was posted or engaged with at most.",
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class FactorsOptions(SourceOptions):
    """The activities that lie nearest to the user in the model's factors."""

    scanned: int = Field(
        default=2_000,
        ge=1,
        le=20_000,
        description="Activities, the latest active, that are looked at.",
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class ActiveOptions(SourceOptions):
    """Activities posted or engaged with lately, the latest active first."""

    days: float = Field(
        default=14.0,
        gt=0,
        le=365,
        description="Days since an activity was posted or engaged with at most.",
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class TrendingOptions(SourceOptions):
    """The activities with the most engagements of the last 30 days, decayed."""

    half_life_days: float = Field(
        default=7.0, gt=0, le=365, description="Days after which an engagement counts half."
    )
    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class FreshOptions(SourceOptions):
    """The newest activities."""

    outside: bool = Field(default=False, description="Leave out followed feeds and authors.")


class SourcesOptions(Options):
    """Where candidates come from; the sources are asked in this order."""

    editorial: EditorialOptions = Field(
        default=EditorialOptions(), description="Activities that the app promotes, and pins."
    )
    following: SourceOptions = Field(
        default=SourceOptions(quota=400), description="The newest activities of followed feeds."
    )
    second_degree: SecondDegreeOptions = Field(
        default=SecondDegreeOptions(), description="What those whom the user follows engaged with."
    )
    topics: TopicsOptions = Field(
        default=TopicsOptions(), description="Activities with the tags that the user engages with."
    )
    similar: SimilarOptions = Field(
        default=SimilarOptions(),
        description="Activities like those that the user engaged with last.",
    )
    factors: FactorsOptions = Field(
        default=FactorsOptions(), description="The nearest activities in the model's factors."
    )
    active: ActiveOptions = Field(
        default=ActiveOptions(quota=250), description="Activities posted or engaged with lately."
    )
    trending: TrendingOptions = Field(
        default=TrendingOptions(), description="The activities with the most engagements, decayed."
    )
    fresh: FreshOptions = Field(default=FreshOptions(), description="The newest activities.")
    newest: SourceOptions = Field(
        default=SourceOptions(quota=100),
        description="The newest activities, where no other source but `editorial` found any: what "
        "a user sees of whom nothing is known.",
    )

    def named(self) -> dict[str, SourceOptions]:
        """The sources by name, in the order in which they are asked."""
        return _named(self)


class FilterOptions(Options):
    """A filter."""

    on: bool = Field(default=True, description="Whether the filter is applied.")


class AgeOptions(FilterOptions):
    """Removes what was posted long ago."""

    on: bool = Field(default=False, description="Whether the filter is applied.")
    days_max: float = Field(
        default=30.0, ge=0.01, le=36_500, description="Days since an activity was posted at most."
    )


class DuplicateOptions(FilterOptions):
    """Of activities with the same object leaves one."""

    on: bool = Field(default=False, description="Whether the filter is applied.")


class FiltersOptions(Options):
    """What must not be shown; removed activities never are."""

    own: FilterOptions = Field(
        default=FilterOptions(), description="Removes the user's own activities."
    )
    hidden: FilterOptions = Field(default=FilterOptions(), description="Removes what the user hid.")
    engaged: FilterOptions = Field(
        default=FilterOptions(), description="Removes what the user already engaged with."
    )
    muted_author: FilterOptions = Field(
        default=FilterOptions(), description="Removes the authors that the user muted."
    )
    muted_tag: FilterOptions = Field(
        default=FilterOptions(), description="Removes the tags that the user muted."
    )
    excluded: FilterOptions = Field(
        default=FilterOptions(), description="Removes the activities that the request names."
    )
    served: FilterOptions = Field(
        default=FilterOptions(), description="Removes what the user was served lately."
    )
    age: AgeOptions = Field(default=AgeOptions(), description="Removes what was posted long ago.")
    duplicate: DuplicateOptions = Field(
        default=DuplicateOptions(),
        description="Of activities with the same object leaves one: the first that a source "
        "proposed, or among `post_filters` the best ranked.",
    )

    def named(self) -> dict[str, FilterOptions]:
        """The filters by name, in the order in which they are applied."""
        return _named(self)


def no_filters() -> FiltersOptions:
    """Every filter off: what is applied after selection where nothing else is asked for."""
    return FiltersOptions.model_validate(
        {
            name: each.model_copy(update={"on": False})
            for name, each in FiltersOptions().named().items()
        }
    )


class ValueOptions(Options):
    """What an engagement of each kind is worth: the weight of its probability in the score.

    Weights matter to models with a head for each kind; another model's score is taken as it is.
    """

    click: float = Field(default=0.5, ge=-1_000, le=1_000, description="Worth of a click.")
    like: float = Field(default=1.0, ge=-1_000, le=1_000, description="Worth of a like.")
    comment: float = Field(default=2.0, ge=-1_000, le=1_000, description="Worth of a comment.")
    share: float = Field(default=2.0, ge=-1_000, le=1_000, description="Worth of a share.")
    bookmark: float = Field(default=1.5, ge=-1_000, le=1_000, description="Worth of a bookmark.")
    dwell: float = Field(default=0.5, ge=-1_000, le=1_000, description="Worth of a long look.")
    hide: float = Field(
        default=-5.0, ge=-1_000, le=1_000, description="Worth of a hide; mostly below 0."
    )
    report: float = Field(
        default=-20.0, ge=-1_000, le=1_000, description="Worth of a report; mostly below 0."
    )

    @model_validator(mode="after")
    def _check_weights(self) -> "ValueOptions":
        if not any(self.weights().values()):
            raise ValueError("every weight is 0, so that nothing is ranked: give one a value")
        return self

    def weights(self) -> dict[str, float]:
        """The weights by engagement kind."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class SpreadOptions(Options):
    """Each further activity of an author counts less: `(1 - floor) * decay ** n + floor`."""

    on: bool = Field(default=True, description="Whether authors are spread.")
    decay: float = Field(
        default=0.5, ge=0, le=1, description="What the next activity of an author is multiplied by."
    )
    floor: float = Field(
        default=0.25, ge=0, le=1, description="The multiplier that it never falls below."
    )


class OutOfNetworkOptions(Options):
    """What lies outside of followed feeds and authors counts less, or more."""

    on: bool = Field(default=False, description="Whether it is applied.")
    multiplier: float = Field(
        default=0.75, ge=0, le=10, description="What the lift is multiplied by."
    )


class NewAuthorOptions(Options):
    """The best activities of authors that few have seen are lifted to a place of their own."""

    on: bool = Field(default=False, description="Whether they are lifted.")
    position: int = Field(default=14, ge=0, le=999, description="The first such place, 0-based.")
    places: int = Field(
        default=2, ge=1, le=10, description="How many places there are, one after another."
    )
    impressions_max: int = Field(
        default=1_000,
        ge=1,
        le=1_000_000_000,
        description="Impressions below which an author is new.",
    )


class ShowLessOptions(Options):
    """An author or tag of which the user wants less is gone for a while, then comes back slowly."""

    on: bool = Field(default=True, description="Whether `show less` has an effect.")
    removed_days: float = Field(
        default=14.0, ge=0, le=3_650, description="Days for which the author or tag is removed."
    )
    recovery_days: float = Field(
        default=140.0, gt=0, le=3_650, description="Days after these until it counts in full again."
    )
    floor: float = Field(
        default=0.2, ge=0, le=1, description="The multiplier on the first day that it is back."
    )


class ShowMoreOptions(Options):
    """An author or tag of which the user wants more counts more for a while."""

    on: bool = Field(default=True, description="Whether `show more` has an effect.")
    multiplier: float = Field(
        default=1.5, ge=1, le=10, description="What the lift is multiplied by at first."
    )
    days: float = Field(
        default=140.0, gt=0, le=3_650, description="Days until it counts no more than others."
    )


class AdjustmentsOptions(Options):
    """What is done to scores by rule: named multipliers, which the explanation shows."""

    author_spread: SpreadOptions = Field(
        default=SpreadOptions(), description="Each further activity of an author counts less."
    )
    out_of_network: OutOfNetworkOptions = Field(
        default=OutOfNetworkOptions(), description="What lies outside of follows counts less."
    )
    new_author: NewAuthorOptions = Field(
        default=NewAuthorOptions(), description="Authors that few have seen are lifted."
    )
    show_less: ShowLessOptions = Field(
        default=ShowLessOptions(), description="What the user wants less of comes back slowly."
    )
    show_more: ShowMoreOptions = Field(
        default=ShowMoreOptions(), description="What the user wants more of counts more."
    )


class CapsOptions(Options):
    """How many of one kind may stand together; null means any number.

    A cap defers: what it passes over stands in the first place that allows it. It gives way where
    nothing else is left.
    """

    page_size: int = Field(
        default=25, ge=1, le=100, description="Places of a page, for `per_author` and `per_tag`."
    )
    per_author: int | None = Field(
        default=None, ge=1, le=100, description="Activities of one author on a page at most."
    )
    per_tag: int | None = Field(
        default=None, ge=1, le=100, description="Activities with one tag on a page at most."
    )
    in_row_author: int | None = Field(
        default=None, ge=1, le=100, description="Activities of one author in a row at most."
    )
    in_row_tag: int | None = Field(
        default=None, ge=1, le=100, description="Activities with one tag in a row at most."
    )

    def any(self) -> bool:
        """Whether anything is capped."""
        caps = (self.per_author, self.per_tag, self.in_row_author, self.in_row_tag)
        return any(cap is not None for cap in caps)


class QuotasOptions(Options):
    """How much of the slate, from the top to any place, comes from outside of follows."""

    outside_min: float = Field(default=0.0, ge=0, le=1, description="Share from outside at least.")
    outside_max: float = Field(default=1.0, ge=0, le=1, description="Share from outside at most.")

    @model_validator(mode="after")
    def _check_shares(self) -> "QuotasOptions":
        if self.outside_min > self.outside_max:
            raise ValueError(
                f"outside_min is {self.outside_min}, above outside_max, {self.outside_max}: "
                "give a minimum that is not above the maximum"
            )
        return self

    def any(self) -> bool:
        """Whether the shares ask for anything."""
        return self.outside_min > 0 or self.outside_max < 1


class DiversityOptions(Options):
    """Maximal marginal relevance on the model's factors; without factors nothing is done."""

    on: bool = Field(
        default=False, description="Whether what resembles the places above it gives way."
    )
    relevance: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="What rank weighs against being unlike: 1 is rank alone.",
    )


class Pin(Options):
    """An activity that stands in a place of its own."""

    id: str = Field(description="The activity.")
    position: int = Field(default=0, ge=0, le=999, description="Its place in the slate, 0-based.")

    @field_validator("id")
    @classmethod
    def _check_id(cls, activity: str) -> str:
        return _distinct_ids((activity,))[0]


class ExplorationOptions(Options):
    """How often chance fills a place, to learn what the score does not know."""

    policy: Literal["none", "epsilon", "thompson"] = Field(
        default="none",
        description="Nothing; any candidate, all equally likely; or one drawn from what is known "
        "of each candidate's rate of engagement.",
    )
    rate: float = Field(default=0.1, ge=0, le=1, description="Share of places that chance fills.")


def _named(options: Options) -> dict[str, Any]:  # Any: one class for each name
    return {name: getattr(options, name) for name in type(options).model_fields}


def _distinct_ids(activities: tuple[str, ...]) -> tuple[str, ...]:
    for activity in activities:
        try:
            position_of(activity)
        except InvalidCursor as error:
            raise ValueError(str(error)) from None
    if len(set(activities)) < len(activities):
        raise ValueError("an activity is named twice: name each once")
    return activities
