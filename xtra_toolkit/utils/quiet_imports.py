"""Import OpenMMLab without its warnings."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_imports() -> Iterator[None]:
    """Ignore warnings inside the block; a user of a command can do nothing about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
