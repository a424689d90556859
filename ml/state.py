"""The state of a model as flat, named arrays: what `.npz` can hold without pickle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
State = dict[str, NDArray[Any]]


def join_states(parts: dict[str, State]) -> State:
    """One flat state out of named parts; `select_state` takes a part out again."""
    return {f"{name}.{key}": values for name, part in parts.items() for key, values in part.items()}


def select_state(state: State, name: str) -> State:
    """The part that `join_states` stored under `name`; raises KeyError where there is none."""
    start = f"{name}."
    part = {key.removeprefix(start): values for key, values in state.items() if key.startswith(start)}
    if not part:
        raise KeyError(name)
    return part


def pack_numbers(*numbers: float) -> Floats:
    """A few scalars as one array."""
    return np.array(numbers, dtype=np.float64)


def unpack_numbers(values: NDArray[Any], count: int) -> list[float]:
    """The scalars of `pack_numbers`; raises ValueError where there are not `count`."""
    if values.shape != (count,):
        raise ValueError(f"expected {count} numbers, found shape {values.shape}")
    return [float(value) for value in values]
