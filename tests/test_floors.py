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
    "tamis_kernels.arrays": 0,
    "tamis_kernels.compiled": 0,
    "tamis_kernels.faiss_door": 0,
    "tamis_kernels.processor": 0,
    "tamis_kernels.cpu": 1,
    "tamis_kernels.cuda": 1,
    "tamis_kernels.reference": 1,
    "tamis_kernels.influence": 2,
    "tamis_kernels.last_layer_grand": 3,
    "tamis_kernels.nearest_prototype": 2,
    "tamis_kernels.row_scores": 2,
    "tamis_kernels.select_top": 2,
    "tamis_kernels.update_statistics": 3,
    "tamis_kernels.score_and_update": 4,
    "tamis_kernels.kmeans": 3,
    "tamis_kernels": 5,
    "tamis": 6,
    "tamis.errors": 7,
    "tamis.arrays": 8,
    "tamis.atomic": 8,
    "tamis.cluster": 9,
    "tamis.devices": 8,
    "tamis.hashing": 8,
    "tamis.in_order": 8,
    "tamis.jpeg_header": 8,
    "tamis.locking": 8,
    "tamis.manifest": 8,
    "tamis.memory": 8,
    "tamis.progress": 8,
    "tamis.statistics": 8,
    "tamis.thrift": 8,
    "tamis.versions": 8,
    "tamis.units": 8,
    "tamis.images": 9,
    "tamis.tiles": 9,
    "tamis.sources": 10,
    "tamis.bundles": 11,
    "tamis.sources.bundle_images": 12,
    "tamis.sources.opening": 12,
    "tamis.score_table": 12,
    "tamis.score_exchange": 13,
    "tamis.models": 12,
    "tamis.loaders.batch": 12,
    "tamis.loaders": 13,
    "tamis.inference": 14,
    "tamis.training": 15,
    "tamis.training.starting": 17,
    "tamis.agreement": 16,
    "tamis.encoders": 16,
    "tamis.encoders.embedding_file": 13,
    "tamis.prototypes": 15,
    "tamis.selection": 16,
    "tamis.duplicates": 16,
    "tamis.zcore": 16,
    "tamis.metrics": 18,
    "tamis.sweep": 19,
    "tamis.theory": 19,
    "tamis.theory.panels": 21,
    "tamis.theory.figures": 21,
    "tamis.report.canvas": 19,
    "tamis.scaling": 20,
    "tamis.report": 21,
    "tamis.demo": 22,
    "tamis.benchmarks.measuring": 9,
    "tamis.benchmarks.records": 9,
    "tamis.benchmarks": 22,
    "tamis.cli": 23,
}
DOORS = {
    "cupy": "tamis_kernels.cuda.cupy_door",
    "faiss": "tamis_kernels.faiss_door",
    "nvidia": "tamis.loaders.dali_pipeline",
    "mlflow": "tamis.training.tracking",
    "open_clip": "tamis.encoders.open_clip_models",
    "pynvml": "tamis.training.energy",
    "ray": "tamis.cluster",
    "safetensors": "tamis.encoders.checkpoints",
    "tensorboard": "tamis.training.tracking",
    "timm": "tamis.encoders.timm_models",
    "torch.hub": "tamis.encoders.torch_hub",
    "torchvision": "tamis.encoders.torchvision_models",
}
# What tamis is measured against.
PEERS = {"tamis.benchmarks.ffcv_writer", "tamis.benchmarks.kernels.faiss_peer"}
# What `tamis --help` must not wait for.
HEAVY = (
    "torch", "ffcv", "faiss", "numpy", "scipy", "pyarrow", "cv2", "numba", "pydantic", "matplotlib",
    "rich",
)  # fmt: skip


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
            for library in DOORS:
                inside = name == library or name.startswith(f"{library}.")
                if inside and module not in {DOORS.get(library), *PEERS}:
                    misplaced.append(f"{module} imports {name}")
    assert misplaced == []


@pytest.mark.parametrize("module", ["tamis", "tamis.cli"])
def test_importing_the_command_line_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_theory_waits_with_scipy_and_matplotlib() -> None:
    code = (
        "import sys, tamis.theory.figures, tamis.theory.tables, tamis.theory.planning;"
        "print([m for m in ('scipy', 'matplotlib', 'torch', 'numba') if m in sys.modules])"
    )
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
