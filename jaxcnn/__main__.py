"""`python -m jaxcnn`, the same as the command `jaxcnn`."""

from jaxcnn.cli import main

if __name__ == "__main__":
    main()
