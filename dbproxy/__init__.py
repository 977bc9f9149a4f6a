"""The proxy: sockets, waiting, deciding, audit, command line."""
