"""What a factorization of users and activities expects."""

from ranking.extractors.base import Column, Factors, Feature, Inputs

__all__ = ["FEATURES", "Factors"]


def _dot_and_bias(inputs: Inputs) -> tuple[Column, Column]:
    return inputs.dot_and_bias()


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
