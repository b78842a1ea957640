"""How fast does one process record, by codec and by who compresses?

Beside shardwriter run, in every round and on the same data: a raw ``write()`` of the same bytes,
and h5py driven by NumPy buffers with the same filters. Time runs from the start of an episode until
its file is final, with a writer process already up. Every file is read back and compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from bench.data import VARIANTS
from bench.findings import Beside, Figure, Findings, Setting, Table
from bench.measure import Measured, Measurement, measure_rounds, quiet
from bench.recorders import RECORDERS, not_installed

__all__ = ["PEER_OF", "compare", "measure", "rate"]

# Which h5py each arrangement is compared with.
PEER_OF = {
    "gzip": "h5py-gzip",
    "gzip-caller": "h5py-gzip",
    "lz4": "h5py-lz4",
    "zstd": "h5py-zstd",
    "none": "h5py-none",
    "none-caller": "h5py-none",
}
CEILING = "raw"
UNITS = {"A10k": "MB/s"}  # steps/s, else
QUICK_DIVISOR = 10


def measure(setting: Setting) -> Findings:
    """Measure every arrangement on every workload."""
    recorders = [*PEER_OF, *dict.fromkeys(PEER_OF.values())]
    findings = compare(setting, recorders, "record", PEER_OF)
    ours = [each for each in findings.figures if each.key.split("/")[2] in PEER_OF]
    return replace(findings, figures=ours)


def compare(
    setting: Setting, recorders: Sequence[str], prefix: str, peer_of: dict[str, str]
) -> Findings:
    """Measure recorders, one figure for each and each workload, and a table for each workload."""
    findings = Findings()
    missing = {name: package for name in recorders if (package := not_installed(name))}
    findings.missing = [f"{RECORDERS[name].label} (needs {missing[name]})" for name in missing]
    there = [*[name for name in recorders if name not in missing], CEILING]
    for name in ["A1k"] if setting.is_quick else list(VARIANTS):
        variant = VARIANTS[name]
        if setting.is_quick:
            variant = variant.shortened(QUICK_DIVISOR)
        rounds = measure_rounds(variant, there, setting)
        rows = []
        for recorder in there:
            key = f"{prefix}/{name}/{recorder}"
            found = rate(rounds, recorder, key, peer_of.get(recorder))
            if found is not None:
                findings.figures.append(found)
            rows.append((found.value if found else 0.0, _cells(rounds, recorder, found)))
        rows += [(0.0, [RECORDERS[each].label, "not installed", *[""] * 6]) for each in missing]
        rows.sort(key=lambda row: -row[0])
        title = (
            f"{name}: {variant.n_neurons:,} neurons, potentials every {variant.sample_every} "
            f"steps, {variant.n_steps:,} steps"
        )
        findings.tables.append(
            Table(title=title, columns=COLUMNS, rows=[cells for _, cells in rows])
        )
    return findings


COLUMNS = [
    "recorder",
    "steps/s",
    "smallest to largest",
    "MB/s",
    "file / raw",
    "x h5py",
    "% of write()",
    "CPU us/step",
]


def rate(rounds: Sequence[Measured], name: str, key: str, peer: str | None = None) -> Figure | None:
    """Return how fast a recorder is, None if it failed."""
    variant = key.split("/")[1]
    alone = [_speed(by[name], variant) for by in quiet(rounds, name)]
    if not alone:
        return None

    def beside(other: str | None) -> Beside | None:
        both = quiet(rounds, name, other) if other is not None and other != name else []
        if other is None or not both:
            return None
        return Beside(
            name=RECORDERS[other].label.removeprefix("ceiling: "),
            value=median(_speed(by[other], variant) for by in both),
            ratio=median(by[name].steps_per_s / by[other].steps_per_s for by in both),
        )

    return Figure(
        key=key,
        what=f"{variant}: {RECORDERS[name].label}",
        value=median(alone),
        unit=UNITS.get(variant, "steps/s"),
        low=min(alone),
        high=max(alone),
        peer=beside(peer),
        ceiling=beside(CEILING),
    )


def _speed(measured: Measurement, variant: str) -> float:
    return measured.mb_per_s if UNITS.get(variant) == "MB/s" else measured.steps_per_s


def _cells(rounds: Sequence[Measured], name: str, found: Figure | None) -> list[str]:
    label = RECORDERS[name].label
    if found is None:
        reasons = [text for by in rounds if isinstance(text := by.get(name), str)]
        return [label, f"failed: {reasons[0] if reasons else 'unknown'}", *[""] * 6]
    ours: list[Measurement] = [by[name] for by in quiet(rounds, name)]
    return [
        label,
        f"{median(m.steps_per_s for m in ours):,.0f}",
        f"{min(m.steps_per_s for m in ours):,.0f} to {max(m.steps_per_s for m in ours):,.0f}",
        f"{median(m.mb_per_s for m in ours):,.0f}",
        f"{median(m.size_ratio for m in ours):.3f}",
        f"{found.peer.ratio:.2f}" if found.peer else "",
        f"{100 * found.ceiling.ratio:.1f}" if found.ceiling else "100",
        f"{median(1e6 * m.cpu_s / m.n_steps for m in ours):,.1f}",
    ]
