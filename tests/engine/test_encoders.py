"""Every kind of encoder against torch written out; checkpoints that are wrong are refused.

timm, open_clip and torchvision are stood in for by small modules of their shape: their builds for
PyPI do not import beside a CPU build of torch.
"""

from __future__ import annotations

import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tamis.bundles.opening import open_bundle
from tamis.encoders.base import Encoder
from tamis.encoders.network import quietly
from tamis.encoders.opening import open_encoder, open_or_train
from tamis.encoders.spec import parse_spec
from tamis.errors import BundleError, UsageError
from tamis.models.small_resnet import SmallResNet
from tamis.training.checkpoints import write_run
from tamis.training.recipes import get_recipe
from tamis.training.runs import train_on_bundle
from tamis.training.selfsup import SelfsupSettings

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numbers to seven digits, also on a CPU that would multiply in bfloat16; and one thread, which
    small networks are quickest on."""
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def images(side: int, n: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=generator)


def normalised(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """torchvision's ToTensor and Normalize."""
    channels = [(pixels[:, c].float() / 255 - mean[c]) / std[c] for c in range(3)]
    return torch.stack(channels, dim=1)


def close(found: Tensor, wanted: Tensor) -> None:
    wanted = wanted.detach()
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1e-5 * float(wanted.abs().max())
    assert wanted.std() > 1e-3


