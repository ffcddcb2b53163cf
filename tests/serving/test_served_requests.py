from feeds.model import TenantId, UserId
from ranking.candidates import FeedKind
from serving.served_requests import RecentRequests, ServedRequest

ACME, BRAVO, CORAL = TenantId("acme"), TenantId("bravo"), TenantId("coral")


def asked(user: str, time_us: int, kind: FeedKind = "personalized") -> ServedRequest:
    return ServedRequest(UserId(user), kind, time_us, time_us)


def test_the_last_of_each_user_and_kind_come_newest_first() -> None:
    recent = RecentRequests(10, 10)
    for request in (asked("a", 1), asked("b", 2), asked("a", 3), asked("a", 4, "explore")):
        recent.note(ACME, request)
    assert recent.last(ACME, 9) == [asked("a", 4, "explore"), asked("a", 3), asked("b", 2)]
    assert recent.last(ACME, 1) == [asked("a", 4, "explore")]
    assert recent.last(BRAVO, 9) == []


def test_requests_and_tenants_are_bounded() -> None:
    recent = RecentRequests(2, 2)
    for number in range(5):
        recent.note(ACME, asked(f"u{number}", number))
    assert recent.last(ACME, 9) == [asked("u4", 4), asked("u3", 3)]
    recent.note(BRAVO, asked("x", 1))
    recent.note(ACME, asked("u5", 5))
    recent.note(CORAL, asked("x", 1))
    assert recent.last(BRAVO, 9) == []
    assert recent.last(ACME, 1) == [asked("u5", 5)]
