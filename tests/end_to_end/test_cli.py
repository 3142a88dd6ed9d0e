"""The command line as people and scripts use it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from command_line import answer, process_command, refused, tamis, tamis_process
from tamis.bundles.opening import open_bundle
from tamis.cli.app import app
from tamis.score_table import read_score_table

TRAINING = ["--recipe", "digits", "--set", "epochs=1", "--set", "width=4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train, test, scores, kept and pruned, each made by its command."""
    root = tmp_path_factory.mktemp("cli")
    for part, count in (("train", 1347), ("test", 450)):
        found = answer("convert", f"digits:{part}", root / f"{part}.beton")
        assert found["n_examples"] == found["n_encoded"] == count
        assert found["bytes"] == (root / f"{part}.beton").stat().st_size
        assert found["images_per_second"] == pytest.approx(count / found["seconds"])
    found = answer(
        "score", root / "train.beton", root / "scores.parquet", "--metrics", "random,el2n",
        "--models", 1, *TRAINING,
    )  # fmt: skip
    assert found["n_examples"] == 1347
    for values in found["metrics"].values():
        assert values["min"] < values["median"] < values["max"]
    return root


def test_select_and_cut_keep_what_was_asked_for(folder: Path) -> None:
    kept = folder / "kept.parquet"
    found = answer(
        "select", folder / "scores.parquet", kept, "--metric", "el2n", "--prune", 0.8,
        "--class-balance", 0.5,
    )  # fmt: skip
    assert (found["n_kept"], found["n_total"]) == (269, 1347)
    assert found["keep_fraction"] == pytest.approx(269 / 1347)
    assert sum(found["per_class"].values()) == 269
    assert min(found["per_class"].values()) >= 13
    found = answer("cut", folder / "train.beton", folder / "pruned.beton", "--selection", kept)
    assert found["n_examples"] == 269
    assert found["keep_fraction"] == pytest.approx(269 / 1347)
    assert found["bytes_per_second"] == pytest.approx(found["bytes"] / found["seconds"])
    answer(
        "cut", folder / "train.beton", folder / "same.beton", "--scores",
        folder / "scores.parquet", "--metric", "el2n", "--keep", 0.2, "--class-balance", 0.5,
    )  # fmt: skip
    same, pruned = (answer("inspect", folder / f"{name}.beton") for name in ("same", "pruned"))
    assert same["classes"] == pruned["classes"]
    assert same["n_examples"] == 269
    assert pruned["manifest"]["parents"][0]["n_examples"] == 1347
    assert answer("verify", folder / "pruned.beton", "--deep")["ok"] is True


def test_merge_shard_and_virtual(folder: Path, tmp_path: Path) -> None:
    train = folder / "train.beton"
    found = answer("shard", train, tmp_path / "shards", "-n", 3, "--order", "shuffled")
    assert found["n_examples"] == [449, 449, 449]
    merged = answer("merge", tmp_path / "m.beton", *found["files"])
    assert (merged["n_examples"], merged["n_bundles"]) == (1347, 3)
    assert answer("inspect", tmp_path / "m.beton")["classes"] == answer("inspect", train)["classes"]
    some = ("--side", "random", "--count", 100)
    real = answer("cut", train, tmp_path / "real.beton", *some)
    virtual = answer("cut", train, tmp_path / "virtual.beton", *some, "--virtual")
    assert virtual["n_examples"] == real["n_examples"] == 100
    assert virtual["bytes"] < real["bytes"]
    pair = [answer("inspect", tmp_path / f"{name}.beton") for name in ("real", "virtual")]
    assert pair[0]["classes"] == pair[1]["classes"]
    assert answer("verify", tmp_path / "virtual.beton", "--deep")["n_examples"] == 100
    # Another form of the same examples, under the same ids.
    answer("convert", tmp_path / "virtual.beton", tmp_path / "jpeg.beton", "--mode", "jpeg")
    assert answer("inspect", tmp_path / "jpeg.beton")["modes"] == {"jpeg": 100, "raw": 0}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    found = answer("convert", "digits", tmp_path / "x.beton", "--dry-run")
    assert found["n_examples"] == 1797
    assert 300_000 < found["bytes"] < 900_000
    assert found["seconds"] < 60
    done = tamis("convert", "digits", tmp_path / "x.beton", "--dry-run")
    assert "about" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_train_reports_and_keeps_the_run(folder: Path) -> None:
    found = answer(
        "train", folder / "train.beton", "--test", folder / "test.beton", "--out",
        folder / "run", "--budget", "epochs", *TRAINING, "--order-seed", 7,
        "--augmentation-seed", 8,
    )  # fmt: skip
    assert [found[of] for of in ("seed", "order_seed", "augmentation_seed")] == [0, 7, 8]
    assert {"test_accuracy", "test_loss", "train_seconds", "setup_seconds"} <= found.keys()
    assert (found["steps"], found["examples_seen"]) == (22, 1347)
    assert json.loads((folder / "run" / "record.json").read_text()) == found
    embedded = answer(
        "embed", folder / "test.beton", folder / "e.npy", "--encoder", f"tamis:{folder / 'run'}",
        "--recipe", "digits",
    )  # fmt: skip
    rows = np.load(folder / "e.npy")
    assert rows.shape == (450, 16) == (embedded["n_examples"], embedded["n_features"])
    assert rows.std() > 0
    line = refused(
        "train", folder / "train.beton", "--test", folder / "test.beton", "--out", folder / "run"
    )
    assert "pass --overwrite" in line


