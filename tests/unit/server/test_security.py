"""What is wrong with files of certificates and tokens, each fault with its field and without its content."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from regard_server.security.faults import security_faults
from regard_server.security.files import WatchedFiles
from regard_server.settings import Settings

GOOD = "0123456789abcdef"


def test_every_file_is_named_with_its_field(tmp_path):
    """Four files that are not there are four faults."""
    settings = Settings(
        tls_certificate=tmp_path / "a",
        tls_key=tmp_path / "b",
        tls_client_authority=tmp_path / "c",
        tokens_file=tmp_path,
    )
    fields = [fault.partition(":")[0] for fault in security_faults(settings)]
    assert fields == ["tls_certificate", "tls_key", "tls_client_authority", "tokens_file"]


def test_what_is_no_certificate_is_a_fault(tmp_path):
    """Rubbish, and a key that is encrypted, which would be asked for on a terminal."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text("rubbish")
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"pass"),
        )
    )
    settings = Settings(tls_certificate=certificate, tls_key=key, tls_client_authority=certificate)
    first, second = security_faults(settings)
    assert first.startswith("tls_certificate, tls_key: ")
    assert second.startswith("tls_client_authority: ")


def test_nothing_set_is_nothing_wrong():
    """Plain text on loopback is the default."""
    assert security_faults(Settings()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no token"),
        ("# only a comment\n\n", "no token"),
        ("short", "line 1"),
        (f"{GOOD}\na name {GOOD}\nna:me {GOOD}", "line 2, 3"),
        (f"{GOOD}é", "line 1"),
        (f"{GOOD}\x00", "line 1"),
    ],
    ids=["empty", "comment", "short", "names", "accent", "zero"],
)
def test_a_line_that_is_no_token_is_named(tmp_path, content, said):
    """By its number; what is in it is a secret, even if it is none."""
    path = tmp_path / "tokens"
    path.write_text(content)
    (fault,) = security_faults(Settings(tokens_file=path))
    assert fault.startswith("tokens_file: ")
    assert said in fault
    assert GOOD not in fault


def test_a_file_of_tokens_may_come_from_windows(tmp_path):
    """Line ends, a byte-order mark and spaces around belong to no token."""
    path = tmp_path / "tokens"
    path.write_bytes(f"\ufeff# tokens\r\n search  {GOOD} \r\n".encode())
    assert security_faults(Settings(tokens_file=path)) == []


def test_files_are_read_once_until_they_change(tmp_path):
    """A file that is older than a moment and stays as it is is not read again; a new one in its place is."""
    path = tmp_path / "file"
    path.write_text("one")
    watched = WatchedFiles([path])
    assert watched.changed()
    while watched.changed():  # a file that was written this very moment counts as changed
        assert watched.read() == [b"one"]
    other = tmp_path / "other"
    other.write_text("two")
    other.replace(path)
    assert watched.changed()
    assert watched.read() == [b"two"]
    path.unlink()
    assert watched.changed()
