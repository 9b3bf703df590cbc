"""Check that the mask or the target of a plugin keeps its contract.

    from xtra_toolkit.testing import check_mask, check_target

    def test_my_mask():
        check_mask(dict(type="xtra_toolkit.MyMask"), dict(type="xtra_toolkit.NextBlock"))

A violation raises an AssertionError whose message tells what to do. The masks and targets of this
package pass the same checks.

:func:`check_steps` trains a whole model for two steps. :func:`audit` and :func:`assert_no_leak`
test models that are not built with this package.
"""

from xtra_toolkit.testing.audit import Audit, assert_no_leak, audit
from xtra_toolkit.testing.gradients import Moved, moved_tokens, small_model
from xtra_toolkit.testing.masks import check_mask
from xtra_toolkit.testing.steps import check_steps
from xtra_toolkit.testing.targets import check_target

__all__ = [
    "Audit",
    "Moved",
    "assert_no_leak",
    "audit",
    "check_mask",
    "check_steps",
    "check_target",
    "moved_tokens",
    "small_model",
]
