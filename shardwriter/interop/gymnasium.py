"""Gymnasium environments that record themselves, one episode from each reset.

Invariant: row ``t`` of ``behavior`` is the observation at step ``t``, the action it was answered
with, and how that step ended. The last observation, which no action answers, is in
``final_state``: T steps, T+1 observations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from shardwriter.errors import MissingDependency
from shardwriter.exporter import DataExporter
from shardwriter.interop.spaces import check_space, fields_of, space_to_json
from shardwriter.recording.episode import Episode

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector.utils import iterate
except ImportError as error:
    raise MissingDependency("gymnasium", "gymnasium") from error

__all__ = ["RecordEpisodes", "RecordVectorEpisodes"]

State = Mapping[str, Any] | None


class RecordEpisodes(gymnasium.Wrapper):  # type: ignore[misc]  # Gymnasium is optional: Any
    """Records each episode of an environment.

    ``behavior`` gets the fields ``observation`` and ``action`` (``observation.pole.angle`` for
    the entries of dict and tuple spaces), ``terminated``, ``truncated``, and each number of
    ``info`` as float64 ``info.<key>``; rewards go where rewards are. ``reset(seed=None)`` seeds
    the environment with the episode's own seed, so that an episode can be played again alone.
    The static data ``reset`` hold seed, options and the numbers of reset's info. An episode that
    is reset or closed before its end has ``success`` False, and its last observation is in the
    static data ``last_observation``.

    Parameters
    ----------
    env
        The environment.
    exporter
        Where to record; opening and closing it is the caller's.
    neural_state, spikes
        Called at each step, after the policy has chosen its action: what ``log_timestep`` takes
        under these names.

    Raises
    ------
    ConfigError
        A space is of a kind without a fixed form (Graph, Sequence, OneOf).
    """

    def __init__(
        self,
        env: Any,
        exporter: DataExporter,
        *,
        neural_state: Callable[[], State] | None = None,
        spikes: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(env)
        check_space("observation_space", env.observation_space)
        check_space("action_space", env.action_space)
        self._exporter = exporter
        self._neural_state = neural_state
        self._spikes = spikes
        self._track: _Track | None = None
        _save_origin(exporter, env.spec, env.observation_space, env.action_space)

    @property
    def episode(self) -> Episode | None:
        """The episode being recorded, for events and weight changes; None before a reset."""
        return self._track.episode if self._track else None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Reset the environment, and begin an episode."""
        self._leave()
        episode = self._exporter.start_episode()
        chosen = episode.seed if seed is None else seed
        observation, info = self.env.reset(seed=chosen, options=options)
        self._track = _Track(episode, self.env.observation_space, self.env.action_space)
        self._track.begin(observation, info, chosen, options)
        return observation, info

    def step(self, action: Any) -> Any:
        """Step the environment, and record the step."""
        state = self._neural_state() if self._neural_state else None
        spikes = self._spikes() if self._spikes else None
        result = self.env.step(action)
        observation, reward, terminated, truncated, info = result
        if self._track is not None:
            self._track.step(
                action, observation, float(reward), (terminated, truncated), info, state, spikes
            )
            if terminated or truncated:
                self._track = None
        return result

    def close(self) -> None:
        """End an episode that is being recorded, and close the environment."""
        self._leave()
        super().close()

    def _leave(self) -> None:
        if self._track is not None:
            self._track.leave()
            self._track = None


