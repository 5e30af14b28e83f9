"""Where the wire begins and ends: the only files that know protobuf messages."""
