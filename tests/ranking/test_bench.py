from ranking.bench import rank_bench


def test_the_bench_measures_every_stage() -> None:
    result = rank_bench(rounds=3, candidates=20, activities=60, features=30, trees=2)
    assert set(result.stages) == {
        "filter",
        "features",
        "score",
        "adjust",
        "select",
        "explore",
        "post_filter",
        "total",
    }
    assert all(0 <= stage.p50_us <= stage.p99_us for stage in result.stages.values())
    assert result.stages["total"].p50_us > 0
    assert (result.scorer, result.trees) == ("boosted", 2)
    assert (result.candidates, result.features, result.activities) == (20, 30, 60)


def test_its_input_is_the_same_for_the_same_seed() -> None:
    ticks = iter(range(0, 10**9, 1000))
    again = iter(range(0, 10**9, 1000))
    first = rank_bench(2, 10, activities=30, trees=1, clock_ns=lambda: next(ticks))
    second = rank_bench(2, 10, activities=30, trees=1, clock_ns=lambda: next(again))
    assert first.candidates == second.candidates
    assert first.apply_us == second.apply_us
