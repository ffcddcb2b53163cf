"""Columns give what one number at a time gives; each function with values worked out by hand."""

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.errors import InvalidRankingVars
from ranking.expressions import VARIABLES, Expression, Request, Variable, compiled
from ranking.expressions.functions import row_keys
from ranking.expressions.syntax import Binary, Call, Choice, Name, Node, Number, Unary, unparse

NOW_S = 1_700_000_000.0
LETTERS = {name: Variable(name, (name,), "", lambda c, _, name=name: c[name]) for name in "xyz"}
FUNCTIONS = {
    "near": {"base": "decay_gauss", "scale": "3", "origin": "1"},
    "left": {"base": "decay_linear", "scale": "2", "offset": "1", "direction": "left"},
    "right": {"base": "decay_exp", "scale": "2", "decay": "0.25", "direction": "right"},
}


def evaluated(
    score: str, columns: dict[str, list[float]] | None = None, **parts: object
) -> list[float]:
    """The value of each row, of an expression over x, y and z."""
    expression = compiled({"score": score, **parts}, variables={**VARIABLES, **LETTERS})
    given_columns = {name: np.array(values, float) for name, values in (columns or {}).items()}
    rows = max((len(values) for values in given_columns.values()), default=1)
    keys = row_keys(7, [np.arange(rows, dtype=np.float32)])
    request = Request(NOW_S, expression.externals({}), keys)
    return list(np.full(rows, expression.evaluate(given_columns, request)).tolist())


# The reference: one Python number at a time. Its transcendental functions are numpy's, since the
# last bit of those is not fixed by IEEE 754; that they are right is in the tables below.


def one(function: Callable[..., np.float64]) -> Callable[..., float]:
    def applied(*numbers: float) -> float:
        with np.errstate(all="ignore"):
            return float(function(*map(np.float64, numbers)))

    return applied


def divided(left: float, right: float) -> float:
    if right:
        return left / right
    if not left or math.isnan(left) or math.isnan(right):
        return math.nan
    return math.copysign(math.inf, left) * math.copysign(1, right)


def added(left: float, right: float) -> float:
    return left + right


def rounded(number: float) -> float:
    if not math.isfinite(number) or abs(number) >= 2**52:
        return number
    whole = Decimal(abs(number)).quantize(Decimal(1), ROUND_HALF_UP)
    return math.copysign(float(whole), number)


def truncated(number: float) -> float:
    return math.copysign(float(int(number)), number) if math.isfinite(number) else number


def smaller(left: float, right: float) -> float:
    return math.nan if math.isnan(left) or math.isnan(right) else min(left, right)


def larger(left: float, right: float) -> float:
    return math.nan if math.isnan(left) or math.isnan(right) else max(left, right)


def true(number: float) -> bool:
    return number < 0 or number > 0


def near(number: float) -> float:
    distance = abs(number - 1.0)
    share = distance / 3.0
    return one(np.exp)(share * share * one(np.log)(0.5))


def left(number: float) -> float:
    distance = larger(-(number - 0.0) - 1.0, 0.0)
    return larger(1.0 - distance * 0.5 / 2.0, 0.0)


def right(number: float) -> float:
    distance = larger(number, 0.0)
    return one(np.exp)(distance / 2.0 * one(np.log)(0.25))


OPERATORS: dict[str, Callable[[float, float], float]] = {
    "+": added,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": divided,
    "^": one(np.power),
    "<": lambda a, b: float(a < b),
    "<=": lambda a, b: float(a <= b),
    ">": lambda a, b: float(a > b),
    ">=": lambda a, b: float(a >= b),
    "==": lambda a, b: float(a == b),
    "!=": lambda a, b: float(a != b),
    "&&": lambda a, b: float(true(a) and true(b)),
    "||": lambda a, b: float(true(a) or true(b)),
}
CALLS: dict[str, tuple[int, Callable[..., float]]] = {
    "ln": (1, one(np.log)),
    "log": (1, one(np.log10)),
    "sin": (1, one(np.sin)),
    "cos": (1, one(np.cos)),
    "tan": (1, one(np.tan)),
    "abs": (1, abs),
    "trunc": (1, truncated),
    "round": (1, rounded),
    "min": (2, smaller),
    "max": (2, larger),
    "near": (1, near),
    "left": (1, left),
    "right": (1, right),
    "to_unix_timestamp": (1, float),
}


