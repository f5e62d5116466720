"""Bits to numbers: seeds and chunks, uniform and normal values, orthogonal matrices."""

from onnxinit.sampling.haar import haar
from onnxinit.sampling.seeds import CHUNK, STREAM, stream, weight_key
from onnxinit.sampling.stream import Stream

__all__ = ["CHUNK", "STREAM", "Stream", "haar", "stream", "weight_key"]
