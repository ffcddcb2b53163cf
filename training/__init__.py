"""Training: from an exported event log to an evaluated, published model.

    from training import evaluate, load_events, train_tenant

Names are imported when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.config import ClusterConfig as ClusterConfig
    from training.config import GateConfig as GateConfig
    from training.config import LabelConfig as LabelConfig
    from training.config import SearchConfig as SearchConfig
    from training.config import TrainingConfig as TrainingConfig
    from training.config import preset as preset
    from training.evaluation.comparison import ComparisonReport as ComparisonReport
    from training.evaluation.counterfactual import CounterfactualConfig as CounterfactualConfig
    from training.evaluation.counterfactual import CounterfactualReport as CounterfactualReport
    from training.evaluation.counterfactual import LoggedPlaces as LoggedPlaces
    from training.evaluation.counterfactual_slates import compare_with_served as compare_with_served
    from training.evaluation.report import EvaluationReport as EvaluationReport
    from training.events.log import EventLog as EventLog
    from training.events.log import load_events as load_events
    from training.events.log import read_event_log as read_event_log
    from training.flow import TrainingResult as TrainingResult
    from training.flow import compare_published as compare_published
    from training.flow import evaluate as evaluate
    from training.flow import gate as gate
    from training.flow import promote as promote
    from training.flow import published_bundle as published_bundle
    from training.flow import train_all as train_all
    from training.flow import train_tenant as train_tenant
    from training.gates.parity import ParityReport as ParityReport
    from training.gates.parity import parity_of as parity_of
    from training.gates.verdicts import GateReport as GateReport
    from training.protocols import ProtocolReport as ProtocolReport
    from training.protocols import run_protocol as run_protocol
    from training.service_frames import ConfigPreview as ConfigPreview
    from training.service_frames import ExplainedSlate as ExplainedSlate
    from training.service_frames import ServedTenant as ServedTenant
    from training.sets.building import build_training_set as build_training_set
    from training.sets.dataset import TrainingSet as TrainingSet
    from training.sets.files import StoredSet as StoredSet
    from training.sets.files import read_training_set as read_training_set
    from training.simulation.config import SimulationConfig as SimulationConfig
    from training.simulation.policy import Arm as Arm
    from training.simulation.run import Simulation as Simulation
    from training.simulation.run import simulate as simulate
    from training.simulation.served import ServedCommunity as ServedCommunity
    from training.tuning.search import Study as Study

_HOMES = {
    "Arm": "training.simulation.policy",
    "ClusterConfig": "training.config",
    "ComparisonReport": "training.evaluation.comparison",
    "ConfigPreview": "training.service_frames",
    "CounterfactualConfig": "training.evaluation.counterfactual",
    "CounterfactualReport": "training.evaluation.counterfactual",
    "EvaluationReport": "training.evaluation.report",
    "EventLog": "training.events.log",
    "ExplainedSlate": "training.service_frames",
    "GateConfig": "training.config",
    "GateReport": "training.gates.verdicts",
    "LabelConfig": "training.config",
    "LoggedPlaces": "training.evaluation.counterfactual",
    "ParityReport": "training.gates.parity",
    "ProtocolReport": "training.protocols",
    "SearchConfig": "training.config",
    "ServedCommunity": "training.simulation.served",
    "ServedTenant": "training.service_frames",
    "Simulation": "training.simulation.run",
    "SimulationConfig": "training.simulation.config",
    "StoredSet": "training.sets.files",
    "Study": "training.tuning.search",
    "TrainingConfig": "training.config",
    "TrainingResult": "training.flow",
    "TrainingSet": "training.sets.dataset",
    "build_training_set": "training.sets.building",
    "compare_published": "training.flow",
    "compare_with_served": "training.evaluation.counterfactual_slates",
    "evaluate": "training.flow",
    "gate": "training.flow",
    "load_events": "training.events.log",
    "parity_of": "training.gates.parity",
    "preset": "training.config",
    "promote": "training.flow",
    "published_bundle": "training.flow",
    "read_event_log": "training.events.log",
    "read_training_set": "training.sets.files",
    "run_protocol": "training.protocols",
    "simulate": "training.simulation.run",
    "train_all": "training.flow",
    "train_tenant": "training.flow",
}

__all__ = [
    "Arm",
    "ClusterConfig",
    "ComparisonReport",
    "ConfigPreview",
    "CounterfactualConfig",
    "CounterfactualReport",
    "EvaluationReport",
    "EventLog",
    "ExplainedSlate",
    "GateConfig",
    "GateReport",
    "LabelConfig",
    "LoggedPlaces",
    "ParityReport",
    "ProtocolReport",
    "SearchConfig",
    "ServedCommunity",
    "ServedTenant",
    "Simulation",
    "SimulationConfig",
    "StoredSet",
    "Study",
    "TrainingConfig",
    "TrainingResult",
    "TrainingSet",
    "build_training_set",
    "compare_published",
    "compare_with_served",
    "evaluate",
    "gate",
    "load_events",
    "parity_of",
    "preset",
    "promote",
    "published_bundle",
    "read_event_log",
    "read_training_set",
    "run_protocol",
    "simulate",
    "train_all",
    "train_tenant",
]


def __getattr__(name: str) -> object:
    """Import a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'training' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
