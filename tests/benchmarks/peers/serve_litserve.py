"""The work behind LitServe, which takes JSON."""

import base64

import litserve
from work import DELAY_S, MOST, PORT, Reader, Work


class Peer(litserve.LitAPI):
    """One worker process; requests are read there one by one, then run together."""

    def setup(self, device: str) -> None:
        self._reader, self._work = Reader(), Work()

    def decode_request(self, request: dict):
        return self._reader.read(base64.b64decode(request["images"][0]))

    def batch(self, inputs: list) -> list:
        return inputs

    def predict(self, x: list) -> list[bytes]:
        return self._work.run(x)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> dict:
        return {"embeddings": [base64.b64encode(output).decode()]}


if __name__ == "__main__":
    api = Peer(max_batch_size=MOST, batch_timeout=DELAY_S)
    server = litserve.LitServer(api, accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=PORT, log_level="error", generate_client_file=False)
