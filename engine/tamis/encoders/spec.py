"""How encoders are named: ``kind:argument?option=value&option=value``."""

from __future__ import annotations

from dataclasses import dataclass, field

from tamis.encoders.base import IMAGENET_MEAN, IMAGENET_STD, Preparation, levels, unusable
from tamis.errors import UsageError

__all__ = ["EncoderSpec", "parse_spec"]

# Kind → its argument, and the options it knows.
_KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "selfsup": ("", ()),
    "pixels": ("", ()),
    "tamis": ("RUN_DIR", ()),
    "file": ("PATH", ("arch", "crop", "mean", "std")),
    "timm": ("NAME", ("weights",)),
    "open_clip": ("NAME/PRETRAINED", ("weights",)),
    "torchhub": ("REPO:NAME", ("crop", "mean", "std")),
    "npy": ("FILE", ()),
}


@dataclass(frozen=True)
class EncoderSpec:
    """A parsed ``--encoder``.

    Attributes:
        text: As it was given.
        kind: ``selfsup``, ``pixels``, ``tamis``, ``file``, ``timm``, ``open_clip``, ``torchhub`` or
            ``npy``.
        argument: What follows the colon; "" for the first two.
        options: What follows the question mark.
    """

    text: str
    kind: str
    argument: str
    options: dict[str, str] = field(default_factory=dict)

    def preparation(self, resolution: int | None) -> Preparation:
        """ImageNet's usual one, as far as the options do not say otherwise.

        Raises:
            UsageError: Options that are no numbers, or out of range.
        """
        default = Preparation()
        try:
            return Preparation(
                default.resolution if resolution is None else resolution,
                float(self.options.get("crop", default.crop_ratio)),
                self._channels("mean", IMAGENET_MEAN),
                self._channels("std", IMAGENET_STD),
            )
        except ValueError as error:
            raise unusable(
                self.text,
                expected="crop=0.875 and mean=R,G,B, std=R,G,B in units of 0…1",
                found=str(error),
                do="correct it",
            ) from error

    def _channels(
        self, name: str, default: tuple[float, float, float]
    ) -> tuple[float, float, float]:
        if name not in self.options:
            return default
        red, green, blue = (float(part) for part in self.options[name].split(","))
        return levels((red, green, blue))


def parse_spec(text: str) -> EncoderSpec:
    """Take ``--encoder`` apart, without opening anything.

    Raises:
        UsageError: An unknown kind or option, or an argument too many or too few.
    """
    kind, _, rest = text.partition(":")
    argument, options = _options(rest)
    wanted, known = _KINDS.get(kind, ("", ()))
    if kind not in _KINDS or bool(argument) != bool(wanted):
        names = [f"{name}:{part}" if part else name for name, (part, _) in _KINDS.items()]
        raise UsageError(
            "--encoder",
            expected=" or ".join([", ".join(names[:-1]), names[-1]]),
            found=text or "nothing",
            do="choose one of them",
        )
    for name in options.keys() - set(known):
        raise unusable(
            text,
            expected=f"one of the options {', '.join(known)}" if known else "no options",
            found=name,
            do="leave it out",
        )
    return EncoderSpec(text, kind, argument, options)


def _options(rest: str) -> tuple[str, dict[str, str]]:
    """A question mark begins options only where they look like some: paths may hold one."""
    argument, mark, tail = rest.rpartition("?")
    pairs = [part.partition("=") for part in tail.split("&")]
    if not mark or not all(name.isidentifier() and value for name, _, value in pairs):
        return rest, {}
    return argument, {name: value for name, _, value in pairs}
