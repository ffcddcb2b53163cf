"""A small dump, written out in full, and the real one where it is at hand."""

import os
from pathlib import Path

import pytest

from feeds.actions import Action, Engage, Follow, Post
from feeds.model import id_time_us, parse_time
from training.errors import SourceError
from training.sources import prepare, read_source

USERS = '<users><row Id="-1"/><row Id="1"/><row Id="2"/><row Id="3"/></users>'
POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="10" PostTypeId="1" CreationDate="2018-03-12T10:00:00.000" OwnerUserId="1"
       Title="What is a qubit?" Tags="&lt;qubit&gt;&lt;q#&gt;"/>
  <row Id="11" PostTypeId="2" ParentId="10" CreationDate="2018-03-12T11:00:00.000" OwnerUserId="2"/>
  <row Id="12" PostTypeId="1" CreationDate="2018-03-13T10:00:00.000" Title="Ownerless" Tags="|a|"/>
  <row Id="13" PostTypeId="5" CreationDate="2018-03-13T10:00:00.000"/>
</posts>
"""
COMMENTS = """<comments>
  <row Id="1" PostId="10" CreationDate="2018-03-12T12:00:00.000" UserId="1"/>
  <row Id="2" PostId="11" CreationDate="2018-03-12T12:30:00.000" UserId="1"/>
  <row Id="3" PostId="11" CreationDate="2018-03-12T13:00:00.000" UserId="3"/>
  <row Id="4" PostId="10" CreationDate="2018-03-12T14:00:00.000"/>
  <row Id="5" PostId="99" CreationDate="2018-03-12T14:00:00.000" UserId="3"/>
</comments>
"""
VOTES = """<votes>
  <row Id="1" PostId="10" VoteTypeId="2" CreationDate="2018-03-12T00:00:00.000"/>
  <row Id="2" PostId="10" VoteTypeId="5" UserId="3" CreationDate="2018-03-12T00:00:00.000"/>
