"""`python -m autotelic`: the command line, where its script is not on the path."""

from autotelic.cli import main

if __name__ == "__main__":
    main()
