from feeds.model import activity_id, position_of
from ranking.slates import RankedActivities, RankedActivity


def ranked(*numbers: int) -> RankedActivities:
    ids = [activity_id(number, b"x") for number in numbers]
    return RankedActivities(
        activity_ids=ids,
        feed_positions=[position_of(one) for one in ids],
        scores=[number / 8 for number in numbers],
        sources=[f"source {number}" for number in numbers],
        reasons=[f"reason {number}" for number in numbers],
        propensities=[1 / (1 + number) for number in numbers],
    )


def test_a_place_is_made_of_all_its_columns() -> None:
    second = RankedActivity(activity_id(3, b"x"), 1, 0.375, "source 3", "reason 3", 0.25)

    assert ranked(7, 3)[1] == second
    assert list(ranked(7, 3))[1] == second
    assert len(ranked(7, 3)) == 2


def test_places_behind_others_are_numbered_on() -> None:
    both = ranked(7, 3).followed_by(ranked(5))

    assert both == ranked(7, 3, 5)
    assert [place.position for place in both] == [0, 1, 2]


def test_no_places_are_false() -> None:
    assert not ranked()
