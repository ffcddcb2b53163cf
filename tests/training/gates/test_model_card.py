"""What is told of a published model."""

from ranking.testing_models import boosted_scorer, model_bundle
from training.gates.model_card import signature


def test_mlflow_reads_the_signature() -> None:
    import msgspec  # noqa: PLC0415
    from mlflow.models import ModelSignature  # noqa: PLC0415 - 3 s

    bundle = model_bundle(scorer=boosted_scorer())
    read = ModelSignature.from_dict(msgspec.json.decode(signature(bundle)))
    assert read.inputs.input_names() == list(bundle.spec.names)
    assert {str(kind) for kind in read.inputs.input_types()} == {"DataType.float"}
    assert read.outputs.input_names() == ["score"]