def line_of(call: Callable[[], object]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    line = str(caught.value)
    assert re.search(r": expected .+, found .+; .+", line)
    assert "\n" not in line
    return line


def small_net() -> nn.Sequential:
    torch.manual_seed(3)
    layers = (nn.Conv2d(3, 6, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(*layers).eval()


def saved_script(module: nn.Module, path: Path) -> Path:
    with quietly():
        torch.jit.save(torch.jit.script(module), path)
    return path


# ---- specs


def test_specs_are_taken_apart() -> None:
    spec = parse_spec("torchhub:facebookresearch/swav:main:resnet50?crop=1")
    assert (spec.kind, spec.argument) == ("torchhub", "facebookresearch/swav:main:resnet50")
    assert spec.options == {"crop": "1"}
    spec = parse_spec("file:what?/a=b?arch=vit_b_16&mean=0,0,0")
    assert (spec.argument, spec.options["arch"]) == ("what?/a=b", "vit_b_16")
    assert parse_spec("file:why?.pt").argument == "file:why?.pt".removeprefix("file:")
    assert parse_spec("npy:e.npy").kind == "npy"
    usual = parse_spec("file:x").preparation(None)
    assert (usual.resolution, usual.crop_ratio) == (224, 0.875)
    other = parse_spec("file:x?mean=0.5,0.5,0.5&std=1,1,1&crop=1").preparation(32)
    assert (other.resolution, other.crop_ratio) == (32, 1)
    assert (other.mean, other.std) == ((127.5,) * 3, (255,) * 3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("swav", "expected selfsup, pixels, tamis:RUN_DIR, file:PATH"),
        ("", "found nothing"),
        ("file:", "found file:"),
        ("pixels:8", "found pixels:8"),
        ("timm:resnet18?arch=x", "expected one of the options weights, found arch"),
        ("tamis:run?crop=1", "expected no options, found crop"),
        ("npy:e.npy", "found embeddings"),
        ("selfsup", "trained on a bundle first"),
        ("torchhub:resnet50", "write for example torchhub:facebookresearch/swav:main:resnet50"),
        ("open_clip:ViT-B-32", "expected one source of weights, found none"),
        ("open_clip:ViT-B-32/openai?weights=x", "expected one source of weights, found two"),
        ("file:none.pt", "expected a checkpoint file, found no file"),
        ("file:.", "expected a checkpoint file, found Is a directory"),
    ],
)
def test_wrong_specs_are_refused_in_one_line(spec: str, says: str) -> None:
    assert says in line_of(lambda: open_encoder(spec, CPU))


@pytest.mark.parametrize("options", ["crop=0", "crop=big", "mean=1,2", "std=0,1,1"])
def test_wrong_preparation_is_refused(options: str, tmp_path: Path) -> None:
    saved_script(small_net(), tmp_path / "net.pt")
    line_of(lambda: open_encoder(f"file:{tmp_path / 'net.pt'}?{options}", CPU))


# ---- those without weights of others


def test_pixels_are_the_images_themselves() -> None:
    encoder = open_encoder("pixels", CPU, resolution=8)
    pixels = images(8)
    assert (encoder.n_features, encoder.resolution, encoder.crop_ratio) == (192, 8, 1)
    close(encoder(pixels), pixels.reshape(3, 192) / 255)
    assert encoder.provenance()["labels_used"] is False
    assert open_encoder("pixels", CPU).resolution == 32
    line_of(lambda: open_encoder("pixels", CPU, resolution=0))


def test_a_run_gives_its_penultimate_layer(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = SmallResNet(5, 4, 20).eval()
    torch.save({"config": model.config, "state": model.state_dict()}, tmp_path / "model.pt")
    encoder = open_encoder(f"tamis:{tmp_path}", CPU)
    assert (encoder.n_features, encoder.resolution, encoder.crop_ratio) == (16, 20, 1)
    pixels = images(20)
    close(encoder(pixels), model.features(pixels))
    assert encoder.provenance()["labels_used"] is True
    assert "as it was trained on" in line_of(
        lambda: open_encoder(f"tamis:{tmp_path}", CPU, resolution=32)
    )
    with pytest.raises(BundleError, match="expected a run folder"):
        open_encoder(f"tamis:{tmp_path / 'none'}", CPU)


def test_a_run_is_shown_images_as_in_its_training(digits_bundle: Path, tmp_path: Path) -> None:
    bundle = open_bundle(digits_bundle)
    recipe = get_recipe("digits", {"width": 4, "epochs": 1, "resample": "area", "exact": True})
    trained, record = train_on_bundle(bundle, bundle, recipe, device=CPU)
    write_run(tmp_path / "run", record, trained.model)
    areas = {"resample": "area", "exact": True}
    usual = get_recipe("digits").decoding
    encoder = open_encoder(f"tamis:{tmp_path / 'run'}", CPU, decoding=usual)
    assert encoder.decoding == areas
    assert encoder.provenance().items() >= areas.items()
    assert open_encoder("pixels", CPU, decoding=usual).decoding == usual
    selfsup = SelfsupSettings(epochs=1, batch_size=400)
    for spec in ("pixels", "selfsup"):
        encoder = open_or_train(spec, bundle, CPU, recipe=recipe, selfsup=selfsup)
        assert encoder.decoding == areas


def test_an_encoder_is_trained_without_labels(digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    recipe = get_recipe("digits", {"width": 4})
    settings = SelfsupSettings(epochs=1, batch_size=bundle.n_examples)

    def train(seed: int = 0, resolution: int | None = None) -> Encoder:
        return open_or_train(
            "selfsup", bundle, CPU, recipe=recipe, selfsup=settings, seed=seed,
            resolution=resolution,
        )  # fmt: skip

    one, same, other = (train(seed).provenance() for seed in (0, 0, 1))
    assert one == same
    assert one["weights"] != other["weights"]
    assert (one["labels_used"], one["training"]["selfsup"]["epochs"]) == (False, 1)
    assert one["training"]["recipe_digest"] == recipe.digest
    assert "pass --set resolution=9" in line_of(lambda: train(resolution=9))
    pixels = open_or_train("pixels", bundle, CPU, recipe=recipe, selfsup=SelfsupSettings())
    assert pixels.resolution == recipe.resolution


# ---- files of this machine: TorchScript


def test_a_script_is_run_as_it_was_exported(tmp_path: Path) -> None:
    net = small_net()
    path = saved_script(net, tmp_path / "net.ts")
    encoder = open_encoder(f"file:{path}", CPU, resolution=16)
    pixels = images(16)
    assert (encoder.n_features, encoder.crop_ratio) == (24, 0.875)
    for _ in range(4):  # no optimisation that sets in later
        close(encoder(pixels), net(normalised(pixels, *IMAGENET)))
    spec = f"file:{path}?mean=0.5,0.4,0.3&std=0.1,0.2,0.3&crop=1"
    other = open_encoder(spec, CPU, resolution=16)
    close(other(pixels), net(normalised(pixels, (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))))
    about = other.provenance()
    assert (about["crop_ratio"], about["labels_used"], about["spec"]) == (1, None, spec)
    assert about["mean"] == pytest.approx([127.5, 102, 76.5])
    assert about["weights"] == encoder.provenance()["weights"]
    nn.init.normal_(net[0].weight)  # type: ignore[arg-type]
    saved_script(net, path)
    assert open_encoder(spec, CPU, resolution=16).provenance()["weights"] != about["weights"]


def test_a_frozen_script_has_its_weights_inside(tmp_path: Path) -> None:
    net = small_net()
    with quietly():
        torch.jit.save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "net.pt")
    encoder = open_encoder(f"file:{tmp_path / 'net.pt'}", CPU, resolution=16)
    close(encoder(images(16)), net(normalised(images(16), *IMAGENET)))


def test_sides_of_one_pixel_are_dropped_and_larger_ones_refused(tmp_path: Path) -> None:
    pooled = saved_script(
        nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1)), tmp_path / "a"
    )
    assert open_encoder(f"file:{pooled}", CPU, resolution=8).n_features == 5
    maps = saved_script(nn.Conv2d(3, 5, 3), tmp_path / "b")
    line = line_of(lambda: open_encoder(f"file:{maps}", CPU, resolution=8))
    assert "found a tensor of shape (2, 5, 6, 6)" in line
    line = line_of(lambda: open_encoder(f"file:{maps}", CPU, resolution=2))
    assert "--resolution" in line


# ---- files of this machine: tensors of a ResNet


def resnet_tensors(
    blocks: tuple[int, ...], *, bottleneck: bool, wide: int = 1
) -> dict[str, Tensor]:
    """Random tensors under torchvision's names, narrow as no published one."""
    generator = torch.Generator().manual_seed(sum(blocks))
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, n_out: int, n_in: int, kernel: int) -> None:
        spread = (2 / (n_in * kernel**2)) ** 0.5
        shape = (n_out, n_in, kernel, kernel)
        state[f"{conv}.weight"] = spread * torch.randn(shape, generator=generator)
        for name in ("weight", "bias", "running_mean", "running_var"):
            state[f"{norm}.{name}"] = torch.rand(n_out, generator=generator) + 0.5

    layer("conv1", "bn1", 8, 3, 7)
    n_in = 8
    for stage, n_blocks in enumerate(blocks):
        for i in range(n_blocks):
            name, n = f"layer{stage + 1}.{i}", 4 * 2**stage
            n_out = 4 * n if bottleneck else n
            if bottleneck:
                layer(f"{name}.conv1", f"{name}.bn1", wide * n, n_in, 1)
                layer(f"{name}.conv2", f"{name}.bn2", wide * n, n, 3)  # in ``wide`` groups
                layer(f"{name}.conv3", f"{name}.bn3", n_out, wide * n, 1)
            else:
                layer(f"{name}.conv1", f"{name}.bn1", n, n_in, 3)
                layer(f"{name}.conv2", f"{name}.bn2", n, n, 3)
            if i == 0 and (stage or n_in != n_out):
                layer(f"{name}.downsample.0", f"{name}.downsample.1", n_out, n_in, 1)
            n_in = n_out
    return state


