"""``file:PATH``: a checkpoint on this machine, as TorchScript or as tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tamis import __version__
from tamis.encoders.base import unusable
from tamis.encoders.checkpoints import file_digest, find_tensors, read_tensors
from tamis.encoders.network import NetworkEncoder, Origin, quietly
from tamis.encoders.resnet import resnet_like, resnet_prefix
from tamis.encoders.spec import EncoderSpec
from tamis.encoders.torchvision_models import torchvision_network
from tamis.errors import first_line

__all__ = ["is_torchscript", "open_file"]

# Blocks of each stage, and whether they are bottlenecks.
_RESNETS = {
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
    "resnet101": ((3, 4, 23, 3), True),
    "resnet152": ((3, 8, 36, 3), True),
}


def open_file(spec: EncoderSpec, device: torch.device, resolution: int | None) -> NetworkEncoder:
    """Open a TorchScript module, or tensors of a known architecture.

    A ResNet is known by its tensors: that of SwAV gives 2048 features, without projection head and
    prototypes. For others ``?arch=NAME`` names one of torchvision's networks.

    Of pickles nothing but tensors is read. A TorchScript file is a program, although one that can
    do little more than arithmetic.

    Raises:
        UsageError: A file that is missing, damaged or something else; an architecture that does
            not fit its tensors.
    """
    path, text = Path(spec.argument), spec.text
    digest = file_digest(path, text)
    preparation = spec.preparation(resolution)
    if is_torchscript(path):
        origin = Origin(text, digest, f"torch {torch.__version__}", None)
        script = _torchscript(path, spec, device)
        # In the precision that it was exported for.
        return NetworkEncoder(origin, script, preparation, device, mixed=False)
    tensors = read_tensors(path, text)
    module, library = _network(tensors, spec)
    # SwAV's prototypes are what it learns instead of classes.
    swav = any("prototypes." in name for name in tensors)
    origin = Origin(text, digest, library, False if swav else None)
    return NetworkEncoder(origin, module, preparation, device)


def is_torchscript(path: Path) -> bool:
    """Whether a file holds a program beside its tensors."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.rpartition("/")[2] == "constants.pkl" for name in archive.namelist())


def _torchscript(path: Path, spec: EncoderSpec, device: torch.device) -> nn.Module:
    if "arch" in spec.options:
        raise unusable(
            spec.text,
            expected="no arch for a TorchScript module, which holds its own",
            found=f"arch={spec.options['arch']}",
            do="leave it out",
        )
    try:
        with quietly():
            module: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        raise unusable(
            spec.text,
            expected="a TorchScript module",
            found=first_line(error),
            do="export it again, by torch.jit.save",
        ) from error
    return _Interpreted(module)


class _Interpreted(nn.Module):
    """A script without the optimisations that set in after some calls and change last digits."""

    def __init__(self, script: nn.Module) -> None:
        super().__init__()
        self.script = script

    def forward(self, x: Tensor) -> Tensor:
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return self.script(x)  # type: ignore[no-any-return]


def _network(tensors: Mapping[str, Tensor], spec: EncoderSpec) -> tuple[nn.Module, str]:
    """The network with its weights, and the library that built it."""
    arch = spec.options.get("arch")
    if arch is not None and arch not in _RESNETS:
        module, library = torchvision_network(arch, spec.text)
        module.load_state_dict(find_tensors(tensors, module.state_dict(), spec.text))
        return module, library
    prefix = resnet_prefix(tensors)
    if prefix is None:
        raise unusable(
            spec.text,
            expected=f"the tensors of {arch or 'a ResNet'}",
            found=f"{len(tensors)} others",
            do=f"name the network of torchvision that they belong to: {spec.text}?arch=NAME",
        )
    try:
        resnet = resnet_like(tensors, prefix)
    except (KeyError, ValueError, IndexError, ZeroDivisionError) as error:
        raise unusable(
            spec.text,
            expected="a ResNet as torchvision builds it",
            found=f"one whose tensors do not fit each other ({first_line(error)})",
            do="export it as TorchScript, which holds its own architecture",
        ) from error
    if arch is not None and (resnet.blocks, resnet.bottleneck) != _RESNETS[arch]:
        raise unusable(
            spec.text,
            expected=f"the tensors of {arch}",
            found=f"a ResNet with stages of {', '.join(map(str, resnet.blocks))} blocks",
            do="leave arch out: a ResNet is known by its tensors",
        )
    own = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
    resnet.load_state_dict(find_tensors(own, resnet.state_dict(), spec.text))
    return resnet, f"tamis {__version__}"
