"""Train the small models by distillation, from photographs to files, in one command that can be stopped at any time.

    python models/training/distill.py --device auto --minutes 60      # fetch, make the pool, train; go on if stopped
    python models/training/distill.py --minutes 60 --ship             # measure, and write files and table

Everything fetched and learnt lies in the cache folder; a larger number of minutes goes on from there.
"""

import argparse
import json
from pathlib import Path

import torch

from regard_training import sources
from regard_training.loop import (
    Training,
    begin_with_shipped,
    load_students,
    read_progress,
    train,
    trunk_of,
)
from regard_training.packages import CACHE
from regard_training.pictures import pictures_of
from regard_training.pool import Pictures, PoolPlan, complete_chunks, make_pool
from regard_training.report import TABLE, as_json, compare, fill_in, table
from regard_training.shipping import rounded, ship
from regard_training.student import STUDENTS

HERE = Path(__file__).parent


def main() -> None:
    """Do what is still to be done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one")
    parser.add_argument("--minutes", type=float, default=60, help="of training, earlier runs included")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of everything fetched")
    parser.add_argument("--chunks", type=int, default=76, help="of the pool, each of 1500 views")
    parser.add_argument("--workers", type=int, default=2, help="processes beside each other")
    parser.add_argument(
        "--from-shipped", action="store_true", help="begin with the shipped weights, not with nothing"
    )
    parser.add_argument("--ship", action="store_true", help="train no more; measure, and write the files")
    options = parser.parse_args()
    device = "cuda" if options.device == "auto" and torch.cuda.is_available() else options.device
    device = "cpu" if device == "auto" else device
    plan = PoolPlan(options.cache.resolve() / "pool", device=device)
    training = Training(
        options.cache / "checkpoints",
        plan.folder,
        plan.views,
        options.minutes,
        workers=options.workers,
        device=device,
    )
    if options.ship:
        _ship(training, plan, options.cache)
        return
    print("==> fetching pictures", flush=True)
    pictures = fetched_pictures(options.cache)
    print(
        f"==> making a pool of {options.chunks} chunks from {len(pictures.photographs)} photographs "
        f"and {len(pictures.drawings)} drawings",
        flush=True,
    )
    make_pool(plan, options.chunks, pictures, workers=options.workers)
    print(f"==> training {', '.join(STUDENTS)} on {device}", flush=True)
    if options.from_shipped:
        begin_with_shipped(training)
    train(training)


def fetched_pictures(cache: Path) -> Pictures:
    """Return the files of all sources, fetching what is not in the cache."""

    def files(*, drawn: bool) -> tuple[Path, ...]:
        chosen = [source for source in sources.TRAINING if source.drawn == drawn]
        return tuple(path for source in chosen for path in pictures_of(source, cache))

    return Pictures(photographs=files(drawn=False), drawings=files(drawn=True))


def _ship(training: Training, plan: PoolPlan, cache: Path) -> None:
    students = load_students(training)
    found = compare({student.name: rounded(student) for student in students}, cache)
    (trunk_steps,) = read_progress(trunk_of(training)).steps.values()
    made = json.loads(plan.path.read_text())
    pool = {f"pool_{name}": value for name, value in made.items()}
    before = {"trunk_steps": trunk_steps, "chunks": len(complete_chunks(plan.folder)), **pool}
    for student in students:
        print(ship(student, found[student.name], before=before))
    print(table(found))
    (HERE / "figures.json").write_text(as_json(found))
    fill_in(TABLE, table(found))


if __name__ == "__main__":
    main()
