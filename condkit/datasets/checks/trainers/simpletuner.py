"""SimpleTuner: two linked backends, pairs by relative path with its ending.

As its documentation of `multidatabackend.json` and its data code have it: a backend of type
"conditioning" is named by the pictures' backend in `conditioning_data`; a picture and its map have
the same path below their folders, ending included; each line of a caption file is a caption; one
text-embedding backend has to be the default.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from condkit.datasets.checks.faults import Findings
from condkit.datasets.checks.rows import caption_problem
from condkit.datasets.checks.trainers.folders import (
    Pair,
    check_pairs,
    find_sets,
    nested_pictures,
    no_sets,
    pictures,
    relative,
)

NAMES = "multidatabackend*.json"
_LAYOUT = "multidatabackend.json, or a folder `images` with a folder of maps beside it"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Link:
    """A folder of pictures and a folder of their maps.

    Attributes:
        images: The pictures' folder.
        maps: The maps' folder.
        captions: Whether captions stand in text files.
    """

    images: Path
    maps: Path
    captions: bool = True


def check(root: Path, findings: Findings, *, decode: bool, workers: int | None) -> None:
    """See `Rules`."""
    configurations = sorted((*root.glob(NAMES), *root.glob(f"*/{NAMES}")))
    links = [link for file in configurations for link in _links(root, file, findings)]
    if not configurations:
        sets = find_sets(root)
        links = [_Link(images=s.images, maps=folder) for s in sets for folder in s.conditions]
        findings.note("no multidatabackend.json: only the folders were checked")
        if not links:
            no_sets(root, findings, _LAYOUT)
    pairs: list[Pair] = []
    captioned: set[Path] = set()
    for link in links:
        pairs += _pairs(root, link, findings)
        if link.captions and link.images not in captioned:
            captioned.add(link.images)
            _check_captions(root, link.images, findings)
    if decode:
        check_pairs(root, pairs, findings, turns=True, workers=workers)
    else:
        findings.rows = max(findings.rows, len({pair.image for pair in pairs}))


def _links(root: Path, file: Path, findings: Findings) -> Iterator[_Link]:
    """The linked folders of a configuration; a fault for everything in it that does not hold."""
    where = relative(file, root)
    backends = _read(where, file, findings)
    by_id: dict[str, dict[str, Any]] = {}
    for backend in backends:
        name = backend.get("id")
        if not isinstance(name, str) or not name or name in by_id:
            _bad(findings, where, "an id of its own for each backend", repr(name))
            continue
        by_id[name] = backend
    if backends and not any(
        b.get("dataset_type") == "text_embeds" and b.get("default") for b in backends
    ):
        _bad(findings, where, "a default backend of dataset_type text_embeds", "none")
    linked = 0
    for name, backend in by_id.items():
        targets = backend.get("conditioning_data") or []
        for target in [targets] if isinstance(targets, str) else targets:
            linked += 1
            yield from _link(root, f"{where}, {name}", backend, target, by_id, findings)
    if by_id and not linked:
        _bad(findings, where, "a backend with conditioning_data", "none")


def _read(where: str, file: Path, findings: Findings) -> list[dict[str, Any]]:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _bad(findings, where, "JSON in UTF-8", str(error))
        return []
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        _bad(findings, where, "a list of backends", type(values).__name__)
        return []
    return values


def _link(
    root: Path,
    where: str,
    backend: dict[str, Any],
    target: object,
    by_id: dict[str, dict[str, Any]],
    findings: Findings,
) -> Iterator[_Link]:
    other = by_id.get(target) if isinstance(target, str) else None
    if other is None:
        _bad(findings, where, "conditioning_data to name a backend of this file", repr(target))
        return
    if other.get("dataset_type") != "conditioning":
        got = repr(other.get("dataset_type"))
        _bad(findings, where, f"{target} to have dataset_type 'conditioning'", got)
    if other.get("conditioning_type", "controlnet") != "controlnet":
        got = repr(other.get("conditioning_type"))
        _bad(findings, where, f"{target} to have conditioning_type 'controlnet'", got)
    folders = [_folder(root, where, one, findings) for one in (backend, other)]
    if folders[0] is not None and folders[1] is not None:
        captions = backend.get("caption_strategy", "filename") == "textfile"
        yield _Link(images=folders[0], maps=folders[1], captions=captions)


def _folder(root: Path, where: str, backend: dict[str, Any], findings: Findings) -> Path | None:
    """The folder of a backend: as it stands, or relative to the dataset."""
    value = backend.get("instance_data_dir")
    candidates = (root / value, root.parent / value, Path(value)) if isinstance(value, str) else ()
    folder = next((path for path in candidates if path.is_dir()), None)
    if folder is None:
        expected = f"instance_data_dir of {backend.get('id')} to name a folder"
        _bad(findings, where, expected, repr(value))
    return folder


def _bad(findings: Findings, where: str, expected: str, got: str) -> None:
    findings.add("broken configuration", where, expected=expected, got=got, advice="correct it")


def _pairs(root: Path, link: _Link, findings: Findings) -> Iterator[Pair]:
    """Pictures with their maps; a fault for each one that is alone."""
    images, maps = _by_path(link.images), _by_path(link.maps)
    if link.maps.is_relative_to(link.images):
        inside = link.maps.relative_to(link.images).as_posix()
        images = {name: path for name, path in images.items() if not name.startswith(f"{inside}/")}
    for name, path in images.items():
        if name in maps:
            yield Pair(path, maps[name])
            continue
        stem = name.rpartition(".")[0]
        similar = next((other for other in maps if other.rpartition(".")[0] == stem), None)
        findings.add(
            "missing map",
            relative(path, root),
            expected=f"{name} in {relative(link.maps, root)}, ending included",
            got=f"only {similar}" if similar else "nothing",
            advice="make the map, or save both with one ending",
        )
    for name in (name for name in maps if name not in images):
        findings.add(
            "extra map",
            relative(maps[name], root),
            expected=f"a picture {name} in {relative(link.images, root)}",
            got="none",
            advice="move the map away",
        )


def _by_path(folder: Path) -> dict[str, Path]:
    found = sorted((*pictures(folder), *nested_pictures(folder)))
    return {path.relative_to(folder).as_posix(): path for path in found}


def _check_captions(root: Path, folder: Path, findings: Findings) -> None:
    several = 0
    for path in _by_path(folder).values():
        caption = path.with_suffix(".txt")
        where = relative(caption, root)
        try:
            text = caption.read_bytes().decode("utf-8")
        except FileNotFoundError:
            _bad_caption(findings, "missing caption", where, "nothing")
            continue
        except (OSError, ValueError) as error:
            _bad_caption(findings, "bad caption", where, str(error))
            continue
        lines = [line for line in text.splitlines() if line.strip()]
        several += len(lines) > 1
        if text and not lines:
            _bad_caption(findings, "empty caption", where, "blank lines, which leave no caption")
        problem = caption_problem(text.replace("\r\n", "\n"))
        if problem is not None:
            _bad_caption(findings, "bad caption", where, problem)
    if several:
        findings.note(
            f"{several} caption files of {relative(folder, root)} have several lines; each line is "
            "a caption, unless disable_multiline_split is set"
        )


def _bad_caption(findings: Findings, kind: str, where: str, got: str) -> None:
    findings.add(
        kind,
        where,
        expected="a text file in UTF-8 with a caption, or an empty one",
        got=got,
        advice="write one",
    )
