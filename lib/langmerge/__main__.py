"""``python -m langmerge`` is the ``langmerge`` command."""

from langmerge.cli import main

if __name__ == "__main__":
    main()
