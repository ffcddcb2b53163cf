import pytest

from feeds.credentials import ApiKey, format_api_key, hash_secret
from feeds.events import Removed
from feeds.model import ActivityId, TenantId
from serving.errors import KeyRefused, NotAllowed
from serving.tenants import Authenticator

SECRET = "0123456789abcdef0123456789"
STORED = ApiKey(TenantId("acme"), "key1", hash_secret(SECRET), ("read",))
HEADER = "Bearer " + format_api_key("key1", SECRET)


class Keys:
    """A store of keys that counts how often it is asked."""

    def __init__(self, *keys: ApiKey) -> None:
        self.held = {key.key_id: key for key in keys}
        self.asked: list[str] = []

    def find(self, key_id: str) -> ApiKey | None:
        self.asked.append(key_id)
        return self.held.get(key_id)


def authenticator(keys: Keys, now: list[float], cached_max: int = 2) -> Authenticator:
    return Authenticator(keys.find, lambda: now[0], cached_max, cached_s=60)


def test_the_tenant_comes_from_the_key() -> None:
    assert authenticator(Keys(STORED), [0.0]).tenant(HEADER, "read") == "acme"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer hw_key1",
        "Bearer hw_key1_",
        f"Basic hw_key1_{SECRET}",
        f"hw_key1_{SECRET}",
        HEADER + "x",
        HEADER[:-1],
        f"Bearer hw_key2_{SECRET}",
        "Bearer hw_key1_" + "é" * 20,
        "Bearer hw_key1_" + "a" * 100_000,
    ],
)
def test_what_is_no_valid_key_is_refused(header: str | None) -> None:
    with pytest.raises(KeyRefused) as caught:
        authenticator(Keys(STORED), [0.0]).tenant(header, "read")

    assert SECRET not in str(caught.value.detail)


def test_a_key_does_what_its_scopes_say() -> None:
    with pytest.raises(NotAllowed, match="may not write"):
        authenticator(Keys(STORED), [0.0]).tenant(HEADER, "write")


def test_a_key_is_looked_up_again_after_its_time() -> None:
    keys, now = Keys(STORED), [0.0]
    subject = authenticator(keys, now)

    subject.tenant(HEADER, "read")
    subject.tenant(HEADER, "read")
    assert keys.asked == ["key1"]

    now[0] = 61.0
    keys.held.clear()
    with pytest.raises(KeyRefused):
        subject.tenant(HEADER, "read")


def test_an_expired_key_is_refused_from_that_moment_on() -> None:
    now_us = [9]
    keys = Keys(ApiKey(TenantId("acme"), "key1", hash_secret(SECRET), ("read",), 1, 10))
    subject = Authenticator(keys.find, lambda: 0.0, 2, 60, lambda: now_us[0])

    assert subject.tenant(HEADER, "read") == "acme"
    now_us[0] = 10
    with pytest.raises(KeyRefused):
        subject.tenant(HEADER, "read")


def test_what_is_held_of_a_tenant_is_let_go_where_the_tenant_changed() -> None:
    keys = Keys(STORED, ApiKey(TenantId("other"), "key2", hash_secret(SECRET), ("read",)))
    subject = authenticator(keys, [0.0])
    headers = [HEADER, HEADER.replace("key1", "key2")]
    for header in headers:
        subject.tenant(header, "read")
    keys.held.clear()

    subject.changed(TenantId("acme"), 7, [Removed(time_us=0, activity_id=ActivityId("a"))])
    assert subject.tenant(HEADER, "read") == "acme"

    subject.changed(TenantId("acme"), 8, [])
    with pytest.raises(KeyRefused):
        subject.tenant(HEADER, "read")
    assert subject.tenant(headers[1], "read") == "other"

    subject.missed()
    with pytest.raises(KeyRefused):
        subject.tenant(headers[1], "read")


def test_a_key_that_was_revoked_while_it_was_read_is_not_held() -> None:
    keys = Keys(STORED)
    subject: Authenticator

    def find(key_id: str) -> ApiKey | None:
        found = keys.find(key_id)
        subject.changed(TenantId("acme"), 7, [])
        return found

    subject = Authenticator(find, lambda: 0.0, 2, 60)
    assert subject.tenant(HEADER, "read") == "acme"
    keys.held.clear()
    with pytest.raises(KeyRefused):
        subject.tenant(HEADER, "read")


def test_keys_in_memory_are_bounded_and_guesses_do_not_push_them_out() -> None:
    others = [ApiKey(TenantId("b"), f"other{n}", hash_secret(SECRET)) for n in range(3)]
    keys = Keys(STORED, *others)
    subject = authenticator(keys, [0.0])

    subject.tenant(HEADER, "read")
    for n in range(50):
        with pytest.raises(KeyRefused):
            subject.tenant(f"Bearer hw_guess{n}_{SECRET}", "read")
    keys.asked.clear()
    subject.tenant(HEADER, "read")
    assert keys.asked == []

    for other in others:
        subject.tenant("Bearer " + format_api_key(other.key_id, SECRET), "read")
    keys.asked.clear()
    subject.tenant(HEADER, "read")
    assert keys.asked == ["key1"]
