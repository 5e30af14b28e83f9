"""The work behind grpc.aio and the batcher that one writes first: a queue, a window, a thread."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
from work import DELAY_S, IS_ENCODED, MOST, PORT, Reader, Work


class Batcher:
    """Collects for a window that the first of a batch opens, runs, and begins again."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1)

    async def submit(self, picture) -> bytes:
        answer = asyncio.get_running_loop().create_future()
        await self._queue.put((picture, answer))
        return await answer

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        work = await loop.run_in_executor(self._thread, Work)
        while True:
            batch = [await self._queue.get()]
            closes = loop.time() + DELAY_S
            while len(batch) < MOST:
                try:
                    async with asyncio.timeout_at(closes):
                        batch.append(await self._queue.get())
                except TimeoutError:
                    break
            found = await loop.run_in_executor(self._thread, work.run, [picture for picture, _ in batch])
            for (_, answer), embedding in zip(batch, found, strict=True):
                if not answer.done():
                    answer.set_result(embedding)


async def main() -> None:
    batcher, reader = Batcher(), Reader()
    serving = asyncio.create_task(batcher.serve())

    async def run(request: bytes, _: grpc.aio.ServicerContext) -> bytes:
        picture = await asyncio.to_thread(reader.read, request) if IS_ENCODED else reader.read(request)
        return await batcher.submit(picture)

    handlers = {"Run": grpc.unary_unary_rpc_method_handler(run)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("peer.Peer", handlers),))
    server.add_insecure_port(f"127.0.0.1:{PORT}")
    await server.start()
    await serving


if __name__ == "__main__":
    asyncio.run(main())
