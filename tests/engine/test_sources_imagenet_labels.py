from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from source_checks import listed
from tamis.errors import SourceError
from tamis.sources.labels import read_labels
from tamis.sources.opening import open_source

# ILSVRC2012_ID, WordNet id, children: ILSVRC's own order, which is not that of the ids; the last
# one stands above the others and has no images.
SYNSETS = [(1, "n02119789", 0), (2, "n02100735", 0), (3, "n02110185", 0), (4, "n00001740", 3)]
TRUTH = [3, 1, 1, 2, 3]
WNIDS = ["n02110185", "n02119789", "n02119789", "n02100735", "n02110185"]
NAMES = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 6)]
EXPECTED = dict(zip(NAMES, WNIDS, strict=True))
KAGGLE = """ImageId,PredictionString
ILSVRC2012_val_00000004,n02100735 85 1 499 272
ILSVRC2012_val_00000002,n02119789 131 0 499 254
ILSVRC2012_val_00000005,n02110185 1 2 3 4 n02110185 5 6 7 8
ILSVRC2012_val_00000001,n02110185 38 0 464 280
ILSVRC2012_val_00000003,n02119789 0 3 1 5
"""


def write_meta(path: Path, synsets: list[tuple[int, str, int]] = SYNSETS) -> None:
    """The devkit's meta.mat: a struct array, with the fields that torchvision reads by position."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children"]
    table = np.zeros((len(synsets), 1), dtype=[(name, object) for name in fields])
    for row, (number, wnid, children) in enumerate(synsets):
        table[row, 0] = (
            float(number),
            wnid,
            "kit fox",
            "a fox",
            float(children),
            np.zeros(children),
        )
    savemat(path, {"synsets": table}, do_compression=True)


def write_truth(folder: Path, lines: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "ILSVRC2012_validation_ground_truth.txt"
    path.write_text("".join(f"{line}\n" for line in (TRUTH if lines is None else lines)))
    return path


def write_devkit(tmp_path: Path, *members: str) -> Path:
    folder = tmp_path / "devkit"
    write_truth(folder / "data")
    write_meta(folder / "data" / "meta.mat")
    (folder / "readme.txt").write_text("ImageNet Large Scale Visual Recognition Challenge 2012")
    path = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member in members or ("readme.txt", "data"):
            archive.add(folder / member, f"ILSVRC2012_devkit_t12/{member}")
    return path


def torchvisions_labels(meta: Path, truth: Path) -> list[str]:
    """parse_devkit of torchvision.datasets.imagenet, in its own steps."""
    synsets = loadmat(meta, squeeze_me=True)["synsets"]
    children = list(zip(*synsets, strict=True))[4]
    synsets = [synsets[i] for i, count in enumerate(children) if count == 0]
    numbers, wnids = list(zip(*synsets, strict=True))[:2]
    by_number = {int(number): str(wnid) for number, wnid in zip(numbers, wnids, strict=True)}
    return [by_number[int(line)] for line in truth.read_text().splitlines()]


def test_kaggles_solution_in_the_order_of_names(tmp_path: Path) -> None:
    (tmp_path / "LOC_val_solution.csv").write_text(KAGGLE)
    labels = read_labels(tmp_path / "LOC_val_solution.csv")
    assert list(labels.items()) == list(EXPECTED.items())


def test_the_ground_truth_with_its_meta_mat(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    write_meta(tmp_path / "meta.mat")
    labels = read_labels(truth)
    assert list(labels.items()) == list(EXPECTED.items())
    assert list(labels.values()) == torchvisions_labels(tmp_path / "meta.mat", truth)


def test_the_devkit_itself(tmp_path: Path) -> None:
    assert list(read_labels(write_devkit(tmp_path)).items()) == list(EXPECTED.items())


def test_a_single_class(tmp_path: Path) -> None:
    write_meta(tmp_path / "meta.mat", SYNSETS[:1])
    assert read_labels(write_truth(tmp_path, ["1"])) == {NAMES[0]: "n02119789"}


@pytest.mark.parametrize("form", ["csv", "truth", "devkit"])
@pytest.mark.parametrize("packed", [False, True])
def test_validation_images_with_each(tmp_path: Path, form: str, packed: bool) -> None:
    if form == "csv":
        labels = tmp_path / "LOC_val_solution.csv"
        labels.write_text(KAGGLE)
    elif form == "truth":
        labels = write_truth(tmp_path)
        write_meta(tmp_path / "meta.mat")
    else:
        labels = write_devkit(tmp_path)
    val = tmp_path / "ILSVRC2012_img_val"
    val.mkdir()
    for name in NAMES:
        (val / name).write_bytes(name.encode())
    if packed:
        with tarfile.open(tmp_path / "ILSVRC2012_img_val.tar", "w") as archive:
            for name in reversed(NAMES):
                archive.add(val / name, name)
    source = open_source(f"{val}.tar" if packed else str(val), label_file=labels)
    # Labels count the sorted WordNet ids, as those of the training images do.
    assert source.classes == ("n02100735", "n02110185", "n02119789")
    assert listed(source) == list(zip(NAMES, [1, 2, 2, 0, 1], strict=True))
    assert [item.load() for item in source.items()] == [name.encode() for name in NAMES]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("ILSVRC2012_val_00000004,n02100735 1 2 3 4", "line 7: expected a new image"),
        ("ILSVRC2012_val_00000009,", "line 7"),
        ("ILSVRC2012_val_00000009", "line 7"),
        ("a,b,c", "line 7: .*found 'a,b,c'"),
    ],
)
def test_damaged_solutions(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(f"{KAGGLE}{row}\n")
    with pytest.raises(SourceError, match=message):
        read_labels(tmp_path / "x.csv")


def test_the_ground_truth_needs_its_meta_mat(tmp_path: Path) -> None:
    truth = write_truth(tmp_path)
    with pytest.raises(SourceError, match=r"meta\.mat beside ILSVRC.*found no file"):
        read_labels(truth)
    (tmp_path / "meta.mat").write_bytes(b"MATLAB 5.0 or so")
    with pytest.raises(SourceError, match=r"meta\.mat: expected a MATLAB 5 file, found a file of"):
        read_labels(truth)
    savemat(tmp_path / "meta.mat", {"other": 1})
    with pytest.raises(SourceError, match=r"meta\.mat: expected a variable synsets, found none of"):
        read_labels(truth)
    write_meta(tmp_path / "meta.mat", [*SYNSETS, SYNSETS[0]])
    with pytest.raises(
        SourceError, match=r"meta\.mat: expected the devkit's table of synsets: an IL"
    ):
        read_labels(truth)


@pytest.mark.parametrize("line", ["0", "4", "5", "9" * 5000])
def test_numbers_that_are_no_class(tmp_path: Path, line: str) -> None:
    write_meta(tmp_path / "meta.mat")
    with pytest.raises(SourceError, match=r"line 3: expected the ILSVRC2012_ID of one of the 3"):
        read_labels(write_truth(tmp_path, ["1", "2", line]))


def test_other_archives(tmp_path: Path) -> None:
    path = write_devkit(tmp_path, "readme.txt")
    with pytest.raises(SourceError, match="devkit with data/ILSVRC2012_validation_ground_truth"):
        read_labels(path)
    whole = write_devkit(tmp_path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="a whole tar"):
        read_labels(path)
    path.write_bytes(b"no gzip")
    with pytest.raises(SourceError, match="a tar archive"):
        read_labels(path)
    with pytest.raises(SourceError, match="found no file"):
        read_labels(tmp_path / "missing.tar.gz")


def test_a_hostile_devkit_does_not_fill_memory(tmp_path: Path) -> None:
    path = tmp_path / "ILSVRC2012_devkit_t12.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("ILSVRC2012_devkit_t12/data/meta.mat")
        info.size = 17 << 20
        archive.addfile(info, io.BytesIO(bytes(info.size)))
    with pytest.raises(
        SourceError, match=r"a plain file of at most 16777216 bytes, found 17825792"
    ):
        read_labels(path)
