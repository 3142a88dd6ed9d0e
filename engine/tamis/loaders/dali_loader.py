"""Streams a bundle through DALI, which decodes on the GPU where there is one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tamis.bundles.bundle import Bundle
from tamis.bundles.digest import span_checksums
from tamis.bundles.layout import RAW_MODE
from tamis.bundles.spans import Span
from tamis.devices import n_cores
from tamis.errors import ImageError, UsageError, WorkFailedError, first_line
from tamis.jpeg_header import scan_jpeg
from tamis.loaders.base import StreamingLoader
from tamis.loaders.batch import Batch
from tamis.loaders.boxes import draw_flips, image_boxes
from tamis.loaders.dali_pipeline import DaliPipeline, Inputs
from tamis.loaders.decoding import Decoder, Failure
from tamis.loaders.records import OTHER_BYTES, RecordReader
from tamis.loaders.settings import LoaderSettings

__all__ = ["DALILoader"]

_ASK_AHEAD = 256  # examples that the system is asked for before they are decoded


class DALILoader(StreamingLoader):
    """The same batches as :class:`tamis.loaders.ffcv_loader.FFCVLoader`, decoded by DALI.

    Records go from the file's map to DALI without a copy, after their checksums are compared. The
    schedule, not DALI's reader, says what is in which batch: nothing is padded or dropped. Boxes
    and flips are the same as the other loaders'; DALI resizes with a triangle filter (Pillow's
    bilinear) where they take areas, and decodes other JPEGs' chroma a little differently.

    Of bundles without checksums, a JPEG's size is compared; DALI may decode what is left of one
    that is damaged further in.

    Args:
        bundle: An opened bundle.
        settings: Which batches.
        device: Where they go; a CPU decodes there.
        positions: (k,) int64, the examples of the bundle that are shown; None for all.
        workers: Threads of the CPU's part; None takes all cores.

    Raises:
        UsageError: DALI is not installed, or is asked to resize by areas.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: LoaderSettings,
        device: torch.device | str = "cpu",
        *,
        positions: NDArray[np.int64] | None = None,
        workers: int | None = None,
    ) -> None:
        if settings.resample != "antialias":
            raise UsageError(
                "--loader dali",
                expected="resample antialias, the only one that DALI knows",
                found=settings.resample,
                do="use --loader ffcv, or antialias",
            )
        super().__init__(bundle, settings, device, positions=positions)
        self._workers = workers or n_cores()
        rows = bundle.metadata[f"f{bundle.image_field}"]
        self._raw = rows["mode"] == RAW_MODE
        self._widths, self._heights = rows["width"], rows["height"]
        self._undecodable: dict[int, str] = {}  # position → why DALI did not decode it
        self._pipeline("jpeg", iter(()))  # refuses here what cannot be, not at the first batch

    def delivered(self, decoded: Generator[tuple[int, Batch]]) -> Generator[tuple[int, Batch]]:
        """They are on their device already."""
        return decoded

    def decoded(self, first: int, epoch: int) -> Generator[tuple[int, Batch]]:
        """See :class:`StreamingLoader`."""
        batches = self._schedule.batches(first)
        done = 0
        with closing(RecordReader(self.bundle)) as reader:
            while done < len(batches):
                part = _Checked(self.bundle, batches[done:], self._undecodable, reader)
                pipelines = self._pipelines(part, epoch)
                for i in range(len(part.batches)):
                    good, failures = part.of(i)
                    try:
                        images = self._images(good, pipelines)
                    except RuntimeError as error:  # DALI's, which does not say whose record it was
                        self._find_undecodable(part.batches[i], reader, error)
                        break
                    part.forget(i)
                    batch = self._made(part.batches[i], good, failures, images)
                    done += 1
                    if batch is not None:
                        yield first + done - 1, batch

    def _pipelines(self, part: _Checked, epoch: int) -> dict[bool, DaliPipeline]:
        """Of JPEGs and of pixels, as far as the bundle's examples need them."""
        raw = self._raw[np.concatenate(part.batches)]
        kinds: dict[bool, Literal["jpeg", "raw"]] = {False: "jpeg", True: "raw"}
        return {
            is_raw: self._pipeline(kind, self._inputs(part, is_raw, epoch))
            for is_raw, kind in kinds.items()
            if (raw == is_raw).any()
        }

    def _pipeline(self, kind: Literal["jpeg", "raw"], inputs: Iterator[Inputs]) -> DaliPipeline:
        return DaliPipeline(
            kind,
            inputs,
            batch_size=self.batch_size,
            side=self.settings.resolution,
            device=self.device,
            threads=self._workers,
        )

    def _inputs(self, part: _Checked, is_raw: bool, epoch: int) -> Iterator[Inputs]:
        """What one pipeline is given, batch by batch; it asks some batches ahead."""
        augmentation = self.settings.augmentation
        for i, batch in enumerate(part.batches):
            if not (self._raw[batch] == is_raw).any():
                continue  # without looking at what the other pipeline has not asked for
            good, _ = part.of(i)
            positions = good[self._raw[good] == is_raw]
            if not len(positions):
                continue
            ids = self.bundle.example_ids[positions]
            heights = self._heights[positions].astype(np.int64)
            widths = self._widths[positions].astype(np.int64)
            boxes = image_boxes(ids, heights, widths, self.settings, epoch).astype(np.int32)
            records = [self.bundle.image_record(position)[3] for position in positions.tolist()]
            if is_raw:
                sizes = zip(records, heights, widths, strict=True)
                records = [record.reshape(height, width, 3) for record, height, width in sizes]
            flips = draw_flips(ids, augmentation, epoch).astype(np.int32)
            yield records, list(boxes[:, :2]), list(boxes[:, 2:]), list(flips)

    def _images(self, good: NDArray[np.int64], pipelines: dict[bool, DaliPipeline]) -> Tensor:
        """Pixels of a batch, (b, side, side, 3) uint8 on the device."""
        raw = self._raw[good]
        if len(good) and raw.all() == raw.any():
            return pipelines[bool(raw[0])].next()
        side = self.settings.resolution
        images = torch.empty((len(good), side, side, 3), dtype=torch.uint8, device=self.device)
        for is_raw in (False, True) if len(good) else ():
            rows = torch.from_numpy(np.flatnonzero(raw == is_raw)).to(self.device)
            images[rows] = pipelines[is_raw].next()
        return images

    def _made(
        self,
        positions: NDArray[np.int64],
        good: NDArray[np.int64],
        failures: list[Failure],
        images: Tensor,
    ) -> Batch | None:
        if failures:
            self._skips.note(positions, failures)
        if not len(good):
            return None
        labels = torch.from_numpy(self.bundle.labels[good]).to(self.device)
        return Batch(images.permute(0, 3, 1, 2), labels, self.bundle.example_ids[good])

    def _find_undecodable(
        self, positions: NDArray[np.int64], reader: RecordReader, error: RuntimeError
    ) -> None:
        """Learn by our own decoder which record of a batch DALI stumbled over.

        Raises:
            WorkFailedError: None is damaged: DALI failed for another reason.
        """
        side = self.settings.resolution
        records, _ = reader.read(positions, np.empty(0, np.int8))
        whole = np.stack([0 * records.heights, 0 * records.widths, records.heights, records.widths])
        decoder = Decoder()
        failures: list[Failure] = []
        for proven in sorted({records.proven, False}, reverse=True):
            failures = failures or decoder.decode(
                replace(records, proven=proven),
                np.ascontiguousarray(whole.T),
                np.zeros(len(positions), np.bool_),
                np.empty((len(positions), side, side, 3), np.uint8),
            )
        decoder.close()
        found = {int(positions[failure.row]): failure.reason for failure in failures}
        if not found.keys() - self._undecodable.keys():
            raise WorkFailedError(
                self.bundle.path,
                expected="DALI to decode it",
                found=first_line(error),
                do="use --loader ffcv",
            ) from error
        self._undecodable |= found


