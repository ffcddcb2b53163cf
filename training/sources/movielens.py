"""MovieLens 100K as actions: a genre is a feed, a movie is an activity, a good rating is a like.

| in the data | becomes |
|---|---|
| the first rating of a movie, of whatever height | the movie is posted to its genres' feeds |
| a rating of 4 or 5 | engagement `like` with the movie, `value` the rating |
| a rating of 1 to 3 | nothing: it is neither a click nor a hide, and neither is invented |
| the second rating of 4 or 5 in a genre | `timeline:<user>` follows `topic:<genre>`, derived |

The data is read out of the wheel of recbole 1.2.1, which carries it; see `wheels`.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from feeds.actions import Action, Engage, Follow, Post
from feeds.model import ActivityId
from training.errors import SourceError
from training.sources.base import SourceReport, id_of, slug
from training.sources.wheels import Wheel, fetch, read_member

__all__ = [
    "DERIVED",
    "FOLLOW_COPY_LIMIT",
    "LIKE_RATING_MIN",
    "WHEEL",
    "Rating",
    "fetch_wheel",
    "read_movielens",
    "read_ratings",
]

DERIVED = (
    (
        "Follows are derived: a user follows a genre right after two ratings of 4 or more in it. "
        "MovieLens has no follow graph."
    ),
    (
        "A movie is posted at its first rating, by one made-up catalogue account; the data does "
        "not say when movies were added."
    ),
    "Ratings of 4 or more are likes; ratings below 4 leave no event.",
    "The data has no impressions; none are invented.",
)
"""What the actions hold that the data does not say."""

LIKE_RATING_MIN = 4.0
"""The lowest rating, of 1 to 5, that counts as a like."""

FOLLOW_LIKES_MIN = 2
"""Likes in a genre after which a user follows it."""

FOLLOW_COPY_LIMIT = 1_000
"""Activities that a new follow of a genre copies into the timeline."""

WHEEL = Wheel(
    project="recbole",
    version="1.2.1",
    file="recbole-1.2.1-py3-none-any.whl",
    sha256="9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    holds="MovieLens",
)
"""Carries the data."""

_FOLDER = "recbole/dataset_example/ml-100k"
_CATALOG = "studio:catalog"


@dataclass(frozen=True, slots=True)
class _Movie:
    id: str
    title: str
    year: str
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rating:
    """One rating: when, whose, of which movie, and how high, 1 to 5."""

    time_us: int
    user: str
    movie: str
    rating: float


def fetch_wheel(cache: Path) -> Path:
    """The wheel with the data, downloaded into `cache` unless it is there; its checksum is right.

    Raises `SourceError` with what to do when it cannot be had.
    """
    return fetch(WHEEL, cache)


def read_movielens(wheel: Path, report: SourceReport) -> Iterator[Action]:
    """The actions in time order; raises `SourceError` where the wheel does not hold the data."""
    movies = {movie.id: movie for movie in _movies(wheel)}
    # Equal times keep the file's order, so that the log is the same each time.
    ratings = sorted(read_ratings(wheel), key=lambda rating: rating.time_us)
    if not ratings:
        raise SourceError(f"{wheel}: holds no rating; delete the file and try again")
    posted: dict[str, ActivityId] = {}
    likes: Counter[tuple[str, str]] = Counter()
    for rating in ratings:
        movie = movies.get(rating.movie)
        if movie is None:
            report.skipped["ratings of a movie that is not in the catalogue"] += 1
            continue
        if movie.id not in posted:
            post = _post(movie, rating.time_us)
            posted[movie.id] = id_of(post)
            yield post
        if rating.rating < LIKE_RATING_MIN:
            report.skipped["ratings below 4"] += 1
            continue
        yield Engage(
            time_us=rating.time_us,
            user=rating.user,
            activity_id=posted[movie.id],
            kind="like",
            value=rating.rating,
        )
        yield from _follows(rating, movie, likes)


def _follows(rating: Rating, movie: _Movie, likes: Counter[tuple[str, str]]) -> Iterator[Follow]:
    for genre in movie.genres:
        likes[rating.user, genre] += 1
        if likes[rating.user, genre] == FOLLOW_LIKES_MIN:
            yield Follow(
                time_us=rating.time_us,
                follower=f"timeline:{rating.user}",
                target=f"topic:{slug(genre)}",
                copy_limit=FOLLOW_COPY_LIMIT,
                derived=True,
            )


def _post(movie: _Movie, time_us: int) -> Post:
    home, *others = [f"topic:{slug(genre)}" for genre in movie.genres]
    return Post(
        time_us=time_us,
        feed=home,
        actor=_CATALOG,
        verb="release",
        object=f"movie:{movie.id}",
        foreign_id=f"movie:{movie.id}",
        to=tuple(others),
        custom={"title": movie.title, "year": movie.year, "tags": list(movie.genres)},
    )


def _movies(wheel: Path) -> Iterator[_Movie]:
    for _, row in _rows(wheel, "ml-100k.item", 4):
        genres = tuple(dict.fromkeys(row[3].split())) or ("unknown",)
        yield _Movie(row[0], row[1], row[2], genres)


def read_ratings(wheel: Path) -> Iterator[Rating]:
    """The ratings in the file's order; raises `SourceError` where they cannot be read."""
    for line, row in _rows(wheel, "ml-100k.inter", 4):
        try:
            yield Rating(int(row[3]) * 1_000_000, row[0], row[1], float(row[2]))
        except ValueError as error:
            raise SourceError(f"{wheel}: ml-100k.inter:{line}: {error}") from error


def _rows(wheel: Path, name: str, columns: int) -> Iterator[tuple[int, list[str]]]:
    text = read_member(WHEEL, wheel, f"{_FOLDER}/{name}")
    lines = csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    next(lines, None)
    for line, row in enumerate(lines, start=2):
        if len(row) != columns:
            raise SourceError(f"{wheel}: {name}:{line}: {len(row)} columns, not {columns}")
        yield line, row