def reference(node: Node, row: dict[str, float]) -> float:
    match node:
        case Number(value):
            return value
        case Name(name):
            return row[name]
        case Unary(operator, operand):
            value = reference(operand, row)
            return -value if operator == "-" else float(not true(value))
        case Binary(operator, before, after):
            return OPERATORS[operator](reference(before, row), reference(after, row))
        case Choice(condition, yes, no):
            return reference(yes if true(reference(condition, row)) else no, row)
        case Call(name, arguments):
            return CALLS[name][1](*(reference(argument, row) for argument in arguments))
    raise AssertionError(node)


def _above(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    calls = [
        st.builds(Call, st.just(name), st.tuples(*[nodes] * count))
        for name, (count, _) in CALLS.items()
    ]
    return (
        st.builds(Unary, st.sampled_from("-!"), nodes)
        | st.builds(Binary, st.sampled_from(sorted(OPERATORS)), nodes, nodes)
        | st.builds(Choice, nodes, nodes, nodes)
        | st.one_of(calls)
    )


NUMBERS = st.floats(width=32) | st.integers(-3, 3).map(float) | st.sampled_from([0.5, -0.0, 2.5])
CONSTANTS = NUMBERS.filter(math.isfinite).map(abs).map(Number)
TREES = st.recursive(CONSTANTS | st.sampled_from("xyz").map(Name), _above, max_leaves=12)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys("xyz", NUMBERS)), min_size=1, max_size=20)


@given(TREES, ROWS)
def test_columns_give_what_one_number_at_a_time_gives(
    tree: Node, rows: list[dict[str, float]]
) -> None:
    columns = {name: [row[name] for row in rows] for name in "xyz"}
    expected = np.array([reference(tree, row) for row in rows])
    actual = np.array(evaluated(unparse(tree), columns, functions=FUNCTIONS))
    np.testing.assert_array_equal(expected, actual)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(expected[known]), np.signbit(actual[known]))


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("1 + 2 * 3 - 4 / 8", 6.5),
        ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4),
        ("2 ^ -1", 0.5),
        ("(1 + 2) * 3", 9),
        ("3 > 2", 1),
        ("3 <= 2", 0),
        ("2 == 2 && 2 != 3", 1),
        ("0 || -1", 1),
        ("!0 + !5", 1),
        ("0 ? 1 : 0 ? 2 : 3", 3),
        ("1 ? 2 ? 4 : 5 : 6", 4),
        ("0 / 0 ? 1 : 2", 2),
        ("!(0 / 0)", 1),
        ("0 / 0 < 1", 0),
        ("0 / 0 != 1", 1),
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("0 / 0", math.nan),
        ("ln(-1)", math.nan),
        ("ln(0)", -math.inf),
        ("(-8) ^ 0.5", math.nan),
        ("min(0 / 0, 1)", math.nan),
        ("ln(1)", 0),
        ("LN(2.718281828459045)", 1),
        ("log(1000)", 3),
        ("sin(1)", 0.8414709848078965),
        ("cos(0)", 1),
        ("tan(0.5)", 0.5463024898437905),
        ("abs(-3)", 3),
        ("Min(2, -1)", -1),
        ("max(2, -1)", 2),
        ("trunc(2.9)", 2),
        ("trunc(-2.9)", -2),
        ("round(2.5)", 3),
        ("round(-2.5)", -3),
        ("round(0.49999999999999994)", 0),
        ("round(1.4)", 1),
        ("to_unix_timestamp(12)", 12),
        ('to_unix_timestamp("1970-01-02")', 86_400),
        ("to_unix_timestamp('1970-01-01T02:00:00+01:00')", 3_600),
        ("now", NOW_S),
        # Paris to London, and a quarter of a great circle.
        ("dist(48.8566, 2.3522, 51.5074, -0.1278)", 343.556535),
        ("dist(0, 0, 0, 90)", 10_007.5572),
        ("dist(0, 0, 0, 90, K)", 10_007.5572),
        ("dist(0, 0, 0, 90, 'M')", 6_218.4078),
        ("dist(0, 0, 90, 0, n)", 5_403.6486),
        ("dist(0, 0, 0, 180)", 20_015.1144),
        # Without a scale 5 days halve.
        ("decay_linear(now)", 1),
        ("decay_linear(now - 5 * 86400)", 0.5),
        ("decay_linear(now + 10 * 86400)", 0),
        ("decay_exp(now - 10 * 86400)", 0.25),
        ("decay_gauss(now - 10 * 86400)", 0.0625),
    ],
)
def test_values_worked_out_by_hand(score: str, expected: float) -> None:
    assert evaluated(score) == pytest.approx([expected], rel=1e-7, nan_ok=True)


