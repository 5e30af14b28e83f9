"""Make what is generated from the .proto files, `make proto`; `--check` only compares.

    proto/**/*_pb2*.py                  the Python code
    deploy/envoy/features.binpb         the descriptors by which Envoy turns JSON into gRPC

`--descriptors` writes the descriptor set that `buf lint` and `buf breaking` read: protoc finds the google imports
in the googleapis-common-protos wheel, where buf on its own would have to download them.
"""

import argparse
import filecmp
import sys
import sysconfig
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
TRANSCODED = ROOT.parent / "deploy" / "envoy" / "features.binpb"
INCLUDES = (ROOT, Path(sysconfig.get_path("purelib")), Path(str(files("grpc_tools") / "_proto")))


def compile_protos(out: Path) -> list[Path]:
    """Write modules, stubs and their types below `out`; return their paths relative to it."""
    sources = sorted(str(path.relative_to(ROOT)) for path in ROOT.rglob("*.proto"))
    outputs = [f"--{plugin}_out={out}" for plugin in ("python", "mypy", "grpc_python", "mypy_grpc")]
    scripts = Path(sysconfig.get_path("scripts"))
    plugins = [f"--plugin={scripts / name}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    run_protoc([*plugins, *outputs, *sources])
    return sorted(path.relative_to(out) for path in out.rglob("*_pb2*.py*") if path.suffix in {".py", ".pyi"})


def write_descriptors(path: Path) -> None:
    """Write our files' descriptors, with comments and imports, as one FileDescriptorSet."""
    sources = sorted(str(source.relative_to(ROOT)) for source in ROOT.rglob("*.proto"))
    path.parent.mkdir(parents=True, exist_ok=True)
    run_protoc([f"--descriptor_set_out={path}", "--include_imports", "--include_source_info", *sources])


def write_transcoded(path: Path) -> None:
    """Write the descriptors of the service that is offered as JSON, and of the details that its errors carry.

    Errors name their details by type, in an Any; no file of ours imports those types.
    """
    sources = ("regard_proto/v1/features.proto", "google/rpc/error_details.proto")
    run_protoc([f"--descriptor_set_out={path}", "--include_imports", *sources])


def run_protoc(arguments: list[str]) -> None:
    """Run protoc; its own messages are on stderr already when it fails."""
    status = protoc.main(["protoc", *(f"--proto_path={path}" for path in INCLUDES), *arguments])
    if status:
        sys.exit(status)


def main() -> None:
    """Generate, or compare with what is committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if something is stale")
    parser.add_argument("--descriptors", type=Path, help="write only the descriptor set, to this file")
    arguments = parser.parse_args()
    if arguments.descriptors:
        write_descriptors(arguments.descriptors)
        return
    if not arguments.check:
        compile_protos(ROOT)
        write_transcoded(TRANSCODED)
        return
    with tempfile.TemporaryDirectory() as folder:
        fresh = compile_protos(Path(folder))
        _, stale, missing = filecmp.cmpfiles(folder, ROOT, [str(path) for path in fresh], shallow=False)
        transcoded = Path(folder) / TRANSCODED.name
        write_transcoded(transcoded)
        if not TRANSCODED.is_file() or transcoded.read_bytes() != TRANSCODED.read_bytes():
            stale.append(str(TRANSCODED.relative_to(ROOT.parent)))
    if stale or missing:
        sys.exit(f"stale generated files, run `make proto`: {', '.join(sorted(stale + missing))}")


if __name__ == "__main__":
    main()
