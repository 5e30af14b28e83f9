"""The `regard` command, against the fake server."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from regard_client import cli


@pytest.fixture
def photos(tmp_path):
    paths = [tmp_path / f"{name}.jpg" for name in "abc"]
    for path in paths:
        path.write_bytes(path.stem.encode())
    return [str(path) for path in paths]


def test_help_lists_every_command(capsys):
    """`regard --help` names the client's own commands and those of other packages."""
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("extract", "models", "serve"))


def test_no_command_is_a_mistake(capsys):
    """`regard` alone shows the help and fails, as does a command that is none."""
    assert cli.main([]) == 2
    assert "usage" in capsys.readouterr().out
    assert cli.main(["extrakt"]) == 2
    assert "extract" in capsys.readouterr().err


def test_version(capsys):
    """`regard --version` is one line."""
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("regard ")


def test_extract_prints_a_line_for_every_file(server, photos, capsys):
    """Name, shape, norm, first values and timings, in the order given."""
    assert cli.main(["extract", "--target", server.target, *photos]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == photos
    norm = np.linalg.norm(server.vector(b"a"))
    assert f"norm {norm:.4g}" in lines[0]
    assert "batch" in lines[0]


def test_extract_saves_what_it_got(server, photos, tmp_path, capsys):
    """Files that fail are told on stderr with status 1; the others are saved all the same."""
    server.fail_image(b"b", message="truncated JPEG")
    npz = tmp_path / "vectors.npz"
    status = cli.main(
        ["extract", "--target", server.target, "-o", str(npz), *photos, str(tmp_path / "none.jpg")]
    )
    assert status == 1
    told = capsys.readouterr().err
    assert f"{photos[1]}: truncated JPEG" in told
    assert "none.jpg: No such file" in told
    with np.load(npz) as saved:
        assert saved["names"].tolist() == [photos[0], photos[2]]
        np.testing.assert_array_equal(saved["vectors"][1], server.vector(b"c"))
        assert str(saved["fingerprint"]) == server.fingerprint
        assert str(saved["model"]) == "fake"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg", "c.jpg", "vectors.npz"]


def test_extract_takes_other_outputs(server, photos, capsys):
    """Any output of the model can be had by name."""
    assert cli.main(["extract", "--target", server.target, "--output", "layer4", photos[0]]) == 0
    assert "4×2×2" in capsys.readouterr().out


def test_extract_minds_its_output_before_it_asks(server, photos, tmp_path, capsys):
    """A directory that is not there is told before the work, not after it."""
    npz = tmp_path / "none" / "vectors.npz"
    assert cli.main(["extract", "--target", server.target, "-o", str(npz), *photos]) == 2
    assert "no directory" in capsys.readouterr().err
    assert not server.calls


def test_models_as_a_table(server, capsys):
    """A line a model; that it is untrained is said plainly."""
    assert cli.main(["models", "--target", server.target]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.startswith("NAME")
    assert "untrained" in row.split()
    assert server.fingerprint[:12] in row.split()


def test_models_as_json(server, capsys):
    """Everything about every model, for programs."""
    assert cli.main(["models", "--target", server.target, "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert model["fingerprint"] == server.fingerprint
    assert model["trained"] is False


@pytest.mark.parametrize("command", [["models"], ["extract", __file__]])
def test_nobody_there_is_one_clear_line(command, capsys):
    """A server that does not answer is a line on stderr and status 1, not a traceback."""
    assert cli.main([*command, "--target", "127.0.0.1:1", "--timeout", "0.5"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "127.0.0.1:1" in told
    assert "Is the server running?" in told


def test_the_target_may_come_from_the_environment(server, monkeypatch, capsys):
    """REGARD_TARGET spares the option."""
    monkeypatch.setenv("REGARD_TARGET", server.target)
    assert cli.main(["models"]) == 0
    assert "fake" in capsys.readouterr().out


def install(monkeypatch, name, value):
    monkeypatch.setattr(cli, "entry_points", lambda group: [EntryPoint(name, value, group)])


def test_commands_of_other_packages_are_run(monkeypatch):
    """An entry point gets its arguments, and its status is the command's."""
    monkeypatch.setattr(cli, "status_of_test", lambda argv: 40 + len(argv), raising=False)
    install(monkeypatch, "other", "regard_client.cli:status_of_test")
    assert cli.main(["other", "1", "2"]) == 42


def test_a_missing_extra_is_named(monkeypatch, capsys):
    """A command whose packages are not installed says what to install."""
    install(monkeypatch, "serve", "torch_that_is_not_there:main")
    assert cli.main(["serve"]) == 2
    assert "pip install 'regard[server]'" in capsys.readouterr().err


def test_an_extra_that_is_missed_later_is_named_too(monkeypatch, capsys):
    """A command that imports what it needs when it needs it says the same."""

    def convert(_argv):
        import torch_that_is_not_there  # noqa: F401, PLC0415 - as the command does

    monkeypatch.setattr(cli, "convert_of_test", convert, raising=False)
    install(monkeypatch, "convert", "regard_client.cli:convert_of_test")
    assert cli.main(["convert"]) == 2
    assert "pip install 'regard[models]'" in capsys.readouterr().err


def test_a_missing_module_of_our_own_is_a_bug(monkeypatch):
    """A module of regard's that is missing is no matter of extras, and is not hidden."""
    install(monkeypatch, "serve", "regard_client.not_there:main")
    with pytest.raises(ModuleNotFoundError):
        cli.main(["serve"])


def test_an_interrupt_is_130(monkeypatch):
    """Ctrl-C ends a command with the status that shells expect."""

    def interrupted(_argv):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "interrupted_of_test", interrupted, raising=False)
    install(monkeypatch, "other", "regard_client.cli:interrupted_of_test")
    assert cli.main(["other"]) == 130


def test_the_client_is_light():
    """Importing the client brings neither torch, nor Pillow, nor the server and the models."""
    heavy = "torch PIL rich pydantic regard_server regard_models regard_client.testing"
    code = (
        "import sys, regard_client, regard_client.cli\n"
        f"sys.exit(repr([module for module in {heavy.split()} if module in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
