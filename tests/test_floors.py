"""The architecture, as a test: floors, one door per heavy library, nothing heavy at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Longest prefix wins. A module imports only from lower floors, or from its own package.
FLOORS = {
    "tamis_kernels.reference": 0,
    "tamis_kernels.cpu": 0,
    "tamis_kernels.row_scores": 1,
    "tamis_kernels.nearest_prototype": 1,
    "tamis_kernels": 2,
    "tamis": 3,
    "tamis.errors": 4,
    "tamis.arrays": 5,
    "tamis.atomic": 5,
    "tamis.devices": 5,
    "tamis.hashing": 5,
    "tamis.jpeg_header": 5,
    "tamis.manifest": 5,
    "tamis.memory": 5,
    "tamis.progress": 5,
    "tamis.statistics": 5,
    "tamis.thrift": 5,
    "tamis.images": 6,
    "tamis.sources": 7,
    "tamis.bundles": 8,
    "tamis.sources.bundle_images": 9,
    "tamis.sources.opening": 9,
    "tamis.score_table": 9,
    "tamis.models": 9,
    "tamis.loaders.batch": 9,
    "tamis.loaders": 10,
    "tamis.inference": 11,
    "tamis.training": 12,
    "tamis.prototypes": 13,
    "tamis.selection": 13,
    "tamis.metrics": 14,
    "tamis.sweep": 15,
    "tamis.report": 16,
    "tamis.demo": 17,
    "tamis.benchmarks": 17,
    "tamis.cli": 18,
}
DOORS = {"ffcv": "tamis.loaders.ffcv_loader", "faiss": "tamis.prototypes"}
PEERS = {"tamis.benchmarks.ffcv_writer"}  # what tamis is measured against, in processes of its own
BANNED = ("nvidia", "cupy", "ray", "torch.hub")
# What `tamis --help` must not wait for.
HEAVY = ("torch", "ffcv", "faiss", "numpy", "pyarrow", "cv2", "numba", "pydantic", "matplotlib")


def modules() -> dict[str, Path]:
    found = {}
    for root in (ROOT / "engine", ROOT / "kernels"):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(module: str) -> tuple[int, str]:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in FLOORS:
            return FLOORS[prefix], prefix
    raise AssertionError(f"{module} stands on no floor: add it to FLOORS")


def package(module: str) -> str:
    """tamis.bundles.cut → tamis.bundles; modules of the top level are packages of their own."""
    return ".".join(module.split(".")[:2])


def test_every_module_stands_on_its_own_line_of_the_floors() -> None:
    for module in modules():
        _, prefix = floor(module)
        # "tamis" alone would let a new top-level module in unnoticed.
        assert prefix != "tamis" or module == "tamis", f"add {module} to FLOORS"


def test_imports_go_down() -> None:
    known = modules()
    upward = []
    for module, path in known.items():
        for name in imports(path) & known.keys():
            inside = package(name) == package(module)
            if not inside and floor(name)[0] >= floor(module)[0]:
                upward.append(f"{module} imports {name}")
    assert upward == []


def test_heavy_libraries_have_one_door() -> None:
    misplaced = []
    for module, path in modules().items():
        for name in imports(path):
            library = name.split(".")[0]
            if library in DOORS and module not in {DOORS[library], *PEERS}:
                misplaced.append(f"{module} imports {name}")
            if any(name == banned or name.startswith(f"{banned}.") for banned in BANNED):
                misplaced.append(f"{module} imports {name}")
    assert misplaced == []


@pytest.mark.parametrize("module", ["tamis", "tamis.cli"])
def test_importing_the_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_all_lists_exactly_the_public_names() -> None:
    """``__all__`` of every module is sorted and is what it defines without an underscore."""
    wrong = []
    for module, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        listed, defined, imported = None, set(), set()
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                defined.add(node.target.id)
            elif isinstance(node, ast.Assign):
                names = {target.id for target in node.targets if isinstance(target, ast.Name)}
                if names == {"__all__"}:
                    listed = ast.literal_eval(node.value)
                defined |= names
            elif isinstance(node, ast.ImportFrom):
                imported |= {alias.asname or alias.name for alias in node.names}
        public = {name for name in defined if not name.startswith("_")}
        if path.name == "__init__.py":
            public = (public | imported) - {"annotations"} if listed else set()
            public |= {"__version__"} if module == "tamis" else set()
        if set(listed or []) != public:
            wrong.append(f"{module}: {sorted(set(listed or []) ^ public)}")
    assert wrong == []
