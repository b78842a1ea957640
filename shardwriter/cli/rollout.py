"""The rollout that a command line names, and the settings in a file."""

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Any, cast

from shardwriter.config import RecorderConfig
from shardwriter.errors import ConfigError
from shardwriter.joining import Settings

__all__ = ["bound_rollout", "named_rollout", "read_settings"]

Rollout = Callable[..., Any]


def named_rollout(name: str) -> Rollout:
    """Import the function ``package.module:function``, from the current directory too.

    Raises
    ------
    ConfigError
        The module cannot be imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(name, module_name, error) from error
        expected = f"a module that can be imported, from {here} too"
        raise ConfigError(f"rollout {name}", expected, error.name) from error
    except Exception as error:  # importing runs anybody's code
        raise _broken(name, module_name, error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = get_close_matches(part, dir(found), 1)
            hint = f" (is it {near[0]}?)" if near else ""
            place = f"{module_name} ({getattr(sys.modules[module_name], '__file__', None)})"
            raise ConfigError(f"rollout {name}", f"a function of {place}{hint}", part)
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"rollout {name}", "a function of an episode", found)
    return cast(Rollout, found)


def bound_rollout(name: str, rollout: Rollout, config: Mapping[str, Any]) -> Rollout:
    """Return a function of an episode, whose other parameters come from the configuration.

    Raises
    ------
    ConfigError
        It cannot be called so.
    """
    try:
        has = signature(rollout)
    except ValueError:  # some that are compiled do not tell
        return rollout
    given = {key: config[key] for key in _settable(has) if key in config}
    try:
        has.bind("episode", **given)
    except TypeError as error:
        expected = (
            "a function of an episode, whose other parameters have defaults or are in --config"
        )
        raise ConfigError(f"rollout {name}", expected, f"{has}: {error}") from None
    return partial(rollout, **given) if given else rollout


def _settable(has: Signature) -> list[str]:
    """Return the parameters that a name can fill, without the one that takes the episode."""
    of_the_episode = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    others = list(has.parameters.values())
    if others and others[0].kind in of_the_episode:
        del others[0]
    return [each.name for each in others if each.kind in by_name]


def read_settings(path: Path) -> Settings:
    """Read options of a ``DataExporter`` and the experiment's configuration from a JSON file.

    Raises
    ------
    ConfigError
        It holds no JSON object, or an option has a value it cannot have.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "JSON", str(error)) from error
    if not isinstance(content, dict):
        raise ConfigError(str(path), "a JSON object, as {...}", content)
    known = {each.name for each in fields(RecorderConfig)}
    if set(content) == {"recorder", "config"}:  # the config.json of an experiment
        options, config = content["recorder"], content["config"]
        for name in set(options) - known:
            raise ConfigError(f"{path}: recorder", "options of DataExporter", name)
    else:
        options = {key: value for key, value in content.items() if key in known}
        config = {key: value for key, value in content.items() if key not in known}
    RecorderConfig.from_options(options)
    return Settings(options, config)


def _broken(name: str, module: str, error: Exception) -> ConfigError:
    expected = f"a module {module} whose import succeeds (--debug shows where)"
    return ConfigError(f"rollout {name}", expected, f"{type(error).__name__}: {error}")
