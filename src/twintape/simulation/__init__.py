"""The whole system in virtual time: what ships, on a pretended clock, exchange, disk and store, from one seed."""
