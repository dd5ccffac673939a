"""`python -m twintape`."""

from twintape.cli import main

if __name__ == "__main__":
    main()
