"""The small network that tests of deployment export, for those that attack it."""

from tests.deploy.conftest import exported, trained

__all__ = ['exported', 'trained']
