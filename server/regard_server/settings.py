"""Settings: command line over environment (REGARD_…) over file (TOML) over defaults.

Every fault is reported at once, each with its field's name. An unknown field in the file is a fault too, and so
is a REGARD_ variable that nearly names a field: a typing error must not become a silent default. Other REGARD_
variables are let be; Kubernetes sets some of its own for a service called regard.
"""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

ENV_PREFIX = "REGARD_"
CONFIG_VARIABLE = "REGARD_CONFIG"
MIB = 1 << 20
# Pillow itself refuses pictures with more, whatever the setting says.
PILLOW_MAX_PIXELS = 178_956_970


def default_cache_dir() -> Path:
    """Return the user's cache folder for regard, by the XDG rules."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "regard"


class InvalidSettingsError(ValueError):
    """Settings that cannot be served with; the message has one line a fault."""


class Settings(BaseSettings):
    """Everything that an operator can set; `regard serve --help` shows it with its defaults."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
    )

    address: str = Field(
        "127.0.0.1:50051",
        description="Where gRPC listens: host:port (port 0: any free one) or unix:/path. Loopback by default.",
    )
    metrics_address: str = Field(
        "127.0.0.1:9095",
        description="Where /metrics, /livez, /readyz and the page listen: host:port; empty: nowhere.",
    )
    page: bool = Field(
        default=True,
        description="Show a page at / of the metrics address: figures that /metrics has too, as charts and tables.",
    )
    page_form: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Let the page take photographs, which are computed like any request. auto: only where the metrics "
        "address is loopback and no tokens or client certificates are asked for, as the page asks nobody who they are.",
    )
    page_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Names by which browsers may open the page, with commas between them; addresses and localhost "
        "always do. Other names are refused, as a website could have made them up.",
    )
    models: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Models to serve, the first being the default, with commas between them: NAME, "
        "NAME=FILE.safetensors or FILE.safetensors. None: the small default model.",
    )
    seed: int = Field(0, description="Seed of the weights of models that have no trained ones.")
    device: str = Field(
        "auto",
        pattern=r"^(auto|(cpu|cuda(:\d+)?)(,(cpu|cuda(:\d+)?))*)$",
        description="auto, cpu or cuda:N; several with commas between them all take batches from one queue.",
    )
    threads: Annotated[int, Field(ge=0)] = Field(
        0, description="CPU threads of a network; 0: as many as the cgroup and the affinity mask allow."
    )
    max_device_memory_fraction: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="Share of a CUDA device's memory that this server may take."
    )
    max_model_memory_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="What one model may take of a CUDA device's memory, its weights and a batch together; batches are "
        "as large as fits by what those at warm-up took. 0: whatever there is.",
    )
    engine: Literal["auto", "eager", "folded", "compiled", "openvino"] = Field(
        "auto",
        description="How networks are run. auto: the fastest whose embeddings stay as close to float32 as the cosines "
        "below say, measured at the first start and kept in the cache; compiled only if `regard profile` has measured "
        "it. Replicas that must give one fingerprint should name an engine and a dtype.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="What networks compute in. auto: as for the engine."
    )
    min_cosine_mean: Annotated[float, Field(ge=0, le=1)] = Field(
        0.999,
        description="auto: the mean cosine of the sample photographs' embeddings with float32, at least.",
    )
    min_cosine_worst: Annotated[float, Field(ge=0, le=1)] = Field(
        0.995, description="auto: the worst cosine, at least."
    )
    invariant: bool = Field(
        default=False,
        description="Give an image the same bits whatever its batchmates are: images of a batch run one by one.",
    )
    cache_dir: Path | None = Field(
        default_factory=default_cache_dir,
        description="Folder of measured profiles, of the traced graphs used last, 2 GB of them at most, and of what "
        "torch compiles.",
    )
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(32, description="Images in one batch, at most.")
    max_delay_s: Annotated[float, Field(ge=0, le=1)] = Field(
        0.004,
        description="The longest that an idle device may wait for company, in seconds; 0: never. It learns when "
        "waiting pays, and one caller alone never waits.",
    )
    deduplicate: bool = Field(
        default=False, description="Let identical images in flight share one forward; hashes every image."
    )
    cache_bytes: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Bytes of outputs to remember by the images' content, to each of which come some 400 for keeping "
        "it; 0: none. What is remembered is answered though the device has too much to do, so every call is read. "
        "Implies deduplicate.",
    )
    decode_threads: Annotated[int, Field(ge=0)] = Field(
        0, description="Threads that decode images; 0: as many as there are cores."
    )
    jpeg_decoder: Literal["host", "gpu"] = Field(
        "host",
        description="Where JPEGs are decoded and shrunk. gpu: on the first CUDA device, with the extra gpu-jpeg, where "
        "cores are few and callers are trusted: deploy/README.md has its risks. What is unusual the host still reads.",
    )
    compute_nice: Annotated[int, Field(ge=0, le=19)] = Field(
        0,
        description="How much networks on the CPU give way on the cores to decoders and the threads that answer calls, "
        "as by nice(1); Linux only. Other processes of the same cgroup go before them likewise. 0: not at all.",
    )
    tls_certificate: Path | None = Field(
        None, description="PEM file of the server's certificate and its chain; gRPC then speaks TLS only."
    )
    tls_key: Path | None = Field(None, description="PEM file of its private key, unencrypted.")
    tls_client_authority: Path | None = Field(
        None, description="PEM file of who issues callers' certificates; every caller then needs one (mTLS)."
    )
    tokens_file: Path | None = Field(
        None,
        description="File of bearer tokens, one a line after an optional name; every call but health checks then needs "
        "one of them. This file and those of TLS are read again when they change.",
    )
    default_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        30.0, description="Deadline of callers who set none, in seconds."
    )
    max_in_flight_images: Annotated[int, Field(ge=1)] = Field(
        1024,
        description="Images inside the server at once; more are refused with RESOURCE_EXHAUSTED, and on a stream wait. "
        "The last tenth is kept for interactive calls: neither bulk nor streams take it.",
    )
    max_in_flight_bytes: Annotated[int, Field(ge=1)] = Field(
        512 * MIB,
        description="Bytes of image data, as it was sent, inside the server at once; more are refused, likewise. What "
        "the decoders hold comes on top, see max_decoding_bytes.",
    )
    max_decoding_bytes: Annotated[int, Field(ge=1)] = Field(
        1024 * MIB,
        description="Bytes that images take while they are decoded, all together, by a generous estimate from their "
        "headers. Those for which too few are left wait while others are decoded. One always goes, whatever it takes; "
        "and those that take up to 16 MB, as nearly all of a million pixels do, do not count: one for each of "
        "decode_threads. A lossless WebP counts as up to 0.4 GB more than its pixels, which a crafted one takes.",
    )
    max_client_images: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Images of one caller inside the server at once; more are refused, and on a stream wait. A caller "
        "is the holder of a token, else of a certificate, else of an address. 0: as many as there is room for.",
    )
    max_message_bytes: Annotated[int, Field(ge=1024)] = Field(
        64 * MIB, description="Bytes of one gRPC message, at most."
    )
    max_images_per_request: Annotated[int, Field(ge=1, lt=1 << 32)] = Field(  # the API tells it in 32 bits
        256, description="Images in one request, at most."
    )
    max_reply_bytes: Annotated[int, Field(ge=1024)] = Field(
        64 * MIB,
        description="Bytes of outputs in one reply, at most, and four times that computed for it as float32; predicted "
        "before anything is computed.",
    )
    max_image_bytes: Annotated[int, Field(ge=1)] = Field(20 * MIB, description="Bytes of one image, at most.")
    max_image_pixels: Annotated[int, Field(ge=1, le=PILLOW_MAX_PIXELS)] = Field(
        50_000_000,
        description="Height × width of one image, at most; read before decoding. To decode it takes 4 bytes a pixel, "
        "up to 24 of some files, 16 of a WebP: 0.8 GB of the largest; max_decoding_bytes bounds that of all together.",
    )
    max_tensor_side: Annotated[int, Field(ge=1)] = Field(
        512, description="Rows and columns of a ready float tensor, at most."
    )
    stream_window: Annotated[int, Field(ge=1)] = Field(
        64, description="Requests of one stream that are worked on at a time."
    )
    max_concurrent_streams: Annotated[int, Field(ge=1)] = Field(
        1024, description="Calls on one connection at a time."
    )
    max_concurrent_calls: Annotated[int, Field(ge=1)] = Field(
        4096,
        description="Calls at a time over all connections, those included whose message is still on its way; more are "
        "refused. Times max_message_bytes it bounds what can arrive before anything is admitted.",
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        4096, description="Connections at a time, half-open ones included; more are closed at once."
    )
    frontend: Literal["auto", "public", "direct"] = Field(
        "auto",
        description="How gRPC is served: public (grpc.aio), direct (its core's completion queue, at a fraction of "
        "the cost; a private interface of grpcio), or auto: direct where this grpcio is known to bear it.",
    )
    drain_delay_s: Annotated[float, Field(ge=0, le=300)] = Field(
        0.0,
        description="After SIGTERM: for how long whoever comes is served still while health says NOT_SERVING, in "
        "seconds. Behind a load balancer: two of its health checks, so that it hears of it before the port is closed.",
    )
    drain_timeout_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        20.0, description="After that: how long calls in flight may take, in seconds."
    )
    embedding_samples_per_s: Annotated[float, Field(ge=0, le=100)] = Field(
        4.0,
        description="Embeddings of each model that are watched for collapse and drift, a second; 0: none.",
    )
    embedding_reference_samples: Annotated[int, Field(ge=16)] = Field(
        512,
        description="Drift is measured against so many embeddings, the first ones that are watched under a "
        "fingerprint; kept in the cache.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged.")
    log_format: Literal["text", "json"] = Field("text", description="How it is logged.")

    @field_validator("models", "page_hosts", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        given = [value] if isinstance(value, str) else value
        return [name.strip() for each in given for name in str(each).split(",") if name.strip()]

    @field_validator("address", "metrics_address")
    @classmethod
    def _is_address(cls, value: str, info: ValidationInfo) -> str:
        on_socket = value.startswith("unix:") and info.field_name == "address"
        off = not value and info.field_name == "metrics_address"
        if on_socket or off:
            return value
        host, _, port = value.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004 - the largest port
            raise ValueError(f"{value!r} is no address; expected host:port, such as 127.0.0.1:50051")
        return value

    @model_validator(mode="after")
    def _tls_is_whole(self) -> "Settings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, missing = ("certificate", "key") if self.tls_certificate else ("key", "certificate")
            raise ValueError(f"tls_{missing}: it is missing; tls_{given} is of no use without it")
        if self.tls_client_authority and not self.tls_certificate:
            raise ValueError("tls_client_authority: it is of no use without tls_certificate and tls_key")
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> "Settings":
        if self.max_image_bytes > self.max_message_bytes:
            raise ValueError(
                f"max_image_bytes ({self.max_image_bytes}) is more than max_message_bytes "
                f"({self.max_message_bytes}): such an image could never arrive"
            )
        return self


def is_local(address: str) -> bool:
    """Tell whether an address can be reached from this machine alone."""
    return address.startswith(("unix:", "127.", "localhost:", "[::1]:"))


def load_settings(argv: Sequence[str]) -> Settings:
    """Merge the four layers.

    Args:
        argv: the command line, without the command's name. `--config FILE` names the TOML file.

    Raises:
        InvalidSettingsError: something is wrong; everything that is wrong is in the message.
        SystemExit: `--help`, or an option that does not exist (argparse's own behaviour).
    """
    before = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    before.add_argument("--config", default=os.environ.get(CONFIG_VARIABLE))
    chosen, rest = before.parse_known_args(list(argv))
    config = Path(chosen.config) if chosen.config else None
    faults = _misspelt_variables()
    if config is not None and not config.is_file():
        raise InvalidSettingsError("\n".join([*faults, f"config: there is no file {config}"]))
    try:
        settings = _layered(rest, config)()
    except ValidationError as error:
        faults += [_describe(fault["loc"], fault["msg"]) for fault in error.errors()]
    except (SettingsError, TOMLDecodeError) as error:
        faults.append(f"{config or 'settings'}: {error}")
    else:
        if not faults:
            return settings
    raise InvalidSettingsError("\n".join(faults))


def _misspelt_variables() -> list[str]:
    fields = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields} | {CONFIG_VARIABLE}
    faults = []
    for name in sorted(os.environ):
        near = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
        if name.startswith(ENV_PREFIX) and name not in fields and near:
            faults.append(f"{name}: there is no such setting; did you mean {near[0]}?")
    return faults


def _describe(location: Sequence[int | str], message: str) -> str:
    field = ".".join(str(part) for part in location)
    text = message.removeprefix("Value error, ")
    return f"{field}: {text}" if field else text


def _layered(argv: Sequence[str], config: Path | None) -> type[Settings]:
    class Layered(Settings):
        """Serve models over gRPC, in the foreground, until SIGTERM or Ctrl-C.

        Every option is also a variable (--max-batch is REGARD_MAX_BATCH) and a line of the TOML file that --config
        FILE names (max_batch = 8). --check validates all of them and exits.
        """

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the hook's signature
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            command_line: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls, cli_prog_name="regard serve", cli_parse_args=list(argv)
            )
            file = TomlConfigSettingsSource(settings_cls, config)
            return command_line, env_settings, file

    return Layered
