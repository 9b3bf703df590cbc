"""Run every code block of the guide as it stands, but for shorter runs of 89 steps of 16 images."""

import os
import re
import subprocess
import sys
from pathlib import Path

SHORTER = "s/max_epochs=5/max_epochs=1/; s/batch_size=64/batch_size=16/; s/batch=64/batch=16/"
GUIDE = Path(__file__).parents[1] / "docs" / "guide.md"


def test_every_code_block_of_the_guide_runs(tmp_path):
    blocks = re.findall(r"```(\w*)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert len(blocks) == 6 and {kind for kind, _ in blocks} == {"bash"}
    blocks.insert(1, ("bash", f"sed -i '{SHORTER}' diagonals/config.py"))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", "\n".join(text for _, text in blocks)],
        cwd=tmp_path,
        env=os.environ | dict(PATH=path, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "2 passed" in done.stdout and (tmp_path / "diagonals.png").exists()
    for run in ("diagonals", "edges"):
        log = "".join(p.read_text() for p in (tmp_path / "runs" / run).glob("*/*.log"))
        losses = [float(loss) for loss in re.findall(r"loss: ([\d.]+)", log)]
        assert len(losses) == 8 and losses[-1] < 0.7 * losses[0], losses
