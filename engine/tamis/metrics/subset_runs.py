"""Trainings on random subsets, for what an example does to networks that saw it or did not."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tamis.arrays import to_numpy
from tamis.errors import UsageError
from tamis.hashing import derived_seed, example_hash
from tamis.inference import infer
from tamis.metrics.context import Context
from tamis.metrics.evidence import SubsetRuns
from tamis.metrics.label_errors import class_thresholds, confident_elsewhere, label_doubt
from tamis.metrics.store import Arrays
from tamis.models.network import Network
from tamis.models.weights import weights_digest
from tamis.training.loop import Seeds
from tamis_kernels import row_scores

__all__ = ["BLOCK", "SubsetTrainings", "subset_mask"]

BLOCK = 10  # networks; within each block every example is in equally many subsets
_ANSWERS = 2  # which answers are kept: networks that gave others are asked anew


def subset_mask(
    example_ids: NDArray[np.int64], share: float, seed: int, number: int
) -> NDArray[np.bool_]:
    """Which examples a network is trained on.

    Of each ten networks in a row, an example is in exactly ``10 · share`` subsets, chosen at random
    for each example. Feldman & Zhang draw each subset alone, which leaves some examples in all
    subsets, or in none, where there are few; for a single network the two are alike but for the
    subset's size, which here varies by about √n.

    Args:
        example_ids: (n,) int64.
        share: A multiple of 0.1 between 0.1 and 0.9.
        seed: The campaign's.
        number: Of the network, from 0.

    Returns:
        (n,) bool. O(n).
    """
    block, place = divmod(number, BLOCK)
    keys = [example_hash(example_ids, seed, "subset", block, k) for k in range(BLOCK)]
    rank = np.zeros(len(example_ids), np.int8)
    for other in range(BLOCK):
        before = keys[other] < keys[place]
        if other < place:
            before |= keys[other] == keys[place]
        rank += before
    return rank < round(BLOCK * share)


class SubsetTrainings:
    """Networks trained on random subsets, by the recipe and for its epochs.

    Args:
        context: The campaign's.
        test: Whether the networks are asked about the test set.
    """

    def __init__(self, context: Context, *, test: bool) -> None:
        self._context, self._test = context, test
        self.numbers = range(context.settings.subset_models)

    @property
    def bytes_of_a_run(self) -> int:
        """On disk, without the network and its answers on the test set."""
        n = self._context.n_examples
        return 2 * (n // 8) + round(6 * n * (1 - self._context.settings.subset_share))

    def check(self) -> None:
        """Refuse sets so small that a subset is all of them, or none.

        Raises:
            UsageError: It is.
        """
        sizes = [int(self._mask(number).sum()) for number in self.numbers]
        n = self._context.n_examples
        if min(sizes) == 0 or max(sizes) == n:
            raise UsageError(
                "--subset-share",
                expected="subsets that keep some examples and leave some out",
                found=f"{min(sizes)} to {max(sizes)} of {n} examples",
                do="use a larger set, or leave out the metrics of subsets",
            )

    def missing(self) -> list[int]:
        """Numbers of the networks that have to be trained."""
        return [number for number in self.numbers if not self._is_there(number)]

    def run(self) -> None:
        """Train what is missing, and ask kept networks what they have not been asked."""
        missing = self.missing()
        for i, number in enumerate(missing):
            self.train(number, label=f"score: subset network {i + 1} of {len(missing)}")
        for number in self.numbers:
            if not self._context.store.holds(self._answers_name(number)):
                name = self._name(number)
                self._answer(number, self._context.store.load_model(name, self._context.device))
            if self._test:
                self._ask_about_test(number)

    def evidence(self) -> SubsetRuns:
        """What all networks say. m · (n + n_test) / 8 bytes each for three and one of them."""
        n = self._context.n_examples
        masks, correct, flags, tests = [], [], [], []
        doubt, p_label, held_out = np.zeros(n), np.zeros(n), np.zeros(n, np.int64)
        for number in self.numbers:
            kept = self._load(self._answers_name(number))
            mask = self._mask(number)
            masks.append(np.packbits(mask))
            correct.append(kept["correct"])
            flags.append(kept["flags"])
            doubt[~mask] += kept["doubt"]
            p_label[~mask] += kept["p_label"]
            held_out += ~mask
            if self._test:
                tests.append(self._load(self._test_name(number))["correct"])
        test = self._context.test
        return SubsetRuns(
            masks,
            correct,
            flags,
            tests if self._test else None,
            doubt / held_out,
            p_label / held_out,
            n,
            test.n_examples if test is not None else 0,
        )

    def provenance(self) -> dict[str, Any]:
        """What the scores depend on."""
        settings = self._context.settings
        test = self._context.test
        return {
            "models": len(self.numbers),
            "subset_share": settings.subset_share,
            "seed": settings.seed,
            "machine": self._context.machine(),
            "recipe": settings.recipe.name,
            "recipe_digest": settings.recipe.digest,
            "epochs": settings.recipe.epochs,
            "networks": [
                str(self._load(self._name(number), "network")["network"]) for number in self.numbers
            ],
            "test": test.digest if self._test and test is not None else None,
        }

    def train(self, number: int, *, label: str = "score") -> None:
        """Train one, from 0, and keep what it says."""
        context = self._context
        seeds = Seeds.from_one(derived_seed(context.settings.seed, "subset", number))
        trained = context.train(seeds, context.ids[self._mask(number)], label=label)
        name = self._name(number)
        self._context.store.save_model(name, trained.model)
        self._context.store.save(name, {"network": np.array(weights_digest(trained.model))})
        self._answer(number, trained.model)

    def _answer(self, number: int, model: Network) -> None:
        """Two passes over the held-out examples, because thresholds come from all of them."""
        context, mask = self._context, self._mask(number)
        n_classes = context.bundle.n_classes
        correct, p_label = [], []
        for outputs in infer(model, context.evaluation(), context.device):
            scores = row_scores(outputs.logits, outputs.labels)
            correct.append(to_numpy(scores.correct))
            p_label.append(scores.p_label)
        held_out = torch.from_numpy(~mask)
        labels = torch.from_numpy(np.asarray(context.labels, np.int64))
        p_held_out = torch.cat(p_label).cpu()[held_out]
        thresholds = class_thresholds(p_held_out, labels[held_out], n_classes).to(context.device)
        flags, doubt = np.zeros(context.n_examples, np.bool_), []
        flagged = []
        for outputs in infer(model, context.evaluation(context.ids[~mask]), context.device):
            p = torch.softmax(outputs.logits, dim=1)
            flagged.append(to_numpy(confident_elsewhere(p, outputs.labels, thresholds)))
            doubt.append(to_numpy(label_doubt(p, outputs.labels, thresholds)))
        flags[~mask] = np.concatenate(flagged)
        answers: Arrays = {
            "correct": np.packbits(np.concatenate(correct)),
            "flags": np.packbits(flags),
            "doubt": np.concatenate(doubt).astype(np.float16),
            # In 16 bits all that are nearly certain would be alike.
            "p_label": p_held_out.numpy(),
        }
        context.store.save(self._answers_name(number), answers)

    def _ask_about_test(self, number: int) -> None:
        context, name = self._context, self._test_name(number)
        if context.store.holds(name):
            return
        model = context.store.load_model(self._name(number), context.device)
        correct = [
            to_numpy(row_scores(outputs.logits, outputs.labels).correct)
            for outputs in infer(model, context.testing(), context.device)
        ]
        context.store.save(name, {"correct": np.packbits(np.concatenate(correct))})

    def _is_there(self, number: int) -> bool:
        return self._context.store.holds(self._name(number))

    def _load(self, name: str, *only: str) -> Arrays:
        kept = self._context.store.load(name, *only)
        assert kept is not None  # after run()
        return kept

    def _mask(self, number: int) -> NDArray[np.bool_]:
        settings = self._context.settings
        return subset_mask(self._context.ids, settings.subset_share, settings.seed, number)

    def _name(self, number: int) -> str:
        settings = self._context.settings
        about = self._context.about()
        return self._context.store.name(
            "subset", number, **about, share=round(settings.subset_share, 1), seed=settings.seed
        )

    def _answers_name(self, number: int) -> str:
        name = self._name(number)
        return self._context.store.name("answers", number, of=name, version=_ANSWERS)

    def _test_name(self, number: int) -> str:
        test = self._context.test
        assert test is not None  # checked by the campaign
        return self._context.store.name("test", number, of=self._name(number), test=test.digest)
