"""`python -m jaxcnn.cli`."""

from jaxcnn.cli import main

main()
