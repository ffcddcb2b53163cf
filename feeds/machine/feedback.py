"""What users say of what they are shown: a fact in the log, and a change of the user's record."""

import msgspec

from feeds.commands import GiveFeedback
from feeds.counters import UserRecord, counted_tags
from feeds.events import FeedbackGiven
from feeds.keys import ActivityKey, CounterKey
from feeds.machine.changes import Changes
from feeds.model import position_of
from feeds.opinions import Opinions
from feeds.results import RecordResult, Rejected
from feeds.store.base import View
from feeds.values import decode_activity, decode_user, encode

__all__ = ["give_feedback"]


def give_feedback(command: GiveFeedback, changes: Changes, view: View) -> RecordResult | Rejected:
    """Change the user's record, and leave in the log what of: names, also where an activity is."""
    given = _named(command.given, command.tenant, view)
    if given is None:
        return RecordResult(changes.index, 0, (command.given.activity_id,))
    key = CounterKey(command.tenant, "user", given.user.encode()).encode()
    stored = view.get("counters", key)
    record = UserRecord.empty() if stored is None else decode_user(stored)
    record.give(given)
    if given.kind == "mute" and (full := _full(record, given, command.muted_max)):
        return full
    changes.tell(given)
    changes.put("counters", key, encode(record))
    return RecordResult(changes.index, 1)


def _named(given: FeedbackGiven, tenant: str, view: View) -> FeedbackGiven | None:
    """With the tags of the activity of which more or less is wanted, or else its author.

    None where there is no such activity.
    """
    if not given.activity_id or given.kind == "unhide":
        return given
    key = ActivityKey.prefix(tenant) + position_of(given.activity_id)
    data = view.get("activities", key)
    if data is None:
        return None
    posted = decode_activity(data).posted
    tags = counted_tags(posted.tags)
    return msgspec.structs.replace(given, tags=tags, actor="" if tags else posted.actor)


def _full(record: UserRecord, given: FeedbackGiven, muted_max: int) -> Rejected | None:
    """Why no more can be muted: nothing that was muted comes back for a new one."""
    said: tuple[tuple[str, Opinions], ...] = (
        ("authors", record.of_authors),
        ("tags", record.of_tags),
    )
    for what, opinions in said:
        if len(opinions.muted) > muted_max:
            return Rejected(
                "limit",
                f"{given.user} has muted {muted_max} {what}, which is muted_max: unmute one first",
            )
    return None
