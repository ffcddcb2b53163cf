"""Reports as HTML: the templates in `templates/`, pages with one head, style and way of plots."""

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

__all__ = ["html_page"]


def html_page(template: str, **content: Any) -> str:  # Any: what the template names
    """One HTML file: no script, nothing from elsewhere; equal content gives equal bytes.

    `plots` are shown with `name`, `svg` and `note`. Texts are escaped; what the template names and
    `content` lacks is an error.
    """
    return _environment().get_template(template).render(**content)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - half a second

    return Environment(
        loader=PackageLoader("training"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
