"""DALI pipelines for encoded records and for pixels; the one door to DALI."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from tamis.errors import UsageError

__all__ = ["DaliPipeline", "Inputs"]

Inputs = tuple[list[NDArray[np.uint8]], list[NDArray[np.int32]], list[NDArray[np.int32]], Any]
"""Of a batch: records, tops and lefts, heights and widths, flips."""


class DaliPipeline:
    """Decodes boxes of images, resizes and mirrors them.

    Args:
        kind: ``jpeg`` takes encoded records, ``raw`` arrays of pixels.
        inputs: Batches, taken some ahead of their results; at its end the pipeline ends.
        batch_size: The most images of a batch.
        side: Of the results in pixels.
        device: Where results are: a GPU decodes there, with its JPEG engine where it has one.
        threads: Of the CPU's part.

    Raises:
        UsageError: DALI is not installed.
    """

    def __init__(
        self,
        kind: Literal["jpeg", "raw"],
        inputs: Iterator[Inputs],
        *,
        batch_size: int,
        side: int,
        device: torch.device,
        threads: int,
    ) -> None:
        try:
            from nvidia.dali import Pipeline, fn, types
        except ImportError as error:
            raise UsageError(
                "--loader dali",
                expected="NVIDIA's DALI",
                found="no module nvidia.dali",
                do="install it (pip install nvidia-dali-cuda130), or use --loader ffcv",
            ) from error
        self._device = device
        on_gpu = device.type == "cuda"
        index = device.index
        if on_gpu and index is None:
            index = torch.cuda.current_device()
        self._pipeline = Pipeline(
            batch_size=batch_size, num_threads=threads, device_id=index, prefetch_queue_depth=2
        )
        with self._pipeline, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # DALI's own, of its imports
            # The records are views into the bundle's map, which outlives the pipeline.
            records, starts, shapes, flips = fn.external_source(
                source=inputs,
                num_outputs=4,
                no_copy=True,
                dtype=[types.UINT8, types.INT32, types.INT32, types.INT32],
                ndim=[1 if kind == "jpeg" else 3, 1, 1, 0],
            )
            if kind == "jpeg":
                images = fn.decoders.image_slice(
                    records,
                    starts,
                    shapes,
                    axes=[0, 1],
                    device="mixed" if on_gpu else "cpu",
                    output_type=types.RGB,
                    adjust_orientation=False,  # as all others: what EXIF says is ignored
                )
            else:
                images = fn.slice(records.gpu() if on_gpu else records, starts, shapes, axes=[0, 1])
            images = fn.resize(
                images, size=[side, side], interp_type=types.INTERP_LINEAR, antialias=True
            )
            self._pipeline.set_outputs(fn.flip(images, horizontal=flips))
        self._pipeline.build()

    def next(self) -> Tensor:
        """The next batch's images, (b, side, side, 3) uint8, on the device; the caller's own.

        Raises:
            RuntimeError: DALI could not decode one of them; the pipeline is of no more use.
        """
        if self._device.type == "cuda":
            # Bound to the stream that copies them: DALI uses the memory again only after that.
            (images,) = self._pipeline.run(torch.cuda.current_stream(self._device))
            return from_dlpack(images.as_tensor()).clone()
        (images,) = self._pipeline.run()
        return torch.from_numpy(np.array(images.as_array(), np.uint8))
