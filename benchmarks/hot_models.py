"""``python -m benchmarks.hot_models N``: the resident memory, in MiB, of a web process that keeps N models."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil

from app_advanced import create_app
from benchmarks.ml_scoring import KEY, OWNER, make_stream
from benchmarks.starting import MEBIBYTE
from foundation.settings import Settings
from ml.serialization import open_model, seal_model
from ml_model_manager import MLModelManager

# A model has its full size once its windows are full.
ROWS = 5_000


def main() -> None:
    """Be a web process, load the models as it does, and say how large it has become."""
    application = create_app(
        Settings(_env_file=None, database_url="postgresql://nowhere.invalid/none", jwt_secret="b" * 40, data_dir=Path())
    )
    manager = MLModelManager()
    manager.fit(*make_stream(ROWS))
    sealed = seal_model(manager.detector, OWNER, KEY)
    models = [open_model(sealed, OWNER, KEY) for _ in range(int(sys.argv[1]))]
    print(psutil.Process().memory_info().rss / MEBIBYTE)
    # Up to here nothing may have been thrown away.
    del application, models


if __name__ == "__main__":
    main()
