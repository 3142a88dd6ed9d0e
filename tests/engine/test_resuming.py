"""Trainings that are interrupted and go on end where they would have ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tamis.bundles.bundle import Bundle
from tamis.bundles.cut import cut
from tamis.bundles.opening import open_bundle
from tamis.errors import InterruptedRunError, UsageError, WorkFailedError
from tamis.models.network import Network
from tamis.training.checkpoints import load_checkpoint
from tamis.training.interrupting import StopRequest
from tamis.training.loop import Extras, Trained
from tamis.training.recipes import RECIPES, Recipe
from tamis.training.run_folder import RunFolder, train_into
from tamis.training.runs import Keeping, RunOptions, train_on_bundle
from tamis.training.starting import network_from_run, teacher_from_run
from tamis.training.workers import Workers

CPU = torch.device("cpu")
PLAIN = replace(RECIPES["digits"], epochs=3, width=4)
FAST = replace(RECIPES["cifar-fast"], epochs=3, width=4, resolution=16, batch_size=50)


@pytest.fixture(scope="module")
def bundle(digits_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """210 digits: the last batch of an epoch is a small one."""
    path = tmp_path_factory.mktemp("resuming") / "part.beton"
    cut(open_bundle(digits_bundle), path, np.arange(210))
    return open_bundle(path)


class StopAfter(StopRequest):
    """Asks to stop after so many steps."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps
        self.name = "SIGTERM"

    def asked(self, workers: Workers) -> bool:
        self._left -= 1
        return self._left == 0


def weights(model: Network) -> NDArray[np.float32]:
    return np.concatenate([p.detach().numpy().ravel() for p in model.state_dict().values()])


def trained(bundle: Bundle, recipe: Recipe, options: RunOptions, loader: str) -> Trained:
    return train_on_bundle(bundle, bundle, recipe, options, loader=loader, device=CPU)[0]


