"""The work behind Triton, by PyTriton: its front end and dynamic batcher, Python for the model."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from work import CASE, DELAY_S, IS_ENCODED, MOST, PORT, SIZES, Reader, Work


def main() -> None:
    reader, work = Reader(), Work()
    decoders = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    @batch
    def infer(image: np.ndarray) -> list[np.ndarray]:
        pictures = list(decoders.map(reader.read, image[:, 0])) if IS_ENCODED else list(image)
        return [np.stack([np.frombuffer(each, np.float32) for each in work.run(pictures)])]

    shape = Tensor(name="image", dtype=bytes, shape=(1,))
    if not IS_ENCODED:
        shape = Tensor(name="image", dtype=np.uint8, shape=(*SIZES[CASE], 3))
    delay_us = round(DELAY_S * 1e6)
    # The port before and after ours for the two services that nobody asks.
    config = TritonConfig(
        http_address="127.0.0.1", http_port=PORT, grpc_port=PORT + 1, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name="peer",
            infer_func=infer,
            inputs=[shape],
            outputs=[Tensor(name="embedding", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=MOST, batcher=DynamicBatcher(max_queue_delay_microseconds=delay_us)
            ),
        )
        triton.serve()


if __name__ == "__main__":
    main()
