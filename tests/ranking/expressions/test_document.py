"""What a document may say: every mistake is told at once, and nothing else is ever raised."""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import InvalidExpression
from ranking.expressions import ExpressionConfig, compiled, problems
from ranking.expressions.functions import FUNCTIONS
from ranking.expressions.variables import VARIABLES
from ranking.scorers.expression import ExpressionScorer
from ranking.testing import feature_matrix

DOCS = Path(__file__).parents[3] / "docs"


def told(score: object, **parts: object) -> list[str]:
    return problems({"score": score, **parts})


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("popularty", "character 1: there is no variable 'popularty': did you mean popularity?"),
        (
            "1 + Popularity",
            ("character 5: there is no variable 'Popularity': did you mean popularity?"),
        ),
        (
            "custom.price",
            (
                "character 1: there is no variable 'custom.price': "
                "docs/expression-names.md lists them all"
            ),
        ),
        (
            "decay_gaus(time)",
            ("character 1: there is no function 'decay_gaus': did you mean decay_gauss?"),
        ),
        (
            "frobnicate(1)",
            (
                "character 1: there is no function 'frobnicate': "
                "docs/expression-names.md lists them all"
            ),
        ),
        ("time(1)", "character 1: time is a variable: write it without parentheses"),
        ("2 * ln", "character 5: ln is a function: write its arguments in parentheses"),
        ("ln()", "character 1: arguments given to ln: 0; write ln(x)"),
        ("rand(1)", "character 1: arguments given to rand: 1; write rand() or rand(a, b)"),
        ("external.w", "character 1: external.w has no default: give one under defaults.external"),
        (
            "dist(1, 2, 3, 4, F)",
            (
                "character 18: the unit of dist is K (kilometers), M (miles) or N "
                "(nautical miles): write one of them"
            ),
        ),
        (
            "dist(1, 2, 3, 4, 1)",
            (
                "character 18: the unit of dist is K (kilometers), M (miles) or N "
                "(nautical miles): write one of them"
            ),
        ),
        (
            "to_unix_timestamp('x')",
            ("character 19: 'x' is no moment: write one as 2024-05-01T12:00:00Z"),
        ),
        (
            "'x' == 1",
            (
                "character 1: text belongs in to_unix_timestamp, or is the unit of dist: "
                "take it away"
            ),
        ),
    ],
)
def test_wrong_names_are_told_with_place_and_what_could_be_meant(score: str, expected: str) -> None:
    assert told(score) == [f"score, {expected}"]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("1", "document: it is no object: write an object such as"),
        (None, "document: it is no object"),
        ({}, "score: there is none: write an expression, as in"),
        ({"score": 1}, "score: 1 is no text: write an expression"),
        (
            {"score": "1", "Default": {}},
            ("document: it has no part 'Default': did you mean defaults?"),
        ),
        ({"score": "1", "defaults": [1]}, "defaults: it is no object"),
        ({"score": "1", "defaults": {"time": "1"}}, "defaults.time: '1' is no number"),
        ({"score": "1", "defaults": {"time": float("nan")}}, "defaults.time: nan is no number"),
        (
            {"score": "1", "defaults": {"tme": 1}},
            ("defaults.tme: there is no variable 'tme': did you mean time?"),
        ),
        (
            {"score": "1", "defaults": {"w": 1}},
            ("defaults.w: there is no variable 'w': what a request brings belongs under external"),
        ),
        (
            {"score": "1", "defaults": {"external": {"a-b": 1}}},
            ("defaults.external.a-b: no expression can name it"),
        ),
        ({"score": "1", "defaults": {"external": 1}}, "defaults.external: no expression"),
        (
            {"score": "1", "defaults": {"external": {"w": 10**400}}},
            ("defaults.external.w: this number is no number"),
        ),
        ({"score": "1", "functions": 3}, "functions: it is no object"),
    ],
)
def test_wrong_parts_are_told(document: object, expected: str) -> None:
    (problem,) = problems(document)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("name", "decay", "expected"),
    [
        ("f", 1, "f: it is no object: write one such as"),
        ("a.b", {"base": "decay_exp"}, "a.b: it is no name"),
        ("LN", {"base": "decay_exp"}, "LN: ln is there already: choose another name"),
        ("f", {}, "f.base: there is none: choose one of decay_linear, decay_exp, decay_gauss"),
        ("f", {"base": "gauss"}, "f.base: 'gauss' is no decay: choose one of decay_linear"),
        ("f", {"base": "decay_exp", "sale": "5d"}, "f: it has no part 'sale': did you mean scale?"),
        ("f", {"base": "decay_exp", "scale": "5y"}, "f.scale: '5y' is no number and no time"),
        ("f", {"base": "decay_exp", "scale": "nan"}, "f.scale: 'nan' is no number and no time"),
        ("f", {"base": "decay_exp", "scale": [1]}, "f.scale: a list or an object is no number"),
        ("f", {"base": "decay_exp", "scale": "0d"}, "f.scale: it is 0: give more than 0"),
        (
            "f",
            {"base": "decay_exp", "scale": "5d", "offset": "-1d"},
            ("f.offset: it is -86400: give 0 or more"),
        ),
        ("f", {"base": "decay_exp", "scale": "5d", "offset": "3"}, "f.offset: of scale and offset"),
        ("f", {"base": "decay_exp", "decay": "1"}, "f.decay: give a number above 0 and below 1"),
        ("f", {"base": "decay_exp", "decay": "0.5s"}, "f.decay: give a number above 0"),
        (
            "f",
            {"base": "decay_exp", "direction": "up"},
            ("f.direction: 'up' is none: choose one of both, left, right"),
        ),
        ("f", {"base": "decay_exp", "direction": [1]}, "f.direction: a list or an object is none"),
        ("f", {"base": "decay_exp", "origin": "noon"}, "f.origin: 'noon' is no number"),
        ("f", {"base": "decay_exp", "origin": "5d"}, "f.origin: it is a span of time"),
    ],
)
def test_wrong_decays_are_told(name: str, decay: object, expected: str) -> None:
    (problem,) = told("1", functions={name: decay})
    assert problem.startswith(f"functions.{expected}")


