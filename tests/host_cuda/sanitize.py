"""Runs a kernel's small cases under AddressSanitizer and UndefinedBehaviorSanitizer.

``python -m host_cuda.sanitize STEM [OLD NEW]`` with libasan preloaded: the cases of
``test_STEM_cuda.py``; OLD and NEW seed a bug in the source.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from host_cuda.runtime import HostRuntime

if __name__ == "__main__":
    stem, *edit = sys.argv[1:]
    path = Path(__file__).resolve().parents[1] / "kernels" / f"test_{stem}_cuda.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    old_new = (edit[0], edit[1]) if edit else None
    module.sanitizer_cases(HostRuntime(edit=old_new, sanitize=True))
