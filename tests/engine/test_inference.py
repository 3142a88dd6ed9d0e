"""Networks that only answer."""

from __future__ import annotations

import pytest
import torch

from tamis.inference import in_parts
from tamis.models.resnet import ResNet18


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("n", "side", "parts"), [
    (40, 224, [16, 16, 8]),
    (3, 224, [3]),
    (0, 224, [0]),
    (33, 224, [16, 17]),  # a single one would be rounded otherwise
    (20, 1000, [8, 12]),  # eight, however large
    (200, 32, [200]),
])  # fmt: skip
def test_a_cpu_is_given_a_few_images_at_a_time(n: int, side: int, parts: list[int]) -> None:
    given = []

    def network(images: torch.Tensor) -> torch.Tensor:
        given.append(len(images))
        return images[:, 0, 0, :1].float()

    images = torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, 3, side, side)
    assert torch.equal(in_parts(network, images)[:, 0], torch.arange(float(n)))
    assert given == parts


def test_parts_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    network = ResNet18(4).eval()
    images = torch.randint(0, 256, (24, 3, 224, 224), dtype=torch.uint8)
    calls = []

    def watched(part: torch.Tensor) -> torch.Tensor:
        calls.append(len(part))
        logits: torch.Tensor = network(part)
        return logits

    with torch.no_grad():
        assert torch.allclose(in_parts(watched, images), network(images), atol=1e-5)
    assert calls == [16, 8]
