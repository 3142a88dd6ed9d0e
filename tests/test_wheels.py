"""tools/build-ffcv-wheel and tools/build-wheelhouse: their wheels need none of Debian's libraries.

FFCV is compiled once, in a quarter of a minute; without a way to PyPI these tests are skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ffcv_reading import epoch
from sample_images import jpeg_bytes, picture

REPOSITORY = Path(__file__).resolve().parents[1]
BUILD = REPOSITORY / "tools" / "build-ffcv-wheel"
COLLECT = REPOSITORY / "tools" / "build-wheelhouse"
SITE_PACKAGES = Path(np.__file__).parents[1]
# Bundled libraries that FFCV itself calls, and of which Debian's must not be used instead.
CALLED = ("libopencv_core", "libopencv_imgproc", "libturbojpeg")
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}


def call(*command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env={**os.environ, "PYTHON": sys.executable, **more},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def last_line(tool: Path, *arguments: str | Path, **more: str) -> str:
    """What a tool prints at its end; skips where the machine lacks what only a network gives."""
    done = call(tool, *arguments, **more)
    if done.returncode == 2:
        told = done.stderr.splitlines()[-1]
        if "from PyPI" in told or "to PyPI" in told or "expected these Debian packages" in told:
            pytest.skip(told)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def constrained(name: str) -> str:
    lines = (REPOSITORY / "tools" / "constraints.txt").read_text().splitlines()
    (version,) = (line.partition("==")[2] for line in lines if line.startswith(f"{name}=="))
    return version


def install(wheel: Path, python: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q")
    done = call(*pip, "--no-deps", "--no-compile", wheel, **OFFLINE)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FFCV's portable wheel; not to be written to."""
    folder, temporary = (tmp_path_factory.mktemp(name) for name in ("ffcv-wheel", "temporary"))
    path = Path(last_line(BUILD, folder, TMPDIR=str(temporary)))
    assert list(folder.iterdir()) == [path]
    assert not list(temporary.iterdir())
    return path


# ---- FFCV's wheel


def test_the_wheel_serves_several_pythons_and_says_whose_libraries_it_holds(wheel: Path) -> None:
    version = constrained("ffcv")
    assert re.fullmatch(rf"ffcv-{re.escape(version)}-cp311-abi3-manylinux\w+\.whl", wheel.name)
    assert wheel.stat().st_size < 40e6, "a library came along that FFCV does not use"
    with zipfile.ZipFile(wheel) as whole:
        assert whole.testzip() is None
        names = whole.namelist()
        years = {info.date_time[0] for info in whole.infolist()}
    assert years == {1980}, "the same inputs give the same wheel"
    assert [name for name in names if re.match(r"ffcv/_libffcv.*\.so$", name)] == [
        "ffcv/_libffcv.abi3.so"
    ]
    licences = "\n".join(name for name in names if "/licenses/" in name)
    assert f"ffcv-{version}.dist-info/licenses/LICENSE" in licences
    bundled = [name for name in names if name.startswith("ffcv.libs/")]
    for library in CALLED:
        assert any(Path(name).name.startswith(f"{library}-") for name in bundled)
        assert re.search(rf"/licenses/{library.replace('_', '-')}\d+\w*/copyright", licences)
    assert not [name for name in bundled if "libGL" in name or "libX11" in name]


# One epoch of plain FFCV: what it decoded, which libraries are in the process, and which of those
# named could be loaded besides.
LOAD = """
import ctypes, hashlib, json, sys
from pathlib import Path

import ffcv.libffcv
from ffcv.fields.basics import IntDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader

bundle, *named = sys.argv[1:]
pipelines = {"image": [CenterCropRGBImageDecoder((24, 20), 0.9)], "label": [IntDecoder()]}
loader = Loader(bundle, 1, num_workers=1, pipelines=pipelines, drop_last=False)
rows = [[column.copy() for column in batch] for batch in loader]
digests = [hashlib.sha256(image.tobytes()).hexdigest() for image, _ in rows]
maps = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}

def loads(name):
    try:
        return bool(ctypes.CDLL(name))
    except OSError:
        return False

found = {
    "module": ffcv._libffcv.__file__,
    "digests": digests,
    "maps": sorted(maps),
    "reachable": [name for name in named if loads(name)],
}
print(json.dumps(found))
"""
# In a mount namespace of its own: an empty file over each library, then the command.
HIDE = 'count="$1"; shift; for _ in $(seq "$count"); do mount --bind /dev/null "$1"; shift; done'
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", f'{HIDE}; "$@"')


