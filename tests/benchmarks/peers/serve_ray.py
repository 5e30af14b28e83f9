"""The work behind Ray Serve: its gRPC proxy, one replica, its own batching."""

import os
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from ray import serve
from ray.serve.config import gRPCOptions
from work import DELAY_S, MOST, PORT, Reader, Work


def add_to_server(servicer, server) -> None:
    """Stand in for generated code; Ray finds it by its name."""
    handler = grpc.unary_unary_rpc_method_handler(
        servicer.Run, BytesValue.FromString, BytesValue.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Peer", {"Run": handler}),))


@serve.deployment(num_replicas=1, max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Peer:
    """One replica."""

    def __init__(self) -> None:
        self._reader, self._work = Reader(), Work()
        self._decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=DELAY_S)
    async def _run(self, images: list[bytes]) -> list[bytes]:
        return self._work.run(list(self._decoders.map(self._reader.read, images)))

    async def Run(self, request: BytesValue) -> BytesValue:  # noqa: N802 - the method's name on the wire
        return BytesValue(value=await self._run(request.value))


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"  # loopback; else it leaves a token in the home folder
    passed_on = {name: value for name, value in os.environ.items() if name.startswith(("PEER_", "OMP_"))}
    ray.init(
        num_cpus=4,  # what its scheduler counts with; the machine has what it has
        include_dashboard=False,
        object_store_memory=1 << 28,
        runtime_env={"env_vars": {**passed_on, "PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    serve.start(
        http_options={"host": "127.0.0.1", "port": PORT + 1},  # it has no gRPC without
        grpc_options=gRPCOptions(port=PORT, grpc_servicer_functions=["serve_ray.add_to_server"]),
    )
    serve.run(Peer.bind(), name="peer")
    while True:
        time.sleep(3600)
