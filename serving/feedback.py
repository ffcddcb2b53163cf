"""Feedback of users: what a client sends, and what of a held slate it takes back."""

from collections.abc import Sequence
from typing import Final, Literal, Self

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from feeds.events import HIDING_KINDS, Engagement, EngagementKind, FeedbackGiven, FeedbackKind
from feeds.model import ActivityId, Position, check_user_id, position_of
from ranking.candidates import Candidates, Query
from ranking.filters import Filter, apply_filters
from ranking.table import ActivityTable
from serving.requests import Body

__all__ = ["FeedbackBody", "is_said", "withdrawn"]

_TARGETS: Final = ("activity_id", "author", "tag")
_TAKES: Final = {"hide": _TARGETS[:1], "report": _TARGETS[:1], "unhide": _TARGETS[:1]} | {
    "mute": _TARGETS[1:],
    "unmute": _TARGETS[1:],
}
"""What a kind of feedback is about, where that is not any of them."""


class FeedbackBody(Body):
    """What a user says of one activity, author or tag."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "user": "bob",
                    "kind": "hide",
                    "activity_id": "87a9eec0-fd5f-11e8-8080-80013fed2f5b",
                },
                {"user": "bob", "kind": "mute", "author": "user:alice"},
                {"user": "bob", "kind": "show_less", "tag": "qubit"},
            ]
        },
    )

    user: str = Field(description="The user's id.")
    kind: Literal["hide", "report", "unhide", "mute", "unmute", "show_more", "show_less"] = Field(
        description="`hide` or `report` an activity, which hides it too, and `unhide` it; `mute` "
        "and `unmute` an author or a tag; "
        "`show_more` and `show_less` of an author or a tag, or of an activity: of its tags, and "
        "of its author where it has none. The last word counts."
    )
    activity_id: str | None = Field(None, description="The activity's id.")
    author: str | None = Field(
        None, min_length=1, description="The author, as activities name their actor."
    )
    tag: str | None = Field(None, min_length=1, description="The tag.")

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        takes = _TAKES.get(self.kind, _TARGETS)
        given = [name for name in _TARGETS if getattr(self, name) is not None]
        if len(given) != 1 or given[0] not in takes:
            raise ValueError(
                f"{self.kind} is about one {' or '.join(takes)}, and this names "
                f"{' and '.join(given) or 'nothing'}: name one"
            )
        return self

    def engagement(self, now_us: int) -> Engagement:
        """A hide or a report as the event that it is; raises `InvalidInput`."""
        if self.kind not in HIDING_KINDS:
            raise ValueError(f"{self.kind} is no engagement")
        kind: EngagementKind = "report" if self.kind == "report" else "hide"
        user = check_user_id(self.user)
        return Engagement(time_us=now_us, user=user, activity_id=self._activity(), kind=kind)

    def given(self, now_us: int) -> FeedbackGiven:
        """Anything else as the engine takes it; raises `InvalidInput`."""
        match self.kind:
            case "hide" | "report":
                raise ValueError(f"a {self.kind} is an engagement")
            case said:
                kind: FeedbackKind = said
        return FeedbackGiven(
            time_us=now_us,
            user=check_user_id(self.user),
            kind=kind,
            activity_id=self._activity(),
            actor=self.author or "",
            tags=() if self.tag is None else (self.tag,),
        )

    def _activity(self) -> ActivityId:
        if self.activity_id is not None:
            position_of(self.activity_id)
        return ActivityId(self.activity_id or "")


def is_said(query: Query) -> bool:
    """Whether the user, or the request, leaves out anything by its name."""
    said = query.feedback
    names = (said.muted_authors, said.muted_tags, said.less_authors, said.less_tags)
    return any((query.record.hidden, query.excluded, *names))


def withdrawn(
    query: Query, filters: Sequence[Filter], positions: Sequence[Position], table: ActivityTable
) -> frozenset[Position]:
    """Of these activities, those that the filters leave out now; what the table lacks is kept."""
    rows = table.rows(positions)
    rows = rows[rows >= 0]
    candidates = Candidates(rows, np.zeros(len(rows), dtype=np.int8), ("slate",))
    removed = apply_filters(filters, query, candidates, table).removed
    return frozenset(each for part in removed for each in table.positions(part.rows))
