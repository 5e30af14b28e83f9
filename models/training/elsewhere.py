"""Measure weights on pictures that neither trained nor chose anything: the stamps that the protocol leaves out.

    python models/training/elsewhere.py models/regard_models/weights …      # any folders that hold the six files

Cartoons, clothes, houses, letters, road signs and the like, of the package whose photographs are held out: recall@1 of
varied queries, and categories, as `evaluate.py` has them.
"""

import argparse
from pathlib import Path

import numpy as np

from regard_models import load_bundle
from regard_training.evaluate import category_accuracy, ranks_of_sources, student_network
from regard_training.held_out import left_out
from regard_training.packages import CACHE
from regard_training.student import STUDENTS, Recipe


def main() -> None:
    """Print a line for each network of each folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of everything fetched")
    options = parser.parse_args()
    data = left_out(options.cache)
    print(f"{len(data.pictures)} pictures, {len(set(data.categories))} folders")
    for folder in options.folders:
        for name in STUDENTS:
            bundle = load_bundle(str(folder / f"{name}.safetensors"))
            network = student_network(bundle.model, Recipe().input_side)
            features = network(data.pictures)[0]
            found = [(ranks_of_sources(network(each)[0], features) == 1).mean() for each in data.queries]
            accuracy = category_accuracy(features, data.categories)
            print(f"{folder} {name}: recall@1 {np.mean(found):.3f}, categories {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
