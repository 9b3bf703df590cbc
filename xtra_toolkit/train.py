"""Run MMPretrain's training script in a process that keeps its exit code.

    python -m xtra_toolkit.train CONFIG --work-dir DIR --resume
    python -m xtra_toolkit.train CONFIG --gpus 8 --resume
    srun python -m xtra_toolkit.train CONFIG --launcher slurm --resume

``mim train mmpretrain`` runs the same script with the same arguments, but its exit code is 1
whenever the training fails. Here the exit code 75 means that a signal stopped the training and that
``--resume`` continues it (see ``SaveOnSignal``), also if the signal came before the training began.
``--gpus N`` starts N processes with torchrun and adds ``--launcher pytorch``.
"""

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # the same as in SaveOnSignal
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h


def script() -> Path:
    """Return the path of MMPretrain's tools/train.py, without importing MMPretrain."""
    (package,) = find_spec("mmpretrain").submodule_search_locations
    return Path(package) / ".mim" / "tools" / "train.py"


def main(argv: Sequence[str] | None = None) -> None:
    """Train.

    Args:
        argv: Arguments of the script, and ``--gpus N``. Default: those of the command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for number in SIGNALS:
        signal.signal(number, _exit_try_again)
    if "--gpus" in argv:
        at = argv.index("--gpus")
        (processes,) = argv[at + 1 : at + 2] or ("",)
        if not processes.isdecimal():
            raise SystemExit("--gpus needs the number of processes, as in --gpus 8")
        _torchrun(int(processes), [*argv[:at], *argv[at + 2 :], "--launcher", "pytorch"])
    if "--brief" in argv:  # of xtra train: the console shows its progress, the file everything
        argv.remove("--brief")
        _run_briefly(argv)
    else:
        _run(argv)


def _run(argv: list[str]) -> None:
    sys.argv = [str(script()), *argv]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _run_briefly(argv: list[str]) -> None:
    """Run with a quiet console; a failure leaves its sentence in a file, and exits with 1."""
    from xtra_toolkit.training import console

    console.make_brief()
    try:
        _run(argv)
    except Exception as error:
        console.report_failure(error, Path(argv[argv.index("--work-dir") + 1]))
        raise SystemExit(1) from error


def _torchrun(processes: int, argv: list[str]) -> NoReturn:
    """Exit with the code of the first process that failed; torchrun itself would exit with 1."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGUSR1")
    command = ["--standalone", f"--nproc-per-node={processes}", "-m", "xtra_toolkit.train"]
    try:
        torchrun([*command, *argv])
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        raise SystemExit(code if code > 0 else 128 - code) from error
    except SignalException as error:  # torchrun passed it on, and the processes have ended
        known = error.sigval in SIGNALS
        raise SystemExit(TRY_AGAIN if known else 128 + error.sigval) from None
    raise SystemExit(0)


def _exit_try_again(number: int, frame: Any) -> NoReturn:
    raise SystemExit(TRY_AGAIN)


if __name__ == "__main__":
    main()
