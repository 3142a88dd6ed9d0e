"""The job script for Slurm, with stand-ins for Slurm and Ray that write down their calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tamis.sweep.reading import read_sweep_spec

TOOLS = Path(__file__).resolve().parents[1] / "tools"
SCRIPT = TOOLS / "slurm" / "sweep.sbatch"


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two nodes of 16 cores and 4 GPUs."""
    stand_ins = {
        "scontrol": "printf 'node1\\nnode2\\n'",
        # As srun does: options first, then a program.
        "srun": 'echo "srun $*" >>"$LOG"; while [ "${1#--}" != "$1" ]; do\n'
        '  case "$1" in --overlap) shift ;; *) shift 2 ;; esac; done; exec "$@"',
        "hostname": "echo 10.0.0.1 172.17.0.1",
        "ray": 'echo "ray $*" >>"$LOG"',
        "tamis": 'echo "tamis $*" >>"$LOG"',
        # As nodes come: the script goes on when both are there.
        "python": 'while [ "$(grep -c \'^ray start\' "$LOG")" -lt 2 ]; do sleep 0.05; done\necho 2',
    }
    for name, body in stand_ins.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)
    return os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "TAMIS_BIN": str(tmp_path),
        "LOG": str(tmp_path / "log"),
        "SLURM_JOB_ID": "1234567",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_CPUS_ON_NODE": "16",
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


def test_the_job_starts_ray_on_all_nodes_and_sweeps(job: dict[str, str]) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT), "s.yaml", "out", "--workers", "8"],
        env=job, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "2 of 2 nodes, 16 CPUs and 4 GPUs on each" in done.stdout
    calls = Path(job["LOG"]).read_text().splitlines()
    room = "--num-cpus 16 --num-gpus 4"
    starts = sorted(line for line in calls if line.startswith("ray start"))
    assert starts == [
        f"ray start --block --disable-usage-stats {room} --address 10.0.0.1:24567",
        f"ray start --block --disable-usage-stats {room} --head --node-ip-address 10.0.0.1"
        " --port 24567 --include-dashboard false",
    ]
    assert calls[-1] == (
        "tamis sweep s.yaml --out out --executor ray --address 10.0.0.1:24567 --resume --workers 8"
    )
    others = next(line for line in calls if "--exclude node1" in line)
    assert "--nodes 1 --ntasks 1" in others


@pytest.mark.parametrize(
    ("arguments", "missing", "message"),
    [
        (["s.yaml"], None, "expected SWEEP.yaml and OUT, found 1 arguments"),
        (["s.yaml", "out"], "ray", "found none; set TAMIS_BIN"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    job: dict[str, str], arguments: list[str], missing: str | None, message: str
) -> None:
    if missing is not None:
        (Path(job["TAMIS_BIN"]) / missing).unlink()
    done = subprocess.run(
        ["bash", str(SCRIPT), *arguments], env=job, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_the_imagenet_example_says_of_its_cost() -> None:
    path = TOOLS / "examples" / "imagenet.yaml"
    spec, text = read_sweep_spec(path), path.read_text()
    pruned = [keep for keep in spec.keep if keep < 1]
    trainings = spec.seeds * (1 + len(spec.metrics) * len(pruned))
    whole = spec.seeds * (1 + len(spec.metrics) * sum(pruned))
    assert f"{trainings} trainings, as long as {whole:.0f} of the whole set" in text
    assert f"{whole * 35 / 60:.1f} hours on one GPU, {whole * 35 / 60 / 8:.1f} on eight" in text
    assert spec.recipes()[0].name == "imagenet-rn18-16"