def test_sweep_and_report(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(
        "{train: train.beton, test: test.beton, scores: scores.parquet, metrics: [random, el2n],"
        " keep: [1.0, 0.4], seeds: 2, recipe: digits, set: {epochs: 1, width: 4}}"
    )
    plan = answer("sweep", folder / "sweep.yaml", "--out", folder / "sweep", "--dry-run")
    assert (plan["n_trials"], plan["n_missing"], plan["steps"]) == (6, 6, 6 * 22)
    assert not (folder / "sweep").exists()
    found = answer("sweep", folder / "sweep.yaml", "--out", folder / "sweep")
    assert (found["n_trials"], found["n_done"], found["n_failed"]) == (6, 6, 0)
    from report_sweep import write_bench_record

    bench = folder / "bench.jsonl"
    write_bench_record(bench)
    report = answer("report", folder / "sweep", "--bench", bench)
    assert "a &lt;crop&gt; to 224 px" in Path(report["report"]).read_text()
    assert Path(report["report"]).is_file()
    done = tamis("report", folder / "sweep", "--overwrite")
    assert "random" in done.stdout
    assert str(folder / "sweep" / "report.html") in done.stdout
    browse = folder / "browse"
    shown = answer("report", folder / "sweep", "--fiftyone", browse, "--max-images", 7)
    assert shown == {"fiftyone": str(browse), "n_images": 7}
    assert len(list(browse.glob("images/*/*.png"))) == 7


def test_scores_can_be_appended(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "scores.parquet"
    shutil.copy(folder / "scores.parquet", table)
    answer(
        "score", folder / "train.beton", table, "--metrics", "prototypes", "--encoder", "pixels",
        "--append", *TRAINING,
    )  # fmt: skip
    for metric in ("el2n", "prototypes"):
        kept = tmp_path / f"{metric}.parquet"
        found = answer("select", table, kept, "--metric", metric, "--count", 5)
        assert found["n_kept"] == 5


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    names = [info.callback.__name__ for info in app.registered_commands if info.callback]
    assert len(names) == 22
    for group in app.registered_groups:
        assert group.typer_instance is not None
        commands = group.typer_instance.registered_commands
        names += [f"theory {info.callback.__name__}" for info in commands if info.callback]
    assert len(names) == 27
    for name in names:
        assert f"tamis {name.replace('_', '-')}" in readme, name


def test_the_theory_is_solved_simulated_tabulated_and_drawn(tmp_path: Path) -> None:
    point = ("--alpha-tot", 4, "--keep", 0.5)
    solved = answer("theory", "solve", *point)
    assert solved["error"] == pytest.approx(0.1361, abs=5e-5)
    assert {"R", "rho", "kappa"} <= solved.keys()
    noisy = answer("theory", "solve", *point, "--label-noise", 0.2, "--check-labels")
    assert (noisy["kappa"], noisy["checked"]) == (None, True)
    found = answer("theory", "simulate", *point, "--trials", 10, "--dim", 100, "--seed", 1)
    assert abs(found["error"] - solved["error"]) < 5 * found["error_se"] + 0.01
    assert {"kappa", "solved"} <= found.keys()
    plan = answer("theory", "plan", "--alpha-tot", 2)
    assert (plan["side"], plan["words"][:4]) == ("easy", "With")
    curve = answer("theory", "curve", "--sizes", "1,2", "--keep", "0.5")
    assert [row["alpha_prune"] for row in curve["rows"]] == [1, 2]
    table = tmp_path / "curve.csv"
    assert tamis("theory", "curve", "--quantity", "crossover", "--out", table).returncode == 0
    assert table.read_text().splitlines()[0] == "theta,keep,alpha_tot_easy,alpha_tot_random"
    for command, says in (
        (("solve", "--alpha-tot", 4, "--keep", 0.001), "keep: expected 0.01 to 1, found 0.001"),
        (("solve", "--alpha-tot", 4, "--ridge", 1), "--ridge: expected --label-noise with it"),
        (("solve", "--alpha-tot", 4, "--check-labels"), "--check-labels: expected --label-noise"),
        (("simulate", "--alpha-tot", 4, "--trials", 1), "trials: expected at least 2, found 1"),
        (("plan", "--alpha-tot", 4, "--keep", 0.5, "--tolerance", 0.1), "nothing with --keep"),
        (("curve", "--quantity", "phase", "--side", "easy"), "--side: expected nothing for phase"),
        (("curve", "--out", table), "pass --overwrite"),
        (("figure", 1, "--out", tmp_path / "figure.bmp"), "name it figure.png"),
        (("figure", 1, "--out", tmp_path / "a.png", "--no-simulation", "--dim", 9), "--dim"),
    ):
        assert says in refused("theory", *command)


def test_metrics_and_recipes_are_listed() -> None:
    metrics = answer("metrics")["metrics"]
    keys = {"name", "high_means", "labels", "models", "cost", "seconds", "source"}
    assert all(metric.keys() == keys for metric in metrics)
    assert [m["name"] for m in metrics if not m["labels"]] == [
        "random", "entropy", "tdds", "active-learning", "selfsup-prototypes", "semdedup", "zcore",
    ]  # fmt: skip
    recipes = [recipe["name"] for recipe in answer("recipes")["recipes"]]
    assert recipes[:5] == ["small", "digits", "cifar-fast", "cifar-resnet18", "finetune"]
    shown = tamis("recipes").stdout
    assert all(f"{name}: " in shown for name in recipes)


def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path, sample_bundle: Path, sample_folder: Path, report_folder: Path, tmp_path: Path
) -> None:
    train, scores, out = folder / "train.beton", folder / "scores.parquet", tmp_path / "out.beton"
    (tmp_path / "empty").mkdir()
    shutil.copytree(sample_folder, tmp_path / "images")
    first = next(path for path in sorted((tmp_path / "images").iterdir()) if path.is_dir())
    (first / "broken.jpg").write_bytes(b"no image")
    (tmp_path / "cut.beton").write_bytes(train.read_bytes()[:100_000])
    (tmp_path / "labels.csv").write_text(f"{first.name}/broken.jpg,zebra\n")
    (tmp_path / "classes.txt").write_text("ape\nbee\n")
    (tmp_path / "notes.txt").write_text("no source")
    table = tmp_path / "table.parquet"
    select = ("select", scores, table, "--metric", "el2n")
    listed = ("--labels", tmp_path / "labels.csv", "--classes", tmp_path / "classes.txt")
    cases: list[tuple[tuple[object, ...], str]] = [
        (("convert", tmp_path / "none", out), "found nothing there; check the path"),
        (("convert", tmp_path / "notes.txt", out), "found a file of another kind"),
        (("convert", tmp_path / "empty", out), "found no sub-folders"),
        (("convert", tmp_path / "images", out), "broken.jpg: expected a readable image"),
        (("convert", tmp_path / "images", out, *listed), "found the unknown class 'zebra'"),
        (("convert", "digits", tmp_path / "no" / "out.beton"), "run: mkdir -p"),
        (("convert", "digits", train), "pass --overwrite to replace it"),
        (("convert", "digits", out, "--quality", 0), "expected 1 to 100, found 0"),
        (("convert", "digits", out, "--page-size", 1000), "expected a power of two"),
        (("convert", "digits", out, "--jpeg-share", 2), "expected 0 to 1, found 2"),
        (("convert", "digits", out, "--mode", "raw", "--jpeg-share", 0.5), "expected --mode auto"),
        (("convert", "digits", out, "--max-pixels", 10), "8 × 8 pixels, more than the limit of 10"),
        (("convert", train, train, "--overwrite"), "found the source itself"),
        (("cut", train, out, "--selection", scores), "a score table?"),
        (("score", train, scores, "--metrics", "el2n", "--append"), "found el2n; leave them out"),
        (("merge", out, train), "expected two or more bundles"),
        (("merge", out, train, train), "pass --renumber"),
        (("merge", out, train, sample_bundle), "found another class list"),
        (("shard", train, tmp_path / "shards", "-n", 0), "expected 1 to 1,347 shards"),
        (("cut", scores, out, "--side", "random", "--keep", 0.5), "found a Parquet file;"),
        (("inspect", tmp_path / "none.beton"), "found no file"),
        (("verify", tmp_path / "none.beton"), "found no file"),
        (("cut", tmp_path / "cut.beton", out, "--side", "random", "--keep", 0.5), "truncated"),
        (("cut", sample_bundle, out, "--scores", scores, "--metric", "el2n", "--keep", 0.5),
         "found scores of another bundle"),
        (("cut", train, out), "expected exactly one of them, found none"),
        (("cut", train, out, "--keep", 0.5, "--metric", "el2n"), "found neither"),
        (("cut", train, out, "--selection", scores, "--side", "hard"), "found --side; leave it"),
        (("convert", "digits", out, "--mode", "raw", "--quality", 90), "a mode that encodes"),
        (("convert", "digits:valid", out), "expected digits or digits:train or digits:test"),
        (("convert", tmp_path / "images", out, "--labels", tmp_path / "none"), "found no file"),
        (("shard", train, tmp_path / "shards", "-n", 2, "--order", "ids"), "'shuffled'"),
        (("demo", "--seeds", 0), "greater than or equal to 1"),
        (("bench", "kernels", "--repetitions", 0), "greater than or equal to 1"),
        (("bench", "kernels", "--only", "kmean"), "nearest_prototype, kmeans, found kmean"),
        (("bench", "kernels", train), "expected nothing for kernels"),
        (("bench", "bundles", "--only", "kmeans"), "expected nothing for bundles, found kmeans"),
        (("bench", "bundles", "--device", "cpu"), "expected nothing for bundles, found cpu"),
        (("bench", "kernels", "--record", tmp_path / "no" / "x"), "make the folder first"),
        (("bench", "loaders", "--folder", tmp_path / "no"), "--folder: expected a folder that is"),
        (("bench", "kernels", "--folder", "."), "--folder: expected nothing for kernels"),
        (("bench", "bundles", "--side", 96), "--side: expected nothing for bundles, found 96"),
        (("bench", "loaders", "--only", "pil"), "PIL DataLoader, WebDataset, found pil"),
        (("bench", "scale", "--device", "cpu"), "expected nothing for scale, found cpu"),
        (("bench", "scale", "--compare", train), "expected a file of records"),
        (("bench", "scale", "--plot", tmp_path), "--plot: expected a file in a folder"),
        (("train", train, "--test", train, "--out", out, "--loader", "pil"), "'dali'"),
        ((*select, "--keep", 0), "expected 0 < keep ≤ 1, the share that is kept, found 0;"),
        ((*select, "--keep", 1.5), "expected 0 < keep ≤ 1, the share that is kept, found 1.5;"),
        ((*select, "--keep", 0.5, "--prune", 0.5), "expected one of them, found both"),
        ((*select, "--prune", 1), "expected 0 ≤ prune < 1"),
        (("select", scores, table, "--metric", "loss", "--keep", 0.5), "found loss"),
        (("select", scores, out, "--metric", "el2n", "--keep", 0.5), "name it out.parquet"),
        (("select", scores, table, "--metric", "el2n", "--side", "random", "--keep", 0.5),
         "expected none with --side random"),
        (("score", train, table, "--metrics", "el3n"), "found el3n"),
        (("score", train, table, "--device", "tpu"), "expected auto, cpu"),
        (("score", train, tmp_path / "scores.csv"), "name it scores.parquet"),
        (("embed", train, tmp_path / "rows"), "name it rows.npy"),
        (("train", train, "--test", train, "--out", out, "--recipe", "big"), "small or digits"),
        (("train", train, "--test", train, "--out", out, "--set", "epochs"), "name=value"),
        (("sweep", folder / "sweep.yaml", "--out", out, "--address", "auto"), "--executor ray"),
        (("score", folder / "train.beton", out, "--workers", 2), "--executor ray"),
        (("sweep", tmp_path / "none.yaml", "--out", out), "found no file"),
        (("metrics", "--encoder", "pixels"), "--encoder: expected a bundle, for which"),
        (("metrics", train, "--encoder", "pixel"), "pixel"),
        (("report", tmp_path / "empty"), "run first: tamis sweep"),
        (("report", report_folder, "--overwrite", "--bench", tmp_path / "none"), "of records"),
        (("report", folder, "--fiftyone", out, "--bench", train), "--bench: expected none with"),
        (("demo", "--out", tmp_path / "images"), "found something else"),
        (("select", scores, out, "--keep", "half"), "(see: tamis select --help)"),
        (("inspect", train, "--colour"), "No such option"),
        (("grind", train), "No such command"),
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in cases:
        assert message in refused(*arguments), arguments
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_no_command_is_the_help_and_no_empty_error() -> None:
    for command in ((), ("theory",)):
        done = tamis_process(*command)
        assert (done.returncode, done.stderr.strip()) == (2, "")
        assert "Usage: tamis" in done.stdout
        assert "..." not in done.stdout.partition("Commands:")[2]  # of no command is it cut off


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = tamis_process("inspect", tmp_path / "none.beton", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_damage_ends_verify_with_exit_code_1(folder: Path, tmp_path: Path) -> None:
    data = bytearray((folder / "train.beton").read_bytes())
    inspected = answer("inspect", folder / "train.beton", "--examples")
    assert inspected["examples"][1] == {"example_id": 1, "label": 1, "path": "digits/0001"}
    assert inspected["digest"].startswith("xxh3:")
    # The first record follows the header, two descriptors and the metadata rows.
    data[24 + 2 * 1041 + 24 * inspected["n_examples"] + 5] ^= 1
    (tmp_path / "damaged.beton").write_bytes(data)
    done = tamis("verify", tmp_path / "damaged.beton", "--json")
    assert done.returncode == 1
    (damage,) = json.loads(done.stdout)["damaged"]
    assert (damage["position"], damage["example_id"], damage["path"]) == (0, 0, "digits/0000")
    # A structure that is broken is damage too; nothing can be said of the examples then.
    (tmp_path / "damaged.beton").write_bytes(data[:100_000])
    done = tamis("verify", tmp_path / "damaged.beton", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["ok"], found["n_examples"], found["damaged"]) == (False, None, [])
    assert "truncated" in found["structure"]
    assert "truncated" in tamis("verify", tmp_path / "damaged.beton").stdout


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    # A limit on the size of files fails as a full disk does: in the middle of writing.
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        " from tamis.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "convert", "digits", str(tmp_path / "out.beton")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "found File too large; check permissions and free space" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_sweep_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(
        f"{{train: {folder}/train.beton, test: {folder}/test.beton,"
        f" scores: {folder}/scores.parquet, metrics: [random], keep: [0.5], seeds: 8,"
        " recipe: digits, set: {epochs: 1, width: 8}}"
    )
    command = process_command("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    records = tmp_path / "out" / "records.jsonl"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (records.exists() and records.read_text().count("\n")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    if process.returncode:
        assert process.returncode == 130
        assert "interrupted" in errors.splitlines()[-1]
    n_before = records.read_text().count("\n")
    found = answer("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert (found["n_trials"], found["n_done"]) == (8, 8)
    lines = records.read_text().splitlines()
    assert 1 <= n_before <= len(lines) == 8
    assert sorted(json.loads(line)["trial"]["seed"] for line in lines) == list(range(8))


def test_damaged_images_are_named_and_left_out_when_asked_for(tmp_path: Path) -> None:
    tamis("convert", "digits:test", tmp_path / "x.beton")
    bundle = open_bundle(tmp_path / "x.beton")
    data = bytearray((tmp_path / "x.beton").read_bytes())
    damaged = bundle.example_ids[[3, 77]].tolist()
    for position in (3, 77):
        data[int(bundle.extents[position, 0, 0])] ^= 1
    broken, scores = tmp_path / "broken.beton", tmp_path / "scores.parquet"
    broken.write_bytes(data)
    short = ("--recipe", "digits", "--set", "epochs=1")
    commands = {
        "score": ("score", broken, scores, "--metrics", "el2n,prototypes", "--encoder", "pixels"),
        "train": ("train", broken, "--test", tmp_path / "x.beton", "--out", tmp_path / "run"),
    }
    for loader in ("memory", "ffcv"):
        for name, command in commands.items():
            options = (*short, "--loader", loader, *(("--models", 1) if name == "score" else ()))
            stopped = tamis(*command, *options, "--overwrite")
            assert stopped.returncode == 2
            # Whichever a shuffled epoch met first.
            assert any(f"in example {one} (" in stopped.stderr for one in damaged)
            assert stopped.stderr.count("\n") == 1
            done = answer(*command, *options, "--on-error", "skip", "--overwrite")
            assert sorted(one["example_id"] for one in done["skipped"]) == damaged
            assert done["n_examples"] == bundle.n_examples - 2
        kept = read_score_table(scores)
        assert not set(damaged) & set(kept.example_ids.tolist())
        assert np.isfinite(kept.columns["prototypes"].values).all()
    shown = tamis(*commands["train"], *short, "--on-error", "skip", "--overwrite")
    assert f"skipped  example {damaged[1]} (" in shown.stdout
    one = (*short, "--models", 1, "--metrics", "loss", "--loader", "ffcv", "--append")
    whole = tamis("score", broken, scores, *one)
    assert "both to hold the same examples in the same order" in whole.stderr
    answer("score", broken, scores, *one, "--on-error", "skip")
    assert list(read_score_table(scores).columns) == ["el2n", "prototypes", "loss"]
    pruned, rows = tmp_path / "pruned.beton", tmp_path / "rows.npy"
    chosen = ("--scores", scores, "--metric", "loss", "--overwrite")
    done = answer("cut", broken, pruned, *chosen, "--keep", 1)
    assert done["n_examples"] == bundle.n_examples - 2
    assert not set(damaged) & set(open_bundle(pruned).example_ids.tolist())
    answer("embed", broken, rows, "--encoder", "pixels", "--on-error", "skip")
    d2 = ("--side", "d2", "--embeddings", rows, "--keep", 0.5)
    assert answer("cut", broken, pruned, *chosen, *d2)["n_examples"] == bundle.n_examples // 2 - 1
    assert not set(damaged) & set(open_bundle(pruned).example_ids.tolist())
    spec = {"train": str(broken), "test": str(broken), "scores": str(scores), "metrics": ["loss"]}
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec | {"keep": [0.5], "recipe": "digits"}))
    stopped = tamis("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "out")
    assert "found 2 that were left out; cut them out first" in stopped.stderr


def test_train_learns_from_a_teacher_prunes_as_it_goes_and_goes_on_from_a_run(
    tmp_path: Path,
) -> None:
    for part in ("train", "test"):
        tamis("convert", f"digits:{part}", tmp_path / f"{part}.beton")
    command = (
        "train", tmp_path / "train.beton", "--test", tmp_path / "test.beton", "--recipe", "digits",
        "--set", "epochs=2", "--set", "width=8",
    )  # fmt: skip
    first = answer(*command, "--out", tmp_path / "first")
    more = (
        "--teacher",
        tmp_path / "first",
        "--temperature",
        2,
        "--dynamic",
        0.5,
        "--accumulate",
        2,
    )
    taught = answer(*command, "--out", tmp_path / "taught", *more)
    assert (taught["teacher"]["weight"], taught["teacher"]["temperature"]) == (0.5, 2)
    assert taught["teacher"]["weights"].startswith("xxh3:")
    assert taught["steps"] < first["steps"]
    tuned = answer(*command, "--out", tmp_path / "tuned", "--start", tmp_path / "first")
    assert tuned["started_from"] == taught["teacher"]["weights"]
    assert tuned["epoch_losses"][0] < first["epoch_losses"][0] / 2
    again = answer(*command, "--out", tmp_path / "first", "--resume")
    assert again == first
    assert "commit" in first["environment"]
    for options, message in (
        (("--temperature", 3), "--temperature: expected a teacher with it"),
        (("--dynamic", 1), "--dynamic: expected 0 ≤ ratio < 1"),
        (("--objective", "selfsup", "--resume"), "expected options of --objective selfsup"),
    ):
        assert message in refused(*command, "--out", tmp_path / "no", *options)
        assert not (tmp_path / "no").exists()


def test_scaling_laws_are_fitted_drawn_and_planned_with(tmp_path: Path) -> None:
    runs = tmp_path / "runs.csv"
    lines = ["n_kept,metric,side,keep,seed,error,seconds,steps"]
    for keep, level in ((1, 0.2), (0.5, 0.16)):
        for stock in (1000, 2000, 4000, 8000, 16_000):
            for seed in range(3):
                error = level * (stock * keep / 1000) ** -0.5 * (1 + 0.01 * (seed - 1))
                n = round(stock * keep)
                lines.append(f"{n},el2n,hard,{keep},{seed},{error},{n / 100},{n // 10}")
    runs.write_text("\n".join(lines) + "\n")
    plot, table = tmp_path / "scaling.png", tmp_path / "laws.csv"
    found = answer("fit", runs, "--plot", plot, "--out", table, "--resamples", 100)
    assert [(c["metric"], c["keep"], c["law"]) for c in found["curves"]] == [
        ("el2n", 0.5, "power"),
        ("full", 1.0, "power"),
    ]
    nu = found["curves"][0]["laws"][0]["parameters"]["nu"]
    assert (nu["low"], nu["high"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert {one["name"]: one["verdict"]["answer"] for one in found["envelopes"]} == {
        "all": "no",
        "el2n, hard": "no",
    }
    assert (found["plot"], found["csv"]) == (str(plot), str(table))
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert table.read_text().startswith("recipe,budget,metric,side,keep,n_sizes,n_seeds")
    shown = tamis("fit", runs, "--resamples", 100).stdout
    assert "el2n, hard: no, nothing better than a power law is seen." in shown
    plan = answer("plan", runs, "--target-accuracy", 0.935, "--resamples", 100)
    # 0.2 × 16^−½ = 0.05 with all, 0.16 × 8^−½ = 0.0566 with half of them.
    assert (plan["chosen"]["keep"], plan["reached"]) == (0.5, 1)
    assert plan["chosen"]["error"]["value"] == pytest.approx(0.16 / 8**0.5, rel=1e-3)
    assert "keep the hardest 50 % by el2n" in tamis("plan", runs, "--target-accuracy", 0.935).stdout
    for command, says in (
        (("fit", tmp_path / "none"), "found no such folder; run first: tamis sweep"),
        (("fit", runs, "--metric", "loss"), "--metric: expected el2n, found loss"),
        (("fit", runs, "--plot", tmp_path / "a.bmp"), "--plot: expected a name that ends in .png"),
        (("plan", runs, "--budget-steps", 5, "--budget-seconds", 5), "expected nothing with"),
    ):
        assert says in refused(*command)
