"""One HTML file of a template, a style, scripts and data.

Invariant: data are in the file as JSON without ``<``, ``>`` and ``&``, and the file's own policy
lets no script run but those written here, and nothing be fetched from anywhere.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Any

__all__ = ["page"]

_SCRIPTS = ("data.js", "canvas.js", "table.js", "overview.js", "episode.js", "main.js")


def page(data: Mapping[str, Any]) -> str:
    """Return the page that shows what ``gathered`` returned."""
    style = _part("report.css")
    script = "\n".join(_part(name) for name in _SCRIPTS)
    policy = (
        f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"script-src {_digest(script)}; style-src {_digest(style)}"
    )
    return Template(_part("template.html")).substitute(
        title=html.escape(data["title"]),
        policy=policy,
        style=style,
        script=script,
        data=_embedded(data),
    )


def _part(name: str) -> str:
    return files("shardwriter.report").joinpath("page", name).read_text("utf-8")


def _digest(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _embedded(data: Mapping[str, Any]) -> str:
    """Write data as JSON that ends no script element and starts no comment in one."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text
