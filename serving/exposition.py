"""Prometheus's text format for numbers that are gathered when they are asked for."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

__all__ = ["CONTENT_TYPE", "Family", "MetricKind", "Sample", "exposition"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of the format."""


MetricKind = Literal["counter", "gauge", "histogram", "summary"]


class Family(NamedTuple):
    """A metric: its name without suffix, what kind it is, its labels, what it says."""

    name: str
    kind: MetricKind
    labels: tuple[str, ...]
    doc: str


class Sample(NamedTuple):
    """A number of a metric; `suffix` is such as `_total` or `_bucket`."""

    labels: Mapping[str, str]
    value: float
    suffix: str = ""


def exposition(families: Iterable[tuple[Family, Iterable[Sample]]]) -> bytes:
    """The families with their samples; a family without any is left out."""
    lines: list[str] = []
    for family, samples in families:
        shown = [_line(family.name, sample) for sample in samples]
        if shown:
            name = family.name + ("_total" if family.kind == "counter" else "")
            lines += (f"# HELP {name} {_escaped(family.doc)}", f"# TYPE {name} {family.kind}")
            lines += shown
    return "".join(line + "\n" for line in lines).encode()


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{label}="{_quoted(value)}"' for label, value in sample.labels.items())
    return f"{name}{sample.suffix}{f'{{{labels}}}' if labels else ''} {sample.value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', r"\"")
