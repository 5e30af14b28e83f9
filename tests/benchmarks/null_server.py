"""A server whose model costs nothing, so that only serving is measured; or an echo.

Prints its address when it is ready, and serves until its standard input ends.
"""

import argparse
import asyncio
import logging
import sys

import grpc
import numpy as np

from regard_proto import tensors
from regard_proto.v1 import features_pb2 as pb
from regard_server.app import Server
from regard_server.device import DeviceThread
from regard_server.frontend.choose import make_front_end
from regard_server.frontend.routes import Routes
from regard_server.lifecycle import settle_memory
from regard_server.settings import Settings
from regard_server.work import Rows

# In a batch, by default.
MOST = 32
LOGGER = logging.getLogger("null")
METHOD = "regard.v1.FeatureService", "Extract"


def without_model() -> None:
    """Have every batch answered with the same vectors, without looking at its images."""
    vectors = np.zeros((MOST, 64), np.float32)

    def run(_key, batch):
        return [Rows({"embedding": vectors[: len(work.pictures)]}, {}) for work in batch]

    def serve(device, _engine):
        device._batcher.serve(run, device._number)

    DeviceThread._serve = serve


async def serve_echo(frontend: str) -> None:
    """Serve what gRPC's own layers cost: bytes in, the same bytes out."""

    async def echo(request, _context):
        return request

    await serve_method(frontend, grpc.unary_unary_rpc_method_handler(echo))


async def serve_plain(frontend: str) -> None:
    """Serve what anybody would write: the same messages, and a queue from which up to 32 images are taken."""
    waiting: asyncio.Queue = asyncio.Queue()

    def run(images):
        return np.zeros((len(images), 64), np.float32)

    async def batch():
        while True:
            taken = [await waiting.get()]
            while len(taken) < 32 and not waiting.empty():
                taken.append(waiting.get_nowait())
            vectors = await asyncio.get_running_loop().run_in_executor(
                None, run, [image for image, _ in taken]
            )
            for (_, answer), vector in zip(taken, vectors, strict=True):
                answer.set_result(vector)

    async def extract(request, _context):
        raw = request.images[0].raw
        answer = asyncio.get_running_loop().create_future()
        waiting.put_nowait((np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3), answer))
        tensor = tensors.from_array(await answer, pb.DATA_TYPE_FLOAT32)
        outputs = [pb.Output(name="embedding", tensor=tensor)]
        return pb.ExtractResponse(results=[pb.ExtractResult(features=pb.Features(outputs=outputs))])

    batching = asyncio.create_task(batch())
    await serve_method(
        frontend,
        grpc.unary_unary_rpc_method_handler(
            extract, pb.ExtractRequest.FromString, pb.ExtractResponse.SerializeToString
        ),
    )
    batching.cancel()


async def serve_method(frontend: str, handler) -> None:
    """Serve one method in the place of regard's own."""
    service, method = METHOD
    routes = Routes(lambda _, handler: handler)
    routes.add_registered_method_handlers(service, {method: handler})
    server = await make_front_end(frontend, routes, (), LOGGER)
    port = server.listen("127.0.0.1:0")
    await server.start()
    await until_told(f"127.0.0.1:{port}")
    await server.stop(0.0)


async def serve_regard(frontend: str, **settings) -> None:
    """Serve the real thing, all but the model."""
    given = {"address": "127.0.0.1:0", "metrics_address": "", "models": "resnet_tiny", "threads": 1}
    server = Server(Settings(**given, frontend=frontend, **settings), LOGGER)
    await server.start()
    await server.ready()
    settle_memory()
    await until_told(server.address)
    await server.drain(0.0)


async def until_told(address: str) -> None:
    print(address, flush=True)
    await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frontend", choices=["public", "direct"])
    parser.add_argument("--serve", choices=["regard", "plain", "echo"], default="regard")
    parser.add_argument("--model", action="store_true", help="run resnet_tiny instead of nothing")
    arguments = parser.parse_args()
    if not arguments.model:
        without_model()
    serve = {"regard": serve_regard, "plain": serve_plain, "echo": serve_echo}[arguments.serve]
    asyncio.run(serve(arguments.frontend))


if __name__ == "__main__":
    assert pb.DESCRIPTOR.services_by_name["FeatureService"].full_name == METHOD[0]
    main()
