"""WebDataset shards: tars in which consecutive members with one key are a sample.

A key is a member's name up to the first dot of its last part; what follows is the extension,
upper and lower case alike. A sample's image has an image extension, its label is in ``.cls`` or
``.cls.txt`` (text) or, where there is neither, in ``.json`` under "label" or "cls". Members with
other extensions are ignored.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path

from tamis.errors import SourceError, first_line
from tamis.sources.image_folder import EXTENSIONS
from tamis.sources.labels import label_of
from tamis.sources.packed import PackedImages, Packing
from tamis.sources.shared_file import SharedFile
from tamis.sources.tar import TarIndex, index_tar, open_tar_file

__all__ = [
    "expand_braces",
    "has_braces",
    "holds_samples",
    "open_shards",
    "pack_one_shard",
    "shards_in",
]

_BRACES = re.compile(r"\{(\d{1,9})\.\.(\d{1,9})\}")
_MEMBER = re.compile(r"((?:.*/|)[^.]+)\.([^/]*)", re.DOTALL)  # WebDataset's base_plus_ext
_IMAGES = {extension.removeprefix(".") for extension in EXTENSIONS}
_LABELS = ("cls", "cls.txt", "json")  # the first that a sample has counts
_LABEL_KEYS = ("label", "cls")
_PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_MAX_SHARDS = 100_000
_MAX_LABEL_BYTES = 1 << 20

# Extension → positions of a sample's members.
_Sample = dict[str, list[int]]


def has_braces(spec: str) -> bool:
    """Whether a path has a range of numbers: ``shard-{000..099}.tar``."""
    return _BRACES.search(spec) is not None


def expand_braces(spec: str) -> tuple[Path, ...]:
    """The files that a path with one or more ranges stands for, the last range fastest.

    As in a shell, both ends count and a leading zero asks for padding.

    Raises:
        SourceError: A range that counts down, more than 100,000 files, or a file that is missing.
    """
    text = _BRACES.split(spec)  # text, first, last, text, …, text
    ranges = [(first, last) for first, last in zip(text[1::3], text[2::3], strict=True)]
    n_files = 1
    for first, last in ranges:
        n_files *= int(last) - int(first) + 1
        if int(first) > int(last) or n_files > _MAX_SHARDS:
            raise SourceError(
                spec,
                expected=f"ranges that count up, of at most {_MAX_SHARDS} files",
                found=f"{{{first}..{last}}}",
                do="correct the range",
            )
    files = []
    for numbers in product(*(_numbers(first, last) for first, last in ranges)):
        pieces = [piece for pair in zip(text[0::3], (*numbers, ""), strict=True) for piece in pair]
        files.append(Path("".join(pieces)))
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise SourceError(
            spec,
            expected=f"{len(files)} shards",
            found=f"{missing[0]} missing"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            do="download what is missing or correct the range",
        )
    return tuple(files)


def _numbers(first: str, last: str) -> list[str]:
    padded = any(len(end) > 1 and end.startswith("0") for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]


def shards_in(folder: Path) -> tuple[Path, ...]:
    """The .tar files of a folder by name; none where it also has sub-folders or images.

    Raises:
        SourceError: They are of several splits.
    """
    names = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir() or entry.name.lower().endswith(EXTENSIONS):
                return ()
            if entry.name.endswith(".tar"):
                names.append(entry.name)
    shards = tuple(folder / name for name in sorted(names))
    words = {word.lower() for shard in shards for word in re.split(r"[-_.]", shard.stem)}
    parts = sorted({part for word, part in _PARTS.items() if word in words})
    if len(parts) > 1:
        raise SourceError(
            folder,
            expected="the shards of one split",
            found=" and ".join(parts),
            do="convert them one by one, with a range: NAME-{000..099}.tar",
        )
    return shards


def open_shards(files: Sequence[Path], *, classes: tuple[str, ...] | None = None) -> PackedImages:
    """Find the samples of all shards and read their labels.

    Args:
        files: The shards, in order.
        classes: The class list; without it labels must be numbers.

    Raises:
        SourceError: A damaged shard; a sample without an image or a label, or with two images; a
            key that comes back in its shard; a label that is no number and no known class.
    """
    above = Path(os.path.commonpath([file.parent for file in files]))
    packing = Packing()
    for number, path in enumerate(files):
        file = open_tar_file(path)
        shard = path.relative_to(above).as_posix()
        _pack(packing, file, index_tar(file), shard, number, classes)
    return _finish(packing, tuple(files), classes)


def pack_one_shard(
    file: SharedFile, index: TarIndex, classes: tuple[str, ...] | None
) -> PackedImages:
    """:func:`open_shards` for one shard that is already indexed."""
    packing = Packing()
    _pack(packing, file, index, file.path.name, 0, classes)
    return _finish(packing, (file.path,), classes)


def holds_samples(names: list[str]) -> bool:
    """Whether any of these members of a tar are an image and a label with one key."""
    endings = tuple(f".{extension}" for extension in _LABELS)
    if not any(name.lower().endswith(endings) for name in names):  # spares most tars the grouping
        return False
    return any(
        not _IMAGES.isdisjoint(sample) and not sample.keys().isdisjoint(_LABELS)
        for _, sample in _samples(names)
    )


def _finish(
    packing: Packing, files: tuple[Path, ...], classes: tuple[str, ...] | None
) -> PackedImages:
    if not packing.paths:
        raise SourceError(
            files[0],
            expected="samples: KEY.jpg beside KEY.cls",
            found="none",
            do="give WebDataset shards, or a .tar with class folders",
        )
    about = {"kind": "webdataset", "files": [file.name for file in files]}
    return packing.finish(about, files, classes)


def _samples(names: list[str]) -> Iterator[tuple[str, _Sample]]:
    """Keys with what lies at each, as WebDataset groups members: neighbours with one key."""
    matched = (
        (match[1], match[2].lower(), position)
        for position, name in enumerate(names)
        if (match := _MEMBER.fullmatch(name))
    )
    for key, members in groupby(matched, key=lambda member: member[0]):
        sample: _Sample = {}
        for _, extension, position in members:
            sample.setdefault(extension, []).append(position)
        yield key, sample


def _pack(
    packing: Packing,
    file: SharedFile,
    index: TarIndex,
    shard: str,
    number: int,
    classes: tuple[str, ...] | None,
) -> None:
    seen = set()
    for key, sample in _samples(index.names):
        images = [i for extension in sample.keys() & _IMAGES for i in sample[extension]]
        label = next((extension for extension in _LABELS if extension in sample), None)
        if not images and label is None:
            continue
        if key in seen or len(images) != 1 or label is None or len(sample[label]) != 1:
            raise _unsound(f"{file.path}: {key}", key in seen, len(images), label)
        seen.add(key)
        text = _label_text(file, index, sample[label][0], is_json=label == "json")
        image = images[0]
        packing.add(
            f"{shard}/{index.names[image]}",
            label_of(text, classes, f"{file.path}: {key}"),
            int(index.offsets[image]),
            int(index.sizes[image]),
            number,
        )


def _unsound(subject: str, seen: bool, n_images: int, label: str | None) -> SourceError:
    if seen:
        found = "the key a second time, apart from the first"
    elif n_images != 1:
        found = "no image" if not n_images else f"{n_images} images"
    else:
        found = "no label" if label is None else f"two members .{label}"
    return SourceError(
        subject,
        expected="one image and one label (.cls, .cls.txt or .json) side by side",
        found=found,
        do="write the shard again with whole samples",
    )


def _label_text(file: SharedFile, index: TarIndex, position: int, *, is_json: bool) -> str:
    """The label as text: a number or a class name."""
    subject = f"{file.path}: {index.names[position]}"
    size = int(index.sizes[position])
    found = f"{size} bytes"
    if size <= _MAX_LABEL_BYTES:
        try:
            text = file.read(int(index.offsets[position]), size).decode("utf-8")
            if not is_json:
                return text.strip()
            fields = json.loads(text)
            for key in _LABEL_KEYS:
                if isinstance(fields, dict) and type(fields.get(key)) is int:
                    return str(fields[key])
            found = "none"
        except (OSError, ValueError, RecursionError) as error:
            found = first_line(error)
    raise SourceError(
        subject,
        expected='a whole number under "label" or "cls"' if is_json else "a label as text",
        found=found,
        do="write the shard again with a .cls member beside each image",
    )
