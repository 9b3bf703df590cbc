"""What only the text log of a start says: versions, lengths, the certificate.

WORK_DIR/20250101_120000/20250101_120000.log
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
    """Of one start.

    Args:
        environment: MMEngine's, by its own names.
        epoch_steps: steps of an epoch, None where epochs are not counted or none began.
        steps: of the whole run, where epochs are not counted.
        certificate: the line that the model printed when it was built.
    """

    environment: dict[str, str] = field(default_factory=dict)
    epoch_steps: int | None = None
    steps: int | None = None
    certificate: str | None = None


def read_log(start: Path) -> LogFile:
    """Of a start's folder; empty where it has none."""
    log = LogFile()
    for path in sorted(p for p in start.glob("*.log") if p.is_file()):
        with open(path, errors="replace") as file:
            inside = False  # the block of the environment
            for line in file:
                if "System environment:" in line:
                    inside = True
                elif inside and STAMP.match(line):
                    inside = False
                if inside:
                    _environment(log, line)
                else:
                    _sentence(log, line.rstrip())
    return log


def _environment(log: LogFile, line: str) -> None:
    if (entry := ENTRY.match(line)) and entry[1] not in TOO_LONG:
        log.environment[entry[1]] = entry[2].strip()


def _sentence(log: LogFile, line: str) -> None:
    if log.epoch_steps is None and (found := GLOBAL_BATCH.search(line) or EPOCH.search(line)):
        log.epoch_steps = int(found[1])
    elif log.steps is None and (found := ITERATION.search(line)):
        log.steps = int(found[1])
    elif log.certificate is None and " positions computed" in line:
        log.certificate = STAMP.sub("", line)
