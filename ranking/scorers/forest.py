"""Margins of XGBoost's trees by a compiled walk: the same bits in a quarter of the time.

XGBoost follows nodes of 20 bytes row by row. Here a node has 8, its children lie beside each other,
a leaf leads to itself, so that every row takes `depth` steps without a branch, and sixteen rows go
in step so that their loads overlap (`_forest.pyx`). Sums are float32 in the order of the trees.

What is not known here (categorical splits, several outputs, dart, no compiler at installation) is
left to XGBoost, and so is a model one of whose bits differs on rows that are made from its own
leaves when it is loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Final, Self

import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from ranking.scorers.margins import Margins

_walk: Callable[..., None] | None
try:
    from ranking.scorers._forest import walk as _walk
except ImportError:  # installed where there was no compiler
    _walk = None

__all__ = ["Evaluator", "Forest", "UnknownTrees", "evaluator"]

Evaluator = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
"""Margins of rows, float32[n]."""

_Floats = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]

_LANES: Final = 16
"""Rows in step, as in `_forest.pyx`."""

_NODES_MAX: Final = 1 << 16
"""Nodes of a tree: a node names its first child with 16 bits."""

_COLUMNS_MAX: Final = (1 << 16) // (2 * _LANES)
"""Columns: a node names its place in a block of rows with 16 bits."""

_DEPTH_MAX: Final = 32
"""Steps that every row takes through a tree; XGBoost stops at the leaf."""

_PROBED_TREES: Final = 400_000
"""Trees that the rows of the comparison at loading go through, about 8 ms of XGBoost's time."""

_PROBED_VALUES: Final = 1_000_000
"""Numbers in those rows."""

_NODE: Final = np.dtype([("threshold", "f4"), ("column", "u2"), ("child", "u2")])

_log = structlog.get_logger(__name__)


class UnknownTrees(ValueError):
    """Trees that only XGBoost evaluates, and why."""