def resnet_features(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """He et al. 2016 by torch's functions, as torchvision's ResNet V1.5."""

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = state[f"{conv}.weight"]
        groups = x.shape[1] // weight.shape[1]
        x = functional.conv2d(x, weight, None, stride, weight.shape[2] // 2, 1, groups)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(x, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"])

    x = functional.max_pool2d(functional.relu(layer(x, "conv1", "bn1", 2)), 3, 2, 1)
    names = sorted({name.rsplit(".conv", 1)[0] for name in state if ".conv" in name})
    for name in names:
        stride = 2 if name.endswith(".0") and not name.startswith("layer1") else 1
        convs = sorted(key[-8] for key in state if key.startswith(f"{name}.conv"))
        out = x
        for i in convs:
            strided = stride if i == ("2" if len(convs) == 3 else "1") else 1
            out = layer(out, f"{name}.conv{i}", f"{name}.bn{i}", strided)
            out = out if i == convs[-1] else functional.relu(out)
        if f"{name}.downsample.0.weight" in state:
            x = layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        x = functional.relu(out + x)
    return x.mean(dim=(2, 3))


@pytest.mark.parametrize(
    ("blocks", "bottleneck", "wide"),
    [((2, 2, 2, 2), False, 1), ((3, 4, 6, 3), True, 1), ((1, 2, 1, 1), True, 2)],
)
def test_a_resnet_is_known_by_its_tensors(
    tmp_path: Path, blocks: tuple[int, ...], bottleneck: bool, wide: int
) -> None:
    state = resnet_tensors(blocks, bottleneck=bottleneck, wide=wide)
    torch.save({**state, "fc.weight": torch.ones(1000, 128)}, tmp_path / "net.pth")
    encoder = open_encoder(f"file:{tmp_path / 'net.pth'}", CPU, resolution=32)
    assert encoder.n_features == (128 if bottleneck else 32)
    pixels = images(32)
    close(encoder(pixels), resnet_features(state, normalised(pixels, *IMAGENET)))


def test_swav_s_checkpoint_gives_the_features_before_its_head(tmp_path: Path) -> None:
    state = resnet_tensors((3, 4, 6, 3), bottleneck=True)
    whole = {f"module.{name}": value for name, value in state.items()}
    whole |= {
        "module.projection_head.0.weight": torch.ones(64, 128),
        "module.projection_head.1.running_var": torch.ones(64),
        "module.prototypes.weight": torch.ones(30, 16),
    }
    path = tmp_path / "swav_800ep_pretrain.pth.tar"
    torch.save(whole, path, _use_new_zipfile_serialization=False)  # as it was published
    spec = f"file:{path}?arch=resnet50"
    encoder = open_encoder(spec, CPU, resolution=32)
    pixels = images(32)
    close(encoder(pixels), resnet_features(state, normalised(pixels, *IMAGENET)))
    assert encoder.provenance()["labels_used"] is False
    plain = open_encoder(f"file:{path}", CPU, resolution=32)
    assert torch.equal(plain(pixels), encoder(pixels))
    line = line_of(lambda: open_encoder(f"file:{path}?arch=resnet18", CPU))
    assert "expected the tensors of resnet18, found a ResNet with stages of 3, 4, 6, 3" in line


@pytest.mark.parametrize(
    "wrap",
    [
        lambda own, other: {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in own.items()}},
        lambda own, other: {
            "student": {f"module.backbone.{k}": v for k, v in other.items()},
            "teacher": {f"backbone.{k}": v for k, v in own.items()},
        },
        lambda own, other: {
            "state_dict": {f"module.encoder_q.{k}": v for k, v in own.items()}
            | {f"module.encoder_k.{k}": v for k, v in other.items()}
        },
    ],
    ids=["ddp", "dino", "moco"],
)
def test_the_right_network_is_found_in_a_training_checkpoint(
    tmp_path: Path,
    wrap: Callable[[dict[str, Tensor], dict[str, Tensor]], dict[str, object]],
) -> None:
    own = resnet_tensors((1, 1, 1, 1), bottleneck=False)
    other = {name: value + 1 for name, value in own.items()}
    torch.save(wrap(own, other), tmp_path / "net.pth")
    encoder = open_encoder(f"file:{tmp_path / 'net.pth'}", CPU, resolution=32)
    close(encoder(images(32)), resnet_features(own, normalised(images(32), *IMAGENET)))


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    state = resnet_tensors((1, 1, 1, 1), bottleneck=True)
    path = tmp_path / "net.safetensors"
    safetensors.save_file(state, path)
    encoder = open_encoder(f"file:{path}", CPU, resolution=32)
    close(encoder(images(32)), resnet_features(state, normalised(images(32), *IMAGENET)))
    path.write_bytes(path.read_bytes()[:-100])
    assert "expected a .safetensors file" in line_of(lambda: open_encoder(f"file:{path}", CPU))


def test_products_are_in_bfloat16_where_the_hardware_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(resnet_tensors((1, 1, 1, 1), bottleneck=True), tmp_path / "net.pth")
    spec = f"file:{tmp_path / 'net.pth'}"
    full = open_encoder(spec, CPU, resolution=32)
    wanted = full(images(32))
    assert full.provenance()["precision"] == "float32"
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: True)
    low = open_encoder(spec, CPU, resolution=32)
    found = low(images(32))
    assert (found.dtype, low.provenance()["precision"]) == (torch.float32, "bfloat16")
    assert 0 < float((found - wanted).abs().max()) < 0.05 * float(wanted.max())
    script = saved_script(small_net(), tmp_path / "net.ts")  # as it was exported
    exact = open_encoder(f"file:{script}", CPU, resolution=16)
    assert exact.provenance()["precision"] == "float32"
    close(exact(images(16)), small_net()(normalised(images(16), *IMAGENET)))