@pytest.mark.parametrize(
    ("decay", "x", "expected"),
    [
        # What is published: 1 within the offset, `decay` one scale beyond it.
        ({"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": "0.3"}, NOW_S, 1),
        ({"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": "0.3"},
         NOW_S - 86_400, 1),
        ({"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": "0.3"},
         NOW_S - 6 * 86_400, 0.3),
        ({"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": "0.3"},
         NOW_S - 11 * 86_400, 0.3**4),
        ({"base": "decay_gauss", "scale": "100", "offset": "5", "decay": "0.5"}, 105, 0.5),
        ({"base": "DECAY_EXP", "scale": "100", "offset": "5", "decay": "0.5"}, -205, 0.25),
        ({"base": "decay_linear", "scale": 100, "offset": 5, "decay": 0.5}, 205, 0),
        ({"base": "decay_linear", "scale": "100", "decay": "0.2"}, 50, 0.6),
        ({"base": "decay_linear", "scale": "10", "origin": "40"}, 45, 0.75),
        ({"base": "decay_linear", "scale": "10", "direction": "left"}, 5, 1),
        ({"base": "decay_linear", "scale": "10", "direction": "left"}, -5, 0.75),
        ({"base": "decay_linear", "scale": "10", "direction": "right"}, -5, 1),
        ({"base": "decay_linear", "scale": "10", "direction": "right"}, 5, 0.75),
        ({"base": "decay_exp", "scale": "1w", "origin": "now"}, NOW_S + 604_800, 0.5),
        ({"base": "decay_exp", "scale": "90s"}, NOW_S - 90, 0.5),
        ({"base": "decay_exp", "scale": "1.5m"}, NOW_S - 90, 0.5),
        ({"base": "decay_exp", "scale": "2h"}, NOW_S - 7200, 0.5),
        ({"base": "decay_exp", "scale": "1d", "origin": "1970-01-01T00:00:00Z"}, 86_400, 0.5),
    ],
)  # fmt: skip
def test_named_decays(decay: dict[str, object], x: float, expected: float) -> None:
    assert evaluated("d(x)", {"x": [x]}, functions={"d": decay}) == pytest.approx([expected])


def test_published_example() -> None:
    gauss = {"base": "decay_gauss", "scale": "5d", "offset": "1d", "decay": "0.3"}
    columns = {
        "age_h": [0.0, 24.0, 144.0],
        "likes_total": [1.0, 2.0, 4.0],
        "comments_total": [0.0, 1.0, 0.0],
        "bookmarks_total": [0.0, 0.0, 1.0],
        "shares_total": [0.0, 0.0, 1.0],
    }
    values = evaluated("simple_gauss(time)*popularity", columns, functions={"simple_gauss": gauss})
    assert values == pytest.approx([1, 4, 0.3 * 10])


