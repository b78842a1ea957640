"""An experiment whose every name and text is hostile to a page, and what a page holds."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from shardwriter import DataExporter

Array = np.ndarray[Any, Any]

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
NAME = "<img src=x onerror='window.hacked = 1'>&amp;"
NEURONS, STEPS = 10, 60


def record(directory: Path, episodes: int = 4) -> Path:
    """Record episodes of which number 1 fails; return the experiment's directory."""
    with DataExporter(NAME, directory, neural_sampling_rate=2, seed=3, progress=False) as exporter:
        exporter.save_config({HOSTILE: HOSTILE, "nested": {"rate": 0.5}})
        exporter.save_metadata({"subject": HOSTILE})
        exporter.save_units({"membrane_potential": HOSTILE}, dt=1e-3)
        for number in range(episodes):
            try:
                with exporter.start_episode(number) as episode:
                    _log(episode, number)
            except ValueError:
                continue
    return exporter.output_dir


def _log(episode: Any, number: int) -> None:
    rng = np.random.default_rng(number)
    episode.log_timesteps(
        np.arange(STEPS),
        {"membrane_potential": rng.normal(-60, 3, (STEPS, NEURONS)).astype(np.float32)},
        rng.random((STEPS, NEURONS)) < 0.1,
        {"position": rng.normal(size=(STEPS, 2)), "speed": rng.random(STEPS)},
        np.where(np.arange(STEPS) % 10 == 5, 0.5 + number, 0.0),
    )
    episode.log_static_data("populations", {"left": np.array([0, 6]), NAME: np.array([6, 10])})
    if number == 1:
        raise ValueError(HOSTILE)
    episode.end(True, summary={"distance": number / 3, "note": HOSTILE, "nan": float("nan")})


def data_of(page: str) -> dict[str, Any]:
    """Return the data that a page holds."""
    form = r'<script type="application/json" id="data">(.*?)</script>'
    (text,) = re.findall(form, page, re.DOTALL)
    return dict(json.loads(text))


def column(data: dict[str, Any], key: str) -> list[Any]:
    """Return a column of the table of episodes."""
    (values,) = [each["values"] for each in data["episodes"]["columns"] if each["key"] == key]
    return list(values)


def unpacked(packed: dict[str, Any]) -> Array:
    """Return an array of the data, timesteps as differences from the first."""
    values = np.frombuffer(zlib.decompress(base64.b64decode(packed["data"])), packed["dtype"])
    assert len(values) == packed["n"]
    return values.cumsum() if packed["kind"] == "steps" else values
