"""A certificate, its key and a token, made anew for every run."""

from pathlib import Path

from certificates import Authority

TOKEN = "end-to-end-tests-only-0123456789abcdef"  # noqa: S105 - of no use anywhere else


def make_secrets(folder: Path) -> dict[str, str]:
    """Write a certificate, its key and a token; return the variables that lead docker-compose.tls.yml to them."""
    own, tokens = Authority(folder, "worker").own, folder / "tokens"
    tokens.write_text(f"tests {TOKEN}\n")
    files = {
        "TLS_CERTIFICATE": own.certificate,
        "TLS_KEY": own.key,
        "TLS_CA": own.certificate,
        "TOKENS": tokens,
    }
    for file in files.values():
        file.chmod(0o644)  # other users read it in the containers
    folder.chmod(0o755)
    return {variable: str(file) for variable, file in files.items()}
