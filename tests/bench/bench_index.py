"""Start-up and memory of a data set of a million made-up entries: python tests/bench/bench_index.py

Each way runs in a process of its own, three times. Memory is what a process alone writes to
(private and dirty, Linux); the pages of a mapped list belong to all processes.
"""

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = {
    "MMPretrain's CustomDataset, the list": "mmpretrain",
    "ImageFolder, the list": "listed",
    "ImageFolder, looking": "looked",
}


def held():
    """MB that this process alone holds, and the most that it ever held, mapped files included."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    own = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    status = Path("/proc/self/status").read_text().split("VmHWM:")[1]
    return own / 1e3, int(status.split()[0]) / 1e3


def measure(way, folder):
    """Seconds to build, µs an entry in random order, and the MB that this costs."""
    import numpy as np
    from mmpretrain.datasets import CustomDataset

    from xtra_toolkit.data import ImageFolder

    kind = CustomDataset if way == "mmpretrain" else ImageFolder
    given = {} if way == "looked" else dict(ann_file="index.txt")
    before, start = held(), time.perf_counter()
    data = kind(data_root=folder, with_label=False, **given)
    built = time.perf_counter() - start
    gc.collect()
    order = np.random.default_rng(0).permutation(len(data))[:100_000].tolist()
    start = time.perf_counter()
    for i in order:
        data.get_data_info(i)
    fetched = (time.perf_counter() - start) / len(order)
    (own, peak), entries = held(), len(data)
    return dict(
        entries=entries, s=built, us=fetched * 1e6, own=own - before[0], peak=peak - before[1]
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=50_000, help="To look for; they are created.")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.folder)))
        return
    with tempfile.TemporaryDirectory() as folder:
        name = "n{0:08}/n{0:08}_{1}.JPEG\n".format
        names = "".join(name(i // 1000, i) for i in range(args.entries))
        Path(folder, "index.txt").write_text(names)
        for line in names.splitlines()[: args.files]:
            Path(folder, line).parent.mkdir(exist_ok=True)
            Path(folder, line).touch()
        for title, way in WAYS.items():
            command = [sys.executable, __file__, "--way", way, "--folder", folder]
            runs = [
                json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
                for _ in range(3)
            ]
            medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            spread = [round(run["s"], 3) for run in runs]
            print(
                f"{title}: {medians['entries']:,} entries; {medians['s']:.3f} s {spread}; "
                f"{medians['us']:.1f} us each; {medians['own']:.0f} MB own, "
                f"{medians['peak']:.0f} MB at the peak",
                flush=True,
            )


if __name__ == "__main__":
    main()
