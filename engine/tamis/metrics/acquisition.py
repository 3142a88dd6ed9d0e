"""Ensemble active learning: a subset that grows by what an ensemble is unsure of.

Chitta et al. 2022 (arXiv:1905.12737): the members of the ensemble are checkpoints of one training,
so that a round costs no more than that.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.arrays import to_numpy
from tamis.hashing import derived_seed, example_hash
from tamis.inference import infer
from tamis.metrics.context import Context
from tamis.metrics.metric import FromRounds, Metric
from tamis.metrics.store import Arrays
from tamis.models.network import Network
from tamis.training.loop import Seeds
from tamis_kernels import row_scores, select_top

__all__ = ["METRICS", "SHARES", "Acquisition", "variation_ratio"]

SHARES = (0.4, 0.6, 0.8)
"""Share of the set in the subset at the start and after each round."""

_MEMBERS = 8  # checkpoints at most: the last ones


def variation_ratio(votes: NDArray[np.integer]) -> NDArray[np.float64]:
    """1 − share of the most frequent vote (Freeman 1965; Beluch et al. 2018).

    Args:
        votes: (members, n) classes.

    Returns:
        (n,) float64 from 0 to 1 − 1 / members. O(members² · n).
    """
    most = np.zeros(votes.shape[1], np.int64)
    for member in votes:
        np.maximum(most, (votes == member).sum(axis=0), out=most)
    return 1 - most / len(votes)


class Acquisition:
    """Rounds of training on the subset and of acquiring from the rest.

    It starts from a random 40 %. Each round trains one network on the subset; the checkpoints after
    its last epochs (the last eight, or half of them where there are fewer) vote on every example
    of the rest; those with the largest variation ratio, ties by the members' mean entropy, join.

    Args:
        context: The campaign's.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.rounds = range(len(SHARES) - 1)

    def missing(self) -> list[int]:
        """Rounds that have to be run; a round needs those before it."""
        first = next((r for r in self.rounds if not self._is_there(r)), len(self.rounds))
        return list(self.rounds[first:])

    def run(self) -> None:
        """Run the missing rounds."""
        for number in self.missing():
            self._round(number)

    def scores(self) -> NDArray[np.float64]:
        """(n,) 1 for the final subset, which the paper keeps; else the last unsureness, below 1."""
        last = self._context.store.load(self._name(self.rounds[-1]))
        assert last is not None  # after run()
        chosen = np.unpackbits(last["chosen"], count=self._context.n_examples).astype(np.bool_)
        unsure = np.zeros(self._context.n_examples)
        unsure[~self._subset(self.rounds[-1])] = last["unsure"]
        return np.where(chosen, 1.0, unsure)

    def provenance(self) -> dict[str, Any]:
        """What the scores depend on."""
        settings = self._context.settings
        return {
            "rounds": len(self.rounds),
            "shares": list(SHARES),
            "members": self.n_members,
            "seed": settings.seed,
            "machine": self._context.machine(),
            "recipe": settings.recipe.name,
            "recipe_digest": settings.recipe.digest,
            "epochs": settings.recipe.epochs,
        }

    @property
    def n_members(self) -> int:
        """Checkpoints that vote."""
        return min(_MEMBERS, (self._context.settings.recipe.epochs + 1) // 2)

    def _subset(self, number: int) -> NDArray[np.bool_]:
        """What round ``number`` trains on."""
        context = self._context
        if number:
            before = context.store.load(self._name(number - 1), "chosen")
            assert before is not None  # rounds run in turn
            return np.unpackbits(before["chosen"], count=context.n_examples).astype(np.bool_)
        keys = example_hash(context.ids, context.settings.seed, "acquisition")
        start = np.zeros(context.n_examples, np.bool_)
        start[np.argsort(keys, kind="stable")[: self._size(0)]] = True
        return start

    def _size(self, step: int) -> int:
        return max(1, round(SHARES[step] * self._context.n_examples))

    def _round(self, number: int) -> None:
        context, recipe = self._context, self._context.settings.recipe
        subset = self._subset(number)
        seeds = Seeds.from_one(derived_seed(context.settings.seed, "acquisition", number))
        n = int(subset.sum())
        rest = context.ids[~subset]
        ensemble = _Checkpoints(context, rest, recipe.epochs - self.n_members)
        context.train(
            seeds,
            context.ids[subset],
            observer=ensemble,
            label=f"score: acquisition round {number + 1} of {len(self.rounds)}",
        )
        unsure = ensemble.unsureness()
        acquired = select_top(
            unsure.astype(np.float32), rest, self._size(number + 1) - n, seed=context.settings.seed
        )
        chosen = subset.copy()
        chosen[np.flatnonzero(~subset)[acquired]] = True
        arrays: Arrays = {"chosen": np.packbits(chosen), "unsure": unsure.astype(np.float32)}
        context.store.save(self._name(number), arrays)

    def _is_there(self, number: int) -> bool:
        return self._context.store.holds(self._name(number))

    def _name(self, number: int) -> str:
        about = self._context.about() | {"seed": self._context.settings.seed}
        about["members"], about["shares"] = self.n_members, list(SHARES)
        return self._context.store.name("acquisition", number, **about)


class _Checkpoints:
    """Votes of the network after each of its last epochs; 2 bytes a member and example."""

    def __init__(self, context: Context, ids: NDArray[np.int64], first_epoch: int) -> None:
        self._context, self._ids, self._first = context, ids, first_epoch
        self._votes: list[NDArray[Any]] = []
        self._entropy = np.zeros(len(ids))

    def on_batch(
        self, epoch: int, example_ids: NDArray[np.int64], labels: Tensor, logits: Tensor
    ) -> None:
        """Nothing: members vote after epochs."""

    def on_epoch_end(self, epoch: int, model: Network) -> None:
        if epoch < self._first:
            return
        n_classes = self._context.bundle.n_classes
        votes = np.empty(len(self._ids), np.int16 if n_classes < 2**15 else np.int32)
        done = 0
        loader = self._context.evaluation(self._ids)
        for outputs in infer(model, loader, self._context.device):
            part = slice(done, done + len(outputs.labels))
            votes[part] = to_numpy(outputs.logits.argmax(dim=1))
            # Labels change nothing in an entropy; the rest of the set has none to offer.
            scores = row_scores(outputs.logits, torch.zeros_like(outputs.labels))
            self._entropy[part] += to_numpy(scores.entropy)
            done = part.stop
        self._votes.append(votes)

    def unsureness(self) -> NDArray[np.float64]:
        """(n,) from 0 to below 1: variation ratio, and between equals the mean entropy."""
        members = len(self._votes)
        most = np.log(self._context.bundle.n_classes)
        entropy = np.clip(self._entropy / members / most, 0, 1)
        # Ratios are multiples of 1 / members, so that less than that never reorders them.
        ratio = variation_ratio(np.stack(self._votes))
        return np.asarray(ratio + 0.99 * entropy / members)


METRICS = (
    Metric(
        "active-learning",
        "acquired by an ensemble that was unsure of it, or drawn at the start",
        labels=False,
        reading=FromRounds(),
        source="1 in the subset of 80 % that grows by an ensemble's variation ratios, below 1 by"
        " the last round's; Chitta et al. 2022, arXiv:1905.12737; labels only train the networks",
    ),
)
