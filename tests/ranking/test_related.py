"""What is related to an activity, whatever the table holds."""

from hypothesis import given
from hypothesis import strategies as st

from feeds.events import Event
from feeds.model import position_of
from ranking.related import RELATED_MAX, RELATIONS, Seed, related
from ranking.testing import T0_US, engaged, posted, table_of

tags = st.lists(st.sampled_from("abcd"), max_size=3, unique=True)


@given(
    st.lists(st.tuples(st.sampled_from(("user:ann", "user:bob")), tags), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), st.sampled_from("uvw")), max_size=12),
    st.integers(0, 7),
)
def test_what_shares_a_name_is_related_and_nothing_else(
    posts: list[tuple[str, list[str]]], likes: list[tuple[int, str]], chosen: int
) -> None:
    made = [
        posted(f"p{n}", T0_US + n, actor=actor, tags=tuple(names))
        for n, (actor, names) in enumerate(posts)
    ]
    events: list[Event] = [*made]
    events += [engaged(made[n % len(made)], user, T0_US + 99, "like") for n, user in likes]
    people = {
        post.activity_id: {user for n, user in likes if made[n % len(made)] is post}
        for post in made
    }
    seed = made[chosen % len(made)]
    table = table_of(events)

    found = related(
        Seed(
            position_of(seed.activity_id), seed.actor, seed.tags, sorted(people[seed.activity_id])
        ),
        table,
    )

    expected = {
        post.activity_id
        for post in made
        if post is not seed
        and (
            post.actor == seed.actor
            or set(post.tags) & set(seed.tags)
            or people[post.activity_id] & people[seed.activity_id]
        )
    }
    assert set(table.ids(found.rows)) == expected
    assert list(found.strengths) == sorted(found.strengths, reverse=True)
    assert set(found.relations) <= RELATIONS.keys()


def test_they_are_bounded_and_a_seed_outside_of_the_table_will_do() -> None:
    events = [posted(f"p{n}", T0_US + n, actor="user:ann") for n in range(RELATED_MAX + 50)]
    elsewhere = posted("gone", T0_US - 5, actor="user:ann")

    found = related(Seed(position_of(elsewhere.activity_id), "user:ann"), table_of(events))

    assert len(found.rows) == RELATED_MAX
    assert len(related(Seed(b"p" * 16, "user:nobody"), table_of(events)).rows) == 0