</votes>
"""


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    directory = tmp_path / "dump"
    directory.mkdir()
    (directory / "Users.xml").write_text(USERS)
    (directory / "Posts.xml").write_text(POSTS)
    (directory / "Comments.xml").write_text(COMMENTS)
    (directory / "Votes.xml").write_text(VOTES)
    return directory


def read(directory: Path) -> list[Action]:
    actions, _ = read_source("stackexchange", directory, directory)
    return list(actions)


def sentence(action: Action) -> str:
    match action:
        case Post(actor=actor, object=thing, feed=feed, to=to):
            return f"{actor} posts {thing} to {feed} {' '.join(to)}".strip()
        case Engage(user=user, kind=kind):
            return f"{user} {kind}"
        case Follow(follower=follower, target=target, derived=True):
            return f"{follower} -> {target}"
        case other:
            raise AssertionError(other)


def test_a_dump_reads_as_this_story(dump: Path) -> None:
    expected = [
        "user:1 posts question:10 to user:1 topic:qubit topic:q_sharp",
        "2 comment",
        "timeline:2 -> user:1",
        "timeline:1 -> user:2",  # a comment on an answer in one's own thread engages with nothing
        "3 comment",
        "timeline:3 -> user:2",
        "3 bookmark",
        "timeline:3 -> user:1",
        "user:unknown posts question:12 to user:unknown topic:a",
    ]
    assert expected == [sentence(action) for action in read(dump)]


def test_a_favourite_stands_at_the_end_of_its_day(dump: Path) -> None:
    times = [a.time_us for a in read(dump) if isinstance(a, Engage) and a.kind == "bookmark"]
    assert [parse_time("2018-03-12T23:59:59.999999")] == times


def test_an_engagement_names_the_id_that_posting_will_give(dump: Path) -> None:
    actions = read(dump)
    engagement = next(a for a in actions if isinstance(a, Engage))
    assert parse_time("2018-03-12T10:00:00") == id_time_us(engagement.activity_id)


def test_actions_are_in_time_order(dump: Path) -> None:
    times = [action.time_us for action in read(dump)]
    assert sorted(times) == times


def test_what_is_left_out_is_counted(dump: Path, tmp_path: Path) -> None:
    report = prepare("stackexchange", dump, tmp_path / "log.jsonl", tmp_path)
    assert dict(report.skipped) == {
        "engagements with a post that is no question or answer": 1,
        "engagements without a known user": 1,
        "posts that are neither question nor answer": 1,
    }


def test_an_empty_directory_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"Users\.xml, Posts\.xml.* missing; unpack"):
        read(tmp_path)


def test_a_missing_path_is_refused() -> None:
    with pytest.raises(SourceError, match="needs --path"):
        read_source("stackexchange", None, Path())


def test_a_truncated_file_is_refused_with_line_and_byte(dump: Path) -> None:
    path = dump / "Comments.xml"
    path.write_text(COMMENTS[: len(COMMENTS) // 2])
    with pytest.raises(SourceError, match=r"Comments\.xml:\d+: .* at byte \d+ .*download"):
        read(dump)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2018-03-12T11:00:00.000", "yesterday", r"Posts\.xml:5: CreationDate: time 'yesterday'"),
        ("2018-03-12T11:00:00.000", "9999-01-01T00:00:00", r"Posts\.xml:5: .*outside 1970"),
        ('Id="11"', 'Id="eleven"', r"Posts\.xml:5: Id is 'eleven', not a whole number"),
        ('ParentId="10"', "", r"Posts\.xml:5: the row has no attribute ParentId"),
        ("<posts>", "<!DOCTYPE x [<!ENTITY a 'b'>]><posts>", r"Posts\.xml:2: .*document type"),
    ],
)
def test_damage_is_named_with_its_line(dump: Path, old: str, new: str, message: str) -> None:
    path = dump / "Posts.xml"
    path.write_text(POSTS.replace(old, new))
    with pytest.raises(SourceError, match=message):
        read(dump)


def test_bytes_that_are_not_utf_8_are_refused(dump: Path) -> None:
    (dump / "Posts.xml").write_bytes(POSTS.encode().replace(b"qubit?", b"qu\xffbit?"))
    with pytest.raises(SourceError, match=r"Posts\.xml:4: the XML is damaged"):
        read(dump)


def test_a_file_without_rows_is_refused_before_it_fills_memory(dump: Path) -> None:
    (dump / "Posts.xml").write_text("<posts>" + " " * 9_000_000)
    with pytest.raises(SourceError, match="no row ends within 8388608 bytes"):
        read(dump)


def test_a_dump_without_questions_is_refused(dump: Path) -> None:
    (dump / "Posts.xml").write_text("<posts></posts>")
    with pytest.raises(SourceError, match="no question"):
        read(dump)


def test_a_failure_leaves_the_earlier_log_and_no_other_file(dump: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "log.jsonl"
    prepare("stackexchange", dump, out, tmp_path)
    before = out.read_bytes()
    (dump / "Posts.xml").write_text("<posts></posts>")
    with pytest.raises(SourceError):
        prepare("stackexchange", dump, out, tmp_path)
    assert before == out.read_bytes()
    assert [out] == list(out.parent.iterdir())


def real_dump() -> Path:
    root = Path(os.environ.get("HEADWATER_DATA", "../shared/data"))
    path = root / "stackexchange-quantumcomputing"
    if not path.is_dir():
        assert os.environ.get("CI") != "true", f"{path} is needed in CI: set HEADWATER_DATA"
        pytest.skip(f"{path} is not here: set HEADWATER_DATA to the directory of data sets")
    return path


def test_the_real_dump_has_the_counts_that_its_readme_states(tmp_path: Path) -> None:
    report = prepare("stackexchange", real_dump(), tmp_path / "log.jsonl", tmp_path)
    assert dict(report.counts) == {
        "posts": 612,
        "engagements comment": 3425,
        "engagements bookmark": 667,
        "follows derived": 2254,
    }
