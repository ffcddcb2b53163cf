"""From what a caller sent to a command, or to a sentence that says why not.

Everything is checked here, before anything is logged: a command in the log is one that the machine
can apply. Times and ids are stamped here too.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
import orjson

from feeds.checks import (
    check_activity_id,
    check_number,
    check_text,
    check_time,
    is_finite,
    not_json,
)
from feeds.commands import (
    OPERATION,
    ActivateVersion,
    Command,
    FollowFeed,
    GiveFeedback,
    Once,
    PostActivity,
    RecordEvents,
    RemoveActivity,
    SaveVersion,
    UnfollowFeed,
    encode_command,
)
from feeds.config import FeedsConfig
from feeds.errors import InvalidInput, LimitExceeded, UnknownFeedGroup
from feeds.events import ENGAGEMENT_KINDS, Engagement, FeedbackGiven, Impression, Posted
from feeds.idempotency import LastingKey, stamp
from feeds.model import (
    Activity,
    ActivityDraft,
    FeedId,
    TenantId,
    check_user_id,
    encode_body,
    identify,
    is_feed_id,
)

__all__ = ["Intake"]

_PLACE_MAX = 2**31 - 1
_VERSION_MAX = 2**53 - 1  # as JSON holds numbers exactly
_encode = msgspec.msgpack.Encoder().encode


class Intake:
    """Makes commands of what callers send, within the limits of a configuration."""

    def __init__(self, config: FeedsConfig) -> None:
        self._config = config
        self._groups = {group.name: group for group in config.groups}

    def encode(self, command: Command) -> bytes:
        """The command as the log holds it; raises `LimitExceeded` if it is too large for it."""
        data = encode_command(command)
        if len(data) > self._config.command_bytes_max:
            raise LimitExceeded(
                f"this write takes {len(data)} bytes, command_bytes_max is "
                f"{self._config.command_bytes_max}: send it in smaller parts"
            )
        return data

    def check_feed(self, feed: FeedId) -> str:
        """The text of a feed whose group exists."""
        text = str(feed)
        if not is_feed_id(text):
            FeedId.parse(text)  # which raises, and says what is expected
        if feed.group not in self._groups:
            known = ", ".join(sorted(self._groups))
            raise UnknownFeedGroup(
                f"feed group {feed.group!r} is not configured: use one of {known}"
            )
        return text

    def post(
        self,
        tenant: TenantId,
        feed: FeedId,
        draft: ActivityDraft,
        key: str | LastingKey | None,
        now_us: int,
        storage_max: int,
    ) -> tuple[PostActivity, Activity]:
        """The command that posts a draft, and the activity that it makes."""
        home = self.check_feed(feed)
        activity = self._activity(home, draft, now_us)
        body = self._body(activity)
        posted = Posted(
            time_us=activity.time_us,
            activity_id=activity.id,
            actor=activity.actor,
            verb=activity.verb,
            object=activity.object,
            feed=home,
            to=activity.to,
            tags=activity.tags,
            length=len(body),
        )
        command = PostActivity(
            tenant=tenant,
            posted=posted,
            body=body,
            places_max=1 + self._config.to_max,
            once=None if key is None else self._once(key, _content(home, draft), now_us),
            inline_max=self._config.fanout_inline_max,
            tasks_max=self._config.outbox_tasks_max,
            storage_max=storage_max,
        )
        return command, activity

    def remove(
        self,
        tenant: TenantId,
        activity_id: str,
        *,
        time_us: int | None,
        key: str | LastingKey | None,
        now_us: int,
    ) -> RemoveActivity:
        """The command that removes an activity."""
        check_activity_id(activity_id)
        return RemoveActivity(
            tenant=tenant,
            activity_id=activity_id,
            time_us=self._time(time_us, now_us),
            once=self._once_of(key, ("remove", activity_id, time_us), now_us),
            inline_max=self._config.fanout_inline_max,
            tasks_max=self._config.outbox_tasks_max,
        )

    def follow(
        self,
        tenant: TenantId,
        follower: FeedId,
        target: FeedId,
        *,
        copy_limit: int,
        derived: bool,
        time_us: int | None,
        key: str | LastingKey | None,
        now_us: int,
    ) -> FollowFeed:
        """The command that makes an edge."""
        follower_text, target_text = self.check_feed(follower), self.check_feed(target)
        if follower == target:
            raise InvalidInput(f"{follower_text} cannot follow itself: name another feed")
        if not self._groups[target.group].followable:
            raise InvalidInput(
                f"{target_text} cannot be followed, as feeds of group {target.group!r} only "
                "gather: follow the feeds that they follow"
            )
        check_number("copy_limit", copy_limit, 0, self._config.copy_limit_max, "copy_limit_max")
        return FollowFeed(
            tenant=tenant,
            follower=follower_text,
            target=target_text,
            time_us=self._time(time_us, now_us),
            copy_limit=copy_limit,
            copy_max=self._config.copy_limit_max,
            pull_above=self._config.pull_followers_min,
            follows_max=self._config.follows_max,
            derived=derived,
            once=self._once_of(
                key, ("follow", follower_text, target_text, copy_limit, derived, time_us), now_us
            ),
        )

    def unfollow(
        self,
        tenant: TenantId,
        follower: FeedId,
        target: FeedId,
        *,
        keep_history: bool,
        time_us: int | None,
        key: str | LastingKey | None,
        now_us: int,
    ) -> UnfollowFeed:
        """The command that ends an edge."""
        config = self._config
        follower_text, target_text = self.check_feed(follower), self.check_feed(target)
        return UnfollowFeed(
            tenant=tenant,
            follower=follower_text,
            target=target_text,
            time_us=self._time(time_us, now_us),
            rows_max=config.unfollow_rows_max,
            scan_max=config.pull_scan_max if keep_history else config.unfollow_scan_max,
            copy_max=config.copy_limit_max,
            keep_history=keep_history,
            once=self._once_of(
                key, ("unfollow", follower_text, target_text, keep_history, time_us), now_us
            ),
            tasks_max=config.outbox_tasks_max,
        )

    def record(
        self,
        tenant: TenantId,
        events: Sequence[Impression | Engagement],
        key: str | LastingKey | None,
        now_us: int,
        content: bytes | None = None,
    ) -> RecordEvents:
        """The command that records events; the first that cannot be is named by its place.

        `content` is what the key stands for, where it is not the events themselves.
        """
        limit = self._config.events_batch_max
        if len(events) > limit:
            raise LimitExceeded(
                f"{len(events)} events in one batch, events_batch_max is {limit}: send fewer"
            )
        for number, event in enumerate(events):
            try:
                self._check_event(event, now_us)
            except InvalidInput as error:
                raise type(error)(f"event {number}: {error}") from None
        batch = tuple(events)
        once = None if key is None else self._once(key, content or _encode(batch), now_us)
        return RecordEvents(tenant=tenant, events=batch, once=once)

    def save_config(
        self, tenant: TenantId, document: bytes, key: str | LastingKey | None, now_us: int
    ) -> SaveVersion:
        """The command that saves a ranking config."""
        limit = self._config.ranking_config_bytes_max
        if len(document) > limit:
            raise LimitExceeded(
                f"the ranking config takes {len(document)} bytes, ranking_config_bytes_max is "
                f"{limit}: leave out what is as by default"
            )
        return SaveVersion(
            tenant=tenant,
            document=document,
            now_us=now_us,
            versions_max=self._config.ranking_configs_max,
            once=None if key is None else self._once(key, document, now_us),
        )

    def activate_config(
        self,
        tenant: TenantId,
        version: int,
        expected_version: int,
        key: str | LastingKey | None,
        now_us: int,
    ) -> ActivateVersion:
        """The command that lets a version be active."""
        for name, number in (("version", version), ("expected_version", expected_version)):
            check_number(name, number, 0, _VERSION_MAX, "the largest")
        return ActivateVersion(
            tenant=tenant,
            version=version,
            expected=expected_version,
            now_us=now_us,
            once=self._once_of(key, ("activate", version, expected_version), now_us),
        )

    def feedback(
        self,
        tenant: TenantId,
        given: FeedbackGiven,
        key: str | LastingKey | None,
        now_us: int,
        content: bytes | None = None,
    ) -> GiveFeedback:
        """The command that takes in what a user said of an activity, an author or tags."""
        check_user_id(given.user)
        check_time(given.time_us, now_us, self._config.future_time_max_s)
        if given.activity_id:
            check_activity_id(given.activity_id)
        self._text("author", given.actor)
        if len(given.to) > self._config.to_max:
            raise LimitExceeded(
                f"{len(given.to)} feeds, to_max is {self._config.to_max}: name fewer at a time"
            )
        for feed in given.to:
            self.check_feed(FeedId.parse(feed))
        if len(given.tags) > self._config.tags_max:
            raise LimitExceeded(
                f"{len(given.tags)} tags, tags_max is {self._config.tags_max}: name fewer"
            )
        for tag in given.tags:
            if len(tag.encode("utf-8", "replace")) > self._config.tag_bytes_max:
                raise LimitExceeded(
                    f"a tag takes more than tag_bytes_max, {self._config.tag_bytes_max} bytes: no "
                    "activity has such a tag"
                )
            self._text("tag", tag)
        once = None if key is None else self._once(key, content or _encode(given), now_us)
        return GiveFeedback(tenant=tenant, given=given, muted_max=self._config.muted_max, once=once)

    def _activity(self, home: str, draft: ActivityDraft, now_us: int) -> Activity:
        for name in ("actor", "verb", "object"):
            if not self._text(name, getattr(draft, name)):
                raise InvalidInput(f"{name} is empty: say who (actor) did (verb) what (object)")
        self._text("target", draft.target)
        self._text("foreign_id", draft.foreign_id)
        if not isinstance(draft.custom, dict):
            raise InvalidInput("custom fields must be a JSON object: send names and values")
        time_us = self._time(draft.time_us, now_us)
        to = self._to(home, draft.to)
        try:
            activity_id = identify(draft, time_us)
        except (TypeError, ValueError) as error:
            raise not_json(error) from None
        return Activity(
            id=activity_id,
            actor=draft.actor,
            verb=draft.verb,
            object=draft.object,
            time_us=time_us,
            target=draft.target,
            foreign_id=draft.foreign_id,
            to=to,
            tags=self._tags(draft.custom),
            custom=draft.custom,
        )

    def _body(self, activity: Activity) -> bytes:
        try:
            body = encode_body(activity)
        except (TypeError, ValueError) as error:
            raise not_json(error) from None
        limit = self._config.activity_bytes_max
        if len(body) > limit:
            raise LimitExceeded(
                f"the activity takes {len(body)} bytes, activity_bytes_max is {limit}: "
                "send less, and link to large content"
            )
        # orjson writes NaN and infinity as null, which would not come back as it was sent.
        if b"null" in body and not is_finite(activity.custom):
            raise InvalidInput(
                "custom fields hold NaN or an infinite number: send null or leave out"
            )
        return body

    def _to(self, home: str, to: Sequence[str]) -> tuple[str, ...]:
        limit = self._config.to_max
        if isinstance(to, str) or not all(isinstance(feed, str) for feed in to):
            raise InvalidInput("to must be a list of feeds: write ['topic:news']")
        if len(to) > limit:
            raise LimitExceeded(f"{len(to)} feeds in `to`, to_max is {limit}: name fewer")
        places = dict.fromkeys(self.check_feed(FeedId.parse(feed)) for feed in to)
        places.pop(home, None)
        return tuple(places)

    def _tags(self, custom: dict[str, Any]) -> tuple[str, ...]:  # Any: the app's own JSON
        """The texts in the custom field `tags`, without repeats, within the limits."""
        tags = custom.get("tags")
        if not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
            return ()
        limit = self._config.tag_bytes_max
        short = [tag for tag in tags if tag and len(tag.encode("utf-8", "replace")) <= limit]
        return tuple(dict.fromkeys(short))[: self._config.tags_max]

    def _check_event(self, event: Impression | Engagement, now_us: int) -> None:
        check_user_id(event.user)
        check_time(event.time_us, now_us, self._config.future_time_max_s)
        check_activity_id(event.activity_id)
        self._text("feed", event.feed)
        self._text("slate_id", event.slate_id)
        check_number("position", event.position, -1, _PLACE_MAX, "the largest")
        if isinstance(event, Engagement):
            self._check_engagement(event)

    def _check_engagement(self, event: Engagement) -> None:
        if event.kind not in ENGAGEMENT_KINDS:
            kinds = ", ".join(ENGAGEMENT_KINDS)
            raise InvalidInput(f"kind {str(event.kind)[:80]!r} is not known: use one of {kinds}")
        value, limit = event.value, self._config.value_max
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInput("value is not a number: send one, or leave it out")
        if not abs(value) <= limit:
            raise InvalidInput(f"value {value!r} is out of range: send a number within ±{limit:g}")
        if event.kind == "dwell" and not 0 <= value <= self._config.dwell_s_max:
            raise InvalidInput(
                f"value {value!r} of a dwell is out of range: send its seconds, from 0 to "
                f"{self._config.dwell_s_max:g} (dwell_s_max)"
            )

    def _text(self, name: str, text: str) -> str:
        return check_text(name, text, self._config.text_bytes_max)

    def _time(self, time_us: int | None, now_us: int) -> int:
        """The given time, or now; microseconds since the epoch."""
        if time_us is None:
            return now_us
        return check_time(time_us, now_us, self._config.future_time_max_s)

    def _once_of(
        self, key: str | LastingKey | None, content: Sequence[object], now_us: int
    ) -> Once | None:
        return None if key is None else self._once(key, _encode(content), now_us)

    def _once(self, key: str | LastingKey, content: bytes, now_us: int) -> Once:
        config = self._config
        lasting = key if isinstance(key, LastingKey) else LastingKey(key, config.dedup_ttl_s)
        self._text("idempotency key", lasting.text)
        if lasting.text.startswith(OPERATION):
            raise InvalidInput("an idempotency key must not begin as the engine's own do")
        counted = 0 if isinstance(key, LastingKey) else config.dedup_keys_max
        return stamp(lasting, content, now_us, counted)


def _content(home: str, draft: ActivityDraft) -> bytes:
    """What a post's idempotency key stands for."""
    what = (home, draft.actor, draft.verb, draft.object, draft.target)
    rest = (draft.foreign_id, draft.time_us, list(draft.to), draft.custom)
    try:
        return orjson.dumps((what, rest), option=orjson.OPT_SORT_KEYS)
    except (TypeError, ValueError) as error:
        raise not_json(error) from None
