"""MCAP: a message per signal and step, chunks of 1 MB compressed with Zstandard, or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from bench.data import Floats, Spikes, Variant
from bench.recorder import Log, Signals

__all__ = ["McapRecorder"]

_TOPICS = ("potentials", "spikes", "behaviour")


class McapRecorder:
    """One file per episode."""

    def __init__(self, folder: Path, variant: Variant, *, compression: str) -> None:
        self._folder, self._variant = folder, variant
        self._compression = CompressionType[compression]

    def begin(self, episode: int) -> Log:
        """Open the file and register the topics."""
        self._file = self.path(episode).open("xb")
        self._writer = Writer(self._file, chunk_size=1 << 20, compression=self._compression)
        self._writer.start()
        schema = self._writer.register_schema("float32 or int32", "", b"")
        potentials, fired, behaviour = (
            self._writer.register_channel(topic, "raw", schema) for topic in _TOPICS
        )
        add, every = self._writer.add_message, self._variant.sample_every

        def log(t: int, v: Floats, spikes: Spikes, p: Floats, q: Floats, r: np.float32) -> None:
            if t % every == 0:
                add(potentials, t, v.tobytes(), t)
            add(fired, t, spikes.tobytes(), t)
            add(behaviour, t, p.tobytes() + q.tobytes() + r.tobytes(), t)

        return log

    def end(self) -> None:
        """Write the index."""
        self._writer.finish()
        self._file.close()

    def finish(self) -> None:
        """Do nothing: `end` closed the file."""

    def close(self) -> None:
        """Do nothing: `end` closed the file."""

    def path(self, episode: int) -> Path:
        """Return the episode's file."""
        return self._folder / f"{episode}.mcap"

    def read(self, episode: int) -> Signals:
        """Read the episode back."""
        data: dict[str, list[bytes]] = {topic: [] for topic in _TOPICS}
        with self.path(episode).open("rb") as file:
            for _, channel, message in make_reader(file).iter_messages():
                data[channel.topic].append(message.data)
        flat = {topic: b"".join(parts) for topic, parts in data.items()}
        behaviour = np.frombuffer(flat["behaviour"], np.float32).reshape(-1, 7)
        return Signals(
            potentials=np.frombuffer(flat["potentials"], np.float32).reshape(
                -1, self._variant.n_neurons
            ),
            spike_ids=np.frombuffer(flat["spikes"], np.int32),
            position=behaviour[:, :3],
            velocity=behaviour[:, 3:6],
            reward=behaviour[:, 6],
        )
