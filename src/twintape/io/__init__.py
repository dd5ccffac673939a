"""The shell: it touches the world through ports and decides nothing."""
