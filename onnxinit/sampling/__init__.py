"""Bits to numbers: seeds and chunks, uniform and normal values, orthogonal matrices."""

from onnxinit.sampling.laws import Stream
from onnxinit.sampling.orthogonal import haar
from onnxinit.sampling.seeds import CHUNK, STREAM, stream, weight_key

__all__ = ["CHUNK", "STREAM", "Stream", "haar", "stream", "weight_key"]