# ---- damaged and hostile files


class Hostile:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, as_zip: bool) -> None:
    path, trace = tmp_path / "net.pth", tmp_path / "was-here"
    state = {**resnet_tensors((1, 1, 1, 1), bottleneck=True), "hook": Hostile(trace)}
    torch.save(state, path, _use_new_zipfile_serialization=as_zip)
    line = line_of(lambda: open_encoder(f"file:{path}", CPU))
    assert re.search(r"found one that also holds (posix|os|nt)\.mkdir; save the network's", line)
    assert not trace.exists()


def damaged(kind: str, path: Path) -> None:
    if kind == "text":
        path.write_text("<html>404 Not Found</html>", encoding="utf-8")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme", "nothing")
    elif kind == "script":
        saved_script(small_net(), path)
        with zipfile.ZipFile(path) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, data[:-20] if name.endswith("data.pkl") else data)
    else:
        state = resnet_tensors((1, 1, 1, 1), bottleneck=True)
        if kind == "incomplete":
            del state["layer3.0.bn2.running_var"]
        elif kind == "misshapen":
            state["layer4.0.conv3.weight"] = torch.ones(128, 7, 1, 1)
        elif kind == "contradictory":
            state["layer4.0.conv2.weight"] = torch.ones(32, 5, 3, 3)
        elif kind == "other":
            state = {"embed.weight": torch.ones(3, 3)}
        torch.save(state, path)
        if kind == "short":
            path.write_bytes(path.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "expected a file"),
        ("empty", "expected a file"),
        ("zip", "expected a file"),
        ("short", "expected a file"),
        ("script", "expected a TorchScript module"),
        ("incomplete", "expected a tensor layer3.0.bn2.running_var of shape (16,), found none"),
        ("misshapen", "expected a tensor layer4.0.conv3.weight of shape"),
        ("contradictory", "expected a ResNet as torchvision builds it"),
        ("other", "expected the tensors of a ResNet, found 1 others"),
    ],
)
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path: Path, kind: str, says: str) -> None:
    damaged(kind, tmp_path / "net.pt")
    assert says in line_of(lambda: open_encoder(f"file:{tmp_path / 'net.pt'}", CPU))