@pytest.mark.parametrize(
    ("recipe", "how", "loader"),
    [
        (PLAIN, {}, "memory"),
        (PLAIN, {}, "ffcv"),
        (replace(PLAIN, ema=0.9, label_smoothing=0.1), {"dynamic": 0.5}, "memory"),
        (replace(PLAIN, flip=True, alternating_flip=True), {"dynamic": 0.3}, "ffcv"),
        (FAST, {}, "memory"),
        (
            replace(PLAIN, resolution=64, start_resolution=32, ramp_start=0.3, ramp_end=0.6,
                    random_crop=True),
            {},
            "ffcv",
        ),
    ],
    ids=["memory", "ffcv", "ema", "dynamic", "muon", "growing"],
)  # fmt: skip
def test_an_interrupted_run_ends_with_the_same_weights(
    bundle: Bundle, tmp_path: Path, recipe: Recipe, how: dict[str, Any], loader: str
) -> None:
    options = RunOptions(seed=3, **how)
    whole = trained(bundle, recipe, options, loader)
    # In an epoch's middle, after its last batch, in the one after.
    batches = -(-bundle.n_examples // recipe.batch_size)
    for stop_after in (2, batches, batches + 1):
        file = tmp_path / f"{stop_after}.pt"
        stopped = replace(options, keeping=Keeping(file), extras=Extras(stop=StopAfter(stop_after)))
        with pytest.raises(InterruptedRunError, match="go on with the same command and --resume"):
            trained(bundle, recipe, stopped, loader)
        again = trained(
            bundle, recipe, replace(options, keeping=Keeping(file, resume=True)), loader
        )
        assert np.array_equal(weights(again.model), weights(whole.model))
        assert again.epoch_losses == whole.epoch_losses
        assert (again.steps, again.examples_seen) == (whole.steps, whole.examples_seen)


def test_a_run_that_was_killed_goes_on_from_the_last_epoch_that_was_kept(
    bundle: Bundle, tmp_path: Path
) -> None:
    whole = trained(bundle, PLAIN, RunOptions(), "memory")

    class Killed:
        def on_batch(self, epoch: int, *_: object) -> None:
            if epoch == 2:
                raise KeyboardInterrupt  # as good as SIGKILL: nothing is written after it

        def on_epoch_end(self, epoch: int, model: Network) -> None:
            pass

    keeping = Keeping(tmp_path / "c.pt", every=0)
    with pytest.raises(KeyboardInterrupt):
        train_on_bundle(
            bundle, bundle, PLAIN, RunOptions(keeping=keeping), device=CPU, observer=Killed()
        )
    kept = torch.load(tmp_path / "c.pt", weights_only=True)
    assert (kept["state"]["epoch"], kept["state"]["in_epoch"]) == (2, 0)
    options = RunOptions(keeping=replace(keeping, resume=True))
    assert np.array_equal(
        weights(trained(bundle, PLAIN, options, "memory").model), weights(whole.model)
    )


class Seen:
    """The examples of a run, step by step."""

    def __init__(self) -> None:
        self.ids: list[int] = []

    def on_batch(self, epoch: int, example_ids: NDArray[np.int64], *_: object) -> None:
        self.ids += example_ids.tolist()

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        pass


def test_order_augmentation_and_initialisation_have_seeds_of_their_own(bundle: Bundle) -> None:
    recipe = replace(PLAIN, epochs=1, flip=True, translate=1)

    def run(learning_rate: float, **seeds: Any) -> tuple[list[int], bytes]:
        seen, options = Seen(), RunOptions(**seeds)
        done, record = train_on_bundle(
            bundle, bundle, replace(recipe, learning_rate=learning_rate), options,
            device=CPU, observer=seen,
        )  # fmt: skip
        assert record.seeds == options.seeds
        trained = torch.cat([weight.detach().flatten() for weight in done.model.parameters()])
        return seen.ids, trained.numpy().tobytes()

    rate = recipe.learning_rate
    order, learned = run(rate, seed=5)
    assert run(rate, seed=5, order_seed=5, augmentation_seed=5) == (order, learned)
    other_order, learned_so = run(rate, seed=5, order_seed=6)
    assert other_order != order
    assert learned_so != learned
    same_order, augmented_otherwise = run(rate, seed=5, augmentation_seed=6)
    assert same_order == order
    assert augmented_otherwise != learned
    same_order, begun_otherwise = run(rate, seed=6, order_seed=5, augmentation_seed=5)
    assert same_order == order
    assert begun_otherwise != learned
    # Steps too small to change a weight leave what was drawn first.
    initial, same, other = (
        np.frombuffer(run(1e-30, **seeds)[1], np.float32)
        for seeds in (
            {"seed": 5},
            {"seed": 5, "order_seed": 6, "augmentation_seed": 6},
            {"seed": 6, "order_seed": 5, "augmentation_seed": 5},
        )
    )
    assert np.allclose(initial, same, rtol=0, atol=1e-20)
    assert np.abs(initial - other).mean() > 0.01


def test_another_run_s_state_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    file = tmp_path / "c.pt"
    stopped = RunOptions(keeping=Keeping(file), extras=Extras(stop=StopAfter(1)))
    with pytest.raises(InterruptedRunError):
        trained(bundle, PLAIN, stopped, "memory")
    resumed = RunOptions(keeping=Keeping(file, resume=True))
    with pytest.raises(UsageError, match="found another one: seed 0, now 1; repeat its command"):
        trained(bundle, PLAIN, replace(resumed, seed=1), "memory")
    with pytest.raises(UsageError, match=r"seed 0, now 0 \(order 2, augmentation 0\); repeat"):
        trained(bundle, PLAIN, replace(resumed, order_seed=2), "memory")
    with pytest.raises(UsageError, match="found another one: recipe"):
        trained(bundle, replace(PLAIN, flip=True), resumed, "memory")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="expected a training that was interrupted, found a dam"):
        trained(bundle, PLAIN, resumed, "memory")


def test_a_loss_that_is_no_number_leaves_the_last_good_state(
    bundle: Bundle, tmp_path: Path
) -> None:
    class Poison:
        """After the first epoch a weight is no number any more."""

        def on_batch(self, *_: object) -> None:
            pass

        def on_epoch_end(self, epoch: int, model: Network) -> None:
            if epoch == 1:
                with torch.no_grad():
                    model.head.weight[0, 0] = torch.nan

    file = tmp_path / "c.pt"
    options = RunOptions(keeping=Keeping(file, every=0))
    message = r"found weights that are no numbers in epoch 2.*the state before is in .*c\.pt"
    with pytest.raises(WorkFailedError, match=message):
        train_on_bundle(bundle, bundle, PLAIN, options, device=CPU, observer=Poison())
    kept = torch.load(file, weights_only=True)["state"]
    assert kept["epoch"] == 1
    assert all(torch.isfinite(value).all() for value in kept["stepping"]["network"].values())


