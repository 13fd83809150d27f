"""`python -m ovavss`, for torchrun."""

from ovavss.cli import main

main()