def test_a_script_needs_no_architecture(tmp_path: Path) -> None:
    path = saved_script(small_net(), tmp_path / "net.pt")
    assert "leave it out" in line_of(lambda: open_encoder(f"file:{path}?arch=resnet50", CPU))


# ---- libraries that may not be there

STAND_INS = {
    "torchvision/__init__.py": """
from . import models
__version__ = "0.0"
""",
    "torchvision/models.py": """
from torch import nn

class Mobile(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.classifier = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 1000))

    def forward(self, x):
        return self.classifier(self.features(x))

def get_model(name, weights):
    assert weights is None
    return {"mobile": Mobile}[name]()
""",
    "timm/__init__.py": """
from types import SimpleNamespace

import torch
from torch import nn

__version__ = "0.0"
CFG = {"input_size": (3, 24, 24), "crop_pct": 0.9, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}

class Net(nn.Module):
    def __init__(self, name, num_classes, img_size):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, num_classes) if num_classes else nn.Identity()
        self.img_size = img_size
        self.pretrained_cfg = dict(CFG, num_classes=0 if "dino" in name else 1000,
                                   tag=name.partition(".")[2])

    def forward(self, x):
        assert self.img_size in (None, x.shape[-1])
        return self.head(self.body(x))

def is_model(name):
    return name.startswith(("conv", "vit"))

def get_pretrained_cfg(name):
    return SimpleNamespace(fixed_input_size=name.startswith("vit"))

def create_model(name, pretrained=False, num_classes=1000, img_size=None):
    if not is_model(name):
        raise RuntimeError(f"Unknown model ({name})")
    if img_size is None and name.startswith("vit"):
        img_size = 24
    torch.manual_seed(5 if pretrained else 6)
    return Net(name, num_classes, img_size)
""",
    "timm/data.py": """
def resolve_model_data_config(model):
    return {name: model.pretrained_cfg[name] for name in ("input_size", "crop_pct", "mean", "std")}
""",
    "open_clip/__init__.py": """
import logging
import warnings

import torch
from torch import nn

__version__ = "0.0"

class Clip(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.visual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.text = nn.Linear(2, 2)
        self.size = size

def create_model(name, pretrained=None, *, force_image_size, require_pretrained, weights_only):
    assert require_pretrained and weights_only
    warnings.warn("QuickGELU mismatch")
    model = Clip(force_image_size or 16)
    if pretrained == "laion":
        torch.manual_seed(7)
        model.visual[0].reset_parameters()
    else:
        try:
            model.load_state_dict(torch.load(pretrained, weights_only=True))
        except FileNotFoundError:
            logging.error("not found")
            raise RuntimeError(f"Pretrained value '{pretrained}' is not a known tag") from None
    return model

def get_model_preprocess_cfg(model):
    return {"size": (model.size, model.size), "mean": (0.4, 0.5, 0.6), "std": (0.3, 0.2, 0.1)}
""",
}


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in STAND_INS.items():
        path = tmp_path / "stand-ins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    libraries = ("torchvision", "timm", "open_clip")
    for name in [name for name in sys.modules if name.partition(".")[0] in libraries]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(tmp_path / "stand-ins"))


