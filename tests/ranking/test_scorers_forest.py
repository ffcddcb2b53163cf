"""Our own walk through XGBoost's trees has the bits of XGBoost's, or leaves them to it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from xgboost import Booster, DMatrix, train

from ranking.scorers import forest as forest_module
from ranking.scorers.forest import Forest, UnknownTrees, evaluator
from ranking.scorers.margins import Margins

COLUMNS = 5
RANKS = {"rank:ndcg", "rank:pairwise"}


@pytest.fixture(autouse=True, scope="module")
def built() -> None:
    if forest_module._walk is None and "CI" not in os.environ:
        pytest.skip("ranking.scorers._forest is not built: run `make setup`")
    assert forest_module._walk is not None


def grown(seed: int = 1, rounds: int = 8, rows: int = 300, **parameters: Any) -> Booster:
    """Trees that learnt noise, with values missing."""
    draws = np.random.default_rng(seed)
    values = draws.normal(size=(rows, COLUMNS)).astype(np.float32).round(2)
    values[draws.random(values.shape) < 0.2] = np.nan
    labels = (draws.random(rows) < 0.4).astype(np.float32)
    matrix = DMatrix(values, labels, nthread=1)
    if parameters.get("objective") in RANKS:
        matrix.set_group([rows // 2, rows - rows // 2])
    booster = train({"nthread": 1, "seed": seed, **parameters}, matrix, rounds)
    booster.set_param({"nthread": 1})
    return booster


def content(booster: Booster) -> bytes:
    return bytes(booster.save_raw("json"))


def expected(booster: Booster, values: np.ndarray, iterations: tuple[int, int]) -> list[int]:
    margins = booster.inplace_predict(
        values, iteration_range=iterations, predict_type="margin", validate_features=False
    )
    return margins.view(np.uint32).tolist()


def bits(margins: np.ndarray) -> list[int]:
    assert margins.dtype == np.float32
    return margins.view(np.uint32).tolist()


def hard_rows(booster: Booster, count: int, seed: int) -> np.ndarray:
    """Rows of thresholds, of what is just below them, and of what is no number."""
    split = booster.trees_to_dataframe()["Split"].dropna().to_numpy(np.float32)
    extremes = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38], np.float32)
    choices = np.concatenate([extremes, split, np.nextafter(split, np.float32(-np.inf))])
    return np.random.default_rng(seed).choice(choices, (count, COLUMNS))


parameters = st.fixed_dictionaries(
    {
        "objective": st.sampled_from(
            ["reg:squarederror", "binary:logistic", "count:poisson", "rank:ndcg", "rank:pairwise"]
        ),
        "max_depth": st.integers(1, 9),
        "min_child_weight": st.sampled_from([0.0, 0.1, 1.0, 50.0]),
        "eta": st.sampled_from([0.01, 0.3, 1.0]),
        "num_parallel_tree": st.integers(1, 3),
        "subsample": st.sampled_from([0.5, 1.0]),
    },
    optional={"base_score": st.sampled_from([0.1, 0.2345678, 0.5])},
)
shapes = st.sampled_from(
    [
        {"tree_method": "hist"},
        {"tree_method": "exact"},
        {"tree_method": "hist", "grow_policy": "lossguide", "max_leaves": 20, "max_depth": 0},
        {"tree_method": "approx", "max_bin": 8},
    ]
)


@given(
    parameters=parameters,
    shape=shapes,
    seed=st.integers(0, 1 << 16),
    rounds=st.integers(1, 6),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_margins_have_the_bits_of_xgboosts_own_prediction(
    parameters: dict[str, Any], shape: dict[str, Any], seed: int, rounds: int, data: st.DataObject
) -> None:
    booster = grown(seed, rounds, **parameters | shape)
    first = data.draw(st.integers(0, rounds - 1), "first")
    iterations = data.draw(
        st.sampled_from([(0, 0), (first, 0), (first, first + 1), (first, rounds)]), "iterations"
    )
    with capture_logs() as logs:
        evaluate = evaluator(booster, iterations)
    assert logs == []
    assert isinstance(evaluate, Forest)
    for count in (0, 1, 7, 8, 9, 15, 16, 17, 500):
        values = hard_rows(booster, count, seed + count)
        if count:
            assert expected(booster, values, iterations) == bits(evaluate(values))
        else:
            assert bits(evaluate(values)) == []


def test_probes_reach_every_leaf() -> None:
    booster = grown(rounds=5, max_depth=6)
    forest = Forest.read(content(booster), (0, 0))
    reached = booster.predict(DMatrix(forest.probes(), nthread=1), pred_leaf=True)
    for number, tree in enumerate(booster.get_dump()):
        assert tree.count("leaf=") == len(np.unique(reached[:, number]))


def test_probes_are_bounded_by_trees_and_by_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = Forest.read(content(grown(rounds=5)), (0, 0))
    monkeypatch.setattr(forest_module, "_PROBED_TREES", 100)
    assert forest.probes().shape == (20, COLUMNS)
    monkeypatch.setattr(forest_module, "_PROBED_VALUES", 60)
    assert forest.probes().shape == (12, COLUMNS)
    monkeypatch.setattr(forest_module, "_PROBED_VALUES", 1)
    assert forest.probes().shape == (2, COLUMNS)


def wrong(forest: Forest, kind: str) -> list[Forest]:
    """The forest with one leaf, threshold or default side that is another, for each it has."""
    inner = np.isfinite(forest.nodes["threshold"])
    found = []
    for place in np.flatnonzero(inner if kind != "leaf" else ~inner):
        nodes, leaves = forest.nodes.copy(), forest.leaves.copy()
        match kind:
            case "leaf":
                leaves[place] += 0.5
            case "threshold":
                above = np.nextafter(nodes["threshold"][place], np.float32(np.inf))
                nodes["threshold"][place] = above
            case "side":
                nodes["column"][place] ^= 16
        found.append(replace(forest, nodes=nodes, leaves=leaves))
    return found


@pytest.mark.parametrize(("kind", "share"), [("leaf", 1.0), ("threshold", 0.9), ("side", 0.6)])
def test_probes_tell_what_is_wrong(kind: str, share: float) -> None:
    booster = grown(rounds=5, max_depth=5)
    forest = Forest.read(content(booster), (0, 0))
    rows, candidates = forest.probes(), wrong(forest, kind)
    right = bits(forest(rows))
    told = [one for one in candidates if bits(one(rows)) != right]
    assert len(told) >= share * len(candidates) > 50


def test_trees_of_one_leaf_and_trees_of_many_are_walked() -> None:
    stump = grown(rounds=3, gamma=1e9)
    values = hard_rows(grown(), 33, 1)
    forest = Forest.read(content(stump), (0, 0))
    assert forest.depths.tolist() == [0, 0, 0]
    assert expected(stump, values, (0, 0)) == bits(forest(values))
    large = grown(rounds=2, rows=4_000, max_depth=14, min_child_weight=0)
    deep = Forest.read(content(large), (0, 0))
    assert deep.depths.max() == 14
    assert expected(large, values, (0, 0)) == bits(deep(values))


def test_rows_in_any_order_of_memory_are_walked() -> None:
    booster = grown()
    forest, values = Forest.read(content(booster), (0, 0)), hard_rows(booster, 40, 3)
    assert bits(forest(values)) == bits(forest(np.asfortranarray(values)))
    assert bits(forest(values))[::2] == bits(forest(values[::2]))


@pytest.mark.parametrize("shape", [(3, COLUMNS + 1), (3, COLUMNS - 1), (COLUMNS,)])
def test_rows_of_other_columns_are_refused(shape: tuple[int, ...]) -> None:
    forest = Forest.read(content(grown()), (0, 0))
    with pytest.raises(ValueError, match="rows of 5 columns"):
        forest(np.zeros(shape, np.float32))


def test_threads_do_not_mix() -> None:
    booster = grown(rounds=20)
    forest = Forest.read(content(booster), (0, 0))
    rows = [hard_rows(booster, 100 + each, each) for each in range(8)]
    wanted = [expected(booster, values, (0, 0)) for values in rows]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            assert wanted == [bits(margins) for margins in pool.map(forest, rows)]


def test_hundred_trees_take_less_than_200_kilobytes() -> None:
    booster = grown(rounds=100, rows=4_000, max_depth=6)
    assert Forest.read(content(booster), (0, 0)).nbytes < 200_000


# What is left to XGBoost


def categorical() -> Booster:
    draws = np.random.default_rng(1)
    values = draws.integers(0, 6, (200, COLUMNS)).astype(np.float32)
    labels = (values[:, 0] % 2).astype(np.float32)
    kinds = ["c"] * COLUMNS
    matrix = DMatrix(values, labels, feature_types=kinds, enable_categorical=True, nthread=1)
    return train({"nthread": 1, "max_cat_to_onehot": 1}, matrix, 3)


def several_classes() -> Booster:
    draws = np.random.default_rng(1)
    matrix = DMatrix(draws.random((90, COLUMNS)), draws.integers(0, 3, 90), nthread=1)
    return train({"nthread": 1, "objective": "multi:softprob", "num_class": 3}, matrix, 2)


def several_targets() -> Booster:
    draws = np.random.default_rng(1)
    matrix = DMatrix(draws.random((90, COLUMNS)), draws.random((90, 2)), nthread=1)
    return train({"nthread": 1, "multi_strategy": "multi_output_tree"}, matrix, 2)


@pytest.mark.parametrize(
    ("booster", "reason"),
    [
        (categorical, "categorical splits"),
        (several_classes, "several outputs"),
        (several_targets, "several outputs"),
        (lambda: grown(booster="dart", rate_drop=0.5), "known"),
        (lambda: grown(booster="gblinear"), "known"),
    ],
)
def test_what_is_not_known_is_left_to_xgboost_with_a_line(booster: Any, reason: str) -> None:
    model = booster()
    with capture_logs() as logs:
        evaluate = evaluator(model, (0, 0))
    assert isinstance(evaluate, Margins)
    assert ["trees_left_to_xgboost"] == [line["event"] for line in logs]
    assert reason in logs[0]["reason"]


@pytest.mark.parametrize(
    ("limit", "value", "reason"),
    [
        ("_DEPTH_MAX", 3, "deeper than 3"),
        ("_NODES_MAX", 9, "nodes"),
        ("_COLUMNS_MAX", 4, "columns"),
    ],
)
def test_trees_over_a_limit_are_left_to_xgboost(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int, reason: str
) -> None:
    monkeypatch.setattr(forest_module, limit, value)
    with pytest.raises(UnknownTrees, match=reason):
        Forest.read(content(grown()), (0, 0))


def test_without_the_compiled_walk_xgboost_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest_module, "_walk", None)
    booster = grown()
    with capture_logs() as logs:
        evaluate = evaluator(booster, (0, 0))
    assert isinstance(evaluate, Margins)
    assert "was not built" in logs[0]["reason"]


def test_a_walk_whose_bits_differ_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    other, booster = Forest.read(content(grown(seed=2)), (0, 0)), grown()
    monkeypatch.setattr(Forest, "read", lambda *_: other)
    with capture_logs() as logs:
        evaluate = evaluator(booster, (0, 0))
    assert isinstance(evaluate, Margins)
    assert [line["event"] for line in logs] == ["forest_differs_from_xgboost"]
    assert logs[0]["differing"] > 0


@pytest.mark.parametrize("iterations", [(3, 3), (0, 9), (-1, 2), (5, 2)])
def test_rounds_without_trees_are_left_to_xgboost(iterations: tuple[int, int]) -> None:
    with pytest.raises(UnknownTrees, match="no trees in the rounds"):
        Forest.read(content(grown()), iterations)


def fields(**changes: Any) -> dict[str, Any]:
    """A tree of three nodes as XGBoost tells it, with some of it another."""
    whole = {
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [0, 0, 0],
        "split_conditions": [0.5, 1.0, 2.0],
        "split_type": [0, 0, 0],
        "default_left": [1, 0, 0],
    }
    return whole | changes


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"left_children": [3, -1, -1]}, "does not have"),
        ({"right_children": [-1, -1, -1]}, "does not have"),
        ({"left_children": [0, -1, -1]}, "two parents"),
        ({"right_children": [1, -1, -1]}, "two parents"),
        ({"left_children": [1, 0, -1], "right_children": [2, 2, -1]}, "two parents"),
        ({"split_indices": [COLUMNS, 0, 0]}, "column that rows do not have"),
        ({"split_indices": [-1, 0, 0]}, "column that rows do not have"),
        ({"split_indices": [1 << 63, 0, 0]}, "not in the form"),
        ({"split_conditions": [-1e39, 1.0, 2.0]}, "not in the form"),
        ({"split_conditions": [float("nan"), 1.0, 2.0]}, "not in the form"),
        ({"default_left": [2, 0, 0]}, "side for what is missing"),
        ({"split_type": [1, 0, 0]}, "categorical"),
        ({"split_indices": [0, 0]}, "not as many of everything"),
        ({key: [] for key in fields()}, "0 nodes"),
    ],
)
def test_a_damaged_tree_is_never_walked(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnknownTrees, match=reason):
        Forest.read(written(fields(**changes)), (0, 0))


def test_the_tree_of_these_tests_is_walked_where_nothing_is_changed() -> None:
    forest = Forest.read(written(fields()), (0, 0))
    rows = np.zeros((3, COLUMNS), np.float32)
    rows[:, 0] = [0.4, 0.5, np.nan]
    assert forest(rows).tolist() == [1.5, 2.5, 1.5]


def written(tree: dict[str, list[float]]) -> bytes:
    """A model of this one tree as JSON."""
    learner = {
        "gradient_booster": {
            "name": "gbtree",
            "model": {
                "trees": [tree | {"tree_param": {}}],
                "tree_info": [0],
                "iteration_indptr": [0, 1],
            },
        },
        "learner_model_param": {"base_score": "[5E-1]", "num_feature": str(COLUMNS)},
        "objective": {"name": "reg:squarederror"},
    }
    return json.dumps({"learner": learner}).encode()
