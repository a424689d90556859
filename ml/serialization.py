"""A model as bytes and back: arrays without pickle, under a seal that names what they belong to.

Layout: magic, format (2 bytes), HMAC-SHA256 (32 bytes), length of the JSON (4 bytes), JSON, `.npz`. The seal
covers format, model version, device, metric, JSON and arrays, and is checked before any of them is read: a
row that was altered, or copied to another version, device or metric, is refused. numpy reads the arrays with
`allow_pickle=False`, so loading runs no code of the bytes even where the key has leaked.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import struct
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from ml.algorithms import make_detector
from ml.detector import Detector
from ml.model_errors import ModelFormatError, ModelTamperedError
from ml.state import State

MAGIC = b"AAML"
FORMAT = 2
HEADER = struct.Struct(">4sH32sI")


@dataclass(frozen=True)
class ModelIdentity:
    """What a sealed model belongs to: the number of its version, its device and its metric."""

    version: int
    device_id: str
    metric: str


def seal_model(detector: Detector, identity: ModelIdentity, key: bytes) -> bytes:
    """The model as bytes that only `open_model` with the same identity and key takes back."""
    description = {"algorithm": detector.algorithm, "rows_seen": detector.rows_seen}
    text = json.dumps(description, sort_keys=True).encode()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **detector.export_state())
    payload = text + buffer.getvalue()
    seal = compute_seal(identity, key, len(text), payload)
    return HEADER.pack(MAGIC, FORMAT, seal, len(text)) + payload


def open_model(sealed: bytes, identity: ModelIdentity, key: bytes) -> Detector:
    """The model in the bytes; raises ModelFormatError or ModelTamperedError, and has then read no array."""
    if len(sealed) < HEADER.size or sealed[: len(MAGIC)] != MAGIC:
        raise ModelFormatError("these bytes are no sealed model")
    _, written_format, seal, text_length = HEADER.unpack_from(sealed)
    if written_format != FORMAT:
        raise ModelFormatError(f"the model has format {written_format}, this release reads {FORMAT}: train it again")
    payload = sealed[HEADER.size :]
    expected = compute_seal(identity, key, text_length, payload)
    if not hmac.compare_digest(seal, expected):
        raise ModelTamperedError(f"the seal of {identity} does not match")
    return restore_model(json.loads(payload[:text_length]), payload[text_length:])


def derive_key(secret: str) -> bytes:
    """The key that seals models, made of the secret that all processes share; it signs no tokens."""
    return hmac.new(secret.encode(), b"advanced-alerting: seal of models, 1", hashlib.sha256).digest()


def compute_seal(identity: ModelIdentity, key: bytes, text_length: int, payload: bytes) -> bytes:
    """HMAC-SHA256 over everything that must not change; lengths go in, so that no two inputs run together."""
    if not key:
        raise ValueError("a model is never sealed without a key")
    seal = hmac.new(key, digestmod=hashlib.sha256)
    owner = (str(identity.version), identity.device_id, identity.metric)
    for part in (MAGIC, str(FORMAT).encode(), *(name.encode() for name in owner)):
        seal.update(struct.pack(">I", len(part)) + part)
    seal.update(struct.pack(">I", text_length) + payload)
    return seal.digest()


def restore_model(description: dict[str, Any], arrays: bytes) -> Detector:
    """The model of a checked payload; raises ModelFormatError where its state fits no model."""
    detector = make_detector(description["algorithm"])
    try:
        detector.restore_state(read_arrays(arrays))
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelFormatError(f"the state does not fit a model of this release: {error}") from error
    return detector


def read_arrays(arrays: bytes) -> State:
    """The named arrays of an `.npz`; one that would need pickle raises ValueError."""
    with np.load(io.BytesIO(arrays), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