def test_same_decay_twice_is_told() -> None:
    decay = {"base": "decay_exp"}
    (problem,) = told("1", functions={"near": decay, "Near": decay})
    assert problem.startswith("functions.Near: it is there twice")


def test_every_mistake_is_told_at_once() -> None:
    document = {
        "score": "simpel(tme) + popularty + popularty + (1",
        "defaults": {"popularty": 1},
        "functions": {"simple": {"base": "decay_gauss", "scale": "x"}},
        "extra": 1,
    }
    assert problems(document) == [
        "document: it has no part 'extra': there are score, defaults, functions",
        "defaults.popularty: there is no variable 'popularty': did you mean popularity?",
        (
            "functions.simple.scale: 'x' is no number and no time: write one such as 100, or 5d "
            "with one of s, m, h, d, w"
        ),
        (
            "score, character 41: `)` belongs here, and the end was found: a parenthesis was "
            "opened before"
        ),
        "score, character 1: there is no function 'simpel': did you mean simple?",
        "score, character 8: there is no variable 'tme': did you mean time?",
        "score, character 15: there is no variable 'popularty': did you mean popularity?",
    ]
    with pytest.raises(InvalidExpression) as refused:
        compiled(document)
    assert list(refused.value.problems) == problems(document)


def test_near_names_below_external_are_given() -> None:
    (problem,) = told("external.wieght", defaults={"external": {"weight": 1}})
    assert problem.endswith("external.wieght has no default: did you mean external.weight?")


