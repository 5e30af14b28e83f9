"""Who may connect, and who may call: certificates and tokens, from files, read again when the files change.

    connection ─→ TLS (tls.py) ─→ a call's metadata ─→ a known token? (tokens.py) ─→ its message is received
                                                       └─ no ─→ UNAUTHENTICATED, and nothing of it is

Secrets come from files alone: a command line and an environment can be read by others on the machine.
"""
