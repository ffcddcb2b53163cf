"""Estimates on made-up logs with a known truth, and beside those of obp 0.4.1."""

import math
import os
import re
import sys
import types
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.errors import SourceError, TrainingError
from training.evaluation.counterfactual import (
    CounterfactualConfig,
    LoggedPlaces,
    estimate,
    folds_of,
    importance_weights,
)
from training.sources import open_bandit

CONFIG = CounterfactualConfig(
    weight_max=1e9, effective_min=0, support_min=0, rewarded_min=0, draws=20
)
ACTIONS, PLACES = 5, 3


@st.composite
def logs(draw: st.DrawFn) -> tuple[LoggedPlaces, np.ndarray, np.ndarray]:
    """Slates of `PLACES` places with actions, and a reward model: places, actions, model."""
    slates = draw(st.integers(2, 12))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = slates * PLACES
    actions = random.integers(0, ACTIONS, count)
    model = random.random((count, ACTIONS))
    policy = random.dirichlet(np.ones(ACTIONS), count)
    rows = np.arange(count)
    places = LoggedPlaces(
        rewards=random.integers(0, 2, count).astype(float),
        propensities=random.uniform(0.05, 1, count),
        targets=policy[rows, actions],
        slates=np.repeat(np.arange(slates), PLACES),
        users=np.repeat(random.integers(0, 4, slates), PLACES),
        predicted=model[rows, actions],
        expected=(policy * model).sum(axis=1),
    )
    return places, np.column_stack([actions, policy]), model


@pytest.fixture(scope="module")
def obp() -> types.SimpleNamespace:
    """The estimators of obp, from its wheel. They import torch for types alone: it stays out."""
    cache = Path(os.environ.get("HEADWATER_CACHE", ".headwater/cache"))
    try:
        wheel = open_bandit.fetch_wheel(cache)
    except SourceError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    torch = types.ModuleType("torch")
    torch.Tensor = type("Tensor", (), {})  # type: ignore[attr-defined]
    names = {"obp.utils": "utils", "obp.ope.estimators": "one", "obp.ope.estimators_slate": "slate"}
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in ("obp", "obp.ope", *names)}
    for name in ("obp", "obp.ope"):
        modules[name].__path__ = []
    before = {name: sys.modules.get(name) for name in (*modules, "torch")}
    sys.modules.update(modules | {"torch": torch})
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in names:
                modules[name].__package__ = name.rpartition(".")[0]
                source = archive.read(f"{name.replace('.', '/')}.py")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # escapes in its docstrings
                    exec(compile(source, name, "exec"), modules[name].__dict__)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    return types.SimpleNamespace(**{short: modules[name] for name, short in names.items()})


@given(log=logs())
def test_ips_snips_and_dr_are_those_of_obp(
    obp: types.SimpleNamespace, log: tuple[LoggedPlaces, np.ndarray, np.ndarray]
) -> None:
    places, policy, model = log
    single = replace(places, slates=np.arange(len(places)))
    keywords = {
        "reward": places.rewards,
        "action": policy[:, 0].astype(int),
        "pscore": places.propensities,
        "action_dist": policy[:, 1:, None],
        "estimated_rewards_by_reg_model": model[:, :, None],
        "position": np.zeros(len(places), int),
    }
    report = estimate(single, CONFIG, seed=1)
    one = obp.one
    for name, theirs in (
        ("IPS", one.InverseProbabilityWeighting()),
        ("SNIPS", one.SelfNormalizedInverseProbabilityWeighting()),
        ("DR", one.DoublyRobust()),
    ):
        assert report.of(name).value == pytest.approx(theirs.estimate_policy_value(**keywords))


