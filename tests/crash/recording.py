"""What the recording process of a crash trial does."""

import os
from pathlib import Path

from crash.known import Log

from shardwriter.config import RecorderConfig
from shardwriter.engines.local import LocalEngine
from shardwriter.recording.recorder import Recorder


def record(trial: dict) -> None:
    directory = Path(trial["directory"])
    where = trial["buffer_dir"]
    config = RecorderConfig(
        neural_sampling_rate=1,
        chunk_size=16,
        compression=trial["compression"],
        async_write=trial["mode"] == "async",
        n_async_workers=1,
        buffer_dir=None if where is None else Path(where),
    )
    shape, fifo = trial["shape"], trial["fifo"]

    def rollout(episode):
        Log(episode, shape, os.open(fifo, os.O_WRONLY)).run()

    with Recorder(directory, config) as recorder:
        if trial["mode"] == "workers":
            engine = LocalEngine(recorder, rollout, 2)
            engine.run(iter(range(trial["episodes"])), lambda result: None)
        else:
            for _ in range(trial["episodes"]):
                rollout(recorder.start_episode())
