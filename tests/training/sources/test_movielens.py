"""A wheel of four ratings, and the real one where a download is possible."""

import hashlib
import os
import zipfile
from pathlib import Path

import pytest

from feeds.actions import Action, Engage, Follow, Post
from training.errors import SourceError
from training.sources import movielens, read_source

ITEMS = "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
RATINGS = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"


def wheel(directory: Path, items: str, ratings: str) -> Path:
    path = directory / "data.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.item", ITEMS + items)
        archive.writestr("recbole/dataset_example/ml-100k/ml-100k.inter", RATINGS + ratings)
    return path


def read(path: Path) -> list[Action]:
    actions, _ = read_source("movielens", path, path.parent)
    return list(actions)


def sentence(action: Action) -> str:
    match action:
        case Post(object=thing, feed=feed, to=to):
            return f"{thing} in {feed} {' '.join(to)}".strip()
        case Engage(user=user, kind=kind, value=value):
            return f"{user} {kind} {value:.0f}"
        case Follow(follower=follower, target=target, derived=True, copy_limit=limit):
            return f"{follower} -> {target}, {limit}"
        case other:
            raise AssertionError(other)


def test_ratings_read_as_this_story(tmp_path: Path) -> None:
    items = "1\tToy Story\t1995\tAnimation Children's\n2\tHeat\t1995\tAnimation\n3\tX\t\t\n"
    ratings = "7\t2\t4\t30\n7\t1\t5\t20\n8\t3\t2\t10\n8\t1\t3\t40\n"
    expected = [
        "movie:3 in topic:unknown",  # a low rating posts the movie, and is nothing else
        "movie:1 in topic:Animation topic:Childrens",
        "7 like 5",
        "movie:2 in topic:Animation",
        "7 like 4",
        "timeline:7 -> topic:Animation, 1000",
    ]
    assert expected == [sentence(a) for a in read(wheel(tmp_path, items, ratings))]


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ("7\t2\tfour\t30\n", r"ml-100k\.inter:2: could not convert"),
        ("7\t2\t4\n", r"ml-100k\.inter:2: 3 columns, not 4"),
        ("", "no rating"),
    ],
)
def test_damaged_data_is_named_with_its_line(tmp_path: Path, ratings: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(wheel(tmp_path, "2\tHeat\t1995\tAction\n", ratings))


def test_a_wheel_of_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / movielens.WHEEL.file).write_bytes(b"something else")
    with pytest.raises(SourceError, match=r"SHA-256 .* delete the file"):
        movielens.fetch_wheel(tmp_path)


def test_offline_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(SourceError, match="go online once, or put recbole"):
        movielens.fetch_wheel(tmp_path)


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "not.whl"
    path.write_bytes(b"PK")
    with pytest.raises(SourceError, match="cannot be read"):
        read(path)


def test_the_real_wheel_holds_100000_ratings() -> None:
    cache = Path(os.environ.get("HEADWATER_CACHE", ".headwater/cache"))
    try:
        path = movielens.fetch_wheel(cache)
    except SourceError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == movielens.WHEEL.sha256
    actions, report = read_source("movielens", path, cache)
    times = [action.time_us for action in actions]
    assert sorted(times) == times
    assert report.counts == {"posts": 1682, "engagements like": 55375, "follows derived": 10300}
    assert report.skipped == {"ratings below 4": 44625}