@given(log=logs())
def test_slates_are_those_of_obp_under_each_assumption(
    obp: types.SimpleNamespace, log: tuple[LoggedPlaces, np.ndarray, np.ndarray]
) -> None:
    places, _, _ = log
    position = np.tile(np.arange(PLACES), len(places) // PLACES)
    common = {"slate_id": places.slates, "reward": places.rewards, "position": position}
    independent = obp.slate.SlateIndependentIPS(len_list=PLACES).estimate_policy_value(
        **common,
        pscore_item_position=places.propensities,
        evaluation_policy_pscore_item_position=places.targets,
    )
    down = [np.cumprod(p.reshape(-1, PLACES), axis=1).ravel() for p in _pair(places)]
    cascade = obp.slate.SlateRewardInteractionIPS(len_list=PLACES).estimate_policy_value(
        **common, pscore_cascade=down[0], evaluation_policy_pscore_cascade=down[1]
    )
    for assumption, theirs in (("independent", independent), ("cascade", cascade)):
        config = replace(CONFIG, assumption=assumption)
        assert estimate(places, config, seed=1).of("IPS").value == pytest.approx(theirs)


def _pair(places: LoggedPlaces) -> tuple[np.ndarray, np.ndarray]:
    return places.propensities, places.targets


@given(logs(), st.sampled_from(["independent", "cascade"]))
def test_the_served_policy_earns_what_it_earned(
    log: tuple[LoggedPlaces, np.ndarray, np.ndarray], assumption: Any
) -> None:
    """A candidate that does what was served has weights of 1, and no difference."""
    same = replace(log[0], targets=log[0].propensities, predicted=None, expected=None)
    report = estimate(same, replace(CONFIG, assumption=assumption), seed=1)
    assert report.effective_places == pytest.approx(len(same))
    assert report.support == pytest.approx(1)
    for each in report.estimates:
        assert each.value == pytest.approx(report.served)
        assert each.difference == pytest.approx(0)
        assert each.difference_interval == pytest.approx((0, 0))


@given(logs())
def test_a_perfect_reward_model_needs_no_weights(
    log: tuple[LoggedPlaces, np.ndarray, np.ndarray],
) -> None:
    places = replace(log[0], predicted=log[0].rewards)
    assert places.expected is not None
    total = places.expected.sum() / len(np.unique(places.slates))
    assert estimate(places, CONFIG, seed=1).of("DR").value == pytest.approx(total)


@given(logs(), st.integers(0, 3))
def test_the_same_seed_gives_the_same_report(
    log: tuple[LoggedPlaces, np.ndarray, np.ndarray], seed: int
) -> None:
    assert estimate(log[0], CONFIG, seed) == estimate(log[0], CONFIG, seed)


def made_up(seed: int, slates: int, epsilon: float = 0.4) -> tuple[LoggedPlaces, float]:
    """Slates of 2 places of 4 actions, each with its own rate in each place; with the truth.

    Served is mostly 0, 1; the candidate shows mostly 3, 2. What is above is left out of what is
    below, so the truth is that of the candidate's whole slates: under a cascade.
    """
    random = np.random.default_rng(seed)
    rates = np.array([[0.2, 0.3, 0.4, 0.5], [0.1, 0.15, 0.2, 0.25]])

    def policy(order: list[int], taken: list[int]) -> np.ndarray:
        left = [a for a in order if a not in taken]
        chances = np.zeros(4)
        chances[left] = epsilon / len(left)
        chances[left[0]] += 1 - epsilon
        return chances

    rows = []
    for slate in range(slates):
        taken: list[int] = []
        for place in range(2):
            served, candidate = policy([0, 1, 2, 3], taken), policy([3, 2, 1, 0], taken)
            action = int(random.choice(4, p=served))
            reward = float(random.random() < rates[place, action])
            rows.append((reward, served[action], candidate[action], slate, slate // 3))
            taken.append(action)
    first = policy([3, 2, 1, 0], [])
    truth = sum(first[a] * (rates[0, a] + policy([3, 2, 1, 0], [a]) @ rates[1]) for a in range(4))
    columns = np.array(rows).T
    places = LoggedPlaces(*columns[:3], *columns[3:].astype(np.int64))
    return places, float(truth)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    config = replace(CONFIG, assumption="cascade", draws=300)
    held = {"IPS": 0, "SNIPS": 0}
    for seed in range(100):
        places, truth = made_up(seed, slates=300)
        report = estimate(places, config, seed)
        for name in held:
            low, high = report.of(name).interval
            held[name] += low <= truth <= high
    assert all(88 <= count <= 100 for count in held.values()), held


def test_a_better_candidate_is_found_and_the_sentence_says_so() -> None:
    places, truth = made_up(1, slates=3000)
    report = estimate(places, CounterfactualConfig(assumption="cascade", draws=400), seed=1)
    assert report.refusal is None
    assert report.of("SNIPS").verdict == "better"
    assert report.of("SNIPS").value == pytest.approx(truth, abs=0.08)
    assert report.verdict.startswith("The candidate is better than what was served: SNIPS 0.")
    assert "depends on it and on those above it" in report.verdict


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"targets": np.zeros(600)}, r"could have shown 0% .*most of it was never tried"),
        ({"targets": np.where(np.arange(600) < 5, 1.0, 0.0)}, "most of it was never tried"),
        (
            {
                "propensities": np.where(np.arange(600) < 5, 0.008, 0.9),
                "targets": np.where(np.arange(600) < 5, 1.0, 0.0),
            },
            r"shown 5\.0 times in effect \(at least 50",
        ),
        ({"rewards": np.zeros(600)}, "0 places that the candidate would show as well"),
    ],
)
def test_where_the_log_cannot_tell_nothing_is_said(
    change: dict[str, np.ndarray], sentence: str
) -> None:
    places = replace(made_up(1, slates=300)[0], **change)
    report = estimate(places, CounterfactualConfig(draws=50), seed=1)
    assert report.estimates == ()
    assert report.refusal is not None
    assert re.search(sentence, report.refusal)
    assert report.verdict == report.refusal
    with pytest.raises(KeyError, match="Nothing can be said"):
        report.of("IPS")


