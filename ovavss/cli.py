"""The `ovavss` command: what must hold while its modules are imported."""

import os
import signal


def main() -> None:
    """Entry point."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _end_while_importing)
    from ovavss.commands.app import app
    from ovavss.commands.process import encodable_output

    encodable_output()  # before typer prints a usage error or a help page
    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    app()


def _end_while_importing(*_: object) -> None:
    os.write(2, b"interrupted: nothing was written\n")
    os._exit(130)


if __name__ == "__main__":
    main()
