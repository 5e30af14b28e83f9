"""Measure weights on the held-out pictures: the table of models/README.md, from files alone.

    python models/training/measure.py               # the shipped weights, compared with figures.json
    python models/training/measure.py FOLDER        # others, in a folder that holds the six files
    python models/training/measure.py --record      # and write what came of it, into the shipped files too

Two packages of Debian are fetched, and nothing that was trained on. Ends with status 1 where a figure is another than
figures.json has. `--record` changes the files' metadata alone: the weights stay, bit for bit.
"""

import argparse
import sys
from pathlib import Path

from regard_models import load_bundle
from regard_models.bundle import SHIPPED
from regard_training.packages import CACHE
from regard_training.report import TABLE, as_json, compare, differences, fill_in, stated, table
from regard_training.shipping import record
from regard_training.student import STUDENTS

FIGURES = Path(__file__).with_name("figures.json")


def main() -> None:
    """Measure, print, and compare or write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=SHIPPED, help="that holds the six files")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of everything fetched")
    parser.add_argument("--record", action="store_true", help="write the shipped weights' figures down")
    options = parser.parse_args()
    if options.record and options.folder != SHIPPED:
        parser.error("--record writes down the figures of the shipped weights, and of no others")
    files = {name: options.folder / f"{name}.safetensors" for name in STUDENTS}
    found = compare({name: load_bundle(path).model for name, path in files.items()}, options.cache)
    print(table(found))
    others = differences(found, stated(FIGURES))
    print("\n".join(others) if others else f"all as {FIGURES.name} has it, to three digits")
    if not options.record:
        sys.exit(bool(others))
    for name, path in files.items():
        record(path, found[name])
    FIGURES.write_text(as_json(found))
    fill_in(TABLE, table(found))


if __name__ == "__main__":
    main()