def test_weights_are_cut_and_the_report_tells_how_many() -> None:
    places, _ = made_up(1, slates=300)
    config = replace(CONFIG, weight_max=2.0)
    report = estimate(places, config, seed=1)
    weights = importance_weights(places, "independent")
    assert report.cut_share == pytest.approx((weights > 2).mean()) != 0
    assert report.weight_max == weights.max() > 2
    cut = np.minimum(weights, 2)
    assert report.of("IPS").value == pytest.approx((cut * places.rewards).sum() / 300)
    assert report.effective_places == pytest.approx(cut.sum() ** 2 / (cut**2).sum())


def test_parts_hold_whole_users_and_differ_by_one_user_at_most() -> None:
    users = np.repeat(np.arange(23), 4)
    parts = folds_of(users, 5, seed=1)
    assert all(len(set(parts[users == user])) == 1 for user in range(23))
    sizes = np.bincount(parts[::4])
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensities": np.zeros(20)}, "not above 0"),
        ({"propensities": np.full(20, math.nan)}, "not above 0"),
        ({"targets": np.full(20, 1.1)}, "no probability"),
        ({"rewards": np.zeros(3)}, "different lengths"),
        ({"slates": np.tile([0, 1], 10)}, "do not lie together"),
    ],
)
def test_a_log_that_cannot_be_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        replace(made_up(1, slates=10)[0], **change)


def test_nothing_logged_is_refused() -> None:
    nothing = LoggedPlaces(*[np.zeros(0)] * 3, *[np.zeros(0, np.int64)] * 2)
    with pytest.raises(TrainingError, match="no logged places"):
        estimate(nothing, CONFIG, seed=1)


def test_every_mistake_of_a_config_is_told_at_once() -> None:
    wrong = CounterfactualConfig(draws=0, level=1.5, folds=1, weight_max=0)
    with pytest.raises(TrainingError, match=r"weight_max.*draws.*level.*folds"):
        wrong.check()


def test_a_report_is_a_frame_with_a_row_for_each_estimate_or_none() -> None:
    random = np.random.default_rng(3)
    places = LoggedPlaces(
        rewards=random.integers(0, 2, 60).astype(float),
        propensities=np.full(60, 0.5),
        targets=np.full(60, 0.5),
        slates=np.arange(60),
        users=np.arange(60),
    )
    report = estimate(places, CONFIG, seed=1)
    frame = report.to_frame()
    assert list(frame.index) == [one.name for one in report.estimates] == ["IPS", "SNIPS"]
    assert frame.loc["IPS", "value"] == report.of("IPS").value
    found = tuple(frame.loc["SNIPS", ["difference_low", "difference_high"]])
    assert found == report.of("SNIPS").difference_interval
    refused = estimate(places, replace(CONFIG, effective_min=61), seed=1).to_frame()
    assert len(refused) == 0
    assert list(refused.dtypes) == list(frame.dtypes)