def test_a_stop_does_not_keep_what_is_no_number(bundle: Bundle, tmp_path: Path) -> None:
    class Poison:
        model: Network | None = None

        def on_batch(self, *_: object) -> None:
            if self.model is not None:
                with torch.no_grad():
                    self.model.head.weight[0, 0] = torch.nan

        def on_epoch_end(self, epoch: int, model: Network) -> None:
            self.model = model

    batches = -(-bundle.n_examples // PLAIN.batch_size)
    file = tmp_path / "c.pt"
    extras = Extras(stop=StopAfter(batches + 2))
    options = RunOptions(keeping=Keeping(file, every=0), extras=extras)
    with pytest.raises(WorkFailedError, match="expected a finite training loss"):
        train_on_bundle(bundle, bundle, PLAIN, options, device=CPU, observer=Poison())
    kept = torch.load(file, weights_only=True)["state"]
    assert (kept["epoch"], kept["in_epoch"]) == (1, 0)
    assert torch.isfinite(kept["stepping"]["network"]["head.weight"]).all()


def test_a_run_that_is_interrupted_while_it_is_tested_need_not_train_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    folder = RunFolder(tmp_path / "run", resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("tamis.training.runs.evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_into(folder, bundle, bundle, PLAIN, RunOptions(), device=CPU)
    kept = torch.load(folder.checkpoint, weights_only=True)["state"]
    record = train_into(folder, bundle, bundle, PLAIN, RunOptions(), device=CPU)
    assert kept["taken"] == record.steps
    whole = train_on_bundle(bundle, bundle, PLAIN, device=CPU)[1]
    assert (record.test_loss, record.epoch_losses) == (whole.test_loss, whole.epoch_losses)


def test_too_little_memory_names_what_to_try(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tamis.training.networks.Forward.forward", too_large)
    message = "a step of 64 images of 8 pixels, found too little memory; pass --accumulate 2,"
    with pytest.raises(WorkFailedError, match=message):
        trained(bundle, PLAIN, RunOptions(), "memory")


def test_parts_of_a_batch_give_the_step_of_the_whole(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the statistics of norms, which a network in evaluation mode does not take."""
    # bfloat16 would round sums of other lengths to numbers far apart.
    monkeypatch.setattr("tamis.devices._cpu_has_bf16", lambda: False)
    one_step = replace(PLAIN, epochs=1, batch_size=210)
    network = trained(bundle, PLAIN, RunOptions(), "memory").model

    class Frozen(type(network)):  # type: ignore[misc]
        def train(self, mode: bool = True) -> Network:
            return super().train(False)  # type: ignore[no-any-return]

    found = []
    for parts in (1, 3):
        model = Frozen(10, 4, 8)
        model.load_state_dict(network.state_dict())
        extras = Extras(start=model, accumulate=parts)
        found.append(weights(trained(bundle, one_step, RunOptions(extras=extras), "memory").model))
    moved = np.abs(found[0] - weights(network)).max()
    assert moved > 1e-3
    assert np.abs(found[1] - found[0]).max() < 1e-3 * moved


@pytest.mark.parametrize("was_there", [False, True])
def test_what_fails_before_it_has_anything_to_keep_leaves_no_folder(
    was_there: bool, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise UsageError("x", expected="a sound image", found="none", do="look")

    monkeypatch.setattr("tamis.training.run_folder.train_on_bundle", fails)
    path = tmp_path / "run"
    if was_there:
        path.mkdir()
    with pytest.raises(UsageError, match="a sound image"):
        train_into(RunFolder(path), bundle, bundle, PLAIN, RunOptions(), device=CPU)
    assert path.exists() == was_there


def test_a_folder_holds_the_run_its_curves_and_nothing_of_the_way(
    bundle: Bundle, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "run")
    record = train_into(folder, bundle, bundle, PLAIN, RunOptions(), device=CPU)
    names = sorted(path.name for path in folder.path.iterdir())
    assert names[1:] == ["model.pt", "record.json"]
    assert names[0].startswith("events.out.tfevents.")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder.path))
    curves.Reload()
    losses = [point.value for point in curves.Scalars("train/loss")]
    assert losses == pytest.approx(record.epoch_losses, rel=1e-6)
    assert curves.Scalars("test/accuracy")[0].value == pytest.approx(record.test_accuracy)

    again = train_into(
        replace(folder, resume=True), bundle, bundle, PLAIN, RunOptions(), device=CPU
    )
    assert json.dumps(asdict(again)) == json.dumps(asdict(record))
    with pytest.raises(UsageError, match="found another one: seed 0, now 1; name another folder"):
        train_into(
            replace(folder, resume=True), bundle, bundle, PLAIN, RunOptions(seed=1), device=CPU
        )
    kept = json.loads((folder.path / "record.json").read_text())
    older = {name: value for name, value in kept.items() if not name.endswith("_seed")}
    (folder.path / "record.json").write_text(json.dumps(older))
    train_into(replace(folder, resume=True), bundle, bundle, PLAIN, RunOptions(), device=CPU)
    with pytest.raises(UsageError, match=r"seed 0, now 0 \(order 0, augmentation 9\); name"):
        train_into(
            replace(folder, resume=True), bundle, bundle, PLAIN, RunOptions(augmentation_seed=9),
            device=CPU,
        )  # fmt: skip
    ids = bundle.example_ids[:100]
    with pytest.raises(UsageError, match=r"another one: examples \w+, now \w+; name another"):
        train_into(
            replace(folder, resume=True), bundle, bundle, PLAIN, RunOptions(), example_ids=ids,
            device=CPU,
        )  # fmt: skip
    with pytest.raises(UsageError, match="--resume, --overwrite: expected one of them"):
        replace(folder, resume=True, overwrite=True).check()
    with pytest.raises(UsageError, match="pass --overwrite to replace it"):
        train_into(folder, bundle, bundle, PLAIN, RunOptions(), device=CPU)


def test_sigterm_keeps_the_run_and_the_same_command_finishes_it(
    bundle: Bundle, tmp_path: Path
) -> None:
    recipe = (
        "--recipe",
        "digits",
        "--set",
        "epochs=60",
        "--set",
        "width=4",
        "--full-examples",
        210,
    )
    code = (
        "import tamis.cli.output as output; output._SECONDS_BETWEEN_LINES = 0;"
        "from tamis.cli import main; main()"
    )
    command = [
        sys.executable, "-c", code, "train", bundle.path, "--test", bundle.path, *recipe, "--json",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"

    def run(out: Path, *more: str) -> subprocess.Popen[str]:
        with log.open("w") as errors:
            return subprocess.Popen(
                [str(part) for part in (*command, "--out", out, *more)],
                stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            )  # fmt: skip

    out = tmp_path / "run"
    process = run(out, "--resume")
    while process.poll() is None and "train: " not in log.read_text():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    errors = log.read_text()
    assert process.returncode == 130, errors
    assert "found SIGTERM; go on with the same command and --resume" in errors
    assert (out / "checkpoint.pt").exists()
    assert not (out / "record.json").exists()
    run(out).communicate(timeout=60)
    assert "a run that was interrupted; pass --resume" in log.read_text()
    found = json.loads(run(out, "--resume").communicate(timeout=60)[0])
    whole = json.loads(run(tmp_path / "whole").communicate(timeout=60)[0])
    assert found["epoch_losses"] == whole["epoch_losses"]
    assert not (out / "checkpoint.pt").exists()
    one, other = (load_checkpoint(path, CPU).model for path in (out, tmp_path / "whole"))
    assert np.array_equal(weights(one), weights(other))


@pytest.fixture(scope="module")
def run_folder(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "run"
    train_into(RunFolder(path), bundle, bundle, PLAIN, RunOptions(), device=CPU)
    return path


def test_a_run_is_a_start_for_the_same_and_for_other_classes(run_folder: Path) -> None:
    kept = load_checkpoint(run_folder, CPU).model.state_dict()
    same = network_from_run(run_folder, PLAIN, 10, 0, CPU).state_dict()
    assert all(torch.equal(same[name], kept[name]) for name in kept)
    other = network_from_run(run_folder, PLAIN, 3, 0, CPU).state_dict()
    assert other["head.weight"].shape == (3, 16)
    assert all(
        torch.equal(other[name], kept[name]) for name in kept if not name.startswith("head.")
    )
    with pytest.raises(UsageError, match=r"--start: expected a run of the recipe's network"):
        network_from_run(run_folder, replace(PLAIN, width=8), 10, 0, CPU)


def test_a_teacher_has_to_know_the_task(run_folder: Path) -> None:
    teacher = teacher_from_run(run_folder, PLAIN, 10, CPU)
    assert not any(p.requires_grad for p in teacher.parameters())
    with pytest.raises(UsageError, match="expected a run on 4 classes, found one on 10"):
        teacher_from_run(run_folder, PLAIN, 4, CPU)
    with pytest.raises(UsageError, match="for images of 16 pixels, found one for 8"):
        teacher_from_run(run_folder, replace(PLAIN, resolution=16), 10, CPU)