def libraries_of_the_system(stems: Sequence[str]) -> dict[str, Path]:
    """Name → file, for those that the loader of this machine finds."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        name = name.partition(" ")[0]
        if arrow and name.partition(".so")[0] in stems:
            found[name] = Path(path).resolve()
    return found


def test_it_decodes_in_a_clean_environment_with_its_own_libraries(
    wheel: Path, sample_bundle: Path, tmp_path: Path
) -> None:
    # Clean but for FFCV's dependencies, which would be a gigabyte: they come after it on the path.
    environment = tmp_path / "venv"
    done = call(sys.executable, "-m", "venv", "--without-pip", environment)
    assert done.returncode == 0, done.stderr
    python = environment / "bin" / "python"
    install(wheel, python)
    (libraries,) = environment.rglob("ffcv.libs")
    site_packages = libraries.parent
    (site_packages / "dependencies.pth").write_text(f"{SITE_PACKAGES}\n")

    bundled = sorted(path.name for path in libraries.iterdir())
    stems = [re.sub(r"-[0-9a-f]{8}\.so.*", "", name) for name in bundled]
    of_the_system = libraries_of_the_system(stems)
    files = sorted({str(path) for path in of_the_system.values()})
    hidden = call(*IN_A_NAMESPACE, "sh", str(len(files)), *files, "true").returncode == 0
    prefix = (*IN_A_NAMESPACE, "sh", str(len(files)), *files) if hidden else ()
    # Numba's TBB layer would map the system's libtbb, which says nothing about FFCV's.
    settings = {"PYTHONPATH": "", "NUMBA_THREADING_LAYER": "omp"}
    done = call(*prefix, python, "-c", LOAD, sample_bundle, *of_the_system, **settings)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)

    assert found["module"] == str(site_packages / "ffcv" / "_libffcv.abi3.so")
    assert set(found["maps"]) >= {str(libraries / name) for name in bundled}
    for path in found["maps"]:
        if Path(path).name.startswith(CALLED):
            assert Path(path).parent == libraries
        assert path not in files
    if hidden:  # else this machine gives no namespace, and what was mapped has to do
        assert found["reachable"] == []

    # What the FFCV of this environment, built against Debian's libraries, makes of the bundle.
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import CenterCropRGBImageDecoder

    pipelines = {"image": [CenterCropRGBImageDecoder((24, 20), 0.9)], "label": [IntDecoder()]}
    expected = [
        hashlib.sha256(row["image"].tobytes()).hexdigest()
        for row in epoch(sample_bundle, pipelines, batch_size=1)
    ]
    assert found["digests"] == expected
    assert len(set(expected)) == len(expected) > 5


# As ffcv/libffcv.py does, without NumPy: other interpreters need not have FFCV's dependencies.
DECODE = """
import ctypes, importlib.util, sys
from pathlib import Path

folder, jpeg, width, height = sys.argv[1:]
width, height = int(width), int(height)
(file,) = Path(folder, "ffcv").glob("_libffcv.*")
spec = importlib.util.spec_from_file_location("ffcv._libffcv", file)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
library = ctypes.CDLL(module.__file__)
u32, u64, at, flag = ctypes.c_uint32, ctypes.c_uint64, ctypes.c_void_p, ctypes.c_bool
library.imdecode.argtypes = [at, u64, u32, u32, at, u32, u32, u32, u32, u32, u32, flag, flag]
source = Path(jpeg).read_bytes()
pixels = ctypes.create_string_buffer(width * height * 3)
failed = library.imdecode(
    source, len(source), height, width, pixels, height, width, 0, 0, 1, 1, False, False
)
print(sys.version_info[:2], failed, pixels.raw.hex())
"""


def other_pythons() -> list[str]:
    """Later CPythons on this machine: on the PATH, or of pyenv. Those that run and have pip."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = []
    for minor in (12, 13):
        named = shutil.which(f"python3.{minor}")
        candidates = [named] if named else []
        candidates += sorted(map(str, pyenv.glob(f"3.{minor}.*/bin/python3.{minor}")))
        for candidate in candidates:
            if call(candidate, "-c", "import pip, ctypes").returncode == 0:
                found.append(candidate)
                break
    return found


def test_other_pythons_install_and_load_it(wheel: Path, tmp_path: Path) -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("no python3.12 and no python3.13 with pip on this machine")
    from ffcv.libffcv import imdecode

    jpeg = tmp_path / "picture.jpg"
    jpeg.write_bytes(jpeg_bytes(Image.fromarray(picture(40, 24, 1)), subsampling=0))
    # Not Pillow's pixels: FFCV asks libjpeg-turbo for its fast, less exact transform.
    expected = np.zeros((24, 40, 3), np.uint8)
    source = np.fromfile(jpeg, np.uint8)
    assert imdecode(source, expected, 24, 40, 24, 40) == 0
    assert np.abs(expected.astype(int) - picture(40, 24, 1)).mean() < 5
    for number, python in enumerate(pythons):
        folder = tmp_path / str(number)
        pip = (python, "-m", "pip", "install", "-q", "--no-deps", "--no-compile")
        done = call(*pip, "--target", folder, wheel, **OFFLINE)
        assert done.returncode == 0, done.stderr
        done = call(python, "-c", DECODE, folder, jpeg, "40", "24", PYTHONPATH="")
        assert done.returncode == 0, done.stderr
        version, failed, pixels = done.stdout.rsplit(maxsplit=2)
        assert version != str(tuple(sys.version_info[:2]))
        assert failed == "0"
        assert bytes.fromhex(pixels) == expected.tobytes()


# ---- the wheelhouse


