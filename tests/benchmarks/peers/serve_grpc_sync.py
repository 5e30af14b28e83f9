"""The work behind grpcio's thread pool: one image a run, one run at a time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
from work import PORT, Reader, Work


def main() -> None:
    reader, work, running = Reader(), Work(), threading.Lock()

    def run(request: bytes, _: grpc.ServicerContext) -> bytes:
        picture = reader.read(request)
        with running:  # side by side they take each other's cores
            return work.run([picture])[0]

    handlers = {"Run": grpc.unary_unary_rpc_method_handler(run)}
    server = grpc.server(ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Peer", handlers),))
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
