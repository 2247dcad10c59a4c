"""The network of the tests of explore, and its server."""

from collections.abc import Iterator

import pytest
from explored import PADDED, images, small_model, target

from jaxcnn.explore import serve
from jaxcnn.explore.network import Network
from jaxcnn.explore.server import Server


@pytest.fixture(scope="session")
def network() -> Network:
    return Network(target(small_model(), images(7), PADDED))


@pytest.fixture(scope="session")
def server(network: Network) -> Iterator[Server]:
    with serve(network) as running:
        yield running
