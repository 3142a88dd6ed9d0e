"""Launches the kernels' CUDA sources on a CPU, on NumPy arrays; see shim.hpp."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tamis_kernels.cuda.sources import cuda_source

__all__ = ["HostRuntime", "ShimError", "build"]

_SHIM = Path(__file__).with_name("shim.hpp")
_FLAGS = ("-std=c++17", "-fPIC", "-shared", "-fno-strict-aliasing", "-w")
_SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class ShimError(RuntimeError):
    """A launch that would hang or be undefined on a GPU."""


class HostRuntime:
    """A :class:`tamis_kernels.cuda.launching.Runtime` on the CPU.

    Args:
        order: In which the threads of a block run: 0 forwards, 1 backwards, more shuffled.
        edit: (old, new): changes the source before it is compiled, to seed a bug.
        sanitize: Compile for Address- and UndefinedBehaviorSanitizer; then the process has to run
            with libasan preloaded.
    """

    def __init__(
        self, order: int = 0, edit: tuple[str, str] | None = None, sanitize: bool = False
    ) -> None:
        self._order, self._edit, self._sanitize = order, edit, sanitize

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        """An array full of 0xff bytes, so that nothing is zero by chance."""
        array = np.empty(shape, dtype)
        array.view(np.uint8).fill(0xFF)
        return array

    def launch(
        self,
        stem: str,
        kernel: str,
        grid: tuple[int, ...],
        block: int,
        arguments: Sequence[Any],
    ) -> None:
        """Run one kernel to its end.

        Raises:
            ShimError: It skipped a barrier, left lanes behind, or the like.
        """
        text = cuda_source(stem)
        if self._edit is not None:
            assert text.count(self._edit[0]) == 1, f"seeded bug: {self._edit[0]!r} not found once"
            text = text.replace(*self._edit)
        library = build(text, sanitize=self._sanitize, optimise=self._edit is None)
        held = [_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(held))(
            *[ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in held]
        )
        sizes = (ctypes.c_uint * 6)(*(*grid, 1, 1)[:3], block, 1, 1)
        error = library.shim_launch(kernel.encode(), sizes, pointers, len(held), self._order)
        if error:
            raise ShimError(f"{kernel}: {error.decode()}")

    def product(self, a: Any, b: Any, out: Any) -> None:
        """a @ b.T by NumPy."""
        with np.errstate(all="ignore"):  # a GPU gives no warnings
            np.matmul(_as_float32(a), _as_float32(b).T, out=out)


def _value(argument: Any) -> Any:
    """What cuLaunchKernel would copy: a pointer for an array, a number as its C type."""
    if isinstance(argument, np.ndarray):
        return ctypes.c_void_p(argument.ctypes.data)
    if isinstance(argument, np.generic):
        kind: Any = argument.dtype
        return np.ctypeslib.as_ctypes_type(kind)(argument.item())
    raise TypeError(f"expected an array or a NumPy number, found {type(argument).__qualname__}")


def _as_float32(array: Any) -> Any:
    """Numbers of a matrix that may be the bits of bfloat16."""
    if array.dtype == np.uint16:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


@cache
def build(text: str, *, sanitize: bool, optimise: bool) -> ctypes.CDLL:
    """Compile a source with g++ and load it; kept for later processes in the temporary folder."""
    shim = _SHIM.read_text(encoding="utf-8")
    # A source with a seeded bug runs once or twice: compiling it fast matters more.
    flags = (
        *_FLAGS,
        *(_SANITIZE if sanitize else ()),
        "-O2" if optimise and not sanitize else "-O0",
    )
    key = hashlib.sha256("\0".join((text, shim, *flags)).encode()).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"tamis-host-cuda-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    library = folder / f"{key}.so"
    if not library.exists():
        _compile(text, flags, library)
    loaded = ctypes.CDLL(str(library))
    loaded.shim_launch.restype = ctypes.c_char_p
    return loaded


_REGISTRY = """
struct ShimEntry { const char* name; void (*call)(void**); int arity; };
template <typename... A> constexpr int shim_arity(void (*)(A...)) { return sizeof...(A); }
static const ShimEntry shim_entries[] = { ENTRIES };
extern "C" const char* shim_launch(
    const char* name, const unsigned* sizes, void** arguments, int arity, int order) {
  for (const ShimEntry& entry : shim_entries)
    if (!std::strcmp(entry.name, name)) {
      if (entry.arity != arity) return "another number of arguments than the kernel takes";
      const char* error = shim::run(entry.call, {sizes[0], sizes[1], sizes[2]},
                                    {sizes[3], sizes[4], sizes[5]}, arguments, order);
      return *error ? error : nullptr;
    }
  return "no kernel of that name";
}
"""


def _compile(text: str, flags: tuple[str, ...], library: Path) -> None:
    shim = _precompiled_shim(flags, library.parent)
    with tempfile.TemporaryDirectory(dir=library.parent) as name:
        source = Path(name) / "kernel.cpp"
        source.write_text(f'#include "{shim}"\n{text}', encoding="utf-8")
        expanded = _gxx("-std=c++17", "-E", "-P", str(source))
        own = expanded[expanded.rindex("rsqrt(double") :]  # what follows the shim
        kernels = re.findall(r'extern "C"\s+void\s+(\w+)\s*\(', own)
        entries = ", ".join(
            f'{{"{kernel}", [](void** a) {{ shim::call(&{kernel}, a); }}, shim_arity(&{kernel})}}'
            for kernel in kernels
        )
        source.write_text(
            f'#include "{shim}"\n{text}\n{_REGISTRY.replace("ENTRIES", entries)}', encoding="utf-8"
        )
        built = Path(name) / library.name
        _gxx(*flags, str(source), "-o", str(built))
        built.rename(library)


@cache
def _precompiled_shim(flags: tuple[str, ...], folder: Path) -> Path:
    """A copy of shim.hpp with its .gch beside it, which g++ takes: half of a short compilation."""
    text = _SHIM.read_text(encoding="utf-8")
    key = hashlib.sha256("\0".join((text, *flags)).encode()).hexdigest()[:24]
    shim = folder / f"{key}.hpp"
    if not shim.exists():
        with tempfile.TemporaryDirectory(dir=folder) as name:
            copy, built = Path(name) / shim.name, Path(name) / "shim.gch"
            copy.write_text(text, encoding="utf-8")
            header_flags = [flag for flag in flags if flag != "-shared"]
            _gxx(*header_flags, "-x", "c++-header", str(copy), "-o", str(built))
            built.rename(f"{shim}.gch")
            copy.rename(shim)
    return shim


def _gxx(*arguments: str) -> str:
    done = subprocess.run(["g++", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"g++ {' '.join(arguments)}:\n{done.stderr[:4000]}")
    return done.stdout
