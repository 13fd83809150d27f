import pytest
from small_models import Modules, modules


@pytest.fixture(scope="session")
def wanted() -> Modules:
    return modules(1, clip=True)
