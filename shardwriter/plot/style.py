"""How every picture of shardwriter looks."""

from typing import Any

from shardwriter.errors import MissingDependency

__all__ = ["PALETTE", "STYLE", "require_matplotlib"]

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
"""Okabe and Ito's colours, which people with any colour vision can tell apart."""

STYLE = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 0.9,
}


def require_matplotlib() -> Any:
    """Import matplotlib, or raise MissingDependency with the extra that installs it."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependency("matplotlib", "plot") from error
    return matplotlib