@pytest.fixture(autouse=True)
def without_stand_ins() -> Iterator[None]:
    yield
    for name in ("torchvision", "torchvision.models", "timm", "timm.data", "open_clip"):
        if getattr(sys.modules.get(name), "__version__", "0.0") == "0.0":
            sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("spec", "library", "install"),
    [
        ("file:{}?arch=vit_b_16", "torchvision", "torchvision"),
        ("file:{}.safetensors", "safetensors", "safetensors"),
        ("timm:resnet18", "timm", "timm"),
        ("open_clip:ViT-B-32/openai", "open_clip", "open_clip_torch"),
    ],
)
def test_a_missing_library_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, library: str, install: str
) -> None:
    for name in ("net", "net.safetensors"):
        torch.save({"x": torch.ones(1)}, tmp_path / name)
    monkeypatch.setitem(sys.modules, library, None)
    line = line_of(lambda: open_encoder(spec.format(tmp_path / "net"), CPU))
    assert line.endswith(f"found none; run: pip install {install}")
    assert f"expected the library {library}" in line


def test_a_library_that_does_not_fit_torch_is_told_from_one_that_is_not_there(
    tmp_path: Path, stand_ins: None
) -> None:
    broken = tmp_path / "stand-ins" / "timm" / "__init__.py"
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    line = line_of(lambda: open_encoder("timm:resnet18", CPU))
    assert "found one that cannot be imported (operator torchvision::nms does not exist)" in line
    assert line.endswith("run: pip install timm, in versions that fit each other")


