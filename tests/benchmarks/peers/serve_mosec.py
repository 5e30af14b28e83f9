"""The work behind Mosec: a process for the model, and where pictures are decoded one for each core before it."""

import os
import sys

from mosec import Server, Worker
from work import DELAY_S, IS_ENCODED, MOST, PORT, Reader, Work


class Bytes(Worker):
    """A worker that takes and gives bytes as they are."""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data


class Decode(Bytes):
    """The first stage of two."""

    def __init__(self) -> None:
        super().__init__()
        self._reader = Reader()

    def forward(self, data: bytes):
        return self._reader.read(data)


class Infer(Bytes):
    """The model; where it is the only stage, pictures come as pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._reader, self._work = Reader(), Work()

    def forward(self, data: list) -> list[bytes]:
        return self._work.run(data if IS_ENCODED else [self._reader.read(each) for each in data])


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(PORT), "--timeout", "60000"]
    server = Server()
    if IS_ENCODED:
        server.append_worker(Decode, num=len(os.sched_getaffinity(0)))
    server.append_worker(Infer, num=1, max_batch_size=MOST, max_wait_time=round(DELAY_S * 1000))
    server.run()