class _Checked:
    """Batches whose records are compared with what the bundle says of them, when they are needed.

    Args:
        bundle: An opened bundle.
        batches: Positions in it.
        undecodable: Position → reason, of records that are known to be damaged.
        reader: Asks the system for records ahead.
    """

    def __init__(
        self,
        bundle: Bundle,
        batches: list[NDArray[np.int64]],
        undecodable: dict[int, str],
        reader: RecordReader,
    ) -> None:
        self.batches = batches
        self._bundle, self._undecodable, self._reader = bundle, undecodable, reader
        self._found: dict[int, tuple[NDArray[np.int64], list[Failure]]] = {}
        self._n_asked = 0

    def of(self, i: int) -> tuple[NDArray[np.int64], list[Failure]]:
        """Positions of a batch that are good, and the rows that are not."""
        if i not in self._found:
            positions = self.batches[i]
            ahead = i + 1 + -(-_ASK_AHEAD // max(1, len(positions)))
            while self._n_asked < min(len(self.batches), ahead):
                self._reader.ask_for(self.batches[self._n_asked])
                self._n_asked += 1
            failures = [
                Failure(row, self._undecodable[position])
                for row, position in enumerate(positions.tolist())
                if position in self._undecodable
            ]
            known = {failure.row for failure in failures}
            failures += [one for one in self._altered(positions) if one.row not in known]
            good = np.delete(positions, [failure.row for failure in failures])
            self._found[i] = good, failures
        return self._found[i]

    def forget(self, i: int) -> None:
        """A batch that is done."""
        del self._found[i]

    def _altered(self, positions: NDArray[np.int64]) -> list[Failure]:
        bundle = self._bundle
        if bundle.trailer is None:
            return self._of_other_size(positions)
        starts = bundle.extents[positions, :, 0]
        span = Span(positions, starts, starts + bundle.extents[positions, :, 1], bundle.data)
        wrong = np.flatnonzero(span_checksums(span) != bundle.trailer.checksums[positions])
        return [Failure(int(row), OTHER_BYTES) for row in wrong]

    def _of_other_size(self, positions: NDArray[np.int64]) -> list[Failure]:
        failures = []
        for row, position in enumerate(positions.tolist()):
            mode, width, height, record = self._bundle.image_record(position)
            if mode != RAW_MODE:
                try:
                    info = scan_jpeg(record)
                except ImageError as error:
                    failures.append(Failure(row, str(error)))
                    continue
                if (info.width, info.height) != (width, height):
                    reason = f"a JPEG of {info.width} × {info.height} pixels"
                    failures.append(Failure(row, reason))
        return failures