def test_default_stands_for_what_is_missing() -> None:
    columns = {"x": [math.nan, 2.0], "y": [math.nan, 2.0]}
    values = evaluated("x + y", columns, defaults={"x": 10})
    np.testing.assert_array_equal([math.nan, 4], values)


def bound(expression: Expression, ranking_vars: dict[str, object]) -> float:
    request = Request(NOW_S, expression.externals(ranking_vars))
    return float(expression.evaluate({}, request))


@pytest.mark.parametrize(
    ("ranking_vars", "expected"),
    [
        ({}, 1 + 30),
        ({"w": 42}, 42 + 30),
        ({"w": True, "unread": "text"}, 1 + 30),
        ({"user": {"age": 50}}, 1 + 50),
        ({"user": {"other": 50}}, math.nan),
        ({"user": {}}, math.nan),
    ],
)
def test_request_brings_numbers_and_replaces_whole_defaults(
    ranking_vars: dict[str, object], expected: float
) -> None:
    defaults = {"external": {"w": 1, "user": {"age": 30}}}
    expression = compiled({"score": "external.w + external.user.age", "defaults": defaults})
    assert bound(expression, ranking_vars) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("value", ["1", None, [1], {"w": 1}, math.inf, 10**400])
def test_request_that_brings_no_number_is_refused(value: object) -> None:
    expression = compiled({"score": "external.w", "defaults": {"external": {"w": 1}}})
    with pytest.raises(InvalidRankingVars, match=r"no number for w: .* reads external\.w"):
        expression.externals({"w": value})


def drawn(score: str, rows: int = 20_000, seed: int = 7) -> npt.NDArray[np.float64]:
    expression = compiled({"score": score})
    keys = row_keys(seed, [np.arange(rows, dtype=np.float32)])
    return np.array(expression.evaluate({}, Request(NOW_S, {}, keys)))


def test_draws_have_their_distributions() -> None:
    uniform, between = drawn("rand()"), drawn("rand(2, 4)")
    assert (uniform >= 0).all()
    assert (uniform < 1).all()
    assert np.histogram(uniform, 10, (0, 1))[0] == pytest.approx([2000] * 10, abs=200)
    assert (between >= 2).all()
    assert (between < 4).all()
    normal, within = drawn("rand_normal()"), drawn("rand_normal(-1, 3, 2, 1)")
    assert (normal.mean(), normal.std()) == pytest.approx((0, 1), abs=0.03)
    assert (np.abs(normal) < 1).mean() == pytest.approx(0.6827, abs=0.02)
    assert (within.min(), within.max()) == pytest.approx((-1, 3), abs=0.01)
    # A normal cut off at one deviation on both sides has 0.54 of the deviation.
    assert (within.mean(), within.std()) == pytest.approx((1, 2 * 0.5396), abs=0.03)
    assert ((within == -1) | (within == 3)).mean() < 0.001


def test_draws_follow_from_seed_call_and_row_alone() -> None:
    np.testing.assert_array_equal(drawn("rand()", 100), drawn("rand()", 1000)[:100])
    assert (drawn("rand()") != drawn("rand()", seed=8)).mean() > 0.999
    assert (drawn("rand() - rand()") != 0).mean() > 0.999
    assert abs(np.corrcoef(drawn("rand()"), drawn("0 + rand()"))[0, 1]) < 0.03


def test_draws_with_nothing_between_their_bounds() -> None:
    assert drawn("rand(3, 3)", 2).tolist() == [3, 3]
    assert drawn("rand_normal(5, 5, 1, 0)", 2).tolist() == [5, 5]
    assert np.isnan(drawn("rand(0 / 0, 1)", 2)).all()
