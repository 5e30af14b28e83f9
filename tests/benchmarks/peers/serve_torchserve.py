"""The work behind TorchServe: this file packs itself as the handler, then starts the server."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from work import DELAY_S, MOST, PORT, Reader, Work


class Handler:
    """What TorchServe calls with a batch of requests."""

    def initialize(self, context: object) -> None:
        self._reader, self._work = Reader(), Work()

    def handle(self, requests: list[dict], context: object) -> list[bytes]:
        bodies = [bytes(each.get("body") or each.get("data")) for each in requests]
        return self._work.run([self._reader.read(body) for body in bodies])


def main() -> None:
    store = Path(tempfile.mkdtemp(prefix="torchserve"))
    pack = ["torch-model-archiver", "--model-name", "peer", "--version", "1", "--handler", __file__]
    subprocess.run([*pack, "--export-path", str(store)], check=True)
    config = store / "config.properties"
    batching = f'"batchSize": {MOST}, "maxBatchDelay": {round(DELAY_S * 1000)}'
    model = f'"minWorkers": 1, "maxWorkers": 1, {batching}, "responseTimeout": 120'
    lines = (
        f"inference_address=http://127.0.0.1:{PORT}",
        f"management_address=http://127.0.0.1:{PORT + 1}",
        f"metrics_address=http://127.0.0.1:{PORT + 2}",
        "grpc_inference_port=" + str(PORT + 3),
        "grpc_management_port=" + str(PORT + 4),
        "load_models=peer.mar",
        f'models={{"peer": {{"1": {{"defaultVersion": true, "marName": "peer.mar", {model}}}}}}}',
        "disable_token_authorization=true",
        "disable_system_metrics=true",
        "job_queue_size=4096",
    )
    config.write_text("\n".join(lines) + "\n")
    serve = ["torchserve", "--foreground", "--ncs", "--disable-token-auth", "--model-store", str(store)]
    os.environ["LOG_LOCATION"] = os.environ["METRICS_LOCATION"] = str(store / "logs")
    os.chdir(store)
    os.execvp(serve[0], [*serve, "--ts-config", str(config)])  # noqa: S606 - it takes this process's place


if __name__ == "__main__":
    sys.exit(main())
