"""`python -m puna` is the `puna` command."""

from puna.cli import main

if __name__ == "__main__":
    main()
