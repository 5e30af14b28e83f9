"""The wire: regard.v1 messages, their generated code, and the one table of element types."""
