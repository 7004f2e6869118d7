"""`python -m ftft` is the command `ftft`."""

from ftft.cli.main import main

if __name__ == "__main__":
    main()
