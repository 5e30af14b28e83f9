"""The front end: what stands between the network and the servicers.

    servicers ─→ Routes ─→ PublicFrontEnd   grpc.aio, gRPC's public server
                     └───→ DirectFrontEnd   the completion queue of gRPC's core, driven directly

Servicers, the border's interceptor and everybody behind them see no difference; `choose.py` decides which it is.
"""
