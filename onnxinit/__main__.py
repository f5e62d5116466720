"""`python -m onnxinit` is the command `onnxinit`."""

from onnxinit.cli.main import main

main()
