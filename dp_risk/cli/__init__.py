"""The roof: the command line, which alone puts library, server and clients together."""