def test_the_wheelhouse_installs_offline_and_is_not_fetched_twice(
    wheel: Path, tmp_path: Path
) -> None:
    # fastargs, on which FFCV depends, comes as source only. FFCV's wheel is there already.
    folder, target = tmp_path / "wheel house", tmp_path / "target"
    folder.mkdir()
    shutil.copy(wheel, folder)
    wanted = f"fastargs=={constrained('fastargs')}"
    assert last_line(COLLECT, "--dry-run", folder, "fastargs") == f"{wanted}  built"
    assert [path.name for path in folder.iterdir()] == [wheel.name]

    command = shlex.split(last_line(COLLECT, folder, "fastargs"))
    assert command == ["pip", "install", "--no-index", "--find-links", str(folder), "fastargs"]
    collected = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name.partition("-")[0] for name in collected} == {"fastargs", "ffcv", "tamis"}
    assert all(name.endswith(".whl") for name in collected)

    done = call(sys.executable, "-m", *command, "--target", target, "--no-deps", **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert (target / "fastargs").is_dir()

    done = call(COLLECT, folder, "fastargs", **OFFLINE)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == collected
    done = call(COLLECT, "--dry-run", folder, "fastargs", **OFFLINE)
    assert done.stdout == f"{wanted}  there\n"


# An interpreter whose pip makes empty wheels, finds none of them at first, and notes its arguments.
FALSE_PYTHON = """#!/bin/bash
echo "$*" >>{calls}
while [ $# -gt 0 ]; do
    case "$1" in
        -w) folder="$2" ;;
        --no-index) [ -e {folder}/torch-2-py3-none-any.whl ] || exit 1 ;;
    esac
    last="$1"
    shift
done
if [ -n "${{folder:-}}" ]; then
    [[ "$last" == /* ]] && touch "$folder/tamis-1-py3-none-any.whl" && exit
    touch "$folder/torch-2-py3-none-any.whl"
fi
exit 0
"""


@pytest.mark.parametrize("extras", ["cpu", "cuda"])
def test_it_collects_what_the_setup_installs(extras: str, tmp_path: Path) -> None:
    folder, calls, python = (tmp_path / name for name in ("out", "calls", "python"))
    folder.mkdir()
    (folder / f"ffcv-{constrained('ffcv')}-cp311-abi3-linux_x86_64.whl").touch()
    python.write_text(FALSE_PYTHON.format(calls=calls, folder=folder))
    python.chmod(0o755)
    environment = {"PYTHON": str(python), "TAMIS_EXTRAS": extras}
    done = call(COLLECT, folder, **environment)
    assert done.returncode == 0, done.stderr
    assert shlex.split(done.stdout)[-1] == f"tamis[{extras}]"
    (fetching,) = (
        line for line in calls.read_text().splitlines() if " torch " in line and "-w" in line
    )
    assert fetching.endswith(f" torch tamis[{extras},dev]")
    assert f"-c {REPOSITORY}/tools/constraints.txt" in fetching
    assert f"--find-links {folder}" in fetching
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == [
        "ffcv",
        "tamis",
        "torch",
    ]
    calls.unlink()
    assert call(COLLECT, folder, **environment).returncode == 0
    assert not [line for line in calls.read_text().splitlines() if " wheel " in line]


# ---- what both refuse


@pytest.mark.parametrize("tool", [BUILD, COLLECT])
def test_help_is_the_head_of_the_file(tool: Path) -> None:
    done = call(tool, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"tools/{tool.name} [" in done.stdout
    assert "OUT_DIR" in done.stdout
    assert "set -euo" not in done.stdout


def refusal(tool: Path, *arguments: str | Path, **more: str) -> str:
    done = call(tool, *arguments, **more)
    assert (done.returncode, done.stdout) == (2, "")
    told = [line for line in done.stderr.splitlines() if line.startswith(f"tools/{tool.name}: ")]
    assert told == done.stderr.splitlines()[-1:]  # before it only what was being done
    assert "expected" in told[0]
    assert "found" in told[0]
    return told[0]


def test_they_refuse_what_they_do_not_know(tmp_path: Path) -> None:
    assert "found: --fast" in refusal(BUILD, "--fast")
    assert "found: a b" in refusal(BUILD, "a", "b")
    assert "found: --fast" in refusal(COLLECT, "--fast")
    assert "found: no-python; call tools/setup, or set PYTHON" in refusal(
        COLLECT, tmp_path / "out", PYTHON="no-python"
    )
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_told_and_nothing_is_left(tmp_path: Path) -> None:
    out, temporary, nowhere = (tmp_path / name for name in ("out", "temporary", "nowhere"))
    temporary.mkdir()
    told = refusal(BUILD, out, PKG_CONFIG_LIBDIR=str(nowhere), PKG_CONFIG_PATH="")
    assert "libopencv-dev libturbojpeg0-dev" in told
    assert "tools/setup" in told
    if call("pkg-config", "--exists", "opencv4", "libturbojpeg").returncode == 0:
        told = refusal(BUILD, out, TMPDIR=str(temporary), **OFFLINE)
        assert "from PyPI" in told
        assert "PIP_INDEX_URL" in told
    assert not out.exists()
    assert not list(temporary.iterdir())
