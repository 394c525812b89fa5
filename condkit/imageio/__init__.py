"""The one place that decodes and encodes image files."""

from __future__ import annotations

from condkit.imageio.decoding import Decoded, DecodePolicy, decode, decode_or_reject
from condkit.imageio.formats import IMAGE_SUFFIXES
from condkit.imageio.maps import encode_png, read_map, write_map

__all__ = [
    "IMAGE_SUFFIXES",
    "DecodePolicy",
    "Decoded",
    "decode",
    "decode_or_reject",
    "encode_png",
    "read_map",
    "write_map",
]
