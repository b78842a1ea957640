"""DataExporter: the façade of recording."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from shardwriter.config import RecorderConfig, checked_path
from shardwriter.engines import EpisodeResult, run_episodes
from shardwriter.errors import ConfigError, EpisodeEnded
from shardwriter.files.experiment_file import (
    ExperimentFiles,
    new_experiment_directory,
    sparse_or_dense,
)
from shardwriter.files.layout import ATTRIBUTES, UNITS, listed_episodes, unfinished_episodes
from shardwriter.files.schema import name_problem
from shardwriter.files.units import Units
from shardwriter.notebook import facts_html
from shardwriter.progress import is_watched
from shardwriter.recording.batch import EpisodeBatch
from shardwriter.recording.episode import Episode
from shardwriter.recording.network import network_size
from shardwriter.recording.recorder import Recorder
from shardwriter.recovery import recover
from shardwriter.system.process import TerminationAsExit
from shardwriter.system.provenance import code_snapshot, git_info, runtime_info

__all__ = ["DataExporter"]


class DataExporter:
    """Records an experiment: many episodes, in this process or in many.

    Makes ``<output_dir>/<experiment_name>_<YYYYmmdd_HHMMSS>/``, never an existing directory.
    Leaving the ``with`` block closes it; inside, SIGTERM raises SystemExit. Pickled, it becomes
    a ``Recorder``, which opens episodes of the same experiment wherever it arrives.

    Parameters
    ----------
    experiment_name
        Name of the experiment, without slashes.
    output_dir
        Where its directory is made.
    neural_sampling_rate
        Timesteps from one stored neural state to the next; 1 stores every one.
    validate_data
        Check the content of what is logged.
    compression
        ``"gzip"`` (shuffle and deflate, which every HDF5 reads), ``"lzf"``, None, or with the
        extra ``codecs`` ``"zstd"``, ``"lz4"`` or ``"blosc"``.
    compression_level
        Level of gzip, zstd or blosc, 1 to 9.
    adaptive_compression
        Choose for each column, from its first full slot, between no compression, shuffle or
        not, and levels, by measured ratio and speed; ``info`` says what was chosen and why.
    precision
        Largest absolute error by field, as ``{"membrane_potential": 0.01}`` or
        ``{"behavior/position": 1e-3}``: float values are rounded so far, which compresses
        better. An attribute of the dataset says so. Without it every bit is kept.
    chunk_size
        Most rows in a chunk; wide rows make it less, at about 1 MiB.
    async_write
        Compress and write in separate processes, not in the one that logs.
    n_async_workers
        How many of these.
    enable_profiling
        Count every call and time some of them; see ``get_performance_stats``. The figures are
        saved at ``close``.
    max_memory_mb
        Bound on all buffers of the experiment together, in MB (10^6 bytes). Slots shrink to
        fit; where the smallest do not, an error names the bound that would do.
    flush_interval_s
        Rows of a slot that is not full reach the shard's part after this long.
    durability
        ``"process"``: what was logged outlives every process. ``"power"``: what was logged
        ``flush_interval_s`` ago also outlives a loss of power; see ``docs/guarantees.md``.
    buffer_dir
        Where buffers are kept; by default beside the shards, or in ``/dev/shm`` where those are
        on a network file system.
    scratch_dir
        A directory on a disk of the node that records, made where it is missing: episodes are
        written there, buffers included, and finished shards are copied into the experiment's
        directory, compared, and only then visible.
    seed
        The experiment's seed, from which every episode's is made; None draws one.
    progress
        Show progress bars; None shows them on a terminal and in a notebook.

    Attributes
    ----------
    output_dir
        The experiment's directory.

    Raises
    ------
    ConfigError
        An option has a value it cannot have; nothing was created.
    """

    def __init__(
        self,
        experiment_name: str,
        output_dir: str | os.PathLike[str] = "experiments",
        *,
        neural_sampling_rate: int = 100,
        validate_data: bool = True,
        compression: str | None = "gzip",
        compression_level: int = 4,
        adaptive_compression: bool = False,
        precision: Mapping[str, float] | None = None,
        chunk_size: int = 10_000,
        async_write: bool = False,
        n_async_workers: int = 4,
        enable_profiling: bool = False,
        max_memory_mb: float = 500,
        flush_interval_s: float = 30.0,
        durability: str = "process",
        buffer_dir: str | os.PathLike[str] | None = None,
        scratch_dir: str | os.PathLike[str] | None = None,
        seed: int | None = None,
        progress: bool | None = None,
    ) -> None:
        problem = name_problem(experiment_name)
        if problem:
            raise ConfigError("experiment_name", "a name, without slashes", experiment_name)
        if progress not in (None, True, False):
            raise ConfigError("progress", "True, False or None", progress)
        config = RecorderConfig.from_options(
            {
                "neural_sampling_rate": neural_sampling_rate,
                "validate_data": validate_data,
                "compression": compression,
                "compression_level": compression_level,
                "adaptive_compression": adaptive_compression,
                "precision": precision,
                "chunk_size": chunk_size,
                "async_write": async_write,
                "n_async_workers": n_async_workers,
                "enable_profiling": enable_profiling,
                "max_memory_mb": max_memory_mb,
                "flush_interval_s": flush_interval_s,
                "durability": durability,
                "buffer_dir": buffer_dir,
                "scratch_dir": scratch_dir,
                "seed": seed,
            }
        )
        self.experiment_name = experiment_name
        self._progress = progress
        parent = checked_path("output_dir", output_dir)
        self._recorder = Recorder(new_experiment_directory(parent, experiment_name), config)
        self.output_dir = self._recorder.output_dir
        self._files = ExperimentFiles(self.output_dir)
        self._current: Episode | None = None
        self._is_closed = False
        self._termination = TerminationAsExit()
        now = datetime.now(UTC)
        self._attributes: dict[str, object] = {
            "experiment_name": experiment_name,
            "timestamp": now.strftime("%Y%m%d_%H%M%S"),
            "start_time": now.isoformat(),
            **{k: v for k, v in config.to_json().items() if v is not None},
        }
        self._files.save(ATTRIBUTES, self._attributes)
        self._files.save_config_json(config.to_json(), {})
        self.save_runtime_info()

    @classmethod
    def resume(
        cls, directory: str | os.PathLike[str], *, progress: bool | None = None
    ) -> "DataExporter":
        """Go on with an experiment that another process began, recorded as it was.

        First brings the episodes of dead processes to their end. Run what is missing with
        ``run_episodes(..., skip_existing=True)``.

        Parameters
        ----------
        directory
            The experiment's directory.
        progress
            Show progress bars; None shows them on a terminal and in a notebook.

        Raises
        ------
        ExperimentNotFound
            The directory is not an experiment's.
        """
        where = checked_path("directory", directory).absolute()
        files, recorder, attributes = ExperimentFiles.of(where)
        recover(where)
        self = cls.__new__(cls)
        self.experiment_name = str(attributes["experiment_name"])
        self._progress = progress
        self._recorder = Recorder(where, RecorderConfig.from_json(recorder))
        self.output_dir = where
        self._files = files
        self._attributes = attributes
        self._current = None
        self._is_closed = False
        self._termination = TerminationAsExit()
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return self._recorder.__reduce__()

    def __repr__(self) -> str:
        return f"<DataExporter {self.experiment_name!r}: {self._state}, {self.output_dir}>"

    def _repr_html_(self) -> str:
        finished, unfinished = (
            listed_episodes(self.output_dir),
            unfinished_episodes(self.output_dir),
        )
        facts = {
            "state": self._state,
            "directory": self.output_dir,
            "finished episodes": f"{len(finished):,}",
            "unfinished episodes": f"{len(unfinished):,}",
        }
        return facts_html(f"DataExporter {self.experiment_name}", facts)

    @property
    def _state(self) -> str:
        return "closed" if self._is_closed else "open"

    def __enter__(self) -> "DataExporter":
        self._termination.turn_on()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        finally:
            self._termination.turn_off()

    # -- what belongs to the experiment ---------------------------------------------------

    def save_config(self, config: Mapping[str, Any]) -> None:
        """Keep the experiment's configuration, as attributes of ``config/`` and ``config.json``.

        Raises
        ------
        ConfigError
            It is no dict, or a name or value in it cannot be stored.
        """
        if not isinstance(config, Mapping):
            raise ConfigError("save_config", "a dict", config)
        self._files.save("config", dict(config))
        self._files.save_config_json(self._recorder.config.to_json(), config)

    def save_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Add attributes to the experiment; a name given again replaces its value.

        Raises
        ------
        ConfigError
            A name is one of shardwriter's own, or a value cannot be stored.
        """
        own = {"format", "format_version", "experiment_name", "episode_count"}
        for name in own & set(metadata):
            raise ConfigError("save_metadata", "a name that shardwriter does not use", name)
        attributes = {**self._attributes, **metadata}
        self._files.save(ATTRIBUTES, attributes)
        self._attributes = attributes

    def save_units(self, units: Mapping[str, str], *, dt: float | None = None) -> None:
        """Say what the numbers mean; exports and plots use it. Called again, it replaces that.

        Parameters
        ----------
        units
            Unit by field, as ``{"membrane_potential": "mV"}``; ``"behavior/position"`` tells
            fields of one name apart. ``"reward"`` and ``"weight"`` are names too.
        dt
            Seconds from one timestep to the next.

        Raises
        ------
        ConfigError
            A unit is no text, or `dt` no positive number.
        """
        self._files.save(UNITS, Units(by_name=dict(units), dt=dt).to_attributes())

    def save_network_structure(
        self,
        neurons: Mapping[str, Any],
        connections: Mapping[str, Any],
        initial_weights: Any = None,
    ) -> None:
        """Keep the network's structure.

        Parameters
        ----------
        neurons
            Arrays by field, one entry per neuron.
        connections
            Arrays by field, one entry per synapse, such as ``sources`` and ``targets``.
        initial_weights
            A dense array, a SciPy sparse matrix (kept as ``row``, ``col``, ``value`` and
            ``shape``), or nested values.

        Raises
        ------
        ConfigError
            A value cannot be stored.
        """
        if self._recorder.config.validate_data:
            self._recorder.n_neurons = network_size(neurons, connections)
        structure = {"neurons": dict(neurons), "connections": dict(connections)}
        if initial_weights is not None:
            structure["initial_weights"] = sparse_or_dense(initial_weights)
        self._files.save("network_structure", {}, structure)

    def save_runtime_info(self) -> None:
        """Keep machine, interpreter and package versions; done when an exporter is made."""
        self._files.save("runtime", runtime_info())

    def save_git_info(self, directory: str | os.PathLike[str] = ".") -> None:
        """Keep commit, branch and uncommitted changes of the git repository of a directory.

        Raises
        ------
        ConfigError
            It is in no git repository.
        """
        self._files.save("git_info", git_info(Path(directory)))

    def save_code_snapshot(self, files: Iterable[str | os.PathLike[str]]) -> None:
        """Keep the text of source files.

        Raises
        ------
        ConfigError
            A file cannot be read as text.
        """
        texts = code_snapshot(files)
        names = {
            f"file_{i:04d}": {"path": path, "text": texts[path]} for i, path in enumerate(texts)
        }
        self._files.save("code_snapshot", {}, names)

    def save_checkpoint(self, name: str, data: Mapping[str, Any]) -> None:
        """Keep nested values, such as a network's weights, under ``checkpoints/<name>``.

        The same name again replaces it.

        Raises
        ------
        ConfigError
            The name has a slash, or a value cannot be stored.
        """
        if name_problem(name):
            raise ConfigError("checkpoint", "a name, without slashes", name)
        saved_at = datetime.now(UTC).isoformat()
        self._files.save(f"checkpoints/{name}", {"saved_at": saved_at}, data)

    # -- recording ------------------------------------------------------------------------

    def start_episode(self, episode_id: int | None = None) -> Episode:
        """Open an episode in this process; see ``Recorder.start_episode``.

        Several may be open at once.
        """
        self._check_open()
        self._current = self._recorder.start_episode(episode_id)
        return self._current

    def start_episodes(
        self, ids: Iterable[int] | None = None, *, count: int | None = None
    ) -> EpisodeBatch:
        """Open several episodes that one process steps together.

        See ``Recorder.start_episodes``.
        """
        self._check_open()
        return self._recorder.start_episodes(ids, count=count)

    def log(self, **values: Any) -> None:
        """Call ``log_timestep`` of the current episode: the one started last.

        Raises
        ------
        EpisodeEnded
            There is none.
        """
        self._current_episode("log").log_timestep(**values)

    def log_static_episode_data(self, name: str, data: Any) -> None:
        """Call ``log_static_data`` of the current episode."""
        self._current_episode("log_static_episode_data").log_static_data(name, data)

    def end_episode(self, success: bool = True, summary: Mapping[str, Any] | None = None) -> None:
        """End the current episode."""
        self._current_episode("end_episode").end(success=success, summary=summary)
        self._current = None

    def _current_episode(self, call: str) -> Episode:
        if self._current is None:
            raise EpisodeEnded(None, call)
        return self._current

    def run_episodes(
        self,
        rollout: Callable[[Episode], Any],
        episodes: Iterable[int],
        n_workers: int | None = None,
        *,
        executor: Executor | Callable[[], Executor] | None = None,
        on_error: str = "raise",
        on_result: Callable[[EpisodeResult], None] | None = None,
        retries: int = 0,
        skip_existing: bool = False,
    ) -> list[EpisodeResult]:
        """Run a rollout for each episode, in parallel worker processes.

        Parameters
        ----------
        rollout
            Called with an open ``Episode`` in a worker process; what it returns becomes the
            episode's summary. It travels by cloudpickle, so lambdas, closures and functions
            of a notebook or script are welcome.
        episodes
            Ids; an iterator is taken one by one, as workers become idle.
        n_workers
            Processes at a time; by default as many as there are cores to run on. With an
            executor: most episodes that are handed to it at a time; by default two for each of
            its workers.
        executor
            Who runs them: None for processes of this machine, or any
            ``concurrent.futures.Executor``: a ProcessPoolExecutor, loky's, Dask's
            ``client.get_executor()``, MPIPoolExecutor, ``shardwriter.engines.RayExecutor``. Its
            workers have to see the experiment's directory under the same path. A function that
            makes one lets the run outlive a pool that breaks when a worker dies.
        on_error
            ``"raise"`` raises one error at the end if any episode failed; ``"continue"``
            leaves it to the caller to look at the results.
        on_result
            Called with each episode's result as it comes, in the calling thread.
        retries
            How often to run an episode again that failed or whose process died. The shards of
            failed attempts are kept, as ``shards/attempts/episode_0003.1.h5``.
        skip_existing
            Do not run episodes that completed before; those that failed or were interrupted
            are run again, and their shards kept as failed attempts. What lies in a shard of
            many episodes is never run again; if it did not complete, its result says so.

        Returns
        -------
        list of EpisodeResult
            One per episode, in the order given.

        Raises
        ------
        EpisodesFailed
            Some episodes failed; it lists them, and what they logged is kept.
        ExecutorBroken
            The executor broke before every episode had run; what ran is kept.
        WorkerFailed
            Workers end before they begin an episode.
        """
        self._check_open()
        return run_episodes(
            self._recorder,
            rollout,
            episodes,
            n_workers,
            executor=executor,
            on_error=on_error,
            on_result=on_result,
            retries=retries,
            skip_existing=skip_existing,
            shows_progress=self._shows_progress(),
        )

    # -- the end --------------------------------------------------------------------------

    def get_performance_stats(self) -> dict[str, Any]:
        """Return what recording has cost so far.

        Returns
        -------
        dict
            ``operations`` (of each call the count, how many were timed, and of those mean, p50,
            p95 and p99 in µs; only with ``enable_profiling``, those of worker processes once they
            have ended), ``episodes``, ``rows``, ``raw_mb``, ``overall`` and ``now`` (rows and MB
            per second since the start, and since the last call of this method),
            ``back_pressure`` (seconds blocked on full slots, high water of the slots),
            ``writer`` (busy seconds, utilisation),
            ``compression`` (ratio by column), ``codec_choices`` (with ``adaptive_compression``,
            what was chosen for each column and why).

        Notes
        -----
        Calls of ``log_timestep`` are timed from within: entering one and waiting for another
        thread are not in its times. Those that are not the usual call, such as the one that hands
        a full slot over, are all timed; of the usual ones one in 61, which stands for 61 in mean
        and percentiles.
        """
        return self._recorder.performance_stats()

    def merge(self) -> Path:
        """Build the master over all shards published so far; return its path."""
        merging = import_module("merge")  # a worker never needs it, and it imports much
        made = merging.merge_experiment(self.output_dir, progress=self._shows_progress())
        return cast(Path, made)

    def close(self, *, merge: bool = True) -> None:
        """End open episodes as ``interrupted``, wait for the writers, and merge.

        Raises
        ------
        WriterFailed
            A shard could not be written; the others are merged.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            self._recorder.close()
        finally:
            if self._recorder.config.enable_profiling:
                self._files.save("performance", self.get_performance_stats())
            if merge:
                self.merge()

    def _check_open(self) -> None:
        if self._is_closed:
            raise ConfigError("DataExporter", "an open exporter", "a closed one")

    def _shows_progress(self) -> bool:
        return is_watched() if self._progress is None else self._progress
