"""Start-up and memory of a data set of a million made-up entries: python tests/bench/bench_index.py

Each way runs in a process of its own, several times. Memory is what a rank and its workers hold
more than with a data set of nothing (Linux). RSS counts a page once for each process that has it,
PSS shares it out among them: "own" is the PSS of what is no file, and "mapped" that of the list,
which all ranks of a machine hold together, and which the kernel may drop.
"""

import argparse
import gc
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from spread import row

WAYS = {
    "MMPretrain's CustomDataset, the list": "mmpretrain",
    "ImageFolder, the list": "listed",
    "ImageFolder, looking": "looked",
    "Shards, the list": "shards",
}
WORKERS = (1, 4)
IN_SHARD = 10_000
READ = 20_000  # entries that the workers look up, in random order


def held(folder):
    """Return the MB of this process and its children together."""
    total = dict(own=0, mapped=0, RSS=0)
    for child in [None, *multiprocessing.active_children()]:
        place = Path(f"/proc/{child.pid if child else os.getpid()}")
        for line in (place / "smaps_rollup").read_text().splitlines()[1:]:
            name, size, *_ = line.split()
            if key := {"Pss_Anon:": "own", "Rss:": "RSS"}.get(name):
                total[key] += int(size) / 1e3
        for mapping in (place / "smaps").read_text().split(folder)[1:]:
            total["mapped"] += int(mapping.split("\nPss:")[1].split()[0]) / 1e3
    return total


class Entries:
    """Give the entries that the workers look up."""

    def __init__(self, get):
        self.get = get

    def __getitem__(self, index):
        return self.get(index)


def with_workers(get, order, folder):
    """Return the MB of a rank once its workers have looked up all entries, by number of workers."""
    from torch.utils.data import DataLoader

    found = {}
    for workers in WORKERS:
        options = dict(num_workers=workers, persistent_workers=True, batch_size=100)
        loader = DataLoader(Entries(get), sampler=order, collate_fn=len, **options)
        assert sum(loader) == len(order)
        found[workers] = held(folder)
        del loader
        gc.collect()
    return found


def measure(way, folder):
    """Return the seconds to build, the µs of an entry in random order, and the MB."""
    import numpy as np
    from mmpretrain.datasets import CustomDataset

    from xtra_toolkit.data import ImageFolder, Shards

    kind = dict(mmpretrain=CustomDataset, shards=Shards).get(way, ImageFolder)
    given = {} if way == "looked" else dict(ann_file=f"{way}.txt")
    before = with_workers(int, range(READ), folder)
    start = time.perf_counter()
    data = kind(data_root=folder, with_label=False, **given)
    built = time.perf_counter() - start
    gc.collect()
    get = data.prepare_data if way == "shards" else data.get_data_info  # shards are read too
    order = np.random.default_rng(0).permutation(len(data))[:READ].tolist()
    start = time.perf_counter()
    for i in order:
        get(i)
    fetched = (time.perf_counter() - start) / len(order)
    result = {"entries": len(data), "start, s": built, "an entry, us": fetched * 1e6}
    for workers, after in with_workers(get, order, folder).items():
        for name in after:
            result[f"{name} with {workers}, MB"] = after[name] - before[workers][name]
    return result


def make(folder, entries, files):
    """Write lists of the entries, files to search for, and one shard under many names."""
    import webdataset

    from xtra_toolkit.data.datasets.shards import listed

    name = "n{0:08}/n{0:08}_{1}.JPEG\n".format
    names = "".join(name(i // 1000, i) for i in range(entries))
    for way in ("mmpretrain", "listed"):
        (folder / f"{way}.txt").write_text(names)
    for line in names.splitlines()[:files]:
        (folder / line).parent.mkdir(exist_ok=True)
        (folder / line).touch()
    first = folder / "shards" / "000000.tar"
    first.parent.mkdir()
    with webdataset.TarWriter(str(first)) as writer:
        for line in names.splitlines()[:IN_SHARD]:
            writer.write({"__key__": Path(line).stem, "jpg": line.encode() * 50})
    start = time.perf_counter()
    lines = "".join(f"shards/{line}\n" for line in listed(first.parent, with_label=False))
    each = (time.perf_counter() - start) / min(entries, IN_SHARD)
    for i in range(1, entries // IN_SHARD):
        first.with_stem(f"{i:06}").hardlink_to(first)
    with open(folder / "shards.txt", "w") as file:
        for i in range(max(entries // IN_SHARD, 1)):
            file.write(lines.replace("000000.tar", f"{i:06}.tar"))
    print(f"To list shards: {each * 1e6:.0f} us an image\n")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=50_000, help="To look for; they are created.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS.values(), default=list(WAYS.values()))
    parser.add_argument("--json", type=Path, help="Write the rows to this file too.")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args.way, args.folder)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), args.entries, args.files)
        for title, way in WAYS.items():
            if way not in args.ways:
                continue
            command = [sys.executable, "-W", "ignore", __file__, "--way", way, "--folder", folder]
            runs = [
                json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
                for _ in range(args.runs)
            ]
            print(f"{title}: {runs[0].pop('entries'):,} entries")
            for what, unit in (key.split(", ") for key in runs[-1] if key != "entries"):
                found = [run[f"{what}, {unit}"] for run in runs]
                rows.append(row(f"{title}: {what}", found, unit))
                low, mid, high = (f"{rows[-1][key]:.3g}" for key in ("min", "median", "max"))
                print(f"  {what}: {mid} ({low} to {high}) {unit}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(dict(name="index", rows=rows), indent=2))


if __name__ == "__main__":
    main()
