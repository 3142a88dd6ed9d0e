"""Every kind of bundle that tamis writes, in plain FFCV: orders, memory managers, samplers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ffcv_bundles import N_PAGES, pages
from ffcv_reading import epoch, epochs
from sample_images import jpeg_bytes, picture
from tamis.bundles.convert import convert
from tamis.bundles.cut import cut
from tamis.bundles.merge import merge
from tamis.bundles.opening import open_bundle
from tamis.bundles.settings import ConvertSettings
from tamis.bundles.shard import shard
from tamis.sources.bundle_images import open_bundle_images
from tamis.sources.opening import open_source

KEPT = np.random.default_rng(5).permutation(N_PAGES)[:170]


@pytest.fixture(scope="module")
def written(ffcv_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles of the same 170 examples, several pages each; a label says which example it is."""
    folder = tmp_path_factory.mktemp("written")
    parent = open_bundle(ffcv_folder / "pages.beton")
    for order in ("parent", "shuffled", "ids"):
        cut(parent, folder / f"{order}.beton", KEPT, order=order)
    shards = shard(open_bundle(folder / "shuffled.beton"), folder / "shards", 3).files
    merge([open_bundle(file) for file in shards], folder / "merged.beton")
    settings = ConvertSettings(mode="raw", page_size=2 << 20)
    convert(open_bundle_images(folder / "parent.beton"), folder / "converted.beton", settings)
    return {path.stem: path for path in sorted(folder.glob("*.beton"))}


def pipelines_with(decoder: Any) -> dict[str, Any]:
    from ffcv.fields.basics import IntDecoder
    from ffcv.transforms import ToTensor

    return {"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]}


def decoded(path: Path, decoder: Any) -> list[tuple[int, NDArray[np.uint8]]]:
    return [(int(row["label"][0]), row["image"]) for row in epoch(path, pipelines_with(decoder))]


@pytest.mark.parametrize("name", ["parent", "shuffled", "ids", "merged", "converted"])
def test_all_orders_and_both_memory_managers(written: dict[str, Path], name: str) -> None:
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder
    from ffcv.loader import OrderOption

    shown: dict[Any, list[int]] = {}
    for os_cache in (True, False):
        pipelines = pipelines_with(SimpleRGBImageDecoder())
        for order, rows in epochs(written[name], pipelines, OrderOption, os_cache=os_cache):
            found = [(int(row["label"][0]), row["image"]) for row in rows]
            shown[order, os_cache] = [label for label, _ in found]
            assert sorted(shown[order, os_cache]) == sorted(KEPT.tolist())
            for label, image in found:
                assert np.array_equal(image, pages(label)[1])
    assert len(shown) == 2 * len(OrderOption)
    for os_cache in (True, False):  # three orders indeed
        assert len({tuple(shown[order, os_cache]) for order in OrderOption}) == len(OrderOption)


def test_the_order_is_the_files(written: dict[str, Path]) -> None:
    from ffcv.fields.rgb_image import SimpleRGBImageDecoder

    found = [label for label, _ in decoded(written["ids"], SimpleRGBImageDecoder())]
    assert found == KEPT.tolist()
    found = [label for label, _ in decoded(written["parent"], SimpleRGBImageDecoder())]
    assert found == sorted(KEPT.tolist())


def test_ffcvs_own_crops(written: dict[str, Path]) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder, RandomResizedCropRGBImageDecoder

    centre = dict(decoded(written["merged"], CenterCropRGBImageDecoder((50, 50), 0.5)))
    for label in KEPT.tolist():
        assert np.array_equal(centre[label], pages(label)[1][25:75, 25:75])
    crops = decoded(written["merged"], RandomResizedCropRGBImageDecoder((50, 50)))
    assert sorted(label for label, _ in crops) == sorted(KEPT.tolist())
    assert {image.shape for _, image in crops} == {(50, 50, 3)}


RANK = """
import json, sys
import torch.distributed as dist
from ffcv.fields.basics import IntDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor

path, rank, meeting, *orders = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=int(rank), world_size=2)
pipelines = {"label": [IntDecoder(), ToTensor()], "image": None}
for order in orders:
    loader = Loader(path, batch_size=16, num_workers=1, order=OrderOption[order], distributed=True,
                    seed=1, drop_last=False, pipelines=pipelines)
    print(json.dumps([int(label) for (labels,) in loader for label in labels]))
"""


def test_distributed_samplers(written: dict[str, Path], tmp_path: Path) -> None:
    orders = ("SEQUENTIAL", "RANDOM")
    ranks = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                RANK,
                written["shuffled"],
                str(rank),
                tmp_path / "meet",
                *orders,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=120)[0].splitlines() for rank in ranks]
    for one, other in zip(*printed, strict=True):
        labels: list[list[int]] = [json.loads(one), json.loads(other)]
        assert [len(part) for part in labels] == [85, 85]
        assert Counter(labels[0] + labels[1]) == Counter(KEPT.tolist())
    assert [len(lines) for lines in printed] == [len(orders)] * 2
    assert json.loads(printed[0][0]) != json.loads(printed[0][1])


def test_images_with_tiles_are_the_same(tmp_path: Path) -> None:
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    for i in range(6):
        file = tmp_path / "images" / str(i) / "x.jpg"
        file.parent.mkdir(parents=True)
        file.write_bytes(jpeg_bytes(Image.fromarray(picture(320, 240, i)), subsampling=i % 3))
    convert(open_source(str(tmp_path / "images")), tmp_path / "parent.beton")
    parent = open_bundle(tmp_path / "parent.beton")
    assert cut(parent, tmp_path / "tiled.beton", parent.example_ids, tiles=True).n_tiled == 6
    before, after = (
        decoded(tmp_path / f"{name}.beton", CenterCropRGBImageDecoder((100, 100), ratio=1))
        for name in ("parent", "tiled")
    )
    assert [label for label, _ in before] == [label for label, _ in after] == list(range(6))
    for (_, one), (_, other) in zip(before, after, strict=True):
        assert one.std() > 5
        assert np.array_equal(one, other)
