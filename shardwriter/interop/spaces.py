"""Gymnasium spaces and the fields that their values are recorded as.

Invariant: ``value_of`` puts together again what ``fields_of`` and ``rows_of`` took apart, and
``space_from_json`` gives back the space that ``space_to_json`` wrote.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from shardwriter.errors import ConfigError, MissingDependency

try:
    from gymnasium import spaces
except ImportError as error:
    raise MissingDependency("gymnasium", "gymnasium") from error

__all__ = [
    "Form",
    "check_space",
    "field_names",
    "fields_of",
    "inferred_space",
    "rows_of",
    "space_from_json",
    "space_to_json",
    "value_of",
]

Array = np.ndarray[Any, Any]
Form = tuple[np.dtype[Any], tuple[int, ...], tuple[int, int] | None]
"""Dtype and shape of a field; of integers without a shape, the smallest and the largest."""

_LEAVES = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete, spaces.Text)


def check_space(name: str, space: Any) -> None:
    """Raise ConfigError for a space without a fixed form: Graph, Sequence, OneOf."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        for _, part in _parts(space):
            check_space(name, part)
    elif not isinstance(space, _LEAVES):
        raise ConfigError(name, "a space whose values are arrays of one shape", str(space))


def fields_of(name: str, space: Any, value: Any) -> dict[str, Any]:
    """Return a value of a space as fields, those of dict and tuple spaces by their path.

    Discrete values are int64, all others keep their dtype.
    """
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        fields: dict[str, Any] = {}
        for key, part in _parts(space):
            fields |= fields_of(f"{name}.{key}", part, value[key])
        return fields
    if isinstance(space, spaces.Text):
        return {name: str(value)}
    return {name: np.array(value, dtype=space.dtype)}


def field_names(name: str, space: Any) -> list[str]:
    """Return the fields of a space's values, in order."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return [
            field for key, part in _parts(space) for field in field_names(f"{name}.{key}", part)
        ]
    return [name]


def rows_of(name: str, space: Any, values: Any) -> dict[str, Array]:
    """Return rows of values of a space, nested as its values are, as fields."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        fields: dict[str, Array] = {}
        for key, part in _parts(space):
            fields |= rows_of(f"{name}.{key}", part, values[key])
        return fields
    return {name: np.asarray(values, str if isinstance(space, spaces.Text) else None)}


def value_of(name: str, space: Any, fields: Mapping[str, Any]) -> Any:
    """Return the value of a space, or rows of such values, that fields hold."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        values = {key: value_of(f"{name}.{key}", part, fields) for key, part in _parts(space)}
        return values if isinstance(space, spaces.Dict) else tuple(values.values())
    return fields[name]


def _parts(space: Any) -> list[tuple[Any, Any]]:
    """Return keys and spaces of what a dict or tuple space is made of."""
    if isinstance(space, spaces.Dict):
        return list(space.spaces.items())
    return list(enumerate(space.spaces))


def space_to_json(space: Any) -> str:
    """Return a space as JSON; bounds that are all alike are one number."""
    return json.dumps(_described(space))


def _described(space: Any) -> dict[str, Any]:
    kind = type(space).__name__
    if isinstance(space, spaces.Dict):
        return {"type": kind, "spaces": {key: _described(part) for key, part in _parts(space)}}
    if isinstance(space, spaces.Tuple):
        return {"type": kind, "spaces": [_described(part) for _, part in _parts(space)]}
    if isinstance(space, spaces.Box):
        bounds = {"low": _compact(space.low), "high": _compact(space.high)}
        return {"type": kind, **bounds, "shape": space.shape, "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"type": kind, "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        values = {"nvec": space.nvec.tolist(), "start": space.start.tolist()}
        return {"type": kind, **values, "dtype": str(space.dtype)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": kind, "n": space.n if isinstance(space.n, int) else list(space.n)}
    lengths = {"min_length": space.min_length, "max_length": space.max_length}
    return {"type": kind, **lengths, "charset": space.characters}


def _compact(bound: Array) -> Any:
    if bound.size == 0:
        return 0
    is_uniform = bool((bound == bound.flat[0]).all())
    return bound.flat[0].item() if is_uniform else bound.tolist()


def space_from_json(text: str) -> Any:
    """Return the space that `space_to_json` described."""
    return _built(json.loads(text))


def _built(found: dict[str, Any]) -> Any:
    options = {key: value for key, value in found.items() if key != "type"}
    match found["type"]:
        case "Dict":
            return spaces.Dict({key: _built(part) for key, part in options["spaces"].items()})
        case "Tuple":
            return spaces.Tuple([_built(part) for part in options["spaces"]])
        case "Box":
            dtype, shape = np.dtype(options["dtype"]), tuple(options["shape"])
            low, high = (np.full(shape, options[name], dtype) for name in ("low", "high"))
            return spaces.Box(low, high, shape, dtype.type)
        case "MultiDiscrete":
            dtype = np.dtype(options["dtype"])
            start = np.array(options["start"], dtype)
            return spaces.MultiDiscrete(np.array(options["nvec"], dtype), dtype.type, start=start)
        case "MultiBinary":
            return spaces.MultiBinary(options["n"])
        case kind:
            return getattr(spaces, kind)(**options)


def inferred_space(name: str, fields: Mapping[str, Form]) -> Any:
    """Return the space of fields that nobody described, from their paths and forms.

    Parameters
    ----------
    name
        The path that the fields are below of, or the one field.
    fields
        Their forms by path.

    Raises
    ------
    ConfigError
        A field is of a kind that no space has.
    """
    if name in fields:
        return _inferred_leaf(name, *fields[name])
    keys = dict.fromkeys(
        path.removeprefix(f"{name}.").partition(".")[0]
        for path in fields
        if path.startswith(f"{name}.")
    )
    found = {key: inferred_space(f"{name}.{key}", fields) for key in keys}
    numbers = [str(i) for i in range(len(found))]
    if found.keys() == set(numbers):
        return spaces.Tuple([found[number] for number in numbers])
    return spaces.Dict(found)


def _inferred_leaf(
    name: str, dtype: np.dtype[Any], shape: tuple[int, ...], extent: tuple[int, int] | None
) -> Any:
    if dtype.kind in "iu" and extent is not None:
        start = min(0, extent[0])
        return spaces.Discrete(extent[1] - start + 1, start=start)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return spaces.Box(limits.min, limits.max, shape, dtype.type)
    if dtype.kind == "b":
        return spaces.Box(False, True, shape, np.bool_)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, shape, dtype.type)
    raise ConfigError(name, "a field of numbers, to be described as a space", str(dtype))
