"""Settings: four layers, and every fault at once."""

import os

import pytest

from regard_server.settings import InvalidSettingsError, Settings, load_settings


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without any variable of ours."""
    for name in [name for name in os.environ if name.startswith("REGARD_")]:
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.fixture
def write(tmp_path):
    """Write a TOML file and return the options that name it."""

    def write(text):
        path = tmp_path / "regard.toml"
        path.write_text(text)
        return ["--config", str(path)]

    return write


def faults(*argv):
    """Return the lines of the refusal."""
    with pytest.raises(InvalidSettingsError) as error:
        load_settings(argv)
    return str(error.value).splitlines()


def test_defaults_stay_on_this_machine():
    """Without any setting the server listens on loopback."""
    settings = load_settings([])
    assert settings.model_dump() == Settings().model_dump()
    assert settings.address.startswith("127.0.0.1:")
    assert settings.metrics_address.startswith("127.0.0.1:")


def test_the_command_line_beats_the_environment_beats_the_file(environment, write):
    """Each layer gives way to the one above it, field by field."""
    file = write("max_batch = 2\nseed = 2\nthreads = 2")
    environment.setenv("REGARD_MAX_BATCH", "3")
    environment.setenv("REGARD_SEED", "3")
    settings = load_settings([*file, "--max-batch", "4"])
    assert (settings.max_batch, settings.seed, settings.threads) == (4, 3, 2)
    assert settings.stream_window == Settings().stream_window


def test_the_file_may_be_named_by_the_environment(environment, write):
    """REGARD_CONFIG does what --config does."""
    environment.setenv("REGARD_CONFIG", write("seed = 7")[1])
    assert load_settings([]).seed == 7


@pytest.mark.parametrize(
    "argv",
    [
        ["--models", "resnet18, ours=a.safetensors"],
        ["--models", "resnet18", "--models", "ours=a.safetensors"],
    ],
    ids=["commas", "twice"],
)
def test_models_on_the_command_line(argv):
    """Several models are given with commas or by repeating the option."""
    assert load_settings(argv).models == ("resnet18", "ours=a.safetensors")


def test_models_in_the_environment_and_in_a_file(environment, write):
    """A variable has commas, a file has a list or commas."""
    assert load_settings(write('models = ["resnet18", "resnet34"]')).models == ("resnet18", "resnet34")
    assert load_settings(write('models = "resnet18,resnet34"')).models == ("resnet18", "resnet34")
    environment.setenv("REGARD_MODELS", "resnet50,resnet101,")
    assert load_settings([]).models == ("resnet50", "resnet101")


def test_every_fault_is_reported_at_once_with_its_field(environment, write):
    """Somebody with four faults needs one attempt to see them all."""
    environment.setenv("REGARD_MAX_BATCH", "many")
    environment.setenv("REGARD_STREAM_WINDWO", "3")
    lines = faults(*write('device = "gpu"\nsurprise = 1'), "--address", "nowhere")
    fields = [line.partition(":")[0] for line in lines]
    assert sorted(fields) == ["REGARD_STREAM_WINDWO", "address", "device", "max_batch", "surprise"]


def test_a_misspelt_variable_is_a_fault(environment):
    """A variable that nearly names a field names the field that was meant."""
    environment.setenv("REGARD_MAXBATCH", "8")
    assert faults() == ["REGARD_MAXBATCH: there is no such setting; did you mean REGARD_MAX_BATCH?"]


def test_other_variables_with_our_prefix_are_let_be(environment):
    """Kubernetes sets variables of its own for a service called regard."""
    environment.setenv("REGARD_SERVICE_HOST", "10.0.0.1")
    environment.setenv("REGARD_PORT_50051_TCP_PROTO", "tcp")
    assert load_settings([]).model_dump() == Settings().model_dump()


def test_an_unknown_key_of_the_file_is_a_fault(write):
    """A key that no setting has is named."""
    (line,) = faults(*write("max_bach = 8"))
    assert line.startswith("max_bach: ")


def test_a_file_that_is_missing_or_no_toml_is_a_fault(write, tmp_path):
    """The file is named in the message, whatever is wrong with it."""
    assert faults("--config", str(tmp_path / "none.toml")) == [
        f"config: there is no file {tmp_path / 'none.toml'}"
    ]
    (line,) = faults(*write("seed = = 3"))
    assert line.startswith(str(tmp_path / "regard.toml"))


def test_an_unknown_option_ends_the_program_as_usual(capsys):
    """A misspelt option is refused by the argument parser, with status 2."""
    with pytest.raises(SystemExit) as end:
        load_settings(["--max-bach", "3"])
    assert end.value.code == 2
    assert "--max-bach" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:50051", "0.0.0.0:0", "[::1]:50051", "worker-1.internal:65535", "unix:/run/regard.sock"],
)
def test_addresses_that_can_be_listened_on(address):
    """A host and a port, or a unix socket."""
    assert load_settings(["--address", address]).address == address


@pytest.mark.parametrize(
    "address", ["", "localhost", ":50051", "localhost:http", "localhost:65536", "localhost:-1"]
)
def test_what_is_no_address(address):
    """Anything else is refused with an example."""
    (line,) = faults("--address", address)
    assert line.startswith("address: ")
    assert "such as 127.0.0.1:50051" in line


def test_metrics_may_be_off_but_not_on_a_unix_socket():
    """An empty metrics address means no metrics port; Prometheus cannot scrape a unix socket."""
    assert load_settings(["--metrics-address", ""]).metrics_address == ""
    (line,) = faults("--metrics-address", "unix:/run/metrics.sock")
    assert line.startswith("metrics_address: ")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--max-batch", "0"),
        ("--max-batch", "1025"),
        ("--max-images-per-request", str(1 << 32)),
        ("--default-timeout-s", "0"),
        ("--default-timeout-s", "nan"),
        ("--drain-timeout-s", "inf"),
        ("--drain-timeout-s", "-1"),
        ("--device", "cuda:x"),
        ("--log-format", "xml"),
        ("--max-in-flight-images", "0"),
        ("--max-image-pixels", "178956971"),
        ("--max-decoding-bytes", "0"),
    ],
)
def test_values_out_of_range_name_their_field(option, value):
    """What cannot be served with is refused, not corrected."""
    (line,) = faults(option, value)
    assert line.startswith(f"{option[2:].replace('-', '_')}: ")


def test_an_image_limit_beyond_the_messages_is_a_fault():
    """An image that is allowed must be able to arrive."""
    (line,) = faults("--max-image-bytes", "5000", "--max-message-bytes", "4096")
    assert "such an image could never arrive" in line


def test_help_shows_every_setting(capsys):
    """`--help` names every option with its default, and ends the program with status 0."""
    with pytest.raises(SystemExit) as end:
        load_settings(["--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in shown


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--tls-certificate", "a"], "tls_key: it is missing"),
        (["--tls-key", "a"], "tls_certificate: it is missing"),
        (["--tls-client-authority", "a"], "tls_client_authority: it is of no use"),
    ],
)
def test_tls_is_whole_or_not_at_all(argv, said):
    """Half of what TLS needs is a fault, not plain text."""
    (line,) = faults(*argv)
    assert line.startswith(said)
