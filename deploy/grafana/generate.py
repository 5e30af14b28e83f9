"""Write the dashboards: `make dashboards`. With `--check`, say whether the committed ones are what is built here."""

import argparse
import sys
from pathlib import Path

import embeddings
import models
import overview
import replicas
from grafana_foundation_sdk.builders.dashboard import Dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).parent / "dashboards"
BUILT = {
    "overview": overview.build,
    "models": models.build,
    "replicas": replicas.build,
    "embeddings": embeddings.build,
}


def to_json(made: Dashboard) -> str:
    """Return the text of a dashboard, its panels numbered."""
    dashboard = made.build()
    for number, panel in enumerate(dashboard.panels or [], start=1):
        panel.id_val = number
    for each in dashboard.templating.list_val or []:
        # The builders fill in what only intervals have.
        each.auto = each.auto_count = each.auto_min = None
    return JSONEncoder(sort_keys=True, indent=1).encode(dashboard) + "\n"


def main() -> None:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    wrong = []
    for name, build in BUILT.items():
        path, text = FOLDER / f"{name}.json", to_json(build())
        if check and (not path.is_file() or path.read_text() != text):
            wrong.append(path.name)
        elif not check:
            path.write_text(text)
    wrong += [path.name for path in FOLDER.glob("*.json") if path.stem not in BUILT]
    if wrong:
        sys.exit(f"not what deploy/grafana builds: {', '.join(sorted(wrong))}; run `make dashboards`")


if __name__ == "__main__":
    main()
