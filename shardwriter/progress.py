"""Progress bars: tqdm's where one is shown, else nothing.

Invariant: tqdm, whose import takes as long as h5py's, is imported only to show a bar.
"""

import sys
import warnings
from types import TracebackType
from typing import Any, Protocol, cast

__all__ = ["Bar", "is_watched", "progress_bar"]


class Bar(Protocol):
    """What is used of tqdm."""

    def __enter__(self) -> "Bar": ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> object: ...

    def update(self, n: int = 1) -> object:
        """Count `n` more as done."""
        ...

    def set_postfix(self, **values: Any) -> object:
        """Show values behind the bar."""
        ...


def is_watched() -> bool:
    """Tell whether someone sees progress bars: on a terminal, or in a notebook."""
    return sys.stderr.isatty() or _is_notebook()


def _is_notebook() -> bool:
    ipython = sys.modules.get("IPython")  # imported, wherever there is a notebook
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def progress_bar(desc: str, unit: str, total: int | None = None, *, shown: bool) -> Bar:
    """Return a bar that counts up to `total`; one that is not shown, or of 0, does nothing."""
    if not shown or total == 0:
        return _Hidden()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a notebook lacks ipywidgets: the bar is of text then
        from tqdm.auto import tqdm

    return cast(Bar, tqdm(desc=desc, unit=unit, total=total))


class _Hidden:
    def __enter__(self) -> "_Hidden":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def update(self, n: int = 1) -> None:
        return None

    def set_postfix(self, **values: Any) -> None:
        return None