def evaluator(booster: Any, iterations: tuple[int, int]) -> Evaluator:
    """What evaluates a booster's trees, bit for bit as XGBoost does: a `Forest` where that can.

    `booster` is untyped. Takes some 12 ms for 100 trees of depth 6.
    """
    margins = Margins(booster, iterations)
    try:
        forest = Forest.read(bytes(booster.save_raw("json")), iterations)
    except UnknownTrees as unknown:
        _log.info("trees_left_to_xgboost", reason=str(unknown))
        return margins
    rows = forest.probes()
    differing = int((forest(rows).view(np.uint32) != margins(rows).view(np.uint32)).sum())
    if differing:
        _log.warning("forest_differs_from_xgboost", rows=len(rows), differing=differing)
        return margins
    return forest


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees as packed nodes. Immutable; several threads may call it at once.

    A node's `column` is twice its feature, one more if what is missing goes left, times 16; its
    `child` is the left one, counted from the tree's root, and the right one is the next. A leaf's
    threshold is one that nothing is below, and its right child is the leaf.
    """

    nodes: npt.NDArray[np.void]
    leaves: _Floats
    roots: npt.NDArray[np.uint32]
    depths: npt.NDArray[np.uint8]
    base: float
    columns: int

    @classmethod
    def read(cls, content: bytes, iterations: tuple[int, int]) -> Self:
        """The trees of these rounds in a model's JSON, (0, 0) for all.

        Every index is checked. Raises `UnknownTrees`.
        """
        if _walk is None:
            raise UnknownTrees("the compiled walk was not built when Headwater was installed")
        try:
            learner = msgspec.json.decode(content, type=_Model).learner
        except msgspec.DecodeError as error:
            raise UnknownTrees(f"the model is not in the form that is known: {error}") from error
        return cls._pack(_Nodes.of(learner, iterations), learner.base())

    @classmethod
    def _pack(cls, nodes: "_Nodes", base: float) -> Self:
        order, depths = nodes.breadth_first()
        place = np.zeros(len(nodes.left), np.int64)
        place[order] = np.arange(len(order))
        tree = nodes.tree[order]
        roots = place[nodes.roots]
        own = np.arange(len(order)) - roots[tree]
        inner = nodes.inner[order]
        packed = np.zeros(len(order), _NODE)
        packed["threshold"] = np.where(inner, nodes.value[order], -np.inf)
        packed["column"] = np.where(inner, nodes.column[order], 0) * _LANES
        packed["child"] = np.where(
            inner, place[nodes.left[order]] - roots[tree], np.maximum(own - 1, 0)
        )
        leaves = np.where(inner, 0, nodes.value[order]).astype(np.float32)
        last = np.append(roots[1:], len(order)) - 1
        return cls(
            packed,
            leaves,
            roots.astype(np.uint32),
            depths[last].astype(np.uint8),
            base,
            nodes.columns,
        )

    def __call__(self, values: _Floats) -> _Floats:
        """The margins of rows, float32[n]; raises `ValueError` for another number of columns."""
        assert _walk is not None
        rows = np.ascontiguousarray(values, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.columns:  # noqa: PLR2004  (rows by columns)
            raise ValueError(f"rows of {self.columns} columns are evaluated, not {rows.shape}")
        margins = np.empty(len(rows), np.float32)
        _walk(self.nodes, self.leaves, self.roots, self.depths, self.base, rows, margins)
        return margins

    @property
    def nbytes(self) -> int:
        """What the trees take in memory, in bytes."""
        arrays = (self.nodes, self.leaves, self.roots, self.depths)
        return sum(array.nbytes for array in arrays)

    def probes(self) -> _Floats:
        """Rows that end in the leaves, each at the very thresholds on its way; float32[n, columns].

        All leaves of 30 trees of depth 6; of more an even choice. Half of the ways are alone in
        their row, half have values of another way elsewhere; each comes again without what the
        leaf's parent asks for.
        """
        parent, right = self._parents()
        leaves = np.flatnonzero(np.isneginf(self.nodes["threshold"]))
        rows_max = min(_PROBED_TREES // len(self.roots), _PROBED_VALUES // self.columns)
        count = min(max(rows_max // 2, 1), len(leaves))
        node = leaves[np.linspace(0, len(leaves) - 1, count).astype(np.int64)]
        rows = np.full((len(node), self.columns), np.nan, np.float32)
        decided = np.zeros(rows.shape, bool)
        asked = self.nodes["column"].astype(np.int64) // (2 * _LANES)
        lowest = asked[np.maximum(parent[node], 0)]
        row = np.arange(len(node))
        # From the leaf up: the last word on a column is the narrowest.
        while len(row := row[parent[node[row]] >= 0]):
            above = parent[node[row]]
            limit = self.nodes["threshold"][above]
            value = np.where(right[node[row]], limit, np.nextafter(limit, np.float32(-np.inf)))
            column = asked[above]
            rows[row, column] = np.where(decided[row, column], rows[row, column], value)
            decided[row, column] = True
            node[row] = above
        rows[1::2] = np.where(decided, rows, np.roll(rows, 1, axis=0))[1::2]
        without = rows.copy()
        without[np.arange(len(rows)), lowest] = np.nan
        return np.concatenate([rows, without])

    def _parents(self) -> tuple[_Integers, npt.NDArray[np.bool_]]:
        """The parent of each node, -1 for a root, and whether the node is its right child."""
        inner = np.flatnonzero(~np.isneginf(self.nodes["threshold"]))
        tree = np.searchsorted(self.roots, inner, side="right") - 1
        left = self.roots[tree].astype(np.int64) + self.nodes["child"][inner]
        parent = np.full(len(self.nodes), -1, np.int64)
        parent[left] = parent[left + 1] = inner
        right = np.zeros(len(self.nodes), bool)
        right[left + 1] = True
        return parent, right


# XGBoost's model schema, as far as it matters here (doc/model.schema in its repository).


class _TreeParameters(msgspec.Struct):
    size_leaf_vector: str = "1"


_LARGEST: Final = float(np.finfo(np.float32).max)
_Index = Annotated[int, msgspec.Meta(ge=-(1 << 31), lt=1 << 31)]
_Number = Annotated[float, msgspec.Meta(ge=-_LARGEST, le=_LARGEST)]


class _Tree(msgspec.Struct):
    tree_param: _TreeParameters
    left_children: list[_Index]
    right_children: list[_Index]
    split_indices: list[_Index]
    split_conditions: list[_Number]
    split_type: list[_Index]
    default_left: list[_Index]


class _Trees(msgspec.Struct):
    trees: list[_Tree]
    tree_info: list[int]
    iteration_indptr: list[int]


class _GradientBooster(msgspec.Struct):
    name: str
    model: _Trees


class _Objective(msgspec.Struct):
    name: str


class _Parameters(msgspec.Struct):
    base_score: str
    num_feature: str
    num_class: str = "0"
    num_target: str = "1"


class _Learner(msgspec.Struct):
    gradient_booster: _GradientBooster
    learner_model_param: _Parameters
    objective: _Objective

    def trees(self, iterations: tuple[int, int]) -> list[_Tree]:
        """The trees of these rounds."""
        model, parameters = self.gradient_booster.model, self.learner_model_param
        if self.gradient_booster.name != "gbtree":
            raise UnknownTrees(f"the booster is a {self.gradient_booster.name}")
        if parameters.num_target != "1" or parameters.num_class not in {"0", "1"}:
            raise UnknownTrees("the trees have several outputs")
        if any(model.tree_info) or len(model.tree_info) != len(model.trees):
            raise UnknownTrees("the trees have several outputs")
        rounds = model.iteration_indptr
        first, after = iterations[0], iterations[1] or len(rounds) - 1
        if not 0 <= first < after < len(rounds):
            raise UnknownTrees(f"there are no trees in the rounds {first} to {after}")
        if not 0 <= rounds[first] < rounds[after] <= len(model.trees):
            raise UnknownTrees(f"there are no trees in the rounds {first} to {after}")
        return model.trees[rounds[first] : rounds[after]]

    def columns(self) -> int:
        """How many columns a row has."""
        columns = self.learner_model_param.num_feature
        if not columns.isdecimal() or not 0 < int(columns) <= _COLUMNS_MAX:
            raise UnknownTrees(f"rows have {columns} columns, {_COLUMNS_MAX} are the most")
        return int(columns)

    def base(self) -> float:
        """The margin of no trees, as XGBoost says: an objective transforms its base score."""
        import xgboost  # noqa: PLC0415  (up to 3 s: only where there is a model)

        score = self.learner_model_param.base_score.strip("[]")
        parameters = {"objective": self.objective.name, "base_score": score, "nthread": 1}
        try:
            row = xgboost.DMatrix(np.zeros((1, 1), np.float32), nthread=1)
            margins = xgboost.Booster(parameters, [row]).predict(row, output_margin=True)
        except (xgboost.core.XGBoostError, ValueError) as error:
            raise UnknownTrees(f"the base score is not known: {error}") from error
        return float(margins[0])


class _Model(msgspec.Struct):
    learner: _Learner


@dataclass(frozen=True, slots=True, eq=False)
class _Nodes:
    """All nodes of all trees, one tree after the other as XGBoost numbers them, checked."""

    tree: _Integers
    left: _Integers  # what `inner` is not set for has no children
    right: _Integers
    column: _Integers  # twice the feature, and one more where what is missing goes left
    value: _Floats  # a threshold, or a leaf's value
    inner: npt.NDArray[np.bool_]
    roots: _Integers
    columns: int

    @classmethod
    def of(cls, learner: _Learner, iterations: tuple[int, int]) -> Self:
        trees, columns = learner.trees(iterations), learner.columns()
        sizes = np.array([len(tree.left_children) for tree in trees])
        for tree, size in zip(trees, sizes, strict=True):
            _check_lengths(tree, size)
        tree_of = np.repeat(np.arange(len(trees)), sizes)
        roots = np.cumsum(sizes) - sizes
        left = _joined([tree.left_children for tree in trees])
        right = _joined([tree.right_children for tree in trees])
        feature = _joined([tree.split_indices for tree in trees])
        missing_left = _joined([tree.default_left for tree in trees])
        value = np.array(list(chain(*(tree.split_conditions for tree in trees))), np.float32)
        inner = left >= 0
        children = np.stack([left, right])[:, inner]
        if (children < 0).any() or (children >= sizes[tree_of[inner]]).any():
            raise UnknownTrees("a node has children that the tree does not have")
        if not ((feature >= 0) & (feature < columns))[inner].all():
            raise UnknownTrees("a node asks for a column that rows do not have")
        if not np.isin(missing_left[inner], (0, 1)).all():
            raise UnknownTrees("a node has no side for what is missing")
        if any(any(tree.split_type) for tree in trees):
            raise UnknownTrees("there are categorical splits")
        left, right = left + roots[tree_of], right + roots[tree_of]
        column = 2 * feature + missing_left
        return cls(tree_of, np.where(inner, left, 0), right, column, value, inner, roots, columns)

    def breadth_first(self) -> tuple[_Integers, _Integers]:
        """The nodes that are reached, tree by tree and level by level, and the level of each."""
        levels: list[_Integers] = []
        reached, level = 0, self.roots
        while len(level):
            reached += len(level)
            if reached > len(self.tree):
                raise UnknownTrees("a node has two parents")
            if len(levels) > _DEPTH_MAX:
                raise UnknownTrees(f"a tree is deeper than {_DEPTH_MAX}")
            levels.append(level)
            inner = level[self.inner[level]]
            level = np.stack([self.left[inner], self.right[inner]], axis=1).ravel()
        order = np.concatenate(levels)
        if np.bincount(order).max() > 1:
            raise UnknownTrees("a node has two parents")
        depth = np.repeat(np.arange(len(levels)), [len(level) for level in levels])
        by_tree = np.argsort(self.tree[order], kind="stable")
        return order[by_tree], depth[by_tree]


def _check_lengths(tree: _Tree, size: int) -> None:
    columns = (
        tree.right_children,
        tree.split_indices,
        tree.split_conditions,
        tree.split_type,
        tree.default_left,
    )
    if any(len(column) != size for column in columns) or not 0 < size <= _NODES_MAX:
        raise UnknownTrees(f"a tree has {size} nodes, or not as many of everything")
    if tree.tree_param.size_leaf_vector not in {"0", "1"}:
        raise UnknownTrees("the trees have several outputs")


def _joined(columns: Sequence[Sequence[int]]) -> _Integers:
    return np.array(list(chain(*columns)), np.int64)
