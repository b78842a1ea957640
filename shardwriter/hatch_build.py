"""Compiles ``_fast.c`` when the package is built; without a compiler the package has only Python.

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

_MODULE = "shardwriter.recording._fast"
_LOG = logging.getLogger(__name__)


class FastHook(BuildHookInterface[Any]):
    """Compiles beside the sources: for an editable install, and for tests in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel is of this platform, where that succeeds."""
        root = Path(self.root)
        for old in (root / "shardwriter" / "recording").glob("_fast.*.so"):
            old.unlink()
        try:
            _compile(root)
        except (Exception, SystemExit) as error:  # noqa: BLE001  (see the invariant)
            _LOG.warning("recording will be slower: %s was not compiled: %s", _MODULE, error)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile(root: Path) -> None:
    extension = Extension(
        _MODULE,
        [str(root / "shardwriter" / "recording" / "_fast.c")],
        include_dirs=[np.get_include()],
        define_macros=[("Py_LIMITED_API", "0x030B0000")],
        extra_compile_args=["-O3"],
        py_limited_api=True,
    )
    with tempfile.TemporaryDirectory() as scratch:
        command = build_ext(Distribution({"ext_modules": [extension]}))
        command.build_temp = scratch
        command.build_lib = str(root)
        command.ensure_finalized()
        command.run()
