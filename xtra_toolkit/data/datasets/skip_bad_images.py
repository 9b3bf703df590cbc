"""Images that cannot be read, in a training that goes on without them."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from xtra_toolkit.data.seeding import hash_seed, seeded
from xtra_toolkit.data.transforms.loading import UnreadableImage

IN_A_ROW = 20  # bad images in the place of one, before a data set is given up


class SkipsBadImages:
    """Mixin of a data set, between ``SeededSamples`` and its base class.

    Once ``skips_bad`` is set, as the hook ``SkipBadImages`` does, a sample whose file cannot be
    read is another one of the data set. Which one, and how it is augmented, is a function of
    NumPy's random state when the sample was asked for; under ``SeededSamples`` that is one of the
    key, so that ranks, workers and a resumed run agree. ``skipped_images`` of its data sample says
    which files it stands for and why: a list of (path, cause).

    Raises:
        UnreadableImage: ``skips_bad`` is not set, or so many in a row cannot be read.
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
