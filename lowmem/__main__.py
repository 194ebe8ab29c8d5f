"""`python -m lowmem`, and the command `lowmem`: they run the command line."""

import sys


def main() -> int:
    """Run one command of the process's arguments and return its exit code; Ctrl-C counts from the first import on."""
    try:
        from lowmem.cli import main as run

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("lowmem: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
