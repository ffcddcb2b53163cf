"""The grammar: literal tables, and the law that a printed tree reads as itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.expressions.config import ExpressionConfig
from ranking.expressions.syntax import (
    Binary,
    Call,
    Choice,
    Name,
    Node,
    Number,
    SyntaxProblem,
    Text,
    Unary,
    parse,
    unparse,
)

LEAVES = (
    st.floats(min_value=0, allow_infinity=False).map(Number)
    | st.sampled_from(["a", "time", "external.w", "reaction_counts.like", "_x9"]).map(Name)
    | st.sampled_from(["M", "2024-05-01", "it's", 'a "b"', ""]).map(Text)
)


def _above(nodes: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    operators = ["+", "-", "*", "/", "^", "<", "<=", ">", ">=", "==", "!=", "&&", "||"]
    return (
        st.builds(Unary, st.sampled_from("-!"), nodes)
        | st.builds(Binary, st.sampled_from(operators), nodes, nodes)
        | st.builds(Choice, nodes, nodes, nodes)
        | st.builds(
            Call, st.sampled_from(["ln", "min", "rand"]), st.lists(nodes, max_size=3).map(tuple)
        )
    )


TREES = st.recursive(LEAVES, _above, max_leaves=30)


@given(TREES)
def test_printed_tree_reads_as_the_same_tree(tree: Node) -> None:
    assert parse(unparse(tree)) == tree


@given(TREES)
def test_printed_tree_has_no_parentheses_that_it_does_not_need(tree: Node) -> None:
    text = unparse(tree)
    opened: list[int] = []
    for place, character in enumerate(text):
        if character == "(":
            opened.append(place)
        elif character == ")":
            start = opened.pop()
            without = f"{text[:start]} {text[start + 1 : place]} {text[place + 1 :]}"
            assert not _same(without, tree), text


def _same(text: str, tree: Node) -> bool:
    try:
        return parse(text) == tree
    except SyntaxProblem:
        return False


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ("1 + 2 * 3", "(1 + (2 * 3))"),
        ("1 - 2 - 3", "((1 - 2) - 3)"),
        ("8 / 4 / 2", "((8 / 4) / 2)"),
        ("2 ^ 3 ^ 2", "(2 ^ (3 ^ 2))"),
        ("-2 ^ 2", "(-(2 ^ 2))"),
        ("2 ^ -1 ^ 2", "(2 ^ (-(1 ^ 2)))"),
        ("2 ^ -1 * 3", "((2 ^ (-1)) * 3)"),
        ("--a", "(-(-a))"),
        ("!a == b", "((!a) == b)"),
        ("1 + 2 < 4 * 1", "((1 + 2) < (4 * 1))"),
        ("a < 1 && b > 2 || c", "(((a < 1) && (b > 2)) || c)"),
        ("a || b && c", "(a || (b && c))"),
        ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
        ("a ? b ? 1 : 2 : 3", "(a ? (b ? 1 : 2) : 3)"),
        ("a + 1 ? b : c + 1", "((a + 1) ? b : (c + 1))"),
        ("MIN(a, b + 1)", "min(a, (b + 1))"),
        ("(((1)))", "1"),
        (" .5e1\t+\n2.", "(5 + 2)"),
        ("a.b.c", "a.b.c"),
    ],
)
def test_precedence(text: str, closed: str) -> None:
    assert _closed(parse(text)) == closed


def _closed(node: Node) -> str:
    """The text with parentheses around everything that is made of parts."""
    match node:
        case Unary(operator, operand):
            return f"({operator}{_closed(operand)})"
        case Binary(operator, left, right):
            return f"({_closed(left)} {operator} {_closed(right)})"
        case Choice(condition, yes, no):
            return f"({_closed(condition)} ? {_closed(yes)} : {_closed(no)})"
        case Call(name, arguments):
            return f"{name}({', '.join(_closed(argument) for argument in arguments)})"
        case _:
            return unparse(node)


@pytest.mark.parametrize(
    ("text", "at", "message"),
    [
        ("", 0, "a number, a name or `(` belongs here, and the end was found"),
        ("1 +", 3, "a number, a name or `(` belongs here, and the end was found"),
        ("2 ** 3", 3, "a number, a name or `(` belongs here, and `*` was found"),
        ("+1", 0, "a number, a name or `(` belongs here, and `+` was found"),
        ("1 2", 2, "an operator is missing before `2`"),
        ("5d", 1, "an operator is missing before `d`"),
        ("1)", 1, "nothing was opened that `)` could belong to: take it away"),
        ("1, 2", 1, "nothing was opened that `,` could belong to: take it away"),
        ("(1", 2, "`)` belongs here, and the end was found: a parenthesis was opened before"),
        ("ln(1 2", 5, """`)` belongs here, and `2` was found: \
the arguments of ln stand between `(` and `)`"""),
        ("a ? 1", 5, "`:` belongs here, and the end was found: a choice is `condition ? yes : no`"),
        ("1 < 2 < 3", 6, "comparisons do not chain: write `a < b && b < c` for `a < b < c`"),
        ("1 == 2 != 3", 7, "comparisons do not chain: write `a < b && b < c` for `a < b < c`"),
        ("a = 1", 2, "`=` is no operator: write `==`"),
        ("a & b", 2, "`&` is no operator: write `&&`"),
        ("a | b", 2, "`|` is no operator: write `||`"),
        ("a % 2", 2, "'%' does not belong in an expression: docs/expressions.md says what does"),
        ("a.b[0]", 3, "'[' does not belong in an expression: docs/expressions.md says what does"),
        ("'abc", 0, "a text begins here and does not end: close its quotes"),
        ("1e999", 0, "`1e999` is too large: numbers go up to 1.7e308"),
    ],
)  # fmt: skip
def test_what_is_no_expression_is_refused_with_its_place(text: str, at: int, message: str) -> None:
    with pytest.raises(SyntaxProblem) as refused:
        parse(text)
    assert (refused.value.at, refused.value.message) == (at, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 " * 1001, "has 2002 characters, at most 2000"),
        ("+".join(["1"] * 251), "more than 500 numbers"),
        ("(" * 101 + "1" + ")" * 101, "nested deeper here, at most 100"),
        ("-" * 101 + "1", "nested deeper here, at most 100"),
        ("2" + "^2" * 100, "nested deeper here, at most 100"),
        ("1" + "+1" * 100, "nested 101 deep, at most 100"),
    ],
)
def test_limits(text: str, message: str) -> None:
    with pytest.raises(SyntaxProblem, match=message):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "1".ljust(2000),
        " + ".join([f"({'+'.join(['1'] * 25)})"] * 10),
        "(" * 99 + "1" + ")" * 99,
        "-" * 99 + "1",
        "2" + "^2" * 98,
        "1" + "+1" * 99,
    ],
)
def test_up_to_the_limits_it_is_read(text: str) -> None:
    assert parse(unparse(parse(text))) == parse(text)


def test_limits_are_those_of_the_config() -> None:
    assert parse("1+2", ExpressionConfig(nodes_max=3)) == Binary("+", Number(1), Number(2))
    with pytest.raises(SyntaxProblem, match="more than 2 numbers"):
        parse("1+2", ExpressionConfig(nodes_max=2))
