"""Embed pictures in a page, scaled down and limited in number."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from xtra_toolkit.data.image_reading.pillow import open_image, refuse_larger
from xtra_toolkit.visualization.report.facts import RunColumn
from xtra_toolkit.visualization.report.runs import Run

MOST = 24  # pictures of one kind and run
WIDTH = 1200  # px
MOST_PIXELS = 50_000_000  # scaling such a picture down takes 0.4 GB
QUALITY = 80
DRAWN = "loss_split"  # the page draws these curves itself


@dataclass(frozen=True)
class Picture:
    """A picture of a run at a step, as a data URI."""

    run: int
    step: int
    uri: str


def thinned(steps: list[int]) -> list[int]:
    """Select at most ``MOST`` steps evenly, with the first and the last."""
    if len(steps) <= MOST:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST - 1))] for i in range(MOST)]


def kinds(columns: list[RunColumn]) -> dict[str, list[list[Picture]]]:
    """Return by kind the pictures of each run that has any, in the order of steps."""
    names = {name for column in columns for name in column.history.pictures} - {DRAWN}
    found = {}
    for name in sorted(names, key=lambda name: (name != "reconstruction", name)):
        runs = []
        for number, column in enumerate(columns):
            paths = column.history.pictures.get(name, {})
            uris = [(step, uri(paths[step], column.run)) for step in thinned(sorted(paths))]
            if pictures := [Picture(number, step, data) for step, data in uris if data]:
                runs.append(pictures)
        if runs:
            found[name.replace("_", " ")] = runs
    return found


def uri(path: Path, run: Run) -> str | None:
    """Return a file as a data URI; None, with a note in the run, if it cannot be shown."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        image = open_image(path.read_bytes(), ("PNG", "JPEG"))
        refuse_larger(image.size[::-1], MOST_PIXELS)
        return encoded(image)
    except Exception as error:  # Pillow alone raises OSError, ValueError, SyntaxError, ...
        run.notes.append(f"the picture {path.name} is not shown: {error}")
        return None


def encoded(image: Image.Image, **options: object) -> str:
    """Scale a picture down and encode it as WebP in a data URI."""
    image = image.convert("RGB")
    image.thumbnail((WIDTH, 4 * WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **{"quality": QUALITY, "method": 4, **options})
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
