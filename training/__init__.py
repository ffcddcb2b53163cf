"""Training: from an exported event log to an evaluated, published model.

    from training import evaluate, load_events, train_tenant

Names are imported when they are first used: importing this package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.building import build_training_set as build_training_set
    from training.config import LabelConfig as LabelConfig
    from training.config import TrainingConfig as TrainingConfig
    from training.config import preset as preset
    from training.dataset import TrainingSet as TrainingSet
    from training.event_log import EventLog as EventLog
    from training.event_log import load_events as load_events
    from training.event_log import read_event_log as read_event_log
    from training.flow import TrainingResult as TrainingResult
    from training.flow import evaluate as evaluate
    from training.flow import train_all as train_all
    from training.flow import train_tenant as train_tenant
    from training.report import EvaluationReport as EvaluationReport
    from training.set_files import StoredSet as StoredSet
    from training.set_files import read_training_set as read_training_set

_HOMES = {
    "EvaluationReport": "training.report",
    "EventLog": "training.event_log",
    "LabelConfig": "training.config",
    "StoredSet": "training.set_files",
    "TrainingConfig": "training.config",
    "TrainingResult": "training.flow",
    "TrainingSet": "training.dataset",
    "build_training_set": "training.building",
    "evaluate": "training.flow",
    "load_events": "training.event_log",
    "preset": "training.config",
    "read_event_log": "training.event_log",
    "read_training_set": "training.set_files",
    "train_all": "training.flow",
    "train_tenant": "training.flow",
}

__all__ = [
    "EvaluationReport",
    "EventLog",
    "LabelConfig",
    "StoredSet",
    "TrainingConfig",
    "TrainingResult",
    "TrainingSet",
    "build_training_set",
    "evaluate",
    "load_events",
    "preset",
    "read_event_log",
    "read_training_set",
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
