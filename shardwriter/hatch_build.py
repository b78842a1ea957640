"""Compiles the C sources when the package is built; without a compiler it has only Python.

Invariant: nothing that goes wrong here keeps the package from being built.
"""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext

_MODULES = (
    "shardwriter.files._global_heap",
    "shardwriter.files._huffman",
    "shardwriter.files._lookup3",
    "shardwriter.files._shuffle",
    "shardwriter.files._stored_episode",
    "shardwriter.recording._fast",
)
_LOG = logging.getLogger(__name__)


class FastHook(BuildHookInterface[Any]):
    """Compiles beside the sources: for an editable install, and for tests in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is of this platform, where that succeeds."""
        root = Path(self.root)
        _remove(root)
        try:
            _compile(root)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (see the invariant)
            _LOG.warning("recording will be slower, as nothing was compiled: %s", error)
            _remove(root)  # one may have been, and a wheel with it would claim to fit everywhere
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _source(root: Path, module: str) -> Path:
    return root.joinpath(*module.split(".")).with_suffix(".c")


def _remove(root: Path) -> None:
    for module in _MODULES:
        source = _source(root, module)
        for old in source.parent.glob(f"{source.stem}.*.so"):
            old.unlink()


def _compile(root: Path) -> None:
    extensions = [
        Extension(
            module,
            [str(_source(root, module))],
            depends=[str(header) for header in _source(root, module).parent.glob("*.h")],
            include_dirs=[np.get_include()],
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            extra_compile_args=["-O3"],
            py_limited_api=True,
        )
        for module in _MODULES
    ]
    with tempfile.TemporaryDirectory() as scratch:
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_temp = scratch
        command.build_lib = str(root)
        command.ensure_finalized()
        command.run()
