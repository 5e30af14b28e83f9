"""A certificate, its key and a token, made anew for every run."""

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "end-to-end-tests-only-0123456789abcdef"  # noqa: S105 - of no use anywhere else


def make_secrets(folder: Path) -> dict[str, str]:
    """Write a certificate, its key and a token; return the variables that lead docker-compose.tls.yml to them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "worker")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("worker"), x509.DNSName("localhost")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    files = {
        "tls.crt": certificate.public_bytes(pem),
        "tls.key": key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        "tokens": f"tests {TOKEN}\n".encode(),
    }
    for file, content in files.items():
        (folder / file).write_bytes(content)
        (folder / file).chmod(0o644)  # other users read it in the containers
    folder.chmod(0o755)
    variables = {"TLS_CERTIFICATE": "tls.crt", "TLS_KEY": "tls.key", "TLS_CA": "tls.crt", "TOKENS": "tokens"}
    return {variable: str(folder / file) for variable, file in variables.items()}
