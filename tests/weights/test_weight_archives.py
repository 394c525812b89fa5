"""Members of archives: exactly the one that is meant, and nothing written anywhere else."""

from __future__ import annotations

import io
import zipfile

import pytest

from condkit.errors import WeightsError
from condkit.weights import FetchError, ZipMember
from condkit.weights.sources import extract

CONTENT = b"pretend these are weights " * 4000


def _zip(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("pattern", ["20231122/rtmw/end2end.onnx", "*/end2end.onnx", "*.onnx"])
def test_a_member_of_a_zip_behind_an_address_is_fetched(store, server, spec, left_behind, pattern):
    server.files["/rtmw.zip"] = _zip(
        {"20231122/rtmw/": b"", "20231122/rtmw/end2end.onnx": CONTENT, "20231122/detail.json": b""}
    )
    path = store.path(spec(ZipMember(server.address + "/rtmw.zip", pattern)))
    assert path.read_bytes() == CONTENT
    assert left_behind(store) == ["model.bin"]


@pytest.mark.parametrize(
    "name", ["../../evil.onnx", "/evil.onnx", "a/../../evil.onnx", "C:\\evil.onnx"]
)
def test_an_archive_cannot_write_outside_of_its_folder(tmp_path, put, name):
    archive = put(tmp_path / "in" / "here" / "a.zip", _zip({name: b"evil"}))
    before = sorted(tmp_path.rglob("*"))
    target = extract(archive, "*.onnx", archive.with_name("member"))
    assert target.read_bytes() == b"evil"
    assert sorted(tmp_path.rglob("*")) == sorted([*before, target])


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ({"a/one.onnx": b"", "b/two.onnx": b""}, "a/one.onnx, b/two.onnx"),
        ({"a/one.txt": b""}, "none of its 1 files"),
        ({}, "none of its 0 files"),
    ],
)
def test_no_member_or_several_are_an_error_that_names_them(tmp_path, put, members, found):
    archive = put(tmp_path / "a.zip", _zip(members))
    with pytest.raises(FetchError, match=f"expected one member .*found {found}"):
        extract(archive, "*.onnx", tmp_path / "member")


def test_a_damaged_archive_is_a_reason(store, server, spec, left_behind):
    whole = _zip({"a/end2end.onnx": CONTENT})
    middle = len(whole) // 2
    server.files["/cut.zip"] = whole[:middle]
    server.files["/flipped.zip"] = whole[:60] + bytes([whole[60] ^ 255]) + whole[61:]
    sources = [ZipMember(f"{server.address}/{n}.zip", "*.onnx") for n in ("cut", "flipped")]
    with pytest.raises(WeightsError, match=r"archive\.zip: (BadZipFile|error)"):
        store.path(spec(*sources))
    assert left_behind(store) == []


def test_only_web_addresses_are_taken():
    with pytest.raises(ValueError, match="ZipMember: expected an http or https address"):
        ZipMember("ftp://somewhere/a.zip", "*.onnx")


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [(8, 99, "compression"), (6, 1, "encrypted")],
    ids=["packed in an unknown way", "encrypted"],
)
def test_a_member_that_cannot_be_unpacked_is_an_error_with_the_reason(
    tmp_path, put, offset, value, reason
):
    data = bytearray(_zip({"end2end.onnx": CONTENT}))
    # The same field stands in the member's own header and, two bytes later, in the directory's.
    data[offset] = value
    data[data.index(b"PK\x01\x02") + offset + 2] = value
    archive = put(tmp_path / "a.zip", bytes(data))
    with pytest.raises(FetchError, match=reason):
        extract(archive, "*.onnx", tmp_path / "member")
