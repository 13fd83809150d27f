"""The Triton ensemble: its repository, the server process, the client, and what its Python steps share."""
