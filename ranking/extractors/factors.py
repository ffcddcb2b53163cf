"""What a factorization of users and activities expects."""

import numpy as np

from ranking.extractors.base import Column, Factors, Feature, Inputs

__all__ = ["FEATURES", "Factors"]


def _dot_and_bias(inputs: Inputs) -> tuple[Column, Column]:
    if inputs.factors is None:
        return inputs.constant(np.nan), inputs.constant(np.nan)
    table = inputs.table
    positions, tags = table.positions(inputs.rows), table.tags[inputs.rows]
    return inputs.factors.dot(inputs.query.user, positions, tags, table.names.tags.names)


FEATURES = (
    Feature(
        "factor_dot",
        "factors",
        "score",
        "Dot product of the user's and the activity's factors; missing if the user, or the "
        "activity and all its tags, are unknown to the model.",
        lambda inputs: inputs.once(_dot_and_bias)[0],
    ),
    Feature(
        "factor_bias",
        "factors",
        "score",
        "The activity's bias in the factorization; missing if the model does not know it.",
        lambda inputs: inputs.once(_dot_and_bias)[1],
    ),
)
