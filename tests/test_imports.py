"""The core stands without MMPretrain: masks, targets, plans and attention are plain torch."""

import subprocess
import sys

CORE = "grid objective masks targets attention"


def test_the_core_imports_neither_mmpretrain_nor_mmcv():
    code = (
        "import sys, importlib\n"
        f"for name in '{CORE}'.split(): importlib.import_module('xtra_toolkit.' + name)\n"
        "assert not {'mmpretrain', 'mmcv', 'xformers'} & set(sys.modules), 'heavy'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
