"""Replace images that cannot be read, so that a training goes on."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xtra_toolkit.data.seeding import hash_seed, seeded
from xtra_toolkit.data.transforms.loading import UnreadableImage

IN_A_ROW = 20  # bad images in the place of one, before a data set is given up


class SkipsBadImages:
    """Mixin of a data set, between ``SeededSamples`` and its base class.

    If ``skips_bad`` is set, as the hook ``SkipBadImages`` does, a sample whose file cannot be read
    is replaced by another sample of the data set. Which one it is, and how it is augmented, depends
    on NumPy's random state when the sample was requested. Under ``SeededSamples`` that state
    follows from the key, so ranks, workers and a resumed run agree. ``skipped_images`` of the data
    sample lists the replaced files and the causes as (path, cause).

    Raises:
        UnreadableImage: ``skips_bad`` is not set, or too many images in a row cannot be read.
    """

    skips_bad = False

    def __getitem__(self, index: int) -> Any:
        if not self.skips_bad:
            return super().__getitem__(index)
        start = np.random.get_state()
        try:
            return super().__getitem__(index)
        except UnreadableImage as error:
            skipped = [(error.path, error.cause)]
        np.random.set_state(start)  # how far the first one came decides nothing
        for key in _keys(np.random.randint(2**31)):
            try:
                with seeded(*key):
                    sample = super().__getitem__(hash_seed(*key) % len(self))
            except UnreadableImage as error:
                skipped.append((error.path, error.cause))
                last = error
            else:
                sample["data_samples"].set_metainfo(dict(skipped_images=skipped))
                return sample
        raise UnreadableImage(f"{IN_A_ROW} images in a row cannot be read. The last: {last}")


def _keys(draw: int) -> Iterator[tuple[int, int]]:
    return ((draw, attempt) for attempt in range(1, IN_A_ROW))
