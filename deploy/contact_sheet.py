"""Draw README's picture: queries, what the default model finds nearest, and where three mechanisms look.

    python deploy/contact_sheet.py models/contact-sheet.jpg

A query is a sample photograph turned, cropped, recoloured, blurred and compressed as in the evaluation of the
weights; no model was trained on any of the samples. Everything goes through a server and the client library.
"""

import argparse
from pathlib import Path

import numpy as np
from demo import directions, running_server, varied
from PIL import Image, ImageDraw

from regard_client import Client
from regard_client.overlay import overlay, spatial_attention
from regard_models import DEFAULT_MODEL
from regard_models.samples import sample_photographs
from regard_training.held_out import square

QUERIES = ("chelsea", "china", "coffee", "flower", "gravel")
"""The photographs that are varied."""
LOOKING = ("ea_mini", "mhsa_mini", "da_mini")
NEAREST = 3
SIDE, GAP, LINE = 144, 6, 18
WIDE = 24
"""Between the neighbours and the overlays."""


def main() -> None:
    """Start a server, ask it, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    output = parser.parse_args().output
    names = list(dict.fromkeys((DEFAULT_MODEL, *LOOKING)))
    photographs = sample_photographs()
    with running_server("--models", ",".join(names)) as address, Client(address) as client:
        gallery = directions(client.extract_many(photographs, model=DEFAULT_MODEL))
        rows = [
            _row(client, next(path for path in photographs if path.stem == name), photographs, gallery)
            for name in QUERIES
        ]
    columns = ["query", *[f"nearest {rank + 1}" for rank in range(NEAREST)], *LOOKING]
    _drawn(columns, rows).save(output, quality=88, optimize=True)


def _row(
    client: Client, path: Path, photographs: list[Path], gallery: np.ndarray
) -> list[tuple[Image.Image, str]]:
    """Return the cells of one row: a picture and the words under it."""
    query = varied(path)
    (vector,) = directions([client.extract(query, model=DEFAULT_MODEL)])
    similar = gallery @ vector
    cells = [(query, path.stem)]
    cells += [
        (square(photographs[place]), f"{photographs[place].stem} {similar[place]:.2f}")
        for place in np.argsort(-similar)[:NEAREST]
    ]
    for name in LOOKING:
        model = client.model(name)
        wanted = spatial_attention(model).name
        attention = client.result(path, model=name, outputs=[wanted]).outputs[wanted]
        cells.append((overlay(path, attention, model.preprocessing), ""))
    return cells


def _drawn(columns: list[str], rows: list[list[tuple[Image.Image, str]]]) -> Image.Image:
    lefts = [index * (SIDE + GAP) + (WIDE if index > NEAREST else 0) + GAP for index in range(len(columns))]
    height = LINE + len(rows) * (SIDE + LINE) + GAP
    sheet = Image.new("RGB", (lefts[-1] + SIDE + GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for left, title in zip(lefts, columns, strict=True):
        draw.text((left, 3), title, "black")
    for number, row in enumerate(rows):
        top = LINE + number * (SIDE + LINE)
        for left, (picture, words) in zip(lefts, row, strict=True):
            sheet.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (left, top))
            draw.text((left, top + SIDE + 2), words, "black")
    return sheet


if __name__ == "__main__":
    main()
