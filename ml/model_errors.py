"""What the models can refuse, each with a stable `code`.

ModelError
├── ModelMissingError      model_not_found            no version is active for a device and metric
├── ModelFormatError       model_format_unsupported   bytes of another format, or state that does not fit
├── ModelTamperedError     model_tampered             the seal does not match bytes and owner
├── UnknownAlgorithmError  unknown_algorithm          no such algorithm
└── TrainingRowsError      training_rows_invalid      timestamps and values do not pair up
"""

from __future__ import annotations

from foundation.errors import DomainError


class ModelError(DomainError):
    """A model cannot be made, trained or loaded."""

    code = "model_error"


class ModelMissingError(ModelError):
    """No version of a model is active for this metric of this device."""

    code = "model_not_found"

    def __init__(self, device_id: str, metric: str) -> None:
        super().__init__(
            f"no model is active for the metric {metric!r} of device {device_id}: train one with"
            " POST /api/v1/ml/models/train, or activate an earlier one"
        )


class ModelFormatError(ModelError):
    """The bytes were written in a format that this release does not read."""

    code = "model_format_unsupported"


class ModelTamperedError(ModelError):
    """The seal over a stored model does not match: the bytes, or their owner, were changed."""

    code = "model_tampered"


class UnknownAlgorithmError(ModelError):
    """The algorithm is none of those offered."""

    code = "unknown_algorithm"


class TrainingRowsError(ModelError):
    """The training rows are not pairs of a time and a value."""

    code = "training_rows_invalid"
