"""scikit-learn's IsolationForest on the deviations of the channels, scored without scikit-learn.

The library answers a single row in 5 to 8 ms and takes 157 MiB to import. It is used to grow the trees; after
that the trees are flat arrays that numpy walks together, one level of all trees at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ml.channels import Channel
from ml.detector import Detector
from ml.intake import Row
from ml.state import Floats, State, join_states, pack_numbers, select_state, unpack_numbers
from ml.surprise_model import build_channels
from ml.tails import Tail

if TYPE_CHECKING:
    from sklearn.ensemble import IsolationForest

TREES = 64
SAMPLES = 128  # rows a tree is grown from; with 64 trees the state stays near 200 kB
FEWEST_TRAINING_ROWS = 50
SEED = 20
EULER_GAMMA = 0.5772156649015329


@dataclass(frozen=True)
class FlatForest:
    """The trees of an isolation forest, one behind the other.

    `children` (nodes x 2) holds the node to go to where the feature is above (0) or not above (1) the
    threshold; a leaf leads to itself. `lengths` is the path length that ends in a leaf, as in Liu, Ting and
    Zhou (2008).
    """

    features: NDArray[np.int16]
    thresholds: Floats
    children: NDArray[np.int32]
    lengths: Floats
    roots: NDArray[np.int32]
    levels: int
    scale: float

    def score(self, row: Floats) -> float:
        """How isolated a row is (0..1, 1 the most): the negative of scikit-learn's `score_samples`."""
        values = row.astype(np.float32)  # scikit-learn compares single precision, and a tie must fall the same way
        nodes = self.roots
        for _ in range(self.levels):
            low = values[self.features[nodes]] <= self.thresholds[nodes]
            nodes = self.children[nodes, low.view(np.int8)]
        return float(2.0 ** (-np.add.reduce(self.lengths[nodes]) / self.scale))

    def export_state(self) -> State:
        """The trees as arrays."""
        return {
            "features": self.features,
            "thresholds": self.thresholds,
            "children": self.children,
            "lengths": self.lengths,
            "roots": self.roots,
            "scalars": pack_numbers(self.levels, self.scale),
        }

    @classmethod
    def import_state(cls, state: State) -> FlatForest:
        """The trees that `export_state` gave; raises ValueError where a node leads out of the arrays."""
        levels, scale = unpack_numbers(state["scalars"], 2)
        count = len(state["features"])
        children, roots = state["children"], state["roots"]
        if children.shape != (count, 2) or len(state["thresholds"]) != count or len(state["lengths"]) != count:
            raise ValueError("the arrays of a forest differ in length")
        if min(children.min(), roots.min()) < 0 or max(children.max(), roots.max()) >= count:
            raise ValueError("a node of a forest leads nowhere")
        arrays = (state["features"], state["thresholds"], children, state["lengths"], roots)
        return cls(*arrays, levels=int(levels), scale=scale)


class IsolationForestModel(Detector):
    """Isolation in the space of the channels' deviations, learnt once, then judged against its own past.

    The trees stay as trained. Their score is one more distance: its tail, learnt online, gives the surprise.
    The deviations come from the same channels as the default model's. Under 50 training rows it is silent.
    """

    algorithm = "isolation_forest"

    def _build(self, step_seconds: float) -> None:
        self._channels: dict[str, Channel] = build_channels(step_seconds)
        self._tail = Tail()
        self._forest: FlatForest | None = None
        self._collected: list[Floats] | None = None

    def train(self, readings: Iterable[tuple[float, float | None]]) -> None:
        """Learn the readings in their order, then grow the trees from their deviations."""
        if not self._built_step_seconds:
            super().train(readings)
            return
        self._collected = []
        super().train(readings)
        rows, self._collected = self._collected, None
        if len(rows) < FEWEST_TRAINING_ROWS:
            return
        matrix = np.array(rows)
        grown = grow_forest(matrix)
        self._forest = flatten_forest(grown)
        for score in (-grown.score_samples(matrix)).tolist():
            self._tail.learn(score)

    def _measure(self, row: Row) -> float | None:
        deviations = [channel.measure(row.at_seconds, row.value) for channel in self._channels.values()]
        if all(deviation is None for deviation in deviations):
            return None
        features = np.array([0.0 if deviation is None else deviation for deviation in deviations])
        if self._collected is not None:
            self._collected.append(features)
        if self._forest is None:
            return None
        score = self._forest.score(features)
        surprise = self._tail.measure_surprise(score)
        self._tail.learn(score)
        return surprise

    def _forget_recent(self) -> None:
        for channel in self._channels.values():
            channel.forget_recent()

    def _export_parts(self) -> dict[str, State]:
        channels = join_states({name: channel.export_state() for name, channel in self._channels.items()})
        forest = {} if self._forest is None else {"forest": self._forest.export_state()}
        return {"channels": channels, "tail": self._tail.export_state(), **forest}

    def _restore_parts(self, state: State) -> None:
        channels = select_state(state, "channels")
        for name, channel in self._channels.items():
            channel.restore_state(select_state(channels, name))
        self._tail.restore_state(select_state(state, "tail"))
        if "forest.roots" in state:
            self._forest = FlatForest.import_state(select_state(state, "forest"))


def grow_forest(rows: Floats) -> IsolationForest:
    """scikit-learn's forest over rows of features; the same rows give the same forest."""
    from sklearn.ensemble import IsolationForest

    forest = IsolationForest(n_estimators=TREES, max_samples=min(SAMPLES, len(rows)), random_state=SEED)
    return forest.fit(rows)


def flatten_forest(forest: IsolationForest) -> FlatForest:
    """The same trees as flat arrays."""
    trees = [estimator.tree_ for estimator in forest.estimators_]
    starts = np.cumsum([0] + [tree.node_count for tree in trees])
    lengths = [measure_paths(tree) for tree in trees]
    return FlatForest(
        features=np.concatenate([np.maximum(tree.feature, 0) for tree in trees]).astype(np.int16),
        thresholds=np.concatenate([tree.threshold for tree in trees]),
        children=np.concatenate([link_children(tree) + start for tree, start in zip(trees, starts, strict=False)]),
        lengths=np.concatenate(lengths),
        roots=starts[:-1].astype(np.int32),
        levels=max(tree.max_depth for tree in trees),
        scale=len(trees) * measure_average_path(forest.max_samples_),
    )


def link_children(tree: Any) -> NDArray[np.int32]:
    """For each node (above, not above) the next one; leaves lead to themselves."""
    own = np.arange(tree.node_count)
    leaf = tree.children_left < 0
    above = np.where(leaf, own, tree.children_right)
    below = np.where(leaf, own, tree.children_left)
    return np.stack([above, below], axis=1).astype(np.int32)


def measure_paths(tree: Any) -> Floats:
    """For each node the path that ends in it: its depth and the average path of the rows left in it."""
    depths: Floats = np.zeros(tree.node_count)
    for node, (left, right) in enumerate(zip(tree.children_left, tree.children_right, strict=True)):
        if left >= 0:
            depths[left] = depths[right] = depths[node] + 1.0
    rest: Floats = np.array([measure_average_path(int(rows)) for rows in tree.n_node_samples])
    depths += rest
    return depths


def measure_average_path(rows: int) -> float:
    """c(n), the average path of an unsuccessful search in a binary tree of n rows."""
    if rows <= 1:
        return 0.0
    if rows == 2:
        return 1.0
    return 2.0 * (math.log(rows - 1.0) + EULER_GAMMA) - 2.0 * (rows - 1.0) / rows
