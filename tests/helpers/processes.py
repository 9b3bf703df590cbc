"""Run a function in two processes that share a gloo group."""

import os

import torch


def on_two(function, folder, *args):
    """Run ``function(rank, folder, *args)`` in two forked processes; return the results by rank."""
    torch.multiprocessing.start_processes(
        _process, (function, folder, *args), nprocs=2, start_method="fork"
    )
    return [torch.load(folder / f"rank_{rank}.pt", weights_only=False) for rank in range(2)]


def _process(rank, function, folder, *args):
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    os.environ["LOCAL_RANK"] = str(rank)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    torch.save(function(rank, folder, *args), folder / f"rank_{rank}.pt")
    torch.distributed.destroy_process_group()
