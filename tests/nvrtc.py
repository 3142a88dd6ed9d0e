"""NVIDIA's run-time compiler without a driver: what ptxas says of every kernel of a source."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import files

__all__ = ["KernelUse", "compile_for"]


@dataclass(frozen=True)
class KernelUse:
    """What one kernel takes of a multiprocessor."""

    registers: int
    shared_bytes: int
    spilled_bytes: int
    stack_bytes: int


@cache
def _library() -> ctypes.CDLL:
    listed = files("nvidia-cuda-nvrtc") or []
    # Loaded first, because the compiler asks for it by name, in the system's folders only.
    for pattern in (r"libnvrtc-builtins\.so\.[\d.]+", r"libnvrtc\.so\.\d+"):
        for file in listed:
            if re.fullmatch(pattern, file.name):
                library = ctypes.CDLL(str(file.locate()))
                break
        else:
            raise FileNotFoundError(f"{pattern} in nvidia-cuda-nvrtc")
    return library


def compile_for(source: str, architecture: str, options: tuple[str, ...]) -> dict[str, KernelUse]:
    """Compile for one architecture ("sm_90a"); gives kernel name → use, or raises with the log."""
    library, program = _library(), ctypes.c_void_p()
    text = source.encode()
    status = library.nvrtcCreateProgram(ctypes.byref(program), text, b"tamis.cu", 0, None, None)
    assert status == 0
    try:
        flags = [f"--gpu-architecture={architecture}", *options, "--ptxas-options=-v"]
        encoded = [flag.encode() for flag in flags]
        array = (ctypes.c_char_p * len(encoded))(*encoded)
        status = library.nvrtcCompileProgram(program, len(encoded), array)
        size = ctypes.c_size_t()
        library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        library.nvrtcGetProgramLog(program, buffer)
        log = buffer.value.decode()
        if status:
            raise RuntimeError(f"{architecture}:\n{log}")
        warnings = [line for line in log.splitlines() if "warning" in line]
        assert warnings == [], "\n".join(warnings)
        return _uses(log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _uses(log: str) -> dict[str, KernelUse]:
    """Read ptxas's lines: 'Function properties for NAME', its spills, 'Used N registers, …'."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.split("'")[0]

        def number(pattern: str, text: str = part) -> int:
            match = re.search(pattern, text)
            return int(match[1]) if match else 0

        stores, loads = number(r"(\d+) bytes spill stores"), number(r"(\d+) bytes spill loads")
        found[name] = KernelUse(
            registers=number(r"Used (\d+) registers"),
            shared_bytes=number(r"(\d+) bytes smem"),
            spilled_bytes=stores + loads,
            stack_bytes=number(r"(\d+) bytes stack frame"),
        )
    return found
