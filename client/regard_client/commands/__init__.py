"""The subcommands of `regard` that need nothing but the client."""
