"""Is shardwriter faster than the other ways to store the same data?

Each peer is driven as its documentation advises for speed (see `bench.libraries`), on the thread
that simulates; shardwriter compresses in a writer process, which is a second core. Every file is
read back and compared.
"""

from __future__ import annotations

from bench.findings import Beside, Figure, Findings, Setting
from bench.record import compare
from bench.recorders import RECORDERS

__all__ = ["measure"]

OURS = ("gzip", "lz4", "none")
PEERS = (
    "h5py-gzip",
    "h5py-lz4",
    "h5py-none",
    "h5py-append",
    "tensorstore",
    "zarr",
    "pytables",
    "parquet",
    "adios2",
    "mcap",
    "mcap-none",
    "minari",
)


def measure(setting: Setting) -> Findings:
    """Measure all on every workload, and how far ahead of the fastest compressed peer we are."""
    against = dict.fromkeys([*OURS, *PEERS], "h5py-gzip")
    findings = compare(setting, [*OURS, *PEERS], "peers", against)
    by_key = {each.key: each for each in findings.figures}
    variants = dict.fromkeys(key.split("/")[1] for key in by_key)
    findings.figures = [found for name in variants if (found := _ahead(name, by_key))]
    findings.series["peers"] = [
        {
            "variant": each.key.split("/")[1],
            "unit": each.unit,
            "label": RECORDERS[each.key.split("/")[2]].label,
            "is_ours": each.key.split("/")[2] in OURS,
            "is_compressed": RECORDERS[each.key.split("/")[2]].is_compressed,
            "value": each.value,
            "low": each.low,
            "high": each.high,
        }
        for each in by_key.values()
    ]
    return findings


def _ahead(variant: str, by_key: dict[str, Figure]) -> Figure | None:
    ours = by_key.get(f"peers/{variant}/gzip")
    names = [name for name in PEERS if RECORDERS[name].is_compressed]
    rivals = [each for name in names if (each := by_key.get(f"peers/{variant}/{name}"))]
    if ours is None or not rivals:
        return None
    best = max(rivals, key=lambda each: each.value)
    name = RECORDERS[best.key.split("/")[2]].label
    ratio = ours.value / best.value
    return Figure(
        key=f"peers/{variant}/ahead",
        what=f"{variant}: gzip, own writer / fastest compressed peer",
        value=ratio,
        unit="x",
        low=ours.low / best.high,
        high=ours.high / best.low,
        peer=Beside(name=name, value=1.0, ratio=ratio),
    )
