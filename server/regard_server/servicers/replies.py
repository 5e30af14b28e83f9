"""What is served, and what failed, as regard.v1 messages; results are encoded by `encode.py`."""

from regard_models import OutputInfo, Preprocessing
from regard_proto.v1 import features_pb2 as pb
from regard_server.catalog import ModelState, ServedModel
from regard_server.errors import RegardError
from regard_server.servicers.limits import RequestLimits
from regard_server.servicers.status import to_status

_STATES = {
    ModelState.LOADING: pb.MODEL_STATE_LOADING,
    ModelState.READY: pb.MODEL_STATE_READY,
    ModelState.FAILED: pb.MODEL_STATE_FAILED,
}
_KINDS = {
    "embedding": pb.OUTPUT_KIND_EMBEDDING,
    "logits": pb.OUTPUT_KIND_LOGITS,
    "feature_map": pb.OUTPUT_KIND_FEATURE_MAP,
    "attention": pb.OUTPUT_KIND_ATTENTION,
}


def to_error_response(message: pb.ExtractRequest, error: RegardError) -> pb.ExtractResponse:
    """Say on a stream why a whole request failed."""
    return pb.ExtractResponse(request_id=message.request_id, error=to_status(error))


def to_model(
    model: ServedModel, fingerprint: str, state: ModelState, limits: RequestLimits, *, is_default: bool
) -> pb.Model:
    """Describe a model."""
    return pb.Model(
        name=model.name,
        is_default=is_default,
        fingerprint=fingerprint,
        state=_STATES[state],
        weights=model.weights,
        trained=model.trained,
        architecture=model.architecture,
        preprocessing=_to_preprocessing(model.preprocessing),
        outputs=[_to_output(output) for output in model.outputs.values()],
        compute_dtype=model.compute_dtype,
        engine=model.engine,
        device=model.device,
        limits=pb.Limits(
            max_images=limits.max_images,
            max_image_bytes=limits.image.max_bytes,
            max_pixels=limits.image.max_pixels,
            max_message_bytes=limits.max_message_bytes,
            min_tensor_side=model.min_side,
            max_tensor_side=limits.max_tensor_side,
        ),
        parameters=model.parameters,
    )


def to_unloaded_model(name: str, state: ModelState, *, is_default: bool) -> pb.Model:
    """Describe a model of which no more than the name is known yet."""
    return pb.Model(name=name, state=_STATES[state], is_default=is_default)


def _to_preprocessing(prepared: Preprocessing) -> pb.Preprocessing:
    return pb.Preprocessing(
        height=prepared.height,
        width=prepared.width,
        resize=prepared.resize,
        interpolation=prepared.interpolation,
        mean=prepared.mean,
        std=prepared.std,
    )


def _to_output(output: OutputInfo) -> pb.OutputInfo:
    return pb.OutputInfo(
        name=output.name,
        kind=_KINDS[output.kind],
        shape=output.shape,
        axes=output.axes,
        description=output.description,
    )
