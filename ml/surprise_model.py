"""The default model: five kinds of evidence, each measured in orders of magnitude of its own past."""

from __future__ import annotations

from ml.channels import Channel, LevelChannel, SpreadChannel, StepChannel
from ml.detector import Detector
from ml.intake import Row
from ml.pattern_channels import DaytimeChannel, DriftChannel, ShapeChannel
from ml.state import State, join_states, select_state
from ml.tails import SurpriseScale, Tail, TwoTails

SUDDEN = ("step", "level")


class SurpriseModel(Detector):
    """Learns each channel's tail online and speaks when two kinds of evidence agree.

    Step and level see the same sudden event, so they count as one kind, by their mean; with spread, daytime,
    shape and drift there are five. The surprise of a row is the mean of its two largest: one odd channel
    alone does not carry it.
    """

    algorithm = "surprise"

    def _build(self, step_seconds: float) -> None:
        self._channels = build_channels(step_seconds)
        # Rises and falls differ where a reading jumps; the slow comparisons know no such sides.
        quick = {"step", "level", "spread"}
        self._scales: dict[str, SurpriseScale] = {
            name: TwoTails() if name in quick else Tail() for name in self._channels
        }

    def _measure(self, row: Row) -> float | None:
        surprises: dict[str, float] = {}
        for name, channel in self._channels.items():
            deviation = channel.measure(row.at_seconds, row.value)
            if deviation is not None:
                scale = self._scales[name]
                surprises[name] = scale.measure_surprise(deviation)
                scale.learn(deviation)
        return combine_surprises(surprises) if surprises else None

    def _forget_recent(self) -> None:
        for channel in self._channels.values():
            channel.forget_recent()

    def _export_parts(self) -> dict[str, State]:
        return {
            "channels": join_states({name: channel.export_state() for name, channel in self._channels.items()}),
            "scales": join_states({name: scale.export_state() for name, scale in self._scales.items()}),
        }

    def _restore_parts(self, state: State) -> None:
        channels, scales = select_state(state, "channels"), select_state(state, "scales")
        for name, channel in self._channels.items():
            channel.restore_state(select_state(channels, name))
        for name, scale in self._scales.items():
            scale.restore_state(select_state(scales, name))


def build_channels(step_seconds: float) -> dict[str, Channel]:
    """The channels by name, sized for a sampling step."""
    return {
        "step": StepChannel(),
        "level": LevelChannel(step_seconds),
        "spread": SpreadChannel(step_seconds),
        "daytime": DaytimeChannel(step_seconds),
        "shape": ShapeChannel(),
        "drift": DriftChannel(step_seconds),
    }


def combine_surprises(surprises: dict[str, float]) -> float:
    """The mean of the two largest kinds; a kind that cannot say yet counts as no surprise."""
    sudden = [surprises[name] for name in SUDDEN if name in surprises]
    kinds = [surprise for name, surprise in surprises.items() if name not in SUDDEN]
    if sudden:
        kinds.append(sum(sudden) / len(sudden))
    kinds.sort()
    return sum(kinds[-2:]) / 2.0
