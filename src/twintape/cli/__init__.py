"""The command line: one command = parse, build, call, exit code."""
