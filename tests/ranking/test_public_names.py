import pytest

import ranking
import training


@pytest.mark.parametrize("package", [ranking, training], ids=lambda package: package.__name__)
def test_every_public_name_is_where_it_is_said_to_be(package: object) -> None:
    names = package.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    for name in names:
        assert getattr(package, name).__name__ == name


def test_a_name_that_is_not_public_is_told() -> None:
    with pytest.raises(AttributeError, match="'ranking' has no attribute 'nothing'"):
        _ = ranking.nothing
