"""What is told of a published model: its card for people, its signature for programs.

The card follows Mitchell et al., Model Cards for Model Reporting (2019): what it is, what it learnt
from, how it did and for whom, and what it is not for.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from feeds.model import format_time
from ranking.bundle import ModelBundle
from training.evaluation.report import EvaluationReport
from training.gates.verdicts import GateReport

__all__ = ["CARD", "SIGNATURE", "model_card", "signature"]

CARD: Final = "MODEL_CARD.md"
SIGNATURE: Final = "signature.json"


def signature(bundle: ModelBundle) -> bytes:
    """Inputs and outputs of the scorer, as MLflow's `ModelSignature.to_dict` has them.

    Every feature is a float32 column that may be missing; the score is a float32.
    """
    inputs = [{"type": "float", "name": name, "required": False} for name in bundle.spec.names]
    outputs = [{"type": "float", "name": "score", "required": True}]
    encode = msgspec.json.encode
    packed: Mapping[str, str | None] = {
        "inputs": encode(inputs).decode(),
        "outputs": encode(outputs).decode(),
        "params": None,
    }
    return encode(packed)


def model_card(bundle: ModelBundle, report: EvaluationReport, gates: GateReport) -> bytes:
    """The card, as Markdown."""
    against = f"version {gates.live}" if gates.live else "chronological, as no model was live"
    lines = [
        f"# {bundle.tenant}: {report.model} ({bundle.kind})",
        "",
        (
            f"Trained {format_time(bundle.trained_us)}, bundle `{bundle.digest[:16]}`. It orders "
            "the candidates of a ranked feed of this tenant; it decides nothing about people, and "
            "its scores mean nothing beside those of another tenant's model."
        ),
        "",
        "## What it learnt from",
        "",
        (
            f"* {report.counts.get('events', 0):,} events of tenant {bundle.tenant}, fingerprint "
            f"`{report.events_fingerprint}`; training set `{report.training_fingerprint}`."
        ),
        *(f"* {sentence}" for sentence in report.derived),
        f"* {len(bundle.spec.names)} features: {', '.join(f'`{n}`' for n in bundle.spec.names)}.",
        "",
        "## How it did",
        "",
        f"| ranking | NDCG@{report.k} | 95 % interval | by user | MRR | recall |",
        "|---|---|---|---|---|---|",
        *(
            f"| {r.name}{' (this)' if r.name == report.model else ''} | {r.ndcg:.3f} | "
            f"{r.interval[0]:.3f} to {r.interval[1]:.3f} | {r.ndcg_by_user:.3f} | {r.mrr:.3f} | "
            f"{r.recall:.3f} |"
            for r in report.rankers
        ),
        "",
        *(f"* {sentence}" for sentence in report.verdicts),
        "",
        f"## Gates, against {against}",
        "",
        "| gate | verdict | reason |",
        "|---|---|---|",
        *(f"| {gate.name} | {gate.verdict} | {gate.reason} |" for gate in gates.gates),
        "",
        gates.sentence,
        "",
        "## Where it is weak",
        "",
        *(f"* {sentence}" for sentence in (report.young,) if sentence),
        *(
            f"* {sentence}"
            for sentence in report.not_better or ("It is better than every baseline.",)
        ),
        (
            "* It was judged by what people touched of what they could have been shown; what they "
            "would have liked beyond that is not in the data."
        ),
        "",
        f"Way back: `headwater models rollback {bundle.tenant}`.",
        "",
    ]
    return "\n".join(lines).encode()
