"""A tar of class tars, as ImageNet's ILSVRC2012_img_train.tar, read without unpacking.

Paths, labels and order are those of the folder that unpacking every inner tar into a folder of
its own name gives.
"""

from __future__ import annotations

import posixpath

from tamis.errors import SourceError
from tamis.sources.image_folder import EXTENSIONS
from tamis.sources.labels import class_index
from tamis.sources.packed import PackedImages, Packing
from tamis.sources.shared_file import SharedFile
from tamis.sources.tar import TarIndex, index_tar

__all__ = ["pack_class_tars"]


def pack_class_tars(
    file: SharedFile, index: TarIndex, classes: tuple[str, ...] | None
) -> PackedImages:
    """Find the images of every inner tar; reads one header per image.

    Args:
        file: The outer tar.
        index: Its members, all of them tars; the stem of each names its class.
        classes: The class list to use; None: the stems, sorted.

    Raises:
        SourceError: A damaged inner tar, two for one class, one without images, or an unknown
            class.
    """
    stems = [posixpath.basename(name).removesuffix(".tar") for name in index.names]
    order = sorted(range(len(stems)), key=stems.__getitem__)
    found = tuple(stems[number] for number in order)
    if len(set(found)) < len(found):
        twice = next(stem for stem in found if found.count(stem) > 1)
        raise SourceError(
            file.path,
            expected="one inner tar per class",
            found=f"{twice}.tar twice",
            do="unpack it and give the folder of class folders",
        )
    known = classes or found
    packing = Packing()
    for number in order:
        name, stem = f"{file.path}: {index.names[number]}", stems[number]
        label = class_index(stem, known, name)
        start, size = int(index.offsets[number]), int(index.sizes[number])
        inner = index_tar(file, start=start, size=size, subject=name)
        images = [i for i, image in enumerate(inner.names) if image.lower().endswith(EXTENSIONS)]
        if not images:
            raise SourceError(
                name,
                expected="images (" + " ".join(EXTENSIONS) + ")",
                found="an empty class",
                do="pack the tar again without it",
            )
        for i in sorted(images, key=lambda i: posixpath.split(inner.names[i])):
            place = int(inner.offsets[i]), int(inner.sizes[i])
            packing.add(f"{stem}/{inner.names[i]}", label, *place)
    about = {"kind": "class_tars", "name": file.path.name}
    return packing.finish(about, (file.path,), known)
