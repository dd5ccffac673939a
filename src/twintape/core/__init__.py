"""The pure core: the standard library, msgspec and zstd only.

Nothing here opens a socket or a file, reads a clock, draws a random number, looks at the environment or logs.
Functions take what they need as arguments and return what they found as values.
"""