class RecordVectorEpisodes(gymnasium.vector.VectorWrapper):  # type: ignore[misc]  # as above
    """Records the episodes of a vector environment, each as `RecordEpisodes` does.

    Every autoreset mode is understood: the step that only resets (next-step mode) is in no
    episode, and the last observation is the episode's own, not that of the next (same-step mode
    has it in ``final_obs``).

    Parameters
    ----------
    env
        The vector environment.
    exporter
        Where to record.
    neural_state, spikes
        Called at each step: one entry per environment (a sequence), or a dict of arrays whose
        first axis is the environment's.

    Raises
    ------
    ConfigError
        A space is of a kind without a fixed form.
    """

    def __init__(
        self,
        env: Any,
        exporter: DataExporter,
        *,
        neural_state: Callable[[], Mapping[str, Any] | Sequence[State]] | None = None,
        spikes: Callable[[], Sequence[Any]] | None = None,
    ) -> None:
        super().__init__(env)
        check_space("observation_space", env.single_observation_space)
        check_space("action_space", env.single_action_space)
        self._exporter = exporter
        self._neural_state = neural_state
        self._spikes = spikes
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._mode = AutoresetMode(mode)
        self._tracks: list[_Track | None] = [None] * env.num_envs
        spaces_of_one = env.single_observation_space, env.single_action_space
        _save_origin(exporter, env.spec, *spaces_of_one)

    @property
    def episodes(self) -> list[Episode | None]:
        """The episode that each environment is in; None between two."""
        return [track.episode if track else None for track in self._tracks]

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        """Reset all environments, or those of ``options["reset_mask"]``.

        Each gets its episode's seed. Environments that share one generator, as those have that
        compute all at once, get the first, and the seed recorded is None.
        """
        count = self.env.num_envs
        mask = np.ones(count, bool)
        if options is not None and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"], bool)
        opened = {i: self._opened(i) for i in np.flatnonzero(mask).tolist()}
        if seed is None:
            seeds = [opened[i].seed if i in opened else None for i in range(count)]
        elif isinstance(seed, int):
            seeds = [seed + i for i in range(count)]
        else:
            seeds = list(seed)
        kept = None if options is None else dict(options)
        try:
            observations, infos = self.env.reset(seed=seeds, options=options)
        except gymnasium.error.Error:
            if isinstance(seed, Sequence):
                raise
            # One generator draws for all environments: none has a seed of its own.
            observations, infos = self.env.reset(seed=seeds[0], options=options)
            seeds = [None] * count
        if kept is not None:
            kept.pop("reset_mask", None)
        each = self._each(observations)
        for i, episode in opened.items():
            self._begin(i, episode, each[i], _info_of(infos, i), seeds[i], kept or None)
        return observations, infos

    def step(self, actions: Any) -> Any:
        """Step all environments, and record each that is in an episode."""
        states = _by_env(self._neural_state() if self._neural_state else None, self.env.num_envs)
        spikes = self._spikes() if self._spikes else [None] * self.env.num_envs
        result = self.env.step(actions)
        observations, rewards, terminated, truncated, infos = result
        next_ones = self._each(observations)
        for i, action in enumerate(iterate(self.env.action_space, actions)):
            track = self._tracks[i]
            end = bool(terminated[i]), bool(truncated[i])
            info = _info_of(infos, i)
            if track is None:
                if self._mode is AutoresetMode.NEXT_STEP:  # this step was the reset
                    self._begin(i, self._opened(i), next_ones[i], info, None, None)
                continue
            same_step = any(end) and self._mode is AutoresetMode.SAME_STEP
            last = infos["final_obs"][i] if same_step else next_ones[i]
            last_info = _info_of(infos.get("final_info", {}), i) if same_step else info
            track.step(action, last, float(rewards[i]), end, last_info, states[i], spikes[i])
            if any(end):
                self._tracks[i] = None
                if same_step:
                    self._begin(i, self._opened(i), next_ones[i], info, None, None)
        return result

    def close(self, **options: Any) -> Any:
        """End the episodes that are being recorded, and close the environments."""
        for track in self._tracks:
            if track is not None:
                track.leave()
        self._tracks = [None] * self.env.num_envs
        return super().close(**options)

    def _each(self, observations: Any) -> list[Any]:
        return list(iterate(self.env.observation_space, observations))

    def _opened(self, i: int) -> Episode:
        track = self._tracks[i]
        if track is not None:
            track.leave()
            self._tracks[i] = None
        return self._exporter.start_episode()

    def _begin(
        self,
        i: int,
        episode: Episode,
        observation: Any,
        info: Mapping[str, Any],
        seed: int | None,
        options: dict[str, Any] | None,
    ) -> None:
        spaces_of_one = self.env.single_observation_space, self.env.single_action_space
        track = self._tracks[i] = _Track(episode, *spaces_of_one)
        track.begin(observation, info, seed, options)


class _Track:
    """One episode of one environment: its last observation, and how far it is."""

    def __init__(self, episode: Episode, observations: Any, actions: Any) -> None:
        self.episode = episode
        self._spaces = observations, actions
        self._timestep = 0
        self._observation: dict[str, Any] = {}

    def begin(
        self, observation: Any, info: Mapping[str, Any], seed: int | None, options: Any
    ) -> None:
        start = {"seed": seed, "options": options, "info": _numbers(info)}
        self.episode.log_static_data("reset", start)
        self._observation = fields_of("observation", self._spaces[0], observation)

    def step(
        self,
        action: Any,
        observation: Any,
        reward: float,
        end: tuple[Any, Any],
        info: Mapping[str, Any],
        state: State,
        spikes: Any,
    ) -> None:
        """Log a step, and end the episode where this was its last."""
        behavior = {
            **self._observation,
            **fields_of("action", self._spaces[1], action),
            "terminated": np.bool_(end[0]),
            "truncated": np.bool_(end[1]),
            **{f"info.{name}": value for name, value in _numbers(info).items()},
        }
        self.episode.log_timestep(
            self._timestep, neural_state=state, spikes=spikes, behavior=behavior, reward=reward
        )
        self._timestep += 1
        self._observation = fields_of("observation", self._spaces[0], observation)
        if any(end):
            self.episode.end(final_state=self._observation)

    def leave(self) -> None:
        if self.episode.has_ended:  # the exporter was closed before the environment
            return
        self.episode.log_static_data("last_observation", self._observation)
        self.episode.end(success=False)


def _numbers(info: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in an info by their path, as floats, which may come and go."""
    found: dict[str, float] = {}
    for key, value in info.items():
        if isinstance(value, Mapping):
            found |= _numbers(value, f"{prefix}{key}.")
        elif np.ndim(value) == 0 and isinstance(value, (int, float, np.number, np.bool_)):
            found[f"{prefix}{key}".replace("/", ".")] = float(value)
    return found


def _info_of(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Return one environment's info out of a vector environment's."""
    found: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_") or key in ("final_obs", "final_info"):
            continue
        if f"_{key}" in infos and not infos[f"_{key}"][i]:
            continue
        found[key] = _info_of(values, i) if isinstance(values, Mapping) else values[i]
    return found


def _by_env(states: Any, count: int) -> list[State]:
    if states is None:
        return [None] * count
    if isinstance(states, Mapping):
        return [{name: values[i] for name, values in states.items()} for i in range(count)]
    return list(states)


def _save_origin(exporter: DataExporter, spec: Any, observation: Any, action: Any) -> None:
    """Keep the spaces, and what the environment was made from, where it can be told."""
    spaces = {"observation_space": observation, "action_space": action}
    exporter.save_metadata({name: space_to_json(space) for name, space in spaces.items()})
    if spec is None:
        return
    try:
        exporter.save_metadata({"env_spec": spec.to_json(), "env_id": spec.id})
    except (TypeError, ValueError):  # a spec with values that are no JSON
        exporter.save_metadata({"env_id": spec.id})
