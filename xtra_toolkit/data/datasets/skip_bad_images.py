"""Replace images that cannot be read by other images of the data set."""

from typing import Any

import numpy as np

from xtra_toolkit.data.seeding import hash_seed, seeded
from xtra_toolkit.data.transforms.loading import UnreadableImage

MAX_ATTEMPTS = 20  # number of consecutive bad images after which a data set is refused


class SkipsBadImages:
    """Skip the images that cannot be read. A mixin between ``SeededSamples`` and the base class.

    If ``skips_bad`` is set, as by the hook ``SkipBadImages``, a sample whose file cannot be read is
    replaced by another one. NumPy's random state at the time of the request decides which one, and
    how it is augmented. With ``SeededSamples`` this state depends on the key only, so
    that ranks, workers and a resumed run agree. ``skipped_images`` of the data sample lists the
    replaced files as (path, cause).

    Raises:
        UnreadableImage: ``skips_bad`` is not set, or 20 images in a row cannot be read.
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
        np.random.set_state(start)  # draws of the first attempt must not matter
        draw = np.random.randint(2**31)
        for key in ((draw, attempt) for attempt in range(1, MAX_ATTEMPTS)):
            try:
                with seeded(*key):
                    sample = super().__getitem__(hash_seed(*key) % len(self))
            except UnreadableImage as error:
                skipped.append((error.path, error.cause))
                last = error
            else:
                sample["data_samples"].set_metainfo(dict(skipped_images=skipped))
                return sample
        raise UnreadableImage(f"{MAX_ATTEMPTS} images in a row cannot be read. The last: {last}")
