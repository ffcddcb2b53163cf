"""The page of docs/ that says what a ranking config can hold: made from its classes."""

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from ranking.config import FeedOptions, RankingConfig
from ranking.config_options import Options, Pin

__all__ = ["ConfigField", "config_groups", "ranking_config_sections"]

_ABOUT: Final = """\
A tenant's ranking config is one JSON object with a part for each ranked feed, `personalized` and
`explore`; both have the fields below. A document names what differs from the defaults and leaves
out the rest. It is checked as a whole, and every mistake is told at once. Where the explore feed
has another default, it stands behind the other."""
_LIMITS: Final = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "maxItems": "entries at most",
}


class ConfigField(NamedTuple):
    """One value that a document can set."""

    name: str
    type: str
    default: str
    meaning: str


def config_groups() -> Iterator[tuple[str, str, list[ConfigField]]]:
    """(path, what it is, its values) of each part of a feed's config, in their order."""
    config = RankingConfig.default()
    own = list(_fields(FeedOptions, config.personalized, config.explore))
    yield "a feed", "What is said of a feed as a whole.", own
    yield from _groups(FeedOptions, config.personalized, config.explore, "")
    yield "pins[]", _doc(Pin), list(_fields(Pin, None, None))


def ranking_config_sections(table: Any) -> list[Sequence[str]]:  # Any: docs' maker of tables
    """The sections of the page; `table` makes one of headings and rows."""
    sections: list[Sequence[str]] = [[_ABOUT]]
    for path, about, fields in config_groups():
        sections += [[f"## {path}"], [about]]
        if fields:
            rows = [(f"`{one.name}`", one.type, one.default, one.meaning) for one in fields]
            sections.append(table(("field", "type", "default", "meaning"), rows))
    return sections


def _groups(
    model: type[Options],
    here: Any,
    there: Any,
    path: str,  # Any: two of `model`
) -> Iterator[tuple[str, str, list[ConfigField]]]:
    for name, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, Options):
            values = getattr(here, name), getattr(there, name)
            yield f"{path}{name}", str(field.description), list(_fields(part, *values))
            yield from _groups(part, *values, f"{path}{name}.")


def _fields(model: type[Options], here: Any, there: Any) -> Iterator[ConfigField]:  # Any: as above
    properties = model.model_json_schema()["properties"]
    for name, field in model.model_fields.items():
        part = field.annotation
        if isinstance(part, type) and issubclass(part, Options):
            continue
        values = [] if here is None else [getattr(here, name), getattr(there, name)]
        shown = list(dict.fromkeys(_value(value) for value in values))
        limits = [
            f"{word} {bound:g}"
            for key, word in _LIMITS.items()
            for bound in _bounds(properties[name], key)
        ]
        meaning = str(field.description) + (f" ({', '.join(limits)})" if limits else "")
        yield ConfigField(name, _type(properties[name]), ", explore ".join(shown), meaning)


def _bounds(schema: dict[str, Any], key: str) -> list[float]:  # Any: JSON Schema
    """The bound of a value, or of what it is where it is not null."""
    return [one[key] for one in (schema, *schema.get("anyOf", ())) if key in one]


def _type(schema: dict[str, Any]) -> str:  # Any: JSON Schema
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(one.get("type", "object") for one in schema["anyOf"])
    return str(schema["type"])


def _value(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return f"`{str(value).lower()}`" if value is not None else "`null`"
    return "`[]`" if value == () else f"`{value}`"


def _doc(model: type[Options]) -> str:
    return " ".join((model.__doc__ or "").split())