def test_a_network_of_torchvision_without_its_classifier(tmp_path: Path, stand_ins: None) -> None:
    import torchvision

    torch.manual_seed(2)
    net = torchvision.models.get_model("mobile", weights=None)
    path = tmp_path / "net.pth"
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, path)
    encoder = open_encoder(f"file:{path}?arch=mobile", CPU, resolution=16)
    net.classifier[2] = nn.Identity()
    close(encoder(images(16)), net(normalised(images(16), *IMAGENET)))
    assert encoder.provenance()["library"] == "torchvision 0.0"
    line = line_of(lambda: open_encoder(f"file:{path}?arch=nonesuch", CPU))
    assert "or use timm:NAME?weights=PATH" in line


def test_timm_s_networks_are_prepared_as_timm_says(tmp_path: Path, stand_ins: None) -> None:
    import timm

    encoder = open_encoder("timm:conv.a1_in1k", CPU)
    about = encoder.provenance()
    assert (encoder.resolution, encoder.crop_ratio, encoder.n_features) == (24, 0.9, 16)
    assert (about["library"], about["labels_used"]) == ("timm 0.0", True)
    net = timm.create_model("conv.a1_in1k", pretrained=True, num_classes=0)
    close(encoder(images(24)), net(normalised(images(24), *(timm.CFG[k] for k in ("mean", "std")))))
    assert open_encoder("timm:vit.dino", CPU).provenance()["labels_used"] is False
    assert open_encoder("timm:vit.dino", CPU, resolution=20).resolution == 20
    assert open_encoder("timm:conv", CPU, resolution=20).provenance()["labels_used"] is None
    assert "found Unknown model (nope)" in line_of(lambda: open_encoder("timm:nope", CPU))


def test_timm_s_networks_take_weights_of_this_machine(tmp_path: Path, stand_ins: None) -> None:
    import timm

    net = timm.create_model("conv")
    nn.init.normal_(net.body[0].weight)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": net.state_dict()}, path)
    encoder = open_encoder(f"timm:conv?weights={path}", CPU)
    net.head = nn.Identity()
    close(encoder(images(24)), net(normalised(images(24), *(timm.CFG[k] for k in ("mean", "std")))))
    assert encoder.provenance()["weights"].startswith("xxh3:")
    torch.save({"body.0.weight": torch.ones(4, 3, 3, 3)}, path)
    line = line_of(lambda: open_encoder(f"timm:conv?weights={path}", CPU))
    assert "expected a tensor body.0.bias of shape (4,), found none" in line


def test_clip_gives_its_image_tower(
    tmp_path: Path, stand_ins: None, capsys: pytest.CaptureFixture[str]
) -> None:
    import open_clip

    options = {"force_image_size": None, "require_pretrained": True, "weights_only": True}
    with quietly():
        net = open_clip.create_model("ViT", "laion", **options)
    encoder = open_encoder("open_clip:ViT/laion", CPU)
    assert (encoder.resolution, encoder.crop_ratio) == (16, 1)
    pixels = normalised(images(16), (0.4, 0.5, 0.6), (0.3, 0.2, 0.1))
    close(encoder(images(16)), net.visual(pixels))
    assert encoder.provenance()["labels_used"] is False
    nn.init.normal_(net.visual[0].weight)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    spec = f"open_clip:ViT?weights={tmp_path / 'w.pt'}"
    close(open_encoder(spec, CPU)(images(16)), net.visual(pixels))
    assert open_encoder(spec, CPU, resolution=20).resolution == 20
    line = line_of(lambda: open_encoder("open_clip:ViT/unheard", CPU))
    assert "found Pretrained value 'unheard' is not a known tag" in line
    assert "expected a file" in line_of(lambda: open_encoder("open_clip:ViT?weights=no.pt", CPU))
    assert capsys.readouterr() == ("", "")


