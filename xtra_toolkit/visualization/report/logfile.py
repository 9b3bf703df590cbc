"""Read versions, lengths and the certificate from the text log of a start.

The file is ``WORK_DIR/20250101_120000/20250101_120000.log``.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

STAMP = re.compile(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d - .*? - [A-Z]+ - ")
ENTRY = re.compile(r"^    (\S[^:]*): (.*)$")
EPOCH = re.compile(r"Epoch\(train\) +\[\d+\]\[ *\d+/(\d{1,12})\]")
ITERATION = re.compile(r"Iter\(train\) +\[ *\d+/(\d{1,12})\]")
GLOBAL_BATCH = re.compile(r"; (\d{1,12}) steps an epoch, \d+ epochs; ")
TOO_LONG = ("PyTorch compiling details", "mp_cfg", "dist_cfg", "sys.platform", "MUSA available")


@dataclass
class LogFile:
    """Entries of the text log of one start.

    Args:
        environment: Entries of the environment under MMEngine's names.
        epoch_steps: Number of steps of an epoch. None if epochs are not counted, or none began.
        steps: Number of steps of the whole run if epochs are not counted.
        certificate: The line that the model printed when it was built.
    """

    environment: dict[str, str] = field(default_factory=dict)
    epoch_steps: int | None = None
    steps: int | None = None
    certificate: str | None = None


def read_log(start: Path) -> LogFile:
    """Read the log in the folder of a start; without a file the result is empty."""
    log = LogFile()
    for path in sorted(p for p in start.glob("*.log") if p.is_file()):
        with open(path, errors="replace") as file:
            in_environment = False
            for line in file:
                if "System environment:" in line:
                    in_environment = True
                elif in_environment and STAMP.match(line):
                    in_environment = False
                if in_environment:
                    _read_environment(log, line)
                else:
                    _read_line(log, line.rstrip())
    return log


def _read_environment(log: LogFile, line: str) -> None:
    if (entry := ENTRY.match(line)) and entry[1] not in TOO_LONG:
        log.environment[entry[1]] = entry[2].strip()


def _read_line(log: LogFile, line: str) -> None:
    if log.epoch_steps is None and (found := GLOBAL_BATCH.search(line) or EPOCH.search(line)):
        log.epoch_steps = int(found[1])
    elif log.steps is None and (found := ITERATION.search(line)):
        log.steps = int(found[1])
    elif log.certificate is None and " positions computed" in line:
        log.certificate = STAMP.sub("", line)