def test_limits_of_a_document() -> None:
    decay = {"base": "decay_exp"}
    many = {f"f{place}": decay for place in range(21)}
    assert told("1", functions=many) == [
        "functions: it has 21 decays, at most 20 are read: use fewer"
    ]
    names = {f"w{place}": place for place in range(101)}
    assert told("1", defaults={"external": names}) == ["defaults: it has more than 100: use fewer"]
    assert told("external.w99", defaults={"external": dict(list(names.items())[:100])}) == []
    deep: object = 1
    for _ in range(10_000):
        deep = {"a": deep}
    (problem,) = told("1", defaults={"external": deep})
    assert problem == "defaults.external.a.a.a.a.a: it lies deeper than 6 names: flatten it"
    assert len(told(" + ".join(f"no{place}" for place in range(99)))) == 50
    assert len(problems({"score": "1"} | {f"x{place}": 1 for place in range(1000)})) == 50
    (problem,) = told("1" * 3000)
    assert problem.startswith("score, character 2001: the expression has 3000 characters")


def test_plain_decays_are_those_of_the_config() -> None:
    config = ExpressionConfig(decay_scale_s=60, decay_offset_s=0, decay_value=0.2)
    scorer = ExpressionScorer.of({"score": "decay_exp(time)"}, config=config)
    matrix = feature_matrix(scorer.spec, 1, 1)
    matrix.values[:] = 1 / 60
    assert scorer.score(matrix).tolist() == pytest.approx([0.2])


WORDS = st.sampled_from(
    [*"+-*/^()?:,<>!.=&|'\"%", "&&", "||", "<=", "==", "1", "2.5", "1e3", "M", "time", "near"]
) | st.sampled_from(
    ["popularity", "external.w", "rand", "rand_normal", "dist", "min", "to_unix_timestamp", "nope"]
)
TEXTS = st.lists(WORDS, max_size=30).map(" ".join) | st.text(max_size=200)


@given(TEXTS)
def test_any_text_compiles_or_is_told_and_then_scores_without_a_warning(text: str) -> None:
    document = {
        "score": text,
        "defaults": {"external": {"w": 2}},
        "functions": {"near": {"base": "decay_linear"}},
    }
    found = problems(document)
    if found:
        with pytest.raises(InvalidExpression):
            compiled(document)
        return
    scorer = ExpressionScorer.of(document)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = scorer.score(feature_matrix(scorer.spec, 3, 1))
    assert scores.shape == (3,)


KEYS = st.sampled_from(
    ["score", "defaults", "functions", "external", "base", "scale", "origin", "near", "time"]
) | st.text(max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(KEYS, values, max_size=3),
    max_leaves=10,
)


@given(
    JSON
    | st.fixed_dictionaries(
        {"score": st.just("1") | JSON, "defaults": JSON, "functions": JSON},
    )
)
def test_any_document_compiles_or_is_told(document: object) -> None:
    found = problems(document)
    if found:
        assert all(
            re.match(r"(?s)(document|score|defaults|functions).*: \S", each) for each in found
        )
    else:
        assert compiled(document).features <= set(VARIABLES)


def test_every_variable_and_every_function_can_be_used() -> None:
    calls = [
        f"{name}({', '.join(['0.5'] * count)})".replace("0.5)", "M)" if count == 5 else "0.5)")
        for name, function in FUNCTIONS.items()
        for count in function.counts
    ]
    for score in (*VARIABLES, *calls):
        scorer = ExpressionScorer.of({"score": score})
        scores = scorer.score(feature_matrix(scorer.spec, 4, 1))
        assert np.isfinite(scores).any() or scorer.spec.names == ("position",), score


@pytest.mark.parametrize(
    "block", re.findall(r"```json\n(.*?)```", (DOCS / "expressions.md").read_text(), re.DOTALL)
)
def test_examples_of_the_page_are_right(block: str) -> None:
    assert problems(json.loads(block)) == []


def test_mistakes_that_the_page_shows_are_told_so() -> None:
    page = (DOCS / "expressions.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (score, character .*?) \|$", page, re.MULTILINE)
    assert len(rows) > 5
    for score, sentence in rows:
        assert [each.replace("|", "\\|") for each in told(score)] == [sentence], score
