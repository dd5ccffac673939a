"""A second verifier: it re-derives what a proof says from published bytes and the format documents alone.

It shares no code with the merge: plain Python, integers and dicts, pyarrow to read Parquet, a zstd library to read segments. It is slow and
obvious on purpose; where it and a proof disagree, one of them is wrong, and docs/format.md says which.
"""