# ---- torch.hub

HUBCONF = """
import torch
from torch import nn
from parts import body

dependencies = ["torch"]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = body()
        self.fc = nn.Linear(16, 1000)  # as SwAV's: drawn anew each time

    def forward(self, x):
        return self.fc(self.body(x))

def resnet50(pretrained=False, **kwargs):
    print("loading")
    net = Net()
    if pretrained:
        nn.init.constant_(net.body[0].weight, 0.01)
        nn.init.constant_(net.body[0].bias, -0.005)
    return net

def headless():
    return body()

def tokenizer(pretrained=True):
    return "not a network"

def broken(pretrained=True):
    raise ValueError("no such weights\\nbut a long story")
"""
PARTS = """
from torch import nn

def body():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of torch.hub's cache, as a download leaves it; without a network."""
    folder = tmp_path / "home" / "hub" / "owner_repo_some_branch"
    folder.mkdir(parents=True)
    (folder / "hubconf.py").write_text(HUBCONF, encoding="utf-8")
    (folder / "parts.py").write_text(PARTS, encoding="utf-8")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.delitem(sys.modules, "parts", raising=False)

    def offline(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return folder


def test_the_hub_s_networks_lose_their_classifier(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = images(16)
    weight, bias = torch.full((4, 3, 3, 3), 0.01), torch.full((4,), -0.005)
    maps = functional.conv2d(normalised(pixels, *IMAGENET), weight, bias)
    wanted = functional.adaptive_avg_pool2d(maps, 2).flatten(1)
    for repository in (str(hub), "owner/repo:some/branch"):
        encoder = open_encoder(f"torchhub:{repository}:resnet50", CPU, resolution=16)
        assert encoder.n_features == 16
        close(encoder(pixels), wanted)
    about = [open_encoder(f"torchhub:{hub}:resnet50", CPU).provenance() for _ in range(2)]
    assert about[0] == about[1]  # the random classifier is gone
    assert about[0]["labels_used"] is None
    assert open_encoder(f"torchhub:{hub}:headless", CPU, resolution=8).n_features == 16
    assert capsys.readouterr().out == ""


def test_what_the_hub_does_not_have_is_refused_in_one_line(hub: Path) -> None:
    for spec, says in (
        (f"torchhub:{hub}:nonesuch", "found Cannot find callable nonesuch in hubconf"),
        (f"torchhub:{hub}:tokenizer", "found a str"),
        (f"torchhub:{hub}:broken", "found no such weights;"),
        ("torchhub:owner/other:main:net", "no network"),
        ("torchhub:owner/other:net", "no internet connection"),
        ("torchhub:elsewhere:net", "expected a network named net in elsewhere"),
    ):
        assert says in line_of(lambda spec=spec: open_encoder(spec, CPU))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "labels"), [("resnet50", False), ("headless", False), ("headless_lc", True)]
)
def test_the_hub_s_networks_trained_without_labels_are_known(
    hub: Path, name: str, labels: bool
) -> None:
    known = hub.with_name("facebookresearch_swav_main")
    hub.rename(known)
    text = HUBCONF + "\ndef headless_lc():\n    return body()\n"
    (known / "hubconf.py").write_text(text, encoding="utf-8")
    spec = f"torchhub:facebookresearch/swav:main:{name}"
    assert open_encoder(spec, CPU, resolution=16).provenance()["labels_used"] is labels
